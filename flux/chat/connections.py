"""The connections of a node: how many per address, which are idle, which are stuck.

One pass over all of them a second replaces a timer per connection, which would cost
more than the messages do.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from twisted.logger import Logger

from flux.addresses import counted
from flux.bans import Bans
from flux.config import Settings
from flux.metrics import ChatMetrics
from flux.net.closing import LINGER
from flux.net.connection import POLICY_VIOLATION

if TYPE_CHECKING:
    from flux.chat.protocol import ChatConnection


class Connections:
    """The set of open connections."""

    log = Logger()

    def __init__(self, settings: Settings, metrics: ChatMetrics) -> None:
        self._metrics = metrics
        self._all: set[ChatConnection] = set()
        self._per_address: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._without_header: Counter[str] = Counter()
        self.reload(settings)

    def reload(self, settings: Settings) -> None:
        """Go on with new limits."""
        self._login = settings.chat.login_timeout
        self._heartbeat = settings.chat.heartbeat_timeout
        self._slow = settings.chat.slow_timeout
        self._most = settings.limits.connections_per_address

    def __len__(self) -> int:
        return len(self._all)

    def add(self, connection: ChatConnection) -> None:
        """Take a connection in."""
        self._all.add(connection)

    def count(self, connection: ChatConnection) -> bool:
        """The address of a connection is known; False where it has too many already."""
        key = counted(connection.address)
        self._per_address[key] += 1
        if not self._most or self._per_address[key] <= self._most:
            return True
        self._refused[connection.address] += 1
        self._metrics.too_many_connections.inc()
        return False

    def remove(self, connection: ChatConnection) -> None:
        """A connection is gone."""
        self._all.discard(connection)
        if connection.address:
            key = counted(connection.address)
            left = self._per_address[key] - 1
            if left:
                self._per_address[key] = left
            else:
                del self._per_address[key]

    def keep_out(self, bans: Bans, by_admins: bool) -> None:
        """Somebody was banned: end what they have open. Whoever is logged in is sent away only by an admin.

        :param by_admins: whether an admin has banned somebody; where not, nearly nobody has to be looked at.
        """
        for connection in list(self._all):
            session = connection.session
            placed = session is not None and session.placed
            if placed and not by_admins:
                continue
            refusal = bans.refusal(connection.address, by_admins=placed)
            if refusal is None or connection.closed:
                continue
            if session is not None and placed:
                session.kick("admin", refusal.detail)
            else:
                connection.turn_away(refusal)

    def without_header(self, peer: str) -> None:
        """A connection from ``peer`` has ended because it did not begin as one through a proxy does."""
        self._without_header[peer] += 1
        self._metrics.no_proxy_header.inc()

    def hold(self, reason: int) -> None:
        """Read no more requests, until :meth:`release` is called with the same reason."""
        for connection in list(self._all):
            connection.hold(reason)

    def release(self, reason: int) -> None:
        """Read on."""
        for connection in list(self._all):
            connection.release(reason)

    def close(self) -> None:
        """Close all, after what was written."""
        for connection in list(self._all):
            connection.close()

    def abort(self) -> None:
        """Cut all."""
        for connection in list(self._all):
            connection.abort()

    def check(self, now: float) -> None:
        """Close who was silent or stuck for too long; once a second."""
        for address, count in self._refused.items():
            self.log.warn("connections from {address} over the limit, refused: {count}", count=count, address=address)
        self._refused.clear()
        for peer, count in self._without_header.items():
            self.log.warn(
                "connections from {peer} without the PROXY header that chat.listen = haproxy: expects, closed: {count}",
                count=count, peer=peer,
            )  # fmt: skip
        self._without_header.clear()
        for connection in list(self._all):
            if not connection.address:
                connection.look_who()
            if connection.heard:
                connection.heard = False
                connection.seen = now
            if connection.choked or connection.closed:
                self._check_stuck(connection, now)
                continue
            connection.stuck_at = -1
            session = connection.session
            if session is None or not session.uid:
                if now - connection.born > self._login:
                    self.log.info("no login within the time, closed", conn=connection.conn)
                    self._metrics.too_late.inc()
                    connection.close(POLICY_VIOLATION)
            elif now - connection.seen > self._heartbeat and (session.pinged or connection.probed):
                self.log.info("user {uid} fell silent, closed", uid=session.uid, conn=connection.conn)
                connection.close(POLICY_VIOLATION)
            elif now - connection.seen > self._heartbeat / 2 and not connection.probed:
                connection.probe()

    def _check_stuck(self, connection: ChatConnection, now: float) -> None:
        taken = connection.taken()
        if taken != connection.stuck_at:
            connection.stuck_at, connection.stuck_since = taken, now
        elif connection.closed:
            if now - connection.stuck_since > LINGER:
                connection.abort()
        elif now - connection.stuck_since > self._slow:
            if connection.session is not None:
                connection.session.kick("slow")
            else:
                connection.close()
