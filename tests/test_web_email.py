"""The web client in a real browser: e-mail addresses, the codes that are sent there, and forgotten passwords."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import pytest
from browser import Tab
from looks import check_looks
from web_people import PASSWORD, Server, sign_in, sign_up

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

PROBLEM = "[data-field={}] .problem"


class Post:
    """A web service that takes e-mail: the server's webhook."""

    def __init__(self) -> None:
        self._mails: SimpleQueue[dict[str, str]] = SimpleQueue()
        mails = self._mails

        class Taker(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                mails.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Taker)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def code(self, to: str) -> str:
        """The code in the next e-mail to this address that has one."""
        while True:
            mail = self._mails.get(timeout=20)
            found = re.search(r"\b\d{6}\b", mail["text"])
            if mail["to"] == to and found:
                return found[0]


@pytest.fixture
def post() -> Iterator[Post]:
    post = Post()
    yield post
    post.close()


@pytest.fixture
def mailing(post: Post, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts a server that sends its e-mail to ``post``."""
    started: list[Server] = []

    def start(**settings: str) -> Server:
        started.append(
            Server(tmp_path, mail__kind="webhook", mail__url=post.url, mail__secret="a secret of the two", **settings)
        )
        return started[-1]

    yield start
    for server in started:
        server.stop()


def test_enter_in_the_address_sends_a_code(
    tabs: Callable[..., Tab], mailing: Callable[..., Server], post: Post
) -> None:
    tab = tabs(mailing(gate__require_code="yes").url)
    tab.click("Create an account")
    tab.fill("Name", "ann")
    tab.fill("Password", PASSWORD)
    for written, problem in (("", "This is needed."), ("ann at example.org", "This is no e-mail address.")):
        tab.fill("E-mail address", written)
        tab.press("Enter")
        tab.wait_text(problem, PROBLEM.format("email"))
    tab.click("Send code")
    tab.wait_text("This is no e-mail address.", PROBLEM.format("email"))
    tab.fill("E-mail address", "ann@example.org")
    tab.press("Enter")
    tab.wait_text("A code is on its way to ann@example.org")
    assert tab.js("document.activeElement.name") == "code"
    assert tab.texts(".problem:not(:empty)") == []
    tab.type(post.code("ann@example.org"))
    tab.press("Enter")
    tab.wait_text("No conversations yet")
    tab.click("ann: profile and signing out")
    tab.click("Sign out")
    # Somebody who has forgotten the password.
    tab.click("Forgot the password?")
    tab.fill("E-mail address", "ann@example.org")
    tab.press("Enter")
    tab.wait_text("A code is on its way to ann@example.org")
    tab.type(post.code("ann@example.org"))
    tab.fill("New password", "battery staple")
    tab.press("Enter")
    tab.wait_text("The new password is set")
    assert tab.js("document.activeElement.name") == "password"
    sign_in(tab, "ann@example.org", "battery staple")
    tab.wait_text("No conversations yet")


def code_for(tab: Tab, post: Post, email: str) -> None:
    """Have a code sent and write it down."""
    tab.fill("E-mail address", email)
    tab.click("Send code")
    tab.wait_text("A code is on its way")
    tab.fill("Code from the e-mail", post.code(email))


def reset(tab: Tab, post: Post, email: str, password: str) -> None:
    """Forget the password, and sign in with a new one."""
    tab.click("Forgot the password?")
    code_for(tab, post, email)
    tab.fill("New password", password)
    tab.press("Enter")
    tab.wait_text("The new password is set")
    sign_in(tab, email, password)
    tab.wait_text("No conversations yet")


def test_an_address_may_be_given_when_signing_up(
    tabs: Callable[..., Tab], mailing: Callable[..., Server], post: Post
) -> None:
    tab = tabs(mailing(gate__require_code="no").url, width=390, height=844)
    tab.click("Create an account")
    tab.click("Add an e-mail address, to be able to reset the password")
    assert tab.js("document.activeElement.name") == "email"
    tab.fill("Name", "bob")
    tab.fill("Password", PASSWORD)
    tab.fill("E-mail address", "bob@example.org")
    check_looks(tab, "390-sign-up-with-an-address")
    tab.click("Create the account")
    tab.wait_text("This is needed.", PROBLEM.format("code"))
    code_for(tab, post, "bob@example.org")
    tab.press("Enter")
    tab.wait_text("No conversations yet")
    tab.click("bob: profile and signing out")
    tab.wait_text("bob@example.org", "dialog")
    tab.click("Sign out")
    reset(tab, post, "bob@example.org", "battery staple")
    tab.click("bob: profile and signing out")
    tab.click("Sign out")
    # It stays empty for who has thought better of it.
    tab.click("Create an account")
    tab.click("Add an e-mail address, to be able to reset the password")
    tab.fill("Name", "cat")
    tab.fill("Password", PASSWORD)
    tab.click("Create the account")
    tab.wait_text("No conversations yet")


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800)])
def test_the_profile_has_the_address(
    tabs: Callable[..., Tab], mailing: Callable[..., Server], post: Post, width: int, height: int
) -> None:
    server = mailing(gate__require_code="no")
    tab = tabs(server.url, width=width, height=height)
    check_looks(tab, f"{width}-sign-in")
    tab.click("Create an account")
    tab.wait_text("Add an e-mail address")
    check_looks(tab, f"{width}-sign-up")
    tab.click("I have an account")
    sign_up(tab, "ann")
    tab.click("ann: profile and signing out")
    tab.wait_text("None. It is for a forgotten password.", "dialog")
    tab.js("document.querySelector('dialog section:last-of-type').scrollIntoView()")
    check_looks(tab, f"{width}-profile-without-an-address")
    tab.click("Add one")
    code_for(tab, post, "ann@example.org")
    tab.press("Enter")
    tab.wait_text("Saved.", "dialog section:last-of-type")
    tab.wait_text("ann@example.org", "dialog")
    check_looks(tab, f"{width}-profile-with-an-address")
    # To another one: that takes the password, too.
    tab.click("Change it")
    code_for(tab, post, "ann@example.net")
    tab.press("Enter")
    tab.wait_text("This is needed.", PROBLEM.format("password"))
    tab.fill("Your password", PASSWORD)
    tab.js("document.querySelector('dialog section:last-of-type').scrollIntoView()")
    check_looks(tab, f"{width}-profile-another-address")
    tab.press("Enter")
    tab.wait_text("ann@example.net", "dialog section:last-of-type p")
    tab.click("Sign out")
    reset(tab, post, "ann@example.net", "battery staple")


def test_without_e_mail_nothing_is_offered_that_takes_it(tabs: Callable[..., Tab], web_server: Server) -> None:
    tab = tabs()
    rules = "fetch('v1/rules').then((response) => response.json())"
    assert tab.js(f"{rules}.then((rules) => rules.codes_sent)") is False
    assert "Forgot the password?" not in tab.text("body")
    tab.click("Create an account")
    tab.wait_text("At least 8")
    assert "e-mail" not in tab.text("body")
    tab.click("I have an account")
    sign_up(tab, "unreachable")
    tab.click("unreachable: profile and signing out")
    tab.js(rules)
    assert "E-mail address" not in tab.text("dialog")
