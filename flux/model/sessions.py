"""Sessions seen from outside: on which node an account is, and what an admin sees there."""

from __future__ import annotations

from flux.model.base import Value


class Route(Value, frozen=True):
    """Where an account's live session is. A higher session ``number`` wins."""

    node: str
    boot: int
    number: int


class Claim(Value, frozen=True):
    """The outcome of claiming a route.

    :ivar won: False when a higher number (or, without takeover, any live session) holds it.
    :ivar previous: the live route that was, or still is, there.
    """

    won: bool
    previous: Route | None


class SessionSeen(Value, frozen=True):
    """A session as an admin sees it.

    :ivar number: its session number.
    :ivar live: False while it is being brought up to date from the store.
    :ivar since: when its connection was made or last logged out, in seconds before now.
    """

    id: int
    name: str
    number: int
    address: str
    conn: str
    dialect: str
    chats: int
    live: bool
    since: float
