"""The values that travel between the parts: frozen, typed, without behaviour.

Three kinds live here.  *Records* come from the store (``Profile``, ``Group``,
``Cursor``, ``Overview`` ...).  *Events* are what clients are told (``Message``,
``Presence``, ``Kicked`` ...); their JSON form is the named dialect, and the same
bytes cross the bus between nodes.  *Placement* values (``Lease``, ``Node``,
``Route``, ``Assignment``) describe servers and who is where.

Identifiers are positive integers below 2**63; a group's id is its chat's id.
Times are milliseconds since the Unix epoch, UTC.  Fields that are absent on the
wire are ``UNSET``.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

Role = Literal["owner", "admin", "member"]
FriendStatus = Literal["pending", "accepted", "rejected"]
NodeState = Literal["up", "draining", "down"]
KickReason = Literal["takeover", "admin", "password", "slow", "shutdown"]
MoveReason = Literal["drain", "shutdown"]
GroupChangeKind = Literal["join", "leave", "add", "remove", "role"]
CodeCheck = Literal["accepted", "wrong", "unknown"]


class Value(msgspec.Struct, frozen=True, gc=False):
    """Base of the plain values."""


class Event(msgspec.Struct, frozen=True, gc=False, tag_field="type"):
    """Base of what a client is told without having asked."""


# --- records: accounts -------------------------------------------------------


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


# --- records: chats ----------------------------------------------------------


class Group(Value, frozen=True):
    """A group as one of its members sees it."""

    group: int
    chat: int
    name: str
    description: str
    role: Role


class Member(Value, frozen=True):
    """A member of a group, as the other members see it."""

    id: int
    name: str
    role: Role


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
    """

    chat: int
    id: int
    change: GroupChangeKind
    version: int
    head: int
    role: Role | UnsetType = UNSET


class Cursor(Value, frozen=True):
    """Where an account stands in one of its chats.

    :ivar peer: the other account of a one-to-one chat, 0 in a group.
    :ivar received: everything up to this ``seq`` has arrived.
    :ivar read: everything up to this ``seq`` has been read.
    :ivar unread: messages of others above ``read``, counted up to ``UNREAD_CAP``.
    """

    chat: int
    peer: int
    received: int
    read: int
    head: int
    unread: int


UNREAD_CAP = 1000
"""``Cursor.unread`` stops counting here: 1000 means a thousand or more."""


class Overview(Value, frozen=True):
    """All that a login needs, read in one snapshot begun after the call.

    :ivar session: the account's newest session number.
    :ivar ban: of the account, perhaps one that is over.
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


class CursorMove(Value, frozen=True):
    """A cursor to advance, written under the session number that earned it.

    ``received`` or ``read`` is 0 where it does not move.
    """

    uid: int
    number: int
    chat: int
    received: int
    read: int


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


# --- messages ----------------------------------------------------------------


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
    """A row of the conversation list."""

    chat: int
    name: str
    last: Message
    unread: int
    read: int
    to: int | UnsetType = UNSET
    group: int | UnsetType = UNSET


# --- events ------------------------------------------------------------------


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


# --- between nodes -----------------------------------------------------------


class BusEvent(msgspec.Struct, frozen=True, gc=False, tag_field="event"):
    """Base of what nodes tell each other."""


class Hint(BusEvent, frozen=True, tag="hint"):
    """A message was committed under member ``version``; ``uids`` have their routes here."""

    message: Message
    version: int
    uids: tuple[int, ...]


class Notify(BusEvent, frozen=True, tag="notify"):
    """Show ``notice`` to the sessions of ``uids``."""

    notice: Notice
    uids: tuple[int, ...]


class MembersChanged(BusEvent, frozen=True, tag="members"):
    """A group's members changed; a cache older than the change's version is stale."""

    change: MemberChange


class FriendsChanged(BusEvent, frozen=True, tag="friends"):
    """Two accounts are ``friends`` from now on, or not any more: they see each other come and go, or not."""

    one: int
    other: int
    friends: bool


class Kick(BusEvent, frozen=True, tag="kick"):
    """Close the session of ``uid`` if its number is below ``below``; ``detail`` is what people are told."""

    uid: int
    below: int
    reason: KickReason
    detail: str = ""


# --- placement ---------------------------------------------------------------


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


class Lease(Value, frozen=True):
    """What a chat node says of itself with every heartbeat.

    :ivar boot: from the store; the highest under a name is the only one that counts.
    :ivar capacity: most sessions it takes; 0 means no limit.
    :ivar ttl: seconds until the lease lapses by itself.
    :ivar websocket: where browsers connect, empty where they cannot.
    :ivar tls: whether clients begin with TLS.
    """

    name: str
    boot: int
    host: str
    port: int
    sessions: int
    capacity: int
    weight: int
    ttl: float
    websocket: str = ""
    tls: bool = False


class Renewal(Value, frozen=True):
    """The answer to a heartbeat.

    :ivar lost: accounts whose route belongs to a higher session number now.
    :ivar draining: whether an admin asked this node to drain.
    :ivar superseded: another boot holds this name: this process has to go.
    :ivar strays: (account, session number) of some routes to this boot that it did not name, for it to
        release if it has no such sessions; a state that never loses a release need not look for them.
    """

    lost: tuple[int, ...]
    draining: bool
    superseded: bool
    strays: tuple[tuple[int, int], ...] = ()


class Node(Value, frozen=True):
    """A chat server as placement sees it.

    :ivar sessions: as of its last heartbeat.
    :ivar reserved: assignments not yet covered by a heartbeat.
    :ivar heartbeat_age: seconds since the last heartbeat; -1 for a static server that never sent one.
    :ivar websocket: where browsers connect, empty where they cannot.
    :ivar tls: whether clients begin with TLS.
    """

    name: str
    host: str
    port: int
    sessions: int = 0
    reserved: int = 0
    capacity: int = 0
    weight: int = 1
    state: NodeState = "up"
    heartbeat_age: float = -1.0
    websocket: str = ""
    tls: bool = False

    @property
    def load(self) -> int:
        """Sessions plus assignments that are still on their way."""
        return self.sessions + self.reserved


class Snapshot(Value, frozen=True):
    """Servers and load at one moment.

    :ivar nodes: one per live lease.
    :ivar reserved: live reservations per server name, leased or not.
    :ivar draining: names an admin put into draining.
    """

    nodes: tuple[Node, ...]
    reserved: dict[str, int]
    draining: frozenset[str]


class Choice(Value, frozen=True):
    """An assignment to record: reservation and token in one step."""

    uid: int
    server: str
    token_digest: bytes


class Assignment(Value, frozen=True):
    """What a user is told: connect there, by TLS or not, with this token before ``expires`` (ms); browsers to
    ``websocket``."""

    uid: int
    host: str
    port: int
    server: str
    token: str
    expires: int
    websocket: str = ""
    tls: bool = False


# --- operations --------------------------------------------------------------


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
