"""The admin port put together."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry
from twisted.logger import Logger

from flux.admin.actions import Actions
from flux.admin.banning import Banning
from flux.admin.health import Health
from flux.admin.history import History
from flux.admin.overview import Overviews
from flux.admin.site import AdminRoot
from flux.admin.sources import Sources
from flux.config import Settings
from flux.lifecycle import Tasks
from flux.metrics import BackendMetrics, ProcessMetrics
from flux.net.web import BoundedSite


class AdminService:
    """What watches a process, and the site that tells of it.

    :ivar site: for a port to listen with.
    """

    log = Logger()

    def __init__(
        self, settings: Settings, sources: Sources, registry: CollectorRegistry, backends: BackendMetrics, reactor: Any
    ) -> None:
        self._tasks = Tasks(self.log, reactor)
        self._process = ProcessMetrics(registry, reactor)
        self._health = Health(sources, backends, reactor)
        self._history = History(registry, reactor)
        actions = Actions(sources, reactor)
        self._root = AdminRoot(
            settings.admin.token,
            registry,
            self._health,
            Overviews(sources, self._health, self._history, reactor),
            actions,
            Banning(sources, actions),
            self._tasks,
        )
        self.site = BoundedSite(self._root, reactor)

    async def start(self) -> None:
        """Watch from now on."""
        self._tasks.spawn(self._process.watch(), "looking at the reactor")
        self._tasks.spawn(self._health.watch(), "checking the backends")
        self._tasks.spawn(self._history.watch(), "sampling the metrics")

    async def stop(self) -> None:
        """Answer nobody any more. The port has to be closed before."""
        await self._tasks.stop()
        self.site.close()

    def reload(self, settings: Settings) -> None:
        """Go on with another token."""
        self._root.token = settings.admin.token
