"""HTTP as the gate speaks it: twisted.web with limits on everything a client sends, and errors in JSON.

A connection is idle, reading a request, or waiting for its answer; one look at all
connections a second finds those that take too long.

::

    idle ──first byte──> reading ──last byte──> answering ──answered──> idle
      │ 60 s               │ 30 s                  │ 10 min
      └─> closed           └─> 408, closed         └─> cut

While a client does not take what it was answered, it is not read, and what it has sent
already waits: what waits for it to be taken is a buffer and one answer, whatever it asks for at once.

What is refused is answered with a status, the JSON of the error and ``Connection: close``;
then the client is heard out for a moment, because a socket that is closed with something
unread takes our last words back.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.server import Request

from flux.errors import BadRequest, FluxError, Internal, TooLarge
from flux.net.http import Upgradable, client_address
from flux.wire.http import encode, problem

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress

    from flux.gate.site import GateSite

IDLE_WITHIN = 60.0
"""Seconds a connection may be kept open without a request."""

REQUEST_WITHIN = 30.0
"""Seconds from a request's first byte (or the connection's beginning) to its last."""

ANSWER_WITHIN = 600.0
"""Seconds an answer may take, until the client has taken it: longer than any request waits by itself."""

HEAR_OUT = 2.0
"""Seconds a client that was refused is read from (and not listened to)."""

MOST_UNHEARD = 1024 * 1024
"""Bytes of that."""

MAX_BODY = 64 * 1024
"""Longest body of a request, in bytes: twice what the longest of ours takes with every character escaped."""

MAX_HEADERS = 100
MAX_HEADER_BYTES = 16 * 1024
"""Headers of a request, the request line included."""

STATUS: dict[str, int] = {
    "bad_json": 400,
    "unavailable": 503,
    "code_expired": 403,
    "code_wrong": 403,
    "user_exists": 409,
    "password_mismatch": 400,
    "email_mismatch": 403,
    "password_invalid": 403,
    "token_invalid": 401,
    "user_invalid": 404,
    "bad_request": 400,
    "forbidden": 403,
    "not_found": 404,
    "rate_limited": 429,
    "no_server": 503,
    "too_large": 413,
    "internal": 500,
}
"""The HTTP status of each error the gate answers with."""


class Channel(Upgradable):
    """One connection.

    :ivar conn: its name in the log.
    :ivar counted: the address it counts under; empty where that is a proxy, whose clients are many, or not known yet.
    :ivar state: ``idle``, ``reading``, ``answering``, ``refused`` or ``upgraded``.
    :ivar since: when it came into that state, on the site's coarse clock.
    """

    maxHeaders = MAX_HEADERS
    totalHeadersSize = MAX_HEADER_BYTES
    site: GateSite
    transport: Any

    def __init__(self) -> None:
        super().__init__()
        self.conn = ""
        self.counted = ""
        self.state = "reading"
        self.since = 0.0
        self._unheard = 0
        self._choked = False
        self._proxy: IAddress | None = None

    def connectionMade(self) -> None:
        """Join the site's connections; where its address is known, be sent away if that has too many."""
        super().connectionMade()
        self.since = self.site.now
        self.site.connected(self)
        if self.site.proxied:
            self._proxy = self.transport.getPeer()
        else:
            self._introduce()

    def _look_who(self) -> None:
        """Find out whether a proxy has told by now whose connection this is."""
        if self._proxy is not None and self.state != "refused" and self.transport.getPeer() != self._proxy:
            self._proxy = None
            self._introduce()

    def _introduce(self) -> None:
        refusal = self.site.introduced(self)
        if refusal is not None:
            self._refuse(refusal)

    def dataReceived(self, data: bytes) -> None:
        """Take a part of a request; of a refused one, forget it."""
        self._look_who()
        if self.state == "refused":
            self._unheard += len(data)
            if self._unheard > MOST_UNHEARD:
                self.transport.abortConnection()
            return
        if self.state == "idle":
            self.state, self.since = "reading", self.site.now
        super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        """A line of a request's head; after a refusal they are not looked at."""
        if self.state != "refused":
            super().lineReceived(line)

    def rawDataReceived(self, data: bytes) -> None:
        """A part of a body; after a refusal it is not looked at."""
        if self.state != "refused":
            super().rawDataReceived(data)

    def lineLengthExceeded(self, line: bytes) -> None:
        """The head has a line that is over every limit."""
        self._respondToBadRequestAndDisconnect()

    def allContentReceived(self) -> None:
        """A request is complete: it has its answer to wait for now."""
        if self.state != "refused":
            self.state, self.since = "answering", self.site.now
            super().allContentReceived()

    def requestDone(self, request: Any) -> None:
        """A request is answered; the next one may be here already, and waits until the client takes the answer."""
        if self.state == "answering":
            if self._choked:
                # Or what was sent in one piece would be answered at once, at any length.
                self.paused = True
            else:
                self.state, self.since = "idle", self.site.now
            if self.site.stopping:
                self.persistent = 0
        super().requestDone(request)

    def pauseProducing(self) -> None:
        """The client does not take what it was answered: nor is it read, even while an answer is on its way."""
        self._choked = True
        super().pauseProducing()
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """It has taken everything: on with what it has sent meanwhile."""
        self._choked = False
        super().resumeProducing()
        if not self.paused:
            return
        self.paused = False
        if self.state == "answering":
            self.state, self.since = "idle", self.site.now
            waiting = self.clearLineBuffer()
            if self.site.stopping:
                self.loseConnection()
            elif waiting:
                self.dataReceived(waiting)

    def upgrade(self, successor: Protocol) -> None:
        """From now on somebody else speaks on this connection, and looks after it; it still counts."""
        self.state = "upgraded"
        for request in self.requests:
            request.ended("ok")
        self.site.upgraded(self)
        super().upgrade(successor)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        super().connectionLost(reason)
        self.site.disconnected(self)

    def refuse(self, error: FluxError, status: int = 0) -> None:
        """Answer what is being received with ``error``; nothing that follows is looked at."""
        if self.state == "refused":
            return
        self.site.metrics.refused("unread", error.name)
        self._refuse(error, status)

    def _refuse(self, error: FluxError, status: int = 0) -> None:
        self.state, self.since = "refused", self.site.now
        body = encode(problem(error))
        code = status or STATUS[error.name]
        head = (
            f"HTTP/1.1 {code} {http.RESPONSES.get(code, b'').decode()}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\nCache-Control: no-store\r\n\r\n"
        )
        self.transport.write(head.encode() + body)

    def make_room(self) -> None:
        """Be closed in favour of another connection; what arrives meanwhile is not looked at."""
        self.state, self.since = "refused", self.site.now
        self.loseConnection()

    def expire(self, now: float) -> None:
        """Look whether the connection takes too long for what it does, and whose it is."""
        self._look_who()
        waited = now - self.since
        if self.state == "refused":
            if waited > HEAR_OUT:
                self.transport.abortConnection()
        elif self.state == "reading":
            if waited > REQUEST_WITHIN:
                self.refuse(BadRequest(f"the request was not complete within {REQUEST_WITHIN:g} s"), 408)
        elif self.state == "idle":
            if waited > IDLE_WITHIN + HEAR_OUT:
                self.transport.abortConnection()
            elif waited > IDLE_WITHIN:
                self.loseConnection()
        elif self.state == "answering" and waited > ANSWER_WITHIN:
            self.transport.abortConnection()

    # What twisted.web calls and does not document. Tests see to it that it still does.

    def _respondToBadRequestAndDisconnect(self) -> None:
        if self.counted:
            self.site.misbehaved(self.counted)
        self.refuse(BadRequest("this is not an HTTP request, or one with too many or too long headers"))


class GateRequest(Request):
    """A request.

    :ivar address: the network address of whoever asks, without the port.

    What it is counted as is its label; empty before it is complete, and after it was counted.
    """

    site: GateSite
    channel: Any
    defaultContentType = b"application/octet-stream"
    _outcome = "ok"
    _label = ""
    _began = 0.0

    def gotLength(self, length: int | None) -> None:
        """The head is complete: refuse a body that is too long before it is sent, and count one of unknown length."""
        self._left = MAX_BODY
        if length is not None and length > MAX_BODY:
            self.channel.refuse(TooLarge(f"a body has at most {MAX_BODY} bytes"))
            # Or it would be asked to send it.
            self.requestHeaders.removeHeader(b"Expect")
            length = 0
        super().gotLength(length)

    def handleContentChunk(self, data: bytes) -> None:
        """A part of the body."""
        self._left -= len(data)
        if self._left < 0:
            self.channel.refuse(TooLarge(f"a body has at most {MAX_BODY} bytes"))
        else:
            super().handleContentChunk(data)

    @property
    def address(self) -> str:
        """Whose request this is."""
        peer = getattr(self.getClientAddress(), "host", "local")
        forwarded = self.requestHeaders.getRawHeaders(b"X-Forwarded-For", [])
        return client_address(peer, forwarded, self.site.proxies)

    def write(self, data: bytes) -> None:
        """Before the first byte goes out, say who answers."""
        if not self.startedWriting:
            self.responseHeaders.setRawHeaders(b"Server", [b"flux"])
        super().write(data)

    def finish(self) -> None:
        """It is answered."""
        super().finish()
        self.ended(self._outcome)

    def connectionLost(self, reason: Failure) -> None:
        """Nobody waits for the answer any more."""
        super().connectionLost(reason)
        self.ended("gone")

    def failed(self, error: FluxError) -> None:
        """The answer, whatever it looks like, will be this."""
        self._outcome = error.name

    def ended(self, outcome: str) -> None:
        """Count it, once."""
        if self._label:
            self.site.metrics.answered(self._label, outcome, time.perf_counter() - self._began)
            self._label = ""

    def processingFailed(self, reason: Failure) -> Failure:
        """A bug: into the log it goes, and not to the client."""
        self.channel.site.log_failure(reason, self)
        if self.startedWriting:
            self.channel.transport.abortConnection()
        else:
            self.fail(Internal())
        return reason

    def process(self) -> None:
        """A route answers for itself; the resource tree is for everything else."""
        site = self.site = self.channel.site
        self._label, self._began = site.label(self.path), time.perf_counter()
        # On each request: behind a proxy it may be anybody's, and a ban may be younger than the connection.
        refusal = site.refusal(self.address) if site.keeps_out else None
        route = site.routes.get(self.path)
        if route is None and refusal is None:
            super().process()
            return
        try:
            if refusal is None:
                route.render(self)
            else:
                getattr(route, "refuse", GateRequest.fail)(self, refusal)
        except BaseException:
            self.processingFailed(Failure())

    def answer(self, status: int, body: bytes, kind: bytes = b"application/json") -> None:
        """Answer with JSON, or something else; head and body leave in one write."""
        self.setResponseCode(status)
        head = [
            b"%b %d %b\r\nServer: flux\r\nDate: %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n"
            b"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
            % (self.clientproto, status, self.code_message, self.site.date, kind, len(body))
        ]
        for name, values in self.responseHeaders.getAllRawHeaders():
            if name not in (b"Server", b"Date"):
                head += [b"%b: %b\r\n" % (name, value) for value in values]
        head += [b"\r\n", b"" if self.method == b"HEAD" else body]
        self.startedWriting = 1
        self.channel.write(b"".join(head))
        self.finish()

    def fail(self, error: FluxError, status: int = 0) -> None:
        """Answer with an error."""
        self.failed(error)
        retry_after = getattr(error, "retry_after", 0)
        if retry_after:
            self.responseHeaders.setRawHeaders(b"Retry-After", [b"%d" % -(-retry_after // 1000)])
        if error.name == "token_invalid":
            self.responseHeaders.setRawHeaders(b"WWW-Authenticate", [b"Bearer"])
        self.answer(status or STATUS[error.name], encode(problem(error)))
