"""Waits: with a deadline, for several things at once, for one's turn, for a while."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from heapq import heappop, heappush
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

T = TypeVar("T")


class DeadlineExceeded(TimeoutError):
    """Something took longer than it may; the text says what, and how long it had."""


def _deferred(awaitable: Awaitable[T]) -> Deferred[T]:
    if isinstance(awaitable, Deferred):
        return awaitable

    async def wait() -> T:
        return await awaitable

    return Deferred.fromCoroutine(wait())


async def within(seconds: float, awaitable: Awaitable[T], clock: IReactorTime, what: str) -> T:
    """The result of ``awaitable``, which is cancelled if it takes longer than ``seconds``.

    :param what: what is waited for, for the error: "the store".
    :raise DeadlineExceeded: it took longer.
    """

    def timed_out(result: T | Failure, _: float) -> T:
        if isinstance(result, Failure):
            result.trap(CancelledError)
            raise DeadlineExceeded(f"{what}: nothing after {seconds:g} s")
        return result

    return await _deferred(awaitable).addTimeout(seconds, clock, onTimeoutCancel=timed_out)


async def at_most(seconds: float, awaitable: Awaitable[T], clock: IReactorTime, what: str) -> T:
    """As :func:`within`, and who is still not through after its cancellation is left behind.

    What becomes of that is of interest to nobody any more: it is not even logged.
    """

    def end(result: T | Failure) -> None:
        if not ended.called:
            ended.callback(result)

    ended: Deferred[T] = Deferred(lambda _: running.cancel())
    running = _deferred(awaitable).addBoth(end)
    return await within(seconds, ended, clock, what)


class Abandoned(Exception):
    """What was waited for was cancelled, and not by who waits; ``__cause__`` is the ``CancelledError``."""


async def insulated(awaitable: Awaitable[T]) -> T:
    """The result of ``awaitable``; a ``CancelledError`` is the waiter's own.

    Some libraries report their timeouts as a ``CancelledError``, which would end a loop that goes on after errors.
    Others report a cancellation as another error, after which such a loop would go on: of Twisted's endpoints one that
    connects to a name fails with ``DNSLookupError`` while that is looked up, and with ``ConnectingCancelledError``
    later.

    Cancelling the waiter cancels ``awaitable`` and waits until it has ended.

    :raise Abandoned: ``awaitable`` was cancelled by somebody else.
    :raise CancelledError: the waiter was cancelled, whatever became of ``awaitable``.
    """
    cancelled = finished = False

    def cancel(_: Deferred[T]) -> None:
        nonlocal cancelled
        cancelled = True
        running.cancel()

    def end(result: T | Failure) -> None:
        nonlocal finished
        finished = True
        if not ended.called:
            ended.callback(result)

    # Awaited instead of the work itself, to know our own cancellation from one inside it.
    ended: Deferred[T] = Deferred(cancel)
    running = _deferred(awaitable).addBoth(end)
    try:
        result = await ended
    except Exception as problem:
        if not cancelled:
            if isinstance(problem, CancelledError):
                raise Abandoned("it was cancelled") from problem
            raise
    if cancelled:
        if not finished:
            await running
        raise CancelledError
    return result


async def together(work: Iterable[Awaitable[T]]) -> list[T]:
    """The results of all of ``work``, which runs at the same time.

    All of it has ended when this returns or raises: nothing is left behind by a failure. Of several failures the first
    in order is raised. Cancelling the waiter cancels what still runs.
    """
    outcomes: list[tuple[bool, Any]] = await DeferredList([_deferred(each) for each in work], consumeErrors=True)
    for succeeded, outcome in outcomes:
        if not succeeded:
            outcome.raiseException()
    return [outcome for _, outcome in outcomes]


class Deadlines(Generic[T]):
    """Deadlines of what has mostly ended long before: one timer for all of them.

    A timer each, set and cancelled, is a good part of what a short call costs.

    :param ended: whether something has ended, so that its deadline is of no interest.
    :param late: called with what has not ended by its deadline.
    """

    def __init__(self, clock: IReactorTime, ended: Callable[[T], bool], late: Callable[[T], None]) -> None:
        self._clock = clock
        self._ended = ended
        self._late = late
        self._heap: list[tuple[float, int, T]] = []
        self._numbers = itertools.count()
        self._timer: IDelayedCall | None = None

    def __len__(self) -> int:
        """How many are kept, some of them perhaps of what has ended."""
        return len(self._heap)

    def add(self, seconds: float, what: T) -> None:
        """``what`` has to have ended in ``seconds``."""
        heap = self._heap
        while heap and self._ended(heap[0][2]):
            heappop(heap)
        at = self._clock.seconds() + seconds
        heappush(heap, (at, next(self._numbers), what))
        # An earlier timer may stay: it sets the next one.
        if self._timer is None or self._timer.getTime() > at:
            self._set()

    def stop(self) -> None:
        """Forget everything."""
        self._heap.clear()
        self._set()

    def _set(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if self._heap:
            self._timer = self._clock.callLater(max(0.0, self._heap[0][0] - self._clock.seconds()), self._expire)

    def _expire(self) -> None:
        now = self._clock.seconds()
        heap = self._heap
        try:
            while heap and (heap[0][0] <= now or self._ended(heap[0][2])):
                what = heappop(heap)[2]
                if not self._ended(what):
                    self._late(what)
        finally:
            # Where one raises, the others have their turn.
            self._set()


class Slots:
    """So many may work at the same time, and the others wait for their turn; how many may change meanwhile.

    (Twisted's DeferredSemaphore has the number it began with.)

    :param limit: at least 1.
    """

    def __init__(self, limit: int) -> None:
        self._free = self._limit = limit
        self._waiting: deque[Deferred[None]] = deque()
        self._admitting = False

    @property
    def waiting(self) -> int:
        """Those who wait for their turn."""
        return len(self._waiting)

    def resize(self, limit: int) -> None:
        """Of more than ``limit`` who work at the moment, all finish."""
        self._free += limit - self._limit
        self._limit = limit
        self._admit()

    async def acquire(self) -> None:
        """Wait for a turn; every one has to be released."""
        if self._free > 0:
            self._free -= 1
            return
        turn: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(turn)
        await turn

    def release(self) -> None:
        """Let somebody else have the turn, who may run inside this call."""
        self._free += 1
        self._admit()

    def _admit(self) -> None:
        if self._admitting:
            # Somebody had the turn and is through already, inside the loop below, which goes on with the next one:
            # thousands who do not wait for anything would be as many calls inside each other.
            return
        self._admitting = True
        try:
            while self._free > 0 and self._waiting:
                self._free -= 1
                self._waiting.popleft().callback(None)
        finally:
            self._admitting = False


async def sleep(seconds: float, clock: IReactorTime) -> None:
    """Wait for ``seconds``; cancelling the waiter ends the wait."""
    await deferLater(clock, seconds)


async def turn(clock: IReactorTime) -> None:
    """Wait until the reactor has looked after everything that is ready now."""
    # What is due may run before the reactor looks at its sockets; what that asks for runs after.
    await sleep(0, clock)
    await sleep(0, clock)


def backoff(initial: float, maximum: float, rng: random.Random) -> Iterator[float]:
    """Endless waits before retries, in seconds: doubling from ``initial`` to ``maximum``.

    Each is drawn from the upper half of its range ("equal jitter" in M. Brooker,
    *Exponential Backoff and Jitter*, 2015), so that clients cut off together do
    not come back together, and none comes back at once.
    """
    ceiling = initial
    while True:
        yield rng.uniform(ceiling / 2, ceiling)
        ceiling = min(ceiling * 2, maximum)
