"""A connection that exchanges lines, however they are framed: order, and pressure in both directions.

::

    bytes -> cut() -> [backlog] -> line_received()              reading
    write() -> (gathered until the work is done) -> socket      writing

Reading is *held* while any reason for it stands (an answer is awaited, the peer
does not read what we write, it has to slow down): lines already here wait in the
backlog, and the transport stops reading as soon as more arrives.  So what one
connection can keep in memory is bounded by a chunk, whatever it pipelines.  And so is
the time it takes from the others: of many lines a few are worked on in each turn.

Writing is watched by a push producer of its own.  It must not be the protocol
itself: a full *write* buffer would then stop *reading* behind our back.

How lines lie in the bytes is for the subclasses: :class:`flux.net.lines.LineProtocol`,
:class:`flux.net.websocket.WebSocketProtocol`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, ClassVar

from twisted.internet import tcp
from twisted.internet.interfaces import IPushProducer, IReactorTime, ISSLTransport, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from flux.tls.layer import left_below, socket_below

#: Why reading is held; a connection may have several reasons at once.
BUSY = 1
CHOKED = 2
SLOWED = 4
FULL = 8
CLOSING = 16
STOPPING = 32
LAPSED = 64
TURN = 128
PACED = 256

#: Why a connection is closed, where the framing has a word for it: the codes of RFC 6455, section 7.4.1.
NORMAL = 1000
POLICY_VIOLATION = 1008
TOO_BIG = 1009

LINES_PER_TURN = 64
"""Lines of one connection after which it waits for the reactor's next turn, so that others have theirs: what is read
at once may be thousands."""

MAX_GATHERED = 64 * 1024
"""Bytes joined into one write: what is more would not be noticed to be too much for the peer."""


def _can_half_close(transport: Any) -> bool:
    """Whether a transport can end its writing alone: a socket's can, also behind a PROXY header; TLS cannot."""
    return isinstance(socket_below(transport), tcp.Connection) and not ISSLTransport.providedBy(transport)


class Gather:
    """Joins the lines written to a connection during one piece of work into one write.

    Work that writes to many connections, or often to one, runs between
    :meth:`begin` and :meth:`end`; outside, lines are written at once.
    """

    __slots__ = ("_depth", "_waiting")

    def __init__(self) -> None:
        self._depth = 0
        self._waiting: list[Connection] = []

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

    def joined(self, connection: Connection) -> bool:
        """Whether lines of ``connection`` wait now; it is then flushed at the end."""
        if not self._depth:
            return False
        self._waiting.append(connection)
        return True


@implementer(IPushProducer)
class _WriteSide:
    """Tells a connection when its peer does not keep up."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def pauseProducing(self) -> None:
        self._connection.choke()

    def resumeProducing(self) -> None:
        self._connection.unchoke()

    def stopProducing(self) -> None:
        """The connection is gone; :meth:`Connection.connectionLost` says so too."""


class Connection(Protocol):
    """A connection that exchanges lines.

    :param conn: a name for the log, unique in this process.
    :param gather: shared by all connections of a service.
    :param max_line: longest line accepted, in bytes.
    :param clock: the reactor, whose turns the connections share.
    :ivar choked: True while the peer does not take what was written to it.
    :ivar closed: True once nothing more will be written.
    :ivar heard: set whenever something arrives, for who looks (and resets it) now and then.
    :ivar probed: True while a sign of life is awaited that :meth:`probe` asked for.
    """

    log = Logger()

    #: Lines worked on in one turn.
    lines_per_turn: ClassVar[int] = LINES_PER_TURN

    def __init__(self, conn: str, gather: Gather, max_line: int, clock: IReactorTime) -> None:
        self.conn = conn
        self.max_line = max_line
        self.choked = False
        self.closed = False
        self.heard = False
        self.probed = False
        self._gather = gather
        self._clock = clock
        self._backlog: deque[bytes] | None = None
        self._uncut = False
        self._held = 0
        self._pumping = False
        self._paused = False
        self._out: list[bytes] = []
        self._gathered = 0

    # --- for the framing ---

    def cut(self) -> Iterable[bytes]:
        """Lines that have arrived and were not handed out yet.

        Asked while ``_uncut`` is set, and only when their turn has come; what cannot be
        cut is dealt with here, as nothing before it waits any more.
        """
        raise NotImplementedError

    def probe(self) -> None:
        """Ask the peer for a sign of life, where the framing has a way to; ``probed`` is then true."""

    # --- for who uses the lines ---

    def line_received(self, line: bytes) -> None:
        """A line arrived and its turn has come."""
        raise NotImplementedError

    def keeps_up(self) -> None:
        """The peer has taken everything again after having been choked."""

    def farewell(self) -> None:
        """The peer says goodbye, where the framing has a word for it; then the connection is closed."""

    # --- Twisted's side ---

    def connectionMade(self) -> None:
        """Watch the write side, and let the kernel notice dead peers."""
        transport = self.transport
        assert transport is not None
        transport.registerProducer(_WriteSide(self), True)  # type: ignore[attr-defined]
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
            transport.setTcpKeepAlive(True)

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

    def end_turn(self) -> None:
        """Go on in the reactor's next turn, when the other connections had theirs."""
        if not self._held & TURN:
            self.hold(TURN)
            self._clock.callLater(0, self.release, TURN)

    def _queue(self, lines: Iterable[bytes]) -> None:
        """Let ``lines`` wait, and read no more."""
        if self._held & CLOSING:
            return
        if self._backlog is None:
            self._backlog = lines if isinstance(lines, deque) else deque(lines)
        else:
            self._backlog.extend(lines)
        if not self._paused:
            self._paused = True
            self._reading(False)

    def _pump(self) -> None:
        backlog = self._backlog
        if backlog or self._uncut:
            self._backlog = None
            self._work(backlog or ())
        if self._paused and not self._held and not self._backlog:
            self._paused = False
            self._reading(True)

    def _work(self, lines: Iterable[bytes]) -> None:
        """Handle lines, and those still to be cut, until one makes the rest wait."""
        self._pumping = True
        self._gather.begin()
        try:
            rest = lines if isinstance(lines, deque) else deque(lines)
            left = self.lines_per_turn
            while True:
                while rest:
                    self.line_received(rest.popleft())
                    left -= 1
                    if not left and (rest or self._uncut):
                        self.end_turn()
                    if self._held:
                        break
                if self._held or not self._uncut:
                    break
                rest = deque(self.cut())
            if rest or (self._uncut and self._held):
                self._queue(rest)
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
        """Write a whole line, or several, their terminators included."""
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
        return not self._out and not left_below(transport)

    def taken(self) -> int:
        """Bytes the kernel has taken, where the transport counts them: a sign of progress."""
        return getattr(self.transport, "taken", 0)

    # --- ending ---

    def close(self, code: int = NORMAL) -> None:
        """Write what is left, then close; no more lines are worked on.

        :param code: why, for a peer whose framing has a word for it.
        """
        if not self.closed:
            self._end()
            self.transport.loseConnection()  # type: ignore[union-attr]

    def hang_up(self, code: int = NORMAL) -> None:
        """Close as :meth:`close` does, but hear the peer out.

        A socket that is closed with something unread resets the connection, and the
        peer may lose our last words. What comes from now on is read and forgotten
        until the peer closes as well; who calls sees to it that this takes an end.
        """
        if not self.closed:
            self._end()
            self._half_close()

    def _end(self) -> None:
        """Write what is left; from now on nothing is written or worked on."""
        self.flush()
        self.closed = True
        self.hold(CLOSING)
        self._backlog = None
        # A transport whose producer is paused resumes it when all is written, instead of closing.
        self.transport.unregisterProducer()  # type: ignore[union-attr]

    def _half_close(self) -> None:
        """Write no more and go on reading, where the transport can."""
        transport: Any = self.transport
        if _can_half_close(transport):
            transport.resumeProducing()
            transport.loseWriteConnection()
        else:
            transport.loseConnection()

    def abort(self) -> None:
        """Close at once; what the peer has not taken is dropped."""
        self.closed = True
        self.hold(CLOSING)
        self._out.clear()
        transport = self.transport
        if transport is not None:
            transport.abortConnection()  # type: ignore[attr-defined]
