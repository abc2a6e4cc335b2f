"""Coroutines that nobody awaits, deadlines, retries, repetition, and stages."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import Logger, capturedLogs, formatEvent
from twisted.python.failure import Failure

from flux.lifecycle import (
    Abandoned,
    CannotStart,
    DeadlineExceeded,
    Outage,
    Slots,
    Stage,
    Stages,
    Tasks,
    backoff,
    every,
    insulated,
    monotonic,
    sleep,
    spawn,
    together,
    within,
)

log = Logger()


def pending(d: Deferred[Any]) -> bool:
    return not d.called


# --- spawn and Tasks ---------------------------------------------------------


async def test_spawn_hands_over_the_result() -> None:
    async def work() -> int:
        return 7

    assert await spawn(work(), "work", log) == 7


async def test_spawn_logs_a_failure_once_with_what_it_was(flush_logged_errors: Any) -> None:
    async def work() -> None:
        raise ZeroDivisionError

    assert await spawn(work(), "dividing", log) is None
    [event] = flush_logged_errors(ZeroDivisionError)
    assert (event["what"], event["log_namespace"]) == ("dividing", log.namespace)


async def test_cancelling_what_was_spawned_raises_where_it_waits() -> None:
    seen = []

    async def work() -> None:
        try:
            await Deferred()
        except CancelledError:
            seen.append("cancelled")
            raise

    task = spawn(work(), "work", log)
    task.cancel()
    assert await task is None
    assert seen == ["cancelled"]


async def test_tasks_are_gone_when_the_owner_has_stopped() -> None:
    tasks, cleaned = Tasks(log), Deferred[None]()

    async def work() -> None:
        try:
            await Deferred()
        finally:
            await cleaned

    tasks.spawn(work(), "work")
    tasks.spawn(sleep(1, clock := Clock()), "sleeping")
    assert len(tasks) == 2
    stopped = Deferred.fromCoroutine(tasks.stop())
    assert (len(tasks), pending(stopped), clock.getDelayedCalls()) == (1, True, [])
    cleaned.callback(None)
    await stopped
    assert len(tasks) == 0


async def test_tasks_forget_what_has_ended(flush_logged_errors: Any) -> None:
    tasks, answer = Tasks(log), Deferred[None]()

    async def work() -> None:
        await answer
        raise KeyError("x")

    async def quick() -> None:
        return

    tasks.spawn(work(), "work")
    tasks.spawn(quick(), "quick work")
    assert len(tasks) == 1
    answer.callback(None)
    assert len(tasks) == 0
    assert len(flush_logged_errors(KeyError)) == 1
    await tasks.stop()


async def test_nothing_starts_after_the_owner_has_stopped() -> None:
    tasks, ran = Tasks(log), []

    async def work() -> None:
        ran.append(1)

    await tasks.stop()
    tasks.spawn(work(), "late work").cancel()
    assert (ran, len(tasks)) == ([], 0)


# --- within, backoff, every --------------------------------------------------


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


def test_backoff_doubles_to_a_maximum_and_is_jittered() -> None:
    waits = backoff(0.1, 2, random.Random(7))
    for ceiling in (0.1, 0.2, 0.4, 0.8, 1.6, 2, 2, 2):
        assert ceiling / 2 <= next(waits) <= ceiling
    assert len({next(waits) for _ in range(20)}) == 20


class Runs:
    """A function for ``every`` whose runs end when told."""

    def __init__(self) -> None:
        self.running: list[Deferred[None]] = []
        self.count = 0

    async def __call__(self) -> None:
        self.count += 1
        self.running.append(Deferred())
        await self.running[-1]
        self.running.pop()


async def test_every_never_overlaps_and_pauses_after_each_run() -> None:
    clock, runs, tasks = Clock(), Runs(), Tasks(log)
    tasks.spawn(every(5, runs, clock, "checking", log), "checks")
    clock.advance(60)
    assert runs.count == 1
    runs.running[0].callback(None)
    clock.advance(4.9)
    assert runs.count == 1
    clock.advance(0.1)
    assert runs.count == 2
    await tasks.stop()
    clock.advance(60)
    assert (runs.count, len(tasks)) == (2, 0)


async def test_every_stops_during_its_pause() -> None:
    clock, tasks, count = Clock(), Tasks(log), []

    async def run() -> None:
        count.append(1)

    tasks.spawn(every(lambda: 1 + len(count), run, clock, "checking", log), "checks")
    clock.advance(2)
    clock.advance(2.9)
    assert len(count) == 2
    clock.advance(0.1)
    assert len(count) == 3
    await tasks.stop()
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("error", [KeyError, CancelledError])
@pytest.mark.parametrize("late", [False, True])
async def test_a_failed_run_is_logged_and_the_next_one_comes(
    error: type[Exception], late: bool, flush_logged_errors: Any
) -> None:
    clock, tasks, waits = Clock(), Tasks(log), []

    async def run() -> None:
        waits.append(Deferred[None]())
        if late:
            await waits[-1]
        raise error

    tasks.spawn(every(1, run, clock, "checking", log), "checks")
    waits[0].callback(None)
    logged = Abandoned if error is CancelledError else error
    [event] = flush_logged_errors(logged)
    assert event["what"] == "checking"
    clock.advance(1)
    assert len(waits) == 2
    waits[1].callback(None)
    flush_logged_errors(logged)
    await tasks.stop()


async def test_every_ends_only_when_its_run_has_ended() -> None:
    clock, tasks, cleaned = Clock(), Tasks(log), Deferred[None]()

    async def run() -> None:
        try:
            await Deferred()
        finally:
            await cleaned

    tasks.spawn(every(1, run, clock, "checking", log), "checks")
    stopped = Deferred.fromCoroutine(tasks.stop())
    assert pending(stopped)
    cleaned.callback(None)
    await stopped
    assert clock.getDelayedCalls() == []


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


# --- Stages ------------------------------------------------------------------


class Record:
    """Stages that write down what happens to them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.seen: list[str] = []

    def stage(
        self,
        name: str,
        start: Callable[[], Awaitable[object]] = lambda: succeed(None),
        stop: Callable[[], Awaitable[object]] = lambda: succeed(None),
    ) -> Stage:
        async def noted(what: str, function: Callable[[], Awaitable[object]]) -> None:
            self.seen.append(f"{what} {name}")
            await function()

        return Stage(name, lambda: noted("start", start), lambda: noted("stop", stop), start_within=10, stop_within=5)

    def stages(self, *stages: Stage) -> Stages:
        return Stages(list(stages), self.clock, log)


async def test_stages_start_in_order_and_stop_in_reverse() -> None:
    record = Record()
    stages = record.stages(record.stage("a"), record.stage("b"), record.stage("c"))
    await stages.start()
    await stages.stop()
    await stages.stop()
    assert record.seen == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]


async def test_a_stage_waits_for_the_one_before() -> None:
    record, up = Record(), Deferred[None]()
    stages = record.stages(record.stage("a", start=lambda: up), record.stage("b"))
    started = Deferred.fromCoroutine(stages.start())
    assert record.seen == ["start a"]
    up.callback(None)
    await started
    assert record.seen == ["start a", "start b"]


@pytest.mark.parametrize(
    ("error", "text"), [(OSError("address in use"), "b: address in use"), (ZeroDivisionError(), "b: ZeroDivisionError")]
)
async def test_a_start_that_fails_stops_what_was_started(error: Exception, text: str) -> None:
    record = Record()
    stages = record.stages(record.stage("a"), record.stage("b", start=lambda: fail(error)), record.stage("c"))
    with pytest.raises(CannotStart) as caught:
        await stages.start()
    assert str(caught.value) == text
    assert caught.value.__cause__ is error
    assert record.seen == ["start a", "start b", "stop a"]


async def test_a_start_that_hangs_fails() -> None:
    record = Record()
    stages = record.stages(record.stage("a"), record.stage("b", start=Deferred))
    started = Deferred.fromCoroutine(stages.start())
    record.clock.advance(10)
    with pytest.raises(CannotStart, match=r"^b: starting: nothing after 10 s$"):
        await started
    assert record.seen == ["start a", "start b", "stop a"]


async def test_a_start_without_a_deadline_takes_as_long_as_it_needs() -> None:
    record, up = Record(), Deferred[None]()
    stages = record.stages(replace(record.stage("a", start=lambda: up), start_within=None), record.stage("b"))
    started = Deferred.fromCoroutine(stages.start())
    record.clock.advance(1_000_000)
    assert record.seen == ["start a"]
    up.callback(None)
    await started
    assert record.seen == ["start a", "start b"]


async def test_a_cancelled_start_stops_what_was_started() -> None:
    record = Record()
    stages = record.stages(record.stage("a"), record.stage("b", start=Deferred))
    started = Deferred.fromCoroutine(stages.start())
    started.cancel()
    with pytest.raises(CancelledError):
        await started
    assert record.seen == ["start a", "start b", "stop a"]


async def test_a_stop_that_fails_or_hangs_holds_up_nobody(flush_logged_errors: Any) -> None:
    record = Record()
    stages = record.stages(
        record.stage("a"),
        record.stage("b", stop=lambda: fail(ZeroDivisionError())),
        record.stage("c", stop=Deferred),
    )
    await stages.start()
    stopped = Deferred.fromCoroutine(stages.stop())
    record.clock.advance(5)
    await stopped
    assert record.seen[3:] == ["stop c", "stop b", "stop a"]
    late, failed = flush_logged_errors()
    assert (late["stage"], late["late"]) == ("c", "stopping: nothing after 5 s")
    assert failed["stage"] == "b"
    assert failed["log_failure"].check(ZeroDivisionError)


# --- Outage ------------------------------------------------------------------


def test_an_outage_is_told_once_and_once_that_it_is_over() -> None:
    clock = Clock()
    outage = Outage(log, clock)
    with capturedLogs() as logged:
        outage.over("works")
        for _ in range(3):
            outage.failed("does not work: {error}", error="no answer")
            clock.advance(1.5)
        outage.over("works again, after {seconds} s")
        outage.over("works again, after {seconds} s")
        outage.failed("does not work: {error}", error="another")
    told = [(event["log_level"].name, formatEvent(event)) for event in logged]
    assert told == [
        ("warn", "does not work: no answer"),
        ("debug", "does not work: no answer"),
        ("debug", "does not work: no answer"),
        ("info", "works again, after 4.5 s"),
        ("warn", "does not work: another"),
    ]


# --- Slots -------------------------------------------------------------------


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


async def test_who_is_last_lets_all_others_go_first() -> None:
    slots, working = Slots(1), []

    async def work(name: str) -> None:
        await slots.acquire(last=name.isupper())
        working.append(name)

    running = [Deferred.fromCoroutine(work(name)) for name in "aBbCc"]
    assert (working, slots.waiting, slots.waiting_last) == (["a"], 4, 2)
    slots.release()
    running.append(Deferred.fromCoroutine(work("d")))
    running[3].addErrback(lambda failure: failure.trap(CancelledError))
    running[3].cancel()
    assert (slots.waiting, slots.waiting_last) == (3, 1)
    for _ in range(3):
        slots.release()
    assert working == ["a", "b", "c", "d", "B"]
    # Where there is room, nobody is last.
    slots.release()
    assert Deferred.fromCoroutine(work("E")).called


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


# --- the clock ---


def test_the_clock_goes_on_while_the_machine_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 7, raising=False)
    monkeypatch.setattr(time, "clock_gettime", {7: 4711.0}.__getitem__)
    assert monotonic(SimpleNamespace()).seconds() == 4711.0


def test_where_there_is_no_such_clock_the_monotonic_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(clock: int) -> float:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 7, raising=False)
    monkeypatch.setattr(time, "clock_gettime", unknown)
    assert monotonic(SimpleNamespace()).seconds is time.monotonic
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert monotonic(SimpleNamespace()).seconds is time.monotonic
