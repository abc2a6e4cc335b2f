"""Stages of a start, outages, and the clock."""

from __future__ import annotations

import errno
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import Logger, capturedLogs, formatEvent

from flux.lifecycle import CannotStart, Outage, Stage, Stages, monotonic

log = Logger()


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


async def test_a_stop_that_ignores_its_cancellation_is_left_behind(flush_logged_errors: Any) -> None:
    record, end = Record(), Deferred[None]()

    async def stubborn() -> None:
        while not end.called:
            with suppress(CancelledError):
                await Deferred()

    stubborn_stop = Deferred.fromCoroutine(stubborn())
    stages = record.stages(record.stage("a"), record.stage("b", stop=lambda: stubborn_stop))
    await stages.start()
    stopped = Deferred.fromCoroutine(stages.stop())
    record.clock.advance(5)
    await stopped
    assert record.seen[2:] == ["stop b", "stop a"]
    [late] = flush_logged_errors()
    assert formatEvent(late) == "b: stopping: nothing after 5 s, going on without it"
    end.callback(None)
    stubborn_stop.cancel()


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


# --- the clock ----------------------------------------------------------------


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
