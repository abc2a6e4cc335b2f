"""What a pool of connections and what group commit bring: appends to a store, without any server around it.

A fixed number of senders each append a message, wait for the receipt, and append the next. Their appends
reach the store in one of two ways::

    singly    each is a call of its own, at most ``at_once`` of them at the same time
    grouped   through the journal of a chat node: one transaction for all that arrived during the last one

PostgreSQL commits each call by itself, on one of ``at_once`` connections.  SQLite has one connection that writes, and
its writer commits together the calls that wait for it: only one at once is a commit per message there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hdrh.histogram import HdrHistogram
from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.bench.load import new_histogram
from flux.bench.population import populate
from flux.chat.journal import Journal
from flux.errors import FluxError
from flux.interfaces import IStore
from flux.lifecycle import Tasks
from flux.model.messages import Draft, Receipt

Way = Literal["singly", "grouped"]

#: Who appends at the same time, in pairs.
SENDERS = 100
#: An ordinary chat message.
TEXT = "the quick brown fox jumps over the dog"
#: Before the measured stretch, as a share of it.
WARM_UP = 0.2


class AppendFailed(Exception):
    """The store did not take a message: the text says what it answered."""


@dataclass(frozen=True)
class Case:
    """One bar of the figure.

    :ivar store: ``sqlite`` or ``postgres``.
    :ivar at_once: calls under way at the same time, 1 where appends are grouped; with ``postgres`` also the size of
        the pool.
    """

    store: str
    way: Way
    at_once: int

    @property
    def label(self) -> str:
        """How messages are appended, for people."""
        if self.way == "grouped":
            return "group commit"
        if self.store == "postgres":
            return f"a commit each, pool of {self.at_once}"
        return f"a call each, {self.at_once} at once"


@dataclass(frozen=True)
class Outcome:
    """What a case came to: messages per second, and the time from wanting to append to the receipt in ms."""

    case: Case
    rate: float
    p50: float
    p99: float


def cases(stores: Sequence[str], pools: Sequence[int]) -> list[Case]:
    """All that is worth measuring of these stores."""
    return [
        case
        for store in stores
        for case in (*(Case(store, "singly", size) for size in pools), Case(store, "grouped", 1))
    ]


class _Singly:
    """Appends one by one, so many at the same time; the others queue."""

    def __init__(self, store: IStore, at_once: int) -> None:
        self._store = store
        self._free = at_once
        self._queue: deque[Deferred[None]] = deque()

    async def append(self, draft: Draft) -> Receipt | FluxError:
        if self._free:
            self._free -= 1
        else:
            turn: Deferred[None] = Deferred()
            self._queue.append(turn)
            await turn
        try:
            [outcome] = await self._store.append([draft])
        finally:
            if self._queue:
                self._queue.popleft().callback(None)
            else:
                self._free += 1
        return outcome


class _Grouped:
    """Appends through a journal."""

    def __init__(self, store: IStore, tasks: Tasks, clock: IReactorTime) -> None:
        self._journal = Journal(store, self._settle, tasks, clock)

    async def append(self, draft: Draft) -> Receipt | FluxError:
        done: Deferred[Receipt | FluxError] = Deferred()
        entry: Any = (done, None, draft)  # the journal passes the first two through
        self._journal.append(entry)
        return await done

    @staticmethod
    def _settle(entries: list[Any], outcomes: list[Receipt | FluxError]) -> None:
        for (done, _, _), outcome in zip(entries, outcomes, strict=True):
            done.callback(outcome)


async def measure(store: IStore, case: Case, seconds: float, clock: Any, progress: Callable[[float], None]) -> Outcome:
    """Append to an empty ``store``, which was started, for ``seconds``.

    :raises AppendFailed: a message was not stored, or not in its place.
    """
    await populate(store, SENDERS, 0)
    tasks = Tasks(Logger(), clock)
    way: _Singly | _Grouped = _Singly(store, case.at_once) if case.way == "singly" else _Grouped(store, tasks, clock)
    begin = clock.seconds()
    start = begin + WARM_UP * seconds
    end = start + seconds
    times = new_histogram()
    shown = begin

    async def send(uid: int) -> None:
        nonlocal shown
        number = 0
        # On a busy machine the first receipt may come late; without any there is nothing to say.
        while (now := clock.seconds()) < end or not times.get_total_count():
            number += 1
            outcome = await way.append(
                Draft(uid, (uid - 1 ^ 1) + 1, 0, "the quick brown fox jumps over", f"{number:08}")
            )
            after = clock.seconds()
            if not isinstance(outcome, Receipt):
                raise AppendFailed(f"a message was not stored: {outcome.name} {outcome.detail}")
            if start <= now:
                times.record_value(max(1, round((after - now) * 1e6)))
            if after - shown > 0.25:
                shown = after
                progress(min(1.0, (after - begin) / (end - begin)))

    senders: list[Coroutine[Any, Any, None]] = [send(uid) for uid in range(1, SENDERS + 1)]
    try:
        await gatherResults([Deferred.fromCoroutine(sender) for sender in senders], consumeErrors=True)
    except FirstError as first:
        first.subFailure.raiseException()
    finally:
        await tasks.stop()
    return _outcome(case, times, clock.seconds() - start)


def _outcome(case: Case, times: HdrHistogram, seconds: float) -> Outcome:
    p50, p99 = (times.get_value_at_percentile(percent) / 1000 for percent in (50, 99))
    return Outcome(case, times.get_total_count() / seconds, p50, p99)
