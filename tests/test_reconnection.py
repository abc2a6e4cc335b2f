"""How connections to PostgreSQL and Redis are made again: pauses that grow, and differ from one process to another.

On a clock, with servers that only seem to be.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from status_parts import texts
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from flux.backends.postgres import pool as postgres_pool
from flux.backends.postgres.dsn import Dsn
from flux.backends.postgres.gathering import Gathering
from flux.backends.postgres.pool import Pool
from flux.backends.redis.dial import Server
from flux.backends.redis.link import Link
from flux.errors import Unavailable


class World:
    """A server that takes connections while it is ``up``, and when somebody tried to connect."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.up = True
        self.tries: list[float] = []
        self.connections: list[Any] = []

    def attempt(self, connection: Any) -> Any:
        self.tries.append(self.clock.seconds())
        if not self.up:
            raise Unavailable("nobody listens there")
        self.connections.append(connection)
        return connection

    def pauses(self, count: int) -> list[float]:
        """The server is away: so long it takes from the loss of the connection to the first attempt, and so on."""
        self.up = False
        self.tries = [self.clock.seconds()]
        self.connections[-1].lose()
        while len(self.tries) <= count:
            due = min(call.getTime() for call in self.clock.getDelayedCalls())
            self.clock.advance(due - self.clock.seconds())
        return [later - earlier for earlier, later in zip(self.tries, self.tries[1:], strict=False)]

    def comes_back(self) -> None:
        """And the connection is there again."""
        self.up = True
        there = len(self.connections)
        while len(self.connections) == there:
            self.clock.advance(1.0)


class PostgresLink:
    """A connection on which no statement ends before it is closed."""

    def __init__(self, lost: Any) -> None:
        self._tell = lost
        self._running: list[Deferred[Any]] = []
        self.closed = False

    def run(self, statement: str, values: object = ()) -> Deferred[Any]:
        self._running.append(Deferred())
        return self._running[-1]

    def lose(self) -> None:
        self.abandon("it was cut")

    def abandon(self, reason: str) -> None:
        self._tell(self, reason)
        self.close()

    def close(self) -> None:
        self.closed = True
        for running in self._running:
            running.errback(Unavailable("the connection to the database was lost"))
        self._running.clear()


def postgres(world: World, monkeypatch: pytest.MonkeyPatch, seed: int, size: int = 1) -> Pool:
    """A pool with a deadline of 10 s."""

    async def connect(dsn: Dsn, reactor: Any, prepare: Any, lost: Any) -> Any:
        return world.attempt(PostgresLink(lost))

    async def prepare(run: Any) -> None:
        raise AssertionError("there is nothing to set up")

    monkeypatch.setattr(postgres_pool, "connect", connect)
    dsn = Dsn("postgresql://flux@localhost/flux")
    return Pool(dsn, world.clock, prepare, size=size, bound=100, deadline=10.0, rng=random.Random(seed))


class RedisConnection:
    """A connection that is there until it is lost."""

    where = "localhost:6379"
    reason = "it was cut"

    def __init__(self) -> None:
        self.lost: Deferred[None] = Deferred()
        self.alive = True

    def lose(self) -> None:
        self.alive = False
        self.lost.callback(None)

    def close(self, reason: str) -> None:
        self.alive = False


def redis(world: World, monkeypatch: pytest.MonkeyPatch, seed: int) -> Link:
    class Dialer:
        async def connect(self) -> tuple[Any, Server]:
            return world.attempt(RedisConnection()), Server()

    # It only has to connect, as the world decides.
    return Link(Dialer(), world.clock, "commands", rng=random.Random(seed))  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [postgres, redis])
async def test_connections_are_made_again_after_growing_pauses_of_chance(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for seed in (1, 2):
        world = World()
        link = make(world, monkeypatch, seed)
        await link.start()
        for _ in range(2):
            pauses = world.pauses(12)
            ceilings = [min(0.1 * 2**attempt, 2.0) for attempt in range(12)]
            for pause, ceiling in zip(pauses, ceilings, strict=True):
                assert ceiling / 2 <= pause <= ceiling
            # No two are the same, of one process or of two.
            found += pauses
            world.comes_back()
        await link.stop()
        assert world.clock.getDelayedCalls() == []
    assert len(set(found)) == len(found)


# --- calls that are gathered, on such a pool ---------------------------------


def gathered(pool: Pool, world: World, ran: list[list[str]]) -> Gathering[str, Any]:
    """Of which one batch runs at a time, which notes in ``ran`` what it has and then waits."""

    async def work(run: Any, arguments: Any) -> Any:
        ran.append(arguments)
        return await run("SELECT")

    return Gathering(pool, world.clock, work, most=10, at_once=1, bound=10)


async def test_gathered_calls_have_a_deadline_each_whether_they_run_or_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    world, ran = World(), []
    pool = postgres(world, monkeypatch, 1, size=2)
    await pool.start()
    gathering = gathered(pool, world, ran)
    first = gathering.call("first")
    world.clock.advance(4.0)
    second = gathering.call("second")
    ended: dict[str, float] = {}
    for name, call in (("first", first), ("second", second)):
        call.addErrback(_note, ended, name, world.clock)
    world.clock.pump([0.5] * 30)
    # The second one waited for the first, and had no more than the rest of its time then.
    assert ran == [["first"], ["second"]]
    assert ended == {"first": 10.0, "second": 14.0}
    await pool.stop()


async def test_what_gathered_calls_share_is_given_up_after_half_of_their_time_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, ran = World(), []
    pool = postgres(world, monkeypatch, 1, size=3)
    await pool.start()
    gathering = gathered(pool, world, ran)
    first = gathering.call("first")
    ended: dict[str, float] = {}
    for name in ("one", "other"):
        gathering.call(name).addErrback(_note, ended, name, world.clock)
    [running] = [link for link in world.connections if link._running]
    running._running.pop().callback(["done"])
    assert await first == "done"
    with capturedLogs() as logged:
        world.clock.advance(5.0)
    assert texts(logged) == ["connections to the database are lost: a call took longer than 5 s"]
    world.clock.advance(5.0)
    assert ran == [["first"], ["one", "other"], ["one"], ["other"]]
    # Who asked has waited for all of it.
    assert ended == {"one": 10.0, "other": 10.0}
    await pool.stop()


def _note(failure: Any, ended: dict[str, float], name: str, clock: Clock) -> None:
    failure.trap(Unavailable)
    assert failure.value.detail == "the database did not answer within 10 s"
    ended[name] = clock.seconds()
