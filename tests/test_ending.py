"""Ending an account's session: what is said of it, and when a higher session number is its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from scripted_server import result, start
from status_parts import lease
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from flux.backends.memory import MemoryState
from flux.ending import GONE_WITHIN, LOOK_EVERY, Ended, end_session
from flux.errors import Unavailable
from flux.model.sessions import Route

UID, NUMBER = 22, 7
HERE = Route("chat1", 1, NUMBER)
LEASE = 10.0


class Cluster:
    """A shared state in which ``chat1`` has the session; what the bus is to bring is for the test.

    :ivar told: the nodes that were told to end it.
    :ivar opened: the accounts that got a higher session number.
    :ivar tell: called when a node is told.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.state = MemoryState(self.clock.seconds)
        self.told: list[str] = []
        self.opened: list[int] = []
        self.tell: Callable[[], object] = lambda: None
        for name in ("chat1", "chat2"):
            result(self.state.renew(lease(name), []))
        result(self.state.claim(UID, HERE, True))

    def open_session(self, uid: int) -> Awaitable[int]:
        self.opened.append(uid)
        return succeed(NUMBER + 5)

    def publish(self, node: str, boot: int, event: Any) -> Awaitable[None]:
        self.told.append(node)
        self.tell()
        return succeed(None)

    def end(self) -> Deferred[Ended]:
        # This is all of a store and a bus that it needs.
        return start(end_session(self, self.state, self, self.clock, UID, "admin", "banned"))  # type: ignore[arg-type]

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / LOOK_EVERY) + 1):
            self.clock.advance(LOOK_EVERY)

    def renew(self, name: str, *routes: tuple[int, int]) -> None:
        result(self.state.renew(lease(name), routes))


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_a_route_that_its_node_gives_up_is_the_end(cluster: Cluster) -> None:
    ending = cluster.end()
    cluster.pass_time(1)
    assert not ending.called
    result(cluster.state.release(UID, HERE))
    cluster.pass_time(0)
    assert result(ending) == Ended("ended", True)
    assert (cluster.told, cluster.opened) == (["chat1"], [])


def test_a_node_whose_lease_ends_meanwhile_may_have_the_session_still(cluster: Cluster) -> None:
    """It is cut off from the shared state, with its client connected; when the link is back so is the route."""
    cluster.pass_time(LEASE - 2)
    cluster.renew("chat2")
    ending = cluster.end()
    cluster.pass_time(GONE_WITHIN)
    assert result(ending) == Ended("ending", True)
    assert cluster.opened == [UID]
    cluster.renew("chat1", (UID, NUMBER))
    assert result(cluster.state.routes([UID])) == {UID: HERE}


def test_who_logs_in_elsewhere_meanwhile_is_left_alone(cluster: Cluster) -> None:
    cluster.pass_time(LEASE - 2)
    cluster.renew("chat2")
    cluster.tell = lambda: result(cluster.state.claim(UID, Route("chat2", 1, NUMBER + 1), True))
    assert result(cluster.end()) == Ended("ended", True)
    assert cluster.opened == []


def test_a_lease_that_comes_back_brings_the_route(cluster: Cluster) -> None:
    """Between two looks: the route was hidden, and the lease is there again."""
    cluster.pass_time(LEASE - 2)
    ending = cluster.end()
    snapshot = cluster.state.snapshot

    async def renewed() -> Any:
        cluster.renew("chat1", (UID, NUMBER))
        return await snapshot()

    cluster.state.snapshot = renewed  # type: ignore[method-assign] - at this very moment
    cluster.pass_time(2)
    assert not ending.called
    cluster.pass_time(1)
    assert result(ending) == Ended("ending", True)
    assert cluster.opened == [UID]


def test_a_node_that_does_nothing_is_not_waited_for_long(cluster: Cluster) -> None:
    ending = cluster.end()
    cluster.pass_time(GONE_WITHIN)
    assert result(ending) == Ended("ending", True)
    assert cluster.opened == [UID]


def test_nobody_knows_of_a_session(cluster: Cluster) -> None:
    result(cluster.state.release(UID, HERE))
    assert result(cluster.end()) == Ended("offline", True)
    assert (cluster.told, cluster.opened) == ([], [UID])


def test_the_shared_state_goes_away_meanwhile(cluster: Cluster) -> None:
    ending = cluster.end()

    async def away(uids: object) -> Any:
        raise Unavailable("Redis does not answer")

    cluster.state.routes = away  # type: ignore[method-assign] - a fault
    cluster.pass_time(0)
    assert result(ending) == Ended("ending", True, "Redis does not answer")
    assert cluster.opened == [UID]
