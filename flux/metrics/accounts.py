"""What is counted of accounts, whichever port they come through."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class AccountMetrics:
    """The metrics of accounts in one process. Attributes are the children of a label themselves."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry = registry or CollectorRegistry()
        refused = Counter("flux_logins_refused", "Logins that failed.", ["reason"], registry=registry)
        self.wrong_password, self.wrong_token = refused.labels("password"), refused.labels("token")
        self.throttled = refused.labels("throttled")

    def passwords_waiting(self, function: Callable[[], float]) -> None:
        """How many passwords wait to be hashed is asked for when somebody looks."""
        waiting = Gauge("flux_passwords_waiting", "Passwords waiting to be hashed.", registry=self._registry)
        waiting.set_function(function)
