"""``flux chat`` in a real pseudo-terminal against a real server, seen as a person sees it."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pty_terminal import PtyTerminal, terminal
from server_process import environment, server

PASSWORD = "correct horse"
FLUX = [sys.executable, "-c", "from flux.cli.main import main; raise SystemExit(main())"]
TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="]
LISTENING = re.compile(r"listens on 127\.0\.0\.1:(\d+)")

pytestmark = pytest.mark.slow


class World:
    """A server and people at terminals."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self._people = ExitStack()
        self._server = ExitStack()

    def start_server(self) -> None:
        """Start it, on the port it had before."""
        settings = [
            f"chat.listen=tcp:{self.port}:interface=127.0.0.1",
            "status.listen=tcp:0:interface=127.0.0.1",
            "gate.listen=",
            "admin.listen=",
        ]
        command = [*TWISTD, "flux", *(part for setting in settings for part in ("--set", setting))]
        self.process = self._server.enter_context(server(command, self.folder, environment()))
        match = LISTENING.search(self.process.wait_for("flux chat server"))
        assert match is not None
        self.port = int(match.group(1))

    def kill_server(self) -> None:
        """As a power failure does."""
        self.process.signal(signal.SIGKILL)
        self.process.end()

    def at_terminal(self, *arguments: str, env: dict[str, str] | None = None, **size: int) -> PtyTerminal:
        """Somebody who has just typed ``flux chat``."""
        command = [*FLUX, "chat", f"127.0.0.1:{self.port}", *arguments]
        return self._people.enter_context(terminal(command, self.folder, {**environment(), **(env or {})}, **size))

    def registers(self, name: str, **size: int) -> PtyTerminal:
        """Somebody with a new account, logged in."""
        person = self.at_terminal(**size)
        person.wait_for("(l)og in, (r)egister or (q)uit?")
        person.type("r")
        person.wait_for("name:")
        person.type(name)
        person.wait_for("password:")
        person.type(PASSWORD)
        person.wait_for("password again:")
        person.type(PASSWORD)
        person.wait_for(f"Welcome, {name}")
        return person

    def logs_in(self, name: str, env: dict[str, str] | None = None, **size: int) -> PtyTerminal:
        """Somebody with an account."""
        person = self.at_terminal("--user", name, env={"FLUX_PASSWORD": PASSWORD, **(env or {})}, **size)
        person.wait_for(f"Welcome, {name}")
        return person

    def program(self) -> Callable[..., dict[str, Any]]:
        """A program on the chat port: call it with a request, it returns the reply."""
        link = self._people.enter_context(socket.create_connection(("127.0.0.1", self.port), 10))
        lines = self._people.enter_context(link.makefile("rw", encoding="utf-8"))

        def ask(kind: str, **fields: Any) -> dict[str, Any]:
            lines.write(json.dumps({"type": kind, "ref": "x", **fields}) + "\n")
            lines.flush()
            while (reply := json.loads(lines.readline())).get("ref") != "x":
                pass
            assert reply["type"] == f"{kind}.ok", reply
            return dict(reply)

        return ask

    def end(self) -> None:
        self._people.close()
        self._server.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    try:
        world.start_server()
        yield world
    finally:
        world.end()


def test_two_people_meet_and_talk(world: World) -> None:
    ann, zhang = world.registers("ann"), world.registers("zhang san")
    assert PASSWORD.encode() not in ann.raw

    zhang.type("/add ann let us talk")
    ann.wait_for("zhang san wants to be your friend: “let us talk”")
    ann.type("/accept zhang san")
    zhang.wait_for("ann and you are friends now")

    ann.type("/msg zhang san hello 你好 👋")
    ann.wait_for("you → zhang san: hello 你好 👋 ✓")
    zhang.wait_for("ann: hello 你好 👋")
    zhang.wait(lambda: "unread: ann 1" in zhang.toolbar(), "the unread count")
    zhang.type("/open ann")
    zhang.wait(lambda: zhang.line_of_cursor() == "ann>", "the prompt of the conversation")
    ann.wait(lambda: "→ zhang san ✓✓" in ann.toolbar(), "the receipt")

    # A message that arrives while a line is being typed does not disturb it.
    zhang.keys("I was just about to")
    ann.wait(lambda: "zhang san is typing…" in ann.toolbar(), "that zhang types")
    zhang.wait(lambda: zhang.line_of_cursor() == "ann> I was just about to", "the line being typed")
    ann.type("how are you?")
    zhang.wait_for("ann: how are you?")
    zhang.wait(lambda: zhang.line_of_cursor() == "ann> I was just about to", "the line being typed, untouched")
    zhang.type(" write the same")
    ann.wait_for("zhang san: I was just about to write the same")
    assert sum("I was just about to" in line for line in zhang.lines()) == 1

    # Completion of a command, and of a name with a space in it.
    ann.keys("/ms\t")
    ann.wait(lambda: ann.line_of_cursor() == "zhang san> /msg", "the completed command")
    ann.keys("zh\t")
    ann.wait(lambda: ann.line_of_cursor() == 'zhang san> /msg "zhang san"', "the completed name")
    ann.type("and so on")
    zhang.wait_for("ann: and so on")

    ann.type("/quit")
    assert ann.end() == 0
    assert ann.modes_now() == ann.modes
    zhang.wait_for("○ ann has left")


def test_missed_messages_and_groups_are_shown_at_login(world: World) -> None:
    ann = world.registers("ann")
    bob = world.registers("bob")
    ann.type("/group create book club")
    ann.wait_for("#book club is there; others join it with /group join 1")
    bob.type("/group join 1")
    ann.wait_for("bob joined #book club")
    bob.keys("\x04")
    assert bob.end() == 0
    ann.type("we meet at eight", "/msg bob are you coming?")
    ann.wait_for("you → bob: are you coming? ✓")
    bob = world.logs_in("bob")
    assert bob.wait_for("#book club (number 1)  ").split("  ")[-1] == "● ann owner, ● you"
    bob.wait_for("Unread")
    bob.wait_for("Missed messages")
    assert re.fullmatch(r"\d\d:\d\d #book club · ann: we meet at eight", bob.wait_for("we meet"))
    assert re.fullmatch(r"\d\d:\d\d ann: are you coming\?", bob.wait_for("are you coming"))


def test_the_server_dies_and_comes_back(world: World) -> None:
    ann, bob = world.registers("ann"), world.registers("bob")
    ann.type("/msg bob before")
    ann.wait_for("you → bob: before ✓")
    world.kill_server()
    ann.wait_for("── offline: ")
    ann.wait(lambda: "○ " in ann.toolbar(), "the state in the toolbar")
    ann.type("typed meanwhile")
    ann.wait_for("typed meanwhile (waits for the connection)")
    world.start_server()
    ann.wait_for("── connected again, to 127.0.0.1:")
    ann.wait_for("you → bob: typed meanwhile ✓")
    bob.wait_for("ann: typed meanwhile")
    assert sum("typed meanwhile" in line for line in bob.lines()) == 1
    assert sum("ann: before" in line for line in bob.lines()) == 1


def test_a_second_login_ends_the_first(world: World) -> None:
    first = world.registers("ann")
    world.logs_in("ann")
    first.wait_for("The session has ended: this account has logged in somewhere else.")
    first.wait(lambda: first.line_of_cursor() == "(l)og in, (r)egister or (q)uit?", "the menu")
    first.keys("\x04")
    assert first.end() == 0
    assert first.modes_now() == first.modes


def test_nothing_that_others_send_reaches_the_terminal_as_it_is(world: World) -> None:
    ann = world.registers("ann")
    evil = world.program()
    evil("register", name="evil", password="a long password", nick="\x1b]0;owned\x07")
    evil("login", name="evil", password="a long password")
    evil("send", to=1, text="\x1b[2J\x1b]0;owned\x07\x9b31mboo\u202e\nsecond line")
    evil("friend.add", to=1, note="\x1b[41m")
    ann.wait_for("evil: ␛[2J␛]0;owned␇\ufffd31mboo\ufffd")
    ann.wait_for("      second line")
    ann.wait_for("evil wants to be your friend: “␛[41m”")
    ann.type("/search evil")
    ann.wait_for("evil  id 2")
    for sequence in (b"\x1b[2J", b"\x1b]0;owned", b"\xc2\x9b", b"\x1b[41m"):
        assert sequence not in ann.raw


def test_windows_of_any_size(world: World) -> None:
    ann = world.registers("ann", columns=120, lines=30)
    world.registers("bob")
    ann.type("/open bob")
    ann.wait(lambda: ann.line_of_cursor() == "bob>", "the prompt")
    ann.resize(50, 20)
    ann.type("words " * 20)
    ann.wait_for("words ✓")
    said = [line for line in ann.lines() if "words" in line]
    assert len(said) >= 3
    assert all(len(line) <= 50 for line in said)
    assert all(line.startswith("      words") for line in said[1:])
    ann.keys("x" * 120)
    ann.wait(lambda: ann.line_of_cursor().startswith("xxx"), "a line typed over several rows")


def test_a_signal_tidies_up(world: World) -> None:
    ann = world.registers("ann")
    ann.popen.send_signal(signal.SIGTERM)
    assert ann.end() == 0
    assert ann.modes_now() == ann.modes


def test_no_color(world: World) -> None:
    colour = re.compile(rb"\x1b\[[0-9;]*?\b(?:3[0-7]|38|4[0-7]|48|9[0-7]|10[0-7])\b[0-9;]*m")
    ann = world.registers("ann")
    assert colour.search(ann.raw)
    plain = world.logs_in("ann", env={"NO_COLOR": "1"})
    plain.wait(lambda: "● ann on" in plain.toolbar(), "the toolbar")
    assert not colour.search(plain.raw)


def test_ctrl_c_clears_the_line_and_stays(world: World) -> None:
    ann = world.registers("ann")
    # What is typed before the prompt is there is echoed by the terminal itself.
    ann.wait(lambda: ann.line_of_cursor() == ">", "the prompt")
    ann.keys("a line I do not want")
    ann.wait(lambda: ann.line_of_cursor() == "> a line I do not want", "the line")
    ann.keys("\x03")
    ann.wait(lambda: ann.line_of_cursor() == ">", "an empty line")
    ann.keys("\x03")
    ann.wait_for("/quit or Ctrl-D leaves")
    ann.type("/passwd")
    ann.wait_for("current password:")
    ann.keys("\x03")
    ann.wait_for("nothing was changed")
    ann.wait(lambda: ann.line_of_cursor() == ">", "the prompt again")
