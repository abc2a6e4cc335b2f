"""``received`` and ``read``, gathered: one line per chat every 200 ms or 50 messages.

A ``received`` belongs to the connection its message was pushed on: the server counts
it no further than that, and pushes again, on the next one, what it did not count.
A ``read`` is worth keeping: it waits for the next connection.  Once it is written nobody
knows what became of it, because it has no reply: it is lost when that connection turns out
to be dead.  The next ``read`` of the chat makes up for that.
"""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from flux.client.connection import Connection
from flux.wire.requests import Read, Received

GATHER = 0.2
"""Longest delay of an acknowledgement, in seconds."""
BATCH = 50
"""Messages of one chat after which it is acknowledged at once."""


class Cursors:
    """Positions of one account's chats that the server does not know yet."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._connection: Connection | None = None
        self._received: dict[int, int] = {}
        self._taken: dict[int, int] = {}
        self._read: dict[int, int] = {}
        self._timer: IDelayedCall | None = None

    def online(self, connection: Connection) -> None:
        """Write to ``connection`` from now on."""
        self.offline()
        self._connection = connection
        if self._read:
            self.flush()

    def offline(self) -> None:
        """Keep what is read; what arrived on the old connection comes again."""
        self._connection = None
        self._received.clear()
        self._taken.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def received(self, connection: Connection, chat: int, seq: int) -> None:
        """The application has taken the message that ``connection`` brought."""
        if connection is not self._connection:
            return
        # Ascending on one connection: the last one taken stands for all before it.
        self._received[chat] = seq
        self._taken[chat] = self._taken.get(chat, 0) + 1
        if self._taken[chat] >= BATCH:
            self._acknowledge(chat)
        else:
            self._schedule()

    def read(self, chat: int, seq: int) -> None:
        """The user has read everything in ``chat`` up to ``seq``; kept until it can be written."""
        if seq > self._read.get(chat, 0):
            self._read[chat] = seq
        self._schedule()

    def flush(self) -> None:
        """Write everything now, if there is a connection that can be used."""
        if self._timer is not None:
            self._timer.cancel()
        self._fire()

    def _schedule(self) -> None:
        if self._timer is None and self._connection is not None:
            self._timer = self._clock.callLater(GATHER, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._connection is None or not self._connection.alive:
            # Given up, it says so in a later turn only: what is read waits for the next one.
            return
        for chat in list(self._received):
            self._acknowledge(chat)
        read, self._read = self._read, {}
        for chat, seq in read.items():
            self._connection.tell(Read(chat=chat, seq=seq))

    def _acknowledge(self, chat: int) -> None:
        seq = self._received.pop(chat)
        self._taken.pop(chat, None)
        if self._connection is not None:
            self._connection.tell(Received(chat=chat, seq=seq))
