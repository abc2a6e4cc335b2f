"""Name servers that do not answer, until a test says so: a resolver for reactors in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.interfaces import IHostnameResolver, IHostResolution, IResolutionReceiver
from twisted.internet.testing import MemoryReactorClock
from zope.interface import implementer


@implementer(IHostResolution)
class _LookUp:
    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        """Twisted's own cannot be cancelled either: it runs in a thread."""


@implementer(IHostnameResolver)
class LateNames:
    """Looks host names up, which takes until :meth:`fail`.

    :ivar asked: the names.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._receivers: list[IResolutionReceiver] = []

    def reactor(self) -> MemoryReactorClock:
        """One that asks here."""
        reactor = MemoryReactorClock()
        reactor.installNameResolver(self)
        return reactor

    def resolveHostName(  # noqa: N802 - Twisted's names
        self,
        resolutionReceiver: IResolutionReceiver,  # noqa: N803 - as above
        hostName: str,  # noqa: N803 - as above
        portNumber: int = 0,  # noqa: N803 - as above
        addressTypes: Sequence[Any] | None = None,  # noqa: N803 - as above
        transportSemantics: str = "TCP",  # noqa: N803 - as above
    ) -> IHostResolution:
        resolution = _LookUp(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        self.asked.append(hostName)
        self._receivers.append(resolutionReceiver)
        return resolution

    def fail(self) -> None:
        """Nothing was found, of all that was asked for."""
        receivers, self._receivers = self._receivers, []
        for each in receivers:
            each.resolutionComplete()
