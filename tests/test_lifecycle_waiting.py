"""Deadlines, pauses before retries, several waits at once, and turns."""

from __future__ import annotations

import random
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.python.failure import Failure

from flux.lifecycle import Abandoned, DeadlineExceeded, Deadlines, Slots, at_most, backoff, insulated, together, within

log = Logger()


def pending(d: Deferred[Any]) -> bool:
    return not d.called


@pytest.mark.parametrize("kind", ["deferred", "coroutine"])
async def test_within_hands_over_results_and_errors(kind: str) -> None:
    async def wait(d: Deferred[int]) -> int:
        return await d

    def make(d: Deferred[int]) -> Awaitable[int]:
        return d if kind == "deferred" else wait(d)

    clock = Clock()
    assert await within(5, make(succeed(3)), clock, "it") == 3
    with pytest.raises(ZeroDivisionError):
        await within(5, make(fail(ZeroDivisionError())), clock, "it")
    assert clock.getDelayedCalls() == []


async def test_within_cancels_what_takes_too_long() -> None:
    clock, cancelled = Clock(), []
    waiting = Deferred.fromCoroutine(within(5, Deferred(cancelled.append), clock, "the store"))
    clock.advance(4.9)
    assert pending(waiting)
    clock.advance(0.1)
    with pytest.raises(DeadlineExceeded, match=r"^the store: nothing after 5 s$"):
        await waiting
    assert len(cancelled) == 1
    assert issubclass(DeadlineExceeded, TimeoutError)


async def test_a_cancelled_wait_is_not_a_missed_deadline() -> None:
    clock = Clock()
    waiting = Deferred.fromCoroutine(within(5, Deferred(), clock, "it"))
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting
    assert clock.getDelayedCalls() == []


async def stubborn(until: Deferred[None]) -> None:
    """Goes on for all cancellations."""
    while not until.called:
        with suppress(CancelledError):
            await Deferred()


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("outcome", ["a result", "an error"])
async def test_who_ignores_its_cancellation_is_left_behind(cancelled: bool, outcome: str) -> None:
    clock, end, ended = Clock(), Deferred[None](), []

    async def work() -> None:
        await stubborn(end)
        ended.append(1)
        if outcome == "an error":
            raise KeyError

    working = Deferred.fromCoroutine(work())
    waiting = Deferred.fromCoroutine(at_most(5, working, clock, "the store"))
    if cancelled:
        waiting.cancel()
    else:
        clock.advance(5)
    with pytest.raises(CancelledError if cancelled else DeadlineExceeded):
        await waiting
    assert (ended, clock.getDelayedCalls()) == ([], [])
    end.callback(None)
    working.cancel()
    assert ended == [1]


async def test_who_is_in_time_or_ends_when_told_to_is_not_left_behind() -> None:
    clock, cancelled = Clock(), []
    assert await at_most(5, succeed(3), clock, "it") == 3
    with pytest.raises(KeyError):
        await at_most(5, fail(KeyError("none")), clock, "it")
    waiting = Deferred.fromCoroutine(at_most(5, Deferred(cancelled.append), clock, "it"))
    clock.advance(5)
    with pytest.raises(DeadlineExceeded, match=r"^it: nothing after 5 s$"):
        await waiting
    assert len(cancelled) == 1


def test_deadlines_share_a_timer_and_only_what_is_still_running_is_late() -> None:
    clock = Clock()
    ended: set[str] = set()
    late: list[tuple[float, str]] = []
    deadlines = Deadlines[str](clock, ended.__contains__, lambda what: late.append((clock.seconds(), what)))
    deadlines.add(3, "slow")
    deadlines.add(3, "quick")
    deadlines.add(1, "first")
    ended.add("quick")
    assert len(clock.getDelayedCalls()) == 1
    clock.advance(1)
    assert late == [(1, "first")]
    deadlines.add(4, "last")
    clock.pump([1] * 5)
    assert late == [(1, "first"), (3, "slow"), (5, "last")]
    assert clock.getDelayedCalls() == []


def test_an_end_frees_what_had_a_deadline_before_it_is_due() -> None:
    clock = Clock()
    ended: set[int] = set()
    deadlines = Deadlines[int](clock, ended.__contains__, lambda what: None)
    for number in range(1000):
        deadlines.add(10, number)
        ended.add(number)
    assert len(deadlines) == 1
    deadlines.stop()
    assert len(deadlines) == 0
    assert clock.getDelayedCalls() == []


def test_where_telling_of_one_fails_the_others_are_told() -> None:
    clock = Clock()
    late: list[str] = []

    def told(what: str) -> None:
        late.append(what)
        if what == "first":
            raise ZeroDivisionError

    deadlines = Deadlines[str](clock, late.__contains__, told)
    for what in ("first", "second"):
        deadlines.add(1, what)
    with pytest.raises(ZeroDivisionError):
        clock.advance(1)
    clock.advance(0)
    assert late == ["first", "second"]


def test_one_who_is_late_may_add_deadlines_and_end_others() -> None:
    clock = Clock()
    ended: set[str] = set()
    late: list[str] = []

    def told(what: str) -> None:
        late.append(what)
        if what == "first":
            ended.add("second")
            deadlines.add(0, "at once")

    deadlines = Deadlines[str](clock, ended.__contains__, told)
    for what in ("first", "second", "third"):
        deadlines.add(1, what)
    clock.advance(1)
    clock.advance(0)
    assert late == ["first", "third", "at once"]


def test_backoff_doubles_to_a_maximum_and_is_jittered() -> None:
    waits = backoff(0.1, 2, random.Random(7))
    for ceiling in (0.1, 0.2, 0.4, 0.8, 1.6, 2, 2, 2):
        assert ceiling / 2 <= next(waits) <= ceiling
    assert len({next(waits) for _ in range(20)}) == 20


@pytest.mark.parametrize("late", [False, True])
async def test_a_cancellation_of_something_else_is_not_the_waiters(late: bool) -> None:
    outer: Deferred[int] = Deferred()
    if not late:
        outer.cancel()
    waiting = Deferred.fromCoroutine(insulated(outer))
    if late:
        outer.cancel()
    with pytest.raises(Abandoned):
        await waiting
    assert await insulated(succeed(3)) == 3
    with pytest.raises(KeyError):
        await insulated(fail(KeyError("none")))


@pytest.mark.parametrize("answers", ["cancelled", "a result", "an error"])
async def test_who_is_cancelled_itself_hears_that_when_the_work_has_ended(answers: str) -> None:
    cleaned: Deferred[None] = Deferred()

    async def work() -> int:
        try:
            return await Deferred()
        except CancelledError:
            await cleaned
            if answers == "cancelled":
                raise
            if answers == "an error":
                raise KeyError from None
            return 1

    heard: list[object] = []
    waiting = Deferred.fromCoroutine(insulated(work())).addBoth(heard.append)
    waiting.cancel()
    assert not heard
    cleaned.callback(None)
    [failure] = heard
    assert isinstance(failure, Failure)
    assert failure.check(CancelledError)


async def test_together_waits_for_all_and_keeps_their_order() -> None:
    first: Deferred[int] = Deferred()
    second: Deferred[int] = Deferred()
    both = Deferred.fromCoroutine(together([first, second]))
    second.callback(2)
    assert pending(both)
    first.callback(1)
    assert await both == [1, 2]
    assert await together([]) == []


async def test_together_raises_a_failure_when_all_has_ended() -> None:
    slow: Deferred[int] = Deferred()
    both = Deferred.fromCoroutine(together([fail(ZeroDivisionError()), slow]))
    assert pending(both)
    slow.callback(1)
    with pytest.raises(ZeroDivisionError):
        await both


async def test_together_is_cancelled_as_a_whole() -> None:
    one: Deferred[int] = Deferred()
    other: Deferred[int] = Deferred()
    both = Deferred.fromCoroutine(together([one, other]))
    both.cancel()
    with pytest.raises(CancelledError):
        await both
    assert one.called
    assert other.called


async def test_so_many_work_at_once_and_how_many_may_change() -> None:
    slots, working = Slots(2), []

    async def work(name: str) -> None:
        await slots.acquire()
        working.append(name)

    running = [Deferred.fromCoroutine(work(name)) for name in "abcdef"]
    assert (working, slots.waiting) == (["a", "b"], 4)
    slots.resize(3)
    assert (working, slots.waiting) == (["a", "b", "c"], 3)
    slots.resize(1)
    for _ in range(2):
        slots.release()
        assert len(working) == 3
    running[3].addErrback(lambda failure: failure.trap(CancelledError))
    running[3].cancel()
    slots.release()
    assert (working, slots.waiting) == (["a", "b", "c", "e"], 1)
    slots.release()
    assert working[-1] == "f"


async def test_thousands_who_are_through_at_once_lose_no_turn() -> None:
    slots, through = Slots(2), []

    async def work(number: int) -> None:
        await slots.acquire()
        try:
            through.append(number)
        finally:
            slots.release()

    for _ in range(2):
        await slots.acquire()
    running = [Deferred.fromCoroutine(work(number)) for number in range(5_000)]
    slots.release()
    slots.release()
    assert all(each.called for each in running)
    assert through == list(range(5_000))
    await slots.acquire()
    await slots.acquire()
