"""The certificate of a process, and the listeners that show it.

Which certificate a connection gets is decided when it begins: after :meth:`ServerTls.use` new
ones get the new one, and those that stand go on with what they have.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from OpenSSL.SSL import Connection, Error
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IProtocolFactory
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from flux.lifecycle import Tasks, every
from flux.metrics import TlsMetrics
from flux.tls.identity import BadIdentity, Identity, date
from flux.tls.layer import NO_TLS, HandshakeTimeout, TlsFactory, TlsLayer, said_by_openssl

LOOK_EVERY = 12 * 3600.0
"""Seconds between two looks at how long the certificate is still valid."""

TELL_EVERY = 10.0
"""Seconds between two lines in the log about failed handshakes of one listener: a scan of the network makes many."""


def server_options(identity: Identity) -> CertificateOptions:
    """What OpenSSL needs: TLS 1.2 and 1.3 with ciphers that are good, as Twisted knows them.

    :raises flux.tls.identity.BadIdentity: OpenSSL takes the certificate for too weak.
    """
    # Twisted hands on what it is given, and pyOpenSSL wants those of cryptography by now.
    own, *others = identity.chain
    options = CertificateOptions(
        privateKey=identity.key,  # type: ignore[arg-type]
        certificate=own,  # type: ignore[arg-type]
        extraCertChain=others,  # type: ignore[arg-type]
        raiseMinimumTo=TLSVersion.TLSv1_2,
    )
    try:
        options.getContext()
    except Error as error:
        raise BadIdentity("certificate", f"OpenSSL does not take it: {said_by_openssl(error)}") from None
    return options


@implementer(IOpenSSLServerConnectionCreator)
class ServerTls:
    """The certificate of the moment.

    :param identity: as read at the start.
    :param warn_days: days before its end from which on the log warns.
    """

    log = Logger()

    def __init__(self, identity: Identity, warn_days: int, metrics: TlsMetrics, clock: Any) -> None:
        self._metrics = metrics
        self._clock = clock
        self._tasks = Tasks(self.log, clock)
        self._warn_days = warn_days
        self.identity = identity
        self._options = server_options(identity)
        metrics.ends(lambda: self.identity.ends)

    def around(self, listener: str, factory: IProtocolFactory) -> IProtocolFactory:
        """A factory that puts TLS around the connections of another one.

        :param listener: the setting, for log and metrics: "chat.listen".
        """
        return _Listening(self, listener, factory, self._metrics, self._clock)

    async def start(self) -> None:
        """Warn from now on when the certificate is about to expire."""
        self._tasks.spawn(every(LOOK_EVERY, self._look, self._clock, "looking at the certificate", self.log), "looking")

    async def stop(self) -> None:
        """Warn no more; listeners have to be closed before."""
        await self._tasks.stop()

    def use(self, identity: Identity, warn_days: int) -> None:
        """Show this one to everybody who connects from now on."""
        if identity != self.identity:
            self._options = server_options(identity)
            self.identity = identity
            self.log.info("new connections get the certificate that is {about}", about=describe(identity, time.time()))
        self._warn_days = warn_days
        self._warn()

    async def _look(self) -> None:
        self._warn()

    def _warn(self) -> None:
        now = time.time()
        if self.identity.invalid(now):
            self.log.error(
                "tls.certificate: it is {about}; clients refuse it: replace it, and send SIGHUP",
                about=describe(self.identity, now),
            )
        elif self.identity.days_left(now) < self._warn_days:
            self.log.warn("tls.certificate: it is {about}; renew it", about=describe(self.identity, now))

    def serverConnectionForTLS(self, protocol: Any) -> Connection:  # noqa: N802 - Twisted's name
        """A connection with the certificate of the moment."""
        return self._options.serverConnectionForTLS(protocol)


def describe(identity: Identity, now: float) -> str:
    """A certificate in words: whom it is for, and for how long."""
    whom = f"for {', '.join(identity.names)}" if identity.names else "without a name, which clients refuse,"
    invalid = identity.invalid(now)
    if invalid:
        return f"{whom} and {invalid}"
    day, left = date(identity.ends), identity.days_left(now)
    return f"{whom} and expires in {left:.0f} days, on {day}" if left >= 2 else f"{whom} and expires on {day}"


class _Listening(TlsFactory):
    """TLS around what one listener's factory makes."""

    log = Logger()

    def __init__(
        self, tls: ServerTls, listener: str, factory: IProtocolFactory, metrics: TlsMetrics, clock: Any
    ) -> None:
        super().__init__(tls, False, factory, clock)
        self._listener = listener
        self._count: Callable[[str], None] = metrics.of(listener)
        self._failed: Counter[str] = Counter()
        self._told: float | None = None

    def ended(self, layer: TlsLayer, reason: Failure | None) -> None:
        """Count a handshake, and say now and then why some fail."""
        if reason is None:
            self._count("done")
        elif reason.check(HandshakeTimeout):
            self._count("late")
        elif reason.check(ConnectionDone, ConnectionLost):
            # Who only looks whether somebody listens does this.
            self._count("left")
        else:
            self._count("failed")
            said = said_by_openssl(reason.value)
            self._tell(layer, "the client does not speak TLS" if said in NO_TLS else said)

    def _tell(self, layer: TlsLayer, why: str) -> None:
        self._failed[why] += 1
        now = self.clock.seconds()
        if self._told is not None and now - self._told < TELL_EVERY:
            return
        self._told = now
        others = sum(self._failed.values()) - 1
        self._failed.clear()
        self.log.info(
            "TLS on {listener} with {address} failed: {why}{others}",
            listener=self._listener,
            address=getattr(layer.getPeer(), "host", "local"),
            why=why,
            others=f" (and {others} others since the last such line)" if others else "",
        )
