"""The named dialect: JSON objects told apart by ``type``, one per line.

What an event or reply looks like on the wire is what its struct looks like; this
module adds the line end and the upper bound of a line.
"""

from __future__ import annotations

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
        line = _encode(reply)
        if len(line) >= MAX_REPLY and isinstance(reply, ListReply):
            line = _shorten(reply, line)
        return line + b"\n"

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


def _shorten(reply: ListReply, line: bytes) -> bytes:
    """Cut the lists of ``reply`` in proportion until its line fits."""
    reply.more = True
    while len(line) >= MAX_REPLY and any(getattr(reply, name) for name in reply.lists):
        keep = MAX_REPLY / len(line) * 0.95
        for name in reply.lists:
            entries = getattr(reply, name)
            count = int(len(entries) * keep)
            setattr(reply, name, entries[len(entries) - count :] if reply.keep_end else entries[:count])
        line = _encode(reply)
    return line


__all__ = ["MAX_REPLY", "NAMED", "NamedDialect", "Rejected", "sniff"]
