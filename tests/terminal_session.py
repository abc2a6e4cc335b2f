"""A session at the terminal, in memory: a person types, a scripted server answers, the screen shows.

::

    Session.type ──> FakeScreen ──> Chat ──> Client ──> ScriptedServer <── Session.answer, refuse, push
    Session.new  <── what is shown of it since the last look
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from fake_screen import FakeScreen
from scripted_server import PROFILE, Link, ScriptedServer, result, start

from flux.client.terminal import actions as _actions  # noqa: F401 - fills the table of commands
from flux.client.terminal.chat import Chat

BOB = {"id": 8, "name": "bob", "nick": "", "remark": "", "online": True}
ZHANG = {"id": 9, "name": "zhang san", "nick": "Zed", "remark": "", "online": False}
PYTHON = {"group": 30, "chat": 30, "name": "python", "description": "", "role": "owner"}
FULL = {
    **PROFILE,
    "friends": [BOB, ZHANG],
    "friend_requests": [{"from": 12, "name": "dave", "note": "it's me", "at": 5}],
    "groups": [PYTHON],
    "unread": [{"chat": 100, "to": 8, "count": 2, "head": 4}],
}
MEMBERS = [
    {"id": 7, "name": "ann", "role": "owner", "online": True},
    {"id": 9, "name": "zhang san", "role": "admin", "online": False},
    {"id": 10, "name": "carol", "role": "member", "online": True},
]
#: 2001-09-09 01:46:40 UTC.
AT = 1_000_000_000_000


class Session:
    """A person, a screen, a client, and the server's end."""

    def __init__(self, **profile: Any) -> None:
        self.server = ScriptedServer()
        self.server.answers_logins = False
        self.client = self.server.client(("chat.example", 8090))
        login = start(self.client.login("ann", password="secret word"))
        self.link.ok(self.link.take("login"), **{**PROFILE, **profile})
        result(login)
        self.screen = FakeScreen(self.server.clock)
        self.chat = Chat(self.client, self.screen, self.server.clock)
        self.running = start(self.chat.run())
        self.settle()

    @property
    def link(self) -> Link:
        return self.server.link

    def settle(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(5):
            self.server.clock.advance(0)

    def end(self) -> None:
        """The session is over, whatever the test left."""
        self.server.end()
        result(self.running)

    def type(self, line: str) -> None:
        self.screen.type(line)
        self.settle()

    def answer(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Answer a request that is waiting, and return it."""
        request = self.link.take(kind)
        self.link.ok(request, **fields)
        self.settle()
        return request

    def refuse(self, kind: str, name: str, **fields: Any) -> None:
        self.link.error(self.link.take(kind), name, **fields)
        self.settle()

    def push(self, **fields: Any) -> None:
        self.link.push(**fields)
        self.settle()

    def message(self, seq: int, text: str = "hi", sender: int = 8, name: str = "bob", **where: Any) -> None:
        where = where or {"chat": 100, "to": 7}
        fields = {"seq": seq, "from": sender, "name": name, "text": text, "at": AT + seq * 60_000, **where}
        self.push(type="message", **fields)

    def new(self) -> list[str]:
        return self.screen.new()

    def talk_to_bob(self) -> None:
        """Make bob the current conversation."""
        self.type("/open bob")
        self.answer("history", chat=100, messages=[], more=False)
        self.new()


@contextmanager
def sessions() -> Iterator[Callable[..., Session]]:
    """Begins sessions whose ``login.ok`` has the given fields; until they end, local time is UTC."""
    begun: list[Session] = []

    def begin(**profile: Any) -> Session:
        begun.append(Session(**profile))
        return begun[-1]

    try:
        with mock.patch.dict(os.environ, TZ="UTC"):
            time.tzset()
            yield begin
            for session in begun:
                session.end()
    finally:
        time.tzset()


def welcomed(begin: Callable[..., Session]) -> Session:
    """Logged in with two friends and a group, the welcome read."""
    session = begin(friends=[BOB, ZHANG], groups=[PYTHON])
    session.answer("group.members", members=MEMBERS)
    session.new()
    return session
