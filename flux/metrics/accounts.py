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
        self.throttled, self.banned = refused.labels("throttled"), refused.labels("banned")
        codes = Counter(
            "flux_codes_refused", "Verification codes not given, or not taken.", ["reason"], registry=registry
        )
        self.code_wrong, self.code_expired = codes.labels("wrong"), codes.labels("expired")
        self.too_many_codes = codes.labels("throttled")
        self.too_many_registrations = Counter(
            "flux_registrations_refused", "Registrations over limits.registrations_per_hour_address.", registry=registry
        )

    def passwords_waiting(self, function: Callable[[], float]) -> None:
        """How many passwords wait to be hashed is asked for when somebody looks."""
        waiting = Gauge("flux_passwords_waiting", "Passwords waiting to be hashed.", registry=self._registry)
        waiting.set_function(function)
