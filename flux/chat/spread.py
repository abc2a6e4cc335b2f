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

MAX_WAITING = 8_000
"""Hints under way; beyond, the receivers' sweeps find the messages. The bus takes some more events, for what nobody
would look for: who has come or gone."""


class Spread:
    """Has hints published, in the order in which they come.

    :param here: the node and boot that this process is.
    :ivar degraded: True when hints were lost: the node then sweeps more often.
    :ivar waiting: hints that wait to be published, or for the answer that they are.
    """

    log = Logger()

    def __init__(self, bus: IBus, tasks: Tasks, here: Callable[[], tuple[str, int]], metrics: ChatMetrics) -> None:
        self.degraded = False
        self.waiting = 0
        self._bus = bus
        self._tasks = tasks
        self._here = here
        self._metrics = metrics
        self._failing = False

    def hint(self, hints: Sequence[Hint]) -> None:
        """Tell the nodes of the receivers, who are not here."""
        if self.waiting + len(hints) > MAX_WAITING:
            self.degraded = True
            self._metrics.hints_lost.inc(len(hints))
            return
        self._tasks.spawn(self._tell(hints), "telling other nodes")

    async def _tell(self, hints: Sequence[Hint]) -> None:
        self.waiting += len(hints)
        try:
            published = await self._bus.multicast(hints, self._here())
        except FluxError as error:
            self.degraded = True
            self._metrics.hints_lost.inc(len(hints))
            # Once: with the shared state away this happens with all of them.
            log = self.log.debug if self._failing else self.log.warn
            self._failing = True
            log("other nodes are not told of new messages, and look for them themselves: {error}", error=error)
        else:
            self._metrics.hints.inc(published)
            if self._failing:
                self._failing = False
                self.log.info("other nodes can be told again")
        finally:
            self.waiting -= len(hints)
