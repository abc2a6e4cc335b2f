"""A TCP transport that sends at once.

Twisted's own transport puts every write into a buffer, registers for writability
and sends one reactor turn later: two system calls more and a turn of latency for
each answer.  :class:`EagerServer` tries ``send`` immediately when nothing is
buffered and falls back to the buffer for what the kernel did not take.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet import tcp


class EagerServer(tcp.Server):
    """A server connection whose ``write`` does not wait for writability.

    :cvar high_water: bytes buffered above which the registered push producer is paused.
    :ivar taken: bytes the kernel has taken so far, a sign of a reader that is alive.
    """

    high_water = 256 * 1024
    taken = 0

    def write(self, data: bytes) -> None:
        """Send what the kernel takes now, buffer the rest."""
        if not self._tempDataLen and self.offset == len(self.dataBuffer) and self.connected and not self.TLS:
            try:
                taken = self.socket.send(data)
            except OSError:
                # Full, or gone: in both cases the buffered path finds out at the right moment.
                taken = 0
            self.taken += taken
            if taken == len(data):
                return
            data = data[taken:]
        super().write(data)  # type: ignore[no-untyped-call]

    def writeSomeData(self, data: bytes) -> Any:
        """Send from the buffer, as Twisted does, and keep count."""
        result = super().writeSomeData(data)
        if isinstance(result, int) and result > 0:
            self.taken += result
        return result

    def _isSendBufferFull(self) -> bool:  # noqa: N802 - Twisted's name
        # Twisted's own limit is ``bufferSize``, which is also what every read allocates.
        return len(self.dataBuffer) - self.offset + self._tempDataLen > self.high_water


def make_eager(port: object, high_water: int) -> None:
    """Let the connections that ``port`` accepts from now on be eager, where it is a plain TCP port.

    :param high_water: bytes buffered above which a connection counts as too slow.
    """
    if isinstance(port, tcp.Port) and port.transport is tcp.Server:
        port.transport = cast("type[tcp.Server]", type("EagerServer", (EagerServer,), {"high_water": high_water}))
