"""Coroutines that nobody awaits, and repetition."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import Logger, formatEvent

from flux.lifecycle import Abandoned, Tasks, every, sleep, spawn
from flux.lifecycle.owned import ENDS_WITHIN

log = Logger()


def pending(d: Deferred[Any]) -> bool:
    return not d.called


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
    tasks, cleaned = Tasks(log, Clock()), Deferred[None]()

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


async def test_a_task_that_ignores_its_cancellation_is_left_behind(flush_logged_errors: Any) -> None:
    clock, end, seen = Clock(), Deferred[None](), []
    tasks = Tasks(log, clock)

    async def work(patience: int) -> None:
        while not end.called and len(seen) < patience:
            try:
                await Deferred()
            except CancelledError:
                seen.append(patience)

    tasks.spawn(work(1000), "stubborn work")
    tasks.spawn(work(3), "patient work")
    stopped = Deferred.fromCoroutine(tasks.stop())
    assert (seen, pending(stopped)) == ([1000, 3], True)
    clock.advance(ENDS_WITHIN)
    await stopped
    [event] = flush_logged_errors()
    assert formatEvent(event) == "stubborn work: ending: nothing after 3 s, going on without it"
    end.callback(None)
    tasks.spawn(sleep(1, clock), "too late")
    assert clock.getDelayedCalls() == []


async def test_tasks_forget_what_has_ended(flush_logged_errors: Any) -> None:
    tasks, answer = Tasks(log, Clock()), Deferred[None]()

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
    tasks, ran = Tasks(log, Clock()), []

    async def work() -> None:
        ran.append(1)

    await tasks.stop()
    tasks.spawn(work(), "late work").cancel()
    assert (ran, len(tasks)) == ([], 0)


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
    clock, runs = Clock(), Runs()
    tasks = Tasks(log, clock)
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
    clock, count = Clock(), []
    tasks = Tasks(log, clock)

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
    clock, waits = Clock(), []
    tasks = Tasks(log, clock)

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
    clock, cleaned = Clock(), Deferred[None]()
    tasks = Tasks(log, clock)

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
