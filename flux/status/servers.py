"""What the status service knows of the chat servers: one list out of three sources.

::

    leases and reservations (IState.snapshot) ─┐
    the static list of the configuration ──────┼──> Servers.nodes
    health checks of that list ────────────────┘

A server that holds a lease is described by it, and one of the static list that never
held one by its health check.  A server whose lease has ended is down, also where the
static list has it: a stopped process still accepts connections, so a health check
would vouch for it.

A lease that is gone before it could lapse was given up, in an orderly stop.  Where nobody
looked for as long as a lease lasts, that cannot be told.

Shared state that was emptied does not take the servers with it: for as long as they
need to report again, those that it knew before go on being known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace
from twisted.logger import Logger

from flux.addresses import HostPort
from flux.config import ChatServer
from flux.errors import NotFound
from flux.model.placement import Node, Snapshot

LATE = 1.5
"""Heartbeats after which one is missing: they are neither sent nor recorded on the dot."""

NEARLY = 0.9
"""Part of a lease after which one that is gone has lapsed: answers take their time, so ages are not exact."""

UNCHECKED = "it has not been asked yet"
UNSEEN = "it has stopped, or died, while the shared state was not looked at"
LAPSED = "its lease has lapsed"
NOT_BACK = "it has not reported since the shared state was emptied"

SHOWN_DOWN = 3600.0
"""Seconds a server whose lease has ended is still listed, as down."""


class Servers:
    """The chat servers and their loads.

    :param seconds: the clock.
    :param heartbeat: seconds between two reports of a server.
    :param lease: seconds after a report until the lease ends.
    :ivar nodes: all servers, those that are down included.
    """

    log = Logger()

    def __init__(
        self, seconds: Callable[[], float], heartbeat: float, lease: float, static: Sequence[ChatServer] = ()
    ) -> None:
        self.nodes: tuple[Node, ...] = ()
        self._seconds = seconds
        self._heartbeat = heartbeat
        self._lease = lease
        self._static = tuple(static)
        #: What is wrong with a server of the static list; empty where nothing is.
        self._problems: dict[str, str] = {}
        self._snapshot: Snapshot | None = None
        self._adopted = 0.0
        self._leased: dict[str, Node] = {}
        #: Servers that have not reported since the state was emptied, and how many were on their way to them then.
        self._remembered: dict[str, int] = {}
        self._remembered_until = 0.0
        #: When that was found out, the server then, and what was wrong; empty where it has stopped in an orderly way.
        self._ended: dict[str, tuple[float, Node, str]] = {}
        #: The state of each server that the log told of last.
        self._told: dict[str, str] = {}

    # --- what is known ---

    @property
    def stale(self) -> bool:
        """Whether there is no snapshot, or only one that is older than the servers' reports."""
        return self._snapshot is None or self.age > LATE * self._heartbeat

    @property
    def age(self) -> float:
        """Seconds since the snapshot was taken; -1 if there is none."""
        return self._seconds() - self._adopted if self._snapshot is not None else -1.0

    def has_lease(self, name: str) -> bool:
        """Whether the server holds a lease now, or has held one and lost it lately."""
        return name in self._leased or name in self._ended

    def find(self, name: str) -> Node:
        """:raises flux.errors.NotFound: no such server."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise NotFound(f"no chat server is called {name!r}")

    def listed(self) -> tuple[Node, ...]:
        """All servers as of now: heartbeats have aged since the snapshot, and whether leases that would have ended
        since then were renewed is unknown."""
        since = self.age

        def now(node: Node) -> Node:
            if node.heartbeat_age < 0:
                return node
            age = node.heartbeat_age + since
            known = node.state == "down" or age <= self._lease
            return replace(node, heartbeat_age=round(age, 3), state=node.state if known else "unknown")

        return tuple(map(now, self.nodes))

    # --- what is learnt ---

    def adopt(self, snapshot: Snapshot) -> None:
        """Go on with a new snapshot."""
        now = self._seconds()
        elapsed = now - self._adopted
        leased = {node.name: node for node in snapshot.nodes}
        known = {name: replace(node, heartbeat_age=node.heartbeat_age + elapsed) for name, node in self._leased.items()}
        before = self._snapshot.since if self._snapshot is not None else ""
        if before and snapshot.since and before != snapshot.since:
            self.log.warn(
                "the shared state was emptied, or has come back without its data: it knows {count} of {known} chat "
                "servers; the others are remembered for {seconds:g} s, until they report again",
                count=len(leased), known=len(known), seconds=LATE * self._heartbeat,
            )  # fmt: skip
            self._remembered = {name: node.reserved for name, node in known.items()}
            self._remembered_until = now + LATE * self._heartbeat
        missing = {name: reserved for name, reserved in self._remembered.items() if name not in leased}
        if now < self._remembered_until:
            for name, reserved in missing.items():
                # What is on its way now comes on top of what was when the state was emptied.
                leased[name] = replace(known[name], reserved=reserved + snapshot.reserved.get(name, 0))
            self._remembered = missing
        else:
            self._remembered = {}
        for name, node in known.items():
            if name not in leased:
                self._ended[name] = (now, node, NOT_BACK if name in missing else self._lapsed(node, elapsed))
        for name in leased:
            self._ended.pop(name, None)
        if self._ended:
            self._ended = {name: entry for name, entry in self._ended.items() if now - entry[0] < SHOWN_DOWN}
        self._leased = leased
        self._snapshot = snapshot
        self._adopted = now
        self._update()

    def _lapsed(self, node: Node, elapsed: float) -> str:
        """What is wrong with a server whose lease is gone since it was looked at ``elapsed`` seconds ago."""
        if node.heartbeat_age < NEARLY * self._lease:
            return ""
        well = node.heartbeat_age - elapsed <= LATE * self._heartbeat
        if well and elapsed > LATE * self._heartbeat:
            return UNSEEN
        return LAPSED

    def configure(self, static: Sequence[ChatServer]) -> None:
        """Go on with another static list; health is known of servers that are where they were."""
        same = set(self._static) & set(static)
        self._problems = {server.name: self._problems[server.name] for server in same if server.name in self._problems}
        for server in set(static) - same:
            self._ended.pop(server.name, None)
        self._static = tuple(static)
        self._update()

    def checked(self, name: str, problem: str) -> None:
        """A health check of a server of the static list has ended; ``problem`` is empty if it is healthy."""
        known = self._problems.get(name)
        if known is not None and bool(known) == bool(problem):
            return
        if any(server.name == name for server in self._static):
            self._problems[name] = problem
            self._update()

    # --- putting it together ---

    def _update(self) -> None:
        known = dict(self._leased)
        reserved: dict[str, int] = {}
        draining: frozenset[str] = frozenset()
        if self._snapshot is not None:
            reserved, draining = self._snapshot.reserved, self._snapshot.draining
        for name, (since, node, why) in self._ended.items():
            age, coming = node.heartbeat_age + self._adopted - since, reserved.get(name, 0)
            known[name] = replace(node, sessions=0, reserved=coming, state="down", heartbeat_age=age, why=why)
        for server in self._static:
            if server.name not in known:
                why = self._problems.get(server.name, UNCHECKED)
                known[server.name] = Node(
                    name=server.name,
                    host=server.host,
                    port=server.port,
                    reserved=reserved.get(server.name, 0),
                    capacity=server.capacity,
                    weight=server.weight,
                    tls=server.tls,
                    state="down" if why else "draining" if server.name in draining else "up",
                    why=why,
                )
        self.nodes = tuple(known.values())
        self._tell(known)

    def _tell(self, known: dict[str, Node]) -> None:
        """Log what has changed."""
        told = self._told
        if any(name not in known for name in told):
            self._told = told = {name: state for name, state in told.items() if name in known}
        for name, node in known.items():
            if told.get(name) == node.state or (node.heartbeat_age < 0 and name not in self._problems):
                continue
            told[name] = node.state
            why = f"{node.why}, last heartbeat {node.heartbeat_age:.0f} s ago" if node.why == LAPSED else node.why
            orderly = node.state == "down" and not why
            log = self.log.warn if why not in ("", UNSEEN) else self.log.info
            log(
                "chat server {server} at {where} {became}{why}",
                server=name, where=HostPort(node.host, node.port),
                became="has stopped" if orderly else f"is {node.state}", why=f": {why}" if why else "",
            )  # fmt: skip
