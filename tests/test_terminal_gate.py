"""``flux chat --gate``: the menu, registering with a code, a forgotten password."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_screen import FakeScreen
from pty_terminal import terminal
from scripted_server import PROFILE, ScriptedServer, result, start, waiting
from server_process import environment, server
from twisted.internet.defer import succeed

from flux.cli import chat as chat_command
from flux.client import Assignment, HostPort, NotConnected
from flux.client.terminal.entrance import GateTerminal
from flux.errors import BadRequest, CodeWrong, PasswordInvalid, RateLimited, UserExists
from flux.wire.http import CodeSent, PasswordWasReset, Registered, Rules

MENU = "(l)og in, (r)egister, (f)orgot the password or (q)uit? "
SERVER = HostPort("chat.example", 8090)


class FakeGate:
    """Answers as it is told, and keeps what it was asked."""

    url = "https://gate.example"

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.code_required = False
        self.codes_sent = True
        self.problems: dict[str, list[Exception]] = {}

    def _ask(self, what: str, *details: Any) -> None:
        self.asked.append((what, *details))
        if self.problems.get(what):
            raise self.problems[what].pop(0)

    async def rules(self) -> Rules:
        self._ask("rules")
        return Rules(code_required=self.code_required, password_min=8, codes_sent=self.codes_sent)

    async def request_code(self, email: str, purpose: str) -> CodeSent:
        self._ask("code", email, purpose)
        return CodeSent(expires=1)

    async def register(self, name: str, password: str, *, email: str = "", code: str = "") -> Registered:
        self._ask("register", name, password, email, code)
        return Registered(id=7, name=name)

    async def reset_password(self, email: str, code: str, password: str) -> PasswordWasReset:
        self._ask("reset", email, code, password)
        return PasswordWasReset(id=7)

    def locator(self, user: str, *, password: str, email: str = "") -> Any:
        def locate() -> Awaitable[Assignment]:
            self._ask("login", user, email, password)
            return succeed(Assignment(7, *SERVER, "chat1", "a token", 10**13))

        return locate


class Start:
    """A person before the menu."""

    def __init__(self) -> None:
        self.server = ScriptedServer()
        self.server.answers_logins = False
        self.screen = FakeScreen(self.server.clock)
        self.gate = FakeGate()
        self.terminal = GateTerminal(self.server.clock, self.gate, self.screen, self.server.client)  # type: ignore[arg-type]
        self.running = start(self.terminal.run())
        self.settle()
        self.menu = self.screen.new()

    def settle(self) -> None:
        self.server.wait(0.2)

    def type(self, *lines: str) -> None:
        for line in lines:
            self.screen.type(line)
            self.settle()

    def let_in(self) -> None:
        """The chat server accepts the login."""
        request = self.server.link.take("login")
        assert (self.server.link.address, request["id"], request["token"]) == (SERVER, 7, "a token")
        self.server.link.ok(request, **PROFILE)
        self.settle()
        assert "Welcome, ann  id 7, on chat1" in self.screen.new()


@pytest.fixture
def begun() -> Iterator[Start]:
    begun = Start()
    yield begun
    begun.server.end()
    if waiting(begun.running):
        begun.screen.control_d()
        begun.server.wait(1)
    result(begun.running)


@pytest.mark.parametrize(("typed", "name", "email"), [("ann", "ann", ""), ("ann@example.org", "", "ann@example.org")])
def test_log_in_with_a_name_or_an_address(begun: Start, typed: str, name: str, email: str) -> None:
    assert begun.menu == ["", "flux chat  https://gate.example"]
    assert begun.screen.question == MENU
    begun.type("l")
    assert begun.screen.question == "name or e-mail address: "
    begun.type(typed, "secret word")
    assert begun.gate.asked == [("login", name, email, "secret word")]
    begun.let_in()


def test_register_without_an_address(begun: Start) -> None:
    begun.type("r", "ann", "secret word", "secret word")
    assert begun.screen.question == "e-mail address (or nothing): "
    begun.type("")
    assert begun.gate.asked[1:] == [("register", "ann", "secret word", "", ""), ("login", "ann", "", "secret word")]
    begun.let_in()


def test_register_with_a_code(begun: Start) -> None:
    begun.gate.code_required = True
    begun.gate.problems["register"] = [CodeWrong("no")]
    begun.type("r", "ann", "secret word", "secret word")
    assert begun.screen.question == "e-mail address: "
    begun.type("", "ann@example.org")
    assert "An e-mail is on its way to ann@example.org." in begun.screen.new()
    assert begun.screen.question == "code from the e-mail: "
    begun.type("123456")
    assert "This is not the code. Type it again; Ctrl-C goes back." in begun.screen.new()
    begun.type(" 654321 ")
    assert begun.gate.asked[1:] == [
        ("code", "ann@example.org", "register"),
        ("register", "ann", "secret word", "ann@example.org", "123456"),
        ("register", "ann", "secret word", "ann@example.org", "654321"),
        ("login", "ann", "", "secret word"),
    ]
    begun.let_in()


def test_no_address_is_asked_for_where_no_e_mail_is_sent(begun: Start) -> None:
    begun.gate.codes_sent = False
    begun.type("r", "ann", "secret word", "secret word")
    assert begun.gate.asked[1:] == [("register", "ann", "secret word", "", ""), ("login", "ann", "", "secret word")]
    begun.let_in()


@pytest.mark.parametrize("choice", [("r", "ann", "secret word", "secret word"), ("f",)])
def test_who_needs_a_code_where_no_e_mail_is_sent_is_told_where_it_is(begun: Start, choice: tuple[str, ...]) -> None:
    begun.gate.codes_sent, begun.gate.code_required = False, True
    begun.type(*choice)
    assert begun.screen.question == "e-mail address: "
    begun.type("ann@example.org")
    told = "No e-mail is sent here: what ann@example.org would get is in the log of the gate."
    assert told in begun.screen.new()
    if choice == ("f",):
        begun.type("secret word", "secret word")
    assert begun.screen.question == "code: "


def test_a_forgotten_password(begun: Start) -> None:
    begun.type("f", "ann@example.org", "secret word", "secret word", "123456")
    assert begun.gate.asked[1:] == [
        ("code", "ann@example.org", "reset"),
        ("reset", "ann@example.org", "123456", "secret word"),
        ("login", "", "ann@example.org", "secret word"),
    ]
    assert "Your password was changed." in begun.screen.new()
    begun.server.link.ok(begun.server.link.take("login"), **PROFILE)
    begun.settle()


def test_ctrl_c_goes_back_to_the_menu(begun: Start) -> None:
    begun.type("f", "ann@example.org", "secret word", "secret word")
    assert begun.screen.question == "code from the e-mail: "
    begun.screen.control_c()
    begun.settle()
    assert begun.screen.question == MENU


@pytest.mark.parametrize(
    ("step", "problem", "told"),
    [
        ("rules", NotConnected("cannot reach the gate at x: refused"), "Cannot reach the gate at x: refused."),
        ("code", RateLimited("x", 90_000), "Too many attempts: try again in 90 s."),
        ("register", UserExists("this name is taken"), "This name is taken: choose another one."),
        ("register", UserExists("this e-mail address belongs to another account"), "This e-mail address belongs to"),
        ("login", NotConnected("cannot reach the gate at x: refused"), "Cannot reach the gate at x: refused."),
    ],
)
def test_what_goes_wrong_is_told_and_the_menu_comes_back(
    begun: Start, step: str, problem: Exception, told: str
) -> None:
    begun.gate.problems[step] = [problem]
    begun.type("r", "ann", "secret word", "secret word")
    for answer in ("ann@example.org", "123456"):
        if begun.screen.question != MENU:
            begun.type(answer)
    assert any(line.startswith(told) for line in begun.screen.new())
    assert begun.screen.question == MENU


def test_two_passwords_that_differ(begun: Start) -> None:
    for choice in (("r", "ann"), ("f", "ann@example.org")):
        begun.type(*choice, "secret word", "secret wrod")
        assert begun.screen.new()[-1] == "The two passwords differ: type them again; Ctrl-C goes back."
        assert begun.screen.question == "password: "
        begun.screen.control_c()
        begun.settle()
    begun.type("x")
    assert "Type l, r, f or q." in begun.screen.new()
    assert not {"register", "reset"} & {what for what, *_ in begun.gate.asked}


def test_a_short_password_is_told_before_it_is_typed_again(begun: Start) -> None:
    for choice in (("r", "ann"), ("f", "ann@example.org")):
        begun.type(*choice, "short")
        assert begun.screen.new()[-1] == "A password has at least 8 characters."
        assert begun.screen.question == "password: "
        begun.screen.control_c()
        begun.settle()


def test_a_forgotten_password_begins_with_an_address_that_is_one(begun: Start) -> None:
    begun.gate.problems["code"] = [BadRequest("email: this is no e-mail address")]
    begun.type("f", "ann at home")
    assert begun.screen.new()[-1] == "This is no e-mail address."
    assert begun.screen.question == "e-mail address: "
    begun.type("ann@example.org")
    assert (begun.screen.question, begun.screen.hidden) == ("password: ", True)


@pytest.mark.parametrize(("email", "code"), [("ann@example.org", "123456"), ("", "")])
def test_a_password_that_everybody_tries_is_typed_anew_and_nothing_else(begun: Start, email: str, code: str) -> None:
    begun.gate.problems["register"] = [PasswordInvalid("take another")]
    begun.type("r", "ann", "password", "password", email)
    if email:
        begun.type(code)
    assert begun.screen.new()[-1] == "Take another."
    begun.type("secret word", "secret word")
    assert begun.gate.asked[-2:] == [
        ("register", "ann", "secret word", email, code),
        ("login", "ann", "", "secret word"),
    ]
    begun.let_in()


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    chat_command.configure(parser)
    for arguments, why in (
        (["--gate", "ftp://x"], "'ftp://x' is not the address of a gate"),
        (["--gate", "https://x", "localhost"], "give HOST:PORT or --gate URL"),
    ):
        assert chat_command.run(parser.parse_args(arguments)) == 2
        assert why in capsys.readouterr().err


@pytest.mark.slow
def test_a_person_at_a_real_terminal_registers_with_a_code_from_the_log(tmp_path: Path) -> None:
    twistd = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile=", "flux"]
    flux = [sys.executable, "-c", "from flux.cli.main import main; raise SystemExit(main())"]
    settings = [f"{name}.listen=tcp:0:interface=127.0.0.1" for name in ("chat", "status", "gate")]
    settings += ["admin.listen=", "gate.require_code=yes"]
    options = [part for setting in settings for part in ("--set", setting)]
    with server([*twistd, *options], tmp_path, environment()) as process:
        url = process.wait_for("gate listens on").split()[-1]
        with terminal([*flux, "chat", "--gate", url], tmp_path, environment()) as person:
            answers = ("r", "ann", "correct horse", "correct horse", "ann@example.org")
            questions = ("(f)orgot the password", "name:", "password:", "password again:", "e-mail address:")
            for question, answer in zip(questions, answers, strict=True):
                person.wait_for(question)
                person.type(answer)
            person.wait_for("what ann@example.org would get is in the log of the gate")
            code = re.search(r"(\d{6}) is your code", process.wait_for("is your code"))
            assert code is not None
            person.type(code[1])
            person.wait_for("Welcome, ann")
            person.type("/quit")
