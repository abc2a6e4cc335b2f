"""A Redis for a test: a prefix of its own, another way in to look and to disturb, and links that fail."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.protocols import portforward
from twisted.python.failure import Failure

from flux.backends.redis import RedisBus, RedisState, make_redis
from flux.backends.redis.connection import Connection
from flux.backends.redis.dial import Dialer
from flux.backends.redis.url import parse_url
from flux.bench.engines import RedisServer
from flux.errors import Unavailable
from flux.model.placement import Lease
from flux.model.sessions import Route

_numbers = itertools.count(1)

DEADLINE = 30.0
"""Seconds until what does not happen fails the test."""


def new_prefix() -> str:
    """A prefix that no other test has."""
    return f"flux-test{next(_numbers)}:"


def url_of(server: RedisServer, **changes: Any) -> str:
    """The URL of a server with other parts: ``user``, ``password``, ``port``, ``database``."""
    user = changes.get("user", "")
    password = changes.get("password", server.password)
    return f"redis://{user}:{password}@127.0.0.1:{changes.get('port', server.port)}/{changes.get('database', 0)}"


def parts(url: str, prefix: str = "flux:", ca: Path | None = None) -> tuple[RedisState, RedisBus]:
    """State and bus as a process has them, not started."""
    from twisted.internet import reactor

    return make_redis(url, prefix, ca, reactor)


def claims(state: RedisState, uids: Iterable[int]) -> DeferredList:
    """Claims of many, all asked for at once."""
    asked = [Deferred.fromCoroutine(state.claim(uid, Route("a", 1, 1), True)) for uid in uids]
    return DeferredList(asked, consumeErrors=True)


@asynccontextmanager
async def started(
    url: str, prefix: str = "flux:", ca: Path | None = None
) -> AsyncIterator[tuple[RedisState, RedisBus]]:
    """The same, started."""
    state, bus = parts(url, prefix, ca)
    try:
        await state.start()
        await bus.start()
        yield state, bus
    finally:
        await bus.stop()
        await state.stop()


@asynccontextmanager
async def admin(server: RedisServer) -> AsyncIterator[Connection]:
    """A connection of somebody who may do everything."""
    from twisted.internet import reactor

    connection, _ = await Dialer(parse_url(server.url), None, reactor).connect()
    try:
        yield connection
    finally:
        connection.close("the test is over")


def lease(name: str = "a", boot: int = 1, sessions: int = 0, ttl: float = 60.0) -> Lease:
    """A lease of a node."""
    return Lease(name=name, boot=boot, host="h", port=1, sessions=sessions, capacity=0, weight=1, ttl=ttl)


async def until(happened: Callable[[], object]) -> None:
    """Wait for what another process or the reactor does."""
    from twisted.internet import reactor

    late = reactor.seconds() + DEADLINE
    while not happened():
        assert reactor.seconds() < late, "it did not happen"
        await deferLater(reactor, 0.005)


async def answers(state: RedisState) -> None:
    """Wait until the state can be used (again)."""
    from twisted.internet import reactor

    late = reactor.seconds() + DEADLINE
    while reactor.seconds() < late:
        with suppress(Unavailable):
            await state.snapshot()
            return
        await deferLater(reactor, 0.005)
    raise AssertionError("it does not answer")


def outcome(awaitable: Awaitable[Any]) -> Any:
    """What something comes to without any waiting: its result, its error, or the Deferred where it waits."""

    async def wait() -> Any:
        return await awaitable

    results: list[Any] = []
    waiting = Deferred.fromCoroutine(wait())
    waiting.addBoth(results.append)
    if not results:
        return waiting
    return results[0].value if isinstance(results[0], Failure) else results[0]


class _Server(portforward.ProxyServer):
    factory: _Factory

    def connectionMade(self) -> None:
        self.factory.servers.append(self)
        if self.factory.refusing:
            self.transport.abortConnection()
        elif self.factory.swallowing:
            self.transport.pauseProducing()
        else:
            super().connectionMade()

    def connectionLost(self, reason: Any) -> None:
        self.factory.servers.remove(self)
        super().connectionLost(reason)


class _Factory(portforward.ProxyFactory):
    protocol = _Server
    noisy = False

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port)
        self.servers: list[_Server] = []
        self.swallowing = False
        self.refusing = False


class Proxy:
    """A way to a server that can be cut, and that can swallow what is sent without telling anybody."""

    def __init__(self, port: int, listen: Callable[[Any], Any] | None = None) -> None:
        from twisted.internet import reactor

        self._factory = _Factory(port)
        self._listening = (
            listen(self._factory) if listen else reactor.listenTCP(0, self._factory, interface="127.0.0.1")
        )

    @property
    def port(self) -> int:
        return int(self._listening.getHost().port)

    @property
    def connections(self) -> int:
        return len(self._factory.servers)

    def swallow(self) -> None:
        """From now on nothing comes through, in neither direction; new connections are accepted and lead nowhere."""
        self._factory.swallowing = True
        for transport in self._transports():
            transport.pauseProducing()

    def cut(self) -> None:
        """Reset all connections, and every new one."""
        self._factory.refusing = True
        for transport in self._transports():
            transport.abortConnection()

    def heal(self) -> None:
        """From now on new connections come through; those that are swallowed stay so."""
        self._factory.swallowing = self._factory.refusing = False

    async def stop(self) -> None:
        self.cut()
        await self._listening.stopListening()
        await until(lambda: not self._factory.servers)

    def _transports(self) -> list[Any]:
        servers = list(self._factory.servers)
        return [end.transport for server in servers for end in (server, server.peer) if end is not None]
