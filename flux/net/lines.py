"""The line protocol base: framing, order, and pressure in both directions.

::

    socket -> LineFramer -> [backlog] -> line_received()      reading
    write() -> (gathered until the turn's work is done) -> socket   writing

Reading is *held* while any reason for it stands (an answer is awaited, the peer
does not read what we write, it has to slow down): lines already here wait in the
backlog, and the transport stops reading as soon as more arrives.  So what one
connection can keep in memory is bounded by a chunk, whatever it pipelines.

Writing is watched by a push producer of its own.  It must not be the protocol
itself: a full *write* buffer would then stop *reading* behind our back.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from typing import Any

from twisted.internet import tcp
from twisted.internet.interfaces import IPushProducer, ISSLTransport, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from zope.interface import implementer

from flux.wire.framing import LineFramer

#: Why reading is held; a connection may have several reasons at once.
BUSY = 1
CHOKED = 2
SLOWED = 4
FULL = 8
CLOSING = 16
STOPPING = 32
LAPSED = 64

MAX_GATHERED = 64 * 1024
"""Bytes joined into one write: what is more would not be noticed to be too much for the peer."""

_HTTP = re.compile(rb"^(GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH|PRI) .* HTTP/\d")


def _can_half_close(transport: Any) -> bool:
    """Whether a transport can end its writing alone: a socket's can, also behind a PROXY header; TLS cannot."""
    socket = transport.transport if isinstance(transport, ProtocolWrapper) else transport
    return isinstance(socket, tcp.Connection) and not ISSLTransport.providedBy(transport)


class Gather:
    """Joins the lines written to a connection during one piece of work into one write.

    Work that writes to many connections, or often to one, runs between
    :meth:`begin` and :meth:`end`; outside, lines are written at once.
    """

    __slots__ = ("_depth", "_waiting")

    def __init__(self) -> None:
        self._depth = 0
        self._waiting: list[LineProtocol] = []

    def begin(self) -> None:
        """From now on lines wait."""
        self._depth += 1

    def end(self) -> None:
        """Write what has been waiting, when the outermost piece of work ends."""
        self._depth -= 1
        if not self._depth and self._waiting:
            waiting, self._waiting = self._waiting, []
            for connection in waiting:
                connection.flush()

    def joined(self, connection: LineProtocol) -> bool:
        """Whether lines of ``connection`` wait now; it is then flushed at the end."""
        if not self._depth:
            return False
        self._waiting.append(connection)
        return True


@implementer(IPushProducer)
class _WriteSide:
    """Tells a connection when its peer does not keep up."""

    __slots__ = ("_connection",)

    def __init__(self, connection: LineProtocol) -> None:
        self._connection = connection

    def pauseProducing(self) -> None:
        self._connection.choke()

    def resumeProducing(self) -> None:
        self._connection.unchoke()

    def stopProducing(self) -> None:
        """The connection is gone; :meth:`LineProtocol.connectionLost` says so too."""


class LineProtocol(Protocol):
    """A connection that exchanges lines.

    :param gather: shared by all connections of a service.
    :param max_line: longest line accepted, in bytes.
    :ivar conn: a name for the log, unique in this process.
    :ivar choked: True while the peer does not take what was written to it.
    :ivar closed: True once nothing more will be written.
    :ivar heard: set whenever something arrives, for who looks (and resets it) now and then.
    """

    log = Logger()

    def __init__(self, conn: str, gather: Gather, max_line: int) -> None:
        self.conn = conn
        self.choked = False
        self.closed = False
        self.heard = False
        self._gather = gather
        self._framer = LineFramer(max_line)
        self._backlog: deque[bytes] | None = None
        self._held = 0
        self._pumping = False
        self._paused = False
        self._started = False
        self._out: list[bytes] = []
        self._gathered = 0

    # --- for subclasses ---

    def line_received(self, line: bytes) -> None:
        """A line arrived and its turn has come."""
        raise NotImplementedError

    def line_too_long(self) -> None:
        """The peer sent a line over the limit and its turn has come: say so and close."""
        raise NotImplementedError

    def keeps_up(self) -> None:
        """The peer has taken everything again after having been choked."""

    def first_words(self, lines: list[bytes]) -> bool:
        """Something has arrived and no line was worked on yet; False where none of ``lines`` is to be."""
        if lines:
            self._started = True
            if _HTTP.match(lines[0]):
                self.log.warn("an HTTP request on a line port, closed", conn=self.conn)
                self.abort()
                return False
        return True

    # --- Twisted's side ---

    def connectionMade(self) -> None:
        """Watch the write side, and let the kernel notice dead peers."""
        transport = self.transport
        assert transport is not None
        transport.registerProducer(_WriteSide(self), True)  # type: ignore[attr-defined]
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
            transport.setTcpKeepAlive(True)

    def dataReceived(self, data: bytes) -> None:
        """Cut into lines and work on those whose turn has come."""
        lines = self._framer.feed(data)
        if not self._started and not self.first_words(lines):
            return
        self.heard = True
        if self._held or self._backlog:
            self._queue(lines)
        elif len(lines) == 1 and not self._framer.overflow:
            # By far the most frequent case; one line alone has nothing to be gathered with.
            self.line_received(lines[0])
        elif lines or self._framer.overflow:
            self._work(lines)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Nothing is written or worked on any more."""
        self.closed = True
        self._held |= CLOSING
        self._backlog = None
        self._out = []

    # --- reading ---

    def hold(self, reason: int) -> None:
        """Let lines wait until :meth:`release` is called with the same reason."""
        self._held |= reason

    def release(self, reason: int) -> None:
        """End one reason for waiting; work goes on when there is none left."""
        self._held &= ~reason
        if not self._held and not self._pumping:
            self._pump()

    def _queue(self, lines: Iterable[bytes]) -> None:
        if self._held & CLOSING:
            return
        if self._backlog is None:
            self._backlog = deque()
        self._backlog.extend(lines)
        if not self._paused:
            self._paused = True
            self._reading(False)

    def _pump(self) -> None:
        backlog = self._backlog
        if backlog or self._framer.overflow:
            self._backlog = None
            self._work(backlog or ())
        if self._paused and not self._held and not self._backlog:
            self._paused = False
            self._reading(True)

    def _work(self, lines: Iterable[bytes]) -> None:
        """Handle lines until one makes the rest wait."""
        self._pumping = True
        self._gather.begin()
        try:
            rest = iter(lines)
            for line in rest:
                self.line_received(line)
                if self._held:
                    left = list(rest)
                    if left:
                        self._queue(left)
                    break
            if self._framer.overflow and not self._backlog and not self._held:
                self.line_too_long()
        finally:
            self._pumping = False
            self._gather.end()

    def _reading(self, on: bool) -> None:
        transport = self.transport
        if transport is not None and not self.closed:
            if on:
                transport.resumeProducing()  # type: ignore[attr-defined]
            else:
                transport.pauseProducing()  # type: ignore[attr-defined]

    # --- writing ---

    def write(self, line: bytes) -> None:
        """Write a whole line, its terminator included."""
        out = self._out
        if out:
            out.append(line)
            self._gathered += len(line)
            if self._gathered > MAX_GATHERED:
                self.flush()
        elif not self.closed:
            if self._gather.joined(self):
                out.append(line)
                self._gathered = len(line)
            else:
                self.transport.write(line)  # type: ignore[union-attr]

    def flush(self) -> None:
        """Hand what was gathered to the transport."""
        out = self._out
        if out:
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))  # type: ignore[union-attr]
            out.clear()

    def choke(self) -> None:
        """The peer does not keep up: stop working for it."""
        self.choked = True
        self.hold(CHOKED)

    def unchoke(self) -> None:
        """The peer has taken everything."""
        self.choked = False
        if not self.closed:
            self.keeps_up()
            self.release(CHOKED)

    def drained(self) -> bool:
        """Whether everything written has left this process's buffers."""
        transport = self.transport
        return not self._out and not getattr(transport, "_tempDataLen", 0) and not getattr(transport, "dataBuffer", b"")

    def taken(self) -> int:
        """Bytes the kernel has taken, where the transport counts them: a sign of progress."""
        return getattr(self.transport, "taken", 0)

    # --- ending ---

    def close(self) -> None:
        """Write what is left, then close; no more lines are worked on."""
        if not self.closed:
            self.flush()
            self.closed = True
            self.hold(CLOSING)
            self._backlog = None
            transport: Any = self.transport
            # A transport whose producer is paused resumes it when all is written, instead of closing.
            transport.unregisterProducer()
            transport.loseConnection()

    def hang_up(self) -> None:
        """Close as :meth:`close` does, but hear the peer out.

        A socket that is closed with something unread resets the connection, and the
        peer may lose our last words. What comes from now on is read and forgotten
        until the peer closes as well; who calls sees to it that this takes an end.
        """
        transport: Any = self.transport
        if not _can_half_close(transport):
            self.close()
        elif not self.closed:
            self.flush()
            self.closed = True
            self.hold(CLOSING)
            self._backlog = None
            transport.unregisterProducer()
            transport.resumeProducing()
            transport.loseWriteConnection()

    def abort(self) -> None:
        """Close at once; what the peer has not taken is dropped."""
        self.closed = True
        self.hold(CLOSING)
        self._out.clear()
        transport = self.transport
        if transport is not None:
            transport.abortConnection()  # type: ignore[attr-defined]
