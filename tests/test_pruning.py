"""``store.keep_days``: when a node removes old messages, how much at once, and what it does when it cannot."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from flux.chat.pruning import DAY, EVERY, FIRST, PAUSE, PORTION, Pruning
from flux.errors import Unavailable
from flux.lifecycle import spawn
from flux.metrics import ChatMetrics

NOW = 1_000 * DAY


class Old:
    """A store with some old messages."""

    def __init__(self, messages: int) -> None:
        self.messages = messages
        self.asked: list[tuple[int, int]] = []
        self.away = False

    async def prune(self, before: int, limit: int) -> int:
        self.asked.append((before, limit))
        if self.away:
            raise Unavailable("away")
        removed = min(limit, self.messages)
        self.messages -= removed
        return removed


class Running:
    def __init__(self, messages: int, days: int) -> None:
        self.store: Any = Old(messages)
        self.days = days
        self.clock = Clock()
        self.metrics = ChatMetrics()
        pruning = Pruning(self.store, lambda: self.days, lambda: NOW, self.clock, self.metrics)
        self.task = spawn(pruning.run(), "removing old messages", Pruning.log)


def test_a_pass_goes_on_in_portions_until_nothing_old_is_left_and_comes_again() -> None:
    running = Running(2 * PORTION + 1, 30)
    running.clock.advance(FIRST - 1)
    assert running.store.asked == []
    running.clock.pump([1, PAUSE, PAUSE, PAUSE])
    assert running.store.asked == [((NOW - 30 * DAY) * 1000, PORTION)] * 4
    assert running.store.messages == 0
    running.store.messages = 5
    running.clock.advance(EVERY)
    assert running.store.messages == 0
    running.task.cancel()


def test_without_a_limit_nothing_is_removed() -> None:
    running = Running(5, 0)
    running.clock.pump([FIRST, EVERY])
    assert running.store.asked == []
    # It is a live key.
    running.days = 1
    running.clock.advance(EVERY)
    assert running.store.messages == 0
    running.task.cancel()


def test_a_store_that_is_away_is_asked_again_with_the_next_pass() -> None:
    running = Running(5, 1)
    running.store.away = True
    running.clock.advance(FIRST)
    assert len(running.store.asked) == 1
    running.store.away = False
    running.clock.advance(EVERY)
    assert running.store.messages == 0
    running.task.cancel()
