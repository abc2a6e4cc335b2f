"""A gate and what belongs to it: mailer, way to the status services, what browsers need, port."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.logger import Logger

from flux.accounts.accounts import Accounts
from flux.accounts.passwords import Passwords
from flux.assembly.backends import make_mailer
from flux.assembly.browsers import Around, Browsers
from flux.bans import Bans
from flux.chat.node import ChatNode
from flux.config import Settings, is_local, is_proxied
from flux.gate import api, classic  # noqa: F401 - they fill the table
from flux.gate.classic import GetTest
from flux.gate.gate import Gate
from flux.gate.openapi import Document
from flux.gate.routes import routes
from flux.gate.site import GateSite
from flux.gate.status_client import StatusClient
from flux.interfaces import IBus, IPlacement, IState, IStore
from flux.lifecycle import CannotStart, Stage
from flux.metrics import AccountMetrics, GateMetrics, ObservedMailer
from flux.net.eager import make_eager
from flux.net.listener import Listener
from flux.tls.client import tls_endpoints

STOP_WITHIN = 10.0
"""Seconds until a gate that does not come to an end is left behind: above what its requests and connections get."""

BUFFER = 256 * 1024
"""Bytes that may wait for a client before whoever produces them is asked to wait."""


class GateService:
    """The gate of a process.

    :param placement: the status service of this process; None where there is none.
    :param node: the chat server of this process; None where there is none.
    :param trust: whose certificates other servers' must be signed by; None: those the system trusts.
    :raises flux.lifecycle.CannotStart: there is no status service to ask, or no such mailer.
    """

    log = Logger()

    def __init__(
        self,
        settings: Settings,
        store: IStore,
        state: IState,
        bus: IBus,
        passwords: Passwords,
        metrics: AccountMetrics,
        placement: IPlacement | None,
        node: ChatNode | None,
        bans: Bans,
        http: GateMetrics,
        registry: CollectorRegistry,
        around: Around,
        trust: Any,
        reactor: Any,
    ) -> None:
        self._settings = settings
        self.mailer = ObservedMailer(make_mailer(settings, reactor), registry)
        self._status: StatusClient | None = None
        if settings.gate.status:
            endpoint = tls_endpoints(reactor, trust) if settings.gate.status_tls else None
            placement = self._status = StatusClient(
                reactor, settings.gate.status, settings.status.cluster_key, endpoint=endpoint
            )
        if placement is None:
            raise CannotStart("gate.status: is empty, and there is no status service in this process")
        accounts = Accounts(settings, store, state, bus, passwords, metrics, bans, reactor)
        self.site = GateSite(settings, reactor, is_proxied(settings.gate.listen), bans, http)
        self.browsers = browsers = Browsers(self.site, settings, node, state, bans, trust, reactor)
        self.gate = Gate(accounts, store, placement, self.mailer, reactor, browsers.address, http)
        paths = {**routes(self.gate), b"/openapi.json": Document(), b"/get_test": GetTest()}
        self.site.routes.update(paths)
        self.site.labels.update({path: path.decode() for path in paths})
        factory = around("gate", "gate.listen", self.site)
        self.listener = Listener("gate.listen", settings.gate.listen, factory, reactor)

    @property
    def status_answers(self) -> Callable[[], Awaitable[None]] | None:
        """Returns when one of the status services elsewhere has answered; None where none is asked."""
        return None if self._status is None else self._status.answers

    def stages(self) -> list[Stage]:
        """How it starts and stops."""
        stages = [Stage("the mailer", self.mailer.start, self.mailer.stop)]
        if self._status is not None:
            stages.append(Stage("the way to the status services", self._status.start, self._status.stop))
        return [*stages, Stage("the gate's port", self._start, self._stop, stop_within=STOP_WITHIN)]

    def reload(self, settings: Settings) -> None:
        """Go on with other limits and rules."""
        self.gate.reload(settings)
        self.site.reload(settings)
        self.browsers.reload(settings)

    def url(self) -> str:
        """Where it is, as browsers write it."""
        scheme = "https" if self._settings.secure("gate") else "http"
        return f"{scheme}://{self.listener.address()}"

    def banner(self) -> list[str]:
        """Where to point a browser, or a proxy."""
        if is_proxied(self._settings.gate.listen):
            return [f"gate listens on {self.listener.where()} for a proxy that sends PROXY headers"]
        if self.listener.is_unix():
            return [f"gate listens on {self.listener.where()}"]
        url = self.url()
        return [f"gate listens on {url}", f"  open {url}/ in a browser to chat"]

    async def _start(self) -> None:
        await self.gate.start()
        if not self._settings.sends_mail and not is_local(self._settings.gate.listen):
            self.log.warn(
                "gate.listen can be reached from other machines, and verification codes are not sent but logged: "
                "set mail.kind to smtp or webhook"
            )
        self.browsers.start()
        try:
            await self.listener.start()
            make_eager(self.listener.port, BUFFER)
        except BaseException:
            await self.browsers.stop()
            await self.gate.stop()
            raise

    async def _stop(self) -> None:
        await self.listener.stop()
        await self.browsers.stop()
        await self.gate.stop()
        await self.site.stop()
