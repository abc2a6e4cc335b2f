"""What a person gets: the wheel, installed in a fresh environment, started outside the checkout."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from server_process import server

CHECKOUT = Path(__file__).parent.parent
#: What the build reads of the checkout.
SOURCES = ["setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "flux", "twisted"]


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def clean_environment() -> dict[str, str]:
    """Nothing that would let a process find the checkout or this environment's packages."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since a build leaves folders behind."""
    copy = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
        elif source.exists():
            shutil.copy(source, copy)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", ".", cwd=copy)
    [built] = copy.glob("*.whl")
    return built


def test_the_wheel_holds_what_it_should(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(n for n in names if n.endswith("METADATA"))).decode("utf-8")
    ours = {n for n in names if ".dist-info/" not in n}
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
    assert "\nName: flux-messenger\n" in metadata
    assert "\nRequires-Python: >=3.11\n" in metadata


def test_the_plugin_imports_nothing_of_flux() -> None:
    tree = ast.parse((CHECKOUT / "twisted/plugins/flux_plugin.py").read_text("utf-8"))
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert modules == ["twisted.application.service"]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]


@pytest.mark.slow
def test_the_wheel_runs_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path)
    programs = venv / "bin"
    run(
        *(sys.executable, "-m", "pip", "--python", programs / "python", "install"),
        *("--quiet", "--no-compile", "--disable-pip-version-check", wheel),
        cwd=tmp_path,
    )
    run(sys.executable, "-m", "pip", "--python", programs / "python", "check", cwd=tmp_path)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert "check a configuration" in run(programs / "flux", "--help", cwd=elsewhere)
    commands = run(programs / "twistd", "--help", cwd=elsewhere)
    assert all(re.search(rf"^ +{name} ", commands, re.MULTILINE) for name in ("flux", "flux-chat", "flux-status"))

    ports = [
        argument
        for name in ("chat", "status", "gate", "admin")
        for argument in ("--set", f"{name}.listen=tcp:0:interface=127.0.0.1")
    ]
    run(programs / "flux", "check", *ports, cwd=elsewhere)
    with server([str(programs / "twistd"), "-n", "flux", *ports], elsewhere, clean_environment()) as process:
        ping(int(process.wait_for(" listens on 127.0.0.1:").rpartition(":")[2]))
        process.signal(signal.SIGTERM)
        status, errors = process.end()
    assert (status, errors) == (0, ""), process.lines
    assert (elsewhere / "flux-data" / "flux.db").exists()
    assert not (elsewhere / "twistd.pid").exists()


def ping(port: int) -> None:
    """The chat port answers."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        lines = connection.makefile("rw", encoding="utf-8")
        lines.write('{"type":"ping","ref":1}\n')
        lines.flush()
        reply = json.loads(lines.readline())
        lines.close()
    assert (reply["type"], reply["ref"]) == ("ping.ok", 1)
