"""How calls reach the threads of a store and come back: order, bounds, deadlines, stopping, bugs."""

from __future__ import annotations

import threading

import pytest
import pytest_twisted
from store_contract_people import together
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from flux.backends.sqlite.lanes import Lane
from flux.errors import NotFound, Unavailable


class Recorder:
    """A runner that notes what was run together."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.done: list[int] = []
        self.rests = 0
        self.closed = False

    def run(self, calls) -> None:
        self.batches.append([])
        for call in calls:
            try:
                call.value = call.work(self)
            except NotFound as error:
                call.error = error

    def rest(self) -> None:
        self.rests += 1

    def close(self) -> None:
        self.closed = True

    def add(self, number: int) -> int:
        self.batches[-1].append(number)
        self.done.append(number)
        return number


class Gate:
    """Work that holds a thread up until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    async def holds(self) -> None:
        """Wait until a thread is held up."""
        await deferToThread(self.entered.wait, 60)
        assert self.entered.is_set()

    def __call__(self, runner: Recorder) -> str:
        self.entered.set()
        assert self.open.wait(60)
        return "passed"


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open.set()


@pytest_twisted.async_yield_fixture
async def lane():
    """Makes started lanes with their runners, and stops them."""
    from twisted.internet import reactor

    lanes = []

    async def lane(bound: int = 100, deadline: float = 60.0, threads: int = 1, most: int = 100):
        runners = []

        def runner() -> Recorder:
            runners.append(Recorder())
            return runners[-1]

        made = Lane(reactor, "test", runner, bound=bound, deadline=deadline, threads=threads, most=most)
        await made.start()
        lanes.append(made)
        return made, runners

    yield lane
    for made in lanes:
        await made.stop()


async def test_what_waits_is_run_at_once_and_in_order(lane, gate) -> None:
    lane, [runner] = await lane()
    first = lane.call(gate)
    await gate.holds()
    calls = [lane.call(lambda runner, n=n: runner.add(n)) for n in range(50)]
    order = []
    for n, call in enumerate(calls):
        call.addCallback(lambda value, n=n: order.append((n, value)))
    gate.open.set()
    await together([first, *calls])
    assert runner.batches == [[], list(range(50))]
    assert order == [(n, n) for n in range(50)]
    assert runner.rests >= 1


async def test_the_thread_is_not_woken_before_the_turn_ends(gate) -> None:
    from twisted.internet import reactor

    clock = Clock()
    clock.callFromThread = reactor.callFromThread
    lane = Lane(clock, "test", Recorder, bound=2, deadline=60.0, most=2)
    await lane.start()
    calls = [lane.call(gate), lane.call(lambda runner: runner.add(1))]
    assert not gate.entered.wait(0.05)
    clock.advance(0)
    await gate.holds()
    gate.open.set()
    assert await together(calls) == ["passed", 1]
    await lane.stop()


async def test_a_batch_has_a_limit(lane, gate) -> None:
    lane, [runner] = await lane(most=8)
    first = lane.call(gate)
    await gate.holds()
    calls = [lane.call(lambda runner, n=n: runner.add(n)) for n in range(20)]
    gate.open.set()
    await together([first, *calls])
    assert list(map(len, runner.batches)) == [0, 8, 8, 4]


async def test_several_threads_share_the_work(lane) -> None:
    lane, runners = await lane(threads=2, most=1)
    gates = [Gate(), Gate()]
    held = [lane.call(gate) for gate in gates]
    for gate in gates:
        await gate.holds()
    waiting = lane.call(lambda runner: runner.add(1))
    gates[1].open.set()
    assert await waiting == 1
    gates[0].open.set()
    assert await together(held) == ["passed", "passed"]
    assert len(runners) == 2


async def test_a_refusal_is_the_callers_alone(lane) -> None:
    lane, _ = await lane()

    def refuse(runner: Recorder) -> None:
        raise NotFound("no such thing")

    calls = [lane.call(lambda runner: runner.add(1)), lane.call(refuse), lane.call(lambda runner: runner.add(2))]
    assert await calls[0] == 1
    with pytest.raises(NotFound, match="no such thing"):
        await calls[1]
    assert await calls[2] == 2


async def test_a_full_lane_refuses_at_once_and_takes_more_when_it_has_room(lane, gate) -> None:
    lane, [runner] = await lane(bound=5)
    accepted = [lane.call(gate), *(lane.call(lambda runner, n=n: runner.add(n)) for n in range(4))]
    for _ in range(3):
        refused = lane.call(lambda runner: runner.add(99))
        assert refused.called
        with pytest.raises(Unavailable, match="overloaded"):
            await refused
    gate.open.set()
    await together(accepted)
    assert await lane.call(lambda runner: runner.add(5)) == 5
    assert runner.done == [0, 1, 2, 3, 5]


async def test_a_call_fails_at_its_deadline_and_still_runs(lane, gate) -> None:
    lane, [runner] = await lane(deadline=0.05)
    held, waiting = lane.call(gate), lane.call(lambda runner: runner.add(1))
    for call in (held, waiting):
        with pytest.raises(Unavailable, match=r"did not answer within 0\.05 s"):
            await call
    gate.open.set()
    await lane.stop()
    assert runner.done == [1]


async def test_who_calls_again_after_its_deadline_does_not_put_off_the_others(gate) -> None:
    from twisted.internet import reactor

    clock = Clock()
    clock.callFromThread = reactor.callFromThread
    lane = Lane(clock, "test", Recorder, bound=9, deadline=10.0, most=9)
    await lane.start()
    failed: list[tuple[str, float]] = []

    def call(name: str) -> Deferred[object]:
        return lane.call(gate).addErrback(lambda failure: failed.append((name, clock.seconds())))

    again = call("first").addCallback(lambda _: call("again"))
    clock.advance(1)
    call("second")
    for _ in range(30):
        clock.advance(1)
    gate.open.set()
    await again
    await lane.stop()
    assert failed == [("first", 10.0), ("second", 11.0), ("again", 20.0)]


async def test_a_call_that_ran_out_still_takes_room(lane, gate) -> None:
    lane, _ = await lane(deadline=0.05, bound=2)
    calls = [lane.call(gate), lane.call(lambda runner: runner.add(1))]
    for call in calls:
        with pytest.raises(Unavailable):
            await call
    with pytest.raises(Unavailable, match="overloaded"):
        await lane.call(lambda runner: runner.add(2))


async def test_who_stops_waiting_stops_nothing(lane, gate) -> None:
    lane, [runner] = await lane()
    calls = [lane.call(gate), lane.call(lambda runner: runner.add(1)), lane.call(lambda runner: runner.add(2))]
    calls[1].cancel()
    with pytest.raises(CancelledError):
        await calls[1]
    gate.open.set()
    assert await calls[2] == 2
    assert runner.done == [1, 2]


async def test_stopping_finishes_what_was_accepted(lane, gate) -> None:
    lane, runners = await lane(threads=2)
    calls = [lane.call(gate), *(lane.call(lambda runner, n=n: runner.add(n)) for n in range(30))]
    stopped = Deferred.fromCoroutine(lane.stop())
    with pytest.raises(Unavailable, match="closed"):
        await lane.call(lambda runner: runner.add(99))
    gate.open.set()
    await stopped
    assert all(call.called for call in calls)
    assert sorted(n for runner in runners for n in runner.done) == list(range(30))
    assert all(runner.closed for runner in runners)
    await lane.stop()


async def test_a_lane_whose_runner_cannot_be_made_does_not_start() -> None:
    from twisted.internet import reactor

    made = []

    def runner() -> Recorder:
        if made:
            raise Unavailable("no second one")
        made.append(Recorder())
        return made[0]

    lane = Lane(reactor, "test", runner, bound=1, deadline=1.0, threads=2, most=1)
    with pytest.raises(Unavailable, match="no second one"):
        await lane.start()
    assert made[0].closed
    with pytest.raises(Unavailable, match="closed"):
        await lane.call(lambda runner: None)


async def test_a_bug_in_a_runner_leaves_nobody_without_an_answer(lane) -> None:
    lane, _ = await lane()

    def bug(runner: Recorder) -> None:
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await lane.call(bug)
    assert await lane.call(lambda runner: runner.add(1)) == 1
