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
from web_people import PASSWORD, Server, sign_in

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
        """The code in the next e-mail, which has to be to this address."""
        mail = self._mails.get(timeout=20)
        assert mail["to"] == to
        [code] = re.findall(r"\b\d{6}\b", mail["text"])
        return str(code)


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
