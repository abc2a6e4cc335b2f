"""What is counted of those who misbehave."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter

from flux.metrics.families import GaugesOf


class BanMetrics:
    """The metrics of bans in one process."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry = registry or CollectorRegistry()
        self._offences = Counter("flux_offences", "What counts towards a ban.", ["kind"], registry=registry)
        self.banned = Counter("flux_addresses_banned", "Addresses banned for offences.", registry=registry)

    def offence(self, kind: str) -> None:
        """Somebody did what counts."""
        self._offences.labels(kind).inc()

    def held(self, function: Callable[[], Mapping[str, float]]) -> None:
        """How many bans of addresses hold, by who has made them, is asked for when somebody looks."""
        GaugesOf(
            "flux_bans",
            "Bans of addresses that hold here.",
            ["by"],
            lambda: [([by], count) for by, count in function().items()],
            self._registry,
        )
