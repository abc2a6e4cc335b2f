"""Metrics whose values somebody else keeps, and is asked for when somebody looks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Samples = Iterable[tuple[Sequence[str], float]]
"""Values, each with those of its labels."""

#: Upper bounds in seconds: of what the disk, Redis and PostgreSQL take, up to the deadlines of calls.
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class CounterOf(Collector):
    """A counter that is a number of a service's own: it only rises, from 0 at the start of the process."""

    def __init__(
        self, name: str, documentation: str, function: Callable[[], float], registry: CollectorRegistry
    ) -> None:
        self._about = name, documentation
        self._function = function
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """The number as it is now."""
        yield CounterMetricFamily(*self._about, value=self._function())


class GaugesOf(Collector):
    """Gauges of things that come and go, told apart by labels."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        function: Callable[[], Samples],
        registry: CollectorRegistry,
    ) -> None:
        self._about = name, documentation
        self._labels = labels
        self._function = function
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """The name is known before there is anything to ask."""
        yield GaugeMetricFamily(*self._about, labels=self._labels)

    def collect(self) -> Iterable[Metric]:
        """One for each that is there now."""
        family = GaugeMetricFamily(*self._about, labels=self._labels)
        for labels, value in self._function():
            family.add_metric(labels, value)
        yield family
