"""TLS between a socket and the protocol that speaks over it: Twisted's, with an end to every wait for a peer.

Twisted's own layer waits for ever for a handshake, and for a peer's goodbye after ours.
A peer that is silent would so keep a connection that nobody looks after.  Here both have
a deadline; the second one is only for a peer that takes nothing more of what was written.

Writes are not gathered for a turn of the reactor: who speaks over it gathers, and an eager
socket below sends at once.
"""

from __future__ import annotations

from typing import Any

from OpenSSL.SSL import Error
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure

HANDSHAKE_WITHIN = 10.0
"""Seconds a peer may take for the handshake."""

LINGER = 5.0
"""Seconds a peer may take nothing of what waits for it, after we have said goodbye."""


def socket_below(transport: Any) -> Any:
    """The transport that has the socket, below TLS and PROXY headers."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    return transport


def left_below(transport: Any) -> int:
    """Bytes that the socket has not taken yet."""
    below = socket_below(transport)
    buffered = len(getattr(below, "dataBuffer", b"")) - getattr(below, "offset", 0)
    return buffered + int(getattr(below, "_tempDataLen", 0))


NO_TLS = ("http request", "wrong version number", "packet length too long", "bad record type", "record layer failure")
"""What OpenSSL says of a peer that speaks something else."""


def said_by_openssl(error: BaseException | None) -> str:
    """The reason in an error of OpenSSL, which keeps a queue of them."""
    queue = error.args[0] if isinstance(error, Error) and error.args else ()
    if isinstance(queue, (list, tuple)) and queue:
        return str(queue[-1][-1])
    return str(error) or type(error).__name__


def why_no_tls(error: BaseException | None) -> str:
    """What an error of OpenSSL says of the server that somebody connects to."""
    said = said_by_openssl(error)
    return "it does not speak TLS" if said in NO_TLS else f"TLS: {said}"


class TlsLayer(TLSMemoryBIOProtocol):
    """One connection."""

    factory: TlsFactory
    transport: Any
    wrappedProtocol: Any  # noqa: N815 - Twisted's name
    _overdue: IDelayedCall | None = None
    _left = 0
    _secured = False

    def makeConnection(self, transport: Any) -> None:
        """Begin the handshake, which has its time."""
        self._overdue = self.factory.clock.callLater(HANDSHAKE_WITHIN, self._too_late)
        super().makeConnection(transport)

    def _checkHandshakeStatus(self) -> None:  # noqa: N802 - Twisted's name
        super()._checkHandshakeStatus()
        if self._handshakeDone and not self._aborted and not self._secured:
            self._secured = True
            self._forget_overdue()
            self.secured()
            if self.disconnecting:
                self._linger()

    def secured(self) -> None:
        """The handshake is done."""
        self.factory.ended(self, None)

    def _too_late(self) -> None:
        self._overdue = None
        self._reason = self._reason or Failure(HandshakeTimeout(f"no handshake within {HANDSHAKE_WITHIN:g} s"))
        self.abortConnection()

    def loseConnection(self) -> None:
        """Say goodbye after what was written; the peer has some time to answer."""
        # Before the handshake there may be last words, too; that has its own deadline.
        if self._secured and not self.disconnecting:
            self._linger()
        super().loseConnection()

    def _linger(self) -> None:
        if self._overdue is None and self.connected:
            self._left = -1
            self._overdue = self.factory.clock.callLater(LINGER, self._look)

    def _look(self) -> None:
        """Cut a peer that says no goodbye, unless it still takes what was written before."""
        left = left_below(self)
        self._overdue = None
        if not left or left == self._left:
            self.abortConnection()
        else:
            self._left = left
            self._overdue = self.factory.clock.callLater(LINGER, self._look)

    def abortConnection(self) -> None:
        """Cut it; nothing happens where it has ended."""
        if self.connected:
            super().abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The socket is gone."""
        self._forget_overdue()
        if not self._secured:
            self.factory.ended(self, self._reason or reason)
        super().connectionLost(reason)

    def _forget_overdue(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None


class HandshakeTimeout(Exception):
    """The peer took too long for the handshake."""


class TlsFactory(TLSMemoryBIOFactory):
    """Puts TLS around what another factory makes.

    :ivar clock: has the deadlines.
    """

    protocol = TlsLayer

    def __init__(self, creator: Any, is_client: bool, wrapped: Any, clock: Any) -> None:
        super().__init__(creator, is_client, wrapped, clock)
        self.clock = clock

    def ended(self, layer: TlsLayer, reason: Failure | None) -> None:
        """A handshake is over; ``reason`` says why it failed, None that it did not."""
