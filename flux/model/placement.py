"""Chat servers: what they say of themselves, how placement sees them, and who is sent where."""

from __future__ import annotations

from typing import Literal

from flux.model.base import Value

NodeState = Literal["up", "draining", "unready", "down", "unknown"]
"""``unready``: it lives, and cannot serve whoever comes.

``unknown``: its lease would have ended by now, and whether it was renewed could not be read."""


def leased_state(draining: bool, why: str) -> NodeState:
    """The state of a server that holds a lease.

    :param draining: whether an admin drains it.
    :param why: what it says that keeps it from serving.
    """
    return "draining" if draining else "unready" if why else "up"


class Lease(Value, frozen=True):
    """What a chat node says of itself with every heartbeat.

    :ivar boot: from the store; the highest under a name is the only one that counts.
    :ivar capacity: most sessions it takes; 0 means no limit.
    :ivar ttl: seconds until the lease lapses by itself.
    :ivar websocket: where browsers connect, empty where they cannot.
    :ivar tls: whether clients begin with TLS.
    :ivar why: what keeps it from serving; empty where nothing does.
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
    why: str = ""


class Renewal(Value, frozen=True):
    """The answer to a heartbeat.

    :ivar lost: accounts whose route belongs to a higher session number now.
    :ivar draining: whether an admin asked this node to drain.
    :ivar superseded: another boot holds this name: this process has to go.
    :ivar strays: (account, session number) of some routes to this boot that it did not name, for it to
        release if it has no such sessions; a state that never loses a release need not look for them.
    :ivar restored: accounts that were named and had no route, a lower one, or one of a node that is gone; none where
        the state did not know this boot: it has been emptied, and has told nobody that they departed.
    :ivar departed: accounts whose routes were dropped since their nodes have died. Each is told to one node, once;
        perhaps not with the first heartbeat after the end of a lease, where there are many.
    """

    lost: tuple[int, ...]
    draining: bool
    superseded: bool
    strays: tuple[tuple[int, int], ...] = ()
    restored: tuple[int, ...] = ()
    departed: tuple[int, ...] = ()


class Node(Value, frozen=True):
    """A chat server as placement sees it.

    :ivar sessions: as of its last heartbeat.
    :ivar reserved: assignments not yet covered by a heartbeat.
    :ivar heartbeat_age: seconds since the last heartbeat; -1 for a static server that never sent one.
    :ivar websocket: where browsers connect, empty where they cannot.
    :ivar tls: whether clients begin with TLS.
    :ivar why: what is wrong with a server that is down or unready; empty where nothing is, or it has stopped in order.
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
    why: str = ""

    @property
    def load(self) -> int:
        """Sessions plus assignments that are still on their way."""
        return self.sessions + self.reserved


class Snapshot(Value, frozen=True):
    """Servers and load at one moment.

    :ivar nodes: one per live lease.
    :ivar reserved: live reservations per server name, leased or not.
    :ivar draining: names an admin put into draining.
    :ivar since: differs after the shared state has lost everything; the same for ever where that cannot be.
    """

    nodes: tuple[Node, ...]
    reserved: dict[str, int]
    draining: frozenset[str]
    since: str = ""


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
