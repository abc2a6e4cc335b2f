"""The status service as a whole: start, reload, draining, tokens, and a shared state that goes away and returns."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from prometheus_client import CollectorRegistry
from status_parts import HeldState, lease, settings, settled, texts
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import LogLevel, capturedLogs

from flux.config import ChatServer, Settings
from flux.errors import NotFound, TokenInvalid, Unavailable
from flux.metrics import StatusMetrics
from flux.status.service import StatusService


class Running:
    """A status service on a simulated reactor."""

    def __init__(self, configured: Settings) -> None:
        self.reactor = MemoryReactorClock()
        self.state = HeldState(self.reactor.seconds)
        self.service = StatusService(configured, self.state, self.reactor, random.Random(1))

    async def assign(self, *uids: int) -> list[str]:
        answer = self.service.placement.assign(uids)
        settled(self.reactor)
        return [assignment.server for assignment in await answer]

    def states(self) -> dict[str, str]:
        return {server.name: server.state for server in self.service.servers()}

    def answer_check(self, port: int, accepts: bool) -> None:
        """The newest health check of ``port`` succeeds or fails."""
        tried = [position for position, client in enumerate(self.reactor.tcpClients) if client[1] == port]
        factory = self.reactor.tcpClients[tried[-1]][2]
        if accepts:
            factory.buildProtocol(None).makeConnection(StringTransport())
        else:
            factory.clientConnectionFailed(self.reactor.connectors[tried[-1]], Refused())
        self.reactor.advance(0.3)


@pytest_twisted.async_yield_fixture
async def run() -> AsyncIterator[Any]:
    running: list[Running] = []

    def run(**configured: Any) -> Running:
        running.append(Running(settings(**configured)))
        return running[-1]

    yield run
    for one in running:
        await one.service.stop()
        assert one.reactor.getDelayedCalls() == []


OLD = ChatServer("old", host="10.0.0.1", port=6001)
OTHER = ChatServer("other", host="10.0.0.1", port=6002)


async def test_started_it_knows_the_servers_and_keeps_looking(run) -> None:
    one = run()
    await one.state.renew(lease("a", sessions=3), [])
    await one.service.start()
    assert one.states() == {"a": "up"}
    await one.state.renew(lease("a", sessions=9), [])
    one.reactor.advance(3.1)
    assert one.service.servers()[0].sessions == 9
    one.reactor.advance(3.1)
    assert one.states() == {"a": "up"}
    one.reactor.advance(3.1)
    one.reactor.advance(3.1)
    assert one.states() == {"a": "down"}


async def test_it_does_not_start_without_the_shared_state(run) -> None:
    one = run()
    one.state.problem = Unavailable("away")
    with pytest.raises(Unavailable, match="away"):
        await one.service.start()


async def test_a_start_that_is_cancelled_leaves_nothing_running(run) -> None:
    one = run(chatservers=[OLD])
    starting = Deferred.fromCoroutine(one.service.start())
    assert one.reactor.getDelayedCalls() != []
    starting.cancel()
    with pytest.raises(CancelledError):
        await starting
    assert one.reactor.getDelayedCalls() == []


def test_a_balancer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="no balancer is called 'best'"):
        Running(settings(status={"balancer": "best"}))


# --- the static list ---


async def test_static_servers_are_given_once_their_check_has_passed(run) -> None:
    one = run(chatservers=[OLD, OTHER])
    starting = Deferred.fromCoroutine(one.service.start())
    one.answer_check(6001, accepts=False)
    assert not starting.called
    one.answer_check(6002, accepts=True)
    await starting
    assert one.states() == {"old": "down", "other": "up"}
    assert await one.assign(1, 2, 3) == ["other"] * 3
    one.reactor.advance(5.6)
    one.answer_check(6001, accepts=True)
    one.answer_check(6002, accepts=False)
    assert one.states() == {"old": "up", "other": "down"}
    assert await one.assign(4) == ["old"]


async def test_reservations_are_the_load_of_a_static_server_until_it_reports(run) -> None:
    one = run(chatservers=[OLD, OTHER])
    starting = Deferred.fromCoroutine(one.service.start())
    one.answer_check(6001, accepts=True)
    one.answer_check(6002, accepts=True)
    await starting
    given = await one.assign(*range(1, 11))
    assert given.count("old") == given.count("other") == 5
    assert [server.reserved for server in one.service.servers()] == [5, 5]
    await one.state.renew(lease("old", sessions=20), [])
    one.reactor.advance(3.1)
    assert await one.assign(*range(11, 21)) == ["other"] * 10


async def test_a_reload_changes_the_list_the_checks_and_the_tokens(run) -> None:
    one = run(chatservers=[OLD])
    starting = Deferred.fromCoroutine(one.service.start())
    one.answer_check(6001, accepts=True)
    await starting
    one.service.reload(
        settings(chatservers=[OTHER], status={"check_interval": 1.0, "check_timeout": 0.5, "token_ttl": 60.0})
    )
    assert one.states() == {"other": "down"}
    one.answer_check(6002, accepts=True)
    assert await one.assign(1) == ["other"]
    attempts = len(one.reactor.tcpClients)
    one.reactor.advance(1.2)
    assert len(one.reactor.tcpClients) == attempts + 1
    one.reactor.advance(0.6)
    assert one.states() == {"other": "down"}
    one.reactor.advance(61)
    assert await one.state.token_digest(1) is None


async def test_assignments_are_told_where_the_level_shows_them(run) -> None:
    one = run(log={"level": "warn"})
    await one.state.renew(lease("a"), [])
    await one.service.start()
    with capturedLogs() as logged:
        await one.assign(1)
        one.service.reload(settings(log={"level": "info"}))
        await one.assign(2)
        one.service.reload(settings(log={"level": "error"}))
        await one.assign(3)
    assert [event["uid"] for event in logged if "is assigned" in event["log_format"]] == [2]


# --- the balancer ---


async def test_a_reload_changes_the_balancer(run) -> None:
    one = run()
    await one.state.renew(lease("a", sessions=100), [])
    await one.state.renew(lease("b"), [])
    await one.service.start()
    assert await one.assign(1, 2) == ["b", "b"]
    with capturedLogs() as logged:
        one.service.reload(settings(status={"balancer": "round_robin"}))
    assert texts(logged) == ["balancing by round_robin instead of least_connections"]
    assert sorted(await one.assign(3, 4)) == ["a", "b"]


async def test_a_reload_with_a_wrong_balancer_keeps_the_old_one(run, flush_logged_errors) -> None:
    one = run()
    await one.state.renew(lease("a", sessions=100), [])
    await one.state.renew(lease("b"), [])
    await one.service.start()
    one.service.reload(settings(status={"balancer": "no.such.thing", "token_ttl": 60.0}))
    (event,) = flush_logged_errors()
    assert texts([event]) == [
        "still balancing by least_connections: no.such.thing: cannot import 'no.such': No module named 'no'"
    ]
    assert await one.assign(1, 2) == ["b", "b"]
    one.service.reload(settings(status={"balancer": "least_connections"}))
    one.service.reload(settings(status={"balancer": "status_parts.First"}))
    assert await one.assign(3) == ["a"]


async def test_a_reload_that_changes_nothing_says_nothing(run) -> None:
    one = run(chatservers=[OLD])
    with capturedLogs() as logged:
        one.service.reload(settings(chatservers=[OLD]))
    assert logged == []
    assert one.reactor.tcpClients == []


# --- draining and tokens ---


async def test_a_draining_server_gets_nobody_and_resumes(run) -> None:
    one = run()
    for name in ("a", "b"):
        await one.state.renew(lease(name), [])
    await one.service.start()
    assert (await one.service.drain("a", True)).state == "draining"
    assert one.states() == {"a": "draining", "b": "up"}
    assert await one.assign(1, 2, 3) == ["b"] * 3
    assert (await one.state.renew(lease("a"), [])).draining
    assert (await one.service.drain("a", False)).state == "up"
    assert await one.assign(4, 5) == ["a", "a"]
    with pytest.raises(NotFound):
        await one.service.drain("c", True)
    assert (await one.state.snapshot()).draining == frozenset()


async def test_a_server_that_has_ended_is_not_drained_and_can_be_resumed(run) -> None:
    one = run()
    for name in ("a", "b"):
        await one.state.renew(lease(name), [])
    await one.service.start()
    await one.state.retire("a", 1)
    assert (await one.service.drain("a", True)).state == "down"
    assert (await one.state.snapshot()).draining == frozenset()
    # As it is left behind by a process that was killed while it was draining.
    await one.state.drain("a", True)
    assert (await one.service.drain("a", False)).state == "down"
    assert (await one.state.snapshot()).draining == frozenset()


async def test_a_token_is_verified_until_it_expires_or_is_revoked(run) -> None:
    one = run(status={"token_ttl": 600.0})
    await one.state.renew(lease("a"), [])
    await one.service.start()
    answer = one.service.placement.assign([7])
    settled(one.reactor)
    token = (await answer)[0].token
    await one.service.verify(7, token)
    await one.service.verify(7, token)
    for uid, wrong in ((7, token[:-1]), (7, ""), (8, token), (7, token.swapcase())):
        with pytest.raises(TokenInvalid):
            await one.service.verify(uid, wrong)
    await one.state.revoke(7)
    with pytest.raises(TokenInvalid):
        await one.service.verify(7, token)


# --- a shared state that goes away ---


async def test_an_outage_of_the_state_is_logged_once_and_ends(run) -> None:
    one = run()
    await one.state.renew(lease("a", ttl=100.0), [])
    await one.service.start()
    one.state.problem = Unavailable("no connection")
    with capturedLogs() as logged:
        for _ in range(5):
            one.reactor.advance(3.1)
        with pytest.raises(Unavailable):
            await one.assign(1)
        one.state.problem = None
        for _ in range(3):
            one.reactor.advance(3.1)
    told = [event for event in logged if event["log_level"] is not LogLevel.debug]
    assert texts(told) == [
        "the loads of the chat servers cannot be read: no connection",
        "the loads of the chat servers are read again, after 15.5 s",
    ]
    assert await one.assign(1) == ["a"]


async def test_a_long_heartbeat_makes_reservations_hold_longer(run) -> None:
    one = run(status={"heartbeat": 60.0, "lease": 200.0})
    await one.state.renew(lease("a", ttl=200.0), [])
    await one.service.start()
    await one.assign(1)
    one.reactor.advance(100)
    assert (await one.state.snapshot()).reserved == {"a": 1}
    one.reactor.advance(21)
    assert (await one.state.snapshot()).reserved == {}


async def test_a_server_whose_lease_cannot_be_read_any_more_is_not_measured_as_up(run) -> None:
    registry = CollectorRegistry()
    one = run()
    one.service = StatusService(
        settings(), one.state, one.reactor, random.Random(1), metrics=StatusMetrics(registry)
    )  # fmt: skip
    await one.state.renew(lease("a"), [])
    await one.state.renew(lease("b"), [])
    await one.state.drain("b", True)
    await one.service.start()
    one.state.problem = Unavailable("the shared state is away")

    def measured(what: str) -> list[float | None]:
        return [registry.get_sample_value(f"flux_server_{what}", {"server": name}) for name in ("a", "b")]

    one.reactor.pump([3.0] * 3)
    assert (measured("up"), measured("draining")) == ([1, 0], [0, 1])
    one.reactor.advance(3.0)
    assert (measured("up"), measured("draining")) == ([0, 0], [0, 0])
