"""Connections to the status port that have not shown the cluster key yet: how many there are, and why they end.

Gates and tools show it with their first line, so whoever waits longest is the least likely to be one of them, and
makes room where there are too many.  What ends is told once a second: whoever has no key could fill the log.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from flux.addresses import counted

if TYPE_CHECKING:
    from flux.status.protocol import StatusConnection

MOST = 1000
"""Strangers at a time."""

TELL_AFTER = 1.0
"""Seconds for which what ends is counted before it is told."""


class Strangers:
    """Those who have not shown the key.

    :ivar most_per_address: at a time; 0: as many as there may be in all.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, most_per_address: int) -> None:
        self.most_per_address = most_per_address
        self._clock = clock
        # Who has waited longest is the first.
        self._all: dict[StatusConnection, str] = {}
        self._per_address: dict[str, dict[StatusConnection, None]] = {}
        self._ended: Counter[tuple[str, str]] = Counter()
        self._telling: IDelayedCall | None = None

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
        if self._telling is None:
            self._telling = self._clock.callLater(TELL_AFTER, self._tell)
        self._ended[counted(connection.address), why] += 1

    def stop(self) -> None:
        """Tell what has not been told."""
        if self._telling is not None:
            self._telling.cancel()
            self._tell()

    def _make_room(self, connection: StatusConnection, why: str) -> None:
        self.ended(connection, why)
        self.remove(connection)
        connection.abort()

    def _tell(self) -> None:
        self._telling = None
        ended, self._ended = self._ended, Counter()
        for (address, why), count in ended.items():
            self.log.warn("{why} from {address}, closed: {count}", count=count, address=address, why=why)
