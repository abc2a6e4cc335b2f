"""HTTP for ports of our own: twisted.web with bounds, JSON answers, and files that may do little.

Bounds: a request has to be there within a time that does not begin anew with every byte, its body is short, and
so many connections are open at once.  Who asks does so at once, so whoever has been here longest without a whole
request makes room where there are too many: the silent keep nobody out.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import msgspec
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import CACHED
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from flux.addresses import counted
from flux.errors import FluxError, in_words
from flux.net.http import PromptChannel
from flux.net.tally import Tally

REQUEST_WITHIN = 30.0
"""Seconds a request may take to arrive, from the connection or the answer before it on."""

MAX_BODY = 64 * 1024
"""Longest body of a request, in bytes."""

MAX_CONNECTIONS = 256
"""Connections open at once; for one more, somebody who waits makes room."""

MAX_PER_ADDRESS = 64
"""Those of them that come from one address."""

STATUS = {
    "bad_json": 400,
    "bad_request": 400,
    "password_invalid": 422,
    "token_invalid": 401,
    "forbidden": 403,
    "user_invalid": 404,
    "not_found": 404,
    "too_large": 413,
    "rate_limited": 429,
    "unavailable": 503,
    "no_server": 503,
}
"""The HTTP status of errors; 500 for others."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src {connect}; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""What a page may do: nothing that is not in its files, and no string becomes markup or a program."""

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class Channel(PromptChannel):
    """A connection.

    :ivar address: what it counts as.
    """

    site: BoundedSite
    transport: Any

    def connectionMade(self) -> None:
        """Be taken in."""
        super().connectionMade()
        self.address = counted(getattr(self.transport.getPeer(), "host", "local"))
        self.site.add(self)

    def allContentReceived(self) -> None:  # noqa: N802 - Twisted's name
        """A request is complete, and is answered now."""
        self.site.waiting.pop(self, None)
        super().allContentReceived()

    def requestDone(self, request: Any) -> None:  # noqa: N802 - Twisted's name
        """It is answered: the next one is waited for."""
        if self in self.site.channels:
            self.site.waiting[self] = None
        super().requestDone(request)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.site.remove(self)

    def resetTimeout(self) -> None:
        """A request that comes in drops has no more time than others."""


class BoundedRequest(Request):
    """A request whose body is bounded, whatever its head says of it.

    :ivar too_large: True where the body was over :data:`MAX_BODY`; then there is none.
    """

    too_large = False
    channel: Any
    defaultContentType = None

    def gotLength(self, length: int | None) -> None:
        """The head is there."""
        self._taken = 0
        # Where it is known to be too long, nothing is kept of it from the start.
        self.too_large = length is not None and length > MAX_BODY
        super().gotLength(0 if self.too_large else length)

    def handleContentChunk(self, data: bytes) -> None:
        """A part of the body."""
        self._taken += len(data)
        if self._taken > MAX_BODY:
            self.too_large = True
        elif not self.too_large:
            super().handleContentChunk(data)
        if self._taken > 16 * MAX_BODY:
            self.channel.transport.abortConnection()


class BoundedSite(Site):
    """A tree of resources on connections and requests with bounds.

    :ivar channels: the open connections.
    :ivar waiting: those of them without a whole request; who has waited longest is the first.
    :ivar tally: what strangers do, for the log.
    """

    log_to = Logger()
    noisy = False
    displayTracebacks = False
    # Twisted declares a function that makes channels; a class is one.
    protocol = Channel  # type: ignore[assignment]

    def __init__(self, root: Resource, reactor: Any) -> None:
        super().__init__(
            root,
            requestFactory=BoundedRequest,
            timeout=REQUEST_WITHIN,
            reactor=reactor,
            parsePOSTFormSubmission=False,
        )
        self.channels: set[Channel] = set()
        self.waiting: dict[Channel, None] = {}
        self.tally = Tally(self.log_to, reactor)

    def acceptableProtocols(self) -> list[bytes]:  # noqa: N802 - Twisted's name
        """What TLS agrees on (ALPN): HTTP/2 is not spoken here, whatever is installed."""
        return [b"http/1.1"]

    def log(self, request: Any) -> None:
        """No access log: who did something is logged by what does it."""

    def add(self, channel: Channel) -> None:
        """Take a connection in; where there are too many, another one makes room, or it is closed itself."""
        self.channels.add(channel)
        self.waiting[channel] = None
        same = sum(each.address == channel.address for each in self.channels)
        if same > MAX_PER_ADDRESS:
            longest = next(each for each in self.waiting if each.address == channel.address)
            self._make_room(longest, f"more than {MAX_PER_ADDRESS} connections")
        elif len(self.channels) > MAX_CONNECTIONS:
            self._make_room(next(iter(self.waiting)), f"one of more than {MAX_CONNECTIONS} connections")

    def remove(self, channel: Channel) -> None:
        """A connection is gone, or as good as that."""
        self.channels.discard(channel)
        self.waiting.pop(channel, None)

    def _make_room(self, channel: Channel, why: str) -> None:
        self.tally.count("{why} from {address}, closed: {count}", why=why, address=channel.address)
        self.remove(channel)
        channel.transport.abortConnection()

    def close(self) -> None:
        """Close all connections."""
        for channel in list(self.channels):
            channel.transport.abortConnection()
        self.tally.stop()


def answer(request: Request, status: int, body: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
    """Answer, and be done with it."""
    request.setResponseCode(status)
    for name, value in {"Cache-Control": "no-store", **HEADERS, **(headers or {})}.items():
        request.setHeader(name, value)
    request.setHeader("Content-Type", kind)
    request.setHeader("Content-Length", str(len(body)))
    request.write(body)
    request.finish()


def answer_json(request: Request, value: Any, status: int = 200) -> None:
    """Answer with a value in JSON."""
    answer(request, status, msgspec.json.encode(value) + b"\n", "application/json")


def refuse(request: Request, error: FluxError, status: int = 0) -> None:
    """Answer with an error: its name for programs, its detail for people."""
    if error.name == "token_invalid":
        request.setHeader("WWW-Authenticate", "Bearer")
    what = {"error": error.name, "code": error.code, "detail": in_words(error)}
    answer_json(request, what, status or STATUS.get(error.name, 500))


class StaticFile:
    """A file of the package, kept in memory, also packed. Browsers ask each time whether it has changed: its ETag
    says so.

    :param connect: where a page may connect to, as in a Content-Security-Policy.
    """

    def __init__(self, name: str, body: bytes, connect: str) -> None:
        tag = hashlib.blake2b(body, digest_size=12).hexdigest()
        self._kind = TYPES[name[name.rindex(".") :]]
        self._plain = body, f'"{tag}"'.encode()
        self._packed = gzip.compress(body, 9, mtime=0), f'"{tag}-gzip"'.encode()
        self._headers = {
            "Cache-Control": "no-cache",
            "Content-Security-Policy": POLICY.format(connect=connect),
            "Vary": "Accept-Encoding",
        }

    def send(self, request: Request) -> None:
        """Answer with the file, or that it has not changed."""
        packed = b"gzip" in (request.requestHeaders.getRawHeaders(b"accept-encoding") or [b""])[0]
        body, tag = self._packed if packed else self._plain
        headers = {**self._headers, "Content-Encoding": "gzip"} if packed else self._headers
        unchanged = request.setETag(tag) is CACHED
        answer(request, 304 if unchanged else 200, b"" if unchanged else body, self._kind, headers)


def static_files(package: str, connect: str = "'self'") -> dict[bytes, StaticFile]:
    """The files in the folder ``static`` of a package by path; ``index.html`` is also the page at ``/``."""
    found = {}
    for file in files(package).joinpath("static").iterdir():
        if file.name[file.name.rfind(".") :] in TYPES:
            found[f"/{file.name}".encode()] = page = StaticFile(file.name, file.read_bytes(), connect)
            if file.name == "index.html":
                found[b"/"] = page
    return found
