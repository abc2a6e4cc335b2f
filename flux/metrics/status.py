"""What a status service counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from flux.metrics.families import GaugesOf
from flux.model.placement import Node


class StatusMetrics:
    """The metrics of one status service."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry = registry or CollectorRegistry()
        self._assignments = Counter("flux_assignments", "Users given this server.", ["server"], registry=registry)
        self.tokens = Counter("flux_tokens_issued", "Login tokens issued.", registry=registry)
        self._failed = Counter("flux_assignments_failed", "Users not given a server.", ["reason"], registry=registry)

    def assigned(self, per_server: Mapping[str, int]) -> None:
        """A batch of users was given servers, and each of them a token."""
        for server, count in per_server.items():
            self._assignments.labels(server).inc(count)
        self.tokens.inc(sum(per_server.values()))

    def failed(self, reason: str, accounts: int) -> None:
        """Users were not given a server."""
        self._failed.labels(reason).inc(accounts)

    def waiting(self, function: Callable[[], float]) -> None:
        """How many users wait for a server."""
        Gauge("flux_assignments_waiting", "Users waiting for a server.", registry=self._registry).set_function(function)

    def servers(self, function: Callable[[], Iterable[Node]]) -> None:
        """The chat servers, as they are known here."""

        def each(value: Callable[[Node], float]) -> Callable[[], list[tuple[list[str], float]]]:
            return lambda: [([node.name], value(node)) for node in function()]

        for name, what, value in (
            ("flux_server_sessions", "Sessions of this server as of its last heartbeat.", lambda node: node.sessions),
            ("flux_server_reserved", "Users on their way to this server.", lambda node: node.reserved),
            ("flux_server_up", "1 if this server gets users.", lambda node: node.state == "up"),
            ("flux_server_draining", "1 if this server is draining.", lambda node: node.state == "draining"),
        ):
            GaugesOf(name, what, ["server"], each(value), self._registry)
