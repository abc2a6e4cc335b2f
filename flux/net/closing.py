"""Connections that were closed and still bring out their last lines.

A socket that is closed is gone only when the peer has taken everything that was written before, and a peer
that does not read never does.
"""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from flux.net.connection import Connection

LINGER = 5.0
"""Seconds a closed connection may take to bring out its last lines."""


class Closing:
    """Cuts closed connections that take longer than :data:`LINGER`."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._overdue: dict[Connection, IDelayedCall] = {}

    def begin(self, connection: Connection) -> None:
        """A connection is closed now."""
        self._overdue[connection] = self._clock.callLater(LINGER, connection.abort)

    def end(self, connection: Connection) -> None:
        """A connection is gone, closed before or not."""
        overdue = self._overdue.pop(connection, None)
        if overdue is not None and overdue.active():
            overdue.cancel()
