"""Calls gathered into batches: one batch is under way, what is asked meanwhile is the next.

The principle of the group commit: no timer, nobody waits longer than for one answer before
its own, and the more is asked, the larger and cheaper the batches.  What is asked takes
effect in the order in which it was asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.errors import Unavailable
from flux.lifecycle import Tasks, insulated

Q = TypeVar("Q")
A = TypeVar("A")

BATCH = 500
"""Questions in a batch: Redis is busy with one for a few milliseconds at most."""

MOST_WAITING = 20_000
"""Questions waiting at once; more fail at once."""


class Gather(Generic[Q, A]):
    """Asks in batches.

    :param ask: answers a batch, in order.
    """

    log = Logger()

    def __init__(self, ask: Callable[[Sequence[Q]], Awaitable[Sequence[A]]], what: str, clock: IReactorTime) -> None:
        self._ask = ask
        self._what = what
        self._clock = clock
        self._tasks = Tasks(self.log, self._clock)
        self._waiting: list[tuple[Q, Deferred[A]]] = []
        self._running = False

    def __call__(self, question: Q) -> Deferred[A]:
        """The answer to ``question``.

        :raises flux.errors.Unavailable: too much is waiting, or whatever ``ask`` failed with.
        """
        if len(self._waiting) >= MOST_WAITING:
            return fail(Unavailable(f"too many are waiting for {self._what}"))
        answer: Deferred[A] = Deferred()
        self._waiting.append((question, answer))
        if not self._running:
            self._running = True
            self._tasks.spawn(self._run(), self._what)
        return answer

    async def stop(self) -> None:
        """Let what is waiting fail."""
        await self._tasks.stop()
        self._tasks = Tasks(self.log, self._clock)
        self._running = False
        waiting, self._waiting = self._waiting, []
        self._fail(waiting, "the shared state is stopped")

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                try:
                    answers = await insulated(self._ask([question for question, _ in batch]))
                    if len(answers) != len(batch):
                        raise ValueError(f"{len(answers)} answers to {len(batch)} questions")
                except CancelledError:
                    self._fail(batch, "the shared state is stopped")
                    raise
                except Unavailable as error:
                    self._fail(batch, error.detail, error.reason)
                except Exception:
                    self.log.failure("a batch of questions to {what} failed", what=self._what)
                    self._fail(batch, "the answer was not understood")
                else:
                    for (_, waiting), answer in zip(batch, answers, strict=True):
                        if not waiting.called:
                            waiting.callback(answer)
        finally:
            self._running = False

    @staticmethod
    def _fail(batch: list[tuple[Q, Deferred[A]]], detail: str, reason: str = "") -> None:
        for _, waiting in batch:
            if not waiting.called:
                # One each: an error that is raised in many places collects all their tracebacks.
                waiting.errback(Unavailable(detail, reason))
