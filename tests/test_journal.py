"""Group commit of drafts, on a store that does not answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import Logger

from flux.chat.journal import LARGE_BATCH, Journal
from flux.errors import Internal
from flux.lifecycle import Abandoned, Tasks


class HangingStore:
    """Answers nothing.

    :ivar batches: what it was given.
    :ivar answers: those that a test is to give.
    """

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.answers: list[Deferred[Any]] = []

    def append(self, drafts: list[Any]) -> Deferred[Any]:
        self.batches.append(drafts)
        self.answers.append(Deferred())
        return self.answers[-1]


def journal_on(
    store: HangingStore, settle: Callable[[list[Any], list[Any]], object], tasks: Tasks, clock: Clock
) -> Journal:
    """A journal, which needs nothing of a store but ``append``."""
    return Journal(store, settle, tasks, clock)  # type: ignore[arg-type] - the rest of IStore is not there


def send(journal: Journal, *drafts: object) -> None:
    """Give it drafts: it looks at neither those nor session and request."""
    for draft in drafts:
        journal.append((None, None, draft))  # type: ignore[arg-type] - none of the three is what it says


async def test_a_stop_that_does_not_wait_for_the_store_stores_no_more_and_answers_nobody() -> None:
    store, clock = HangingStore(), Clock()
    tasks = Tasks(Logger(), clock)
    settled: list[Any] = []
    journal = journal_on(store, lambda entries, outcomes: settled.append(outcomes), tasks, clock)
    send(journal, "one", "two")
    stopped = Deferred.fromCoroutine(tasks.stop())
    for _ in range(3):
        clock.advance(0)
    # The fixture that looks for errors in the log is the rest of the test.
    assert stopped.called
    assert (store.batches, settled) == ([["one"]], [])


@pytest.mark.parametrize("answer", [["a receipt"], ["a receipt"] * 3, CancelledError(), ZeroDivisionError()], ids=repr)
async def test_an_answer_that_makes_no_sense_fails_its_batch_and_the_next_one_comes(
    answer: Any, flush_logged_errors: Any
) -> None:
    store, clock = HangingStore(), Clock()
    tasks = Tasks(Logger(), clock)
    settled: list[Any] = []
    journal = journal_on(store, lambda entries, outcomes: settled.append(outcomes), tasks, clock)
    for draft in ("lone", "one", "two", "next"):
        send(journal, draft)
        if draft == "two":
            store.answers[0].callback(["a receipt"])
            for _ in range(3):
                clock.advance(0)
    assert store.batches == [["lone"], ["one", "two"]]
    (store.answers[1].errback if isinstance(answer, Exception) else store.answers[1].callback)(answer)
    for _ in range(3):
        clock.advance(0)
    store.answers[2].callback(["a receipt"])
    assert settled[0] == settled[2] == ["a receipt"]
    assert [type(outcome) for outcome in settled[1]] == [Internal, Internal]
    assert len(flush_logged_errors(ValueError, Abandoned, ZeroDivisionError)) == 1
    await tasks.stop()


async def test_after_a_message_by_itself_the_next_one_is_stored_at_once() -> None:
    """After more than one the journal first lets all be read that answers them."""
    store, clock = HangingStore(), Clock()
    tasks = Tasks(Logger(), clock)
    journal = journal_on(store, lambda entries, outcomes: None, tasks, clock)

    def look() -> None:
        for _ in range(3):
            clock.advance(0)

    send(journal, "one")
    store.answers[0].callback(["a receipt"])
    send(journal, "two", "three")
    assert store.batches == [["one"], ["two"]]
    # The third has waited.
    store.answers[1].callback(["a receipt"])
    send(journal, "four")
    assert len(store.batches) == 2
    look()
    assert store.batches[2:] == [["three", "four"]]
    store.answers[2].callback(["a receipt"] * 2)
    send(journal, "five", "six")
    assert len(store.batches) == 3
    look()
    assert store.batches[3:] == [["five", "six"]]
    store.answers[3].callback(["a receipt"] * 2)
    await tasks.stop()


async def test_who_cannot_be_told_keeps_nobody_else_from_being_told(flush_logged_errors: Any) -> None:
    """The next batch is under way already when the outcomes of this one are told."""
    store, clock = HangingStore(), Clock()
    tasks = Tasks(Logger(), clock)
    told: list[int] = []

    def tell(entries: list[Any], outcomes: list[Any]) -> None:
        told.append(len(outcomes))
        if len(told) == 1:
            raise KeyError("of somebody who is gone")

    journal = journal_on(store, tell, tasks, clock)
    send(journal, *range(1 + LARGE_BATCH))
    store.answers[0].callback(["a receipt"])
    store.answers[1].callback(["a receipt"] * LARGE_BATCH)
    assert told == [1, LARGE_BATCH]
    flushed = Deferred.fromCoroutine(journal.flushed())
    for _ in range(3):
        clock.advance(0)
    assert flushed.called
    assert len(flush_logged_errors(KeyError)) == 1
    await tasks.stop()
