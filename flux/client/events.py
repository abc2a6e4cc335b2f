"""What happens to a session, told in the same stream as what the server pushes.

::

    login() ──> Online ──> Offline ──> Connecting ──> Online ──> ... ──> Ended
                  └── moved: Online again, at another address, without Offline
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from flux.model.events import Notice
from flux.model.messages import Message
from flux.wire.replies import LoginOk


@dataclass(frozen=True, slots=True)
class Connecting:
    """An attempt to reach ``host`` begins."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Online:
    """Logged in; missed messages follow.

    :ivar login: profile, friends, groups and unread counts as of this login.
    """

    login: LoginOk
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Offline:
    """The connection is gone; the next attempt begins in ``retry_in`` seconds."""

    reason: str
    retry_in: float


@dataclass(frozen=True, slots=True)
class Ended:
    """The session is over; nothing follows.

    :ivar reason: for programs: ``logout``, ``closed``, ``takeover``, ``admin``, ``password``,
        the name of the error with which the server refused to log in again,
        or ``internal`` where a mistake in the client has ended it, which the log tells of.
    :ivar detail: a sentence for people.
    """

    reason: str
    detail: str


State: TypeAlias = Connecting | Online | Offline | Ended
ClientEvent: TypeAlias = Message | Notice | State
