"""Before and after a session at the terminal: menu, login, registration; and the command line."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator

import pytest
from fake_screen import FakeScreen
from scripted_server import PROFILE, ScriptedServer, result, start, waiting

from flux.cli import chat as chat_command
from flux.client import HostPort
from flux.client.terminal.start import Terminal

MENU = "(l)og in, (r)egister or (q)uit? "
ADDRESS = HostPort("chat.example", 8090)


class Start:
    """A person before the menu."""

    def __init__(self) -> None:
        self.server = ScriptedServer()
        self.server.answers_logins = False
        self.screen = FakeScreen(self.server.clock)
        self.terminal = Terminal(self.server.clock, ADDRESS, self.screen, lambda: self.server.client(ADDRESS))

    def run(self, user: str = "", password: str | None = None) -> None:
        self.running = start(self.terminal.run(user, password))
        self.settle()

    def settle(self) -> None:
        self.server.wait(0.2)

    def type(self, *lines: str) -> None:
        for line in lines:
            self.screen.type(line)
            self.settle()

    def register(self) -> None:
        """The server accepts the registration, and the login after it."""
        request = self.server.link.take("register")
        assert (request["name"], request["password"]) == ("ann", "secret word")
        self.server.link.ok(request, id=7, name="ann")
        self.settle()
        self.let_in()

    def let_in(self) -> None:
        """The server accepts the login."""
        self.server.link.ok(self.server.link.take("login"), **PROFILE)
        self.settle()


@pytest.fixture
def begun() -> Iterator[Start]:
    begun = Start()
    yield begun
    begun.server.end()
    if waiting(begun.running):
        begun.screen.control_d()
        begun.server.wait(1)
    result(begun.running)


def test_log_in_from_the_menu(begun: Start) -> None:
    begun.run()
    assert begun.screen.new() == ["", "flux chat  chat.example:8090"]
    assert begun.screen.question == MENU
    begun.type("l")
    assert (begun.screen.question, begun.screen.hidden) == ("name: ", False)
    begun.type("", "ann")
    assert (begun.screen.question, begun.screen.hidden) == ("password of ann: ", True)
    begun.type("secret word")
    begun.let_in()
    assert "Welcome, ann  id 7, on chat1" in begun.screen.new()
    begun.type("/quit")
    assert not waiting(begun.running)


def test_a_wrong_password_leads_back_to_the_menu(begun: Start) -> None:
    begun.run()
    begun.type("login", "ann", "wrong")
    request = begun.server.link.take("login")
    begun.server.link.error(request, "password_invalid", detail="account and password do not match")
    begun.settle()
    assert "Account and password do not match." in begun.screen.new()
    assert begun.screen.question == MENU
    begun.type("l")
    assert begun.screen.question == "name (ann): "
    begun.type("")
    assert begun.screen.question == "password of ann: "
    begun.type("secret word")
    begun.let_in()
    assert "Welcome, ann  id 7, on chat1" in begun.screen.new()


def test_register_logs_in(begun: Start) -> None:
    begun.run()
    begun.type("r", "ann", "secret word")
    assert (begun.screen.question, begun.screen.hidden) == ("password again: ", True)
    begun.type("secret word")
    begun.register()
    lines = begun.screen.new()
    assert "The account ann is yours." in lines
    assert "Welcome, ann  id 7, on chat1" in lines


def test_register_notices_a_slip_of_the_finger(begun: Start) -> None:
    begun.run()
    begun.type("register", "ann", "secret word", "secret wrod")
    assert "The two passwords differ: type them again; Ctrl-C goes back." in begun.screen.new()
    assert (begun.screen.question, begun.screen.hidden) == ("password: ", True)
    assert begun.server.links == []
    begun.type("secret word", "secret word")
    begun.register()


def test_register_with_a_password_that_is_refused(begun: Start) -> None:
    begun.run()
    begun.type("r", "ann", "")
    assert begun.screen.new()[-1] == "A password has at least 1 character."
    begun.type("short", "short")
    request = begun.server.link.take("register")
    begun.server.link.error(request, "password_invalid", detail="a password has at least 8 characters")
    begun.settle()
    assert begun.screen.new()[-1] == "A password has at least 8 characters."
    begun.type("secret word", "secret word")
    begun.register()


def test_register_a_name_that_is_taken(begun: Start) -> None:
    begun.run()
    begun.type("r", "ann", "secret word", "secret word")
    begun.server.link.error(begun.server.link.take("register"), "user_exists")
    begun.settle()
    assert "This name is taken: choose another one." in begun.screen.new()
    assert begun.screen.question == MENU


def test_no_server_there(begun: Start) -> None:
    begun.server.refusing = {ADDRESS}
    begun.run("ann", "secret word")
    [told] = [line for line in begun.screen.new() if line.startswith("Cannot reach chat.example:8090: ")]
    assert told.endswith("Is a flux server running there? (twistd -n flux starts one.)")
    assert begun.screen.question == MENU


def test_user_and_password_from_outside(begun: Start) -> None:
    begun.run("ann", "secret word")
    assert begun.server.link.requests[0]["password"] == "secret word"
    begun.let_in()
    assert begun.screen.face is not None
    assert MENU not in begun.screen.new()


def test_user_from_outside_is_asked_for_the_password(begun: Start) -> None:
    begun.run("ann")
    assert begun.screen.question == "password of ann: "
    begun.screen.control_c()
    begun.settle()
    assert begun.screen.question == MENU


def test_after_logout_and_after_the_end_of_a_session_comes_the_menu(begun: Start) -> None:
    begun.run("ann", "secret word")
    begun.let_in()
    begun.type("/logout")
    begun.server.link.ok(begun.server.link.take("logout"))
    begun.settle()
    assert begun.screen.question == MENU
    begun.type("l", "ann", "secret word")
    begun.let_in()
    begun.server.link.push(type="kicked", reason="admin")
    begun.settle()
    assert "The session has ended: an administrator has ended this session." in begun.screen.new()
    assert begun.screen.question == MENU


def test_leaving_from_the_menu(begun: Start) -> None:
    begun.run()
    begun.type("what?")
    assert begun.screen.new()[-1] == "Type l, r or q."
    begun.screen.control_c()
    begun.settle()
    assert "q or Ctrl-D leaves" in begun.screen.new()
    begun.type("q")
    assert not waiting(begun.running)


@pytest.mark.parametrize("where", ["menu", "chat"])
def test_the_process_is_asked_to_stop(begun: Start, where: str) -> None:
    if where == "menu":
        begun.run()
    else:
        begun.run("ann", "secret word")
        begun.let_in()
    closing = start(begun.terminal.close())
    begun.settle()
    result(closing)
    assert not waiting(begun.running)


# --- the command line --------------------------------------------------------


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    chat_command.configure(parser)
    return parser.parse_args(arguments)


def test_the_command_line_has_defaults() -> None:
    args = parsed()
    assert (args.address, args.user) == ("", "")


def test_it_needs_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("/quit\n"))
    assert chat_command.run(parsed("chat.example")) == 2
    assert "nc chat.example 8090" in capsys.readouterr().err


def test_it_refuses_an_address_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert chat_command.run(parsed("host:port")) == 2
    assert "'host:port' is no address" in capsys.readouterr().err
