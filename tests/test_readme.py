"""Every example of the README works as it stands there; its first command is the matter of ``test_packaging``."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server_process import environment, server

from flux.config import load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
FREE_PORTS = [
    argument
    for name in ("chat", "status", "gate", "admin")
    for argument in ("--set", f"{name}.listen=tcp:0:interface=127.0.0.1")
]
LISTENING = re.compile(r"listens on 127\.0\.0\.1:(\d+)")


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Where a server with the defaults (but for its ports) listens."""
    twistd = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n"]
    with server([*twistd, "flux", *FREE_PORTS], tmp_path, environment()) as running:
        match = LISTENING.search(running.wait_for("flux chat server"))
        running.wait_for("status service listens")
        assert match is not None
        yield int(match.group(1))


def test_what_is_typed_is_answered_as_shown(port: int) -> None:
    (session,) = blocks("session")
    with socket.create_connection(("127.0.0.1", port), 10) as link, link.makefile("rw", encoding="utf-8") as lines:
        for line in session.splitlines():
            if line.startswith("> "):
                lines.write(line[2:] + "\n")
                lines.flush()
            else:
                shown: dict[str, Any] = json.loads(line.removeprefix("< "))
                answered = json.loads(lines.readline())
                assert shown.items() <= answered.items()


def test_the_program_runs(port: int, tmp_path: Path) -> None:
    register = b"".join(
        json.dumps({"type": "register", "name": name, "password": password}).encode() + b"\n"
        for name, password in (("ann", "correct horse"), ("bob", "battery staple"))
    )
    with socket.create_connection(("127.0.0.1", port), 10) as link:
        link.sendall(register)
        with link.makefile() as lines:
            assert [json.loads(lines.readline())["type"] for _ in range(2)] == ["register.ok"] * 2
    (program,) = blocks("python")
    script = tmp_path / "program.py"
    script.write_text(program.replace("8090", str(port)))
    subprocess.run([sys.executable, str(script)], check=True, timeout=60, env=environment())


def test_the_configuration_is_right(tmp_path: Path) -> None:
    (example,) = blocks("ini")
    file = tmp_path / "flux.ini"
    file.write_text(example)
    assert load(file, []).limits.messages_per_second == 50


def test_continuous_integration_runs_the_test_command() -> None:
    assert blocks("sh")[1].strip() in (ROOT / ".ci" / "run").read_text("utf-8")
