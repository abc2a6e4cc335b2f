"""What browsers need: the web client, and the way to a chat server by WebSocket.

::

    gate      /  the web client      /ws ─┬─ the chat server in this process
                                          └─ Relay ── the line port of another one
    chat      /ws on chat.websocket
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IProtocolFactory

from flux.addresses import HostPort
from flux.bans import Bans
from flux.chat.node import ChatNode
from flux.chat.websocket import WebSockets
from flux.config import Settings, is_proxied
from flux.config.kinds import MOST_NAME
from flux.errors import FluxError, NotFound
from flux.gate.channel import GateRequest
from flux.gate.site import GateSite
from flux.interfaces import IState
from flux.metrics import GateMetrics
from flux.model.placement import Assignment
from flux.net.eager import make_eager
from flux.net.listener import Listener
from flux.net.relay import Relays, Target
from flux.net.upgrade import WebSocketResource
from flux.net.websocket import WebSocketProtocol
from flux.web.files import client_files

Around = Callable[[str, str, IProtocolFactory], IProtocolFactory]
"""Puts TLS around a factory, where ``tls.listeners`` names the listener; given that name and the key of its setting."""


class Browsers:
    """What a gate has for browsers.

    :param site: the gate's; the web client is put at its top, the WebSockets at ``/ws``.
    :param node: the chat server in this process, if there is one.
    :param state: knows where the others are.
    :param trust: whose certificates theirs must be signed by; None: those the system trusts.
    """

    def __init__(
        self,
        site: GateSite,
        settings: Settings,
        node: ChatNode | None,
        state: IState,
        bans: Bans,
        trust: Any,
        reactor: Any,
    ) -> None:
        self._settings = settings
        self._state = state
        self._node = node
        self._here = WebSockets(node) if node is not None else None
        self._relays = relays = Relays(
            settings.limits.max_line,
            settings.chat.slow_timeout,
            settings.gate.proxy_header,
            reactor,
            trust,
            lambda address: bans.offence("bad_lines", address),
        )
        site.metrics.relays(lambda: len(relays), lambda: relays.made, lambda: relays.failed)
        site.labels[b"/ws"] = "/ws"
        # Whether somebody is logged in is not known here, so only an admin's ban ends what is relayed.
        bans.on_ban(lambda by_admins: relays.keep_out(lambda address: bans.refusal(address, by_admins=True)))
        # With one process there is nowhere else to connect to.
        alone = settings.state.kind == "memory" or settings.gate.chat_via_gate == "yes"
        site.routes.update(client_files("'self'" if alone else "'self' ws: wss:"))
        site.root.putChild(b"ws", WebSocketResource(self._build, lambda: self._settings.chat.origins))

    def start(self) -> None:
        """Begin to look after connections to other chat servers."""
        self._relays.start()

    async def stop(self) -> None:
        """End the connections to other chat servers; the chat server in this process ends its own."""
        await self._relays.stop()

    def reload(self, settings: Settings) -> None:
        """Go on with other origins and limits."""
        self._settings = settings
        self._relays.max_line = settings.limits.max_line
        self._relays.slow_timeout = settings.chat.slow_timeout

    def address(self, assignment: Assignment) -> str:
        """Where a browser is to connect, relative to the gate where it is here; empty: nowhere."""
        via_gate = self._settings.gate.chat_via_gate
        if self._node is not None and assignment.server == self._node.name:
            return "/ws"
        if via_gate == "yes" or (via_gate == "auto" and not assignment.websocket):
            return f"/ws?server={assignment.server}"
        return assignment.websocket

    def _build(self, request: GateRequest) -> WebSocketProtocol:
        address = request.address
        [server] = (request.args or {}).get(b"server", [b""])[:1]
        name = server.decode("latin-1")
        if self._here is not None and self._node is not None and name in ("", self._node.name):
            return self._here.build(address)
        if not name or self._settings.gate.chat_via_gate == "no":
            raise NotFound("there is no chat server here; a login gives the address of one")

        async def find() -> Target:
            return await self._find(name)

        return self._relays.build(address, find)

    async def _find(self, server: str) -> Target:
        """:raises flux.errors.NotFound: there is no such server."""
        # Anybody may ask for anything, and this is for the log.
        problem: FluxError = NotFound(f"no chat server is called {server[:MOST_NAME]!r}")
        try:
            for node in (await self._state.snapshot()).nodes:
                if node.name == server:
                    return Target(node.host, node.port, node.tls)
        except FluxError as error:
            problem = error
        for static in self._settings.chatservers:
            if static.name == server:
                return Target(static.host, static.port, static.tls)
        raise problem


class WebSocketPort:
    """``chat.websocket``: a port of its own for the browsers of a chat server."""

    def __init__(self, settings: Settings, node: ChatNode, around: Around, metrics: GateMetrics, reactor: Any) -> None:
        self._settings = settings
        self._here = WebSockets(node)
        self._site = site = GateSite(settings, reactor, is_proxied(settings.chat.websocket), node.bans, metrics)
        site.labels[b"/ws"] = "/ws"
        site.root.putChild(b"ws", WebSocketResource(self._build, lambda: node.settings.chat.origins))
        factory = around("websocket", "chat.websocket", site)
        self.listener = Listener("chat.websocket", settings.chat.websocket, factory, reactor)

    def _build(self, request: GateRequest) -> WebSocketProtocol:
        return self._here.build(request.address)

    async def start(self) -> None:
        """:raises flux.lifecycle.CannotStart: the address is taken, or not ours."""
        await self.listener.start()
        make_eager(self.listener.port, self._settings.chat.buffer)

    async def stop(self) -> None:
        """Accept nothing any more; what is open belongs to the chat server."""
        await self.listener.stop()
        await self._site.stop()

    def reload(self, settings: Settings) -> None:
        """Go on with other limits."""
        self._site.reload(settings)

    def address(self, host: str) -> str:
        """What browsers are told to connect to.

        :param host: where clients of the chat server are told to connect.
        """
        if self._settings.chat.websocket_url:
            return self._settings.chat.websocket_url
        scheme = "wss" if self._settings.secure("websocket") else "ws"
        return f"{scheme}://{HostPort(host, self.listener.address().port)}/ws"
