"""A chat server that does what a test tells it, in memory, on a Clock.

``ScriptedServer`` hands the client endpoints; each connection the client makes is a
``Link``, where the test reads the requests and writes replies and events, in the order
it likes, or cuts the line.  Logins and pings are answered by themselves unless told
otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Coroutine
from typing import Any, TypeVar

from late_names import LateNames
from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from flux.client import Client, ClientEvent

T = TypeVar("T")

PROFILE = {
    "protocol": 1, "server": "chat1", "id": 7, "name": "ann", "nick": "", "description": "", "sex": "", "icon": "",
    "friends": [], "friend_requests": [], "groups": [], "unread": [],
}  # fmt: skip


class Link:
    """The server's end of one connection, and the client's transport."""

    disconnecting = False

    def __init__(self, server: ScriptedServer, protocol: IProtocol, address: tuple[str, int]) -> None:
        self.server = server
        self.address = address
        self.requests: list[dict[str, Any]] = []
        self.open = True
        self.reading = True
        self._protocol = protocol
        self._unread: list[bytes] = []
        self._partial = b""

    # for tests

    def types(self) -> list[str]:
        """The types of the requests not taken yet."""
        return [request["type"] for request in self.requests]

    def take(self, kind: str) -> dict[str, Any]:
        """Remove and return the first request of a type."""
        for request in self.requests:
            if request["type"] == kind:
                self.requests.remove(request)
                return request
        raise AssertionError(f"no {kind} among {self.requests}")

    def ok(self, request: dict[str, Any], **fields: object) -> None:
        """Answer a request."""
        self.push(type=request["type"] + ".ok", ref=request["ref"], **fields)

    def error(self, request: dict[str, Any], name: str, **fields: object) -> None:
        """Refuse a request."""
        fields = {"code": 1, "detail": "because", **fields}
        self.push(type="error", request=request["type"], ref=request.get("ref"), name=name, **fields)

    def receipt(self, request: dict[str, Any], seq: int, *, chat: int = 100, duplicate: bool = False) -> None:
        """Answer a send."""
        self.ok(request, chat=chat, seq=seq, at=1000 + seq, cid=request["cid"], duplicate=duplicate)

    def message(self, seq: int, *, chat: int = 100, at: int | None = None, text: str = "") -> None:
        """Push a message of user 8."""
        fields = {"chat": chat, "seq": seq, "from": 8, "name": "bob", "to": 7, "at": at or 1000 + seq}
        self.push(type="message", text=text or f"m{seq}", **fields)

    def push(self, **fields: object) -> None:
        """Write a line."""
        self.write_raw(json.dumps(fields).encode() + b"\n")

    def write_raw(self, data: bytes) -> None:
        """Write bytes."""
        if not self.reading:
            self._unread.append(data)
        elif self.open:
            self._protocol.dataReceived(data)

    def cut(self, clean: bool = False) -> None:
        """End the connection."""
        if self.open:
            self.open = False
            self._protocol.connectionLost(Failure(error.ConnectionDone() if clean else error.ConnectionLost()))

    # the transport

    def write(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            if self.open and not self.disconnecting:
                request = json.loads(line)
                if not self.server.answer(self, request):
                    self.requests.append(request)

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True
        unread, self._unread = self._unread, []
        for data in unread:
            self.write_raw(data)

    def loseConnection(self) -> None:
        self.disconnecting = True
        self.server.clock.callLater(0, self.cut, True)

    abortConnection = loseConnection

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: N802 (as Twisted calls it)
        assert enabled


@implementer(IStreamClientEndpoint)
class _Endpoint:
    def __init__(self, server: ScriptedServer, address: tuple[str, int]) -> None:
        self.server = server
        self.address = address

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        self.server.attempts.append((self.address, self.server.clock.seconds()))
        if self.address in self.server.silent:
            return Deferred()
        if self.address in self.server.unresolved:
            return HostnameEndpoint(self.server.names.reactor(), *self.address).connect(factory)
        if self.address in self.server.refusing:
            return fail(error.ConnectionRefusedError())
        protocol = factory.buildProtocol(IPv4Address("TCP", *self.address))
        assert protocol is not None
        link = Link(self.server, protocol, self.address)
        self.server.links.append(link)
        protocol.makeConnection(link)  # type: ignore[arg-type]
        return succeed(protocol)


class ScriptedServer:
    """All chat servers of a test.

    :ivar refusing: addresses that refuse connections.
    :ivar silent: addresses that never answer.
    :ivar unresolved: addresses with host names that are still being looked up, by ``names``.
    :ivar attempts: (address, time) of each attempt to connect.
    :ivar links: every connection, in order.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.refusing: set[tuple[str, int]] = set()
        self.silent: set[tuple[str, int]] = set()
        self.unresolved: set[tuple[str, int]] = set()
        self.names = LateNames()
        self.attempts: list[tuple[tuple[str, int], float]] = []
        self.links: list[Link] = []
        self.answers_logins = True
        self.answers_pings = True
        self._clients: list[Client] = []

    @property
    def link(self) -> Link:
        """The newest connection."""
        return self.links[-1]

    def client(self, *addresses: tuple[str, int], **options: Any) -> Client:
        """A client that knows ``addresses``."""
        known = addresses or (("one", 1),)
        client = Client(self.clock, known, endpoint=self.endpoint, **options)  # type: ignore[arg-type]
        self._clients.append(client)
        return client

    def endpoint(self, host: str, port: int) -> IStreamClientEndpoint:
        """How a client gets here."""
        return _Endpoint(self, (host, port))

    def end(self) -> None:
        """Close all clients, so that no coroutine is left to the garbage collector."""
        closing = [start(client.close()) for client in self._clients]
        self.wait(5)
        for closed in closing:
            result(closed)

    def answer(self, link: Link, request: dict[str, Any]) -> bool:
        """Answer by itself what is so routine that tests do not care."""
        if request["type"] == "login" and self.answers_logins:
            link.requests.append(request)
            link.ok(request, **PROFILE)
            return True
        if request["type"] == "ping" and self.answers_pings:
            link.ok(request, at=0)
            return True
        return False

    def wait(self, seconds: float) -> None:
        """Let time pass, in steps of 50 ms."""
        for _ in range(round(seconds / 0.05)):
            self.clock.advance(0.05)

    def logged_in(self, *addresses: tuple[str, int], **options: Any) -> tuple[Client, Link, Taken]:
        """A client that is online, its connection, and what it takes from ``events``."""
        client = self.client(*addresses, **options)
        result(client.login("ann", password="secret word"))
        taken = Taken(client)
        self.clock.advance(0)
        taken.clear()
        self.link.take("login")
        return client, self.link, taken


class Taken(list[ClientEvent]):
    """Takes every event as soon as it is there."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self.ended = False
        self._client = client
        self.running = start(self._take())

    async def _take(self) -> None:
        async for event in self._client.events:
            self.append(event)
        self.ended = True

    def texts(self) -> list[str]:
        """The texts of the messages among them."""
        return [getattr(event, "text") for event in self if hasattr(event, "text")]  # noqa: B009


def start(coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Run a coroutine until it waits."""
    return Deferred.fromCoroutine(coroutine)


def result(awaitable: Coroutine[Any, Any, T] | Deferred[T]) -> T:
    """What an awaitable has come to by now.

    :raises AssertionError: it still waits.
    """
    deferred = awaitable if isinstance(awaitable, Deferred) else start(awaitable)
    outcome: list[T | Failure] = []
    deferred.addBoth(outcome.append)
    assert outcome, "still waiting"
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    return outcome[0]  # type: ignore[return-value]


def waiting(deferred: Deferred[Any]) -> bool:
    """Whether it has not fired."""
    return not deferred.called
