"""What clients are told without having asked, besides messages.

Each is a line of the named dialect: its tag is the line's ``type``.
"""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, UnsetType

from flux.model.base import Event
from flux.model.chats import GroupChangeKind, Role
from flux.model.people import FriendStatus

KickReason = Literal["takeover", "admin", "password", "slow", "shutdown"]
MoveReason = Literal["drain", "shutdown"]


class ReadUpTo(Event, frozen=True, tag="read"):
    """A member of a small chat has read everything up to ``seq``."""

    chat: int
    id: int
    seq: int


class Typing(Event, frozen=True, tag="typing", rename={"sender": "from"}):
    """Somebody is typing."""

    chat: int
    sender: int


class Presence(Event, frozen=True, tag="presence"):
    """A friend came online or went offline."""

    id: int
    online: bool


class FriendRequested(Event, frozen=True, tag="friend.requested", rename={"sender": "from"}):
    """Somebody asks to be a friend."""

    sender: int
    name: str
    note: str


class FriendAnswered(Event, frozen=True, tag="friend.answered"):
    """A friend request of ours was answered."""

    id: int
    status: FriendStatus


class GroupChanged(Event, frozen=True, tag="group.changed"):
    """A group's members or roles changed."""

    group: int
    change: GroupChangeKind
    id: int
    role: Role | UnsetType = UNSET


class Kicked(Event, frozen=True, tag="kicked"):
    """The server is about to close this connection; ``detail`` is for people."""

    reason: KickReason
    detail: str | UnsetType = UNSET


class Moved(Event, frozen=True, tag="moved"):
    """Connect there instead; ``grace`` is how many ms this connection still lives."""

    host: str
    port: int
    reason: MoveReason
    grace: int
    token: str | UnsetType = UNSET
    server: str | UnsetType = UNSET
    websocket: str | UnsetType = UNSET
    tls: bool | UnsetType = UNSET


Notice = ReadUpTo | Typing | Presence | FriendRequested | FriendAnswered | GroupChanged
"""Events that are hints for people: lost ones are not repeated, a login shows the state anew."""
