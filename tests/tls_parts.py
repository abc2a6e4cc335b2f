"""Servers with TLS, and clients of another TLS than the servers' own: that of the standard library, in threads."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from certificates import Authority
from chat_server import ChatServer, Client, RunningNode, open_client
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.threads import deferToThread

from flux.chat.protocol import ChatFactory
from flux.metrics import TlsMetrics
from flux.net.eager import make_eager
from flux.tls.client import trust_from
from flux.tls.identity import read_identity
from flux.tls.layer import TlsFactory
from flux.tls.server import ServerTls

T = TypeVar("T")


class TlsServer(ChatServer):
    """A :class:`chat_server.ChatServer` whose clients come by TLS."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        super().__init__(folder, **changes)
        self.authority = Authority(folder)
        identity = read_identity(*self.authority.issue("localhost"))
        self.metrics = TlsMetrics()
        self.tls = ServerTls(identity, 0, self.metrics, self.reactor)
        self.options = optionsForClientTLS("localhost", trust_from(self.authority.path))

    async def start_node(self, **changes: Any) -> RunningNode:
        running = await super().start_node(**changes)
        await running.listening.stopListening()
        factory = self.tls.around("chat.listen", ChatFactory(running.node))
        running.listening = self.reactor.listenTCP(0, factory, backlog=1024, interface="127.0.0.1")
        make_eager(running.listening, running.node.settings.chat.buffer)
        return running

    async def connect(self, running: RunningNode | None = None, **options: Any) -> Client:
        client = Client(options.pop("terminator", b"\n"))
        secured = TlsFactory(self.options, True, Factory.forProtocol(lambda: client), self.reactor)
        open_client((running or self.nodes[0]).port, client=secured.buildProtocol(None), **options)
        self.clients.append(client)
        return client


class Peer:
    """A client of the standard library; every method waits.

    :ivar certificate: what the server showed, as DER.
    """

    def __init__(
        self, port: int, authority: Authority, host: str = "localhost", before: bytes = b"", address: str = "127.0.0.1"
    ) -> None:
        raw = socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(address, 0))
        raw.sendall(before)
        context = client_context(authority)
        # Who closes without a goodbye is found out.
        self.socket = context.wrap_socket(raw, server_hostname=host, suppress_ragged_eofs=False)
        self.certificate = self.socket.getpeercert(True) or b""
        self._lines = self.socket.makefile("rb")

    def ask(self, type: str, **fields: Any) -> dict[str, Any]:  # noqa: A002 - the protocol's word
        self.socket.sendall(json.dumps({"type": type, **fields}).encode() + b"\n")
        return self.next()

    def next(self) -> dict[str, Any]:
        line = self._lines.readline()
        return dict(json.loads(line)) if line else {"type": "closed"}

    def close(self) -> None:
        self._lines.close()
        self.socket.close()


def client_context(authority: Authority, *alpn: str) -> ssl.SSLContext:
    """What trusts an authority, and nobody else."""
    context = ssl.create_default_context(cafile=authority.path)
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


def shown(port: int, authority: Authority, host: str = "localhost") -> bytes:
    """The certificate that a port shows, as DER."""
    with closing(Peer(port, authority, host)) as peer:
        return peer.certificate


def der(path: Path) -> bytes:
    """The certificate in a file."""
    return ssl.PEM_cert_to_DER_cert(path.read_text())


def in_thread(function: Callable[..., T], *arguments: Any) -> Deferred[T]:
    """What waits, while the reactor runs."""
    return deferToThread(function, *arguments)
