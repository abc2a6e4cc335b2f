"""Redis that goes away, forgets, refuses or says nothing: calls fail in time, and work again by themselves."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import pytest_twisted
from bus_contract import Recorder, kick
from redis_parts import Proxy, admin, answers, claims, lease, new_prefix, outcome, started, until, url_of
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import LogLevel, capturedLogs, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from flux.backends.redis import bus as bus_module
from flux.backends.redis import connection, dial
from flux.bench.engines import RedisServer
from flux.errors import Unavailable
from flux.lifecycle import turn
from flux.model.bus import Kick, Notify
from flux.model.events import Presence
from flux.model.sessions import Route


@pytest.fixture
def prefix() -> str:
    return new_prefix()


@pytest.fixture
def own_server(tmp_path: Path):
    """A Redis that a test may kill."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def impatient(monkeypatch) -> None:
    """A tenth of the time until an answer is not waited for any more."""
    monkeypatch.setattr(connection, "LOOK", connection.LOOK / 10)


@pytest_twisted.async_yield_fixture
async def proxy(redis_server):
    proxy = Proxy(redis_server.port)
    yield proxy
    await proxy.stop()


@pytest.fixture
def warnings():
    """What is logged as a warning."""
    events = []
    observer = lambda event: event["log_level"] is LogLevel.warn and events.append(event)  # noqa: E731
    globalLogPublisher.addObserver(observer)
    yield events
    globalLogPublisher.removeObserver(observer)


@contextmanager
def refused(why: str) -> Iterator[None]:
    """Something fails because Redis refuses it: admins are told why, clients are not."""
    with pytest.raises(Unavailable) as caught:
        yield
    assert caught.value.detail == "the shared state could not do it"
    assert why in caught.value.reason


def lost(warnings) -> list[str]:
    """Which connections were lost, in order."""
    return [event["what"] for event in warnings if "is lost" in event["log_format"]]


# --- scripts -----------------------------------------------------------------


async def test_scripts_that_redis_forgot_are_sent_again(redis_server, prefix) -> None:
    async with started(redis_server.url, prefix) as (state, _), admin(redis_server) as root:
        await state.renew(lease(), [])
        for number in range(1, 4):
            await root.command("SCRIPT", "FLUSH")
            order = [Deferred.fromCoroutine(state.claim(uid, Route("a", 1, number), True)) for uid in range(1, 100)] + [
                Deferred.fromCoroutine(state.release(uid, Route("a", 1, number))) for uid in range(1, 50)
            ]
            for done in order:
                await done
            assert set(await state.routes(range(1, 100))) == set(range(50, 100))


async def test_an_error_that_nobody_foresaw_is_unavailable(redis_server, prefix) -> None:
    async with started(redis_server.url, prefix) as (state, _), admin(redis_server) as root:
        await root.command("SET", f"{prefix}routes", "not a hash")
        with refused("WRONGTYPE"):
            await state.routes([1])
        for problem in await claims(state, (1, 2)):
            assert isinstance(problem[1], Failure)
            problem[1].trap(Unavailable)


# --- away --------------------------------------------------------------------


async def test_a_server_killed_under_load_and_back(own_server, prefix, warnings) -> None:
    from twisted.internet import reactor

    async with started(own_server.url, prefix) as (state, bus):
        await state.renew(lease(), [])
        sink = Recorder()
        await bus.listen("a", 1, sink)
        assert bus.connected
        waiting = claims(state, range(1, 2_000))
        own_server.kill()
        for good, result in await waiting:
            assert good or result.check(Unavailable)
        # The last one is told of while its batch still counts as being under way.
        await turn(reactor)
        await until(lambda: len(lost(warnings)) == 2)
        assert not bus.connected
        # Nothing waits for it to come back.
        for call in (
            state.snapshot(), state.claim(1, Route("a", 1, 2), True), state.token_digest(1), state.renew(lease(), []),
            state.fail(["k"], 1), state.revoke(1), bus.publish("a", 1, kick(1)), bus.broadcast(kick(1)),
            bus.multicast([Notify(Presence(1, True), (2,))]),
            bus.listen("b", 1, Recorder()),
        ):  # fmt: skip
            problem = outcome(call)
            assert isinstance(problem, Unavailable), problem
            # Clients read this.
            assert "127.0.0.1" not in problem.detail
        problem = outcome(state.snapshot())
        assert problem.detail == "the shared state is away"
        assert "Redis at 127.0.0.1" in problem.reason
        own_server.start()
        await answers(state)
        await until(lambda: bus.connected)
        assert sink.seen.count("gap") >= 2
        assert (await state.renew(lease(), [(1, 1)])).lost == ()
        await bus.publish("a", 1, kick(2))
        await until(lambda: sink.events == [kick(2)])
    assert sorted(lost(warnings)) == ["commands", "the bus"]


async def test_connections_killed_under_load(redis_server, prefix) -> None:
    async with started(redis_server.url, prefix) as (state, bus), admin(redis_server) as root:
        await state.renew(lease(), [])
        sink = Recorder()
        await bus.listen("a", 1, sink)
        outcomes = []
        for start in range(0, 5_000, 100):
            waiting = claims(state, range(start + 1, start + 101))
            if start % 1_000 == 0:
                await root.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            outcomes += await waiting
            await answers(state)
        assert len(outcomes) == 5_000
        assert all(good or result.check(Unavailable) for good, result in outcomes)
        won = [uid for uid, (good, _) in enumerate(outcomes, 1) if good]
        assert len(won) > 2_500
        assert set(won) <= set(await state.routes(range(1, 5_001)))
        # The subscription stood all the time; each time the commands were back it was told to look.
        assert 2 <= sink.seen.count("gap") <= 6


async def test_a_killed_subscription_is_made_again_and_tells_of_the_gap(redis_server, prefix) -> None:
    async with started(redis_server.url, prefix) as (_, bus), admin(redis_server) as root:
        sink, other = Recorder(), Recorder()
        await bus.listen("a", 1, sink)
        await bus.listen("b", 2, other)
        assert (sink.seen, other.seen) == (["gap"], ["gap"])
        for _ in range(3):
            sink.seen.clear()
            other.seen.clear()
            assert await root.command("CLIENT", "KILL", "TYPE", "pubsub") == 1
            await until(lambda: not bus.connected)
            await until(lambda: bus.connected)
            assert (sink.seen, other.seen) == (["gap"], ["gap"])
            await bus.publish("a", 1, kick(1))
            await bus.publish("b", 2, kick(2))
            await bus.broadcast(kick(3))
            await until(lambda: len(other.events) == 2)
            assert (sink.seen, other.seen) == (["gap", kick(1), kick(3)], ["gap", kick(2), kick(3)])


async def test_a_link_that_swallows_is_noticed_and_left(redis_server, prefix, proxy, impatient, warnings) -> None:
    async with started(url_of(redis_server, port=proxy.port), prefix) as (state, bus):
        await state.renew(lease(), [])
        sink = Recorder()
        await bus.listen("a", 1, sink)
        proxy.swallow()
        outcomes = await claims(state, range(1, 1_001))
        assert all(result.check(Unavailable) for _, result in outcomes)
        await until(lambda: sorted(lost(warnings)) == ["commands", "the bus"])
        assert "has not answered" in outcome(state.snapshot()).reason
        proxy.heal()
        await until(lambda: bus.connected)
        assert sink.seen == ["gap"] * len(sink.seen)
        assert len(sink.seen) >= 2
        await state.snapshot()
        await bus.publish("a", 1, kick(1))
        await until(lambda: sink.events)


async def test_a_dead_link_is_noticed_though_nobody_asks_anything(redis_server, prefix, proxy, impatient) -> None:
    async with started(url_of(redis_server, port=proxy.port), prefix) as (_, bus):
        sink = Recorder()
        await bus.listen("a", 1, sink)
        # For some time nothing happens, which is no reason to give a good connection up.
        async with admin(redis_server) as root:
            await until_pinged(root)
        assert bus.connected
        assert sink.seen == ["gap"]
        proxy.swallow()
        await until(lambda: not bus.connected)
        proxy.heal()
        await until(lambda: bus.connected)
        assert sink.seen[-1] == "gap"


async def until_pinged(root) -> None:
    async def pings() -> int:
        stats = (await root.command("INFO", "commandstats")).decode()
        return int(stats.partition("cmdstat_ping:calls=")[2].partition(",")[0] or 0)

    before = await pings()
    while await pings() < before + 6:
        pass


async def test_a_server_that_stands_still(own_server, prefix, impatient) -> None:
    async with started(own_server.url, prefix) as (state, _):
        await state.renew(lease(), [(1, 1)])
        os.kill(own_server.process.pid, signal.SIGSTOP)
        with pytest.raises(Unavailable):
            await state.snapshot()
        os.kill(own_server.process.pid, signal.SIGCONT)
        await answers(state)
        assert await state.routes([1]) == {1: Route("a", 1, 1)}


async def test_a_cut_link(redis_server, prefix, proxy) -> None:
    async with started(url_of(redis_server, port=proxy.port), prefix) as (state, bus):
        proxy.cut()
        await until(lambda: not bus.connected)
        with suppress(Unavailable):
            await state.snapshot()
        proxy.heal()
        await answers(state)


async def test_stopping_while_it_connects(own_server, prefix, warnings, monkeypatch) -> None:
    connecting = []

    class NobodyAnswers:
        def __init__(self, *arguments, **options) -> None:
            """As any endpoint."""

        def connect(self, factory) -> Deferred[None]:
            connecting.append(Deferred())
            return connecting[-1]

    async with started(own_server.url, prefix) as (_, bus):
        await bus.listen("a", 1, Recorder())
        monkeypatch.setattr(dial, "HostnameEndpoint", NobodyAnswers)
        own_server.kill()
        await until(lambda: len(connecting) == 2)
    assert all(waiting.called for waiting in connecting)


async def test_too_many_commands_fail_at_once(redis_server, prefix, proxy, impatient, monkeypatch) -> None:
    monkeypatch.setattr(connection, "MOST_UNANSWERED", 10)
    async with started(url_of(redis_server, port=proxy.port), prefix) as (state, _):
        proxy.swallow()
        asked = [Deferred.fromCoroutine(state.snapshot()) for _ in range(20)]
        assert [waiting.called for waiting in asked] == [False] * 10 + [True] * 10
        for good, result in await DeferredList(asked, consumeErrors=True):
            assert not good
            assert result.check(Unavailable)


# --- emptied, full, read-only ------------------------------------------------


async def test_an_emptied_redis_is_filled_by_the_heartbeats(redis_server, prefix) -> None:
    async with started(redis_server.url, prefix) as (state, _), admin(redis_server) as root:
        await state.renew(lease("a"), [(1, 1), (2, 1)])
        await state.renew(lease("b"), [(3, 1)])
        since = (await state.snapshot()).since
        await root.command("FLUSHALL")
        assert await state.routes([1, 2, 3]) == {}
        assert (await state.snapshot()).nodes == ()
        # It is seen whenever somebody looks, whoever has written meanwhile.
        assert (await state.snapshot()).since not in ("", since)
        await state.renew(lease("a"), [(1, 1), (2, 1)])
        await state.renew(lease("b"), [(3, 1)])
        assert set(await state.routes([1, 2, 3])) == {1, 2, 3}


async def test_a_full_redis(own_server, prefix) -> None:
    async with started(own_server.url, prefix) as (state, bus), admin(own_server) as root:
        await state.renew(lease(), [(1, 1)])
        await root.command("CONFIG", "SET", "maxmemory", "1")
        with refused("it is full: more memory is needed"), capturedLogs() as logged:
            await state.claim(2, Route("a", 1, 1), True)
        with refused("it is full"), capturedLogs() as again:
            await state.set_code("k", b"1", 60)
        # Once, with everything that clients are not told.
        [line] = [formatEvent(event) for event in logged + again]
        assert line.startswith(f"commands are refused: Redis at 127.0.0.1:{own_server.port}: it is full")
        assert await state.routes([1, 2]) == {1: Route("a", 1, 1)}
        assert bus.connected
        # Not yet marked, and read all the same.
        full = await state.snapshot()
        assert (full.since, [node.name for node in full.nodes]) == ("", ["a"])
        await root.command("CONFIG", "SET", "maxmemory", "0")
        assert (await state.claim(2, Route("a", 1, 1), True)).won


async def test_a_primary_that_becomes_a_replica(own_server, redis_server, prefix) -> None:
    async with started(own_server.url, prefix) as (state, bus), admin(own_server) as root:
        await state.renew(lease(), [])
        await root.command("REPLICAOF", "127.0.0.1", str(redis_server.port))
        with capturedLogs() as logged:
            with refused("it is a replica"):
                await state.claim(1, Route("a", 1, 1), True)
            await until(lambda: "which only reads" in getattr(outcome(state.snapshot()), "reason", ""))
        [why] = [
            str(event["why"]) for event in logged if "is lost" in event["log_format"] and "READONLY" in event["why"]
        ]
        assert why.startswith(f"Redis at 127.0.0.1:{own_server.port}: it is a replica")
        assert not bus.connected
        await root.command("REPLICAOF", "NO", "ONE")
        await answers(state)


# --- the bus -----------------------------------------------------------------


async def test_what_is_not_understood_is_logged_once_and_ignored(redis_server, prefix, warnings) -> None:
    async with started(redis_server.url, prefix) as (_, bus), admin(redis_server) as root:
        sink = Recorder()
        await bus.listen("a", 1, sink)
        for message in ("", "{", "7", '["x"]', '[{"event":"from a later version"}]', "[" * 100_000, b"\xff\x00"):
            assert await root.command("PUBLISH", f"{prefix}bus:0:1:a", message) == 1
        known = b'{"event":"kick","uid":1,"below":1,"reason":"takeover"}'
        await root.command("PUBLISH", f"{prefix}bus:0:1:a", b'[{"event":"from a later version"},%s,{}]' % known)
        await bus.publish("a", 1, kick(2))
        await until(lambda: sink.events == [kick(1), kick(2)])
    assert len([event for event in warnings if "is not understood" in event["log_format"]]) == 1


async def test_a_failing_listener_stops_nobody(redis_server, prefix, flush_logged_errors) -> None:
    class Broken(Recorder):
        def deliver(self, event) -> None:
            super().deliver(event)
            raise RuntimeError("broken sink")

        def gap(self) -> None:
            raise RuntimeError("broken sink")

    async with started(redis_server.url, prefix) as (_, bus):
        broken, other = Broken(), Recorder()
        await bus.listen("broken", 1, broken)
        await bus.listen("other", 1, other)
        await bus.broadcast(kick(1))
        await bus.broadcast(kick(2))
        await until(lambda: len(other.events) == 2)
        assert broken.events == other.events
    assert len(flush_logged_errors(RuntimeError)) == 3


async def test_more_than_can_be_published_is_refused(redis_server, prefix, proxy, impatient, monkeypatch) -> None:
    monkeypatch.setattr(bus_module, "MOST_WAITING", 100)
    async with started(url_of(redis_server, port=proxy.port), prefix) as (_, bus):
        proxy.swallow()
        for _ in range(100):
            assert outcome(bus.publish("a", 1, kick(1))) is None
        assert isinstance(outcome(bus.publish("a", 1, kick(1))), Unavailable)
        await until(lambda: not bus.connected)
        proxy.heal()
        await until(lambda: bus.connected)
        assert outcome(bus.publish("a", 1, kick(1))) is None


async def test_many_events_arrive_in_order(redis_server, prefix) -> None:
    async with started(redis_server.url, prefix) as (_, bus), started(redis_server.url, prefix) as (_, other):
        a, b = Recorder(), Recorder()
        await bus.listen("a", 1, a)
        await bus.listen("b", 1, b)
        for uid in range(1, 3_001):
            await other.publish("a", 1, kick(uid))
            await other.publish("b", 1, kick(uid))
        await until(lambda: len(a.events) == len(b.events) == 3_000)
        assert a.events == b.events == [kick(uid) for uid in range(1, 3_001)]


async def test_nodes_of_another_database_or_prefix_hear_nothing(redis_server, prefix) -> None:
    async with (
        started(redis_server.url, prefix) as (_, bus),
        started(url_of(redis_server, database=1), prefix) as (_, database),
        started(redis_server.url, new_prefix()) as (_, other),
    ):
        sinks = [Recorder(), Recorder(), Recorder()]
        for each, sink in zip((bus, database, other), sinks, strict=True):
            await each.listen("a", 1, sink)
        for number, each in enumerate((bus, database, other), 1):
            await each.broadcast(kick(number))
            await each.publish("a", 1, kick(number + 10))
        await until(lambda: all(len(sink.events) == 2 for sink in sinks))
        assert [sink.events for sink in sinks] == [[kick(n), kick(n + 10)] for n in (1, 2, 3)]


async def test_listening_that_redis_refuses(redis_server, prefix) -> None:
    async with admin(redis_server) as root:
        await root.command(
            "ACL",
            "SETUSER",
            "deaf",
            "reset",
            "on",
            ">secret",
            "~*",
            f"&{prefix}bus:0:check",
            f"&{prefix}bus:0:all",
            "+@all",
        )
        async with started(url_of(redis_server, user="deaf", password="secret"), prefix) as (state, bus):
            with pytest.raises(Unavailable, match="no right to this"):
                await bus.listen("a", 1, Recorder())
            assert bus.connected
            assert (await state.snapshot()).nodes == ()
        await root.command("ACL", "DELUSER", "deaf")


async def test_events_that_only_fit_by_their_kind(redis_server, prefix) -> None:
    """What another version leaves out or adds is filled in or ignored where the kind of event says so."""
    async with started(redis_server.url, prefix) as (_, bus), admin(redis_server) as root:
        sink = Recorder()
        await bus.listen("a", 1, sink)
        newer = b'[{"event":"kick","uid":1,"below":1,"reason":"takeover","added":7}]'
        await root.command("PUBLISH", f"{prefix}bus:0:1:a", newer)
        await until(lambda: sink.events == [Kick(1, 1, "takeover")])
