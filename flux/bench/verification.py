"""A conversation through trouble: the server is killed again and again, and nothing may be lost.

::

    server    ====X   =========X ==================X    =======     (X: SIGKILL)
    clients   talk, reconnect, repeat what was not acknowledged ...    settle   read back   judge
                     |--down--|
                     |----until all are back----|

The moments are random, so a kill also hits a server that is still catching up from the one
before.  SIGKILL takes the process and leaves the kernel: what this cannot show is a loss of power.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.threads import deferToThreadPool

from flux.bench.checker import Anomaly, check
from flux.bench.conversation import LOOK_EVERY, Conversation, ConversationFailed
from flux.bench.servers import ServerProcess, flux_settings, free_port, twistd
from flux.lifecycle import sleep

T = TypeVar("T")

#: From the moment the server is back to the next kill, in seconds.
UP_FOR = (0.1, 2.5)
#: From a kill to the restart, in seconds.
DOWN_FOR = (0.0, 0.3)
#: A killed server that nobody could log in to by then does not come back, in seconds.
BACK_WITHIN = 60.0

Progress = Callable[[float, str], None]
"""Told now and then the share that is done, 0 to 1, and what is being done."""


@dataclass(frozen=True)
class Plan:
    """Who talks, and for how long.

    :ivar rate: messages per second of each client.
    :ivar seconds: how long they talk where nobody is killed.
    :ivar kills: how often the server is killed.
    :ivar seed: of all that is random: the same seed makes the same choices, though not the same timing.
    """

    clients: int = 20
    groups: int = 3
    group_size: int = 6
    rate: float = 50.0
    seconds: float = 10.0
    kills: int = 0
    seed: int = 0


@dataclass
class Kill:
    """One kill; times in seconds.

    :ivar moment: since the talk began.
    :ivar acknowledged: messages acknowledged since the kill before.
    :ivar down: until somebody was logged in again.
    :ivar recovery: until all were; None if the next kill came first.
    """

    moment: float
    acknowledged: int
    down: float = 0.0
    recovery: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What happened, and what was wrong with it.

    :ivar settled: whether everything arrived in time; what did not is among the anomalies as lost.
    """

    seed: int
    kills: list[Kill]
    sent: int
    acknowledged: int
    shown: int
    chats: int
    settled: bool
    anomalies: list[Anomaly] = field(default_factory=list)


class Victim:
    """A flux server on ports and data of its own, to be killed and started again.

    :param directory: where its data goes, and what it prints.
    """

    def __init__(self, reactor: Any, directory: Path) -> None:
        self._reactor = reactor
        self._output = directory / "output"
        self.port = free_port()
        settings = flux_settings(self.port, free_port()) | {"store.path": str(directory / "flux.db")}
        self._arguments = twistd("flux", settings)
        self._process: ServerProcess | None = None

    async def start(self) -> None:
        """Start it, and do not wait until it listens."""
        self._process = await self._in_thread(lambda: ServerProcess(self._arguments, self._output))

    async def listening(self) -> None:
        """:raises flux.bench.servers.ServerFailed: it does not come up."""
        assert self._process is not None
        process = self._process
        await self._in_thread(lambda: process.wait_until_listening(self.port))

    def check(self) -> None:
        """:raises flux.bench.servers.ServerFailed: it has ended by itself."""
        if self._process is not None:
            self._process.check()

    async def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        process, self._process = self._process, None
        if process is not None:
            await self._in_thread(process.kill)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        result: T = await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), call)
        return result


class Verification:
    """One conversation from beginning to end.

    :param victim: the server that is killed; None: the one at ``address`` is somebody else's.
    """

    def __init__(
        self, reactor: Any, plan: Plan, address: tuple[str, int], victim: Victim | None, progress: Progress
    ) -> None:
        self._reactor = reactor
        self._plan = plan
        self._victim = victim
        self._progress = progress
        self._rng = random.Random(plan.seed)
        self._conversation = Conversation(
            reactor,
            address,
            clients=plan.clients,
            groups=plan.groups,
            group_size=plan.group_size,
            rate=plan.rate,
            rng=random.Random(plan.seed + 1),
        )
        self._kills: list[Kill] = []
        self._began = 0.0

    async def run(self) -> Verdict:
        """Talk, survive, judge.

        :raises flux.bench.conversation.ConversationFailed: it could not be held.
        :raises flux.bench.servers.ServerFailed: the server did not come back.
        :raises flux.errors.FluxError, flux.client.ClientError: the server refused to serve from the start.
        """
        conversation = self._conversation
        try:
            self._progress(0.0, "logging in")
            await conversation.gather()
            conversation.talk()
            self._began = self._reactor.seconds()
            if self._victim is None:
                await self._undisturbed()
            else:
                await self._killed(self._victim)
            self._progress(1.0, "waiting for the last messages")
            await conversation.stop()
            settled = await conversation.settle()
            self._progress(1.0, "reading the history")
            await conversation.read_back()
        finally:
            await conversation.leave()
        recording = conversation.recording
        return Verdict(
            self._plan.seed,
            self._kills,
            len(recording.attempts),
            len(recording.acknowledged),
            len(recording.shown),
            len(recording.history),
            settled,
            check(recording),
        )

    async def _undisturbed(self) -> None:
        end = self._began + self._plan.seconds
        while (now := self._reactor.seconds()) < end:
            self._conversation.check()
            self._progress((now - self._began) / self._plan.seconds, "talking")
            await sleep(LOOK_EVERY, self._reactor)

    async def _killed(self, victim: Victim) -> None:
        counted = 0
        for number in range(self._plan.kills):
            self._progress(number / self._plan.kills, f"kill {number + 1} of {self._plan.kills}")
            await self._watch(self._rng.uniform(*UP_FOR), victim)
            await victim.kill()
            self._conversation.server_gone()
            acknowledged = len(self._conversation.recording.acknowledged)
            kill = Kill(self._reactor.seconds() - self._began, acknowledged - counted)
            self._kills.append(kill)
            counted = acknowledged
            await sleep(self._rng.uniform(*DOWN_FOR), self._reactor)
            await victim.start()
            await self._back(kill, victim, 1)
            kill.down = self._reactor.seconds() - self._began - kill.moment
        self._progress(1.0, "waiting until everybody is back")
        if self._kills:
            await self._back(self._kills[-1], victim, self._conversation.size)

    async def _watch(self, seconds: float, victim: Victim) -> None:
        """Let them talk for a while."""
        end = self._reactor.seconds() + seconds
        while (now := self._reactor.seconds()) < end:
            self._look(victim)
            await sleep(min(LOOK_EVERY, end - now), self._reactor)

    async def _back(self, kill: Kill, victim: Victim, number: int) -> None:
        """Return when ``number`` participants are logged in again."""
        deadline = self._reactor.seconds() + BACK_WITHIN
        self._look(victim)
        while len(self._conversation.online) < number:
            if self._reactor.seconds() > deadline:
                raise ConversationFailed(f"{number} clients are not back {BACK_WITHIN:g} s after a kill")
            await sleep(LOOK_EVERY, self._reactor)
            self._look(victim)

    def _look(self, victim: Victim) -> None:
        """See that everything is as it should be, and who is back after the last kill."""
        self._conversation.check()
        victim.check()
        if self._kills and self._kills[-1].recovery is None:
            kill = self._kills[-1]
            if len(self._conversation.online) == self._conversation.size:
                kill.recovery = self._reactor.seconds() - self._began - kill.moment
