"""Calls between the reactor and the threads that own the connections.

::

    reactor thread                                   thread of the lane
    call() ──> the turn's calls ──> inbox ────────> take everything that waits, run it as one batch
    settle() <────────────── one callFromThread <── outcomes, in the order of the calls

A batch is whatever gathered while the previous one ran, so a busy lane has large
batches and an idle one answers at once.  The calls of one turn of the reactor are
handed over together when it ends: else the first would wake the thread, which takes
the processor from the reactor to run that one alone (in a rush of logins half of the
batches were of one call).  The one timer is for deadlines: calls of a lane share one
time limit, so the oldest lapses first.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred, DeferredList, fail
from twisted.internet.interfaces import IDelayedCall, IReactorFromThreads, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from flux.errors import Unavailable

C = TypeVar("C")
T = TypeVar("T")


class IReactor(IReactorTime, IReactorFromThreads):
    """What a lane needs of a reactor."""


class Call(Generic[C, T]):
    """A function that waits to be run on a lane, and then its outcome.

    :ivar work: gets the connection (or what wraps it) that the lane owns.
    :ivar deferred: None once it was fired; touched by the reactor thread only.
    :ivar error: what ``work`` raised; None if ``value`` counts.
    """

    __slots__ = ("deferred", "error", "expires", "value", "work")

    def __init__(self, work: Callable[[C], T], expires: float) -> None:
        self.work = work
        self.deferred: Deferred[T] | None = Deferred()
        self.expires = expires
        self.value: T | None = None
        self.error: BaseException | None = None

    def fire(self) -> None:
        """Hand the outcome to who waits for it, unless the deadline did so before."""
        deferred, self.deferred = self.deferred, None
        if deferred is None:
            return
        if self.error is not None:
            deferred.errback(Failure(self.error))
        else:
            deferred.callback(self.value)  # type: ignore[arg-type]


class Runner(Protocol[C]):
    """What a thread of a lane owns."""

    def run(self, calls: list[Call[C, Any]]) -> None:
        """Give every call its value or error. Never raises."""

    def rest(self) -> None:
        """What can wait until the outcomes are on their way. Never raises."""

    def close(self) -> None:
        """Give the connection up. Never raises."""


class Lane(Generic[C]):
    """One or more threads that run calls in batches.

    :param runner: makes what a thread owns; called in that thread.
    :param bound: calls that may wait or run; one more is refused at once.
    :param deadline: seconds until a call fails with ``Unavailable``. It is not taken
        back: it may still run, and does so in its turn.
    :param most: calls taken into one batch, so that several threads share the work.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactor,
        name: str,
        runner: Callable[[], Runner[C]],
        *,
        bound: int,
        deadline: float,
        threads: int = 1,
        most: int,
    ) -> None:
        self._reactor = reactor
        self._name = name
        self._runner = runner
        self._bound = bound
        self._deadline = deadline
        self._most = most
        self._gathered: list[Call[C, Any]] = []
        self._turn: IDelayedCall | None = None
        self._inbox: SimpleQueue[Call[C, Any] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"flux store {name} {n}", daemon=True) for n in range(threads)
        ]
        self._started: list[Deferred[None]] = []
        self._ended: list[Deferred[None]] = []
        self._open = False
        #: Calls accepted and not yet fired, oldest first, some fired ones in between.
        self._waiting: deque[Call[C, Any]] = deque()
        self._unfinished = 0
        self._timer: IDelayedCall | None = None

    async def start(self) -> None:
        """Start the threads and wait until each has its runner.

        :raises Exception: what making a runner raised; the threads have ended then.
        """
        for thread in self._threads:
            self._started.append(Deferred())
            self._ended.append(Deferred())
            thread.start()
        self._open = True
        outcomes: list[tuple[bool, Any]] = await DeferredList(self._started, consumeErrors=True)
        for succeeded, outcome in outcomes:
            if not succeeded:
                await self.stop()
                raise outcome.value

    def call(self, work: Callable[[C], T]) -> Deferred[T]:
        """Run ``work`` in its turn. Fails with ``Unavailable`` where it cannot be accepted or takes too long."""
        if not self._open:
            return fail(Unavailable("the store is closed"))
        if self._unfinished >= self._bound:
            return fail(Unavailable(f"the store is overloaded: {self._bound} calls are waiting"))
        call = Call(work, self._reactor.seconds() + self._deadline)
        deferred = call.deferred
        assert deferred is not None
        self._unfinished += 1
        self._waiting.append(call)
        if self._timer is None:
            self._timer = self._reactor.callLater(self._deadline, self._expire)
        self._gathered.append(call)
        if self._turn is None:
            self._turn = self._reactor.callLater(0, self._hand_over)
        return deferred

    async def stop(self) -> None:
        """Refuse new calls, finish the accepted ones, end the threads."""
        if not self._open:
            return
        self._open = False
        if self._turn is not None:
            self._turn.cancel()
            self._hand_over()
        self._inbox.put(None)
        await DeferredList(self._ended)
        for thread in self._threads:
            thread.join()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # in the reactor thread

    def _hand_over(self) -> None:
        self._turn = None
        gathered, self._gathered = self._gathered, []
        for call in gathered:
            self._inbox.put(call)

    def _settle(self, calls: list[Call[C, Any]]) -> None:
        self._unfinished -= len(calls)
        for call in calls:
            call.fire()
        self._forget_fired()

    def _expire(self) -> None:
        self._timer = None
        now = self._reactor.seconds()
        late = []
        while self._waiting and self._waiting[0].expires <= now:
            call = self._waiting.popleft()
            if call.deferred is not None:
                late.append(call.deferred)
                call.deferred = None
        self._forget_fired()
        if self._waiting:
            self._timer = self._reactor.callLater(self._waiting[0].expires - now, self._expire)
        # Last: who fails now may call again, and must find the timer set for those who wait longer.
        for deferred in late:
            deferred.errback(Unavailable(f"the store did not answer within {self._deadline:g} s"))

    def _forget_fired(self) -> None:
        while self._waiting and self._waiting[0].deferred is None:
            self._waiting.popleft()

    # in a thread of the lane

    def _work(self) -> None:
        number = self._threads.index(threading.current_thread())
        try:
            runner = self._runner()
        except BaseException as error:
            self._reactor.callFromThread(self._started[number].errback, Failure(error))
        else:
            self._reactor.callFromThread(self._started[number].callback, None)
            while calls := self._take():
                try:
                    runner.run(calls)
                except BaseException as error:
                    # It promised not to. Still, nobody may wait for ever or take None for an answer.
                    for call in calls:
                        call.error = error
                self._reactor.callFromThread(self._settle, calls)
                runner.rest()
            runner.close()
        self._reactor.callFromThread(self._ended[number].callback, None)

    def _take(self) -> list[Call[C, Any]]:
        """All that waits, but no more than ``most``; at least one call. Nothing once the lane has stopped."""
        taken: list[Call[C, Any]] = []
        call = self._inbox.get()
        try:
            while call is not None:
                taken.append(call)
                if len(taken) == self._most:
                    return taken
                call = self._inbox.get_nowait()
        except Empty:
            return taken
        # The end is for every thread, and comes after what was taken here.
        self._inbox.put(None)
        return taken
