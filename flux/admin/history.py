"""The last hour of a process, for the curves of its dashboard: samples of what Prometheus is told as well.

Nothing of it is stored. Whoever wants more than an hour has a Prometheus.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec
from prometheus_client import CollectorRegistry
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.lifecycle import every

EVERY = 5.0
"""Seconds between samples."""

KEPT = 720
"""Samples kept: an hour."""

Key = tuple[str, str]
"""A sample's name, and the value of its one label: empty without any."""

#: What is kept of each sample: the names, and which label tells apart.
NAMES = {
    "flux_sessions": "",
    "flux_connections": "",
    "flux_sessions_behind": "",
    "flux_bans": "by",
    "flux_offences_total": "kind",
    "flux_commits_waiting": "",
    "flux_messages_committed_total": "",
    "flux_messages_delivered_total": "",
    "flux_commit_seconds_bucket": "le",
    "flux_assignments_total": "server",
    "flux_reactor_lag_seconds_sum": "",
    "flux_reactor_lag_seconds_count": "",
    "process_cpu_seconds_total": "",
    "process_resident_memory_bytes": "",
}


class Sample(NamedTuple):
    """The metrics at a moment; ``at`` is on the reactor's clock."""

    at: float
    values: Mapping[Key, float]


class Curves(msgspec.Struct, frozen=True):
    """What changed from sample to sample, oldest first; all lists are of one length, None where there was nothing.

    :ivar age: seconds before now.
    :ivar messages: stored a second; ``delivered``: written to sessions a second.
    :ivar commit_median: seconds; so is ``commit_slow``, which one in a hundred exceeds.
    :ivar lag: seconds the reactor was late, on the average.
    :ivar cpu: of one processor, 1.0 is all of it.
    :ivar assignments: a second, per server.
    """

    age: list[float]
    sessions: list[float | None]
    messages: list[float | None]
    delivered: list[float | None]
    commit_median: list[float | None]
    commit_slow: list[float | None]
    lag: list[float | None]
    cpu: list[float | None]
    assignments: dict[str, list[float]]


class History:
    """Takes samples and tells what changed between them."""

    log = Logger()

    def __init__(self, registry: CollectorRegistry, clock: IReactorTime) -> None:
        self._registry = registry
        self._clock = clock
        self._samples: deque[Sample] = deque(maxlen=KEPT + 1)

    async def watch(self) -> None:
        """Take a sample again and again, until cancelled."""

        async def take() -> None:
            self.take()

        await every(EVERY, take, self._clock, "taking a sample of the metrics", self.log)

    def take(self) -> Sample:
        """Take a sample."""
        values: dict[Key, float] = {}
        for family in self._registry.collect():
            for sample in family.samples:
                if sample.name in NAMES:
                    label = NAMES[sample.name]
                    values[sample.name, sample.labels[label] if label else ""] = sample.value
        self._samples.append(Sample(self._clock.seconds(), values))
        return self._samples[-1]

    def latest(self) -> Sample:
        """The last sample; one is taken where there is none."""
        return self._samples[-1] if self._samples else self.take()

    def rates(self, most: int) -> dict[str, float]:
        """What changed in the last ``most`` samples, by the names of :class:`Curves`; what is not known is missing."""
        samples = list(self._samples)[-most - 1 :]
        if len(samples) < 2:
            return {}
        step = samples[0], samples[-1]
        found = {
            "messages": rate(step, "flux_messages_committed_total"),
            "delivered": rate(step, "flux_messages_delivered_total"),
            "commit_median": quantile(step, 0.5),
            "commit_slow": quantile(step, 0.99),
            "lag": _mean(step, "flux_reactor_lag_seconds"),
            "cpu": rate(step, "process_cpu_seconds_total"),
            "offences": _rate_of_all(step, "flux_offences_total"),
        }
        return {name: value for name, value in found.items() if value is not None}

    def curves(self, most: int = KEPT) -> Curves:
        """The changes between the last ``most`` + 1 samples."""
        samples = list(self._samples)[-most - 1 :]
        now = self._clock.seconds()
        steps = list(pairwise(samples))
        servers = sorted({label for sample in samples for name, label in sample.values if name == ASSIGNMENTS})
        return Curves(
            age=[round(now - after.at, 1) for _, after in steps],
            sessions=[after.values.get(("flux_sessions", "")) for _, after in steps],
            messages=[rate(step, "flux_messages_committed_total") for step in steps],
            delivered=[rate(step, "flux_messages_delivered_total") for step in steps],
            commit_median=[quantile(step, 0.5) for step in steps],
            commit_slow=[quantile(step, 0.99) for step in steps],
            lag=[_mean(step, "flux_reactor_lag_seconds") for step in steps],
            cpu=[rate(step, "process_cpu_seconds_total") for step in steps],
            assignments={server: [rate(step, ASSIGNMENTS, server) or 0.0 for step in steps] for server in servers},
        )


ASSIGNMENTS = "flux_assignments_total"
BUCKETS = "flux_commit_seconds_bucket"
Step = tuple[Sample, Sample]


def _change(step: Step, name: str, label: str = "") -> float | None:
    before, after = step
    value = after.values.get((name, label))
    return None if value is None else value - before.values.get((name, label), 0.0)


def rate(step: Step, name: str, label: str = "") -> float | None:
    """How much a counter rose, per second; None where there is none."""
    change, seconds = _change(step, name, label), step[1].at - step[0].at
    return None if change is None or seconds <= 0 else round(change / seconds, 4)


def _rate_of_all(step: Step, name: str) -> float | None:
    """The sum over all values of the label; None where there is none."""
    rates = [rate(step, name, label) or 0.0 for each, label in step[1].values if each == name]
    return round(sum(rates), 4) if rates else None


def _mean(step: Step, name: str) -> float | None:
    count = _change(step, f"{name}_count")
    total = _change(step, f"{name}_sum")
    return round(total / count, 6) if count and total is not None else None


def quantile(step: Step, share: float) -> float | None:
    """Below what so large a share of the commits between two samples lies; None where there were none.

    Within a bucket they are taken to be spread evenly; above the last bound nothing is known but that.
    """
    bounds: Sequence[str] = sorted((label for name, label in step[1].values if name == BUCKETS), key=float)
    counts = [_change(step, BUCKETS, bound) or 0.0 for bound in bounds]
    if not counts or not counts[-1]:
        return None
    wanted, below, lower = share * counts[-1], 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=True):
        upper = float(bound)
        if count >= wanted:
            if upper == float("inf"):
                return lower
            return round(lower + (upper - lower) * (wanted - below) / (count - below or 1.0), 6)
        below, lower = count, upper
    return lower
