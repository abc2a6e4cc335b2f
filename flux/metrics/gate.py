"""What is counted of HTTP: requests, WebSockets and relays, logins and codes, e-mail."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from twisted.internet.defer import CancelledError
from zope.interface import implementer

from flux.errors import BadRequest
from flux.interfaces import IMailer
from flux.metrics.families import SECONDS, CounterOf


class GateMetrics:
    """The metrics of the HTTP ports of a process: those of its gate, and of ``chat.websocket``.

    :ivar websockets: connections that became WebSockets.
    :ivar too_many: connections sent away; so is ``banned``.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry = registry or CollectorRegistry()
        self._requests = Counter("flux_http_requests", "HTTP requests.", ["path", "outcome"], registry=registry)
        self._seconds = Histogram(
            "flux_http_request_seconds",
            "Seconds from a request's last byte to its answer.",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        # Found again by the values of their labels, since the library takes longer for that.
        self._counters: dict[tuple[str, str], Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        refused = Counter("flux_http_connections_refused", "HTTP connections sent away.", ["reason"], registry=registry)
        self.too_many, self.banned = refused.labels("too_many"), refused.labels("banned")
        self.websockets = Counter("flux_websockets", "Connections that became WebSockets.", registry=registry)
        self._logins = Counter("flux_gate_logins", "Logins at the gate.", ["outcome"], registry=registry)
        self._codes = Counter("flux_codes_sent", "Verification codes sent.", ["purpose"], registry=registry)
        self._sites: list[Callable[[], int]] = []
        connections = Gauge("flux_http_connections", "Open HTTP connections.", registry=registry)
        connections.set_function(lambda: sum(site() for site in self._sites))

    def answered(self, path: str, outcome: str, seconds: float) -> None:
        """A request has its answer: ``ok``, or the name of an error."""
        self.refused(path, outcome)
        histogram = self._histograms.get(path)
        if histogram is None:
            histogram = self._histograms[path] = self._seconds.labels(path)
        histogram.observe(seconds)

    def refused(self, path: str, outcome: str) -> None:
        """A request has ended without having been worked on."""
        counter = self._counters.get((path, outcome))
        if counter is None:
            counter = self._counters[path, outcome] = self._requests.labels(path, outcome)
        counter.inc()

    def login(self, outcome: str) -> None:
        """Somebody has tried to log in: ``ok``, or the name of an error."""
        self._logins.labels(outcome).inc()

    def code_sent(self, purpose: str) -> None:
        """A verification code is on its way."""
        self._codes.labels(purpose).inc()

    def connections(self, function: Callable[[], int]) -> None:
        """One more port, whose connections are counted when somebody looks."""
        self._sites.append(function)

    def relays(self, now: Callable[[], int], made: Callable[[], int], failed: Callable[[], int]) -> None:
        """Relayed connections: how many there are, were made, and found no chat server."""
        Gauge("flux_relays", "WebSockets that are relayed to chat servers.", registry=self._registry).set_function(now)
        CounterOf("flux_relays_made", "WebSockets that were to be relayed.", made, self._registry)
        CounterOf("flux_relays_failed", "WebSockets for which no chat server was reached.", failed, self._registry)


@implementer(IMailer)
class ObservedMailer:
    """Stands in for a mailer and measures it; a mail waits from when it is asked for until its outcome is known."""

    def __init__(self, mailer: IMailer, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self._mailer = mailer
        self.start = mailer.start
        self.stop = mailer.stop
        self.check = mailer.check
        self._waiting = Gauge("flux_mails_waiting", "E-mails on their way.", registry=registry)
        self._seconds = Histogram(
            "flux_mail_seconds", "Seconds until an e-mail was taken, or given up.", buckets=SECONDS, registry=registry
        )
        outcomes = Counter("flux_mails", "E-mails.", ["outcome"], registry=registry)
        self._sent, self._failed = outcomes.labels("sent"), outcomes.labels("failed")
        self._no_such_address = outcomes.labels("no_such_address")

    async def send(self, to: str, subject: str, text: str) -> None:
        """See :meth:`IMailer.send`."""
        began = time.perf_counter()
        self._waiting.inc()
        try:
            await self._mailer.send(to, subject, text)
        except CancelledError:
            raise
        except BadRequest:
            self._no_such_address.inc()
            raise
        except Exception:
            self._failed.inc()
            raise
        else:
            self._sent.inc()
        finally:
            self._waiting.dec()
            self._seconds.observe(time.perf_counter() - began)
