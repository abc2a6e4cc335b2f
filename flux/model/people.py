"""Accounts: what is known of them, who knows whom, and who is kept out."""

from __future__ import annotations

from typing import Literal

from flux.model.base import Value

FriendStatus = Literal["pending", "accepted", "rejected"]
CodeCheck = Literal["accepted", "wrong", "unknown"]


class Profile(Value, frozen=True):
    """What everybody may know of an account."""

    id: int
    name: str
    nick: str = ""
    description: str = ""
    sex: str = ""
    icon: str = ""


class Ban(Value, frozen=True):
    """Somebody is kept out: an account, or the addresses of a network.

    :ivar uid: the account; 0 where it is a network.
    :ivar network: the addresses, ``10.0.0.0/8``; empty where it is an account.
    :ivar reason: for whoever is kept out, too; may be empty.
    :ivar at: since when.
    :ivar until: when it is over; 0: never.
    :ivar name: of the account.
    """

    uid: int = 0
    network: str = ""
    reason: str = ""
    at: int = 0
    until: int = 0
    name: str = ""


class Credentials(Value, frozen=True):
    """What a password login is checked against, and what its owner is shown then.

    :ivar email: the verified e-mail address; empty where there is none.
    :ivar ban: of the account, perhaps one that is over.
    """

    id: int
    name: str
    password_hash: str
    email: str = ""
    nick: str = ""
    description: str = ""
    sex: str = ""
    icon: str = ""
    ban: Ban | None = None


class Friend(Value, frozen=True):
    """A row of an account's friend list.

    ``mutual`` is False for a one-sided entry whose other side has not accepted
    yet (the numbered dialect makes those): such a friend shows as offline.
    """

    id: int
    name: str
    nick: str
    remark: str
    mutual: bool


class FriendRequest(Value, frozen=True, rename={"sender": "from"}):
    """A request that waits for an answer."""

    sender: int
    name: str
    note: str
    at: int
