"""Bringing a node's clients to other servers: paced while an admin drains it, at once when it stops.

::

    drain   each session's moment, at random within the drain time
              ├─ a server for it ── moved ── closed after its grace
              ├─ it has no word for that (numbered dialect): closed, and comes back by itself
              └─ no server for it: everybody stays for a while, with new moments
            at the deadline, twice the drain time: whoever is left is closed
    stop    moved, to all

With a server goes a token, which revokes the one before.  So who does not read is not
given one: it would lose the token it has for one that it may never see.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heappop, heappush

from msgspec import UNSET
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.chat.session import Session
from flux.errors import FluxError, NoServer
from flux.interfaces import IPlacement
from flux.lifecycle import backoff, sleep
from flux.model.events import Moved, MoveReason
from flux.model.placement import Assignment
from flux.wire.numbered import NumberedDialect

PORTION = 100
"""Sessions that are given servers in one call."""

TICK = 0.05
"""Seconds between two looks of a drain at who is due, at least."""

LOOK_AGAIN = 0.5
"""Seconds between two such looks, at most."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 10.0
"""Seconds until a drain asks again for a server where there was none."""


class Departure:
    """Sends the clients of one node elsewhere.

    :param server: the node's name.
    :param sessions: those that are here, by account.
    :param arriving: how many logins are under way.
    :param placement: gives them other servers; None where there is nobody to ask.
    """

    log = Logger()

    def __init__(
        self,
        server: str,
        sessions: Mapping[int, Session],
        arriving: Callable[[], int],
        placement: IPlacement | None,
        clock: IReactorTime,
        rng: random.Random,
    ) -> None:
        self._server = server
        self._sessions = sessions
        self._arriving = arriving
        self._placement = placement
        self._clock = clock
        self._rng = rng

    async def leave(self) -> None:
        """Tell everybody where to go, if there is another server. They are closed after this."""
        sessions = list(self._sessions.values())
        for start in range(0, len(sessions), PORTION):
            portion = [session for session in sessions[start : start + PORTION] if _hears(session)]
            try:
                assignments = await self._assign(portion)
            except FluxError as error:
                self.log.info("clients are not sent to another server: {error}", error=error)
                return
            for session, to in zip(portion, assignments, strict=True):
                session.show(_moved(to, "shutdown", 0))

    async def drain(self, spread: float) -> None:
        """Ask everybody to go, and return when nobody is left. Cancel it to let them stay.

        :param spread: seconds over which they are asked, and seconds each then has. After twice that, all who are
            left are closed, whether there was a server for them or not: a server that waited for others would
            never end where there are none.
        """
        began = self._clock.seconds()
        pauses = backoff(FIRST_PAUSE, LONGEST_PAUSE, self._rng)
        plan = _Plan(self._sessions.values(), began, spread, self._rng)
        looked = began
        while self._sessions or self._arriving():
            now = self._clock.seconds()
            if plan.all_asked and now >= looked + LOOK_AGAIN:
                # Logins that were under way when this began.
                plan.add(self._sessions.values(), now)
                looked = now
            try:
                while portion := plan.due(now):
                    await self._move(portion, plan)
            except FluxError as error:
                pause = next(pauses)
                self.log.warn(
                    "no other server for clients, the next try is in {pause:.1f} s or later: {error}",
                    pause=pause,
                    error=error,
                )
                plan.begin_again(self._clock.seconds() + pause)
            if late := plan.give_up(self._clock.seconds()):
                self.log.warn(
                    "the time of the drain is over; clients closed for whom no other server was found: {count}",
                    count=late,
                )
            while plan.close(self._clock.seconds()):
                await sleep(0, self._clock)
            await sleep(plan.pause(now), self._clock)
        stayed = "; clients closed that were told where to go, and stayed: {count}" if plan.stayed else ""
        seconds = self._clock.seconds() - began
        self.log.info("nobody is left after {seconds:.1f} s" + stayed, seconds=seconds, count=plan.stayed)

    async def _move(self, portion: list[Session], plan: _Plan) -> None:
        """Ask some to go; those for whom there is no place are put back into the plan."""
        asked = 0
        try:
            assignments = await self._assign_some(portion)
            asked = len(assignments)
        finally:
            plan.put_back(portion[asked:])
        for session, to in zip(portion, assignments, strict=False):
            if isinstance(session.dialect, NumberedDialect):
                session.kick("shutdown")
            else:
                session.show(_moved(to, "drain", int(plan.asked(session, self._clock.seconds()) * 1000)))

    async def _assign_some(self, sessions: Sequence[Session]) -> Sequence[Assignment]:
        """Servers for the first of ``sessions``: all may be more than there are places, one must not be."""
        try:
            return await self._assign(sessions)
        except NoServer:
            if len(sessions) == 1:
                raise
            return await self._assign_some(sessions[: len(sessions) // 2])

    async def _assign(self, sessions: Sequence[Session]) -> Sequence[Assignment]:
        if not sessions:
            return ()
        if self._placement is None:
            raise NoServer("there is nobody to ask for another server")
        return await self._placement.assign([session.uid for session in sessions], self._server)


def _hears(session: Session) -> bool:
    """Whether a client would learn now where to go."""
    return session.placed and not session.stalled and not isinstance(session.dialect, NumberedDialect)


class _Plan:
    """Who is asked when, and closed when.

    Half of the time that is left is for asking, and the other half for going.

    :ivar stayed: how many had to be closed since they did not go in their time.
    """

    def __init__(self, sessions: Iterable[Session], start: float, spread: float, rng: random.Random) -> None:
        self._spread = spread
        self._deadline = start + 2 * spread
        self._rng = rng
        self._order = itertools.count()
        self._staying: list[tuple[float, int, Session]] = []
        #: Until when, who, and whether it was told where to go.
        self._going: deque[tuple[float, Session, bool]] = deque()
        self.stayed = 0
        for session in sessions:
            self._stays(session, self._some_moment(start))

    @property
    def all_asked(self) -> bool:
        """Whether there is nobody left to be asked."""
        return not self._staying

    def add(self, sessions: Iterable[Session], now: float) -> None:
        """It is the turn of those that are not in the plan yet."""
        going = {session for _, session, _ in self._going}
        for session in sessions:
            if session not in going:
                self._stays(session, now)

    def due(self, now: float) -> list[Session]:
        """Take some of those out whose turn has come."""
        due: list[Session] = []
        while self._staying and self._staying[0][0] <= now and len(due) < PORTION:
            _, _, session = heappop(self._staying)
            if session.ended:
                continue
            if session.placed and not session.stalled:
                due.append(session)
            else:
                self._stays(session, now + LOOK_AGAIN)
        return due

    def put_back(self, sessions: Iterable[Session]) -> None:
        """They have not been asked; their turn stays."""
        for session in sessions:
            self._stays(session, 0.0)

    def begin_again(self, start: float) -> None:
        """New moments for all that have not been asked."""
        left = [session for _, _, session in self._staying]
        self._staying = []
        for session in left:
            self._stays(session, self._some_moment(start))

    def asked(self, session: Session, now: float) -> float:
        """It is told where to go, and has so many seconds for that."""
        grace = max(0.0, min(self._spread, self._deadline - now))
        self._going.append((now + grace, session, True))
        return grace

    def give_up(self, now: float) -> int:
        """At the deadline it is the turn of those to be closed that have not been asked; how many they are."""
        if now < self._deadline:
            return 0
        left = [session for _, _, session in self._staying if not session.ended]
        self._staying = []
        self._going.extendleft((now, session, False) for session in left)
        return len(left)

    def close(self, now: float) -> bool:
        """Close some of those whose time is over; whether there are more."""
        for _ in range(PORTION):
            if not self._going or self._going[0][0] > now:
                return False
            _, session, told = self._going.popleft()
            self.stayed += told and not session.ended
            session.kick("shutdown")
        return True

    def pause(self, now: float) -> float:
        """Seconds until somebody's time has come."""
        moments = [moment for moment, _, _ in self._staying[:1]]
        if self._going:
            moments.append(self._going[0][0])
        return min([LOOK_AGAIN, *(max(TICK, moment - now) for moment in moments)])

    def _some_moment(self, start: float) -> float:
        return start + self._rng.random() * max(0.0, self._deadline - start) / 2

    def _stays(self, session: Session, moment: float) -> None:
        heappush(self._staying, (moment, next(self._order), session))


def _moved(to: Assignment, reason: MoveReason, grace: int) -> Moved:
    return Moved(to.host, to.port, reason, grace, to.token, to.server, to.websocket or UNSET, to.tls or UNSET)
