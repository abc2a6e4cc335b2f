"""Whether this process can do its work: its backends are asked, not believed.

Each is asked something that takes the way of real work and changes nothing: the store for a transaction of its
writer (a PostgreSQL that has become read-only refuses it), the shared state to keep something for a moment (a full
Redis answers whoever only reads), the status services of a gate, without which it logs nobody in, for a sign of life of
one of them.  Whoever asks for the health again within a second gets the same answer, so nobody can load the backends by
asking.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.admin.sources import Sources
from flux.errors import Unavailable, in_words
from flux.lifecycle import every, together, within
from flux.metrics import BackendMetrics

CHECK_EVERY = 5.0
"""Seconds between checks when nobody asks."""

FRESH = 1.0
"""Seconds for which a check is good."""

ANSWER_WITHIN = 2.0
"""Seconds a backend may take to answer."""


class Checked(msgspec.Struct, frozen=True):
    """What a backend said.

    :ivar seconds: how long it took to say so.
    :ivar problem: empty where it works.
    """

    name: str
    up: bool
    seconds: float
    problem: str = ""


class Health:
    """Checks the backends of a process.

    :ivar backends: as of the last check.
    """

    log = Logger()

    def __init__(self, sources: Sources, metrics: BackendMetrics, clock: IReactorTime) -> None:
        self.backends: tuple[Checked, ...] = ()
        self._sources = sources
        self._metrics = metrics
        self._clock = clock
        self._checked = float("-inf")
        self._waiting: list[Deferred[None]] | None = None

    async def watch(self) -> None:
        """Check again and again, until cancelled."""
        await every(CHECK_EVERY, self.check, self._clock, "checking the backends", self.log)

    async def check(self) -> None:
        """Check, unless that was done just now; who comes while it is being done waits for the same answer."""
        if not self._sources.listening() or self._clock.seconds() - self._checked < FRESH:
            # What does not run yet, or any more, cannot be asked.
            return
        if self._waiting is not None:
            turn: Deferred[None] = Deferred()
            self._waiting.append(turn)
            await turn
            return
        self._waiting = []
        try:
            self.backends = tuple(await together([self._ask(name, what) for name, what in self._questions()]))
            self._checked = self._clock.seconds()
            for backend in self.backends:
                self._metrics.up.labels(backend.name).set(backend.up)
        finally:
            waiting, self._waiting = self._waiting, None
            for turn in waiting:
                turn.callback(None)

    async def problems(self, for_anybody: bool = False) -> list[str]:
        """What keeps this process from serving, each in words; nothing where it is ready.

        :param for_anybody: only what is away, not why: that tells addresses and settings.
        """
        if not self._sources.listening():
            return ["not everything listens yet, or any more"]
        await self.check()
        away = [each for each in self.backends if not each.up]
        found = [f"{each.name}: away" if for_anybody else f"{each.name}: {each.problem}" for each in away]
        if self._sources.draining():
            found.append("draining: no logins are taken")
        return found

    def _questions(self) -> list[tuple[str, Callable[[], Awaitable[object]]]]:
        async def state() -> None:
            # Codes of people are kept under other names.
            await self._sources.state.set_code("health", b"", FRESH)

        async def bus() -> None:
            if not self._sources.bus.connected:
                raise Unavailable("events between nodes get lost")

        questions: list[tuple[str, Callable[[], Awaitable[object]]]] = []
        if self._sources.store is not None:
            store = self._sources.store
            questions.append(("store", lambda: store.advance([])))
        questions.append(("state", state))
        questions.append(("bus", bus))
        if self._sources.status is not None:
            questions.append(("status", self._sources.status))
        return questions

    async def _ask(self, name: str, question: Callable[[], Awaitable[object]]) -> Checked:
        began = self._clock.seconds()
        problem = ""
        try:
            await within(ANSWER_WITHIN, question(), self._clock, "no answer")
        except CancelledError:
            raise
        except Exception as error:
            problem = in_words(error)
        return Checked(name, not problem, self._clock.seconds() - began, problem)
