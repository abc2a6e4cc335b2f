"""The sweep: what moved in the store against what is known here. It is the guarantee behind all hints.

::

    changes since the last look ──> complete    heads that are behind are raised; sessions that lag get filled
                                    too old     every session's chats are read and compared
                                    reset       the store has gone back to an earlier state: everything known of it is
                                                dropped, and every session goes on from its cursors

The last happens after a failover that lost its tail, or a restored backup, with the clients still connected.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.chat.cursors import Cursors
from flux.chat.delivery import Delivery
from flux.chat.reading import Reading
from flux.chat.session import Session
from flux.chat.spread import Spread
from flux.errors import FluxError, UserInvalid
from flux.interfaces import IStore
from flux.lifecycle import Outage, together
from flux.metrics import ChatMetrics
from flux.model.overview import Overview

TROUBLE_AFTER = 5.0
"""Seconds without an answer of the store before that is told: while a database starts again it is away for less."""

AWAY = "its store does not answer"

READ_AT_ONCE = 50
"""Sessions that are read at the same time."""


class Sweep:
    """Looks what moved, one look at a time.

    :param sessions: the node's table of live sessions by account.
    :param logging_in: accounts of logins that are under way.
    """

    log = Logger()

    def __init__(
        self,
        store: IStore,
        sessions: dict[int, Session],
        logging_in: Collection[int],
        delivery: Delivery,
        cursors: Cursors,
        reading: Reading,
        spread: Spread,
        metrics: ChatMetrics,
        clock: IReactorTime,
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._logging_in = logging_in
        self._delivery = delivery
        self._cursors = cursors
        self._reading = reading
        self._spread = spread
        self._metrics = metrics
        self._mark = 0
        self._running = False
        self._clock = clock
        self._failing: float | None = None
        self._outage = Outage(self.log, clock)
        self._late: set[Session] = set()

    @property
    def trouble(self) -> str:
        """What keeps this node from serving, in words: empty where nothing does."""
        failing = self._failing
        return AWAY if failing is not None and self._clock.seconds() - failing >= TROUBLE_AFTER else ""

    async def begin(self) -> None:
        """From now on things move."""
        self._mark = (await self._store.changes(0)).mark

    async def look(self) -> None:
        """Compare what moved with what is known here; where that fails, say so and be sure to look again soon."""
        if self._running:
            return
        self._running = True
        began = self._clock.seconds()
        try:
            await self._look()
            self._metrics.sweeps_done.inc()
        except FluxError as error:
            self._failing = began if self._failing is None else self._failing
            self._spread.degraded = True
            self._metrics.sweeps_failed.inc()
            self._outage.failed("what moved in the store cannot be read: {error}", error=error.detail)
        else:
            self._failing = None
            self._outage.over("what moved in the store is read again, after {seconds} s")
        finally:
            self._running = False

    async def _look(self) -> None:
        changes = await self._store.changes(self._mark)
        if changes.reset:
            self._forget()
        elif changes.complete:
            await self._delivery.sweep(changes)
        else:
            await self._read(list(self._sessions.values()), self._compare)
        for uid, number in changes.sessions:
            _kick_if_older(self._sessions.get(uid), number)
        self._mark = changes.mark
        await self._read_late()
        if forgotten := self._delivery.positions.forgotten():
            # What is sent while they are read, the next look finds, and soon.
            self._spread.degraded = True
            await self._read(forgotten, self._enter_anew)

    async def _read_late(self) -> None:
        """Read again for those that were logging in when the last look was over.

        What that one found may have moved after their login had read, and they were in no chat yet.
        """
        here = map(self._sessions.get, self._logging_in)
        late, self._late = self._late, {session for session in here if session is not None and not session.placed}
        try:
            await self._read(list(late), self._compare)
        except FluxError:
            self._late |= late
            raise

    def _compare(self, session: Session, overview: Overview) -> None:
        _kick_if_older(session, overview.session)
        if session.placed:
            self._delivery.positions.compare(session, overview.cursors)

    def _forget(self) -> None:
        self.log.warn("the store has gone back to an earlier state: all sessions go on from their cursors")
        for session in list(self._sessions.values()):
            if not session.placed:
                # What its login has read may be from before.
                session.connection.abort()
        self._cursors.forget()
        self._reading.forget()
        self._delivery.positions.forget()

    def _enter_anew(self, session: Session, overview: Overview) -> None:
        _kick_if_older(session, overview.session)
        if session.number > overview.session:
            # A number that the store does not know any more will be given again.
            session.kick("shutdown")
        if session.placed:
            session.friends = tuple(friend.id for friend in overview.friends if friend.mutual)
            session.blocked = frozenset(overview.blocked)
            session.has_read(overview.cursors)
            self._delivery.positions.enter_anew(session, overview.cursors)
            self._delivery.start(session)

    async def _read(self, sessions: Sequence[Session], use: Callable[[Session, Overview], None]) -> None:
        """Read what a login reads, for sessions that have logged in before."""

        async def read(session: Session) -> None:
            try:
                overview = await self._store.overview(session.uid)
            except UserInvalid:
                session.kick("shutdown")
            else:
                if not session.ended:
                    use(session, overview)

        for start in range(0, len(sessions), READ_AT_ONCE):
            some = [session for session in sessions[start : start + READ_AT_ONCE] if not session.ended]
            await together(map(read, some))


def _kick_if_older(session: Session | None, newest: int) -> None:
    if session is not None and session.number < newest:
        session.kick("takeover")
