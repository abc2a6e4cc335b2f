"""What the status service knows of the servers, from leases, the static list and health checks."""

from __future__ import annotations

from typing import Any

import pytest
from status_parts import node, texts
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs

from flux.config import ChatServer
from flux.errors import NotFound
from flux.model.placement import Node, Snapshot
from flux.status.servers import SHOWN_DOWN, Servers

HEARTBEAT = 3.0
LEASE = 10.0


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(1000)
    return clock


@pytest.fixture
def servers(clock: Clock) -> Servers:
    return Servers(clock.seconds, HEARTBEAT, LEASE)


def snapshot(*nodes: Node, draining: tuple[str, ...] = (), since: str = "then", **reserved: int) -> Snapshot:
    return Snapshot(nodes=nodes, reserved=reserved, draining=frozenset(draining), since=since)


def emptied(*nodes: Node, **reserved: int) -> Snapshot:
    """Of a state that has lost everything, and knows these by now."""
    return snapshot(*nodes, since="now", **reserved)


def states(servers: Servers) -> dict[str, str]:
    return {server.name: server.state for server in servers.nodes}


def static(*names: str, **changes: Any) -> tuple[ChatServer, ...]:
    return tuple(ChatServer(name, **({"host": "10.0.0.1", "port": 6000} | changes)) for name in names)


# --- leases ---


def test_leased_servers_are_as_the_snapshot_says(servers) -> None:
    a = node("a", sessions=3, reserved=2, capacity=9, weight=4)
    b = node("b", state="draining")
    servers.adopt(snapshot(a, b, draining=("b",), a=2))
    assert servers.nodes == (a, b)
    assert servers.find("b") == b
    with pytest.raises(NotFound, match="'c'"):
        servers.find("c")


def test_a_server_whose_lease_has_ended_is_down_until_it_is_forgotten(servers, clock) -> None:
    servers.adopt(snapshot(node("a", sessions=5), node("b")))
    clock.advance(2)
    servers.adopt(snapshot(node("b"), a=4))
    assert states(servers) == {"a": "down", "b": "up"}
    gone = servers.find("a")
    assert (gone.sessions, gone.reserved, gone.heartbeat_age) == (0, 4, 2)
    clock.advance(5)
    assert servers.listed()[1].heartbeat_age == 7
    clock.advance(SHOWN_DOWN)
    servers.adopt(snapshot(node("b")))
    assert states(servers) == {"b": "up"}


def test_a_server_that_comes_back_is_up(servers, clock) -> None:
    servers.adopt(snapshot(node("a"), node("b")))
    servers.adopt(snapshot(node("b")))
    servers.adopt(snapshot(node("a", sessions=1), node("b")))
    assert states(servers) == {"a": "up", "b": "up"}
    assert servers.find("a").sessions == 1


def test_nobody_knows_of_a_lease_that_would_have_ended_since(servers, clock) -> None:
    servers.adopt(snapshot(node("a", heartbeat_age=2.0), node("b"), node("c", state="draining")))
    servers.adopt(snapshot(node("a", heartbeat_age=2.0), node("b"), draining=()))
    clock.advance(8)
    assert {each.name: each.state for each in servers.listed()} == {"a": "up", "b": "up", "c": "down"}
    clock.advance(0.1)
    assert {each.name: each.state for each in servers.listed()} == {"a": "unknown", "b": "up", "c": "down"}
    assert servers.age == pytest.approx(8.1)
    servers.adopt(snapshot(node("a"), node("b")))
    assert servers.listed()[0].state == "up"
    assert servers.age == 0


def test_heartbeats_age_between_snapshots(servers, clock) -> None:
    servers.adopt(snapshot(node("a", heartbeat_age=1.5)))
    clock.advance(2)
    assert servers.listed()[0].heartbeat_age == 3.5
    assert servers.nodes[0].heartbeat_age == 1.5


@pytest.mark.parametrize(("step", "stale"), [(0, False), (4.5, False), (4.6, True)])
def test_a_snapshot_grows_stale(servers, clock, step, stale) -> None:
    assert servers.stale
    servers.adopt(snapshot(node("a")))
    clock.advance(step)
    assert servers.stale is stale


# --- an emptied shared state ---


def test_an_emptied_state_does_not_take_the_servers_along(servers, clock) -> None:
    servers.adopt(snapshot(node("a", sessions=10, reserved=2), node("b", sessions=8), a=2))
    servers.adopt(emptied(a=1))
    assert states(servers) == {"a": "up", "b": "up"}
    # Ten sessions, two on their way before and one since.
    assert [server.load for server in servers.nodes] == [13, 8]


def test_servers_that_reported_again_stand_beside_those_that_have_not_yet(servers, clock) -> None:
    servers.adopt(snapshot(node("a", sessions=10), node("b", sessions=8)))
    servers.adopt(emptied())
    clock.advance(1)
    servers.adopt(emptied(node("b", sessions=9)))
    assert {server.name: server.sessions for server in servers.nodes} == {"a": 10, "b": 9}
    clock.advance(1)
    servers.adopt(emptied(node("a", sessions=11), node("b", sessions=9)))
    assert {server.name: server.sessions for server in servers.nodes} == {"a": 11, "b": 9}
    # All are back: whoever leaves now is gone.
    servers.adopt(emptied(node("a", sessions=11)))
    assert states(servers) == {"a": "up", "b": "down"}


def test_servers_that_do_not_report_again_are_down_after_a_late_heartbeat(servers, clock) -> None:
    servers.adopt(snapshot(node("a"), node("b")))
    servers.adopt(emptied())
    clock.advance(1.4 * HEARTBEAT)
    servers.adopt(emptied(node("b")))
    assert states(servers) == {"a": "up", "b": "up"}
    clock.advance(0.2 * HEARTBEAT)
    servers.adopt(emptied(node("b")))
    assert states(servers) == {"a": "down", "b": "up"}


def test_a_state_that_stays_empty_is_believed_after_a_late_heartbeat(servers, clock) -> None:
    servers.adopt(snapshot(node("a")))
    for _ in range(3):
        servers.adopt(emptied())
        assert states(servers) == {"a": "up"}
        clock.advance(0.5 * HEARTBEAT)
    servers.adopt(emptied())
    assert states(servers) == {"a": "down"}
    servers.adopt(emptied())
    assert states(servers) == {"a": "down"}


def test_a_state_that_was_emptied_between_two_looks_is_noticed_by_those_who_have_not_reported_yet(servers) -> None:
    servers.adopt(snapshot(node("a"), node("b")))
    servers.adopt(emptied(node("b")))
    assert states(servers) == {"b": "up", "a": "up"}


def test_all_of_them_stopped_is_no_emptied_state(servers) -> None:
    servers.adopt(snapshot(node("a"), node("b")))
    servers.adopt(snapshot())
    assert states(servers) == {"a": "down", "b": "down"}


def test_a_state_that_does_not_say_since_when_it_is_there_was_not_emptied(servers) -> None:
    servers.adopt(snapshot(node("a")))
    servers.adopt(snapshot(since=""))
    servers.adopt(snapshot(node("a")))
    servers.adopt(snapshot())
    assert states(servers) == {"a": "down"}


def test_remembered_servers_age(servers, clock) -> None:
    servers.adopt(snapshot(node("a", heartbeat_age=1.0)))
    for _ in range(4):
        clock.advance(1)
        servers.adopt(emptied())
    assert servers.listed()[0].heartbeat_age == 5.0


def test_one_server_missing_of_several_is_no_emptied_state(servers) -> None:
    servers.adopt(snapshot(node("a"), node("b")))
    servers.adopt(snapshot(node("b")))
    assert states(servers) == {"a": "down", "b": "up"}


# --- the static list ---


def test_a_static_server_is_down_until_a_check_passes(clock) -> None:
    servers = Servers(clock.seconds, HEARTBEAT, LEASE, static("old", capacity=7, weight=2))
    servers.adopt(snapshot(old=3))
    assert states(servers) == {"old": "down"}
    servers.checked("old", "")
    (old,) = servers.nodes
    assert old == Node("old", "10.0.0.1", 6000, sessions=0, reserved=3, capacity=7, weight=2, heartbeat_age=-1)
    assert servers.listed() == (old,)
    servers.checked("old", "refused")
    assert states(servers) == {"old": "down"}
    servers.checked("old", "")
    assert states(servers) == {"old": "up"}


def test_a_static_server_can_drain(clock) -> None:
    servers = Servers(clock.seconds, HEARTBEAT, LEASE, static("old"))
    servers.checked("old", "")
    servers.adopt(snapshot(draining=("old",)))
    assert states(servers) == {"old": "draining"}
    servers.checked("old", "refused")
    assert states(servers) == {"old": "down"}


def test_a_lease_says_more_than_the_static_list(clock) -> None:
    servers = Servers(clock.seconds, HEARTBEAT, LEASE, static("a"))
    assert not servers.has_lease("a")
    servers.adopt(snapshot(node("a", sessions=4)))
    assert servers.nodes == (node("a", sessions=4),)
    assert servers.has_lease("a")


def test_a_static_server_whose_lease_has_ended_is_down_whatever_a_check_says(clock) -> None:
    servers = Servers(clock.seconds, HEARTBEAT, LEASE, static("a"))
    servers.adopt(snapshot(node("a"), node("b")))
    servers.adopt(snapshot(node("b")))
    servers.checked("a", "")
    assert states(servers) == {"a": "down", "b": "up"}
    assert servers.has_lease("a")


def test_the_static_list_may_change(clock) -> None:
    servers = Servers(clock.seconds, HEARTBEAT, LEASE, static("a", "b"))
    for name in ("a", "b"):
        servers.checked(name, "")
    servers.configure((*static("a"), *static("b", port=6001), *static("c")))
    # a is where it was; what is known of b was about another port.
    assert states(servers) == {"a": "up", "b": "down", "c": "down"}
    servers.configure(())
    assert servers.nodes == ()
    servers.checked("a", "")
    assert servers.nodes == ()


def test_another_entry_of_the_static_list_makes_a_server_a_static_one_again(clock) -> None:
    servers = Servers(clock.seconds, HEARTBEAT, LEASE, static("a"))
    servers.adopt(snapshot(node("a"), node("b")))
    servers.adopt(snapshot(node("b")))
    servers.configure(static("a", port=6001))
    servers.checked("a", "")
    assert states(servers)["a"] == "up"


# --- the log ---


def test_each_change_is_logged_once(clock) -> None:
    servers = Servers(clock.seconds, HEARTBEAT, LEASE, static("old"))
    with capturedLogs() as logged:
        for _ in range(3):
            servers.adopt(snapshot(node("a"), node("b")))
        for _ in range(3):
            servers.adopt(snapshot(node("b", state="draining"), draining=("b",)))
        servers.adopt(snapshot(node("a"), node("b")))
        for problem in ("refused", "timeout", "", ""):
            servers.checked("old", problem)
    assert texts(logged) == [
        "chat server a at a.example:8090 is up",
        "chat server b at b.example:8090 is up",
        "chat server b at b.example:8090 is draining",
        "chat server a at a.example:8090 has stopped",
        "chat server a at a.example:8090 is up",
        "chat server b at b.example:8090 is up",
        "chat server old at 10.0.0.1:6000 is down: refused",
        "chat server old at 10.0.0.1:6000 is up",
    ]
    assert [event["log_level"] for event in logged if "down" in texts([event])[0]] == [LogLevel.warn]


def test_the_log_tells_a_stop_from_a_death_and_from_a_state_that_was_emptied(servers, clock) -> None:
    def logged(*looks: Snapshot) -> list[tuple[LogLevel, str]]:
        with capturedLogs() as events:
            for each in looks:
                servers.adopt(each)
        return [(event["log_level"], text) for event, text in zip(events, texts(events), strict=True)]

    logged(snapshot(node("a", heartbeat_age=2.5), node("b", state="draining"), node("c"), draining=("b",)))
    clock.advance(HEARTBEAT)
    assert logged(snapshot(node("a", heartbeat_age=5.5), node("c"))) == [
        (LogLevel.info, "chat server b at b.example:8090 has stopped")
    ]
    clock.advance(4.6)
    dead = "chat server a at a.example:8090 is down: its lease has lapsed, last heartbeat 10 s ago"
    assert logged(snapshot(node("c")), snapshot(node("c"))) == [(LogLevel.warn, dead)]
    clock.advance(HEARTBEAT)
    assert logged(emptied(), emptied()) == [
        (
            LogLevel.warn,
            "the shared state was emptied, or has come back without its data: it knows 0 of 1 chat servers; "
            "the others are remembered for 4.5 s, until they report again",
        )
    ]
    clock.advance(2 * HEARTBEAT)
    missing = "chat server c at c.example:8090 is down: it has not reported since the shared state was emptied"
    assert logged(emptied(), emptied()) == [(LogLevel.warn, missing)]


@pytest.mark.parametrize("elapsed", [9.1, 24.0])
def test_a_server_that_went_while_nobody_looked_may_have_stopped(servers, clock, elapsed) -> None:
    """As a chat server looks at the others: now and then, when an admin asks it."""
    servers.adopt(snapshot(node("a", heartbeat_age=1.0)))
    clock.advance(elapsed)
    with capturedLogs() as events:
        servers.adopt(snapshot())
    assert texts(events) == [
        "chat server a at a.example:8090 is down: it has stopped, or died, while the shared state was not looked at"
    ]
    assert events[0]["log_level"] == LogLevel.info


def test_a_server_that_went_between_two_looks_has_died(clock) -> None:
    """Its last heartbeat was not late yet at the look before, where heartbeats are as rare as they may be."""
    servers = Servers(clock.seconds, LEASE / 2, LEASE)
    servers.adopt(snapshot(node("a", heartbeat_age=6.0)))
    clock.advance(5)
    with capturedLogs() as events:
        servers.adopt(snapshot())
    assert texts(events)[0].endswith("is down: its lease has lapsed, last heartbeat 11 s ago")
