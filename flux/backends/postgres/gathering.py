"""Calls of one kind that share a statement: whatever has gathered while the previous one ran is the next one.

A statement that takes too long may do so because of one of its arguments (an account in very many groups), and the
others are not to fail for it.  So it gets half of the time that its calls have left, and each of them the other half,
by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from operator import itemgetter
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from flux.backends.postgres.connection import Run
from flux.backends.postgres.pool import Pool
from flux.errors import FluxError, Unavailable
from flux.lifecycle import spawn

A = TypeVar("A")
T = TypeVar("T")


class Gathering(Generic[A, T]):
    """Answers calls with one argument, many with one statement.

    :param work: gets the arguments, and returns a result or an error for each.
    :param most: arguments of one statement.
    :param at_once: statements that run at the same time.
    :param bound: calls that may wait.
    """

    _log = Logger()

    def __init__(
        self,
        pool: Pool,
        clock: IReactorTime,
        work: Callable[[Run, Sequence[A]], Awaitable[list[T | FluxError]]],
        *,
        most: int,
        at_once: int,
        bound: int,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._work = work
        self._most = most
        self._at_once = at_once
        self._bound = bound
        self._waiting: list[tuple[A, float, Deferred[T]]] = []
        self._running = 0

    def call(self, argument: A) -> Deferred[T]:
        """The result for ``argument``; its deadline is the pool's."""
        if len(self._waiting) >= self._bound:
            return fail(Unavailable(f"the store is overloaded: {self._bound} calls are waiting"))
        deferred: Deferred[T] = Deferred()
        self._waiting.append((argument, self._clock.seconds() + self._pool.deadline, deferred))
        if self._running < self._at_once:
            self._running += 1
            _ = spawn(self._run_all(), "gathered calls to the database", self._log)
        return deferred

    async def _run_all(self) -> None:
        try:
            while self._waiting:
                taken, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                await self._run(taken)
        finally:
            self._running -= 1

    async def _run(self, taken: Sequence[tuple[A, float, Deferred[T]]]) -> None:
        now, expires = self._clock.seconds(), taken[0][1]
        if len(taken) > 1:
            expires = now + max(0.0, expires - now) / 2
        outcomes: Sequence[Any]
        try:
            outcomes = await self._pool.call_until(expires, self._work, [argument for argument, _, _ in taken])
        except Exception as error:
            # But for rounding.
            late = self._clock.seconds() > expires - 0.001
            if late and len(taken) > 1 and isinstance(error, Unavailable):
                self._run_one_by_one(taken)
                return
            outcomes = [Failure()] * len(taken)
        for (_, _, deferred), outcome in zip(taken, outcomes, strict=True):
            _settle(outcome, deferred)

    def _run_one_by_one(self, taken: Sequence[tuple[A, float, Deferred[T]]]) -> None:
        """Nobody waits for them here: what gathers meanwhile goes on."""
        for argument, expires, deferred in taken:
            alone: Deferred[list[T | FluxError]] = self._pool.call_until(expires, self._work, [argument])
            _ = alone.addCallback(itemgetter(0)).addBoth(_settle, deferred)


def _settle(outcome: object, deferred: Deferred[Any]) -> None:
    if isinstance(outcome, (Failure, FluxError)):
        deferred.errback(outcome)
    else:
        deferred.callback(outcome)
