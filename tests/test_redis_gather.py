"""Calls to the shared state that are gathered into batches, with answers of a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from flux.backends.redis.gather import Gather
from flux.errors import Unavailable
from flux.lifecycle import Abandoned


class State:
    """Answers when told to.

    :ivar asked: the batches, each with its answer.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], Deferred[list[str]]]] = []

    def ask(self, questions: Sequence[int]) -> Deferred[list[str]]:
        self.asked.append((list(questions), Deferred()))
        return self.asked[-1][1]


@pytest.mark.parametrize("answer", [["1"], ["1", "2", "3"], CancelledError(), ZeroDivisionError()], ids=repr)
async def test_an_answer_that_makes_no_sense_fails_its_batch_and_the_next_one_comes(
    answer: Any, flush_logged_errors: Any
) -> None:
    state = State()
    gather: Gather[int, str] = Gather(state.ask, "the shared state", Clock())
    first, *batch = gather(0), gather(1), gather(2)
    state.asked[0][1].callback(["0"])
    assert await first == "0"
    later = gather(3)
    questions, answering = state.asked[1]
    assert questions == [1, 2]
    (answering.errback if isinstance(answer, Exception) else answering.callback)(answer)
    for waiting in batch:
        with pytest.raises(Unavailable, match="not understood"):
            await waiting
    assert len(flush_logged_errors(ValueError, Abandoned, ZeroDivisionError)) == 1
    questions, answering = state.asked[2]
    assert questions == [3]
    answering.callback(["3"])
    assert await later == "3"
    await gather.stop()


async def test_who_waits_when_it_stops_is_told() -> None:
    state = State()
    gather: Gather[int, str] = Gather(state.ask, "the shared state", Clock())
    waiting = [gather(number) for number in range(3)]
    await gather.stop()
    for each in waiting:
        with pytest.raises(Unavailable, match="stopped"):
            await each
    again = gather(3)
    state.asked[-1][1].callback(["3"])
    assert await again == "3"
    await gather.stop()
