"""The named dialect: JSON objects told apart by ``type``, one per line.

What an event or reply looks like on the wire is what its struct looks like; this
module adds the line end and the upper bound of a line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from flux.errors import FluxError
from flux.model.base import Event
from flux.model.messages import Receipt
from flux.wire.catalogue import Rejected, Reply, Request, encode_error
from flux.wire.fields import Ref
from flux.wire.replies import ListReply, SendOk
from flux.wire.requests import CHAT, Send

MAX_REPLY = 1024 * 1024
"""Longest line to a client, in bytes, the line end included."""

MAX_ROW = 48 * 1024
"""No row of a list is longer, in bytes: a text has 8,000 characters, and JSON makes six bytes of some."""

FEW = MAX_REPLY // MAX_ROW - 1
"""So many rows have room, whatever is in them."""

MORE = b'"more":true,'
"""What a line has in addition where rows are missing."""

_encode = msgspec.json.Encoder().encode


class NamedDialect:
    """Stateless: one instance serves all connections."""

    name: ClassVar[str] = "named"
    #: Clients of this dialect know the password rules.
    any_password: ClassVar[bool] = False
    #: Cursors may move by ``received``.
    has_acks: ClassVar[bool] = True

    def decode(self, line: bytes, uid: int) -> Request:
        """:raises flux.wire.catalogue.Rejected: the line is no valid request."""
        return CHAT.decode(line)

    def event(self, event: Event) -> bytes:
        """The line that tells a client about ``event``."""
        return _encode(event) + b"\n"

    def reply(self, request: Request, reply: Reply) -> bytes:
        """The line that answers ``request``; lists give way where it would be too long."""
        reply.ref = request.ref
        if isinstance(reply, ListReply) and reply.rows() > FEW:
            _fill(reply)
        return _encode(reply) + b"\n"

    def send_ok(self, request: Send, receipt: Receipt) -> bytes:
        """The line that answers a ``send``, apart from :meth:`reply` because it is by far the most frequent."""
        return (
            _encode(
                SendOk(receipt.chat, receipt.seq, receipt.at, receipt.duplicate, request.cid or UNSET, ref=request.ref)
            )
            + b"\n"
        )

    def error(self, error: FluxError, request: str | UnsetType = UNSET, ref: Ref | UnsetType = UNSET) -> bytes:
        """The line that says what went wrong."""
        return _encode(encode_error(error, request, ref)) + b"\n"


NAMED = NamedDialect()


def sniff(line: bytes) -> bool:
    """Whether a connection's first line speaks the numbered dialect: ``msgid`` instead of ``type``."""
    try:
        first = msgspec.json.decode(line)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and "msgid" in first and "type" not in first


class _Rows:
    """A list on its way into a line.

    :ivar left: rows that were not encoded yet.
    """

    def __init__(self, rows: Sequence[object], from_end: bool) -> None:
        self.left = len(rows)
        self._rows = rows
        self._from_end = from_end
        self._chunks: list[memoryview] = []

    def encode(self, room: int) -> int:
        """Encode as many as surely have room, but at least one; return how many bytes they take."""
        count = min(self.left, max(1, room // MAX_ROW))
        begin = self.left - count if self._from_end else len(self._rows) - self.left
        # Without its brackets, and not copied: it may be long.
        chunk = memoryview(_encode(self._rows[begin : begin + count]))[1:-1]
        self.left -= count
        self._chunks.append(chunk)
        return len(chunk) + (len(self._chunks) > 1)

    def drop(self) -> None:
        """What was encoded last has no room."""
        self._chunks.pop()

    def joined(self) -> msgspec.Raw:
        """The list, as far as it was encoded."""
        pieces: list[bytes | memoryview] = [b"["]
        for chunk in reversed(self._chunks) if self._from_end else self._chunks:
            pieces += (chunk, b",")
        pieces[1:] = [*pieces[1:-1], b"]"]
        return msgspec.Raw(b"".join(pieces))


def _fill(reply: ListReply) -> None:
    """Put the rows into ``reply`` that have room, some of each list in turn, encoded.

    Of those that have none, one is encoded at most.
    """
    lists = {name: _Rows(getattr(reply, name), reply.keep_end) for name in reply.lists}
    for name in lists:
        setattr(reply, name, ())
    room = MAX_REPLY - len(_encode(reply)) - len(b"\n")
    turns = deque(rows for rows in lists.values() if rows.left)
    while turns:
        rows = turns.popleft()
        room -= rows.encode(room)
        if rows.left:
            turns.append(rows)
        if room < (len(MORE) if turns else 0):
            rows.drop()
            reply.more = True
            break
    for name, rows in lists.items():
        setattr(reply, name, rows.joined())


__all__ = ["MAX_REPLY", "NAMED", "NamedDialect", "Rejected", "sniff"]
