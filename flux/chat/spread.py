"""Hints to the nodes of members who are not here.

The order matters: first the commit, then the look-up of the routes, which is the bus', never
from a cache.  A login claims its route first and then reads what is pending, so whichever of
the two comes second sees the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.logger import Logger

from flux.errors import FluxError
from flux.interfaces import IBus
from flux.lifecycle import Tasks
from flux.metrics import ChatMetrics
from flux.model.bus import Hint

MAX_WAITING = 20_000
"""Hints waiting to be published; beyond, the receivers' sweeps find the messages."""

AT_ONCE = 2_000
"""Hints published in one go."""


class Spread:
    """Has hints published batch by batch.

    :param here: the node and boot that this process is.
    :ivar degraded: True when hints were lost: the node then sweeps more often.
    """

    log = Logger()

    def __init__(self, bus: IBus, tasks: Tasks, here: Callable[[], tuple[str, int]], metrics: ChatMetrics) -> None:
        self.degraded = False
        self._bus = bus
        self._tasks = tasks
        self._here = here
        self._metrics = metrics
        self._waiting: list[Hint] = []
        self._running = False
        self._failing = False

    @property
    def waiting(self) -> int:
        """Hints that wait to be published."""
        return len(self._waiting)

    def hint(self, hints: Sequence[Hint]) -> None:
        """Tell the nodes of the receivers, who are not here."""
        if len(self._waiting) >= MAX_WAITING:
            self.degraded = True
            self._metrics.hints_lost.inc(len(hints))
            return
        self._waiting.extend(hints)
        if not self._running:
            self._running = True
            self._tasks.spawn(self._run(), "telling other nodes")

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
                try:
                    self._metrics.hints.inc(await self._bus.multicast(batch, self._here()))
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
