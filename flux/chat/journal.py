"""Group commit: the sends that arrive while a commit is running are the next transaction.

No timer decides when to commit: one batch is in flight, the next one gathers behind
it.  An idle node commits a lone message at once; a busy one commits hundreds for the
price of one, and the latency of each is that of a commit or two.

When a batch has been committed, the next one begins::

    at once                     where many wait: the store works while this one is told to everybody
    after one look at sockets   where few do: who was just told answers, and one commit does for all
    as soon as a message comes  where nothing waits and that was one message: there are few to answer it
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.errors import FluxError, Internal, Unavailable
from flux.interfaces import IStore
from flux.lifecycle import Tasks, insulated, turn
from flux.metrics import ChatMetrics
from flux.model.messages import Draft, Receipt

if TYPE_CHECKING:
    from flux.chat.session import Session
    from flux.wire.requests import Send

MAX_WAITING = 20_000
"""Drafts waiting for a commit; beyond, sends fail with ``unavailable`` at once."""

MAX_BATCH = 2_000
"""Drafts in one transaction: bounds how long a commit, and so every other send, takes."""

LARGE_BATCH = 256
"""Drafts from which on a batch costs hardly less per message by growing."""

Entry = tuple["Session", "Send", Draft]
"""A draft, with the session and the request that wait for its receipt."""


class Journal:
    """Feeds the store with batches of drafts.

    :param settle: called with each batch's entries and their outcomes, in order. Whatever it raises is logged.
    """

    log = Logger()

    def __init__(
        self,
        store: IStore,
        settle: Callable[[list[Entry], list[Receipt | FluxError]], None],
        tasks: Tasks,
        clock: IReactorTime,
        metrics: ChatMetrics | None = None,
    ) -> None:
        self._store = store
        self._settle = settle
        self._tasks = tasks
        self._clock = clock
        self._metrics = metrics or ChatMetrics()
        self._waiting: list[Entry] = []
        self._running = False
        self._idle: list[Deferred[None]] = []

    @property
    def waiting(self) -> int:
        """Drafts that wait for a commit."""
        return len(self._waiting)

    def append(self, entry: Entry) -> None:
        """Have the entry's draft committed.

        :raises flux.errors.Unavailable: too many are waiting already.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise Unavailable("too many messages are waiting to be stored; try again")
        self._waiting.append(entry)
        if not self._running:
            self._running = True
            self._tasks.spawn(self._commit_all(), "committing messages")

    async def flushed(self) -> None:
        """Wait until everything appended so far has been settled."""
        if self._running:
            done: Deferred[None] = Deferred()
            self._idle.append(done)
            await done

    async def _commit_all(self) -> None:
        try:
            ahead: Deferred[list[Receipt | FluxError]] | None = None
            batch = self._next()
            while batch:
                outcomes = await (ahead or self._commit(batch))
                settled, batch, ahead = batch, [], None
                if len(self._waiting) >= LARGE_BATCH:
                    batch = self._next()
                    ahead = Deferred.fromCoroutine(self._commit(batch))
                self._tell(settled, outcomes)
                if not batch:
                    if len(settled) > 1 or self._waiting:
                        await turn(self._clock)
                    batch = self._next()
        finally:
            self._running = False
            idle, self._idle = self._idle, []
            for done in idle:
                done.callback(None)

    def _next(self) -> list[Entry]:
        """What waits, as far as one batch takes it."""
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        return batch

    def _tell(self, batch: list[Entry], outcomes: list[Receipt | FluxError]) -> None:
        try:
            self._settle(batch, outcomes)
        except Exception:
            # Those who sent the next batch wait for theirs.
            self.log.failure("telling what became of {count} messages failed", count=len(batch))

    async def _commit(self, batch: list[Entry]) -> list[Receipt | FluxError]:
        began = self._clock.seconds()
        self._metrics.commit_messages.observe(len(batch))
        try:
            outcomes = await insulated(self._store.append([draft for _, _, draft in batch]))
            if len(outcomes) != len(batch):
                raise ValueError(f"{len(outcomes)} outcomes of {len(batch)} messages")
            self._metrics.commit_seconds.observe(self._clock.seconds() - began)
            return outcomes
        except FluxError as error:
            failure: FluxError = error
        except CancelledError:
            # The node stops, and nobody knows what became of it.
            raise
        except Exception:
            self.log.failure("a batch of {count} messages could not be stored", count=len(batch))
            failure = Internal("the message could not be stored")
        return [failure] * len(batch)
