"""Messages: a ``Draft`` before the commit, a ``Receipt`` and a ``Message`` after it.

Each has its place in its chat, ``seq``; what the store is asked for later are pages of them, and the last of each chat.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from flux.model.base import Event, Value


class Draft(msgspec.Struct, gc=False):
    """A message somebody wants to send: ``to`` a user or, if that is 0, to ``group``.

    :ivar cid: empty where the client gave none; else it makes the send idempotent.
    """

    sender: int
    to: int
    group: int
    text: str
    cid: str = ""


class Receipt(msgspec.Struct, gc=False):
    """What became of a draft.

    :ivar version: the chat's member version under the lock of the append.
    """

    chat: int
    seq: int
    at: int
    duplicate: bool
    version: int


class Message(Event, frozen=True, tag="message", rename={"sender": "from"}):
    """A committed message; exactly one of ``to`` and ``group`` is set.

    :ivar name: the sender's name, so that a stranger's message can be shown.
    """

    chat: int
    seq: int
    sender: int
    name: str
    text: str
    at: int
    to: int | UnsetType = UNSET
    group: int | UnsetType = UNSET


class Page(Value, frozen=True):
    """A stretch of a chat's history, ascending by ``seq``."""

    chat: int
    messages: tuple[Message, ...]
    more: bool


class Conversation(Value, frozen=True):
    """A row of the conversation list.

    :ivar read_by: some other member has read everything up to this ``seq``, as far as that is shown: not in chats of
        more than ``SMALL_CHAT`` members, nor of who was blocked. 0 where nobody has read since joining.
    """

    chat: int
    name: str
    last: Message
    unread: int
    read: int
    to: int | UnsetType = UNSET
    group: int | UnsetType = UNSET
    read_by: int = 0
