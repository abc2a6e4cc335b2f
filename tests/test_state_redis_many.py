"""Much in the shared state at once: parts, bounds, and nothing that is left behind."""

from __future__ import annotations

import random

import pytest
from redis_parts import admin, claims, lease, new_prefix, started
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from flux.errors import Unavailable
from flux.model.placement import Choice
from flux.model.sessions import Route


@pytest.fixture
def prefix() -> str:
    return new_prefix()


async def test_a_heartbeat_with_more_routes_than_a_part(redis_server, prefix) -> None:
    async with started(redis_server.url, prefix) as (state, _):
        routes = [(uid, 5) for uid in range(1, 10_001)]
        await state.renew(lease("b"), [])
        await state.claim(9_999, Route("b", 1, 6), True)
        await state.claim(10_000, Route("b", 1, 4), True)
        assert (await state.renew(lease("a", 1), routes)).lost == (9_999,)
        found = await state.routes([uid for uid, _ in routes])
        assert found.pop(9_999) == Route("b", 1, 6)
        assert set(found.values()) == {Route("a", 1, 5)}
        assert len(found) == 9_999
        assert (await state.renew(lease("a", 2), [])).lost == ()
        renewal = await state.renew(lease("a", 1), routes)
        assert (renewal.superseded, renewal.lost) == (True, ())


async def test_redis_serves_others_while_many_are_looked_up(redis_server, prefix) -> None:
    async with started(redis_server.url, prefix) as (state, _):
        uids = range(1, 10_001)
        await state.renew(lease("a"), [(uid, 5) for uid in uids if uid % 2])
        await state.assign([Choice(uid, "a", b"x") for uid in (1, 4_001, 10_000)], 60, 60)
        wanted = {
            state.routes: {uid: Route("a", 1, 5) for uid in uids if uid % 2},
            state.reserved: {1: "a", 4_001: "a", 10_000: "a"},
        }
        for look_up, found in wanted.items():
            many, one = Deferred.fromCoroutine(look_up(uids)), Deferred.fromCoroutine(look_up([1]))
            assert set(await one) == {1}
            assert not many.called
            assert await many == found
            assert await look_up([]) == {}


async def test_routes_of_dead_nodes_do_not_pile_up(redis_server, prefix) -> None:
    async with started(redis_server.url, prefix) as (state, _), admin(redis_server) as root:
        await state.renew(lease("dead"), [(uid, 1) for uid in range(1, 3_001)])
        await state.renew(lease("alive"), [(uid, 1) for uid in range(4_001, 5_001)])
        await state.retire("dead", 1)
        for _ in range(60):
            await state.renew(lease("alive"), [])
            if await root.command("HLEN", f"{prefix}routes") == 1_000:
                break
        assert await root.command("HLEN", f"{prefix}routes") == 1_000
        assert len(await state.routes(range(1, 5_001))) == 1_000


async def test_routes_that_a_node_does_not_name_are_shown_to_it(redis_server, prefix) -> None:
    async with started(redis_server.url, prefix) as (state, _):
        await state.renew(lease("a"), [(uid, 1) for uid in range(1, 3_001)])
        await state.renew(lease("b"), [(uid, 1) for uid in range(4_001, 4_101)])
        kept = [(uid, 1) for uid in range(11, 3_001)]
        strays: set[tuple[int, int]] = set()
        for _ in range(30):
            strays.update((await state.renew(lease("a"), kept)).strays)
            assert (await state.renew(lease("b"), [(uid, 1) for uid in range(4_001, 4_101)])).strays == ()
        assert strays == {(uid, 1) for uid in range(1, 11)}


async def test_identifiers_of_any_size(redis_server, prefix) -> None:
    async with started(redis_server.url, prefix) as (state, _):
        await state.renew(lease(), [])
        big = [2**63 - 1, 2**63 - 2, 2**53 + 1, 2**53]
        for uid in big:
            await state.assign([Choice(uid, "a", b"%d" % uid)], 60, 60)
            assert (await state.claim(uid, Route("a", 1, 2**52 + 1), True)).won
        assert await state.routes(big) == {uid: Route("a", 1, 2**52 + 1) for uid in big}
        assert [await state.token_digest(uid) for uid in big] == [b"%d" % uid for uid in big]
        assert (await state.renew(lease(), [(uid, 2**52) for uid in big])).lost == tuple(big)


async def test_random_reservations_leave_nothing_behind(redis_server, prefix) -> None:
    """Whatever was assigned, logged in, lapsed and assigned again: in the end no key is left of it."""
    rng = random.Random(7)
    async with started(redis_server.url, prefix) as (state, _), admin(redis_server) as root:
        for _ in range(200):
            uids = rng.sample(range(1, 30), 5)
            choices = [Choice(uid, rng.choice("abc"), b"d") for uid in uids]
            snapshot = await state.assign(choices, rng.choice((0.001, 30)), 0.001)
            assert sum(snapshot.reserved.values()) <= 29
            if rng.random() < 0.5:
                await state.claim(rng.choice(uids), Route("a", 1, 1), True)
            if rng.random() < 0.3:
                await state.renew(lease(rng.choice("abc")), [])
        await state.assign([Choice(uid, "a", b"d") for uid in range(1, 30)], 0.001, 0.001)
        while (await state.snapshot()).reserved:
            """They lapse."""
        left = {key.decode().removeprefix(prefix) for key in await root.command("KEYS", f"{prefix}*")}
        left = {key for key in left if not key.startswith("token:")}
        assert left <= {"boots", "leases", "nodes", "routes", "routes:looked", "since"}


async def test_failure_counters_are_bounded_and_the_fresh_ones_stay(redis_server, prefix, monkeypatch) -> None:
    from flux.backends.redis import state as module

    monkeypatch.setattr(module, "MOST_COUNTERS", 100)
    async with started(redis_server.url, prefix) as (state, _), admin(redis_server) as root:
        for attempt in range(0, 1000, 10):
            await state.fail([f"guess {attempt + each}" for each in range(10)], 600 + attempt)
        assert await root.command("HLEN", f"{prefix}failures") == 100
        counted = [count for count, _ in await state.failures([f"guess {attempt}" for attempt in range(1000)])]
        assert counted == [0] * 900 + [1] * 100
        # What is counted are digests: people type their passwords where their names belong.
        keys = await root.command("HKEYS", f"{prefix}failures")
        assert not any(b"guess" in key for key in keys)


async def test_too_many_who_wait_fail_at_once(redis_server, prefix, monkeypatch) -> None:
    from flux.backends.redis import gather

    monkeypatch.setattr(gather, "MOST_WAITING", 50)
    monkeypatch.setattr(gather, "BATCH", 10)
    async with started(redis_server.url, prefix) as (state, _):
        await state.renew(lease(), [])
        outcomes = [result for _, result in await claims(state, range(1, 101))]
        # The first is under way alone, then fifty wait.
        assert [isinstance(result, Failure) for result in outcomes] == [False] * 51 + [True] * 49
        assert outcomes[60].check(Unavailable)
        assert len(await state.routes(range(1, 101))) == 51
