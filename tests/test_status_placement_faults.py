"""Assigning users while the shared state is slow, away or old, or the balancer is wrong."""

from __future__ import annotations

import pytest
from placement_parts import Setup
from status_parts import First, settled
from twisted.logger import capturedLogs
from zope.interface import implementer

from flux.errors import Internal, NoServer, Unavailable
from flux.interfaces import IBalancer
from flux.status import placement as module
from flux.status.placement import DEADLINE


@pytest.fixture
def setup() -> Setup:
    return Setup()


# --- fresh and stale ---


async def test_a_first_request_reads_the_loads(setup) -> None:
    await setup.lease("a", sessions=50)
    await setup.lease("b")
    answer = setup.placement.assign(range(1, 11))
    settled(setup.clock)
    assert setup.answers(answer) == {"b": 10}


async def test_old_loads_are_read_again_before_a_choice(setup) -> None:
    await setup.lease("a", "b")
    await setup.assign(1)
    setup.clock.advance(4.6)
    await setup.lease("a", sessions=50)
    await setup.lease("b")
    looked = setup.state.snapshots
    answer = setup.placement.assign(range(2, 12))
    settled(setup.clock)
    assert setup.answers(answer) == {"b": 10}
    assert setup.state.snapshots == looked + 1


async def test_requests_that_arrive_while_the_loads_are_read_wait_for_them(setup) -> None:
    await setup.lease("a")
    setup.state.holding = True
    first = setup.placement.assign([1])
    settled(setup.clock)
    second = setup.placement.assign([2])
    settled(setup.clock)
    assert len(setup.state.held) == 1
    setup.state.holding = False
    setup.state.release()
    assert [setup.answers(answer)["a"] for answer in (first, second)] == [1, 1]
    assert setup.state.assigned == [[1, 2]]


@pytest.mark.parametrize("stops", [True, False], ids=["ended", "draining"])
async def test_a_server_that_has_just_gone_is_given_to_nobody(setup, stops) -> None:
    """What records the choice says so."""
    await setup.lease("a", "b", sessions=1)
    await setup.placement.refresh()
    await (setup.state.retire("a", 1) if stops else setup.state.drain("a", True))
    answers = [setup.placement.assign([uid]) for uid in range(1, 9)]
    both = setup.placement.assign([9, 10])
    with capturedLogs() as logged:
        settled(setup.clock)
    assert [setup.answers(answer) for answer in answers] == [{"b": 1}] * 8
    assert setup.answers(both) == {"b": 2}
    first, second = setup.state.assigned
    assert len(first) == 10
    assert set(second) >= {9, 10}
    assert sorted(event["uid"] for event in logged if "is assigned" in event["log_format"]) == list(range(1, 11))
    # Nobody else is left.
    await (setup.state.retire("b", 1) if stops else setup.state.drain("b", True))
    last = setup.placement.assign([11])
    settled(setup.clock)
    with pytest.raises(NoServer):
        await last


async def test_who_is_asked_for_twice_has_one_token_though_a_server_has_gone(setup) -> None:
    await setup.lease("a", "b")
    await setup.placement.refresh()
    await setup.state.retire("a", 1)
    answers = [setup.placement.assign(uids) for uids in ([1, 2], [2, 3], [3, 4], [1], [4])]
    settled(setup.clock)
    tokens: dict[int, set[str]] = {}
    for answer in answers:
        for assignment in answer.result:
            assert assignment.server == "b"
            tokens.setdefault(assignment.uid, set()).add(assignment.token)
    assert {uid: len(some) for uid, some in tokens.items()} == {1: 1, 2: 1, 3: 1, 4: 1}


async def test_a_server_that_has_just_come_is_found_before_somebody_is_refused(setup) -> None:
    with pytest.raises(NoServer):
        await setup.assign(1)
    await setup.lease("a")
    setup.clock.advance(0.2)
    assert (await setup.assign(1))[0].server == "a"


async def test_the_state_is_not_asked_for_every_refusal(setup) -> None:
    for uid in range(1, 101):
        with pytest.raises(NoServer):
            await setup.assign(uid)
    assert setup.state.snapshots == 1


# --- limits and failures ---


async def test_waiting_accounts_are_bounded(setup, monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 10)
    await setup.lease("a")
    setup.state.holding = True
    first = setup.placement.assign(range(1, 9))
    with pytest.raises(Unavailable, match="too many"):
        await setup.placement.assign([9, 10, 11])
    second = setup.placement.assign([9, 10])
    settled(setup.clock)
    while setup.state.held:
        setup.state.release()
        settled(setup.clock)
    assert len(first.result) == 8
    assert len(second.result) == 2
    setup.state.holding = False
    assert len(await setup.assign(*range(1, 11))) == 10


@pytest.mark.parametrize("fresh", [True, False])
async def test_a_state_that_does_not_answer_makes_requests_fail_in_time(setup, fresh) -> None:
    await setup.lease("a")
    if fresh:
        await setup.placement.refresh()
    setup.state.holding = True
    answer = setup.placement.assign([1])
    settled(setup.clock)
    setup.clock.advance(DEADLINE - 0.1)
    assert not answer.called
    setup.clock.advance(0.2)
    with pytest.raises(Unavailable):
        await answer
    setup.state.holding = False
    assert (await setup.assign(1))[0].server == "a"


@pytest.mark.parametrize("fresh", [True, False])
async def test_a_state_that_is_away_makes_requests_fail_each_with_an_error_of_its_own(setup, fresh) -> None:
    await setup.lease("a", "b")
    if fresh:
        await setup.placement.refresh()
    setup.state.problem = Unavailable("the shared state is away")
    answers = [setup.placement.assign([uid]) for uid in (1, 2, 3)]
    settled(setup.clock)
    raised = []
    for answer in answers:
        with pytest.raises(Unavailable, match="away") as error:
            await answer
        raised.append(error.value)
    assert len(set(map(id, raised))) == 3
    setup.state.problem = None
    answer = setup.placement.assign(range(1, 11))
    settled(setup.clock)
    # What was not recorded left no load behind (but the state may have recorded 1, 2 and 3).
    assert sum(setup.answers(answer).values()) == 10
    assert not setup.placement._unanswered


@pytest.mark.parametrize("fresh", [True, False])
async def test_a_bug_in_the_state_is_logged_and_leaves_nobody_waiting(setup, fresh, flush_logged_errors) -> None:
    await setup.lease("a")
    if fresh:
        await setup.placement.refresh()
    setup.state.problem = ZeroDivisionError("a bug")
    answer = setup.placement.assign([1])
    settled(setup.clock)
    with pytest.raises(Internal):
        await answer
    assert len(flush_logged_errors(ZeroDivisionError)) == 1
    setup.state.problem = None
    assert (await setup.assign(1))[0].server == "a"


async def test_stopping_answers_everybody(setup) -> None:
    await setup.lease("a")
    await setup.placement.refresh()
    setup.state.holding = True
    recording = setup.placement.assign([1])
    settled(setup.clock)
    waiting = setup.placement.assign([2])
    await setup.placement.stop()
    for answer in (recording, waiting, setup.placement.assign([3])):
        with pytest.raises(Unavailable, match="stopping"):
            await answer
    assert setup.clock.getDelayedCalls() == []


async def test_stopping_while_the_loads_are_read_answers_everybody(setup) -> None:
    setup.state.holding = True
    reading = setup.placement.assign([1])
    settled(setup.clock)
    await setup.placement.stop()
    with pytest.raises(Unavailable, match="stopping"):
        await reading
    assert setup.clock.getDelayedCalls() == []


async def test_who_no_longer_waits_disturbs_nobody(setup) -> None:
    await setup.lease("a")
    gone, stays = setup.placement.assign([1]), setup.placement.assign([2])
    gone.addErrback(lambda failure: None)
    gone.cancel()
    settled(setup.clock)
    assert setup.answers(stays) == {"a": 1}
    assert setup.placement._accounts == 0


# --- balancers ---


@implementer(IBalancer)
class Inventive:
    name = "inventive"

    def choose(self, uid, nodes):
        return module.Node("of its own", "h", 1)


@implementer(IBalancer)
class Broken:
    name = "broken"

    def choose(self, uid, nodes):
        raise ZeroDivisionError("a bug")


@pytest.mark.parametrize(("balancer", "error"), [(Inventive(), LookupError), (Broken(), ZeroDivisionError)])
async def test_a_wrong_balancer_is_logged_once_a_batch_and_hurts_only_its_users(
    balancer, error, flush_logged_errors
) -> None:
    setup = Setup(balancer)
    await setup.lease("a")
    answers = [setup.placement.assign([uid]) for uid in range(1, 6)]
    settled(setup.clock)
    for answer in answers:
        with pytest.raises(Internal):
            await answer
    assert len(flush_logged_errors(error)) == 1
    assert (await setup.state.snapshot()).reserved == {}
    setup.placement.balancer = First()
    assert (await setup.assign(1))[0].server == "a"
