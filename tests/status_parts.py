"""What the tests of the status service build on: settings, leases, and a shared state that answers when told to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import formatEvent
from zope.interface import implementer

from flux.backends.memory import MemoryState
from flux.config import ChatServer, Settings
from flux.interfaces import IBalancer
from flux.model.placement import Choice, Lease, Node, Snapshot


def settings(chatservers: Sequence[ChatServer] = (), **sections: dict[str, Any]) -> Settings:
    """The default settings with other values: ``settings(status={"balancer": "round_robin"})``."""
    default = Settings()
    changed = {name: replace(getattr(default, name), **values) for name, values in sections.items()}
    return replace(default, chatservers=tuple(chatservers), **changed)


def lease(name: str, sessions: int = 0, **changes: Any) -> Lease:
    values: dict[str, Any] = {
        "boot": 1,
        "host": f"{name}.example",
        "port": 8090,
        "capacity": 0,
        "weight": 1,
        "ttl": 10.0,
    }
    return Lease(name=name, sessions=sessions, **(values | changes))


def node(name: str, **changes: Any) -> Node:
    values: dict[str, Any] = {"host": f"{name}.example", "port": 8090, "heartbeat_age": 0.0}
    return Node(name=name, **(values | changes))


def texts(logged: Sequence[dict[str, Any]]) -> list[str]:
    """What captured log events say."""
    return [formatEvent(event) for event in logged]


def settled(clock: Clock) -> None:
    """Let the turns go by in which something is waiting to be done at once."""
    for _ in range(10):
        clock.advance(0)


class HeldState(MemoryState):
    """A shared state that does what it is asked at once, but answers ``assign`` and ``snapshot`` only when told to.

    :ivar held: the answers that are being held back, oldest first.
    :ivar assigned: the accounts of each call of ``assign``.
    :ivar problem: raised instead of an answer.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        super().__init__(seconds)
        self.holding = False
        self.held: list[tuple[Deferred[Snapshot], Snapshot]] = []
        self.assigned: list[list[int]] = []
        self.snapshots = 0
        self.problem: Exception | None = None

    def _answer(self, snapshot: Snapshot) -> Awaitable[Snapshot]:
        answer: Deferred[Snapshot] = Deferred()
        if self.problem is not None:
            answer.errback(self.problem)
        elif self.holding:
            self.held.append((answer, snapshot))
        else:
            answer.callback(snapshot)
        return answer

    async def assign(self, choices: Sequence[Choice], hold: float, token_ttl: float) -> Snapshot:
        self.assigned.append([choice.uid for choice in choices])
        return await self._answer(await super().assign(choices, hold, token_ttl))

    async def snapshot(self) -> Snapshot:
        self.snapshots += 1
        return await self._answer(await super().snapshot())

    def release(self) -> None:
        """Answer what has been held back longest."""
        answer, snapshot = self.held.pop(0)
        answer.callback(snapshot)


@implementer(IBalancer)
class First:
    """Always the first of the servers; keeps the loads it was shown."""

    name = "first"

    def __init__(self, rng: object = None) -> None:
        self.shown: list[dict[str, int]] = []

    def choose(self, uid: int, nodes: Sequence[Node]) -> Node | None:
        self.shown.append({node.name: node.load for node in nodes})
        return nodes[0] if nodes else None
