"""Connections to the status port that have not shown the cluster key yet: how many there are, and why they end.

Gates and tools show it with their first line, so whoever waits longest is the least likely to be one of them, and
makes room where there are too many.  What ends is told once a second: whoever has no key could fill the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.addresses import counted
from flux.net.tally import Tally

if TYPE_CHECKING:
    from flux.status.protocol import StatusConnection

MOST = 1000
"""Strangers at a time."""


class Strangers:
    """Those who have not shown the key.

    :ivar most_per_address: at a time; 0: as many as there may be in all.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, most_per_address: int) -> None:
        self.most_per_address = most_per_address
        # Who has waited longest is the first.
        self._all: dict[StatusConnection, str] = {}
        self._per_address: dict[str, dict[StatusConnection, None]] = {}
        self._ended = Tally(self.log, clock)

    def __len__(self) -> int:
        return len(self._all)

    def add(self, connection: StatusConnection) -> None:
        """Somebody has come; who was there before may have to go."""
        address = counted(connection.address)
        self._all[connection] = address
        same = self._per_address.setdefault(address, {})
        same[connection] = None
        if self.most_per_address and len(same) > self.most_per_address:
            self._make_room(next(iter(same)), f"more than {self.most_per_address} connections without the cluster key")
        elif len(self._all) > MOST:
            self._make_room(next(iter(self._all)), f"one of more than {MOST} connections without the cluster key")

    def remove(self, connection: StatusConnection) -> None:
        """Somebody has shown the key, or is gone, a stranger or not."""
        address = self._all.pop(connection, None)
        if address is not None:
            same = self._per_address[address]
            del same[connection]
            if not same:
                del self._per_address[address]

    def ended(self, connection: StatusConnection, why: str) -> None:
        """A stranger's connection was ended by us."""
        self._ended.count("{why} from {address}, closed: {count}", why=why, address=counted(connection.address))

    def stop(self) -> None:
        """Tell what has not been told."""
        self._ended.stop()

    def _make_room(self, connection: StatusConnection, why: str) -> None:
        self.ended(connection, why)
        self.remove(connection)
        connection.abort()
