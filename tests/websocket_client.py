"""The client's side of WebSocket connections: one that behaves, and one that says anything.

``Peer`` holds a client that knows the rules (of the ``websockets`` library) and what it
has been told; ``frame`` makes frames that keep them or do not.  Both work on bytes, so
that tests connect them to a socket or to a protocol in memory.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from chat_server import ChatServer, Client, RunningNode, open_client
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

from flux.chat.websocket import WebSockets
from flux.gate.site import GateSite
from flux.net.eager import make_eager
from flux.net.upgrade import WebSocketResource

_silent = logging.Logger("tests", logging.CRITICAL)
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HEAD = (
    b"GET /ws HTTP/1.1\r\nHost: chat.example.net\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n"
)


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = b"\x01\x02\x03\x04",
    size: int | None = None,
) -> bytes:
    """A frame; ``size`` is what its header claims, and without a ``mask`` no server takes it."""
    claimed = len(payload) if size is None else size
    first = bytes([fin << 7 | rsv << 4 | opcode])
    masked = 0x80 if mask is not None else 0
    if claimed < 126:
        header = first + bytes([masked | claimed])
    elif claimed < 65536:
        header = first + bytes([masked | 126]) + claimed.to_bytes(2, "big")
    else:
        header = first + bytes([masked | 127]) + claimed.to_bytes(8, "big")
    if mask is None:
        return header + payload
    return header + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


class Peer:
    """A client without a socket.

    :ivar texts: the messages that came.
    :ivar response: the server's answer to the handshake.
    """

    def __init__(self, deflate: bool = False, origin: str | None = None, path: str = "/ws") -> None:
        extensions = [ClientPerMessageDeflateFactory()] if deflate else None
        uri = parse_uri(f"ws://127.0.0.1{path}")
        self.protocol = ClientProtocol(uri, extensions=extensions, origin=origin, max_size=None, logger=_silent)  # type: ignore[arg-type]
        self.texts: list[bytes] = []
        self.pings = 0
        self.response: Response | None = None
        self._parts: list[bytes] = []
        self.protocol.send_request(self.protocol.connect())

    def sent(self) -> bytes:
        """What is to be sent."""
        return b"".join(self.protocol.data_to_send())

    def receive(self, data: bytes) -> None:
        """Bytes from the server."""
        self.protocol.receive_data(data)
        for event in self.protocol.events_received():
            if isinstance(event, Response):
                self.response = event
            elif isinstance(event, Frame):
                if event.opcode in (Opcode.TEXT, Opcode.CONT):
                    self._parts.append(bytes(event.data))
                    if event.fin:
                        self.texts.append(b"".join(self._parts))
                        self._parts.clear()
                self.pings += event.opcode is Opcode.PING

    def text(self, payload: bytes) -> bytes:
        """A message, to be sent."""
        self.protocol.send_text(payload)
        return self.sent()

    @property
    def code(self) -> int | None:
        """Why the server has said goodbye, if it has."""
        return int(self.protocol.close_rcvd.code) if self.protocol.close_rcvd else None


class WebSocketClient(Client):
    """A :class:`chat_server.Client` whose lines are messages.

    ``frames`` sends bytes as they are.
    """

    def __init__(self, deflate: bool = False, origin: str | None = None, path: str = "/ws") -> None:
        super().__init__()
        self.peer = Peer(deflate, origin, path)
        self._unsent = b""

    def connectionMade(self) -> None:
        self.transport.write(self.peer.sent())

    def dataReceived(self, data: bytes) -> None:
        self.peer.receive(data)
        if self.peer.protocol.state is State.OPEN and self._unsent:
            unsent, self._unsent = self._unsent, b""
            self.raw(unsent)
        texts, self.peer.texts = self.peer.texts, []
        for text in texts:
            self.lines.append(json.loads(text))
            self.waiting.append(dict(self.lines[-1]))
        self.transport.write(self.peer.sent())
        self._notify()

    def raw(self, data: bytes) -> None:
        """Send lines."""
        if self.peer.protocol.state is State.CONNECTING:
            self._unsent += data
            return
        for line in data.split(b"\n"):
            if line:
                self.transport.write(self.peer.text(line))

    def frames(self, data: bytes) -> None:
        self.transport.write(data)

    async def opened(self) -> int:
        """The handshake is done; the status it was answered with."""
        response: Response = await self.until(lambda: self.peer.response)
        return response.status_code

    async def goodbye(self, code: int = 1000) -> None:
        """Close as a browser does."""
        self.peer.protocol.send_close(code)
        self.transport.write(self.peer.sent())
        await self.until(lambda: self.closed)

    async def ended_with(self) -> int | None:
        """The close code, when the connection has ended."""
        await self.until(lambda: self.closed)
        return self.peer.code


class WebSocketServer(ChatServer):
    """A :class:`chat_server.ChatServer` whose clients come by WebSocket.

    :ivar deflate: whether clients made from now on ask for compression.
    """

    deflate = False

    def __init__(self, folder: Path, **changes: Any) -> None:
        super().__init__(folder, **changes)
        self.sites: dict[RunningNode, GateSite] = {}

    async def start_node(self, **changes: Any) -> RunningNode:
        running = await super().start_node(**changes)
        await running.listening.stopListening()
        node, here = running.node, WebSockets(running.node)
        site = GateSite(node.settings, self.reactor)
        site.root.putChild(
            b"ws",
            WebSocketResource(lambda request: here.build(request.address), lambda: node.settings.chat.origins),
        )
        running.listening = self.reactor.listenTCP(0, site, backlog=1024, interface="127.0.0.1")
        make_eager(running.listening, running.node.settings.chat.buffer)
        self.sites[running] = site
        return running

    async def stop_node(self, running: RunningNode) -> None:
        await super().stop_node(running)
        if running in self.sites:
            await self.sites.pop(running).stop()

    async def connect(self, running: RunningNode | None = None, **options: Any) -> Client:
        return await self.connect_websocket(running, **options)

    async def connect_websocket(
        self, running: RunningNode | None = None, *, origin: str | None = None, **options: Any
    ) -> WebSocketClient:
        """A connection on which the handshake is under way."""
        client = WebSocketClient(self.deflate, origin)
        open_client((running or self.nodes[0]).port, client=client, **options)
        self.clients.append(client)
        return client


def message(**fields: Any) -> bytes:
    """A message as JSON."""
    return json.dumps(fields).encode()


def mask() -> bytes:
    """A mask nobody has seen before."""
    return os.urandom(4)
