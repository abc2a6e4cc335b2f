"""What a chat node counts."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from flux.metrics.accounts import AccountMetrics
from flux.metrics.families import SECONDS, CounterOf

#: Upper bounds of batch sizes, in messages.
MESSAGES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


class ChatMetrics:
    """The metrics of one chat node.

    :param accounts: those of the process, where other services have accounts, too.

    Attributes with labels are the children themselves, so nobody looks them up on the way.
    """

    def __init__(self, registry: CollectorRegistry | None = None, accounts: AccountMetrics | None = None) -> None:
        self._registry = registry = registry or CollectorRegistry()
        self.accounts = accounts or AccountMetrics(registry)

        def counter(name: str, what: str) -> Counter:
            return Counter(name, what, registry=registry)

        self.commit_seconds = Histogram(
            "flux_commit_seconds", "Seconds a batch of messages took to be stored.", buckets=SECONDS, registry=registry
        )
        self.commit_messages = Histogram(
            "flux_commit_messages", "Messages in one batch.", buckets=MESSAGES, registry=registry
        )
        self.committed = counter("flux_messages_committed", "Messages that were stored.")
        self.duplicates = counter("flux_messages_duplicate", "Messages that had been stored before.")
        self.failed = counter("flux_messages_failed", "Messages that were refused or could not be stored.")
        self.pruned = counter("flux_messages_pruned", "Messages removed because of store.keep_days.")
        self.hints = counter("flux_hints", "Messages that other nodes were told of.")
        self.hints_lost = counter("flux_hints_lost", "Messages that other nodes could not be told of.")
        self.limited = counter("flux_requests_limited", "Requests over limits.messages_per_second.")
        self.held_back = counter("flux_held_back", "Times a connection was read later for limits.requests_per_second.")
        self.cursors = counter("flux_cursors_written", "Cursors written to the store.")
        self.cursors_failed = counter("flux_cursors_failed", "Batches of cursors that could not be written yet.")
        sweeps = Counter("flux_sweeps", "Looks at what moved in the store.", ["outcome"], registry=registry)
        self.sweeps_done, self.sweeps_failed = sweeps.labels("done"), sweeps.labels("failed")
        logins = Counter("flux_logins", "Logins that succeeded.", ["by"], registry=registry)
        self.logins_by_password, self.logins_by_token = logins.labels("password"), logins.labels("token")
        connections = Counter("flux_connections_refused", "Connections sent away.", ["reason"], registry=registry)
        self.too_many_connections = connections.labels("too_many")
        self.no_proxy_header = connections.labels("no_proxy_header")
        self.banned = connections.labels("banned")
        self.bad_lines = connections.labels("bad_lines")
        self.too_late = connections.labels("no_login")
        self._kicks = Counter("flux_sessions_kicked", "Sessions ended by the server.", ["reason"], registry=registry)

    def kicked(self, reason: str) -> None:
        """A session was ended by the server."""
        self._kicks.labels(reason).inc()

    def gauge(self, name: str, what: str, function: Callable[[], float]) -> None:
        """A gauge that is asked for when somebody looks."""
        Gauge(name, what, registry=self._registry).set_function(function)

    def counter(self, name: str, what: str, function: Callable[[], float]) -> None:
        """A counter that its owner keeps as a number."""
        CounterOf(name, what, function, self._registry)
