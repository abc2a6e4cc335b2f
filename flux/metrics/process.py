"""What is measured of the process itself."""

from __future__ import annotations

import platform

from prometheus_client import CollectorRegistry, GCCollector, Histogram, Info, ProcessCollector
from twisted.internet.interfaces import IReactorTime

import flux
from flux.lifecycle import sleep
from flux.metrics.families import SECONDS

LOOK_EVERY = 0.5
"""Seconds between two looks at how late the reactor is."""


class ProcessMetrics:
    """CPU, memory, open files, garbage collection, and how late the reactor comes to what is due.

    :ivar lag: seconds the reactor was late the last time.
    """

    def __init__(self, registry: CollectorRegistry | None, clock: IReactorTime) -> None:
        registry = registry or CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        about = Info("flux", "The version of flux, and of Python.", registry=registry)
        about.info({"version": flux.__version__, "python": platform.python_version()})
        self._histogram = Histogram(
            "flux_reactor_lag_seconds", "Seconds the reactor was late.", buckets=SECONDS, registry=registry
        )
        self._clock = clock
        self.lag = 0.0

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            due = self._clock.seconds() + LOOK_EVERY
            await sleep(LOOK_EVERY, self._clock)
            self.lag = max(0.0, self._clock.seconds() - due)
            self._histogram.observe(self.lag)
