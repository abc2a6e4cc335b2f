"""How ``flux admin`` reaches a port: that of a configuration on this machine, or the one it is told.

A port that is told has to have a certificate for the host that is told.  One of this machine is
reached by an address that no certificate is for: it has to show one for a name in ``tls.certificate``,
signed as usual or, for certificates that sign themselves, that very one.
"""

from __future__ import annotations

import argparse
import socket
import ssl
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint

from flux.client import HostPort, parse_address
from flux.config import Settings, reachable_at, socket_of
from flux.tls.client import TlsEndpoint, Trust
from flux.tls.identity import BadIdentity, names_of, read_chain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what says how to connect."""
    parser.add_argument(
        "--tls", action="store_true", help="with TLS (default: as tls.listeners of the configuration says)"
    )
    cafile = "certificates (PEM) that the server's must be signed by (default: tls.ca, or those the system trusts)"
    parser.add_argument("--cafile", metavar="FILE", default="", help=cafile)


class Way(NamedTuple):
    """Where to connect, and how.

    :ivar name: whom the certificate has to be for; empty: there is no TLS.
    """

    address: HostPort
    name: str
    trust: Trust

    def endpoint(self, reactor: Any) -> IStreamClientEndpoint:
        """For Twisted."""
        endpoint: IStreamClientEndpoint
        if self.address.is_path:
            endpoint = UNIXClientEndpoint(reactor, self.address.host)
        else:
            endpoint = HostnameEndpoint(reactor, self.address.host, self.address.port)
        return TlsEndpoint(endpoint, self.name, self.trust, reactor) if self.name else endpoint

    def connect(self, within: float) -> socket.socket:
        """A connection, for the standard library; nothing on it may take longer than ``within`` seconds.

        :raises OSError: it cannot be made.
        """
        if self.address.is_path:
            connection = socket.socket(socket.AF_UNIX)
        else:
            connection = socket.create_connection(self.address, within)
        try:
            if self.address.is_path:
                connection.settimeout(within)
                connection.connect(self.address.host)
            return self._context().wrap_socket(connection, server_hostname=self.name) if self.name else connection
        except BaseException:
            connection.close()
            raise

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.trust.ca)
        if self.trust.also:
            context.load_verify_locations(cadata=b"".join(each.public_bytes(Encoding.DER) for each in self.trust.also))
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


def find_way(
    settings: Settings, listener: str, endpoint: str, told: str, default: int, args: argparse.Namespace
) -> Way:
    """The way to a listener.

    :param told: host and port, where they were given; otherwise those of ``endpoint``.
    :raises ValueError: it is not known where to connect, or whom to believe.
    """
    here = reachable_at(endpoint) if endpoint else None
    ca = Path(args.cafile) if args.cafile else settings.tls.ca
    secure = args.tls or settings.secure(listener)
    try:
        if told:
            address = parse_address(told, here or HostPort("127.0.0.1", default))
            return Way(address, address.host if secure else "", Trust(ca))
        here = here or (socket_of(endpoint) if endpoint else None)
        if here is None:
            raise ValueError(
                f"{listener}.listen = {endpoint} does not tell where to connect; give --{listener} HOST:PORT"
            )
        if not settings.wraps(listener) or settings.tls.certificate is None:
            name = "localhost" if here.is_path else here.host
            return Way(here, name if secure else "", Trust(ca))
        chain = read_chain(settings.tls.certificate)
        names = names_of(chain[0])
        if not names:
            raise ValueError(f"tls.certificate: {settings.tls.certificate} is for no name; give --{listener} HOST:PORT")
        return Way(here, names[0].replace("*", "flux"), Trust(ca, chain))
    except BadIdentity as problem:
        raise ValueError(f"tls.certificate: {problem}") from None
    except OSError as problem:
        raise ValueError(f"{ca} cannot be read: {problem.strerror}") from None
