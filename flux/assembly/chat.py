"""A chat server and what belongs to it: its node, its ports, and the lease that announces them.

::

    name: free? ── node: boot and bus ── listen: own port, shared port, WebSockets ── lease   (started left to right)

Who has a name that another live server has opens no port. The lease names the port, so it comes last; where it cannot
be taken the ports are closed again.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from flux.accounts.passwords import Passwords
from flux.addresses import HostPort
from flux.assembly.banner import first_steps
from flux.assembly.browsers import Around, WebSocketPort
from flux.bans import Bans
from flux.chat import requests_account, requests_message, requests_people  # noqa: F401 - they fill the table
from flux.chat.naming import find_free
from flux.chat.node import ChatNode
from flux.chat.protocol import ChatFactory
from flux.config import Chat, Settings, is_proxied, listens_on
from flux.interfaces import IBus, IPlacement, IState, IStore
from flux.lifecycle import START_WITHIN, Stage
from flux.metrics import ChatMetrics, GateMetrics
from flux.net.eager import make_eager
from flux.net.listener import Listener
from flux.status.service import StatusService
from flux.workers.handover import OWN, SHARED, SharedPort

LONGEST_DRAIN = 3610.0
"""Seconds until a chat node that does not come to an end is left behind: above any ``chat.drain``, which may change."""

EVERYWHERE = ("0.0.0.0", "::")
"""Where a server listens on all addresses of its machine."""


class ChatService:
    """The chat server of a process.

    :param placement: gives moved clients another server.
    :param status: the status service of this process; None where there is none.
    :param http: gives the metrics of HTTP ports; called where one listens for browsers.
    :param fatal: as of :class:`flux.chat.node.ChatNode`.
    :param drained: likewise.
    :param worker: a supervisor has started this process, and handed its ports over.
    """

    log = Logger()

    def __init__(
        self,
        settings: Settings,
        store: IStore,
        state: IState,
        bus: IBus,
        passwords: Passwords,
        placement: IPlacement,
        status: StatusService | None,
        bans: Bans,
        metrics: ChatMetrics,
        http: Callable[[], GateMetrics],
        around: Around,
        fatal: Callable[[str], None],
        drained: Callable[[], None],
        worker: bool,
        reactor: Any,
    ) -> None:
        self._settings = settings
        self._state = state
        self._reactor = reactor
        self._status = status
        self.node = node = ChatNode(
            settings,
            store,
            state,
            bus,
            reactor,
            passwords,
            placement=placement,
            fatal=fatal,
            draining=self._draining,
            drained=drained,
            metrics=metrics,
            bans=bans,
        )
        factory = around("chat", "chat.listen", ChatFactory(node, is_proxied(settings.chat.listen)))
        own = OWN if worker else None
        self.listener = Listener("chat.listen", settings.chat.listen, factory, reactor, own)
        self._shared = SharedPort(settings.chat.listen, factory, reactor) if worker else None
        self.websocket: WebSocketPort | None = None
        if settings.chat.websocket:
            self.websocket = WebSocketPort(settings, node, around, http(), reactor)

    def stages(self) -> list[Stage]:
        """How it starts and stops."""
        name, status = self._settings.chat.name, self._settings.status
        return [
            Stage(
                "chat.name",
                lambda: find_free(self._state, name, self._expected(), status.heartbeat, self._reactor),
                _nothing,
                start_within=START_WITHIN + status.lease,
            ),
            Stage("the chat node", self.node.start, _nothing),
            Stage("the chat port", self._listen, self._drain, stop_within=LONGEST_DRAIN),
        ]

    def reload(self, settings: Settings) -> None:
        """Go on with other limits and rules."""
        self._settings = settings
        self.node.reload(settings)
        if self.websocket is not None:
            self.websocket.reload(settings)

    def banner(self) -> list[str]:
        """Where to connect, and what to type."""
        listens = f"flux chat server {self._settings.chat.name!r} listens on {self.listener.where()}"
        if is_proxied(self._settings.chat.listen):
            return [f"{listens} for a proxy that sends PROXY headers"]
        tls = self._settings.secure("chat")
        steps = [] if self.listener.is_unix() else first_steps(self.listener.address(), tls)
        return [listens + (" with TLS" if tls else ""), *steps]

    def advertised(self) -> tuple[str, int]:
        """Where clients of this chat server are told to connect."""
        own = self.listener.address()
        if self._settings.chat.advertise is None and (own.host in EVERYWHERE or self.listener.is_unix()):
            self.log.warn("clients are told to connect to {where}: set chat.advertise to an address", where=own)
        port = own.port if self._shared is None else self._shared.address().port
        return advertised(self._settings.chat, own, port)

    def _expected(self) -> HostPort | None:
        """What :meth:`advertised` will say once the port is open; None where that is not known yet."""
        if self._shared is None and self._settings.chat.advertise is not None:
            return self._settings.chat.advertise
        listen, worker = self._settings.chat.listen, self._shared is not None
        own = will_listen(listen, OWN if worker else None)
        shared = will_listen(listen, SHARED) if worker else own
        return advertised(self._settings.chat, own, shared.port) if own is not None and shared is not None else None

    async def _listen(self) -> None:
        ports = [self.listener] if self._shared is None else [self.listener, self._shared]
        try:
            for each in ports:
                await each.start()
                make_eager(each.port, self._settings.chat.buffer)
            host, port = self.advertised()
            if self.websocket is not None:
                await self.websocket.start()
            websocket = self.websocket.address(host) if self.websocket is not None else ""
            await self.node.take_lease(host, port, websocket, self._settings.advertise_tls)
            if self._status is not None:
                # Or it would learn of this server only with its next look.
                await self._status.placement.refresh()
        except BaseException:
            for each in ports:
                await each.stop()
            if self.websocket is not None:
                await self.websocket.stop()
            raise

    async def _drain(self) -> None:
        await self.listener.stop()
        if self.websocket is not None:
            await self.websocket.stop()
        if self._shared is not None:
            await self._shared.stop()
        await self.node.stop(self._settings.chat.drain)

    def _draining(self, draining: bool) -> None:
        if self._shared is not None:
            self._shared.give_way(draining)


def advertised(chat: Chat, own: HostPort, shared: int) -> HostPort:
    """Where clients are told to connect.

    :param own: where the chat server listens alone.
    :param shared: the port it shares with other workers; its own where there are none.
    """
    if chat.advertise is None:
        return own
    # As far from the advertised port as a worker's own is from the shared one.
    return HostPort(chat.advertise.host, chat.advertise.port + own.port - shared)


def will_listen(endpoint: str, inherited: int | None) -> HostPort | None:
    """Where a port will be, before it is; None where that is not known yet.

    :param inherited: as of :class:`flux.net.listener.Listener`.
    """
    if inherited is None:
        return listens_on(endpoint)
    with socket.socket(fileno=os.dup(inherited)) as handed_over:
        return HostPort(*handed_over.getsockname()[:2])


async def _nothing() -> None:
    """A stage without anything to undo."""
