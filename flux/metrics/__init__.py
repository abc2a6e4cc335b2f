"""What a process counts and measures, for Prometheus.

::

    services ── add, once per batch ──> counters, histograms ──┐
    services <── asked when somebody looks ── gauges ──────────┴──> registry ──> /metrics, dashboard

Nothing here costs anything per message: a batch adds once, and what a service knows anyway (its sessions, its
queues) is asked for when somebody looks.  Each service has its own set of metrics and a process one registry.
"""

from prometheus_client import disable_created_metrics

from flux.metrics.accounts import AccountMetrics
from flux.metrics.backends import BackendMetrics, Observed
from flux.metrics.bans import BanMetrics
from flux.metrics.chat import ChatMetrics
from flux.metrics.gate import GateMetrics, ObservedMailer
from flux.metrics.process import ProcessMetrics
from flux.metrics.status import StatusMetrics
from flux.metrics.tls import TlsMetrics

__all__ = [
    "AccountMetrics",
    "BackendMetrics",
    "BanMetrics",
    "ChatMetrics",
    "GateMetrics",
    "Observed",
    "ObservedMailer",
    "ProcessMetrics",
    "StatusMetrics",
    "TlsMetrics",
]

# A second line for each counter, which says when it was made, is of use to nobody here.
disable_created_metrics()
