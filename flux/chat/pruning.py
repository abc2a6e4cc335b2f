"""``store.keep_days``: old messages are removed in the background, in portions that nobody notices."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.errors import FluxError
from flux.interfaces import IStore
from flux.lifecycle import sleep
from flux.metrics import ChatMetrics

FIRST = 60.0
"""Seconds after the start at which it begins: a start is busy enough."""

EVERY = 3600.0
"""Seconds between two passes over all chats."""

PORTION = 1000
"""Messages removed at once; a portion holds up a commit by some ten milliseconds."""

PAUSE = 0.25
"""Seconds between portions."""

DAY = 86_400


class Pruning:
    """Removes what is old.

    :param keep_days: asked at each pass; 0: nothing is removed.
    :param now: seconds since the epoch.
    """

    log = Logger()

    def __init__(
        self,
        store: IStore,
        keep_days: Callable[[], int],
        now: Callable[[], float],
        clock: IReactorTime,
        metrics: ChatMetrics,
    ) -> None:
        self._store = store
        self._keep_days = keep_days
        self._now = now
        self._clock = clock
        self._metrics = metrics

    async def run(self) -> None:
        """One pass after the other, until cancelled."""
        await sleep(FIRST, self._clock)
        while True:
            try:
                await self.once()
            except FluxError as error:
                self.log.warn("old messages stay until the next pass: {error}", error=error)
            await sleep(EVERY, self._clock)

    async def once(self) -> int:
        """One pass; returns how many messages it has removed."""
        total = 0
        while days := self._keep_days():
            removed = await self._store.prune(int((self._now() - days * DAY) * 1000), PORTION)
            if not removed:
                break
            self._metrics.pruned.inc(removed)
            total += removed
            await sleep(PAUSE, self._clock)
        if total:
            self.log.info("{count} messages older than {days} days were removed", count=total, days=self._keep_days())
        return total
