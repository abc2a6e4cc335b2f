"""What nodes tell each other. All of it may get lost: the store knows the truth, and a sweep finds it."""

from __future__ import annotations

import msgspec

from flux.model.chats import MemberChange
from flux.model.events import KickReason, Notice
from flux.model.messages import Message


class BusEvent(msgspec.Struct, frozen=True, gc=False, tag_field="event"):
    """Base of what nodes tell each other."""


class Hint(BusEvent, frozen=True, tag="hint"):
    """A message was committed under member ``version``, in a store that had this ``past``; ``uids`` have their routes
    here."""

    message: Message
    version: int
    past: str
    uids: tuple[int, ...]


class Notify(BusEvent, frozen=True, tag="notify"):
    """Show ``notice`` to the sessions of ``uids``."""

    notice: Notice
    uids: tuple[int, ...]


class MembersChanged(BusEvent, frozen=True, tag="members"):
    """A group's members changed; a cache older than the change's version is stale."""

    change: MemberChange


class FriendsChanged(BusEvent, frozen=True, tag="friends"):
    """Two accounts are ``friends`` from now on, or not any more: they see each other come and go, or not.

    ``uids`` are those of the two that are told.
    """

    one: int
    other: int
    friends: bool
    uids: tuple[int, ...] = ()


class Online(BusEvent, frozen=True, tag="online"):
    """``uids`` are ``online``, or not any more, as their friends everywhere should see: their node died, or is back."""

    uids: tuple[int, ...]
    online: bool


Addressed = Hint | Notify | FriendsChanged
"""What is for accounts, wherever they are: ``uids``, which is the last of its fields."""


class Kick(BusEvent, frozen=True, tag="kick"):
    """Close the session of ``uid`` if its number is below ``below``; ``detail`` is what people are told."""

    uid: int
    below: int
    reason: KickReason
    detail: str = ""
