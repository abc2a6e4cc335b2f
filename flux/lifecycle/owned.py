"""Coroutines that nobody awaits: each has its errors logged and an owner who can end it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from flux.lifecycle.waiting import DeadlineExceeded, at_most, insulated, sleep

T = TypeVar("T")

ENDS_WITHIN = 3.0
"""Seconds that a task may take to end after its cancellation; then its owner goes on without it."""


class Spawned(Protocol):
    """A running coroutine as its owner sees it."""

    def cancel(self) -> None:
        """End it: ``CancelledError`` is raised where it waits. Does nothing if it has ended."""


def spawn(coroutine: Coroutine[Any, Any, T], what: str, log: Logger) -> Deferred[T | None]:
    """Run ``coroutine`` without awaiting it.

    :param what: what it does, for the log: "renewing the lease".
    :return: fires with the result, or with None when the coroutine failed (the
        failure has then been logged, once) or was cancelled. Cancelling it
        cancels the coroutine.
    """

    def ended_badly(failure: Failure) -> None:
        if not failure.check(CancelledError):
            log.failure("{what} failed", failure, what=what)

    running: Deferred[T] = Deferred.fromCoroutine(coroutine)
    return running.addErrback(ended_badly)


class Tasks:
    """The coroutines a service has started and must have ended before it is gone.

    A coroutine of the service itself must not await :meth:`stop`: it would wait for itself.
    """

    def __init__(self, log: Logger, clock: IReactorTime) -> None:
        self._log = log
        self._clock = clock
        self._running: dict[Deferred[Any], str] = {}
        self._stopped = False

    def __len__(self) -> int:
        """How many are running."""
        return len(self._running)

    def spawn(self, coroutine: Coroutine[Any, Any, object], what: str) -> Spawned:
        """Run ``coroutine`` as :func:`spawn` does, and end it when the owner stops.

        After :meth:`stop` nothing starts any more: what arrives late (a connection
        lost during shutdown) is closed unrun.
        """
        if self._stopped:
            coroutine.close()
            return succeed(None)
        task = spawn(coroutine, what, self._log)
        self._running[task] = what
        return task.addBoth(self._ended, task)

    async def ended(self) -> None:
        """Wait until those that run now have ended; cancelling the waiter cancels them."""
        await DeferredList(list(self._running))

    def _ended(self, result: T, task: Deferred[Any]) -> T:
        self._running.pop(task, None)
        return result

    async def stop(self) -> None:
        """Cancel everything and wait until it has ended.

        Who ignores that is cancelled once more after :data:`ENDS_WITHIN`, and then left behind; the log tells of it.
        """
        self._stopped = True
        for task in list(self._running):
            task.cancel()
        try:
            await at_most(ENDS_WITHIN, self.ended(), self._clock, "ending")
        except DeadlineExceeded as late:
            for what in self._running.values():
                self._log.error("{what}: {late}, going on without it", what=what, late=str(late))


async def every(
    interval: float | Callable[[], float],
    function: Callable[[], Coroutine[Any, Any, object]],
    clock: IReactorTime,
    what: str,
    log: Logger,
) -> None:
    """Run ``function`` now and again ``interval`` seconds after each run has ended, until cancelled.

    Runs never overlap. A run that fails is logged and does not end the repetition;
    neither does a ``CancelledError`` of something the run itself was waiting for
    (some libraries report their timeouts so).

    :param interval: in seconds; a callable is asked before each pause.
    """
    while True:
        await _once(function, what, log)
        await sleep(interval() if callable(interval) else interval, clock)


async def _once(function: Callable[[], Coroutine[Any, Any, object]], what: str, log: Logger) -> None:
    """Run ``function`` and log its failure; raise only if *this* coroutine is cancelled."""
    try:
        await insulated(function())
    except CancelledError:
        raise
    except Exception:
        log.failure("{what} failed", what=what)
