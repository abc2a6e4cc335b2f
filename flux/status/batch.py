"""What an assignment goes through: requests, the servers to choose from, and a batch of choices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from msgspec.structs import replace
from twisted.internet.defer import Deferred

from flux import tokens
from flux.model.placement import Assignment, Choice, Node


class Request:
    """Accounts that somebody waits for."""

    __slots__ = ("answer", "leaving", "uids")

    def __init__(self, uids: Sequence[int], leaving: str) -> None:
        self.uids = uids
        self.leaving = leaving
        self.answer: Deferred[list[Assignment]] = Deferred()


class Candidates:
    """The servers that may get a user, and their loads while a batch is being chosen."""

    def __init__(self, nodes: Sequence[Node], unanswered: Counter[str], leaving: Collection[str] = ()) -> None:
        self.nodes: list[Node] = []
        self.loads: dict[str, int] = {}
        for node in nodes:
            if node.state == "up" and node.weight > 0 and node.name not in leaving:
                extra = unanswered[node.name]
                self._add(replace(node, reserved=node.reserved + extra) if extra else node)
        self._reindex()

    def _add(self, node: Node) -> None:
        if not node.capacity or node.load < node.capacity:
            self.nodes.append(node)
            self.loads[node.name] = node.load

    def _reindex(self) -> None:
        self._index = {node.name: position for position, node in enumerate(self.nodes)}

    def __contains__(self, node: Node) -> bool:
        return node.name in self._index

    def take(self, node: Node) -> None:
        """One more is on the way to ``node``; a server that is full then is no candidate any more."""
        position = self._index[node.name]
        node = replace(self.nodes[position], reserved=self.nodes[position].reserved + 1)
        if node.capacity and node.load >= node.capacity:
            del self.nodes[position]
            del self.loads[node.name]
            self._reindex()
        else:
            self.nodes[position] = node
            self.loads[node.name] += 1


class Batch:
    """Requests and what was chosen for them."""

    def __init__(self) -> None:
        self.requests: list[tuple[Request, list[Assignment]]] = []
        self.choices: list[Choice] = []
        self.chosen: dict[int, tuple[Assignment, dict[str, int]]] = {}
        self.per_server: Counter[str] = Counter()
        #: Those for whom every server is full.
        self.turned_away: list[Request] = []

    def add(self, uid: int, node: Node, loads: dict[str, int], expires: int) -> Assignment:
        """``uid`` gets ``node``, and a fresh token."""
        token = tokens.new_token()
        assignment = Assignment(uid, node.host, node.port, node.name, token, expires, node.websocket, node.tls)
        self.chosen[uid] = assignment, loads
        self.choices.append(Choice(uid, node.name, tokens.digest(token)))
        self.per_server[node.name] += 1
        return assignment

    def undo(self, length: int) -> bool:
        """Take back all choices but the first ``length``; whether there were any."""
        undone = self.choices[length:]
        del self.choices[length:]
        for choice in undone:
            del self.chosen[choice.uid]
            self.per_server[choice.server] -= 1
        return bool(undone)

    def divided(self, up: Collection[str]) -> tuple[Batch, list[Request]]:
        """Those who got a server that is ``up``, and the requests of the others."""
        rest = Batch()
        again: set[int] = set()
        found = {uid for uid, (assignment, _) in self.chosen.items() if assignment.server not in up}
        while found - again:
            # Who is in two requests has one token, which the next one would revoke.
            again |= found
            found = {uid for request, _ in self.requests if not again.isdisjoint(request.uids) for uid in request.uids}
        others = []
        for request, assignments in self.requests:
            if again.isdisjoint(request.uids):
                rest.requests.append((request, assignments))
                rest.chosen.update({uid: self.chosen[uid] for uid in request.uids})
            else:
                others.append(request)
        rest.per_server.update(assignment.server for assignment, _ in rest.chosen.values())
        return rest, others
