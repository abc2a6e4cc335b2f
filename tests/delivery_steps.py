"""Everything that is waited for is a step: what can happen now, and who decides which is next.

::

    Steps.add ──> pending ── settle, take, happen, until ──> it happens
                          └─ hold ──> it does not, unless the test runs it
    every_order ── Choices ──> runs of a test, one for each order of the steps
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


def now(awaitable: Awaitable[Any]) -> Any:
    """The result of something that does not wait."""

    async def wait() -> Any:
        return await awaitable

    results: list[Any] = []
    Deferred.fromCoroutine(wait()).addBoth(results.append)
    [result] = results
    if isinstance(result, Failure):
        result.raiseException()
    return result


class Step:
    """Something that can happen now.

    :ivar label: what it is, for people and for :meth:`Steps.fingerprint`.
    :ivar lane: of the steps with the same lane only the first can happen.
    """

    __slots__ = ("label", "lane", "run")

    def __init__(self, label: str, lane: object, run: Callable[[], None]) -> None:
        self.label = label
        self.lane = lane
        self.run = run


class Steps:
    """What can happen next, oldest first."""

    def __init__(self) -> None:
        self.pending: list[Step] = []
        self.taken = 0

    def add(self, label: str, run: Callable[[], None], lane: object = None) -> None:
        self.pending.append(Step(label, lane, run))

    def ready(self) -> list[Step]:
        """The steps one may take now."""
        seen = set()
        found = []
        for step in self.pending:
            if step.lane is None or step.lane not in seen:
                found.append(step)
                seen.add(step.lane)
        return found

    def take(self, step: Step) -> None:
        self.pending.remove(step)
        self.taken += 1
        step.run()

    def find(self, *texts: str) -> Step:
        """The first of the steps whose label has all these texts in it."""
        for step in self.pending:
            if all(text in step.label for text in texts):
                return step
        raise AssertionError(f"no {texts} among {[step.label for step in self.pending]}")

    def happen(self, *texts: str) -> None:
        """Take the step that :meth:`find` finds."""
        self.take(self.find(*texts))

    def until(self, *texts: str) -> Step:
        """Let things happen in order until there is such a step; it waits still."""
        while not any(all(text in step.label for text in texts) for step in self.pending):
            self.take(self.pending[0])
        return self.find(*texts)

    def hold(self, *texts: str) -> Step:
        """What :meth:`find` finds does not happen, unless the test runs it later."""
        step = self.find(*texts)
        self.pending.remove(step)
        return step

    def settle(self, limit: int = 100_000) -> None:
        """Let everything happen, in order."""
        while self.pending:
            self.take(self.pending[0])
            limit -= 1
            assert limit, "it does not end"


class Choices:
    """Which of several ready steps to take: first those given, then always the first one."""

    def __init__(self, given: Sequence[int]) -> None:
        self._given = given
        self.made: list[tuple[int, int]] = []

    def __call__(self, count: int) -> int:
        choice = self._given[len(self.made)] if len(self.made) < len(self._given) else 0
        self.made.append((choice, count))
        return choice


def every_order(run: Callable[[Choices], None], limit: int) -> Iterator[None]:
    """Run with every sequence of choices there is, depth first, at most ``limit`` of them."""
    given: list[int] = []
    for _ in range(limit):
        choices = Choices(given)
        run(choices)
        yield
        made = choices.made
        while made and made[-1][0] + 1 == made[-1][1]:
            made.pop()
        if not made:
            return
        given = [choice for choice, _ in made]
        given[-1] += 1
