"""Connections that the reactor does not read itself: they end as all others do, and one never harms another."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from flux.net import eager
from flux.net.eager import EagerClient, EagerServer, SharedPoll, hurry, make_eager

DEADLINE = 10.0


class Echo(Protocol):
    """Sends back what it gets, and breaks where it is told to."""

    def __init__(self, here: list[Echo]) -> None:
        self.got = b""
        self.lost: Failure | None = None
        here.append(self)

    def dataReceived(self, data: bytes) -> None:
        self.got += data
        if data == b"break":
            raise ValueError("broken")
        self.transport.write(data)  # type: ignore[union-attr]

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost = reason


class Service:
    """An eager port, and plain sockets connected to it."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.here: list[Echo] = []
        factory = Factory.forProtocol(lambda: Echo(self.here))
        factory.noisy = False
        self.port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        make_eager(self.port, 65536)

    async def until(self, happened: Callable[[], bool]) -> None:
        late = self.reactor.seconds() + DEADLINE
        while not happened():
            assert self.reactor.seconds() < late, "it did not happen"
            await deferLater(self.reactor, 0.001)

    async def connect(self) -> tuple[socket.socket, Echo]:
        count = len(self.here)
        client = socket.create_connection(("127.0.0.1", self.port.getHost().port))
        client.setblocking(False)
        await self.until(lambda: len(self.here) > count and self.here[-1].connected == 1)
        return client, self.here[-1]

    async def exchange(self, client: socket.socket, echo: Echo, data: bytes) -> None:
        before = len(echo.got)
        client.send(data)
        await self.until(lambda: echo.got[before:] == data)


@pytest.fixture
def service(reactor: Any) -> Any:
    return Service(reactor)


@pytest.fixture
def reactor() -> Any:
    from twisted.internet import reactor

    return reactor


async def test_the_reactor_sees_one_thing_to_read_for_all_and_only_while_there_are_any(service: Service) -> None:
    pairs = [await service.connect() for _ in range(20)]
    for client, _ in pairs:
        client.send(b"hello")
    for client, echo in pairs:
        await service.until(lambda echo=echo: echo.got == b"hello")  # type: ignore[misc]
        assert isinstance(echo.transport, EagerServer)
        assert client.recv(1000) == b"hello"
    if hasattr(select, "epoll"):
        kinds = [type(reader) for reader in service.reactor.getReaders()]
        assert kinds.count(SharedPoll) == 1
        assert not any(issubclass(kind, EagerServer) for kind in kinds)
    for client, _ in pairs:
        client.close()
    await service.until(lambda: all(echo.lost for echo in service.here))
    assert not any(isinstance(reader, SharedPoll) for reader in service.reactor.getReaders())
    await service.port.stopListening()


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="the reactor reads them itself")
async def test_who_says_something_does_not_wait_for_all_who_leave_at_once(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eager, "ENDED_AT_ONCE", 4)
    leaving = [await service.connect() for _ in range(10)]
    client, echo = await service.connect()
    [poll] = [reader for reader in service.reactor.getReaders() if isinstance(reader, SharedPoll)]
    for gone, _ in leaving[:5]:
        gone.send(b"goodbye")
    for gone, _ in leaving:
        gone.shutdown(socket.SHUT_WR)
    client.send(b"hello")
    # The reactor does nothing before this test waits.
    poll.doRead()
    assert echo.got == b"hello"
    assert sum(bool(gone.got or gone.lost) for _, gone in leaving) == 4
    for _ in range(10):
        poll.doRead()
    assert all(gone.lost and gone.lost.check(ConnectionDone) for _, gone in leaving)
    assert [gone.got for _, gone in leaving] == [b"goodbye"] * 5 + [b""] * 5
    assert echo.lost is None
    for gone, _ in [*leaving, (client, echo)]:
        gone.close()
    await service.until(lambda: echo.lost is not None)
    await service.port.stopListening()


class Hurried(Protocol):
    """A client of ours that sends at once."""

    gone = False

    def makeConnection(self, transport: Any) -> None:
        hurry(transport)
        super().makeConnection(transport)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted's has a default
        self.gone = True


async def test_a_client_sends_at_once_and_in_order_what_the_kernel_does_not_take(reactor: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = await HostnameEndpoint(reactor, *listening.getsockname()).connect(Factory.forProtocol(Hurried))
        there, _ = listening.accept()
    transport = client.transport
    assert isinstance(transport, EagerClient)
    assert transport.getTcpNoDelay()
    transport.write(b"hello")
    assert there.recv(100) == b"hello"
    large = bytes(range(256)) * 65536
    transport.write(large)
    assert transport in reactor.getWriters()
    # There is room now, but it is not this one's turn.
    got = bytearray()
    while len(got) < 1_000_000:
        got += there.recv(65536)
    transport.write(b"bye")
    there.setblocking(False)
    while len(got) < len(large) + 3:
        await deferLater(reactor, 0)
        try:
            got += there.recv(1_000_000)
        except BlockingIOError:
            continue
    assert got == large + b"bye"
    there.close()
    while not client.gone:
        await deferLater(reactor, 0)


async def test_an_end_is_clean_and_a_reset_is_not(service: Service) -> None:
    client, ended = await service.connect()
    client.close()
    other, reset = await service.connect()
    await service.exchange(other, reset, b"once")
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    other.close()
    await service.until(lambda: ended.lost is not None and reset.lost is not None)
    assert ended.lost is not None
    assert ended.lost.check(ConnectionDone)
    assert reset.lost is not None
    assert reset.lost.check(ConnectionLost)
    await service.port.stopListening()


async def test_what_a_protocol_raises_ends_its_connection_alone(
    service: Service, flush_logged_errors: Callable[[type[Exception]], list[Any]]
) -> None:
    (one, good), (two, bad) = await service.connect(), await service.connect()
    one.send(b"go on")
    two.send(b"break")
    await service.until(lambda: bad.lost is not None and good.got == b"go on")
    assert bad.lost is not None
    assert bad.lost.check(ValueError)
    assert len(flush_logged_errors(ValueError)) == 1
    await service.exchange(one, good, b"still here")
    one.close()
    two.close()
    await service.until(lambda: good.lost is not None)
    await service.port.stopListening()


async def test_who_is_closed_by_another_in_the_same_turn_is_not_read(service: Service) -> None:
    pairs = [await service.connect() for _ in range(2)]
    first: Deferred[Echo] = Deferred()

    def close_the_other(echo: Echo) -> Callable[[bytes], None]:
        def received(data: bytes) -> None:
            if not first.called:
                first.callback(echo)
                for _, other in pairs:
                    if other is not echo:
                        other.transport.abortConnection()  # type: ignore[union-attr]
            echo.got += data

        return received

    for _, echo in pairs:
        echo.dataReceived = close_the_other(echo)  # type: ignore[method-assign]
    for client, _ in pairs:
        client.send(b"data")
    echo = await first
    [other] = [other for _, other in pairs if other is not echo]
    await service.until(lambda: other.lost is not None)
    assert (echo.got, other.got) == (b"data", b"")
    for client, _ in pairs:
        client.close()
    await service.until(lambda: echo.lost is not None)
    await service.port.stopListening()


async def test_who_pauses_is_not_read_until_it_resumes(service: Service) -> None:
    client, echo = await service.connect()
    echo.transport.pauseProducing()  # type: ignore[union-attr]
    client.send(b"later")
    await deferLater(service.reactor, 0)
    await deferLater(service.reactor, 0)
    assert echo.got == b""
    echo.transport.resumeProducing()  # type: ignore[union-attr]
    await service.until(lambda: echo.got == b"later")
    client.close()
    await service.until(lambda: echo.lost is not None)
    await service.port.stopListening()
