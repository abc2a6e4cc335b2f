"""A WebSocket connection on behalf of somebody else: its messages are lines of a connection to a chat server.

::

    browser ── Relay ── Upstream ── line port of a chat server
       messages          lines

For chat servers that clients cannot reach themselves.  Whoever of the two does not read
makes the other one wait: nothing piles up in between.  The client's own address goes
ahead in a PROXY header, where the chat server listens for one (``haproxy:``).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from flux.addresses import HostPort, counted
from flux.errors import FluxError, in_words
from flux.lifecycle import Tasks, every, insulated, within
from flux.model.events import Kicked
from flux.net.closing import Closing
from flux.net.connection import BUSY, FULL, NORMAL, POLICY_VIOLATION, Gather
from flux.net.tally import Tally
from flux.net.websocket import WebSocketProtocol
from flux.tls.client import TlsEndpoint
from flux.wire.named import MAX_REPLY, NAMED

#: Close codes for what is no fault of the client.
GOING_AWAY = 1001
TRY_AGAIN_LATER = 1013
BAD_GATEWAY = 1014

CONNECT_WITHIN = 5.0
"""Seconds until a chat server that does not take the connection is given up."""

LOOK_EVERY = 20.0
"""Seconds between looks at who is still there."""


class Target(NamedTuple):
    """Where a chat server is."""

    host: str
    port: int
    tls: bool = False


Find = Callable[[], Awaitable[Target]]
"""Finds a chat server."""


class Relay(WebSocketProtocol):
    """A client's side.

    :ivar address: the client's own, without the port.
    """

    log = Logger()

    def __init__(self, relays: Relays, conn: str, address: str, find: Find, clock: IReactorTime) -> None:
        super().__init__(conn, Gather(), relays.max_line, clock)
        self._relays = relays
        self.address = address
        self._find = find
        self._upstream: Upstream | None = None
        self._left = False
        self._stuck_at = -1
        self._stuck_since = 0.0

    def connectionMade(self) -> None:
        """Connect to the chat server; until that is done, what the client says waits."""
        super().connectionMade()
        self._relays.add(self)
        self.hold(BUSY)
        self._relays.tasks.spawn(self._connect(), "connecting to a chat server")

    async def _connect(self) -> None:
        try:
            upstream = await self._relays.connect(await self._find(), self, self.address)
        except CancelledError:
            raise
        except Exception as problem:
            self._relays.failed_for(self.address, problem)
            self.close(TRY_AGAIN_LATER)
            return
        if self.closed:
            upstream.end(True)
            return
        self._upstream = upstream
        self.release(BUSY)

    def broke_rule(self) -> None:
        """Whoever makes relays wants to know."""
        self._relays.broke_rule(self.address)

    def keep_out(self, refusal: FluxError) -> None:
        """The client's address is banned."""
        self.write(NAMED.event(Kicked("admin", refusal.detail)))
        self.close(POLICY_VIOLATION)

    def line_received(self, line: bytes) -> None:
        """Hand a message on; the line ends that JSON allows between its parts are none to the chat server."""
        assert self._upstream is not None
        self._upstream.write(line.translate(_NO_LINE_ENDS) + b"\n")

    def choke(self) -> None:
        """The client does not read: nor is the chat server read."""
        super().choke()
        if self._upstream is not None:
            self._upstream.read(False)

    def keeps_up(self) -> None:
        """The client has taken everything."""
        self._stuck_at = -1
        # The ping that it was sent may have waited behind all that.
        self.probed = False
        if self._upstream is not None:
            self._upstream.read(True)

    def alive(self) -> None:
        """The client was heard of lately: the chat server is to know. Empty lines mean nothing else to it."""
        if self._upstream is not None:
            self._upstream.write(b"\n")

    def stuck(self, now: float) -> float:
        """For how many seconds the client, which does not keep up, was seen to take nothing."""
        taken = self.taken()
        if taken != self._stuck_at:
            self._stuck_at, self._stuck_since = taken, now
        return now - self._stuck_since

    def too_slow(self) -> None:
        """The client takes nothing: it is closed, and what the chat server has sent it counts as not received."""
        self.log.info("a client took nothing for too long, closed", conn=self.conn)
        self.write(NAMED.event(Kicked("slow")))
        self.close()

    def farewell(self) -> None:
        """The client leaves of its own will, so it has what it was sent."""
        self._left = True

    def close(self, code: int = NORMAL) -> None:
        """Say goodbye on both sides; who does not answer is cut after a while."""
        if not self.closed:
            super().close(code)
            self._relays.closing(self)
            if self._upstream is not None:
                self._upstream.end(self._left)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client is gone."""
        super().connectionLost(reason)
        self._relays.remove(self)
        if self._upstream is not None:
            self._upstream.end(self._left or bool(reason.check(ConnectionDone)))


_NO_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")


@implementer(IPushProducer)
class Upstream(Protocol):
    """The chat server's side; it produces nothing, but is told so when the chat server does not read."""

    transport: Any

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._partial = b""
        self._over = False

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        """Hand whole lines on."""
        lines, newline, rest = data.rpartition(b"\n")
        if not newline:
            self._partial += data
            if len(self._partial) > MAX_REPLY:
                self._relay.close(BAD_GATEWAY)
            return
        self._relay.write(self._partial + lines + newline)
        self._partial = rest

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The chat server has ended it; why, it has said before."""
        self._over = True
        self._relay.close(NORMAL if reason.check(ConnectionDone) else BAD_GATEWAY)

    def write(self, data: bytes) -> None:
        """Send, unless it is over."""
        if not self._over:
            self.transport.write(data)

    def read(self, on: bool) -> None:
        """Whether to read."""
        if not self._over:
            self.transport.resumeProducing() if on else self.transport.pauseProducing()

    def end(self, clean: bool) -> None:
        """End the connection; if not ``clean``, so that the chat server does not take what it sent for received."""
        if not self._over:
            self._over = True
            if clean:
                self.transport.unregisterProducer()
                self.transport.loseConnection()
            else:
                self.transport.abortConnection()

    def pauseProducing(self) -> None:
        """The chat server does not read: nor is the client read."""
        self._relay.hold(FULL)

    def resumeProducing(self) -> None:
        """It has taken everything."""
        self._relay.release(FULL)

    def stopProducing(self) -> None:
        """The connection is gone."""


class Relays:
    """All connections that are relayed by a process.

    :param proxied: whether chat servers expect PROXY headers.
    :param trust: whose certificates theirs must be signed by; None: those the system trusts.
    :param broke_rule: called with the address of a client that has broken a rule of WebSocket.
    :ivar made: how many connections there were to be relayed.
    :ivar failed: of how many the chat server was not reached.
    :ivar max_line: longest message taken from a client, in bytes; of connections made from now on.
    :ivar slow_timeout: seconds a client may take nothing of what waits for it.
    """

    log = Logger()

    def __init__(
        self,
        max_line: int,
        slow_timeout: float,
        proxied: bool,
        reactor: Any,
        trust: Any = None,
        broke_rule: Callable[[str], None] = lambda address: None,
    ) -> None:
        self.max_line = max_line
        self.slow_timeout = slow_timeout
        self.broke_rule = broke_rule
        self._proxied = proxied
        self._trust = trust
        self.tasks = Tasks(self.log, reactor)
        self._reactor = reactor
        self._all: set[Relay] = set()
        self._closing = Closing(reactor)
        self._tally = Tally(self.log, reactor)
        self.made = self.failed = 0
        self._count = 0
        self._emptied: Deferred[None] | None = None

    def __len__(self) -> int:
        return len(self._all)

    def start(self) -> None:
        """Begin to look who is still there."""
        self.tasks.spawn(
            every(LOOK_EVERY, self._look, self._reactor, "looking at relayed connections", self.log), "looking"
        )

    def build(self, address: str, find: Find) -> Relay:
        """A connection for a client at ``address`` to the chat server that ``find`` finds."""
        self._count += 1
        return Relay(self, f"r{self._count}", address, find, self._reactor)

    async def connect(self, where: Target, relay: Relay, address: str) -> Upstream:
        """Connect to a chat server on behalf of a client at ``address``."""

        def header(transport: Any) -> bytes:
            return proxy_header(address, transport) if self._proxied else b""

        endpoint: IStreamClientEndpoint = HostnameEndpoint(self._reactor, where.host, where.port)
        if where.tls:
            # The header is for who takes the connection, before anything is encrypted.
            endpoint = TlsEndpoint(endpoint, where.host, self._trust, self._reactor, header)
        upstream = Upstream(relay)
        connecting = insulated(connectProtocol(endpoint, upstream))
        await within(CONNECT_WITHIN, connecting, self._reactor, str(HostPort(where.host, where.port)))
        if not where.tls:
            upstream.write(header(upstream.transport))
        return upstream

    def failed_for(self, address: str, problem: Exception) -> None:
        """No chat server was reached for a client at ``address``."""
        self.failed += 1
        text = "no chat server for {address}, closed: {count}; {problem}"
        self._tally.count(text, address=counted(address), problem=in_words(problem))

    def add(self, relay: Relay) -> None:
        """A connection has begun."""
        self.made += 1
        self._all.add(relay)

    def keep_out(self, refusal: Callable[[str], FluxError | None]) -> None:
        """Close the connections of clients to whose addresses ``refusal`` has an answer."""
        for relay in list(self._all):
            refused = refusal(relay.address)
            if refused is not None and not relay.closed:
                relay.keep_out(refused)

    def closing(self, relay: Relay) -> None:
        """A connection is to end soon."""
        if relay in self._all:
            self._closing.begin(relay)

    def remove(self, relay: Relay) -> None:
        """A connection has ended."""
        self._all.discard(relay)
        self._closing.end(relay)
        if self._emptied is not None and not self._all and not self._emptied.called:
            self._emptied.callback(None)

    async def stop(self) -> None:
        """Say goodbye to all; those who do not answer in time are cut."""
        await self.tasks.stop()
        for relay in list(self._all):
            relay.close(GOING_AWAY)
        if self._all:
            self._emptied = Deferred()
            await self._emptied
        self._tally.stop()

    async def _look(self) -> None:
        now = self._reactor.seconds()
        for relay in list(self._all):
            if relay.closed:
                continue
            if relay.choked and relay.stuck(now) >= self.slow_timeout:
                relay.too_slow()
                continue
            if relay.heard:
                relay.heard = False
                relay.alive()
            elif relay.probed and not relay.choked:
                self.log.info("a client fell silent, closed", conn=relay.conn)
                relay.close()
                continue
            if not relay.choked:
                relay.probe()


def proxy_header(address: str, transport: Any) -> bytes:
    """A PROXY header, version 1, that says whose connection this is."""
    peer, here = transport.getPeer(), transport.getHost()
    try:
        client = ipaddress.ip_address(address)
        family = "TCP4" if client.version == 4 else "TCP6"
        target = peer.host if ipaddress.ip_address(peer.host).version == client.version else str(type(client)(0))
    except ValueError:
        # Twisted takes it only with something behind the word, which everybody has to ignore.
        return b"PROXY UNKNOWN \r\n"
    return f"PROXY {family} {client} {target} {here.port} {peer.port}\r\n".encode()
