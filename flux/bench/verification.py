"""A conversation through trouble: servers and links fail, are repaired, and nothing may be lost.

::

    installation   ====X   =========X ==================X    =======     (X: a fault)
    clients        talk, reconnect, repeat what was not acknowledged ...    settle   read back   judge
                          |---------|-------|
                           duration  recovery: until all have heard something said after the repair

Where the run is not patient the moments are random, so a fault also hits clients that are still coming back from the
one before.  In *chaos* (:mod:`flux.bench.chaos`) faults are on at the same time, and clients recover from the last one
that was repaired.  SIGKILL takes the process and leaves the kernel: what this cannot show is a loss of power.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.bench.chaos import BREAKS_EVERY, Strike, lanes, schedule
from flux.bench.checker import Anomaly, Kind, check, count
from flux.bench.conversation import LOOK_EVERY, Conversation
from flux.bench.installation import Fault, Installation
from flux.lifecycle import Tasks, sleep

#: A fault from which not everybody has recovered by then ends the run, in seconds.
GIVE_UP_AFTER = 60.0


class NotRecovered(Exception):
    """Some clients were not served again after a fault: the text says how many, and after which."""


Progress = Callable[[float, str], None]
"""Told now and then the share that is done, 0 to 1, and what is being done."""


@dataclass(frozen=True)
class Plan:
    """Who talks, for how long, and how much is asked of the installation.

    :ivar rate: messages per second of each client.
    :ivar seconds: how long they talk where nothing goes wrong.
    :ivar calm: seconds before each fault, at least and at most.
    :ivar patient: whether all must have recovered before the next fault.
    :ivar chaos: seconds in which faults begin at random moments and overlap; 0: one comes after another.
    :ivar recover_within: seconds after a repair in which all must have recovered, where nothing else is broken.
    :ivar seed: of all that is random: the same seed makes the same choices, though not the same timing.
    """

    clients: int = 20
    groups: int = 3
    group_size: int = 6
    rate: float = 50.0
    seconds: float = 10.0
    calm: tuple[float, float] = (0.1, 2.5)
    patient: bool = False
    chaos: float = 0.0
    recover_within: float = GIVE_UP_AFTER
    seed: int = 0


@dataclass
class Period:
    """What happened from one fault to the next; the first period is before any. Times in seconds.

    :ivar fault: what it began with; empty for the first.
    :ivar moment: when, since the talk began.
    :ivar duration: from the fault until its repair.
    :ivar recovery: from the repair until every client was connected and had been shown a message sent after it; None
        if the next fault came first, or another one was on.
    :ivar acknowledged: messages acknowledged in this period.
    :ivar counts: anomalies of this period.
    """

    fault: str = ""
    moment: float = 0.0
    duration: float = 0.0
    recovery: float | None = None
    acknowledged: int = 0
    counts: dict[Kind, int] = field(default_factory=lambda: count([]))


@dataclass(frozen=True)
class Verdict:
    """What happened, and what was wrong with it.

    :ivar settled: whether everything arrived in time; what did not is among the anomalies as lost.
    :ivar late: the faults from which it took longer to recover than it may.
    """

    seed: int
    periods: list[Period]
    sent: int
    acknowledged: int
    shown: int
    chats: int
    settled: bool
    late: list[str]
    anomalies: list[Anomaly]

    @property
    def sound(self) -> bool:
        """Whether every promise was kept."""
        return not self.anomalies and not self.late


class Verification:
    """One conversation from beginning to end.

    :param installation: has been started.
    :ivar situation: once a run has failed, when that was and what was broken then; empty before anybody talked.
    """

    _log = Logger()

    def __init__(self, reactor: IReactorTime, plan: Plan, installation: Installation, progress: Progress) -> None:
        self._reactor = reactor
        self._plan = plan
        self._installation = installation
        self._progress = progress
        self._rng = random.Random(plan.seed)
        self._conversation = Conversation(
            reactor,
            installation,
            clients=plan.clients,
            groups=plan.groups,
            group_size=plan.group_size,
            rate=plan.rate,
            rng=random.Random(plan.seed + 1),
        )
        self._periods = [Period()]
        self._late: list[str] = []
        self._began = 0.0
        self._broken: list[Period] = []
        self._healing: Period | None = None
        self._failure: Exception | None = None
        self._tasks = Tasks(self._log, reactor)
        self.situation = ""

    async def run(self) -> Verdict:
        """Talk, survive, judge.

        :raises NotRecovered: after a fault, clients were not served again.
        :raises flux.bench.conversation.ConversationFailed: it could not be held.
        :raises flux.bench.servers.ServerFailed: a server did not come back, or ended by itself.
        :raises flux.errors.FluxError, flux.client.ClientError: the server refused to serve from the start.
        """
        conversation = self._conversation
        try:
            self._progress(0.0, "logging in")
            await conversation.gather()
            conversation.talk()
            self._began = self._reactor.seconds()
            faults = self._installation.faults
            if self._plan.chaos:
                await self._chaotic(faults)
            elif faults:
                await self._troubled(faults)
            else:
                await self._undisturbed()
            self._progress(1.0, "waiting for the last messages")
            await conversation.stop()
            settled = await conversation.settle()
            self._progress(1.0, "reading the history")
            await conversation.read_back()
        except Exception:
            if self._began:
                self.situation = self._describe()
            raise
        finally:
            await self._tasks.stop()
            await conversation.leave()
        recording = conversation.recording
        anomalies = check(recording)
        acknowledged = Counter(ack.period for ack in recording.acknowledged)
        for number, period in enumerate(self._periods):
            period.acknowledged = acknowledged[number]
            period.counts = count([anomaly for anomaly in anomalies if anomaly.period == number])
        return Verdict(
            self._plan.seed,
            self._periods,
            len(recording.attempts),
            len(recording.acknowledged),
            len(recording.shown),
            len(recording.history),
            settled,
            self._late,
            anomalies,
        )

    def _describe(self) -> str:
        after = self._reactor.seconds() - self._began
        broken = ", ".join(period.fault for period in self._broken) or "nothing"
        return f"seed {self._plan.seed}, {after:.1f} s after they began to talk; broken: {broken}"

    async def _undisturbed(self) -> None:
        end = self._began + self._plan.seconds
        while (now := self._reactor.seconds()) < end:
            self._look()
            self._progress((now - self._began) / self._plan.seconds, "talking")
            await sleep(LOOK_EVERY, self._reactor)

    async def _troubled(self, faults: list[Fault]) -> None:
        for number, fault in enumerate(faults):
            self._progress(number / len(faults), f"{number + 1} of {len(faults)}: {fault.name}")
            await self._watch(self._plan.calm)
            await self._suffer(fault)
            last = number + 1 == len(faults)
            # Somebody has to be back, or the next fault hits nothing.
            await self._recovered(self._conversation.size if self._plan.patient or last else 1)

    async def _suffer(self, fault: Fault) -> None:
        """Inject, wait, repair."""
        period = self._begun(fault)
        await fault.inject()
        await self._watch(fault.lasts)
        await fault.repair()
        self._over(period)

    async def _chaotic(self, faults: list[Fault]) -> None:
        seconds = self._plan.chaos
        for lane in lanes(schedule(faults, seconds, self._rng)):
            self._tasks.spawn(self._strike(lane, self._began + seconds), "letting things go wrong")
        end = self._began + seconds
        self._tasks.spawn(self._disturb(end), "breaking connections")
        while (now := self._reactor.seconds()) < end or len(self._tasks):
            self._look()
            broken = ", ".join(period.fault for period in self._broken)
            self._progress(min((now - self._began) / seconds, 1.0), broken or "nothing is wrong")
            await sleep(LOOK_EVERY, self._reactor)
        self._look()
        if self._healing is not None:
            await self._recovered(self._conversation.size)

    async def _strike(self, lane: list[Strike], end: float) -> None:
        """What one resource suffers, until ``end``: later where its repair took longer, and not at all at last."""
        try:
            for strike in lane:
                await sleep(max(0.0, self._began + strike.moment - self._reactor.seconds()), self._reactor)
                if self._reactor.seconds() >= end:
                    return
                period = self._begun(strike.fault)
                await strike.fault.inject()
                await sleep(max(0.0, min(strike.lasts, end - self._reactor.seconds())), self._reactor)
                await strike.fault.repair()
                self._over(period)
        except Exception as failure:
            self._failure = failure

    async def _disturb(self, end: float) -> None:
        """Until ``end`` connections of clients break."""
        rng = random.Random(self._plan.seed + 2)
        while (now := self._reactor.seconds()) < end:
            await sleep(min(rng.expovariate(1 / BREAKS_EVERY), end - now), self._reactor)
            self._installation.disturb(rng)

    def _begun(self, fault: Fault) -> Period:
        """A fault begins, and with it a period."""
        period = Period(fault.name, self._reactor.seconds() - self._began)
        self._healing = None
        self._broken.append(period)
        self._periods.append(period)
        self._conversation.period += 1
        return period

    def _over(self, period: Period) -> None:
        """It has been repaired."""
        period.duration = self._reactor.seconds() - self._began - period.moment
        self._broken.remove(period)
        if not self._broken:
            self._healing = period
            self._conversation.expect_news()

    async def _watch(self, seconds: tuple[float, float]) -> None:
        """Let them talk for a while."""
        end = self._reactor.seconds() + self._rng.uniform(*seconds)
        while (now := self._reactor.seconds()) < end:
            self._look()
            await sleep(min(LOOK_EVERY, end - now), self._reactor)

    async def _recovered(self, number: int) -> None:
        """Return when ``number`` participants are connected and have news."""
        assert self._healing is not None
        deadline = self._repaired(self._healing) + GIVE_UP_AFTER
        self._look()
        while (served := self._conversation.informed) < number:
            if self._reactor.seconds() > deadline:
                fault, size = self._healing.fault, self._conversation.size
                raise NotRecovered(
                    f"{fault}: {served} of {size} clients are served {GIVE_UP_AFTER:g} s after the repair"
                )
            await sleep(LOOK_EVERY, self._reactor)
            self._look()

    def _repaired(self, period: Period) -> float:
        """When a fault was repaired, on the reactor's clock."""
        return self._began + period.moment + period.duration

    def _look(self) -> None:
        """See that everything is as it should be, and whether all have recovered."""
        if self._failure is not None:
            raise self._failure
        self._conversation.check()
        self._installation.check()
        period = self._healing
        if period is None or period.recovery is not None:
            return
        if self._conversation.informed == self._conversation.size:
            period.recovery = self._reactor.seconds() - self._repaired(period)
            if period.recovery > self._plan.recover_within:
                self._late.append(period.fault)
