"""How evenly a balancer spreads users, on the real placement code and a simulated clock.

::

    users ──ask──> status 1..n ──round trip──> shared state <──claim── logins, late or never
                                                    ^
                                                    └──────── heartbeats of the chat servers

Several status services place users over one shared state; chat servers report
their sessions only every heartbeat.  Users log in a while after they have asked,
some never come, and some ask again and go by the newer answer.  What is measured is
the peak: the users of the fullest server, relative to the mean.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count

from twisted.internet.task import Clock
from twisted.logger import Logger

from flux.backends.memory import MemoryState
from flux.balance import BALANCERS
from flux.config import Settings
from flux.lifecycle import Tasks, sleep
from flux.model.placement import Assignment, Choice, Lease, Snapshot
from flux.model.sessions import Route
from flux.status.service import HOLD, StatusService

NAMED = tuple(BALANCERS)
"""The balancers that have a name."""

TICK = 0.001
"""Seconds of simulated time per step; what falls into one happens at once."""

SAMPLE = 50
"""Steps between two looks at the peak."""

WARM_UP = 250
"""Users per server before the peak is looked at: with a few, who never comes decides, and not the balancer."""


@dataclass(frozen=True)
class Conditions:
    """What is simulated. Times are in seconds, shares from 0 to 1.

    :ivar rate: users who arrive per second.
    :ivar duration: how long they arrive.
    :ivar login: shortest and longest time from an assignment to the login.
    :ivar abandoned: share of users who never come.
    :ivar repeated: share of users who ask again within two seconds and go by the newer answer.
    """

    servers: int = 10
    statuses: int = 4
    rate: int = 10_000
    duration: float = 5.0
    heartbeat: float = 3.0
    round_trip: float = 0.001
    login: tuple[float, float] = (0.05, 1.0)
    abandoned: float = 0.05
    repeated: float = 0.05


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    :ivar worst: highest peak ÷ mean of the users placed, at any moment once there are :data:`WARM_UP` per server.
    :ivar final: peak ÷ mean of the sessions in the end.
    :ivar assigned: how many assignments were given.
    :ivar sessions: how many users are logged in in the end.
    :ivar refused: how many requests were answered with an error.
    :ivar reserved: reservations left when everything has lapsed.
    """

    balancer: str
    worst: float
    final: float
    assigned: int
    sessions: int
    refused: int
    reserved: int


class _DistantState(MemoryState):
    """A shared state that is a round trip away from the status services."""

    def __init__(self, clock: Clock, round_trip: float) -> None:
        super().__init__(clock.seconds)
        self._clock = clock
        self._one_way = round_trip / 2

    async def assign(self, choices: Sequence[Choice], hold: float, token_ttl: float) -> Snapshot:
        await sleep(self._one_way, self._clock)
        snapshot = await super().assign(choices, hold, token_ttl)
        await sleep(self._one_way, self._clock)
        return snapshot

    async def snapshot(self) -> Snapshot:
        await sleep(self._one_way, self._clock)
        snapshot = await super().snapshot()
        await sleep(self._one_way, self._clock)
        return snapshot


class Simulation:
    """One run of one balancer.

    :param balancer: its name or dotted path.
    :raises ValueError: there is no such balancer.
    """

    log = Logger()

    def __init__(self, balancer: str, conditions: Conditions, seed: int = 1) -> None:
        self._conditions = conditions
        self.balancer = balancer
        self._rng = random.Random(seed)
        self._clock = Clock()
        self._tasks = Tasks(self.log, self._clock)
        self._state = _DistantState(self._clock, conditions.round_trip)
        settings = Settings()
        settings = replace(settings, status=replace(settings.status, balancer=balancer, heartbeat=conditions.heartbeat))
        self._statuses = [
            StatusService(settings, self._state, self._clock, random.Random(self._rng.random()))
            for _ in range(conditions.statuses)
        ]
        self._servers = [f"chat{number}" for number in range(1, conditions.servers + 1)]
        self._events: list[tuple[float, int, Callable[[int], None], int]] = []
        self._order = count()
        self._sessions: dict[int, str] = {}
        self._per_server: Counter[str] = Counter()
        self._coming: dict[int, str] = {}
        self._placed: Counter[str] = Counter()
        self._asked: Counter[int] = Counter()
        self._assigned = 0
        self._refused = 0
        self._worst = 0.0

    def run(self, progress: Callable[[float], None] = lambda share: None) -> Outcome:
        """Simulate, once; ``progress`` is told the share that is done, from 0 to 1."""
        conditions = self._conditions
        for index in range(conditions.servers):
            self._heartbeat(index)
        for status in self._statuses:
            self._tasks.spawn(status.start(), "starting")
        self._advance(2 * conditions.round_trip, TICK)
        self._arrive(progress)
        self._sample()
        # The last ones log in, ask again, and are counted.
        self._advance(2.0 + conditions.login[1] + conditions.heartbeat, TICK)
        final = self._peak(self._per_server)
        # What is left of reservations lapses.
        self._advance(max(HOLD, 2 * conditions.heartbeat), 0.1)
        left: list[Snapshot] = []

        async def look() -> None:
            left.append(await self._state.snapshot())

        self._tasks.spawn(look(), "reading what is left")
        self._advance(2 * conditions.round_trip, TICK)
        for status in self._statuses:
            self._tasks.spawn(status.stop(), "stopping")
        progress(1.0)
        return Outcome(
            balancer=self.balancer,
            worst=self._worst,
            final=final,
            assigned=self._assigned,
            sessions=len(self._sessions),
            refused=self._refused,
            reserved=sum(left[0].reserved.values()),
        )

    # --- time ---

    def _arrive(self, progress: Callable[[float], None]) -> None:
        """Let users arrive at the rate, for the duration."""
        conditions = self._conditions
        steps = int(conditions.duration / TICK)
        arrived = 0
        for step in range(1, steps + 1):
            due = int(conditions.rate * TICK * step)
            for uid in range(arrived + 1, due + 1):
                self._ask(uid)
            arrived = due
            self._step(TICK)
            if step % SAMPLE == 0:
                if arrived >= WARM_UP * conditions.servers:
                    self._sample()
                progress(0.9 * step / steps)

    def _advance(self, seconds: float, tick: float) -> None:
        for _ in range(int(seconds / tick) + 1):
            self._step(tick)

    def _step(self, tick: float) -> None:
        self._clock.advance(tick)
        now = self._clock.seconds()
        events = self._events
        while events and events[0][0] <= now:
            _, _, happen, subject = heapq.heappop(events)
            happen(subject)

    def _later(self, seconds: float, happen: Callable[[int], None], subject: int) -> None:
        heapq.heappush(self._events, (self._clock.seconds() + seconds, next(self._order), happen, subject))

    # --- chat servers ---

    def _heartbeat(self, index: int) -> None:
        name = self._servers[index]
        lease = Lease(
            name=name,
            boot=1,
            host=name,
            port=8090,
            sessions=self._per_server[name],
            capacity=0,
            weight=1,
            ttl=3 * self._conditions.heartbeat + 1,
        )
        self._tasks.spawn(self._state.renew(lease, ()), "a heartbeat")
        # The first heartbeats fall at random into the interval, so that the servers do not report together.
        first = self._clock.seconds() == 0
        self._later(self._conditions.heartbeat * (self._rng.random() if first else 1), self._heartbeat, index)

    # --- users ---

    def _ask(self, uid: int) -> None:
        self._asked[uid] += 1
        status = self._rng.choice(self._statuses)
        _ = status.placement.assign([uid]).addCallbacks(self._told, self._sent_away)

    def _told(self, assignments: list[Assignment]) -> None:
        (assignment,) = assignments
        uid, rng, conditions = assignment.uid, self._rng, self._conditions
        self._assigned += 1
        first = self._asked[uid] == 1
        if first and rng.random() < conditions.abandoned:
            return
        self._place(uid, assignment.server)
        self._later(rng.uniform(*conditions.login), self._log_in, uid)
        if first and rng.random() < conditions.repeated:
            self._later(rng.uniform(0.0, 2.0), self._ask, uid)

    def _sent_away(self, failure: object) -> None:
        self._refused += 1

    def _place(self, uid: int, server: str) -> None:
        """From now on the user counts for that server, as seen from above."""
        before = self._coming.get(uid)
        if before is not None:
            self._placed[before] -= 1
        self._coming[uid] = server
        self._placed[server] += 1

    def _log_in(self, uid: int) -> None:
        """The user connects to where the newest answer says, and leaves where it was."""
        server = self._coming[uid]
        before = self._sessions.get(uid)
        if before is not None:
            self._per_server[before] -= 1
        self._sessions[uid] = server
        self._per_server[server] += 1
        self._tasks.spawn(self._state.claim(uid, Route(server, 1, self._asked[uid]), True), "a login")

    # --- measuring ---

    def _sample(self) -> None:
        self._worst = max(self._worst, self._peak(self._placed))

    def _peak(self, users: Counter[str]) -> float:
        total = sum(users.values())
        return max(users.values()) * len(self._servers) / total if total else 0.0
