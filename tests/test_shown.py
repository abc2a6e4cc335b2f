"""What others wrote is text where commands show it, whatever it has in it; and nobody but a terminal wraps lines."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from printed_table import cells
from rich.console import Console
from server_process import environment

from flux.cli import check
from flux.cli.admin import _show
from flux.cli.admin_port import AdminPort, Refused
from flux.cli.main import main
from flux.cli.progress import ProgressBar
from flux.cli.shown import cell, say
from flux.model.placement import Node

EVIL = "a\x1b]0;title\x07\x9b2J\u202ez[red]:smile:\ud800"
SHOWN = "a␛]0;title␇�2J�z[red]:smile:�"

ENDING = {"id": 1, "name": EVIL, "session": "ended", "token": True, "problem": EVIL}
BAN = {"id": 1, "name": EVIL, "network": None, "by": EVIL, "until": 0, "at": None, "reason": EVIL}
ANSWERS: dict[str, Any] = {
    "/api/overview": {
        "process": {"name": EVIL, "roles": [], "version": EVIL, "pid": 1, "uptime": 1},
        "numbers": {},
        "problems": [EVIL],
        "backends": [
            {"name": EVIL, "up": False, "problem": EVIL, "seconds": 1},
            {"name": EVIL, "up": True, "problem": "", "seconds": 1},
        ],
    },
    "/api/sessions": [
        {"id": 1, "name": EVIL, "address": EVIL, "conn": EVIL, "dialect": EVIL, "chats": 1, "live": True, "since": 1}
    ],
    "/api/users": [{"id": 1, "name": EVIL, "nick": EVIL, "server": EVIL}],
    "/api/kick": ENDING,
    "/api/password": ENDING,
    "/api/reload": {"changed": [EVIL], "restart": [EVIL]},
    "/api/bans": [BAN],
    "/api/ban": {"ban": {**BAN, "network": EVIL}, "ending": None},
    "/api/unban": BAN,
}


@pytest.mark.parametrize(
    "arguments",
    [["stats"], ["sessions"], ["users"], ["kick", "a"], ["reload"], ["bans"], ["ban", "1.1.1.1"], ["unban", "a"]],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.parametrize("refused", [False, True])
def test_nobody_talks_to_the_terminal_of_an_admin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], refused: bool
) -> None:
    def ask(port: AdminPort, method: str, path: str, body: bytes | None) -> Any:
        if refused:
            raise Refused(EVIL)
        return ANSWERS[path.partition("?")[0]]

    monkeypatch.setattr(AdminPort, "_ask", ask)
    assert main(["admin", *arguments]) == (1 if refused else 0)
    done = capsys.readouterr()
    assert SHOWN in (done.err if refused else done.out)
    assert all(char.isprintable() or char == "\n" for char in done.out + done.err)
    # For programs it is what it is, in ASCII.
    if not refused:
        assert main(["admin", *arguments, "--json"]) == 0
        output = capsys.readouterr().out
        assert output.isascii()
        assert EVIL in strings(json.loads(output))


def strings(value: Any) -> Any:
    """All strings in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from strings(each)


def test_nor_does_a_chat_server(capsys: pytest.CaptureFixture[str]) -> None:
    name = EVIL.removesuffix("\ud800")
    node = Node(name, name, 1, state="down", why=name)
    _show([node], False)
    output = capsys.readouterr().out
    assert all(char.isprintable() or char == "\n" for char in output)
    assert cells(output)[0][0] == SHOWN[:-1]
    _show([node], True)
    output = capsys.readouterr().out
    assert output.isascii()
    assert json.loads(output)[0]["name"] == name


def test_on_a_terminal_it_is_text_too() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=200, legacy_windows=False)
    console.print(cell(EVIL + "\n"))
    say(console, f"{EVIL}\n{EVIL}")
    assert output.getvalue() == f"{SHOWN} \n{SHOWN}\n{SHOWN}\n"
    output.truncate(0)
    with ProgressBar(console, 1) as bar:
        bar.step(EVIL)
    assert SHOWN in output.getvalue()


def test_what_a_check_finds_is_text() -> None:
    assert check._line("FAILED", 0, EVIL, f"{EVIL}\nx") == "\n".join(
        [f"FAILED       0 ms  {SHOWN}", f"{'':19}{SHOWN}", f"{'':19}x"]
    )


def test_so_are_warnings() -> None:
    program = (
        "from flux.cli.output import warnings_to_stderr; from twisted.logger import Logger; "
        "warnings_to_stderr('flux x'); Logger().warn('it is {what}', what='\\x1b[2J\\u202e')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, encoding="utf-8", check=True
    )
    assert done.stderr == "flux x: it is ␛[2J�\n"


def test_errors_are_one_line_where_no_terminal_wraps_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    file = tmp_path / ("x" * 100)
    file.touch()
    for command in (
        ["verify", "--kill", "1", "127.0.0.1:1"],
        ["bench", "--data", str(file)],
        ["bench", "nodes", "--data", str(file)],
        ["bench", "store", "--data", str(file)],
    ):
        assert main(command) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert len(line) > 80, command
