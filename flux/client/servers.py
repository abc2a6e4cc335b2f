"""The chat servers a client knows: which is tried next, and how each is reached.

::

    given to the client ─┐
    ``moved`` ───────────┴─> addresses, in the order in which they are tried; one that fails goes to the end
    assignments ───────────> used once; of them, as of ``moved``, it is remembered whether TLS is spoken there
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint

from flux.addresses import HostPort
from flux.client.connection import Connection
from flux.client.errors import ClientError, NotConnected
from flux.errors import NoServer, Unavailable
from flux.lifecycle import DeadlineExceeded
from flux.tls.client import TlsEndpoint

T = TypeVar("T")


class Servers:
    """Addresses, and the way to them; see :class:`flux.client.Client` for the parameters."""

    def __init__(
        self,
        reactor: IReactorTime,
        addresses: Iterable[tuple[str, int]],
        tls: bool,
        trust: Any,
        endpoint: Callable[[str, int], IStreamClientEndpoint] | None,
    ) -> None:
        self._reactor = reactor
        self._addresses = deque(HostPort(*address) for address in addresses)
        self._endpoint = endpoint or partial(HostnameEndpoint, reactor)
        self._tls = tls
        #: Addresses of which we were told that they speak TLS.
        self._secure: set[HostPort] = set()
        self._trust = trust

    @property
    def next(self) -> HostPort:
        """The address to try."""
        return self._addresses[0]

    def failed(self) -> None:
        """The next one is another one."""
        self._addresses.rotate(-1)

    def prefer(self, address: HostPort) -> None:
        """Try this one first from now on."""
        if address in self._addresses:
            self._addresses.remove(address)
        self._addresses.appendleft(address)

    def told(self, host: str, port: int, tls: bool) -> HostPort:
        """Somebody who knows has told of an address."""
        address = HostPort(host, port)
        (self._secure.add if tls else self._secure.discard)(address)
        return address

    async def connect(self, connection: Connection, address: HostPort) -> None:
        """:raises NotConnected: it cannot be reached, or not by TLS."""
        endpoint = self._endpoint(address.host, address.port)
        if self._tls or address in self._secure:
            endpoint = TlsEndpoint(endpoint, address.host, self._trust, self._reactor)
        await connection.connect(endpoint, address)

    async def first(self, attempt: Callable[[HostPort], Awaitable[T]]) -> T:
        """The outcome of ``attempt`` at the first address that can be reached and serves."""
        problem: Exception = ClientError("no address to connect to")
        for _ in range(len(self._addresses)):
            try:
                return await attempt(self.next)
            except (NotConnected, DeadlineExceeded, NoServer, Unavailable) as error:
                problem = error
                self.failed()
        raise problem
