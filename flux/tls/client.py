"""Connections to servers whose certificate has to be right: TLS around any endpoint.

A connection counts as made when the handshake is done, so that who connects is told what is
wrong with the certificate instead of seeing the connection break.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography import x509
from OpenSSL.crypto import X509, X509StoreFlags
from OpenSSL.SSL import SSL_CB_ALERT, SSL_CB_WRITE, Connection, Context
from service_identity import VerificationError
from twisted.internet._sslverify import IOpenSSLTrustRoot
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import Certificate, optionsForClientTLS, platformTrust, trustRootFromCertificates
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer, providedBy

from flux.tls.layer import HandshakeTimeout, TlsFactory, TlsLayer, why_no_tls

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)

_ALERTS = {
    42: "its certificate is not valid",
    43: "its certificate is of a kind that is not supported",
    44: "its certificate was revoked",
    45: "its certificate has expired",
    46: "its certificate cannot be checked",
    48: "its certificate is signed by nobody who is trusted here",
}
"""What we tell a server whose certificate we refuse (RFC 8446, section 6), in words for those who connect."""

#: Contexts kept, one for each pair of host and trust: to make one reads all certificates of the system.
_MOST_CONTEXTS = 64


class TlsFailed(ConnectError):
    """There is a server, but no TLS with it; the text says why."""

    def __init__(self, why: str) -> None:
        super().__init__(string=why)
        self.why = why

    def __str__(self) -> str:
        return self.why


def trust_from(path: Path) -> Any:
    """The certificates in a PEM file, as those to trust.

    :raises OSError: it cannot be read.
    :raises ValueError: there is none in it, or a broken one.
    """
    blocks = _CERTIFICATE.findall(path.read_bytes())
    if not blocks:
        raise ValueError(f"{path} holds no certificate (PEM)")
    try:
        return trustRootFromCertificates([Certificate.loadPEM(block) for block in blocks])
    except Exception as problem:
        raise ValueError(f"{path} holds a certificate that cannot be read") from problem


@implementer(IOpenSSLTrustRoot)
class Trust:
    """Trust in those that a file or the system names, and in some certificates themselves, whoever signed them.

    :param ca: a file with certificates (PEM); None: those the system trusts.
    :param also: believed as they are.
    :raises OSError: the file cannot be read.
    :raises ValueError: there is no certificate in it, or a broken one.
    """

    def __init__(self, ca: Path | None, also: Sequence[x509.Certificate] = ()) -> None:
        self.ca = ca
        self.also = tuple(also)
        self._root: Any = platformTrust() if ca is None else trust_from(ca)

    def _addCACertsToContext(self, context: Context) -> None:  # noqa: N802 - Twisted's name
        self._root._addCACertsToContext(context)
        store = context.get_cert_store()
        assert store is not None
        for certificate in self.also:
            store.add_cert(X509.from_cryptography(certificate))
        if self.also:
            store.set_flags(X509StoreFlags.PARTIAL_CHAIN)


@implementer(IStreamClientEndpoint)
class TlsEndpoint:
    """TLS over the connections of another endpoint.

    :param host: whom the certificate has to be for.
    :param trust: whose certificates the server's must be signed by; None: those the system trusts.
    :param before: what is to be written before the handshake, given the transport: a PROXY header.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        host: str,
        trust: Any,
        clock: IReactorTime,
        before: Callable[[Any], bytes] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._host = host
        self._trust = trust
        self._clock = clock
        self._before = before

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:  # noqa: N803 - Twisted's name
        """Connect; fails with :class:`TlsFailed`, besides what the other endpoint fails with.

        :raises ValueError: the name cannot be one of a host.
        """
        try:
            creator = _Creator(_options(self._host, self._trust))
        except UnicodeError as problem:
            raise ValueError(f"{self._host!r} is no name of a host") from problem
        factory = _Connecting(creator, protocolFactory, self._clock, self._host, self._before)
        connecting: Deferred[Any] = self._endpoint.connect(factory)
        return connecting.addCallback(_ClientLayer.until_secured)


def tls_endpoints(reactor: Any, trust: Any) -> Callable[[str, int], IStreamClientEndpoint]:
    """How hosts and ports are reached with TLS."""
    return lambda host, port: TlsEndpoint(HostnameEndpoint(reactor, host, port), host, trust, reactor)


@lru_cache(_MOST_CONTEXTS)
def _options(host: str, trust: Any) -> Any:
    return optionsForClientTLS(host, trustRoot=trust)


@implementer(IOpenSSLClientConnectionCreator)
class _Creator:
    """Makes connections that note what we have against a certificate."""

    def __init__(self, options: Any) -> None:
        self._options = options

    def clientConnectionForTLS(self, protocol: Any) -> Connection:  # noqa: N802 - Twisted's name
        connection: Connection = self._options.clientConnectionForTLS(protocol)

        def noted(_: Any, where: int, what: int) -> None:
            if where & SSL_CB_ALERT and where & SSL_CB_WRITE:
                protocol.refused = _ALERTS.get(what & 0xFF, "")

        connection.set_info_callback(noted)
        return connection


class _ClientLayer(TlsLayer):
    """A connection whose protocol is connected when the handshake is done.

    :ivar done: fires with that protocol.
    :ivar refused: what we have against the certificate.
    """

    factory: _Connecting
    refused = ""

    def __init__(self, factory: _Connecting, wrapped: Any) -> None:
        super().__init__(factory, wrapped, _connectWrapped=False)
        self.done: Deferred[Any] = Deferred(lambda _: self.abortConnection())

    def makeConnection(self, transport: Any) -> None:
        if self.factory.before is not None:
            transport.write(self.factory.before(transport))
        super().makeConnection(transport)

    def until_secured(self) -> Deferred[Any]:
        """:attr:`done`, for who has only the class."""
        return self.done

    def secured(self) -> None:
        """The protocol can begin."""
        directlyProvides(self, providedBy(self.transport))
        protocol = self.wrappedProtocol
        protocol.makeConnection(self)
        self.done.callback(protocol)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        why = self._reason or reason
        if not self._secured:
            # It has never heard of this connection.
            self.wrappedProtocol = Protocol()
        super().connectionLost(reason)
        if not self._secured and not self.done.called:
            self.done.errback(TlsFailed(self.factory.why(why, self.refused)))


class _Connecting(TlsFactory):
    """Puts TLS around one connection that is made."""

    protocol: type[TlsLayer] = _ClientLayer

    def __init__(
        self, creator: _Creator, wrapped: Any, clock: Any, host: str, before: Callable[[Any], bytes] | None
    ) -> None:
        super().__init__(creator, True, wrapped, clock)
        self.host = host
        self.before = before

    def why(self, reason: Failure, refused: str) -> str:
        """Why the handshake failed, in words."""
        if reason.check(VerificationError):
            return f"its certificate is not for {self.host}"
        if reason.check(HandshakeTimeout):
            return str(reason.value)
        if refused:
            return refused
        if reason.check(ConnectionDone, ConnectionLost):
            return "it closed the connection instead of beginning with TLS"
        return why_no_tls(reason.value)
