"""The chat port for browsers: the named dialect over WebSocket, one object per text message.

To its session such a connection is like any other: same requests, same limits, same
pressure.  What differs is in :mod:`flux.net.websocket`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux.chat.protocol import ChatConnection
from flux.net.websocket import WebSocketProtocol

if TYPE_CHECKING:
    from flux.chat.node import ChatNode


class WebSocketConnection(ChatConnection, WebSocketProtocol):
    """A client's WebSocket connection."""

    def broke_rule(self) -> None:
        """That counts towards a ban."""
        self.misbehaved("bad_lines")


class WebSockets:
    """Makes the WebSocket connections of a node."""

    def __init__(self, node: ChatNode) -> None:
        self._node = node
        self._count = 0

    def build(self, address: str) -> WebSocketConnection:
        """A connection of a client at ``address``."""
        self._count += 1
        return WebSocketConnection(self._node, f"w{self._count}", address)
