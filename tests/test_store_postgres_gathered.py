"""One call that takes too long, and the others that share its statement, its connection or its tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import pytest_twisted
from postgres_database import Database
from store_contract_people import people, together
from twisted.internet.task import deferLater

from flux.backends.postgres import PostgresStore, cursors
from flux.backends.postgres.arrays import integers
from flux.backends.postgres.connection import Prepared, Run
from flux.backends.postgres.gathering import Gathering
from flux.bench.engines import PostgresServer
from flux.errors import FluxError, Unavailable

CULPRIT = 13


@pytest_twisted.async_yield_fixture
async def store(quick_postgres: PostgresServer):
    from twisted.internet import reactor

    store = PostgresStore(quick_postgres.dsn, reactor, pool=3, require_fsync=False, deadline=2.0)
    await store.start()
    yield store
    await store.stop()


async def asleep(run: Run, seconds: float) -> str:
    await run("SELECT pg_sleep(%s)::text", (seconds,))
    return "awake"


async def test_what_waits_is_not_run_on_a_connection_that_is_being_given_up(store: PostgresStore) -> None:
    """It gets the next one, though no time passes between the end of the statement and that of the connection."""
    from twisted.internet import reactor

    now = reactor.seconds()  # type: ignore[attr-defined] - Twisted's is a module
    # The third connection is kept for calls in order.
    late, slow = (store._pool.call_until(now + seconds, asleep, 60) for seconds in (0.1, 1.5))
    waiting = store._pool.call(asleep, 0)
    with pytest.raises(Unavailable, match="did not answer"):
        await late
    assert await waiting == "awake"
    assert not slow.called
    assert isinstance(await outcome(slow), Unavailable)


async def test_what_a_login_reads_is_its_own_whatever_the_statistics_say(quick_postgres: PostgresServer) -> None:
    """Where one account is in nearly all groups, going through those and looking for the account seems as good."""
    from twisted.internet import reactor

    database = Database(quick_postgres.create_database("skewed"))
    store = PostgresStore(database.dsn, reactor, pool=1, require_fsync=False)
    await store.start()
    ann, bob = await people(store, "ann", "bob")
    database.query(
        "WITH c AS (INSERT INTO chats SELECT FROM generate_series(1, 3000) RETURNING id),"
        " g AS (INSERT INTO groups SELECT id, 'g', '', false, false FROM c)"
        " INSERT INTO members SELECT %s, id, 1, 0, 0, 'member' FROM c",
        ann,
    )
    database.query("ANALYZE")
    [plan] = await store._pool.call(explained, cursors.OVERVIEWS, (integers([bob]),))
    await store.stop()
    database.close()
    assert [rows_read(plan["Plan"], name) for name in ("members", "groups", "chats")] == [0, 0, 0]


async def explained(run: Run, statement: Prepared, values: Sequence[object]) -> list[Any]:
    await run(statement, values)
    [[plan]] = await run(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.call}", values)
    return plan


def rows_read(plan: dict[str, Any], table: str) -> int:
    """How many rows of a table the parts of a plan have read."""
    here = plan["Actual Rows"] * plan["Actual Loops"] if plan.get("Relation Name") == table else 0
    return here + sum(rows_read(part, table) for part in plan.get("Plans", ()))


class Doubling:
    """Doubles numbers, all but one, which sleeps."""

    def __init__(self, store: PostgresStore) -> None:
        from twisted.internet import reactor

        self.asked: list[list[int]] = []
        self.gathering: Gathering[int, int] = Gathering(
            store._pool,
            reactor,
            self._work,
            most=50,
            at_once=1,
            # Of the reactor, which mypy takes for a module.
            bound=100,  # type: ignore[arg-type]
        )

    async def _work(self, run: Run, numbers: Sequence[int]) -> list[int | FluxError]:
        self.asked.append(list(numbers))
        await run("SELECT pg_sleep(%s)::text", (60 if CULPRIT in numbers else 0,))
        return [2 * number for number in numbers]


async def outcome(call: Any) -> Any:
    try:
        return await call
    except FluxError as error:
        return error


async def test_only_the_call_fails_that_takes_too_long(store: PostgresStore) -> None:
    doubling = Doubling(store)
    first = doubling.gathering.call(0)
    others = [doubling.gathering.call(number) for number in range(1, 31)]
    assert await first == 0
    outcomes = await together(map(outcome, others))
    assert isinstance(outcomes.pop(CULPRIT - 1), Unavailable)
    assert outcomes == [2 * number for number in range(1, 31) if number != CULPRIT]
    # By itself once, and no more.
    assert doubling.asked[:2] == [[0], list(range(1, 31))]
    assert sorted(doubling.asked[2:]) == [[number] for number in range(1, 31)]


async def test_what_gathers_meanwhile_does_not_wait_for_it(store: PostgresStore) -> None:
    doubling = Doubling(store)
    first = doubling.gathering.call(0)
    others = [doubling.gathering.call(number) for number in (1, CULPRIT)]
    await first
    later = [doubling.gathering.call(number) for number in (2, 3)]
    assert await together([others[0], *later]) == [2, 4, 6]
    assert not others[1].called
    with pytest.raises(Unavailable, match=r"did not answer within 2 s"):
        await others[1]


async def test_what_fails_otherwise_is_not_repeated(store: PostgresStore) -> None:
    from twisted.internet import reactor

    doubling = Doubling(store)
    calls = [doubling.gathering.call(number) for number in (0, 1, CULPRIT)]
    await calls[0]
    while len(doubling.asked) < 2:
        await deferLater(reactor, 0)  # type: ignore[arg-type]
    for link in tuple(store._pool._links):
        link.abandon("cut")
    outcomes = await together(map(outcome, calls[1:]))
    assert [type(found) for found in outcomes] == [Unavailable, Unavailable]
    assert doubling.asked == [[0], [1, CULPRIT]]
