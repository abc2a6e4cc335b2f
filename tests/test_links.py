"""Links that break: whole, cut, swallowing, and whole again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import error
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from flux.bench.links import Link
from flux.lifecycle import sleep, within

DEADLINE = 10.0


class Peer(Protocol):
    """Keeps what it hears; what it waits for is looked for again whenever something happens."""

    echo = False

    def __init__(self) -> None:
        self.heard = b""
        self.lost: Failure | None = None
        self._wake: list[Deferred[None]] = []

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        if self.echo:
            self.transport.write(data)
        self._notify()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason
        self._notify()

    def _notify(self) -> None:
        wake, self._wake = self._wake, []
        for waiter in wake:
            waiter.callback(None)

    async def until(self, happened: Callable[[], Any]) -> None:
        from twisted.internet import reactor

        while not happened():
            something: Deferred[None] = Deferred()
            self._wake.append(something)
            await within(DEADLINE, something, reactor, f"{self.heard[-80:]!r}, {self.lost}; more")


class Echo(Peer):
    echo = True


class Setting:
    """An echo server and a link to it."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.servers: list[Echo] = []
        self.port = reactor.listenTCP(0, Factory.forProtocol(self._serve), interface="127.0.0.1")
        self.link = Link(reactor, self.port.getHost().port)

    def _serve(self) -> Echo:
        self.servers.append(Echo())
        return self.servers[-1]

    async def connect(self) -> Peer:
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", self.link.port)
        peer: Peer = await connectProtocol(endpoint, Peer())
        return peer

    async def talking(self) -> Peer:
        """A connection through which something has gone."""
        await self.link.open()
        peer = await self.connect()
        peer.transport.write(b"hello")
        await peer.until(lambda: peer.heard == b"hello")
        return peer

    async def barrier(self) -> None:
        """What could have happened by now has happened."""
        for _ in range(5):
            await sleep(0.001, self.reactor)

    async def end(self) -> None:
        await self.link.close()
        await maybeDeferred(self.port.stopListening)


@pytest.fixture
def setting() -> Iterator[Setting]:
    from twisted.internet import reactor

    setting = Setting(reactor)
    Factory.noisy = False
    yield setting
    pytest_twisted.blockon(Deferred.fromCoroutine(setting.end()))


async def test_a_whole_link_carries_both_ways_and_ends(setting: Setting) -> None:
    peer = await setting.talking()
    big = bytes(range(256)) * 40_000
    peer.transport.write(big)
    await peer.until(lambda: len(peer.heard) >= 5 + len(big))
    assert peer.heard == b"hello" + big
    peer.transport.loseConnection()
    [server] = setting.servers
    await server.until(lambda: server.lost)
    await peer.until(lambda: peer.lost)
    other = await setting.connect()
    other.transport.write(b"again")
    await other.until(lambda: other.heard == b"again")
    setting.servers[-1].transport.loseConnection()
    await other.until(lambda: other.lost)


async def test_a_cut_resets_and_refuses_until_it_is_whole_again(setting: Setting) -> None:
    peer = await setting.talking()
    [server] = setting.servers
    await setting.link.cut()
    await peer.until(lambda: peer.lost)
    await server.until(lambda: server.lost)
    assert peer.lost is not None
    assert peer.lost.check(error.ConnectionLost)
    with pytest.raises(error.ConnectionRefusedError):
        await setting.connect()
    again = await setting.talking()
    assert not again.lost


async def test_what_is_swallowed_arrives_when_the_link_is_whole_again(setting: Setting) -> None:
    peer = await setting.talking()
    [server] = setting.servers
    await setting.link.swallow()
    peer.transport.write(b" there")
    server.transport.write(b" who")
    await setting.barrier()
    assert (peer.heard, server.heard) == (b"hello", b"hello")
    await setting.link.open()
    await peer.until(lambda: len(peer.heard) == 15)
    assert peer.heard == b"hello who there"
    assert not peer.lost


async def test_nobody_is_told_that_an_end_has_gone_until_the_link_is_whole_again(setting: Setting) -> None:
    peer = await setting.talking()
    [server] = setting.servers
    await setting.link.swallow()
    peer.transport.write(b" bye")
    peer.transport.loseConnection()
    await peer.until(lambda: peer.lost)
    await setting.barrier()
    assert (server.heard, server.lost) == (b"hello", None)
    await setting.link.open()
    await server.until(lambda: server.lost)
    assert server.heard == b"hello bye"


async def test_who_comes_while_it_swallows_gets_through_later(setting: Setting) -> None:
    await setting.link.open()
    await setting.link.swallow()
    peer, gone = await setting.connect(), await setting.connect()
    peer.transport.write(b"anybody?")
    gone.transport.abortConnection()
    await gone.until(lambda: gone.lost)
    await setting.barrier()
    assert not setting.servers
    await setting.link.open()
    await peer.until(lambda: peer.heard == b"anybody?")


async def test_a_swallowing_link_can_be_cut(setting: Setting) -> None:
    peer = await setting.talking()
    await setting.link.swallow()
    late = await setting.connect()
    await setting.link.cut()
    for each in (peer, late, setting.servers[0]):
        await each.until(lambda each=each: each.lost)
    assert (await setting.talking()).heard == b"hello"


async def test_one_connection_may_be_lost(setting: Setting) -> None:
    setting.link.lose_one(random.Random(1))
    peer = await setting.talking()
    await setting.link.swallow()
    setting.link.lose_one(random.Random(1))
    await setting.barrier()
    assert not peer.lost
    await setting.link.open()
    setting.link.lose_one(random.Random(1))
    await peer.until(lambda: peer.lost)
    await setting.servers[0].until(lambda: setting.servers[0].lost)


async def test_a_link_that_was_closed_can_be_opened_again(setting: Setting) -> None:
    peer = await setting.talking()
    await setting.link.close()
    await peer.until(lambda: peer.lost)
    assert (await setting.talking()).heard == b"hello"


async def test_a_server_that_is_down(setting: Setting) -> None:
    await setting.port.stopListening()
    await setting.link.open()
    peer = await setting.connect()
    await peer.until(lambda: peer.lost)


class Flood(Peer):
    """Writes as much as is taken from it, up to ``LIMIT`` bytes."""

    LIMIT = 64 << 20

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0
        self.paused = False

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        self.paused = False
        while not self.paused and self.sent < self.LIMIT:
            self.sent += 1 << 16
            self.transport.write(bytes(1 << 16))

    def pauseProducing(self) -> None:
        self.paused = True

    def stopProducing(self) -> None:
        """It has been reset."""


class Sink(Peer):
    """Reads nothing until it is told to, and then only counts."""

    def connectionMade(self) -> None:
        self.count = 0
        self.transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        self.count += len(data)
        self._notify()


async def test_an_end_that_does_not_read_stops_the_other(setting: Setting) -> None:
    sink = Sink()
    setting.port.factory.protocol = lambda: sink
    await setting.link.open()
    flood = Flood()
    await connectProtocol(TCP4ClientEndpoint(setting.reactor, "127.0.0.1", setting.link.port), flood)
    before = -1
    while before != flood.sent:
        before = flood.sent
        await setting.barrier()
    # What was taken from it is in the kernel's buffers, and not in the middle.
    assert flood.paused
    assert flood.sent < Flood.LIMIT // 2
    sink.transport.resumeProducing()
    await sink.until(lambda: sink.count == Flood.LIMIT)
