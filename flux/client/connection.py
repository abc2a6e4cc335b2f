"""One TCP connection to a server: lines, requests with their replies, pings.

Requests are matched to replies by ``ref``; what the server says unasked goes to
``pushed``.  A connection ends once, through ``abort``, ``close``, the server or the
network: ``lost`` is then called with a sentence, and every request still waiting fails
with :class:`NotConnected`; always from the reactor, never from within ``abort``, so that
no coroutine is resumed or cancelled by what it is just doing.  Coming back is the
session's business, not this module's.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import TypeVar

from msgspec import UNSET
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.error import ConnectError, ConnectionDone, DNSLookupError
from twisted.internet.interfaces import (
    IPushProducer,
    IReactorTime,
    ISSLTransport,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from flux.addresses import HostPort
from flux.client.errors import NotConnected, QueueFull
from flux.client.lines import Decode, NotFlux, as_exception, decode, encode
from flux.errors import FluxError
from flux.lifecycle import Abandoned, DeadlineExceeded, insulated, sleep, within
from flux.model.base import Event
from flux.wire.catalogue import ErrorReply, Reply, Request
from flux.wire.framing import LineFramer
from flux.wire.named import MAX_REPLY
from flux.wire.replies import PingOk
from flux.wire.requests import Ping

#: Deadlines, in seconds.
CONNECT_WITHIN = 10.0
REQUEST_WITHIN = 30.0
PING_WITHIN = 10.0
CLOSE_WITHIN = 2.0
#: Between pings, in seconds; the server closes after 60 without a word.
PING_EVERY = 20.0
#: Most requests that may wait for their replies.
MAX_WAITING = 1000

R = TypeVar("R", bound=Reply)


def parse_address(text: str, default: HostPort) -> HostPort:
    """Read ``HOST:PORT``, ``HOST``, ``:PORT`` or ``[V6]:PORT``; what is missing comes from ``default``.

    :raises ValueError: with a sentence.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is no address: write [V6ADDRESS]:PORT")
        port = rest[1:]
    elif text.count(":") > 1:
        host, port = text, ""
    else:
        host, _, port = text.partition(":")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r} is no address: the port is a number from 1 to 65535")
    return HostPort(host or default.host, int(port) if port else default.port)


class _Transport(ITCPTransport, IPushProducer):
    """What a TCP connection offers a protocol."""


class Connection(Protocol):
    """A connection, from before it is made until after it is lost.

    :param pushed: called with each event, in order.
    :param lost: called once, with a sentence, when an established connection has ended.
    :param decode: reads a line of the port at the other end.
    :ivar alive: whether it can be used.
    :ivar paused: whether reading is stopped because the application takes nothing.
    """

    transport: _Transport
    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        rng: random.Random,
        pushed: Callable[[Connection, Event], None],
        lost: Callable[[Connection, str], None],
        decode: Decode = decode,
    ) -> None:
        self.alive = False
        self.paused = False
        self._why = ""
        self._heard = False
        self._refusal: FluxError | None = None
        self._gone: Deferred[None] = Deferred()
        self._clock = clock
        self._rng = rng
        self._pushed = pushed
        self._lost = lost
        self._decode = decode
        self._framer = LineFramer(MAX_REPLY)
        self._refs = itertools.count(1)
        self._waiting: dict[int, Deferred[Reply]] = {}

    async def connect(self, endpoint: IStreamClientEndpoint, address: HostPort) -> None:
        """Establish the connection.

        :raises NotConnected: the address cannot be reached, and why.
        """

        try:
            await within(CONNECT_WITHIN, insulated(connectProtocol(endpoint, self)), self._clock, "connecting")
        except (Abandoned, ConnectError, DNSLookupError, OSError, ValueError) as problem:
            # ValueError: the name cannot be one of a host.
            why = str(problem).rstrip(".") or type(problem).__name__
            raise NotConnected(f"cannot reach {address}: {why}") from problem

    async def request(self, request: Request, reply: type[R], seconds: float = REQUEST_WITHIN) -> R:
        """Ask, and wait for the answer of type ``reply``.

        :raises flux.errors.FluxError: what the server answered instead; ``bad_request`` for a string that cannot be
            sent, which the server is not asked about.
        :raises NotConnected: there is no connection, or it ended before the answer.
        :raises QueueFull: too many requests wait already.
        :raises flux.lifecycle.DeadlineExceeded: no answer within ``seconds``.
        """
        if not self.alive:
            raise NotConnected("not connected")
        if len(self._waiting) >= MAX_WAITING:
            raise QueueFull(f"{MAX_WAITING} requests wait for answers already")
        ref = request.ref = next(self._refs)
        line = encode(request) + b"\n"
        answer = self._waiting[ref] = Deferred()
        self.transport.write(line)
        try:
            answered = await within(seconds, answer, self._clock, f"the answer to {request.type()}")
        finally:
            self._waiting.pop(ref, None)
        if not isinstance(answered, reply):
            raise FluxError(f"the server answered {request.type()} with something else")
        return answered

    def tell(self, request: Request) -> None:
        """Send a request that has no reply; nothing happens where there is no connection."""
        if self.alive:
            self.transport.write(encode(request) + b"\n")

    def pause(self, paused: bool) -> None:
        """Stop or resume reading."""
        self.paused = paused
        if self.alive:
            if paused:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    def abort(self, why: str) -> None:
        """Use the connection no more and drop it; ``lost`` is told ``why`` in a later turn of the reactor."""
        if self.alive:
            self.alive = False
            self._why = why
            self.transport.abortConnection()

    async def close(self) -> None:
        """Use the connection no more and end it once everything written has left, or the deadline is over."""
        if not self.alive:
            return
        self.alive = False
        self._why = "closed"
        if self.paused:
            self.transport.resumeProducing()
        self.transport.loseConnection()
        try:
            await within(CLOSE_WITHIN, self._gone, self._clock, "closing")
        except DeadlineExceeded:
            self.transport.abortConnection()

    async def watch(self) -> None:
        """Ping until the connection ends, and end it when no answer comes."""
        while self.alive:
            await sleep(self._rng.uniform(0.75, 1.0) * PING_EVERY, self._clock)
            try:
                await self.request(Ping(), PingOk, PING_WITHIN)
            except DeadlineExceeded:
                # While paused the answer may lie unread: nobody can tell, so the link stays.
                if not self.paused:
                    self.abort("no sign of life from the server")
            except (FluxError, QueueFull):
                continue  # any answer is a sign of life
            except NotConnected:
                return

    # What Twisted calls.

    def connectionMade(self) -> None:
        self.alive = True
        self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        self._heard = True
        for line in self._framer.feed(data):
            if not self.alive:
                return
            try:
                said = self._decode(line)
            except NotFlux:
                self.abort("what answers there does not speak flux's protocol")
                return
            if isinstance(said, Reply):
                self._answered(said)
            elif said is not None:
                self._pushed(self, said)
        if self._framer.overflow:
            self.abort("the server sent a line that is too long")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.alive = False
        done = reason.check(ConnectionDone)
        why = self._why or ("the server closed the connection" if done else "the connection broke")
        if not self._why and not self._heard and not ISSLTransport.providedBy(self.transport):
            why += " without a word; perhaps it wants TLS"
        waiting, self._waiting = list(self._waiting.values()), {}
        self._lost(self, why)
        for answer in waiting:
            answer.errback(self._refusal or NotConnected(why))
        self._gone.callback(None)

    def _answered(self, reply: Reply) -> None:
        waiting = self._waiting.pop(reply.ref, None) if isinstance(reply.ref, int) else None
        if waiting is None:
            if isinstance(reply, ErrorReply) and reply.request is UNSET:
                # The server's last words: too many connections, or a banned address.
                self._refusal = as_exception(reply)
            elif isinstance(reply, ErrorReply):
                self._log.info("the server refused {request!r}: {name}", request=reply.request, name=reply.name)
        elif isinstance(reply, ErrorReply):
            waiting.errback(as_exception(reply))
        else:
            waiting.callback(reply)
