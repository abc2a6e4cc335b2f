"""How asynchronous work starts, repeats, waits and ends.

``spawn`` and ``Tasks``   a coroutine that nobody awaits, with its errors logged and an owner who can end it
``within``, ``together``  a wait with a deadline, and one for several things at once
``insulated``             a wait that does not take somebody else's cancellation for its own
``Slots``                 a wait for one's turn, where only so many may work at once
``backoff``, ``every``    retries and repetition
``Outage``                what fails again and again is told once
``Stages``                ordered start, and stop in reverse order

::

    start:  store ──> state ──> bus ──> lease ──> ports      (a failure stops what was started)
    stop:   store <── state <── bus <── lease <── ports      (each within its own deadline)

``monotonic``, ``react``  a reactor whose clock nobody sets

Clocks are arguments, so tests run all of this on ``twisted.internet.task.Clock``.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.task import react as run_reactor
from twisted.logger import Logger
from twisted.python.failure import Failure

from flux.errors import in_words

T = TypeVar("T")

#: A stage that takes longer than this to start counts as failed, in seconds.
START_WITHIN = 30.0
#: A stage that takes longer than this to stop is left behind, in seconds.
STOP_WITHIN = 5.0


# --- the clock ---------------------------------------------------------------


def monotonic(reactor: Any) -> Any:
    """The reactor, with a clock that only goes forward, second by second. Call it before anything is scheduled.

    That of Twisted's reactors is the time of day: when somebody sets that back by an hour, nothing that is due
    happens for an hour, and when it is set forward, all deadlines are over.
    """
    reactor.seconds = time.monotonic
    return reactor


def react(main: Callable[..., Coroutine[Any, Any, Any]], arguments: Iterable[object] = ()) -> NoReturn:
    """Twisted's ``react`` on a :func:`monotonic` reactor.

    :raise SystemExit: always.
    """
    from twisted.internet import reactor

    monotonic(reactor)
    run_reactor(main, arguments)


# --- coroutines nobody awaits ------------------------------------------------


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

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._running: set[Deferred[Any]] = set()
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
        self._running.add(task)
        return task.addBoth(self._ended, task)

    async def ended(self) -> None:
        """Wait until those that run now have ended; cancelling the waiter cancels them."""
        await DeferredList(list(self._running))

    def _ended(self, result: T, task: Deferred[Any]) -> T:
        self._running.discard(task)
        return result

    async def stop(self) -> None:
        """Cancel everything and wait until it has ended.

        A coroutine that ignores its cancellation is waited for: bound the wait with :func:`within`.
        """
        self._stopped = True
        for task in list(self._running):
            task.cancel()
        await DeferredList(list(self._running))


# --- waiting -----------------------------------------------------------------


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


class Abandoned(Exception):
    """What was waited for was cancelled, and not by who waits; ``__cause__`` is the ``CancelledError``."""


async def insulated(awaitable: Awaitable[T]) -> T:
    """The result of ``awaitable``; a ``CancelledError`` is the waiter's own.

    Some libraries report their timeouts as a ``CancelledError``, which would end a loop that goes on after errors.
    Cancelling the waiter cancels ``awaitable``, waits until it has ended, and raises whatever became of it.

    :raise Abandoned: ``awaitable`` was cancelled by somebody else.
    :raise CancelledError: the waiter was cancelled.
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


class Slots:
    """So many may work at the same time, and the others wait for their turn; how many may change meanwhile.

    (Twisted's DeferredSemaphore has the number it began with.)

    :param limit: at least 1.
    """

    def __init__(self, limit: int) -> None:
        self._free = self._limit = limit
        self._waiting: deque[Deferred[None]] = deque()
        self._last: deque[Deferred[None]] = deque()
        self._admitting = False

    @property
    def waiting(self) -> int:
        """Those who wait for their turn."""
        return len(self._waiting) + len(self._last)

    @property
    def waiting_last(self) -> int:
        """Those of them who come after all others."""
        return len(self._last)

    def resize(self, limit: int) -> None:
        """Of more than ``limit`` who work at the moment, all finish."""
        self._free += limit - self._limit
        self._limit = limit
        self._admit()

    async def acquire(self, last: bool = False) -> None:
        """Wait for a turn; every one has to be released.

        :param last: let all go first who do not say so, those who come later too.
        """
        if self._free > 0:
            self._free -= 1
            return
        queue = self._last if last else self._waiting
        turn: Deferred[None] = Deferred(queue.remove)
        queue.append(turn)
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
            while self._free > 0 and (self._waiting or self._last):
                self._free -= 1
                (self._waiting or self._last).popleft().callback(None)
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


class Outage:
    """What is tried again and again and fails for a while: a line in the log when it begins, and one when it is over.

    The failures between are there at debug.
    """

    def __init__(self, log: Logger, clock: IReactorTime) -> None:
        self._log = log
        self._clock = clock
        self._since: float | None = None

    def failed(self, message: str, **fields: object) -> None:
        """It has failed; ``message`` is a log format, told as a warning where the last time went well."""
        tell = self._log.warn
        if self._since is None:
            self._since = self._clock.seconds()
        else:
            tell = self._log.debug
        tell(message, **fields)

    def over(self, message: str) -> None:
        """It works; ``message``, told where the last time failed, may have ``{seconds}``, which it has not."""
        if self._since is not None:
            self._log.info(message, seconds=round(self._clock.seconds() - self._since, 1))
            self._since = None


# --- start and stop ----------------------------------------------------------


class CannotStart(Exception):
    """A start failed for a reason to be told in one line; ``__cause__`` is the error itself, if there is one."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a start, and how to undo it.

    A start that fails cleans up after itself: its own ``stop`` is not called.
    """

    #: Reads after "cannot start": "the store".
    name: str
    start: Callable[[], Awaitable[object]]
    stop: Callable[[], Awaitable[object]]
    #: Deadlines in seconds; None: what is started has deadlines of its own, and may have reasons to take long.
    start_within: float | None = START_WITHIN
    stop_within: float = STOP_WITHIN


class Stages:
    """Starts stages in order and stops those that started in reverse order."""

    def __init__(self, stages: list[Stage], clock: IReactorTime, log: Logger) -> None:
        self._stages = stages
        self._clock = clock
        self._log = log
        self._started: list[Stage] = []

    async def start(self) -> None:
        """Start all; on failure or cancellation stop those started before raising.

        :raise CannotStart: names the stage and the reason.
        """
        for stage in self._stages:
            try:
                if stage.start_within is None:
                    await stage.start()
                else:
                    await within(stage.start_within, stage.start(), self._clock, "starting")
            except CancelledError:
                await self.stop()
                raise
            except Exception as error:
                await self.stop()
                raise CannotStart(f"{stage.name}: {in_words(error)}") from error
            self._started.append(stage)

    async def stop(self) -> None:
        """Stop what is started, last first. Never raises: a stage that fails or takes too long is logged and left."""
        while self._started:
            stage = self._started.pop()
            try:
                await within(stage.stop_within, stage.stop(), self._clock, "stopping")
            except DeadlineExceeded as late:
                self._log.error("{stage}: {late}, going on without it", stage=stage.name, late=str(late))
            except Exception:
                self._log.failure("{stage}: stopping failed", stage=stage.name)
