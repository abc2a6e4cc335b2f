"""A connection to a gate that says what it is told to, byte by byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from flux.lifecycle import within

DEADLINE = 10.0
LOGIN = b'{"name":"ann","password":"x"}'


class Slow(Resource):
    """Answers when told to."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []

    def render(self, request: Any) -> int:
        self.requests.append(request)
        return NOT_DONE_YET


class Raw(Protocol):
    """A connection that says what it is told to.

    :ivar closed: how it ended; empty while it has not.
    """

    def __init__(self) -> None:
        self.data = b""
        self.closed = ""
        self._wake: list[Deferred[None]] = []

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        self._notify()

    def connectionLost(self, reason: Any = None) -> None:
        self.closed = reason.type.__name__
        self._notify()

    def _notify(self) -> None:
        wake, self._wake = self._wake, []
        for waiter in wake:
            waiter.callback(None)

    def say(self, data: bytes) -> None:
        self.transport.write(data)

    async def until(self, happened: Callable[[], Any]) -> None:
        from twisted.internet import reactor

        while not happened():
            arrived: Deferred[None] = Deferred()
            self._wake.append(arrived)
            await within(DEADLINE, arrived, reactor, f"{self.data[-200:]!r} ({self.closed}) is all that came; more")

    async def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """The next answer: status, headers in lower case, body."""
        await self.until(lambda: b"\r\n\r\n" in self.data or self.closed)
        head, _, self.data = self.data.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        assert first.startswith(b"HTTP/1.1 "), head
        headers = {}
        for line in lines:
            name, _, value = line.partition(b": ")
            headers[name.lower()] = value
        length = int(headers.get(b"content-length", 0))
        await self.until(lambda: len(self.data) >= length or self.closed)
        body, self.data = self.data[:length], self.data[length:]
        assert len(body) == length
        return int(first.split()[1]), headers, body

    async def error(self) -> tuple[int, str]:
        """The next answer, which is an error: its status and name."""
        status, headers, body = await self.answer()
        assert headers[b"content-type"] == b"application/json"
        assert b"Traceback" not in body
        return status, json.loads(body)["name"]

    async def ended(self) -> None:
        await self.until(lambda: self.closed)


async def connect(port: int) -> Raw:
    from twisted.internet import reactor

    return await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), Raw())


def post(path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body) if length is None else length}", *headers]
    if not any("content-type:" in header.lower() for header in headers):
        lines.append("Content-Type: application/json")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


GET = b"GET /v1/rules HTTP/1.1\r\nHost: x\r\n\r\n"


async def client_turns(happened: Callable[[], bool]) -> None:
    """Let turns of the reactor go by until it has ``happened``."""
    from twisted.internet import reactor

    ends = reactor.seconds() + DEADLINE
    while not happened():
        assert reactor.seconds() < ends
        await deferLater(reactor, 0.001)
