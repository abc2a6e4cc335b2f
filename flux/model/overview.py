"""The store at a glance: what a login reads of its account, and what a sweep reads of everything."""

from __future__ import annotations

from flux.model.base import Value
from flux.model.chats import Cursor, Group
from flux.model.people import Ban, Friend, FriendRequest, Profile


class Overview(Value, frozen=True):
    """All that a login needs, read in one snapshot begun after the call.

    :ivar session: the account's newest session number.
    :ivar ban: of the account, perhaps one that is over.
    :ivar blocked: whom the account has blocked, by id.
    :ivar password_hash: for logins by password, which look whether it is still the one they have checked.
    """

    profile: Profile
    friends: tuple[Friend, ...]
    requests: tuple[FriendRequest, ...]
    groups: tuple[Group, ...]
    cursors: tuple[Cursor, ...]
    session: int
    ban: Ban | None = None
    password_hash: str = ""
    blocked: tuple[int, ...] = ()


class Changes(Value, frozen=True):
    """What moved in the store since a mark (see ``IStore.changes``).

    :ivar mark: opaque; hand it to the next call.
    :ivar heads: (chat, head) of the chats that got messages.
    :ivar members: (chat, member version) of the chats that came to be or changed members.
    :ivar sessions: (account, newest session number) of the accounts that logged in.
    :ivar complete: False when the mark was too old to answer exactly: then
        everything has to be compared.
    :ivar reset: True where, besides, the store has gone back to an earlier state, or is another
        one: heads, members and session numbers may be lower than they were.
    """

    mark: int
    heads: tuple[tuple[int, int], ...]
    sessions: tuple[tuple[int, int], ...]
    complete: bool = True
    members: tuple[tuple[int, int], ...] = ()
    reset: bool = False
