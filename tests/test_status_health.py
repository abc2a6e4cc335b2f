"""Health checks of the static list, over real sockets and against a simulated clock."""

from __future__ import annotations

import random

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock

from flux.config import ChatServer
from flux.status.health import HealthChecks


@pytest.fixture
def reactor():
    from twisted.internet import reactor

    return reactor


def server(name: str, host: str, port: int) -> ChatServer:
    return ChatServer(name, host=host, port=port)


class Reports:
    """What health checks reported, and a wait for the next one."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self._next: Deferred[None] = Deferred()

    def __call__(self, name: str, problem: str) -> None:
        self.seen.append((name, problem))
        waiting, self._next = self._next, Deferred()
        waiting.callback(None)

    async def next(self) -> tuple[str, str]:
        await self._next
        return self.seen[-1]


def checks(reactor, reports, needed=lambda name: True, interval=5.0, timeout=2.0) -> HealthChecks:
    return HealthChecks(reactor, needed, reports, interval, timeout, random.Random(1))


# --- real sockets ---


async def test_a_server_goes_down_and_comes_back(reactor) -> None:
    endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    port = await endpoint.listen(Factory.forProtocol(Protocol))
    number = port.getHost().port
    reports = Reports()
    health = checks(reactor, reports, interval=0.05)
    health.watch([server("a", "127.0.0.1", number)])
    await health.checked(5)
    assert reports.seen == [("a", "")]
    await port.stopListening()
    while reports.seen[-1][1] == "":
        await reports.next()
    assert "refused" in reports.seen[-1][1].lower()
    port = await TCP4ServerEndpoint(reactor, number, interface="127.0.0.1").listen(Factory.forProtocol(Protocol))
    while reports.seen[-1][1] != "":
        await reports.next()
    await health.stop()
    await port.stopListening()


async def test_a_check_says_nothing_and_leaves_no_connection(reactor) -> None:
    received: list[bytes] = []
    lost: Deferred[None] = Deferred()

    class Listening(Protocol):
        def dataReceived(self, data: bytes) -> None:
            received.append(data)

        def connectionLost(self, reason=None) -> None:
            lost.callback(None)

    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Factory.forProtocol(Listening))
    health = checks(reactor, Reports(), interval=60)
    health.watch([server("a", "127.0.0.1", port.getHost().port)])
    await lost
    assert received == []
    await health.stop()
    await port.stopListening()


async def test_a_name_that_does_not_resolve_is_a_problem_like_any_other(reactor) -> None:
    reports = Reports()
    health = checks(reactor, reports)
    health.watch([server("a", "does-not-exist.invalid", 1)])
    await health.checked(10)
    assert len(reports.seen) == 1
    assert reports.seen[0][1] != ""
    await health.stop()


# --- a simulated clock ---


@pytest.fixture
def memory() -> MemoryReactorClock:
    return MemoryReactorClock()


def attempts(memory: MemoryReactorClock) -> list[int]:
    """The ports that were tried. (Every host is 127.0.0.1 to a reactor in memory.)"""
    return [port for _, port, *_ in memory.tcpClients]


def refuse(memory: MemoryReactorClock, attempt: int = -1) -> None:
    """An attempt, by default the newest, is refused; the endpoint sees to its other addresses a little later."""
    _, _, factory, *_ = memory.tcpClients[attempt]
    factory.clientConnectionFailed(memory.connectors[attempt], Refused())
    memory.advance(0.3)


async def test_silence_is_a_failure_after_the_timeout(memory) -> None:
    reports = Reports()
    health = checks(memory, reports)
    health.watch([server("a", "10.0.0.1", 6000)])
    assert attempts(memory) == [6000]
    memory.advance(1.9)
    assert reports.seen == []
    memory.advance(0.2)
    assert reports.seen == [("a", "no answer within 2 s")]
    await health.stop()
    assert memory.getDelayedCalls() == []


async def test_the_checks_go_on_at_the_interval_give_or_take_a_tenth(memory) -> None:
    health = checks(memory, Reports())
    health.watch([server("a", "10.0.0.1", 6000)])
    for count in range(1, 20):
        refuse(memory)
        memory.advance(4.4)
        assert len(attempts(memory)) == count
        memory.advance(1.2)
        assert len(attempts(memory)) == count + 1
    health.interval = 60
    refuse(memory)
    memory.advance(50)
    assert len(attempts(memory)) == 20
    await health.stop()


async def test_a_server_with_a_lease_is_not_checked(memory) -> None:
    leased = {"a"}
    reports = Reports()
    health = checks(memory, reports, lambda name: name not in leased)
    health.watch([server("a", "10.0.0.1", 6000)])
    memory.advance(20)
    assert attempts(memory) == []
    leased.clear()
    memory.advance(6)
    assert len(attempts(memory)) == 1
    await health.stop()


async def test_the_list_may_change(memory) -> None:
    reports = Reports()
    health = checks(memory, reports)
    a, b, moved = server("a", "10.0.0.1", 1), server("b", "10.0.0.2", 2), server("a", "10.0.0.1", 3)
    health.watch([a, b])
    refuse(memory)
    health.watch([b, moved])
    assert attempts(memory) == [1, 2, 3]
    health.watch([])
    memory.advance(60)
    assert len(attempts(memory)) == 3
    assert [name for name, _ in reports.seen] == ["b"]
    await health.stop()


async def test_the_start_waits_for_the_first_results_but_not_for_ever(memory) -> None:
    health = checks(memory, Reports())
    await health.checked(1)
    health.watch([server("a", "10.0.0.1", 1), server("b", "10.0.0.1", 2)])
    quick = Deferred.fromCoroutine(health.checked(10))
    for attempt in (0, 1):
        assert not quick.called
        refuse(memory, attempt)
    assert quick.called
    health.watch([server("c", "10.0.0.1", 3)])
    slow = Deferred.fromCoroutine(health.checked(1))
    memory.advance(0.9)
    assert not slow.called
    memory.advance(0.2)
    assert slow.called
    await slow
    await health.stop()
