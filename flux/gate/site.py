"""All connections of a gate, and where their requests lead."""

from __future__ import annotations

import contextlib
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from flux.addresses import counted, is_in
from flux.bans import Bans
from flux.config import Settings
from flux.errors import FluxError, NotFound, RateLimited
from flux.gate.channel import Channel, GateRequest
from flux.lifecycle import DeadlineExceeded, Tasks, every, within
from flux.metrics import GateMetrics
from flux.net.tally import Tally

STOP_WITHIN = 3.0
"""Seconds that answers on their way have when the gate stops."""


class Nothing(Resource):
    """What a path leads to where there is nothing."""

    isLeaf = True

    def render(self, request: Any) -> int:
        """404."""
        request.fail(NotFound("there is nothing here; /openapi.json describes what there is"))
        return NOT_DONE_YET


class Root(Resource):
    """The tree for everything that is no route of the API; ``putChild`` adds to it."""

    def getChild(self, path: bytes, request: Any) -> Resource:
        """Nothing: what there is was put here."""
        return Nothing()


class GateSite(Site):
    """All connections of a gate.

    :param bans: who is kept out; None: nobody.
    :ivar metrics: what it counts.
    :ivar labels: what requests for a path are counted as; those for a route that is not in it are ``files``.
    :ivar routes: resources by their whole path, looked at first.
    :ivar root: the resource tree, looked at otherwise.
    :ivar proxied: connections come with PROXY headers; whose they are is known only then.
    :ivar now: the clock as of the last second, cheap to read.
    :ivar tally: what strangers do, for the log.
    :ivar stopping: True once no connection is kept open any more.
    :ivar date: for the header of that name, as of the last second.
    :ivar proxies: whose ``X-Forwarded-For`` is believed.
    """

    log_to = Logger()
    noisy = False
    # Twisted declares a function that makes channels; a class is one.
    protocol = Channel  # type: ignore[assignment]
    displayTracebacks = False

    def __init__(
        self,
        settings: Settings,
        clock: Any,
        proxied: bool = False,
        bans: Bans | None = None,
        metrics: GateMetrics | None = None,
    ) -> None:
        self.root = Root()
        super().__init__(self.root, requestFactory=GateRequest, timeout=None, reactor=clock)
        self._parsePOSTFormSubmission = False
        self.routes: dict[bytes, Resource] = {}
        self.labels: dict[bytes, str] = {}
        self.metrics = metrics = metrics or GateMetrics()
        metrics.connections(lambda: len(self._channels))
        self.now = clock.seconds()
        self.date = http.datetimeToString()
        self._clock = clock
        self.tally = Tally(self.log_to, clock)
        self.proxied = proxied
        self._bans = bans
        self._channels: set[Channel] = set()
        self._per_address: dict[str, set[Channel]] = {}
        self._tasks = Tasks(self.log_to, clock)
        self._count = 0
        self._emptied: Deferred[None] | None = None
        self.stopping = False
        self.reload(settings)

    def reload(self, settings: Settings) -> None:
        """Go on with other limits."""
        self.proxies = settings.gate.proxies
        self._most = settings.limits.connections_per_address

    def startFactory(self) -> None:
        """Begin to look at the connections; there is no access log."""
        self._tasks.spawn(
            every(1.0, self._look, self._clock, "looking at the gate's connections", self.log_to), "looking"
        )

    def stopFactory(self) -> None:
        """The port is closed; what is open is looked at until :meth:`stop`."""

    async def stop(self) -> None:
        """Close all connections, those that wait for an answer once they have it; all within :data:`STOP_WITHIN`."""
        self.stopping = True
        await self._tasks.stop()
        for channel in list(self._channels):
            if channel.state != "answering":
                channel.loseConnection()
        if self._channels:
            self._emptied = Deferred()
            with contextlib.suppress(DeadlineExceeded):
                await within(STOP_WITHIN, self._emptied, self._clock, "closing the gate's connections")
            self._emptied = None
        for channel in list(self._channels):
            channel.transport.abortConnection()
        self.tally.stop()

    def acceptableProtocols(self) -> list[bytes]:
        """What TLS agrees on (ALPN): HTTP/2 is not spoken here, whatever is installed."""
        return [b"http/1.1"]

    def log(self, request: Any) -> None:
        """No access log."""

    def log_failure(self, reason: Failure, request: Any) -> None:
        """A bug showed itself."""
        self.log_to.failure("answering {method} {path} failed", reason, method=request.method, path=request.path)

    @property
    def keeps_out(self) -> bool:
        """Whether anybody is banned at all."""
        return self._bans is not None and self._bans.any

    def refusal(self, address: str) -> FluxError | None:
        """What somebody at ``address`` is told who is banned; None for everybody else."""
        return None if self._bans is None else self._bans.refusal(address)

    def misbehaved(self, address: str) -> None:
        """A client does not speak HTTP; that counts towards a ban."""
        if self._bans is not None:
            self._bans.offence("http", address)

    def connected(self, channel: Channel) -> None:
        """Take a connection in."""
        self._count += 1
        channel.conn = f"g{self._count}"
        self._channels.add(channel)

    def introduced(self, channel: Channel) -> FluxError | None:
        """It is known whose a connection is: what it is told where that is banned, or has too many that are in use."""
        address = getattr(channel.transport.getPeer(), "host", "local")
        if is_in(address, self.proxies):
            return None
        channel.counted = address
        theirs = self._per_address.setdefault(counted(address), set())
        theirs.add(channel)
        banned = self.refusal(address)
        if banned is not None:
            self.metrics.banned.inc()
            return banned
        if not self._most or len(theirs) <= self._most:
            return None
        # A browser keeps connections that it may never use again, and there may be many browsers behind an address.
        idle = min((each for each in theirs if each.state == "idle"), key=lambda each: each.since, default=None)
        if idle is not None:
            idle.make_room()
            return None
        self.tally.count("{count} connections over the limit refused from {address}", address=address)
        self.metrics.too_many.inc()
        return RateLimited("too many connections from this address", 1000)

    def label(self, path: bytes) -> str:
        """What a request for ``path`` is counted as: there are few of these, whatever is asked for."""
        return self.labels.get(path) or ("files" if path in self.routes else "other")

    def upgraded(self, channel: Channel) -> None:
        """A connection speaks another protocol, and belongs to somebody else: it is not looked at any more."""
        self.metrics.websockets.inc()
        self._forget(channel)

    def disconnected(self, channel: Channel) -> None:
        """A connection is gone."""
        if address := channel.counted:
            channel.counted = ""
            theirs = self._per_address[counted(address)]
            theirs.discard(channel)
            if not theirs:
                del self._per_address[counted(address)]
        self._forget(channel)

    def _forget(self, channel: Channel) -> None:
        self._channels.discard(channel)
        if not self._channels and self._emptied is not None:
            self._emptied.callback(None)
            self._emptied = None

    async def _look(self) -> None:
        self.now = now = self._clock.seconds()
        self.date = http.datetimeToString()
        for channel in list(self._channels):
            channel.expire(now)
