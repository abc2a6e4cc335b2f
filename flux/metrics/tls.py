"""What is measured of TLS."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class TlsMetrics:
    """The metrics of TLS in one process."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry = registry or CollectorRegistry()
        self._handshakes = Counter(
            "flux_tls_handshakes", "How handshakes ended.", ["listener", "outcome"], registry=registry
        )

    def ends(self, function: Callable[[], float]) -> None:
        """When the certificate expires."""
        what = "When the certificate that new connections get expires, in seconds since the epoch."
        name = "flux_tls_certificate_expiry_timestamp_seconds"
        Gauge(name, what, registry=self._registry).set_function(function)

    def of(self, listener: str) -> Callable[[str], None]:
        """Counts the handshakes of a listener, by how they ended."""
        children = {
            outcome: self._handshakes.labels(listener, outcome) for outcome in ("done", "failed", "late", "left")
        }
        return lambda outcome: children[outcome].inc()
