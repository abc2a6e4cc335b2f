"""Whose password is looked at next."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred

from flux.accounts.turns import Turns
from flux.errors import Unavailable


class Crowd:
    """Who has asked for a turn, by names that begin with the address; a capital asks to be last.

    :ivar working: those who had their turn, in order.
    :ivar refused: those who were refused.
    """

    def __init__(self, limit: int = 1, most: int = 100) -> None:
        self.turns = Turns(limit, most)
        self.working: list[str] = []
        self.refused: list[str] = []
        self.asked: dict[str, Deferred[None]] = {}

    def ask(self, *names: str) -> None:
        for name in names:
            self.asked[name] = Deferred.fromCoroutine(self._work(name))

    async def _work(self, name: str) -> None:
        try:
            await self.turns.acquire(name[0].lower(), name.isupper())
        except (Unavailable, CancelledError):
            self.refused.append(name)
        else:
            self.working.append(name)

    def release(self, count: int) -> None:
        for _ in range(count):
            self.turns.release()


def test_addresses_take_turns() -> None:
    crowd = Crowd(2)
    crowd.ask("a1", "a2", "a3", "a4", "a5", "b1", "b2", "c1")
    assert (crowd.working, crowd.turns.waiting) == (["a1", "a2"], 6)
    crowd.release(2)
    crowd.ask("d1", "c2")
    crowd.release(6)
    assert crowd.working[2:] == ["a3", "b1", "c1", "a4", "b2", "d1", "c2", "a5"]
    # All turns are free again.
    crowd.release(2)
    crowd.ask("a6", "a7", "a8")
    assert crowd.turns.waiting == 1


def test_addresses_of_one_customer_are_one() -> None:
    turns, working = Turns(1, 100), []

    async def work(address: str) -> None:
        await turns.acquire(address, False)
        working.append(address)

    addresses = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1", "::ffff:10.0.0.1", "10.0.0.1"]
    _ = [Deferred.fromCoroutine(work(address)) for address in addresses]
    for _ in addresses:
        turns.release()
    assert working == [addresses[number] for number in (0, 1, 3, 4, 2, 5)]


def test_who_is_last_lets_all_others_go_first() -> None:
    crowd = Crowd()
    crowd.ask("a", "A1", "b", "A2", "B", "c")
    assert (crowd.working, crowd.turns.waiting) == (["a"], 5)
    crowd.release(1)
    crowd.ask("d")
    crowd.release(5)
    assert crowd.working == ["a", "b", "c", "d", "A1", "B", "A2"]
    # Where there is room, nobody is last.
    crowd.release(1)
    crowd.ask("E")
    assert crowd.working[-1] == "E"


def test_who_leaves_waits_no_more() -> None:
    crowd = Crowd()
    crowd.ask("a1", "a2", "a3", "b1", "c1")
    crowd.asked["b1"].cancel()
    crowd.asked["a2"].cancel()
    assert (crowd.refused, crowd.turns.waiting) == (["b1", "a2"], 2)
    crowd.release(2)
    assert crowd.working == ["a1", "a3", "c1"]


def test_where_too_many_wait_the_largest_crowd_is_refused() -> None:
    crowd = Crowd(most=4)
    crowd.ask("a1", "a2", "a3", "a4", "a5", "a6")
    assert crowd.refused == ["a6"]
    # Others are let in, as long as they are fewer.
    crowd.ask("b1", "c1", "b2", "c2")
    assert crowd.refused == ["a6", "a5", "a4", "b2", "c2"]
    # Those who are last have as many places of their own.
    crowd.ask("A1", "A2", "B1", "B2", "C1")
    assert crowd.refused[5:] == ["A2"]
    assert crowd.turns.waiting == 8
    crowd.release(8)
    assert crowd.working == ["a1", "a2", "b1", "c1", "a3", "A1", "B1", "C1", "B2"]


def test_of_many_alike_it_is_who_comes_last() -> None:
    crowd = Crowd(most=3)
    crowd.ask("a", "b", "c", "d", "e")
    assert crowd.refused == ["e"]


def test_who_asks_again_when_it_is_refused_does_not_make_it_too_many() -> None:
    crowd = Crowd(most=2)
    crowd.ask("a1", "a2", "a3")

    def again(name: str) -> None:
        crowd.asked[name].addCallback(lambda _: crowd.ask("a4"))

    again("a3")
    crowd.ask("b1")
    assert (crowd.refused, crowd.turns.waiting) == (["a3", "a4"], 2)


def test_thousands_who_are_through_at_once_lose_no_turn() -> None:
    turns, through = Turns(2, 5_000), []

    async def work(number: int) -> None:
        await turns.acquire(str(number % 7), False)
        try:
            through.append(number)
        finally:
            turns.release()

    for _ in range(2):
        assert Deferred.fromCoroutine(turns.acquire("", False)).called
    running = [Deferred.fromCoroutine(work(number)) for number in range(5_000)]
    turns.release()
    turns.release()
    assert all(each.called for each in running)
    assert sorted(through) == list(range(5_000))
    assert turns.waiting == 0


@pytest.mark.parametrize("last", [False, True])
async def test_what_is_said_to_who_is_refused(last: bool) -> None:
    turns = Turns(1, 1)
    await turns.acquire("a", last)
    waits = Deferred.fromCoroutine(turns.acquire("a", last))
    with pytest.raises(Unavailable, match="new passwords" if last else "logins"):
        await turns.acquire("a", last)
    turns.release()
    await waits
