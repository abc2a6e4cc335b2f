"""HTTP as the web parts need it: connections that refuse early or are taken over, refusals, whose request it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request

from flux.addresses import Network, is_in, parse
from flux.errors import BadRequest, FluxError, NotFound

_BEGUN = re.compile(rb"(?:[-!#$%&'*+.^_`|~0-9A-Za-z]+(?: [^\x00-\x1f]*)?)?\r?")
"""A request line that is not complete yet (RFC 9112, section 3), or the blank line that may come before it."""


class PromptChannel(HTTPChannel):
    """An HTTP connection that is refused as soon as what begins on it cannot become a request.

    Twisted waits for the end of the line, in CR and LF: who begins with TLS, or says lines that end in LF alone as
    on the chat port, would wait until the request has to be complete.
    """

    def dataReceived(self, data: bytes) -> None:
        """Take what came, and look at what is left of it: the beginning of a line."""
        super().dataReceived(data)
        # LineReceiver's own: it may have called us, and has lines left then; and a size of none is what
        # HTTPChannel has read before a request line.
        at_line = self.line_mode and not self.paused and not self._busyReceiving
        if at_line and not self._receivedHeaderSize and _BEGUN.fullmatch(self._buffer) is None:
            self._respondToBadRequestAndDisconnect()

    def headerReceived(self, line: bytes) -> bool:  # noqa: N802 - Twisted's name
        """A header is complete. A length of thousands of digits is none to Python, which Twisted does not expect."""
        try:
            good: bool = super().headerReceived(line)
        except ValueError:
            self._respondToBadRequestAndDisconnect()
            return False
        return good


class Upgradable(PromptChannel):
    """An HTTP connection that another protocol can take over."""

    _successor: Protocol | None = None

    def upgrade(self, successor: Protocol) -> None:
        """Hand the socket, and everything that arrives on it from now on, to ``successor``."""
        self.setTimeout(None)
        # The request that asked for this is never finished; the channel would keep it.
        self.requests.clear()
        transport: Any = self.transport
        transport.unregisterProducer()
        self._successor = successor
        successor.makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        if self._successor is None:
            super().dataReceived(data)
        else:
            self._successor.dataReceived(data)

    def rawDataReceived(self, data: bytes) -> None:
        """What came in one piece with the request that asked for the upgrade is the successor's as well."""
        if self._successor is None:
            super().rawDataReceived(data)
        else:
            self._successor.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self._successor is not None:
            self._successor.connectionLost(reason)


def header(request: Request, name: bytes) -> str | None:
    """A header of a request, the last of that name; None where it has none.

    Anybody may send any byte: each is one character here (Latin-1), and none an error. That is for comparing
    with what is ASCII anyway. By a name that is a str Twisted would take it for UTF-8, and raise if it is not.
    """
    value = request.getHeader(name)
    return None if value is None else value.decode("latin-1")


def client_address(peer: str, forwarded: Sequence[bytes], proxies: Sequence[Network]) -> str:
    """Whose request this is: ``peer``'s own, or what the nearest proxy that is not one of ours said of it.

    :param forwarded: the X-Forwarded-For headers.
    """
    if not proxies or not is_in(peer, proxies):
        return peer
    for hop in reversed(b",".join(forwarded).decode("latin-1").split(",")):
        address = parse(hop.strip())
        if address is None:
            break
        peer = str(address)
        if not is_in(peer, proxies):
            break
    return peer


class Page(Resource):
    """A resource that answers what it does not have with errors, as everything else under its site does."""

    def getChild(self, path: bytes, request: Request) -> IResource:
        """Nothing: what there is was put here."""
        return _Nothing()

    def render(self, request: Any) -> Any:
        """What the method for the request's says."""
        method = request.method.decode("latin-1")
        render = getattr(self, f"render_{'GET' if method == 'HEAD' else method}", None)
        return self.refuse_method(request) if render is None else render(request)

    def refuse_method(self, request: Any) -> int:
        """405."""
        methods = [name.removeprefix("render_") for name in dir(self) if name.startswith("render_")]
        allowed = ", ".join(sorted({*methods, "HEAD"}))
        request.setHeader("allow", allowed)
        return refuse(request, BadRequest(f"this path takes {allowed}"), 405)


class _Nothing(Page):
    """What a path leads to where there is nothing."""

    isLeaf = True

    def render(self, request: Any) -> int:
        return refuse(request, NotFound("there is nothing here"))


def refuse(request: Any, error: FluxError, status: int = 0) -> int:
    """Answer a request, which is one of the gate's, with an error; what a resource then returns."""
    request.fail(error, status)
    return NOT_DONE_YET
