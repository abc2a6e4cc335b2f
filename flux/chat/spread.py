"""Hints to the nodes of members who are not here.

The order matters: first the commit, then the look-up of the routes, never from a
cache.  A login claims its route first and then reads what is pending, so whichever of
the two comes second sees the other.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from flux.errors import FluxError
from flux.interfaces import IBus, IState
from flux.lifecycle import Tasks
from flux.metrics import ChatMetrics
from flux.model.bus import Hint
from flux.model.messages import Message

MAX_WAITING = 20_000
"""Messages waiting for a look-up; beyond, the receivers' sweeps find them."""

Outgoing = list[tuple[Message, int, list[int]]]


class Spread:
    """Looks up, batch by batch, where the receivers are, and publishes.

    :param is_self: whether a node and boot are this process.
    :ivar degraded: True when hints were lost: the node then sweeps more often.
    """

    log = Logger()

    def __init__(
        self, state: IState, bus: IBus, tasks: Tasks, is_self: Callable[[str, int], bool], metrics: ChatMetrics
    ) -> None:
        self.degraded = False
        self._state = state
        self._bus = bus
        self._tasks = tasks
        self._is_self = is_self
        self._metrics = metrics
        self._waiting: Outgoing = []
        self._running = False
        self._failing = False

    @property
    def waiting(self) -> int:
        """Messages that wait for a look-up."""
        return len(self._waiting)

    def hint(self, outgoing: Outgoing) -> None:
        """Tell the nodes of the receivers: (message, member version, receivers not here)."""
        if len(self._waiting) >= MAX_WAITING:
            self.degraded = True
            self._metrics.hints_lost.inc(len(outgoing))
            return
        self._waiting.extend(outgoing)
        if not self._running:
            self._running = True
            self._tasks.spawn(self._run(), "telling other nodes")

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    await self._publish(batch)
                except FluxError as error:
                    self.degraded = True
                    self._metrics.hints_lost.inc(len(batch))
                    # Once: with the shared state away this happens with every batch.
                    log = self.log.debug if self._failing else self.log.warn
                    self._failing = True
                    log("other nodes are not told of new messages, and look for them themselves: {error}", error=error)
                else:
                    if self._failing:
                        self._failing = False
                        self.log.info("other nodes can be told again")
        finally:
            self._running = False

    async def _publish(self, batch: Outgoing) -> None:
        routes = await self._state.routes(list({uid for _, _, uids in batch for uid in uids}))
        if not routes:
            return
        hints = 0
        for message, version, uids in batch:
            nodes: dict[tuple[str, int], list[int]] = {}
            for uid in uids:
                route = routes.get(uid)
                if route is not None and not self._is_self(route.node, route.boot):
                    nodes.setdefault((route.node, route.boot), []).append(uid)
            for (node, boot), here in nodes.items():
                await self._bus.publish(node, boot, Hint(message, version, tuple(here)))
            hints += len(nodes)
        self._metrics.hints.inc(hints)
