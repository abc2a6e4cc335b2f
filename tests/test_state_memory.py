"""The shared state in memory: the contract, its bounds and its speed."""

from __future__ import annotations

import pytest
from state_contract import StateContract
from twisted.internet.task import Clock

from flux.backends import memory
from flux.backends.memory import Lapsing, MemoryState
from flux.model.placement import Choice, Lease
from flux.model.sessions import Route


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(1000.0)
    return clock


@pytest.fixture
def state(clock: Clock) -> MemoryState:
    return MemoryState(clock.seconds)


@pytest.fixture
def elapse(clock: Clock):
    async def elapse(seconds: float) -> None:
        clock.advance(seconds)

    return elapse


class TestMemoryState(StateContract):
    pass


def lease(name: str = "a", boot: int = 1) -> Lease:
    return Lease(name=name, boot=boot, host="h", port=1, sessions=0, capacity=0, weight=1, ttl=10)


async def test_failure_counters_are_bounded_and_the_fresh_ones_stay(state, clock, monkeypatch) -> None:
    monkeypatch.setattr(memory, "MOST_COUNTERS", 100)
    for attempt in range(1000):
        await state.fail([f"guess {attempt}", "the victim"], 600)
        clock.advance(0.001)
    counted = await state.failures([f"guess {attempt}" for attempt in range(1000)])
    assert [count for count, _ in counted].count(1) <= 100
    assert counted[-1][0] == 1


async def test_bans_are_bounded_and_the_longest_stay(state, monkeypatch) -> None:
    monkeypatch.setattr(memory, "MOST_BANS", 3)
    for number in range(6):
        await state.offend({f"10.0.0.{number}": 1}, 1, 60, 60 + number)
    assert sorted(await state.banned()) == ["10.0.0.3", "10.0.0.4", "10.0.0.5"]


async def test_what_lapsed_leaves_no_memory_behind(state, clock) -> None:
    for uid in range(1, 2001):
        await state.assign([Choice(uid, f"s{uid}", b"d")], 5, 5)
        await state.fail([f"k{uid}"], 5)
        await state.claim(uid, Route("gone", 1, 1), True)
    await state.renew(lease(), [])
    clock.advance(60)
    await state.renew(lease(boot=2), [])
    await state.assign([Choice(1, "a", b"d")], 5, 5)
    await state.fail(["k"], 5)
    await state.snapshot()
    assert len(state._reservations) == len(state._tokens) == len(state._failures) == 1
    assert state._routes == {}
    assert len(state._reservations._accounts) == 1
    assert state._reservations._marked == {}
    for lapsing in (state._reservations, state._tokens, state._failures):
        assert len(lapsing._heap) <= 70


def test_replacing_one_entry_for_ever_needs_no_memory() -> None:
    lapsing: Lapsing[int, int] = Lapsing()
    for turn in range(100_000):
        lapsing.set(1, turn, 1e9 + turn)
    assert len(lapsing._heap) <= 70
    assert lapsing.get(1, 0) == (1e9 + 99_999, 99_999)


def test_a_leftover_does_not_take_its_replacement_along() -> None:
    lapsing: Lapsing[int, str] = Lapsing()
    lapsing.set(1, "old", 5)
    lapsing.set(1, "new", 9)
    lapsing.purge(6)
    assert lapsing.get(1, 6) == (9, "new")
    lapsing.purge(9)
    assert len(lapsing) == 0
