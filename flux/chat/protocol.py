"""A client's connection, whatever its framing, and the chat port, whose framing is lines.

::

    Connection  <──  ChatConnection  <──  LineConnection (with LineProtocol)
                                     <──  flux.chat.websocket.WebSocketConnection

A connection makes a session, which does the rest.  What concerns the connection alone
is here: bad lines, what is said at its end, how many connections one address may have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from flux.chat.session import Dialect, Session
from flux.errors import FluxError, LineTooLong, RateLimited
from flux.net.connection import CLOSING, NORMAL, POLICY_VIOLATION, TOO_BIG, Connection
from flux.net.lines import LineProtocol
from flux.tls.layer import socket_below
from flux.wire.catalogue import Rejected
from flux.wire.mistakes import is_blank
from flux.wire.named import NAMED, sniff
from flux.wire.numbered import NUMBERED

if TYPE_CHECKING:
    from flux.chat.node import ChatNode


class ChatConnection(Connection):
    """A client's connection; a subclass adds the framing.

    :param proxy: who connected, where a PROXY header is to tell on whose behalf.
    :ivar address: the client's, without the port; empty until the header was read.
    :ivar born: when it was made or last logged out, on the node's coarse clock.
    :ivar seen: when it was last found to have sent something, on the same clock.
    :ivar bad_lines: how many lines in a row were no valid request.
    """

    log = Logger()

    def __init__(self, node: ChatNode, conn: str, address: str, proxy: IAddress | None = None) -> None:
        super().__init__(conn, node.gather, node.limits.max_line, node.clock)
        self.node = node
        self.address = address
        self._proxy = proxy
        self.session: Session | None = None
        self.bad_lines = 0
        self.born = self.seen = node.now
        self.stuck_at = -1
        self.stuck_since = 0.0

    def connectionMade(self) -> None:
        """Join the node's connections."""
        super().connectionMade()
        self.node.connections.add(self)
        if self.address:
            self._count()

    def look_who(self) -> None:
        """Find out whether a proxy has told by now whose connection this is, though the client says nothing."""
        assert self.transport is not None
        peer = self.transport.getPeer()
        if peer != self._proxy:
            self._introduce(peer)

    def _introduce(self, peer: IAddress) -> None:
        self.address = _host(peer)
        self._count()

    def _count(self) -> None:
        """Be sent away where the address has too many connections, or is banned."""
        if not self.node.connections.count(self):
            error = RateLimited("too many connections from this address", 1000)
            self.write(NAMED.error(error))
            self.close()
            return
        self.look_for_ban()

    def look_for_ban(self) -> None:
        """Be turned away where the address is banned; for who may log in now."""
        refusal = self.node.bans.refusal(self.address)
        if refusal is not None:
            self.turn_away(refusal)

    def turn_away(self, refusal: FluxError) -> None:
        """The address is banned: say so, and hear the client out, which is about to log in."""
        self.node.metrics.banned.inc()
        self.write(NAMED.error(refusal))
        self.hang_up(POLICY_VIOLATION)
        if self.session is not None:
            self.node.end(self.session)

    def misbehaved(self, kind: str) -> None:
        """The client does what none does that works: it is closed, and that counts towards a ban."""
        self.node.metrics.bad_lines.inc()
        self.node.bans.offence(kind, self.address)

    def line_received(self, line: bytes) -> None:
        """Hand a line to the session; the first one makes it."""
        session = self.session
        if session is None:
            if is_blank(line):
                return
            session = self.session = Session(self.node, self, self.dialect_of(line))
        session.line(line)

    def dialect_of(self, first: bytes) -> Dialect:
        """The dialect that this connection speaks, now that its first line is here."""
        return NAMED

    def choke(self) -> None:
        """From now on messages leave the session behind, until it has been filled."""
        super().choke()
        if self.session is not None:
            self.session.live = False

    def close(self, code: int = NORMAL) -> None:
        """The session ends at once: what is not written now is for the next one."""
        super().close(code)
        if self.session is not None:
            self.node.end(self.session)

    def abort(self) -> None:
        """The same; what may not have left is not counted as received."""
        if self.session is not None:
            self.session.unacked = None
        super().abort()
        if self.session is not None:
            self.node.end(self.session)

    def restart(self) -> None:
        """The session has logged out and the connection stays: begin anew in the same dialect."""
        if self.session is not None:
            self.session = Session(self.node, self, self.session.dialect)
            self.born = self.node.now

    def bad_line(self, rejected: Rejected) -> None:
        """Count a line that was no valid request; too many in a row end the connection."""
        self.bad_lines += 1
        limit = self.node.limits.max_errors
        if limit and self.bad_lines >= limit:
            self.log.warn(
                "{count} bad lines in a row from {address}, closed; the last: {error}",
                count=self.bad_lines, address=self.address, error=rejected.error, conn=self.conn,
            )  # fmt: skip
            self.misbehaved("bad_lines")
            self.finish(b"", POLICY_VIOLATION)

    def finish(self, last: bytes, code: int) -> None:
        """Read nothing more; when what was sent before is answered, write ``last`` and close."""
        self.hold(CLOSING)
        self.node.tasks.spawn(self._finish(last, code), "closing after the last answer")

    async def _finish(self, last: bytes, code: int) -> None:
        if self.session is not None:
            await self.session.settle()
        if last:
            self.write(last)
        self.hang_up(code)
        if self.session is not None:
            self.node.end(self.session)

    def keeps_up(self) -> None:
        """Fill the session with what it missed while it did not read."""
        if self.session is not None and self.session.placed:
            self.node.delivery.catchup.fall_behind(self.session)

    def farewell(self) -> None:
        """The peer leaves of its own will: what it was sent has arrived, if all of it has left this process."""
        if self.session is not None and not self.session.acks and self.drained() and not self.choked:
            self.session.confirm()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The session ends with its connection."""
        if reason.check(ConnectionDone):
            self.farewell()
        if not self.address and not self.closed and getattr(socket_below(self.transport), "disconnecting", False):
            # What reads the header has closed the connection, nobody else did.
            self.node.connections.without_header(_host(self._proxy))
        left = not self.closed
        super().connectionLost(reason)
        if self.session is not None:
            if left and self.session.placed:
                why = "has closed the connection" if reason.check(ConnectionDone) else "has lost the connection"
                self.log.info("user {uid} {why}", uid=self.session.uid, why=why, conn=self.conn)
            self.node.end(self.session)
            # The session knows its connection: without this both would wait for the garbage collector.
            self.session = None
        # Last: a node that stops waits for this, and then writes the cursors.
        self.node.disconnected(self)


class LineConnection(ChatConnection, LineProtocol):
    """A connection to the chat port; its first line decides about the dialect."""

    def first_words(self, lines: list[bytes]) -> bool:
        """By now a proxy has told whose connection this is."""
        if not self.address:
            assert self.transport is not None
            self._introduce(self.transport.getPeer())
        return super().first_words(lines)

    def not_lines(self) -> None:
        """An HTTP request: a web page that tries, or a scanner."""
        self.misbehaved("bad_lines")

    def dialect_of(self, first: bytes) -> Dialect:
        return NUMBERED[self._framer.terminator] if sniff(first) else NAMED

    def line_too_long(self) -> None:
        """Say so, and close: what follows cannot be framed."""
        limit = self.max_line
        self.log.warn(
            "a line of more than {limit} bytes from {address}, closed",
            limit=limit, address=self.address, conn=self.conn,
        )  # fmt: skip
        self.misbehaved("bad_lines")
        dialect = self.session.dialect if self.session else NAMED
        self.finish(dialect.error(LineTooLong(f"at most {limit} bytes")), TOO_BIG)


class ChatFactory(Factory):
    """Makes the connections of the chat port.

    :param proxied: what listens expects a PROXY header (``haproxy:``), so the peer is not the client.
    :param noisy: Twisted's own start and stop lines say nothing an admin needs.
    """

    noisy = False

    def __init__(self, node: ChatNode, proxied: bool = False) -> None:
        self._node = node
        self._proxied = proxied
        self._count = 0

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """A connection from ``addr``."""
        self._count += 1
        conn = f"c{self._count}"
        if self._proxied:
            return LineConnection(self._node, conn, "", addr)
        return LineConnection(self._node, conn, _host(addr))


def _host(peer: IAddress | None) -> str:
    return getattr(peer, "host", "local")
