"""What a person gets: the README's first command in a fresh copy, and what it has installed, used outside the copy."""

from __future__ import annotations

import ast
import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from server_process import server
from test_readme import FREE_PORTS, LISTENING, blocks

CHECKOUT = Path(__file__).parent.parent


class Installed(NamedTuple):
    """What the first command has left.

    :ivar programs: where it has installed them.
    :ivar printed: what it has said until a server listened, or until it ended.
    """

    programs: Path
    printed: str


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def clean_environment() -> dict[str, str]:
    """Nothing that would let a process find the checkout or this environment's packages."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    copy = tmp_path_factory.mktemp("fresh") / "flux"
    ignore = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "dropin.cache", "flux-data")
    shutil.copytree(CHECKOUT, copy, ignore=ignore)
    # The ports are the only thing that a test cannot have as it stands there.
    command = f"exec 2>&1; {blocks('sh')[0].strip()} {' '.join(FREE_PORTS)}"
    # What is imported is compiled then; pip would compile all of it.
    env = clean_environment() | {"PIP_COMPILE": "0"}
    process = subprocess.Popen(
        ["bash", "-c", command], cwd=copy, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    printed = ""
    try:
        for line in process.stdout:
            printed += line
            if LISTENING.search(line):
                break
    finally:
        # The shell and the server it started.
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
        process.stdout.close()
    return Installed(copy / ".venv" / "bin", printed)


@pytest.mark.slow
def test_the_first_command_of_the_readme_starts_a_server(installed: Installed) -> None:
    assert LISTENING.search(installed.printed), installed.printed


@pytest.mark.slow
def test_what_is_installed_is_what_should_be(installed: Installed) -> None:
    [about] = installed.programs.parent.glob("lib/python3*/site-packages/flux_messenger-*.dist-info")
    names = {name for name, *_ in csv.reader((about / "RECORD").read_text("utf-8").splitlines())}
    assert {name for name in names if name.startswith("../")} == {"../../../bin/flux"}
    ours = {name for name in names if not name.startswith(("../", about.name))}
    expected = {
        str(path.relative_to(CHECKOUT))
        for folder in ("flux", "twisted")
        for path in (CHECKOUT / folder).rglob("*")
        if path.suffix in (".py", ".sql", ".lua", ".typed", ".html", ".css", ".js", ".svg")
    }
    assert ours == expected
    assert {"flux/py.typed", "twisted/plugins/flux_plugin.py"} <= ours
    assert any(name.endswith(".sql") for name in ours)
    # An __init__.py there would hide the plugins of everybody else.
    assert not {n for n in ours if re.fullmatch(r"twisted/(plugins/)?__init__\.py", n)}
    metadata = (about / "METADATA").read_text("utf-8")
    assert "\nName: flux-messenger\n" in metadata
    assert "\nRequires-Python: >=3.11\n" in metadata
    run(installed.programs / "pip", "check", cwd=installed.programs)


def test_the_plugin_imports_nothing_of_flux() -> None:
    tree = ast.parse((CHECKOUT / "twisted/plugins/flux_plugin.py").read_text("utf-8"))
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert modules == ["twisted.application.service"]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]


@pytest.mark.slow
def test_what_is_installed_runs_elsewhere(installed: Installed, tmp_path: Path) -> None:
    programs = installed.programs
    assert "check a configuration" in run(programs / "flux", "--help", cwd=tmp_path)
    commands = run(programs / "twistd", "--help", cwd=tmp_path)
    assert all(re.search(rf"^ +{name} ", commands, re.MULTILINE) for name in ("flux", "flux-chat", "flux-status"))

    run(programs / "flux", "check", *FREE_PORTS, cwd=tmp_path)
    with server([str(programs / "twistd"), "-n", "flux", *FREE_PORTS], tmp_path, clean_environment()) as process:
        ping(int(process.wait_for("chat.listen listens on 127.0.0.1:").rpartition(":")[2]))
        process.signal(signal.SIGTERM)
        status, errors = process.end()
    assert (status, errors) == (0, ""), process.lines
    assert (tmp_path / "flux-data" / "flux.db").exists()
    assert not (tmp_path / "twistd.pid").exists()


def ping(port: int) -> None:
    """The chat port answers."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        lines = connection.makefile("rw", encoding="utf-8")
        lines.write('{"type":"ping","ref":1}\n')
        lines.flush()
        reply = json.loads(lines.readline())
        lines.close()
    assert (reply["type"], reply["ref"]) == ("ping.ok", 1)
