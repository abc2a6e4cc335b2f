"""HTTP requests whose answers are bounded, and which end at once when nobody waits for them any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from OpenSSL.SSL import Error as TlsError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from flux.lifecycle import insulated
from flux.tls.layer import NO_TLS, said_by_openssl, why_no_tls

CONNECT_WITHIN = 10.0
"""Seconds a server may take to accept the connection."""

MOST_READ = 1024 * 1024
"""Longest answer, in bytes."""


class Answer(NamedTuple):
    """What a server answered, whatever its status."""

    status: int
    headers: Headers
    body: bytes


class NoAnswer(Exception):
    """There is none; the text says why."""


class NoTls(NoAnswer):
    """There is a server, and it does not speak TLS."""


class HttpClient:
    """Makes requests, each on a connection of its own. Redirects are not followed.

    :param trust: whose certificates a server's must be signed by; None: those the system trusts.
    """

    def __init__(self, reactor: Any, trust: Any = None, most_read: int = MOST_READ) -> None:
        # A tenth of what it takes to start a client, of which few need this.
        from treq.client import HTTPClient

        policy = BrowserLikePolicyForHTTPS() if trust is None else BrowserLikePolicyForHTTPS(trustRoot=trust)
        pool = HTTPConnectionPool(reactor, persistent=False)
        self._http = HTTPClient(Agent(reactor, policy, CONNECT_WITHIN, pool=pool))
        self._most_read = most_read

    async def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """The answer; cancelling ends the connection.

        :raises NoAnswer: the server cannot be reached, or what it sends is not HTTP or too long;
            :class:`NoTls` where it was asked with https and does not speak that.
        """
        try:
            return await insulated(self._exchange(method, url, headers, body))
        except CancelledError:
            raise
        except Exception as problem:
            raise (NoTls if _speaks_no_tls(problem) else NoAnswer)(_reason(problem)) from problem

    async def _exchange(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        named = Headers({name: [value] for name, value in headers.items()})
        response = await self._http.request(method, url, headers=named, data=body, allow_redirects=False)
        received = _Body(self._most_read)
        response.deliverBody(received)
        return Answer(int(response.code), response.headers, await received.done)


class _Body(Protocol):
    """Collects a body; the whole of it is the result of ``done``."""

    transport: ITransport

    def __init__(self, most: int) -> None:
        self._most = most
        self._chunks: list[bytes] = []
        self._read = 0
        self.done: Deferred[bytes] = Deferred(self._cancel)

    def _cancel(self, _: Deferred[bytes]) -> None:
        self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        self._read += len(data)
        self._chunks.append(data)
        if self._read > self._most and not self.done.called:
            self.done.errback(NoAnswer(f"the answer is longer than {self._most} bytes"))
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        # PotentialDataLoss: the server says nothing of the length and ends it by closing.
        if reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(b"".join(self._chunks))
        else:
            self.done.errback(reason)


def _inner(problem: Exception) -> list[Exception]:
    """What Twisted has put into one error of its own."""
    return [failure.value for failure in getattr(problem, "reasons", None) or ()]


def _speaks_no_tls(problem: Exception) -> bool:
    mistaken = isinstance(problem, TlsError) and said_by_openssl(problem) in NO_TLS
    return mistaken or any(map(_speaks_no_tls, _inner(problem)))


def _reason(problem: Exception) -> str:
    if inner := _inner(problem):
        return "; ".join(map(_reason, inner))
    if isinstance(problem, TlsError):
        return why_no_tls(problem)
    return str(problem).rstrip(".") or type(problem).__name__
