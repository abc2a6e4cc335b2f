"""One account's dialogue on one connection: requests in, replies and events out.

A session knows nothing of sockets: the connection under it (TCP lines today) offers
``write``, ``hold``/``release``, ``choked`` and ``close``.  It decodes a line in the
connection's dialect, looks the request up in the table, and turns whatever the
function raises into the one ``error`` line the client gets.

Delivery keeps its marks here: ``live`` (messages may be written at once), ``apart``
(positions that differ from the chats' heads), ``chats``.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import UNSET
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from flux.chat.dispatch import TABLE, Function
from flux.chat.turns import LONG
from flux.errors import FluxError, Internal, NotLoggedIn, RateLimited
from flux.model.base import Event
from flux.model.chats import Cursor
from flux.model.events import Kicked, KickReason
from flux.model.messages import Receipt
from flux.model.sessions import Route
from flux.net.connection import BUSY, FULL, PACED, SLOWED
from flux.wire.catalogue import Rejected, Reply, Request
from flux.wire.mistakes import is_blank
from flux.wire.named import NamedDialect
from flux.wire.numbered import NumberedDialect
from flux.wire.replies import ListReply
from flux.wire.requests import Send

if TYPE_CHECKING:
    from flux.chat.node import ChatNode
    from flux.chat.positions import Chat
    from flux.chat.protocol import ChatConnection

MAX_UNSETTLED = 256
"""Sends of one connection that may wait for their commit before it is not read any more."""

FEW_UNSETTLED = MAX_UNSETTLED // 2
"""Fewer waiting than this, and it is read again."""

BURST = 10
"""Seconds for which ``requests_per_second`` may be used up at once, after a pause."""

PIECE = 16 * 1024
"""Bytes of an answer that count as one more request."""

Dialect = NamedDialect | NumberedDialect


class Session:
    """A connection's session, logged in or not yet.

    :ivar uid: the account, 0 before login.
    :ivar number: its session number.
    :ivar placed: True from ``login.ok`` until the session ends.
    :ivar left: per chat that the account is not in any more, the position it had.
    :ivar unacked: per chat the highest seq written that the cursor has not passed.
    :ivar received: per chat the cursor to be written to the store with the next batch.
    :ivar read: the same for the read cursor.
    :ivar friends: accounts that see this one come and go.
    :ivar blocked: accounts that this one has blocked.
    """

    __slots__ = (
        "_had_read", "_has_read", "_held_back", "_settled", "_unsettled", "acks", "apart", "blocked", "catching_up",
        "chats", "connection", "dialect", "ended", "friends", "left", "live", "name", "node", "number", "pinged",
        "placed", "read", "received", "uid", "unacked",
    )  # fmt: skip

    log = Logger()

    def __init__(self, node: ChatNode, connection: ChatConnection, dialect: Dialect) -> None:
        self.node = node
        self.connection = connection
        self.dialect = dialect
        self.uid = 0
        self.number = 0
        self.name = ""
        self.acks = False
        self.placed = False
        self.ended = False
        self.pinged = False
        self.live = False
        self.catching_up = False
        self.chats: list[Chat] = []
        self.friends: tuple[int, ...] = ()
        self.blocked: frozenset[int] = frozenset()
        # Most sessions are idle: their dictionaries are made when there is something to note.
        self.apart: dict[int, int] | None = None
        self.left: dict[int, int] | None = None
        self.unacked: dict[int, int] | None = None
        self.received: dict[int, int] | None = None
        self.read: dict[int, int] | None = None
        # The read cursors: those that have moved in this session, and all as they were before, which are many and few
        # of which are asked for: the chats, then up to where each was read.
        self._has_read: dict[int, int] | None = None
        self._had_read: array[int] | None = None
        self._held_back = False
        self._unsettled = 0
        self._settled: Deferred[None] | None = None

    @property
    def conn(self) -> str:
        """The connection's name in the log."""
        return self.connection.conn

    @property
    def stalled(self) -> bool:
        """True while nothing should be written: the peer does not keep up, or is gone."""
        return self.connection.choked or self.connection.closed

    @property
    def route(self) -> Route:
        """Where this session is."""
        return Route(self.node.name, self.node.boot, self.number)

    # --- requests ---

    def line(self, line: bytes) -> None:
        """A line whose turn has come."""
        try:
            request = self.dialect.decode(line, self.uid)
        except Rejected as rejected:
            if is_blank(line):
                return
            line = self.dialect.error(rejected.error, rejected.request, rejected.ref)
            if line:
                self.write(line)
            self.connection.bad_line(rejected)
            self._charge(1)
            return
        self.connection.bad_lines = 0
        function, waits, login, counts = TABLE[type(request)]
        if counts is False or not self.placed:
            self._charge(1)
        try:
            if not self.placed:
                if login:
                    raise NotLoggedIn("log in first")
            elif counts and self.node.limits.messages_per_second:
                self._pace(request)
            if waits:
                self.connection.hold(BUSY)
                self.node.requests.spawn(self._serve(function, request), f"answering {request.type()}")
                return
            reply = function(self, request)
        except Exception as error:
            self.fail(request, error)
        else:
            if reply is not None:
                self.reply(request, reply)  # type: ignore[arg-type]

    async def _serve(self, function: Function, request: Request) -> None:
        """Answer a request that has to wait for something."""
        try:
            # What was sent before takes effect before.
            await self.settle()
            reply = await function(self, request)  # type: ignore[misc]
            if isinstance(reply, ListReply):
                await self.node.turns.free()
            if reply is not None:
                self.reply(request, reply)
        except CancelledError:
            # The node stops.
            raise
        except Exception as error:
            self.fail(request, error)
        finally:
            self.connection.release(BUSY)

    def _pace(self, request: Request) -> None:
        """Let a burst of the account through, then one request per interval.

        :raises flux.errors.RateLimited: in the named dialect; the numbered one has no
            word for it, so its connection is read more slowly instead.
        """
        node, interval = self.node, 1.0 / self.node.limits.messages_per_second
        now = node.clock.seconds()
        wait = node.pace.wait(self.uid, interval, node.limits.messages_burst, now)
        if wait > 0:
            node.metrics.limited.inc()
            if not self.dialect.any_password:
                # Who goes on regardless has nothing of it.
                self._charge(1)
                raise RateLimited("too many requests; slow down", max(1, round(wait * 1000)))
        node.pace.take(self.uid, interval, now)
        if wait > 0:
            self.slow_down()

    def slow_down(self) -> None:
        """Where requests are not refused: read no more until the account owes only a burst."""
        node, rate = self.node, self.node.limits.messages_per_second
        if not rate or not self.dialect.any_password:
            return
        wait = node.pace.wait(self.uid, 1.0 / rate, node.limits.messages_burst + 1, node.clock.seconds())
        if wait > 0:
            self.connection.hold(SLOWED)
            node.clock.callLater(wait, self.connection.release, SLOWED)

    def _charge(self, count: int) -> None:
        """Count requests against ``requests_per_second``; of too many nothing is refused, the connection is read later.

        :param count: how many; an answer counts as so many, too.
        """
        node, rate = self.node, self.node.limits.requests_per_second
        if rate:
            node.asking.take(self.uid or self.conn, 1.0 / rate, node.clock.seconds(), count)
            wait = self._overdrawn()
            if wait > 0 and not self._held_back:
                self._held_back = True
                node.metrics.held_back.inc()
                self.connection.hold(PACED)
                node.clock.callLater(wait, self._go_on)

    def _go_on(self) -> None:
        """Read the connection again, unless what was still under way has cost something, too."""
        wait = self._overdrawn()
        if wait > 0 and not self.connection.closed:
            self.node.clock.callLater(wait, self._go_on)
        else:
            self._held_back = False
            self.connection.release(PACED)

    def _overdrawn(self) -> float:
        """Seconds until the account, or the connection that has none yet, owes no more than a burst."""
        node, rate = self.node, self.node.limits.requests_per_second
        if not rate:
            return 0.0
        return node.asking.wait(self.uid or self.conn, 1.0 / rate, rate * BURST, node.clock.seconds())

    def reply(self, request: Request, reply: Reply) -> None:
        """Answer ``request``."""
        line = self.dialect.reply(request, reply)
        if line:
            self.write(line)
            if len(line) >= PIECE:
                self._charge(len(line) // PIECE)
            if len(line) >= LONG:
                self.node.turns.use()

    def fail(self, request: Request, error: BaseException) -> None:
        """Answer ``request`` with what went wrong; a bug is logged and called ``internal``."""
        if not isinstance(error, FluxError):
            self.log.failure("answering {request} failed", request=request.type(), conn=self.conn)
            error = Internal("a bug in the server; it has been logged")
        line = self.dialect.error(error, request.type(), request.ref)
        if line and not self.connection.closed:
            self.write(line)

    # --- sending ---

    def sending(self) -> None:
        """A send waits for its commit."""
        self._unsettled += 1
        if self._unsettled >= MAX_UNSETTLED:
            self.connection.hold(FULL)

    async def settle(self) -> None:
        """Wait until all that was sent is committed and answered. One at a time may wait."""
        if self._unsettled:
            self._settled = Deferred()
            await self._settled

    def settled(self, request: Send, outcome: Receipt | FluxError) -> None:
        """A send was committed, or failed."""
        self._unsettled -= 1
        if not isinstance(outcome, Receipt):
            self.fail(request, outcome)
        elif not self.connection.closed:
            line = self.dialect.send_ok(request, outcome)
            if line:
                self.connection.write(line)
        if self._unsettled == FEW_UNSETTLED:
            self.connection.release(FULL)
        if not self._unsettled and self._settled is not None:
            settled, self._settled = self._settled, None
            settled.callback(None)

    # --- events ---

    def write(self, line: bytes) -> None:
        """Write a whole line."""
        self.connection.write(line)

    def show(self, event: Event) -> None:
        """Tell the client something that is not a message; dropped where it does not keep up."""
        self.show_line(self.dialect.event(event))

    def show_line(self, line: bytes) -> None:
        """The same with an event that is encoded already; empty where the dialect has no word for it."""
        if line and self.placed and not self.stalled:
            self.write(line)

    def push(self, chat: int, seq: int, line: bytes) -> None:
        """Write a message."""
        if self.unacked is None:
            self.pushed(chat, seq)
        else:
            self.unacked[chat] = seq
        self.connection.write(line)

    def pushed(self, chat: int, seq: int) -> None:
        """A message is being written; the cursor follows when it is known to have arrived."""
        if self.unacked is None:
            self.unacked = {}
            # Without acks it stays touched until all of this is confirmed.
            if not self.acks:
                self.node.cursors.touch(self)
        self.unacked[chat] = seq

    def sent(self, chat: int, seq: int) -> None:
        """The account's own message is next in its position: the cursor may pass it, unless others wait."""
        if self.unacked and chat in self.unacked:
            if not self.acks:
                self.unacked[chat] = seq
        elif self.received is None:
            self.advance(chat, seq)
        else:
            # It is the chat's head, so above whatever is noted.
            self.received[chat] = seq

    def advance(self, chat: int, seq: int) -> None:
        """Note that everything up to ``seq`` has arrived, to be written with the next batch."""
        if self.received is None:
            self.received = {}
            self.node.cursors.touch(self)
        self.received[chat] = max(seq, self.received.get(chat, 0))

    def has_read(self, cursors: Sequence[Cursor]) -> None:
        """Begin with these read cursors."""
        some = [cursor for cursor in cursors if cursor.read]
        self._has_read = None
        both = [cursor.chat for cursor in some] + [cursor.read for cursor in some]
        self._had_read = array("q", both) if some else None

    def advance_read(self, chat: int, seq: int) -> bool:
        """Note that everything up to ``seq`` has been read; whether that is more than before."""
        if seq <= self._read_up_to(chat):
            return False
        if self._has_read is None:
            self._has_read = {}
        self._has_read[chat] = seq
        if self.read is None:
            self.read = {}
            self.node.cursors.touch(self)
        self.read[chat] = seq
        return True

    def joined(self, chat: int, head: int) -> None:
        """It is a member since the chat reached up to ``head``, which counts as read, as in the store."""
        if head > self._read_up_to(chat):
            if self._has_read is None:
                self._has_read = {}
            self._has_read[chat] = head

    def _read_up_to(self, chat: int) -> int:
        """Up to where this chat has been read."""
        now = self._has_read.get(chat) if self._has_read is not None else None
        return self._before(chat) if now is None else now

    def _before(self, chat: int) -> int:
        """Up to where this chat was read when the session began."""
        both = self._had_read
        if both is None:
            return 0
        count = len(both) // 2
        try:
            return both[count + both.index(chat, 0, count)]
        except ValueError:
            return 0

    def bars(self, chat: Chat) -> bool:
        """Whether this account has blocked the other one of a one-to-one chat."""
        return bool(self.blocked) and not chat.group and not self.blocked.isdisjoint(chat.members)

    def confirm(self) -> None:
        """All that was written has left this process, and the client sends no ``received``."""
        unacked, self.unacked = self.unacked, None
        if unacked:
            for chat, seq in unacked.items():
                self.advance(chat, seq)

    # --- ending ---

    def kick(self, reason: KickReason, detail: str = "") -> None:
        """Tell the client why, for people in ``detail``, and close."""
        if not self.connection.closed:
            if reason == "takeover" and self.node.draining:
                self.log.info("user {uid} is on another server now", uid=self.uid, conn=self.conn)
            else:
                # A server that stops tells how many they were.
                tell = self.log.debug if reason == "shutdown" else self.log.info
                tell("kicked user {uid}: {reason}", uid=self.uid, reason=reason, conn=self.conn)
            self.node.metrics.kicked(reason)
            line = self.dialect.event(Kicked(reason, detail or UNSET))
            if line:
                self.write(line)
        self.node.end(self)
        self.connection.close()
