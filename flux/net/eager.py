"""TCP connections whose reads and writes take the short way.

Writing: Twisted's own transport puts every write into a buffer, registers for
writability and sends one reactor turn later: two system calls more and a turn of
latency for each answer.  :class:`EagerServer` and :class:`EagerClient` try ``send``
immediately when nothing is buffered, and buffer what the kernel did not take.

Reading: the reactor calls each connection that has something to read in a logging
context of its own, which costs as much as decoding a request.  Nothing here logs by
that context.  So the connections of a port share a poll (:class:`SharedPoll`) that is
itself one readable thing to the reactor::

    reactor's epoll ── port, timers, ...
          └─ SharedPoll, an epoll ── connection, connection, ...   (reading only)

Where the system has no epoll, the reactor reads them itself.
"""

from __future__ import annotations

import select
from typing import Any, cast

from twisted.internet import tcp
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

AT_ONCE = 1_000
"""Connections read before the reactor looks after everything else; the others come first in the next turn."""

ENDED_AT_ONCE = 10
"""Of those, the ones whose peer has closed: so many take a millisecond or two, as an end is more work than a line.
Where thousands leave at once, who stays does not wait for them."""

_ENDED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR if hasattr(select, "epoll") else 0


@implementer(IReadDescriptor)
class SharedPoll:
    """Reads the connections that have something to read, all in one turn of the reactor.

    The reactor knows of it while there are such connections.
    """

    log = Logger()

    def __init__(self, reactor: IReactorFDSet) -> None:
        self._reactor = reactor
        self._epoll = select.epoll()
        self._connections: dict[int, EagerServer] = {}

    def add(self, connection: EagerServer) -> None:
        """Read ``connection`` from now on."""
        number = connection.fileno()
        if number not in self._connections:
            if not self._connections:
                self._reactor.addReader(self)
            self._epoll.register(number, select.EPOLLIN | select.EPOLLRDHUP)
            self._connections[number] = connection

    def remove(self, connection: EagerServer) -> None:
        """Do not read ``connection`` any more; it is still open."""
        number = connection.fileno()
        if self._connections.pop(number, None) is not None:
            self._epoll.unregister(number)
            if not self._connections:
                self._reactor.removeReader(self)

    # --- the reactor's side ---

    def fileno(self) -> int:
        """What the reactor watches."""
        return self._epoll.fileno()

    def logPrefix(self) -> str:  # noqa: N802 - Twisted's name
        """For the log."""
        return "SharedPoll"

    def doRead(self) -> None:
        """Read every connection that has something; of those that ended, a few."""
        connections = self._connections
        ended = 0
        for number, events in self._epoll.poll(0, AT_ONCE):
            if events & _ENDED:
                ended += 1
                if ended > ENDED_AT_ONCE:
                    continue
            # One may have been removed by what another one brought.
            connection = connections.get(number)
            if connection is not None:
                lost: Exception | None
                try:
                    lost = connection.doRead()
                except Exception as error:
                    self.log.failure("reading from {connection} failed", connection=connection)
                    lost = error
                if lost is not None:
                    _disconnect(connection, lost)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor cannot watch the poll any more, so nobody would read these connections again."""
        for connection in list(self._connections.values()):
            connection.connectionLost(reason)


def _disconnect(connection: EagerServer, error: Exception) -> None:
    """Tell a connection that it ended while it was read, as the reactor does."""
    connection.stopReading()
    if isinstance(error, ConnectionDone):
        connection.readConnectionLost(Failure(error))
    else:
        connection.connectionLost(Failure(error))


class _Eager(tcp.Connection):
    """``write`` does not wait for writability.

    :ivar taken: bytes the kernel has taken so far, a sign of a reader that is alive.
    """

    taken = 0

    def write(self, data: bytes) -> None:
        """Send what the kernel takes now, buffer the rest."""
        if not self.dataBuffer and not self._tempDataLen and self.connected and not self.TLS:
            try:
                taken = self.socket.send(data)
            except OSError:
                # Full, or gone: in both cases the buffered path finds out at the right moment.
                taken = 0
            self.taken += taken
            if taken == len(data):
                return
            data = data[taken:]
        super().write(data)  # type: ignore[no-untyped-call]  # Twisted has no types there

    def writeSomeData(self, data: bytes) -> Any:
        """Send from the buffer, as Twisted does, and keep count."""
        result = super().writeSomeData(data)
        if isinstance(result, int) and result > 0:
            self.taken += result
        return result


class EagerClient(_Eager, tcp.Client):
    """A client's connection whose ``write`` does not wait for writability."""


class EagerServer(_Eager, tcp.Server):
    """A server connection whose ``write`` does not wait for writability, and that is read by a shared poll.

    :cvar high_water: bytes buffered above which the registered push producer is paused.
    :cvar shared_poll: reads the connections of the same port; None leaves that to the reactor.
    """

    high_water = 256 * 1024
    shared_poll: SharedPoll | None = None

    def startReading(self) -> None:  # noqa: N802 - Twisted's name
        """Wait for something to read."""
        if self.shared_poll is not None:
            self.shared_poll.add(self)
        else:
            super().startReading()  # type: ignore[no-untyped-call]  # Twisted has no types there

    def stopReading(self) -> None:  # noqa: N802 - Twisted's name
        """Do not read until :meth:`startReading`."""
        if self.shared_poll is not None:
            self.shared_poll.remove(self)
        else:
            super().stopReading()  # type: ignore[no-untyped-call]  # Twisted has no types there

    def _isSendBufferFull(self) -> bool:  # noqa: N802 - Twisted's name
        # Twisted's own limit is ``bufferSize``, which is also what every read allocates.
        return len(self.dataBuffer) - self.offset + self._tempDataLen > self.high_water


def make_eager(port: object, high_water: int) -> None:
    """Let the connections that ``port`` accepts from now on be eager, where it is a plain TCP port.

    :param high_water: bytes buffered above which a connection counts as too slow.
    """
    if isinstance(port, tcp.Port) and port.transport is tcp.Server:
        members = {
            "high_water": high_water,
            "shared_poll": SharedPoll(port.reactor) if hasattr(select, "epoll") else None,
        }
        port.transport = cast("type[tcp.Server]", type("EagerServer", (EagerServer,), members))


def hurry(transport: object) -> None:
    """Let a connection that we have made be eager, where it is one of plain TCP."""
    if type(transport) is tcp.Client:
        # The reactor makes them, and lets nobody choose the class.
        transport.__class__ = EagerClient
        # What is written in one turn is several segments now, which are not to wait for each other's acknowledgement.
        transport.setTcpNoDelay(True)
