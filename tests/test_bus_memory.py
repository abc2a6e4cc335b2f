"""The bus in memory: the contract, its bound, and what a failing listener does to the others."""

from __future__ import annotations

import pytest
from bus_contract import BusContract, Recorder, kick
from twisted.internet.task import Clock

from flux.backends.memory import MemoryBus, MemoryState


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> MemoryState:
    return MemoryState(clock.seconds)


@pytest.fixture
def bus(clock: Clock, state: MemoryState) -> MemoryBus:
    return MemoryBus(clock, state, limit=1000)


@pytest.fixture
def other_bus(bus: MemoryBus) -> MemoryBus:
    return bus


@pytest.fixture
def settle(clock: Clock):
    async def settle() -> None:
        clock.advance(0)

    return settle


class TestMemoryBus(BusContract):
    async def test_nothing_arrives_in_the_turn_it_was_published(self, bus, clock) -> None:
        sink = Recorder()
        await bus.listen("a", 1, sink)
        await bus.publish("a", 1, kick(1))
        assert sink.seen == []
        clock.advance(0)
        assert sink.seen == ["gap", kick(1)]

    async def test_a_full_queue_drops_and_tells_of_the_gap_once(self, bus, clock) -> None:
        full, other = Recorder(), Recorder()
        await bus.listen("full", 1, full)
        await bus.listen("other", 1, other)
        clock.advance(0)
        for uid in range(1, 1011):
            await bus.publish("full", 1, kick(uid))
        await bus.publish("other", 1, kick(1))
        clock.advance(0)
        assert full.seen == ["gap", "gap", *[kick(uid) for uid in range(1, 1001)]]
        assert other.seen == ["gap", kick(1)]
        await bus.publish("full", 1, kick(5000))
        clock.advance(0)
        assert full.seen[-1] == kick(5000)
        assert full.seen.count("gap") == 2

    async def test_a_failing_listener_is_logged_and_stops_nobody(self, bus, clock, flush_logged_errors) -> None:
        class Broken(Recorder):
            def deliver(self, event) -> None:
                super().deliver(event)
                raise RuntimeError("broken sink")

        broken, other = Broken(), Recorder()
        await bus.listen("broken", 1, broken)
        await bus.listen("other", 1, other)
        for uid in (1, 2):
            await bus.broadcast(kick(uid))
        clock.advance(0)
        assert broken.events == other.events == [kick(1), kick(2)]
        assert [event["node"] for event in flush_logged_errors(RuntimeError)] == ["broken", "broken"]

    async def test_stop_leaves_no_delayed_call(self, bus, clock) -> None:
        await bus.listen("a", 1, Recorder())
        await bus.publish("a", 1, kick(1))
        await bus.stop()
        assert clock.getDelayedCalls() == []
