"""The services of one process: put together, started, stopped, reloaded.

::

    admin port ── manhole ── store ── state ── bus ── hashing ── status port ── chat: boot and bus, port, lease
               ── gate: mailer, status client, port                                      (started left to right)

Listening is readiness: the chat port opens when everything behind it works, and the
lease is taken as soon as the port is known (``chat``; what a gate is made of is in ``gate``).  Only admin port and
manhole are there from the beginning to the end, to say what is missing.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

from prometheus_client import CollectorRegistry
from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger

from flux.accounts.passwords import Passwords
from flux.accounts.rules import check_password
from flux.admin.manhole import Manhole
from flux.admin.service import AdminService
from flux.admin.sources import Sources
from flux.assembly.backends import has_migrations, make_state, make_store, make_trust
from flux.assembly.chat import ChatService
from flux.assembly.gate import GateService
from flux.bans import Bans
from flux.chat import insight
from flux.chat.node import ChatNode
from flux.config import Difference, Settings
from flux.errors import Unavailable
from flux.interfaces import IState, IStore
from flux.lifecycle import START_WITHIN, CannotStart, Stage, Stages
from flux.metrics import (
    AccountMetrics,
    BackendMetrics,
    BanMetrics,
    ChatMetrics,
    GateMetrics,
    Observed,
    StatusMetrics,
    TlsMetrics,
)
from flux.model.placement import Node
from flux.net.listener import Listener
from flux.status.protocol import StatusFactory
from flux.status.service import StatusService
from flux.tls.server import ServerTls
from flux.workers.handover import DRAINED, Lifeline

MAX_HASHING = 4
"""Threads that hash passwords, at most; fewer on a machine with fewer processors."""


class Assembly:
    """The services of one process.

    :param roles: which of ``status``, ``chat`` and ``gate`` run here.
    :param worker: a supervisor has started this process, and handed its ports over.
    :ivar exit_status: for a process that ends by itself: 0 where an admin has drained its chat server (for a
        supervisor, ``DRAINED``), else 1.
    """

    log = Logger()

    def __init__(self, settings: Settings, roles: frozenset[str], reactor: Any, worker: bool = False) -> None:
        self._settings = settings
        self._roles = roles
        self._reactor = reactor
        self._worker = worker
        self._lifeline = Lifeline(reactor, self._cut)
        self._stopping = False
        self.registry = registry = CollectorRegistry()
        backends = BackendMetrics(registry)
        self._trust = make_trust("tls.ca", settings.tls.ca)
        self.tls = self._tls()
        store = make_store(settings, reactor)
        self.store = cast(IStore, Observed(store, IStore, "store", backends))
        self.state, self.bus = make_state(settings, reactor)
        if settings.state.kind != "memory":
            # To look something up in a dictionary takes less than to measure it.
            self.state = cast(IState, Observed(self.state, IState, "state", backends))
        backends.bus_waiting(lambda: self.bus.waiting)
        self.admin: AdminService | None = None
        self.reread: Callable[[str], Awaitable[Difference]] = _cannot_reread
        self._listening = False
        self.bans: Bans | None = None
        self._http: GateMetrics | None = None
        self.chat: ChatService | None = None
        self.node: ChatNode | None = None
        self.status: StatusService | None = None
        self.gate: GateService | None = None
        self.exit_status = 1
        stages = [
            Stage("the shared state", self.state.start, self.state.stop),
            Stage("the bus", self.bus.start, self.bus.stop),
        ]
        if roles & {"chat", "gate"}:
            # The store is the last to stop. A migration that is cut off is rolled back, and would never get through.
            within = None if has_migrations(store) else START_WITHIN
            stages.insert(0, Stage("the store", self.store.start, self.store.stop, start_within=within))
            stages.append(self._hashing())
            self.bans = Bans(settings, self.store, self.state, reactor, BanMetrics(registry))
            stages.append(Stage("the bans", self.bans.start, self.bans.stop))
        if "status" in roles:
            stages += self._status()
        else:
            # Who takes a chat server's clients when it drains or stops is asked of the shared state, without any port.
            self._placing = self._service(_leased(settings))
            stages.append(Stage("placement", _nothing, self._placing.stop))
        if "chat" in roles:
            stages += self._chat()
        if "gate" in roles and settings.gate.listen:
            assert self.bans is not None
            here = self._placing.placement if "status" in roles else None
            self.gate = GateService(
                settings,
                self.store,
                self.state,
                self.bus,
                self.passwords,
                self._account_metrics,
                placement=here,
                node=self.node,
                bans=self.bans,
                http=self._http_metrics(),
                registry=registry,
                around=self._around,
                trust=self._trust,
                reactor=reactor,
            )
            stages += self.gate.stages()
        self.manhole: Manhole | None = None
        stages = self._admin(backends) + self._open_manhole() + stages
        if self.tls is not None:
            stages.insert(0, Stage("TLS", self.tls.start, self.tls.stop))
        self._stages = Stages(stages, reactor, self.log)

    def _tls(self) -> ServerTls | None:
        settings = self._settings
        if settings.tls.certificate is None:
            return None
        if settings.identity is None:
            raise CannotStart("tls.certificate: has not been read")
        return ServerTls(settings.identity, settings.tls.warn_days, TlsMetrics(self.registry), self._reactor)

    def _around(self, listener: str, key: str, factory: IProtocolFactory) -> IProtocolFactory:
        """TLS around a factory, where that is for ``listener``."""
        if self.tls is None or not self._settings.wraps(listener):
            return factory
        return self.tls.around(key, factory)

    def _hashing(self) -> Stage:
        """What all services of the process share that check passwords; the threads bound its memory."""
        self._account_metrics = AccountMetrics(self.registry)
        self.passwords = passwords = Passwords(self._reactor, min(MAX_HASHING, os.cpu_count() or 1))
        self._account_metrics.passwords_waiting(lambda: passwords.waiting)

        async def start() -> None:
            passwords.start()

        async def stop() -> None:
            passwords.stop()

        return Stage("hashing", start, stop)

    def _http_metrics(self) -> GateMetrics:
        """Those of all HTTP ports for users; there are none where nothing listens."""
        if self._http is None:
            self._http = GateMetrics(self.registry)
        return self._http

    def _admin(self, backends: BackendMetrics) -> list[Stage]:
        settings, node = self._settings, self.node
        endpoint = settings.admin.endpoint({"status", "chat"} <= self._roles)
        if not endpoint:
            return []

        async def hash_password(password: str) -> str:
            check_password(password, self._settings.limits.password_min)
            return await self.passwords.hash(password, "")

        people = bool(self._roles & {"chat", "gate"})
        sources = Sources(
            roles=sorted(self._roles),
            name=settings.chat.name if node is not None else "",
            state=self.state,
            bus=self.bus,
            directory=_Servers(self._placing),
            listening=lambda: self._listening,
            reread=lambda by: self.reread(by),
            store=self.store if people else None,
            status=self.gate.status_answers if self.gate is not None else None,
            bans=self.bans,
            draining=lambda: node is not None and node.draining,
            sessions=None if node is None else partial(insight.sessions, node),
            hash_password=hash_password if people else None,
        )
        self.admin = admin = AdminService(settings, sources, self.registry, backends, self._reactor)
        self.admin_listener = listener = Listener(
            "admin.listen", endpoint, self._around("admin", "admin.listen", admin.site), self._reactor
        )

        async def start() -> None:
            await listener.start()
            await admin.start()

        async def stop() -> None:
            await listener.stop()
            await admin.stop()

        return [Stage("the admin port", start, stop)]

    def _open_manhole(self) -> list[Stage]:
        """A Python prompt, where it is wanted: as long as the admin port, to look at what does not start or end."""
        if not self._settings.admin.manhole:
            return []
        names = {"assembly": self, "reactor": self._reactor, "store": self.store, "state": self.state, "bus": self.bus}
        names |= {"node": self.node, "sessions": self.node.sessions} if self.node is not None else {}
        names |= {"status": self.status} if self.status is not None else {}
        names |= {"gate": self.gate} if self.gate is not None else {}
        self.manhole = manhole = Manhole(self._settings.admin, names, self._reactor)
        return [Stage("the manhole", manhole.start, manhole.stop)]

    def _service(self, settings: Settings, metrics: StatusMetrics | None = None) -> StatusService:
        try:
            return StatusService(settings, self.state, self._reactor, random.Random(), metrics, self._trust)
        except ValueError as error:
            raise CannotStart(f"status.balancer: {error}") from None

    def _status(self) -> list[Stage]:
        settings = self._settings
        self.status = self._placing = status = self._service(settings, StatusMetrics(self.registry))
        self.status_factory = factory = StatusFactory(status, settings, self._reactor)
        self.status_listener = listener = Listener(
            "status.listen", settings.status.listen, self._around("status", "status.listen", factory), self._reactor
        )

        async def listen() -> None:
            # Its answers do not come in gathered batches, so eager writes would be system calls for nothing.
            await listener.start()

        async def close() -> None:
            await listener.stop()
            await status.stop()
            await factory.stop()

        return [
            Stage("the status service", status.start, status.stop),
            Stage("the status port", listen, close),
        ]

    def _chat(self) -> list[Stage]:
        assert self.bans is not None
        self.chat = chat = ChatService(
            self._settings,
            self.store,
            self.state,
            self.bus,
            self.passwords,
            placement=self._placing.placement,
            status=self.status,
            bans=self.bans,
            metrics=ChatMetrics(self.registry, self._account_metrics),
            http=self._http_metrics,
            around=self._around,
            fatal=self._fatal,
            drained=self._drained,
            worker=self._worker,
            reactor=self._reactor,
        )
        self.node = chat.node
        return chat.stages()

    def _fatal(self, reason: str) -> None:
        self.log.critical("this process ends: {reason}", reason=reason)
        if self._reactor.running:
            self._reactor.stop()

    def _drained(self) -> None:
        if self.status is not None:
            self.log.info("drained; this process goes on, because the status service is in it too")
            return
        self.log.info("drained: this process ends")
        self.exit_status = DRAINED if self._worker else 0
        if self._reactor.running:
            self._reactor.stop()

    def _cut(self) -> None:
        if self._stopping:
            # Whoever told it to stop has no more patience.
            os._exit(1)
        self.log.critical("the supervisor is gone: this worker ends")
        if self._reactor.running:
            self._reactor.stop()

    async def start(self) -> None:
        """Up to listening; see :class:`flux.process.Assembly`."""
        if self._worker:
            self._lifeline.hold()
        try:
            await self._stages.start()
        except BaseException:
            self._lifeline.release()
            raise
        self._listening = True

    async def stop(self) -> None:
        """Drain and stop, last started first."""
        self._stopping = True
        self._listening = False
        await self._stages.stop()
        self._lifeline.release()

    def reload(self, settings: Settings) -> None:
        """Go on with new values of the live keys."""
        self._settings = settings
        if self.tls is not None and settings.identity is not None:
            self.tls.use(settings.identity, settings.tls.warn_days)
        if self.admin is not None:
            self.admin.reload(settings)
        if self.status is not None:
            self.status.reload(settings)
            self.status_factory.reload(settings)
        else:
            self._placing.reload(_leased(settings))
        if self.bans is not None:
            self.bans.reload(settings)
        if self.chat is not None:
            self.chat.reload(settings)
        if self.gate is not None:
            self.gate.reload(settings)

    def banner(self) -> str:
        """Where to connect, and what to type."""
        if self._worker:
            return ""
        lines = []
        if self.chat is not None:
            lines += self.chat.banner()
        if "status" in self._roles:
            tls = " with TLS" if self._settings.secure("status") else ""
            lines += ["", f"status service listens on {self.status_listener.where()}{tls}"]
        if self.gate is not None:
            lines += self.gate.banner()
        if self.admin is not None:
            where = self.admin_listener.where()
            if not self.admin_listener.is_unix():
                where = f"{'https' if self._settings.secure('admin') else 'http'}://{where}/"
            lines.append(f"dashboard and metrics: {where}")
        if self.manhole is not None:
            host, port = self.manhole.address()
            lines.append(f"manhole: ssh -p {port} {host}")
        return "\n".join(lines)


class _Servers:
    """The chat servers as the admin port asks for them."""

    def __init__(self, service: StatusService) -> None:
        self._service = service
        self.servers = service.servers
        self.drain = service.drain

    async def look(self) -> tuple[Node, ...]:
        await self._service.placement.refresh()
        return self.servers()


async def _cannot_reread(by: str) -> Difference:
    raise Unavailable("there is no process around these services that could read its configuration again")


def _leased(settings: Settings) -> Settings:
    """Without the static list: whether its servers live only a status service checks."""
    return replace(settings, chatservers=())


async def _nothing() -> None:
    """A stage without anything to begin."""


def assemble(settings: Settings, roles: frozenset[str], reactor: Any, worker: bool = False) -> Assembly:
    """Put the services of one process together; see :class:`Assembly`.

    :raises flux.lifecycle.CannotStart: a setting names something that is not there.
    """
    return Assembly(settings, roles, reactor, worker)
