"""From an HTTP request to a WebSocket connection, on the same socket.

::

    Site ── Upgradable ── WebSocketResource.render_GET ── Upgradable.upgrade(connection)
               └── from then on: bytes ── connection
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import urlsplit

from twisted.web.server import NOT_DONE_YET, Request

from flux.addresses import counted
from flux.errors import BadRequest, FluxError, Forbidden
from flux.net.http import Page, Upgradable, header, refuse
from flux.net.websocket import WebSocketProtocol

_HANDSHAKE = ("connection", "host", "origin", "upgrade")
"""Headers, besides those of WebSocket, that a handshake has."""


class WebSocketResource(Page):
    """Where clients open WebSocket connections.

    :param build: makes the connection that takes over, or raises what the request is then refused with.
    :param origins: asked for the origins of web pages that may connect, see :func:`permitted`.
    """

    def __init__(
        self,
        build: Callable[[Any], WebSocketProtocol],
        origins: Callable[[], Collection[str]],
    ) -> None:
        super().__init__()
        self._build = build
        self._origins = origins

    def render_GET(self, request: Any) -> int:
        """Upgrade, or say why not."""
        origin, host = header(request, b"origin"), header(request, b"host") or ""
        if origin is not None and not permitted(origin, host, self._origins()):
            text = "WebSockets of pages of {origin} refused to {address}: {count}"
            request.channel.site.tally.count(text, origin=origin[:200], address=counted(request.address))
            return refuse(request, Forbidden("pages of this origin may not connect; chat.origins says which may"))
        try:
            connection = self._build(request)
        except FluxError as error:
            return refuse(request, error)
        response = connection.handshake(_head(request))
        if response.status_code != 101:
            for name in ("Upgrade", "Allow"):
                if name in response.headers:
                    request.setHeader(name, response.headers[name])
            request.setHeader("Sec-WebSocket-Version", "13")
            why = bytes(response.body or b"").decode().partition("\n")[0]
            return refuse(request, BadRequest(why), response.status_code)
        channel = request.channel
        assert isinstance(channel, Upgradable)
        channel.upgrade(connection)
        return NOT_DONE_YET


def _head(request: Request) -> bytes:
    """The request as it came, without the headers that are none of WebSocket's business."""
    lines = [b"%b %b %b" % (request.method, request.uri, request.clientproto)]
    for name, values in request.requestHeaders.getAllRawHeaders():
        if name.lower().decode() in _HANDSHAKE or name.lower().startswith(b"sec-websocket-"):
            lines += [b"%b: %b" % (name, value) for value in values]
    return b"\r\n".join([*lines, b"", b""])


def permitted(origin: str, host: str, origins: Collection[str]) -> bool:
    """Whether a page of ``origin`` may connect to ``host`` (the ``Host`` header).

    :param origins: origins as browsers write them, ``https://chat.example.net``, or ``*`` for all; with none, pages
        that were served under the same host name may, whatever their port.
    """
    if origins:
        return "*" in origins or origin.lower() in origins
    name = _host_name(origin)
    return bool(name) and name == _host_name(f"//{host}")


def _host_name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
