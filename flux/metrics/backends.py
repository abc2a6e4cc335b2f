"""How long calls of store and shared state take and how they end; the backends know nothing of it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from zope.interface import directlyProvides
from zope.interface.interface import InterfaceClass, Method

from flux.errors import FluxError, Unavailable
from flux.metrics.families import SECONDS

#: What takes as long as it takes, and happens once.
UNTIMED = {"start", "stop"}


class BackendMetrics:
    """The metrics of the backends of one process."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self.seconds = Histogram(
            "flux_backend_call_seconds", "Seconds a call took.", ["backend", "call"], buckets=SECONDS, registry=registry
        )
        self.failures = Counter(
            "flux_backend_failures", "Calls that the backend could not answer.", ["backend", "call"], registry=registry
        )
        self.up = Gauge("flux_backend_up", "1 if the backend answered lately.", ["backend"], registry=registry)
        self._registry = registry

    def bus_waiting(self, function: Callable[[], float]) -> None:
        """How many events wait on the bus."""
        what = "Events between nodes that wait to be sent or handed over."
        Gauge("flux_bus_waiting", what, registry=self._registry).set_function(function)


class Observed:
    """Stands in for a backend and measures its calls.

    :param name: the value of the label ``backend``.
    :param interface: what the backend provides; its methods are measured.
    """

    def __init__(self, backend: Any, interface: InterfaceClass, name: str, metrics: BackendMetrics) -> None:
        self._backend = backend
        for call, method in interface.namesAndDescriptions(all=True):
            if isinstance(method, Method) and call not in UNTIMED:
                setattr(self, call, _measured(getattr(backend, call), name, call, metrics))
        directlyProvides(self, interface)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def _measured(
    function: Callable[..., Awaitable[Any]], backend: str, call: str, metrics: BackendMetrics
) -> Callable[..., Awaitable[Any]]:
    # Looked up when it is first needed: most processes never call most of these.
    seconds: Histogram | None = None

    def took(began: float) -> None:
        nonlocal seconds
        if seconds is None:
            seconds = metrics.seconds.labels(backend, call)
        seconds.observe(time.perf_counter() - began)

    def ended(result: Any, began: float) -> Any:
        took(began)
        if isinstance(result, Failure):
            count(result.value)
        return result

    def count(error: BaseException | None) -> None:
        # Other errors of ours are answers; a cancelled caller has given up before there was one.
        if isinstance(error, Unavailable) or not isinstance(error, (FluxError, CancelledError, GeneratorExit)):
            metrics.failures.labels(backend, call).inc()

    async def wait(running: Awaitable[Any], began: float) -> Any:
        try:
            return await running
        except BaseException as error:
            count(error)
            raise
        finally:
            took(began)

    def measured(*arguments: Any, **named: Any) -> Awaitable[Any]:
        began = time.perf_counter()
        running = function(*arguments, **named)
        if isinstance(running, Deferred):
            return running.addBoth(ended, began)
        return wait(running, began)

    return measured
