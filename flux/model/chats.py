"""Chats: groups and their members, and where each account stands in its chats.

The members of a chat are known as of a *version*, which every change of members raises.
Of its messages its *head* is the highest ``seq``; the cursors of its members follow it.
"""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, UnsetType

from flux.model.base import Value

Role = Literal["owner", "admin", "member"]
GroupChangeKind = Literal["join", "leave", "add", "remove", "role"]


class Group(Value, frozen=True):
    """A group as one of its members sees it."""

    group: int
    chat: int
    name: str
    description: str
    role: Role


class Member(Value, frozen=True):
    """A member of a group, as another member sees it.

    :ivar barred: one of the two has blocked the other: whether this one is there is not shown.
    """

    id: int
    name: str
    role: Role
    barred: bool = False


class Participant(Value, frozen=True):
    """A member as delivery sees it: nothing below ``first`` is pushed or filled."""

    id: int
    first: int


class Membership(Value, frozen=True):
    """The members of a chat at one member version.

    :ivar group: False for a one-to-one chat, whose two members never change.
    """

    chat: int
    group: bool
    version: int
    head: int
    participants: tuple[Participant, ...]


class MemberChange(Value, frozen=True):
    """A committed change of a group's members.

    :ivar version: the member version it produced.
    :ivar head: the chat's head when it committed; a joining member's cursors.
    :ivar again: it was so already, and nothing was changed now.
    """

    chat: int
    id: int
    change: GroupChangeKind
    version: int
    head: int
    role: Role | UnsetType = UNSET
    again: bool = False


class Cursor(Value, frozen=True):
    """Where an account stands in one of its chats.

    :ivar peer: the other account of a one-to-one chat, 0 in a group.
    :ivar received: everything up to this ``seq`` has arrived.
    :ivar read: everything up to this ``seq`` has been read.
    :ivar unread: messages of others above ``read`` among the newest ``UNREAD_AMONG`` of the chat, counted up to
        ``UNREAD_CAP``.
    """

    chat: int
    peer: int
    received: int
    read: int
    head: int
    unread: int


UNREAD_CAP = 1000
"""``Cursor.unread`` stops counting here: 1000 means a thousand or more."""

UNREAD_AMONG = 10_000
"""The newest messages of a chat, among which ``Cursor.unread`` counts: who sends and never reads has any number of own
ones above ``read``."""


SMALL_CHAT = 50
"""In chats of at most this many members the others see who has read."""


class CursorMove(Value, frozen=True):
    """A cursor to advance, written under the session number that earned it.

    ``received`` or ``read`` is 0 where it does not move.
    """

    uid: int
    number: int
    chat: int
    received: int
    read: int
