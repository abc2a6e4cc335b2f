"""Group commit of drafts, on a store that does not answer."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import Logger

from flux.chat.journal import Journal
from flux.lifecycle import Tasks


class HangingStore:
    """Answers nothing.

    :ivar batches: what it was given.
    """

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []

    def append(self, drafts: list[Any]) -> Deferred[Any]:
        self.batches.append(drafts)
        return Deferred()


async def test_a_stop_that_does_not_wait_for_the_store_stores_no_more_and_answers_nobody() -> None:
    store, clock, tasks = HangingStore(), Clock(), Tasks(Logger())
    settled: list[Any] = []
    journal = Journal(store, lambda entries, outcomes: settled.append(outcomes), tasks, clock)  # type: ignore[arg-type]
    for draft in ("one", "two"):
        journal.append((None, None, draft))  # type: ignore[arg-type]
    stopped = Deferred.fromCoroutine(tasks.stop())
    for _ in range(3):
        clock.advance(0)
    # The fixture that looks for errors in the log is the rest of the test.
    assert stopped.called
    assert (store.batches, settled) == ([["one"]], [])
