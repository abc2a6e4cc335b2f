"""A bare acknowledging relay: what durable delivery is measured against.

The least a line server in Twisted can do: stock transport, stock line receiver, nothing
parsed, nothing stored, one write per line.  The first line of a connection names its room; every
later line is acknowledged to its sender and forwarded, as it is, to the others in the room::

    client a          relay          client b
      | room-1         |         room-1 |
      |--------------->|<---------------|
      |<-- login.ok ---|--- login.ok -->|
      | any line       |                |
      |--------------->|--- any line -->|
      |<-- send.ok ----|                |

Run as ``python -m flux.bench.relay``; it prints the port it listens on (loopback).
"""

from __future__ import annotations

from typing import Any

from twisted.internet import protocol
from twisted.internet.interfaces import IReactorTCP, ITCPTransport
from twisted.protocols.basic import LineOnlyReceiver

WELCOME = b'{"type":"login.ok"}'
ACKNOWLEDGEMENT = b'{"type":"send.ok"}'


class Relay(LineOnlyReceiver):
    """One connection."""

    delimiter = b"\n"
    transport: ITCPTransport

    def __init__(self, rooms: dict[bytes, list[Relay]]) -> None:
        self._rooms = rooms
        self._room: list[Relay] | None = None

    def connectionMade(self) -> None:
        """Send lines at once, as every chat server does."""
        self.transport.setTcpNoDelay(True)

    def lineReceived(self, line: bytes) -> None:
        """Enter the room, or acknowledge and forward."""
        room = self._room
        if room is None:
            self._room = self._rooms.setdefault(line, [])
            self._room.append(self)
            self._say(WELCOME)
            return
        for other in room:
            if other is not self:
                other._say(line)
        self._say(ACKNOWLEDGEMENT)

    def _say(self, line: bytes) -> None:
        self.transport.write(line + b"\n")

    def connectionLost(self, reason: Any = None) -> None:
        """Leave the room."""
        if self._room is not None:
            self._room.remove(self)


class RelayFactory(protocol.ServerFactory):
    """All connections of one relay."""

    noisy = False

    def __init__(self) -> None:
        self._rooms: dict[bytes, list[Relay]] = {}

    def buildProtocol(self, addr: Any) -> Relay:
        """A new connection."""
        return Relay(self._rooms)


def listen(reactor: IReactorTCP) -> int:
    """Start a relay on a free port of the loopback interface and return the port."""
    address: Any = reactor.listenTCP(0, RelayFactory(), backlog=4096, interface="127.0.0.1").getHost()
    return int(address.port)


def main() -> None:
    """Serve until killed."""
    import sys

    from twisted.internet import epollreactor

    epollreactor.install()
    from twisted.internet import reactor

    sys.stdout.write(f"{listen(reactor)}\n")
    sys.stdout.flush()
    reactor.run()


if __name__ == "__main__":
    main()
