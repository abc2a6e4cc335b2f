"""Read receipts that cannot be told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import Logger

from flux.chat.reading import AGAIN, PAUSE, TRIES, Reading
from flux.errors import FluxError, NotFound, Unavailable
from flux.lifecycle import Tasks
from flux.model.events import ReadUpTo

ANN, BOB, CHAT = 1, 2, 7


class Scene:
    """One who reads in a chat whose last session here ends at once, so that its members have to be read.

    :ivar problem: raised instead of the members.
    :ivar asked: how often they were read.
    :ivar told: the receipts.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.tasks = Tasks(Logger(), self.clock)
        self.problem: Exception | None = None
        self.asked = 0
        self.told: list[int] = []
        nowhere: Any = SimpleNamespace(chats={})
        # Members and presence are this bench, as far as they are asked.
        self.reading = Reading(nowhere, self, self, self.clock, self.tasks)  # type: ignore[arg-type]

    async def refresh(self, number: int) -> Any:
        self.asked += 1
        if self.problem is not None:
            raise self.problem
        return SimpleNamespace(participants=[SimpleNamespace(id=ANN), SimpleNamespace(id=BOB)])

    async def notify(self, uids: list[int], event: ReadUpTo) -> None:
        assert (uids, event.chat, event.id) == ([BOB], CHAT, ANN)
        self.told.append(event.seq)

    def read(self, seq: int) -> None:
        chat: Any = SimpleNamespace(id=CHAT, version=1, newest=2, members=())
        session: Any = SimpleNamespace(uid=ANN, bars=lambda chat: False)
        self.reading.risen(session, chat, seq)

    def pass_time(self, seconds: float) -> None:
        self.clock.pump([PAUSE] * round(seconds / PAUSE))


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_receipt_waits_for_a_store_that_is_away(scene: Scene) -> None:
    scene.problem = Unavailable("away")
    scene.read(5)
    scene.pass_time(AGAIN - PAUSE)
    assert (scene.asked, scene.told) == (1, [])
    scene.problem = None
    scene.pass_time(PAUSE)
    assert (scene.asked, scene.told) == (2, [5])
    scene.pass_time(PAUSE)
    assert len(scene.tasks) == 0


@pytest.mark.parametrize(("problem", "tries"), [(NotFound("no such chat"), 1), (Unavailable("away"), TRIES)])
def test_one_is_given_up_where_the_chat_is_gone_or_after_a_few_tries(
    scene: Scene, problem: FluxError, tries: int
) -> None:
    scene.problem = problem
    scene.read(5)
    scene.pass_time(3600)
    assert (scene.asked, len(scene.tasks)) == (tries, 0)
    # Later ones are tried.
    scene.problem = None
    scene.read(6)
    assert scene.told == [6]


def test_one_that_waits_is_forgotten_with_what_was_read_of_a_store_that_went_back(scene: Scene) -> None:
    scene.problem = Unavailable("away")
    scene.read(5)
    scene.reading.forget()
    scene.problem = None
    scene.pass_time(AGAIN)
    assert (scene.told, len(scene.tasks)) == ([], 0)
    scene.read(3)
    assert scene.told == [3]
