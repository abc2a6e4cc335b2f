"""Assigning users: batches, loads, tokens, and who gets whom."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from placement_parts import NOW, Setup
from status_parts import First, lease, settled, texts
from twisted.logger import LogLevel, capturedLogs
from zope.interface.verify import verifyObject

from flux import tokens
from flux.errors import Internal, NoServer, Unavailable
from flux.interfaces import IPlacement
from flux.model.placement import Choice


@pytest.fixture
def setup() -> Setup:
    return Setup()


def test_it_provides_the_interface(setup) -> None:
    assert verifyObject(IPlacement, setup.placement)


# --- what an assignment is ---


async def test_an_assignment_names_server_token_and_expiry(setup) -> None:
    await setup.lease("a")
    one, other = await setup.assign(7, 8)
    assert (one.uid, one.host, one.port, one.server) == (7, "a.example", 8090, "a")
    assert one.expires == (NOW + 600) * 1000
    assert other.uid == 8
    assert one.token != other.token
    assert len(one.token) == 32


async def test_only_the_digest_of_a_token_is_stored(setup) -> None:
    await setup.lease("a")
    (one,) = await setup.assign(7)
    stored = await setup.state.token_digest(7)
    assert stored == hashlib.sha256(one.token.encode()).digest()
    assert tokens.matches(one.token, stored)
    setup.clock.advance(601)
    assert await setup.state.token_digest(7) is None


async def test_a_new_token_replaces_the_old_and_the_reservation_moves(setup) -> None:
    await setup.lease("a", "b")
    (old,) = await setup.assign(7)
    (new,) = await setup.assign(7)
    stored = await setup.state.token_digest(7)
    assert tokens.matches(new.token, stored)
    assert not tokens.matches(old.token, stored)
    assert sum((await setup.state.snapshot()).reserved.values()) == 1


async def test_who_asks_twice_in_one_turn_gets_one_answer(setup) -> None:
    await setup.lease("a", "b")
    first, second = setup.placement.assign([7]), setup.placement.assign([7, 8, 7])
    settled(setup.clock)
    assert (await first)[0] == (await second)[0] == (await second)[2]
    assert setup.state.assigned == [[7, 8]]
    assert tokens.matches((await first)[0].token, await setup.state.token_digest(7))


# --- batches and loads ---


async def test_the_requests_of_a_turn_are_one_call_of_the_state(setup) -> None:
    await setup.lease("a")
    answers = [setup.placement.assign([uid]) for uid in range(1, 101)]
    settled(setup.clock)
    assert setup.state.assigned == [list(range(1, 101))]
    assert [answer.result[0].uid for answer in answers] == list(range(1, 101))


async def test_a_long_queue_is_several_batches_in_order(setup) -> None:
    await setup.lease("a")
    answers = [setup.placement.assign(range(start, start + 400)) for start in range(1, 2001, 400)]
    settled(setup.clock)
    assert [len(batch) for batch in setup.state.assigned] == [1200, 800]
    assert [uid for batch in setup.state.assigned for uid in batch] == list(range(1, 2001))
    assert all(answer.called for answer in answers)


async def test_choices_of_a_batch_count_for_the_rest_of_it(setup) -> None:
    await setup.lease("a", "b", "c", "d")
    answer = setup.placement.assign(range(1, 101))
    settled(setup.clock)
    assert set(setup.answers(answer).values()) == {25}


async def test_unanswered_choices_count_for_the_next_batches(setup) -> None:
    await setup.lease("a", "b", "c", "d")
    await setup.placement.refresh()
    setup.state.holding = True
    answers = []
    for batch in range(4):
        answers.append(setup.placement.assign(range(batch * 10 + 1, batch * 10 + 11)))
        settled(setup.clock)
    assert not any(answer.called for answer in answers)
    for _ in range(4):
        setup.state.release()
    total: Counter[str] = Counter()
    for answer in answers:
        total += setup.answers(answer)
    assert set(total.values()) == {10}


async def test_answered_choices_count_once(setup) -> None:
    setup = Setup(First())
    await setup.lease("a", sessions=5)
    await setup.placement.refresh()
    setup.state.holding = True
    first = setup.placement.assign([1, 2])
    settled(setup.clock)
    second = setup.placement.assign([3])
    settled(setup.clock)
    setup.state.release()
    setup.state.release()
    third = setup.placement.assign([4])
    settled(setup.clock)
    setup.state.release()
    assert [setup.answers(answer)["a"] for answer in (first, second, third)] == [2, 1, 1]
    assert setup.placement.balancer.shown == [{"a": 5}, {"a": 6}, {"a": 7}, {"a": 8}]


async def test_the_answer_of_the_state_is_the_next_snapshot(setup) -> None:
    await setup.lease("a", "b")
    await setup.assign(1)
    # Another status process has sent ten to the one, which the next answer shows.
    reserved = (await setup.state.snapshot()).reserved
    busy = next(iter(reserved))
    for uid in range(100, 110):
        await setup.state.assign([Choice(uid, busy, b"")], 30, 60)
    await setup.assign(2)
    looked = setup.state.snapshots
    for uid in range(3, 12):
        ((assignment),) = await setup.assign(uid)
        assert assignment.server != busy
    assert setup.state.snapshots == looked


# --- who may get a user ---


async def test_draining_unready_full_and_weightless_servers_get_nobody(setup) -> None:
    await setup.lease("full", capacity=5, sessions=5)
    await setup.lease("unready", why="its store does not answer")
    await setup.lease("weightless", weight=0)
    await setup.lease("draining", "open")
    await setup.state.drain("draining", True)
    answer = setup.placement.assign(range(1, 51))
    settled(setup.clock)
    assert setup.answers(answer) == {"open": 50}


async def test_a_server_takes_users_up_to_its_capacity(setup) -> None:
    await setup.lease("small", capacity=10, sessions=4)
    await setup.lease("large", sessions=100)
    answer = setup.placement.assign(range(1, 21))
    settled(setup.clock)
    assert setup.answers(answer) == {"small": 6, "large": 14}


async def test_reservations_of_others_fill_a_server_too(setup) -> None:
    await setup.lease("a", capacity=2)
    await setup.assign(1)
    await setup.assign(2)
    with pytest.raises(NoServer):
        await setup.assign(3)
    setup.clock.advance(31)
    await setup.lease("a", capacity=2)
    assert (await setup.assign(3))[0].server == "a"


async def test_without_a_server_the_reason_is_told(setup) -> None:
    with pytest.raises(NoServer, match="no chat server is known"):
        await setup.assign(1)
    await setup.lease("a", "b", capacity=1, sessions=1)
    await setup.lease("c")
    await setup.lease("d", why="its store does not answer")
    await setup.state.drain("c", True)
    setup.clock.advance(1)
    with pytest.raises(NoServer, match="no chat server can take a user: 2 full, 1 draining, 1 unready"):
        await setup.assign(1)
    assert await setup.state.token_digest(1) is None


async def test_a_request_that_cannot_be_served_whole_takes_no_place(setup) -> None:
    await setup.lease("a", capacity=3)
    many, few = setup.placement.assign([1, 2, 3, 4]), setup.placement.assign([5, 6, 7])
    settled(setup.clock)
    with pytest.raises(NoServer):
        await many
    assert [assignment.uid for assignment in await few] == [5, 6, 7]
    assert (await setup.state.snapshot()).reserved == {"a": 3}
    assert await setup.state.token_digest(1) is None


async def test_accounts_shared_with_a_failed_request_keep_their_answer(setup) -> None:
    await setup.lease("a", capacity=2)
    first, many = setup.placement.assign([1]), setup.placement.assign([1, 2, 3])
    settled(setup.clock)
    with pytest.raises(NoServer):
        await many
    assert tokens.matches((await first)[0].token, await setup.state.token_digest(1))
    assert (await setup.state.snapshot()).reserved == {"a": 1}


# --- who has a place already ---


async def test_who_is_on_the_way_to_a_full_server_gets_it_again(setup) -> None:
    await setup.lease("a", capacity=2)
    (before,) = await setup.assign(1)
    await setup.assign(2)
    with capturedLogs() as logged:
        (again,) = await setup.assign(1)
    assert (again.server, again.token == before.token) == ("a", False)
    assert tokens.matches(again.token, await setup.state.token_digest(1))
    assert "user 1 is assigned to a by the place it had, loads {'a': 2}" in texts(logged)[-1]
    with pytest.raises(NoServer, match="1 full"):
        await setup.assign(3)
    assert (await setup.state.snapshot()).reserved == {"a": 2}
    # What was added while that was recorded is taken off again.
    setup.clock.advance(31)
    await setup.lease("a", capacity=2)
    assert [assignment.server for assignment in await setup.assign(4, 5)] == ["a", "a"]


async def test_who_is_logged_in_at_a_full_server_gets_it_again(setup) -> None:
    await setup.state.renew(lease("a", sessions=1, capacity=1), [(1, 1)])
    await setup.state.renew(lease("b", sessions=1, capacity=1), [(2, 1)])
    assert (await setup.assign(2))[0].server == "b"
    # A reservation is newer than the session elsewhere.
    await setup.state.assign([Choice(1, "b", b"")], 30, 600)
    assert (await setup.assign(1))[0].server == "b"


async def test_all_of_a_request_have_places_or_none_gets_one(setup) -> None:
    await setup.lease("a", capacity=2)
    await setup.assign(1, 2)
    both, one_too_many = setup.placement.assign([2, 1, 2]), setup.placement.assign([1, 3])
    settled(setup.clock)
    assert [assignment.uid for assignment in await both] == [2, 1, 2]
    with pytest.raises(NoServer):
        await one_too_many
    assert (await setup.state.snapshot()).reserved == {"a": 2}


async def test_a_place_on_a_server_that_drains_or_is_down_is_none(setup) -> None:
    await setup.lease("a", "b", "c", capacity=1)
    for uid, name in enumerate(("a", "b", "c"), 1):
        await setup.state.assign([Choice(uid, name, b"")], 30, 600)
    await setup.state.drain("a", True)
    await setup.state.retire("b", 1)
    for uid in (1, 2):
        with pytest.raises(NoServer):
            await setup.assign(uid)
    assert (await setup.assign(3))[0].server == "c"


@pytest.mark.parametrize(("problem", "answer"), [(Unavailable("away"), Unavailable), (ZeroDivisionError(), Internal)])
async def test_a_state_that_does_not_tell_who_has_a_place(
    setup, monkeypatch, flush_logged_errors, problem, answer
) -> None:
    await setup.lease("a", capacity=1)
    await setup.assign(1)

    async def fails(uids):
        raise problem

    monkeypatch.setattr(setup.state, "reserved", fails)
    with pytest.raises(answer):
        await setup.assign(1)
    flush_logged_errors(ZeroDivisionError)
    monkeypatch.undo()
    assert (await setup.assign(1))[0].server == "a"


# --- who leaves a server ---


async def test_who_leaves_a_server_is_not_given_it_again(setup) -> None:
    await setup.lease("a")
    await setup.lease("b", sessions=100)
    await setup.assign(1)
    # The snapshot still has it as up.
    leaving, other = setup.placement.assign([2, 3], "a"), setup.placement.assign([4])
    settled(setup.clock)
    assert setup.answers(leaving) + setup.answers(other) == {"b": 3}


async def test_who_leaves_the_only_server_gets_none(setup) -> None:
    await setup.lease("a")
    answer = setup.placement.assign([1], "a")
    settled(setup.clock)
    with pytest.raises(NoServer, match="no other chat server is up"):
        await answer
    await setup.lease("b", capacity=1, sessions=1)
    await setup.state.assign([Choice(1, "a", b""), Choice(2, "b", b"")], 30, 600)
    setup.clock.advance(5)
    for uid in (1, 2):
        answer = setup.placement.assign([uid], "a")
        settled(setup.clock)
        with pytest.raises(NoServer, match="1 full"):
            await answer


# --- the log ---


async def test_each_assignment_is_logged_without_its_token(setup) -> None:
    await setup.lease("a", sessions=4)
    await setup.lease("b", sessions=9)
    await setup.placement.refresh()
    with capturedLogs() as logged:
        assignments = await setup.assign(7, 8)
    expires = int((NOW + 600) * 1000)
    assert texts(logged) == [
        f"user 7 is assigned to a by least_connections, loads {{'a': 4, 'b': 9}}; token issued until {expires}",
        f"user 8 is assigned to a by least_connections, loads {{'a': 5, 'b': 9}}; token issued until {expires}",
    ]
    assert {event["log_level"] for event in logged} == {LogLevel.info}
    for assignment in assignments:
        assert assignment.token not in str(logged)
