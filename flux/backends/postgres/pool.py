"""Calls and connections: who gets one, what waits, and how long.

::

    call() ──> ordered ──┐                          ┌── connection ──> work(run) ──> outcome
               any ──────┴── as connections get ────┤── connection
                             free                   └── connection  (lost: opened again, with growing pauses)

Calls that change a chat (messages, changes of members) are *ordered*: of those about the same chat one runs at
a time, in the order in which they were made.  The last free connection is kept for the first of them.  Each
call has a deadline, whether it waits or runs; while there is no connection at all, calls fail at once.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable, Set
from functools import partial
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import psycopg2
from twisted.internet.defer import Deferred, DeferredList, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from flux.backends.postgres.connection import Link, Run, connect
from flux.backends.postgres.dsn import Dsn
from flux.backends.postgres.failures import AGAIN, away, complaint, first_line
from flux.errors import Unavailable
from flux.lifecycle import Deadlines, Outage, Tasks, backoff, sleep

P = ParamSpec("P")
T = TypeVar("T")

LOOK_AHEAD = 32
"""Ordered calls that are looked at for one that has nothing to do with those before it."""

COMPLAIN_EVERY = 5.0
"""Seconds between log lines about statements that the server could not do."""

Keys = Callable[[], Set[object]]
"""What an ordered call is about; asked only where two of them meet."""

PAUSES = (0.1, 2.0)
"""Seconds between attempts to connect: the first ones, and at most."""


class _Call(Generic[T]):
    """A call that waits or runs.

    :ivar deferred: None once it was fired.
    :ivar keys: None where it is not ordered, and when it has ended.
    :ivar seconds: until it fails, from when it was made.
    :ivar expires: when that is, once it is accepted.
    :ivar link: where it runs.
    """

    __slots__ = ("deferred", "expires", "keys", "link", "seconds", "work")

    def __init__(self, work: Callable[[Run], Awaitable[T]], keys: Keys | None, seconds: float) -> None:
        self.work = work
        self.keys = keys
        self.seconds = seconds
        self.expires = 0.0
        self.deferred: Deferred[T] | None = Deferred()
        self.link: Link | None = None

    def about(self) -> Set[object]:
        """What an ordered call is about."""
        return self.keys() if self.keys is not None else frozenset()

    def over(self) -> bool:
        """Whether it was told what became of it."""
        return self.deferred is None

    def forget(self) -> None:
        """Keep nothing of what it was about: it may be kept itself until its deadline."""
        self.work = _nothing
        self.keys = None

    def fire(self, outcome: T | Failure) -> None:
        """Hand the outcome to who waits for it, unless the deadline did so before."""
        deferred, self.deferred = self.deferred, None
        if deferred is None:
            return
        if isinstance(outcome, Failure):
            deferred.errback(outcome)
        else:
            deferred.callback(outcome)


class Pool:
    """Connections, and the calls that want one.

    :param prepare: sets each new connection up.
    :param size: connections.
    :param bound: calls that may wait or run; one more is refused at once.
    :param deadline: seconds until a call fails with ``Unavailable``. If it runs by then, its connection is closed;
        whether it was done is not known.
    """

    _log = Logger()

    def __init__(
        self,
        dsn: Dsn,
        reactor: Any,
        prepare: Callable[[Run], Awaitable[None]],
        *,
        size: int,
        bound: int,
        deadline: float,
        rng: random.Random,
    ) -> None:
        self.deadline = deadline
        self._reactor = reactor
        self._bound = bound
        self._rng = rng
        self._connect = partial(connect, dsn, reactor, prepare, self._lost)
        self._size = size
        self._links: set[Link] = set()
        self._idle: list[Link] = []
        self._ordered: deque[_Call[Any]] = deque()
        self._any: deque[_Call[Any]] = deque()
        self._ordering: list[_Call[Any]] = []
        self._deadlines: Deadlines[_Call[Any]] = Deadlines(reactor, _Call.over, self._expire)
        self._dispatching = False
        self._unfinished = 0
        self._complained = -COMPLAIN_EVERY
        self._open = False
        self._tasks = Tasks(self._log, reactor)
        self._outage = Outage(self._log, reactor)
        self._refused = Outage(self._log, reactor)
        self._ended: Deferred[None] | None = None

    async def start(self) -> None:
        """Open all connections.

        :raises Unavailable: one of them cannot be opened.
        """
        self._open = True
        connecting = [Deferred.fromCoroutine(self._connect()) for _ in range(self._size)]
        outcomes: list[tuple[bool, Any]] = await DeferredList(connecting, consumeErrors=True)
        self._links = {outcome for succeeded, outcome in outcomes if succeeded}
        self._idle = list(self._links)
        refusals = [outcome.value for succeeded, outcome in outcomes if not succeeded]
        if not refusals and any(link.closed for link in self._links):
            refusals = [Unavailable("store.dsn: a connection was lost at once")]
        if refusals:
            await self.stop()
            raise refusals[0]

    async def stop(self) -> None:
        """Refuse new calls, finish the accepted ones, close."""
        if not self._open:
            return
        self._open = False
        if self._unfinished:
            self._ended = Deferred()
            await self._ended
        self._deadlines.stop()
        await self._tasks.stop()
        for link in self._links:
            link.close()

    def call(
        self, work: Callable[Concatenate[Run, P], Awaitable[T]], *arguments: P.args, **named: P.kwargs
    ) -> Deferred[T]:
        """Run ``work`` on a connection. Fails with ``Unavailable`` where it cannot be accepted or takes too long."""
        return self._accept(_Call(lambda run: work(run, *arguments, **named), None, self.deadline))

    def call_in_order(
        self,
        keys: Keys,
        work: Callable[Concatenate[Run, P], Awaitable[T]],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> Deferred[T]:
        """The same after all ordered calls that were made before and share a key."""
        return self._accept(_Call(lambda run: work(run, *arguments, **named), keys, self.deadline))

    def call_until(
        self,
        expires: float,
        work: Callable[Concatenate[Run, P], Awaitable[T]],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> Deferred[T]:
        """As :meth:`call`, with a deadline on the reactor's clock."""
        seconds = max(0.0, expires - self._reactor.seconds())
        return self._accept(_Call(lambda run: work(run, *arguments, **named), None, seconds))

    def _accept(self, call: _Call[T]) -> Deferred[T]:
        if not self._open:
            return fail(Unavailable("the store is closed"))
        if not self._links:
            return fail(self._away())
        if self._unfinished >= self._bound:
            return fail(Unavailable(f"the store is overloaded: {self._bound} calls are waiting"))
        deferred = call.deferred
        assert deferred is not None
        self._unfinished += 1
        call.expires = self._reactor.seconds() + call.seconds
        self._deadlines.add(call.seconds, call)
        (self._any if call.keys is None else self._ordered).append(call)
        self._dispatch()
        return deferred

    # --- from waiting to running to done ---

    def _dispatch(self) -> None:
        if self._dispatching:
            return
        self._dispatching = True
        try:
            while self._idle and (call := self._next()) is not None:
                call.link = link = self._idle.pop()
                if call.keys is not None:
                    self._ordering.append(call)
                # It raises nothing, and Twisted logs it if it does.
                _ = Deferred.fromCoroutine(self._work(call, link))
        finally:
            self._dispatching = False

    def _next(self) -> _Call[Any] | None:
        if not self._ordering and (call := _first(self._ordered)):
            return call
        # The last free connection is for the first of the ordered ones, unless there is no other.
        if (self._ordering or len(self._idle) > 1 or len(self._links) == 1) and (call := _first(self._any)):
            return call
        return self._independent() if self._ordered else None

    def _independent(self) -> _Call[Any] | None:
        """The first ordered call that shares nothing with those that run, nor with those before it."""
        taken: set[object] = set()
        for call in self._ordering:
            taken |= call.about()
        for place, call in enumerate(self._ordered):
            keys = call.about()
            if call.deferred is not None and taken.isdisjoint(keys):
                del self._ordered[place]
                return call
            if place == LOOK_AHEAD:
                break
            taken |= keys
        return None

    async def _work(self, call: _Call[Any], link: Link) -> None:
        outcome: Any
        link.expires = call.expires
        try:
            try:
                outcome = await call.work(link.run)
            except psycopg2.Error as error:
                outcome = await self._repeat(call, link, error)
        except Exception as error:
            outcome = Failure()
            self._complain(error)
        if call.keys is not None:
            self._ordering.remove(call)
        if link in self._links:
            self._idle.append(link)
        # First, so that the database works while the outcome is told.
        self._dispatch()
        self._finish(call, outcome)

    async def _repeat(self, call: _Call[T], link: Link, error: psycopg2.Error) -> T:
        """Go on after an error that says that nothing was done and may be tried again; any other is raised."""
        for pause in backoff(0.01, 0.2, self._rng):
            if error.pgcode not in AGAIN or call.deferred is None:
                raise error
            self._log.warn("repeating what the database broke off: {error}", error=first_line(error))
            await sleep(pause, self._reactor)
            try:
                return await call.work(link.run)
            except psycopg2.Error as another:
                error = another
        raise AssertionError("pauses do not end")

    def _complain(self, error: Exception) -> None:
        """Log what the server has said, now and then: with a full disk there are hundreds a second."""
        cause = error.__cause__
        now = self._reactor.seconds()
        if isinstance(error, Unavailable) and cause is not None and now - self._complained >= COMPLAIN_EVERY:
            self._complained = now
            self._log.warn("store.dsn: {error}: {reason}", error=error.detail, reason=complaint(cause))

    def _finish(self, call: _Call[Any], outcome: Any) -> None:
        self._unfinished -= 1
        call.forget()
        call.fire(outcome)
        if self._ended is not None and not self._unfinished and not self._ended.called:
            self._ended.callback(None)

    def _expire(self, call: _Call[Any]) -> None:
        # Whoever asked has waited that long, also where a part of it was given to a call that others shared.
        late = Failure(away(f"the database did not answer within {self.deadline:g} s"))
        if call.link is None:
            self._finish(call, late)
        else:
            call.fire(late)
            call.link.abandon(f"a call took longer than {call.seconds:.3g} s")

    # --- losing connections and getting them back ---

    def _away(self) -> Unavailable:
        # Clients read this. Where the database is, and why it is away, is in the log.
        return away("the database is away")

    def _lost(self, link: Link, reason: str) -> None:
        if link not in self._links:
            return
        self._links.discard(link)
        if link in self._idle:
            self._idle.remove(link)
        self._outage.failed("connections to the database are lost: {reason}", reason=reason)
        if not self._links:
            for waiting in (self._ordered, self._any):
                while call := _first(waiting):
                    self._finish(call, Failure(self._away()))
        self._tasks.spawn(self._connect_again(), "connecting to the database")

    async def _connect_again(self) -> None:
        for pause in backoff(*PAUSES, self._rng):
            await sleep(pause, self._reactor)
            try:
                link = await self._connect()
            except Unavailable as error:
                self._refused.failed("no connection to the database: {error}", error=error.detail)
            else:
                break
        self._refused.over("the database takes connections again, after {seconds} s")
        self._links.add(link)
        if len(self._links) == self._size:
            self._outage.over("all connections to the database are there again, after {seconds} s")
        self._idle.append(link)
        self._dispatch()


async def _nothing(run: Run) -> Any:
    raise AssertionError("this call has ended")


def _first(waiting: deque[_Call[Any]]) -> _Call[Any] | None:
    """The first call that still waits; those whose deadline has passed are dropped."""
    while waiting:
        call = waiting.popleft()
        if call.deferred is not None:
            return call
    return None
