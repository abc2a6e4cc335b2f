"""Cursor writes, gathered: once a second what moved goes to the store as one batch.

Losing a batch means sending those messages again, so nothing waits for it and a
failed one is simply tried again with the next, unless the store has gone back to an earlier
state meanwhile: then it would say of messages to come that they have been received.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.errors import FluxError
from flux.interfaces import IStore
from flux.lifecycle import Outage
from flux.metrics import ChatMetrics
from flux.model.chats import CursorMove

if TYPE_CHECKING:
    from flux.chat.session import Session

EVERY = 1.0
"""Seconds between batches."""

MAX_MOVES = 5_000
"""Moves in one call to the store."""


class Cursors:
    """Sessions whose cursors have moved since the last batch."""

    log = Logger()

    def __init__(self, store: IStore, metrics: ChatMetrics, clock: IReactorTime) -> None:
        self._store = store
        self._metrics = metrics
        self._touched: set[Session] = set()
        self._moves: list[CursorMove] = []
        self._forgotten = 0
        self._outage = Outage(self.log, clock)

    @property
    def waiting(self) -> int:
        """Sessions that have something to write."""
        return len(self._touched)

    def touch(self, session: Session) -> None:
        """``session`` has something to write, now or once its connection has drained."""
        self._touched.add(session)

    def collect(self, session: Session) -> None:
        """Take what a session that ends has earned."""
        self._touched.discard(session)
        self._take(session)

    def forget(self) -> None:
        """What was noted is of no use any more: the store has gone back to an earlier state."""
        self._touched.clear()
        self._moves.clear()
        self._forgotten += 1

    async def write(self) -> None:
        """Write what has moved. Errors are logged and the moves kept for the next time."""
        touched, self._touched = self._touched, set()
        for session in touched:
            if not session.acks and session.unacked is not None:
                if session.connection.drained():
                    session.confirm()
                    self._touched.discard(session)
                else:
                    self._touched.add(session)
            self._take(session)
        while self._moves:
            batch, self._moves = self._moves[:MAX_MOVES], self._moves[MAX_MOVES:]
            forgotten = self._forgotten
            try:
                await self._store.advance(batch)
                self._metrics.cursors.inc(len(batch))
                self._outage.over("cursors are written again, after {seconds} s")
            except FluxError as error:
                self._metrics.cursors_failed.inc()
                self._outage.failed(
                    "cursors cannot be written yet ({count} and those to come): {error}", count=len(batch), error=error
                )
                if forgotten == self._forgotten:
                    # Bounded: an older move is contained in a later one of the same session.
                    self._moves = (batch + self._moves)[-4 * MAX_MOVES :]
                return

    def _take(self, session: Session) -> None:
        received, session.received = session.received or {}, None
        read, session.read = session.read or {}, None
        for chat in received.keys() | read.keys():
            move = CursorMove(session.uid, session.number, chat, received.get(chat, 0), read.get(chat, 0))
            self._moves.append(move)
