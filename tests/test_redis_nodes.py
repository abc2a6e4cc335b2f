"""Chat nodes that share a Redis, each with connections of its own, while that forgets, dies or cannot be reached.

What must hold whatever happens to Redis: clients stay connected, everything that was
acknowledged arrives once and in order, and an account has one session.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import pytest_twisted
from chat_server import ChatServer, Client, RunningNode
from redis_parts import Proxy, admin, answers, new_prefix, parts, until, url_of
from twisted.internet.defer import Deferred

from flux.backends.redis import RedisBus, RedisState, connection
from flux.bench.engines import RedisServer
from flux.chat.node import SWEEP
from flux.interfaces import IBus, IState
from flux.lifecycle import together
from flux.model.sessions import Route

LEASE = 60.0
"""Seconds; Redis measures them by its own clock, and that of the nodes stands still between two steps of a test."""


class Cluster(ChatServer):
    """Nodes on one store and one Redis."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        super().__init__(folder, status__lease=LEASE, limits__connections_per_address=0, limits__messages_burst=10**6)
        self.server = server
        self.prefix = new_prefix()
        self.redis: RedisState
        self.redis, _ = parts(server.url, self.prefix)
        self.state = self.redis
        self.proxies: dict[str, Proxy] = {}
        self.shares: dict[str, tuple[RedisState, RedisBus]] = {}

    async def start(self) -> Cluster:
        await self.state.start()
        await self.store.start()
        self.passwords.start()
        for _ in range(3):
            await self.start_node()
        return self

    async def shared(self) -> tuple[IState, IBus]:
        name = f"chat{len(self.nodes) + 1}"
        proxy = self.proxies[name] = Proxy(self.server.port)
        state, bus = self.shares[name] = parts(url_of(self.server, port=proxy.port), self.prefix)
        await state.start()
        await bus.start()
        return state, bus

    async def stop_node(self, running: RunningNode) -> None:
        await super().stop_node(running)
        state, bus = self.shares[running.node.name]
        await bus.stop()
        await state.stop()
        await self.proxies[running.node.name].stop()

    async def stop(self) -> None:
        await super().stop()
        await self.state.stop()

    async def works_again(self) -> None:
        """All nodes are connected to Redis, and have done what they do then."""
        await answers(self.redis)
        for state, bus in self.shares.values():
            await answers(state)
            await until(lambda bus=bus: bus.connected)

    def live(self, uid: int) -> list[str]:
        """The nodes that have a session of the account."""
        return [running.node.name for running in self.nodes if uid in running.node.sessions]


class Crowd:
    """People on all nodes, who write to each other in turn.

    :ivar sent: per receiver what was acknowledged to its sender.
    :ivar under_way: messages that were sent and not yet acknowledged.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.clients: list[Client] = []
        self.sent: dict[int, list[str]] = {}
        self.under_way = 0
        self._numbers = itertools.count(1)
        self._pairs = itertools.count()

    async def come(self, count: int) -> Crowd:
        names = [f"user{number}" for number in range(count)]
        await self.cluster.register(*names)
        for number, name in enumerate(names):
            client = await self.cluster.log_in(name, self.cluster.nodes[number % 3], acks=True)
            self.clients.append(client)
            self.sent[client.id] = []
        return self

    async def talk(self, count: int) -> None:
        """Some messages, several under way at once, each to somebody on another node."""
        replies = []
        for _ in range(count):
            replies.append(self._send(*self._next_pair()))
            if len(replies) == 20:
                await together(replies)
                replies.clear()
        await together(replies)

    async def talk_during(self, fault: Callable[[], Awaitable[object]], count: int = 60) -> None:
        """So many messages before something happens and so many afterwards; meanwhile each has several under way."""
        silent = False

        async def go_on(sender: Client, receiver: Client) -> None:
            while not silent:
                await self._send(sender, receiver)

        talking = [Deferred.fromCoroutine(go_on(*self._next_pair())) for _ in range(3 * len(self.clients))]
        await self._acknowledged(count)
        assert self.under_way == len(talking)
        await fault()
        assert self.under_way == len(talking)
        await self._acknowledged(count)
        silent = True
        await together(talking)

    async def _acknowledged(self, count: int) -> None:
        """Wait for so many more."""
        enough = self._count() + count
        await until(lambda: self._count() >= enough)

    def _count(self) -> int:
        return sum(len(texts) for texts in self.sent.values())

    def _next_pair(self) -> tuple[Client, Client]:
        turn = next(self._pairs)
        return self.clients[turn % len(self.clients)], self.clients[(turn + 1) % len(self.clients)]

    async def _send(self, sender: Client, receiver: Client) -> None:
        text = f"message {next(self._numbers)}"
        self.under_way += 1
        await sender.ok("send", to=receiver.id, text=text, cid=text)
        self.under_way -= 1
        self.sent[receiver.id].append(text)

    def got(self, client: Client) -> list[str]:
        return [line["text"] for line in client.lines if line["type"] == "message"]

    def complete(self) -> bool:
        return all(len(self.got(client)) >= len(self.sent[client.id]) for client in self.clients)

    def check(self) -> None:
        """Nobody was cut off, nothing is missing, doubled or out of order, and everybody is where they were."""
        for number, client in enumerate(self.clients):
            assert not client.closed, client.closed
            got = self.got(client)
            assert len(got) == len(set(got))
            assert sorted(got) == sorted(self.sent[client.id])
            seqs: dict[int, list[int]] = {}
            for line in client.lines:
                if line["type"] == "message":
                    seqs.setdefault(line["chat"], []).append(line["seq"])
            assert all(each == sorted(each) for each in seqs.values())
            assert self.cluster.live(client.id) == [self.cluster.nodes[number % 3].node.name]

    async def routes_are_right(self) -> None:
        routes = await self.cluster.redis.routes([client.id for client in self.clients])
        assert {uid: route.node for uid, route in routes.items()} == {
            client.id: self.cluster.live(client.id)[0] for client in self.clients
        }


@pytest_twisted.async_yield_fixture
async def cluster(tmp_path, redis_server):
    cluster = await Cluster(tmp_path, redis_server).start()
    yield cluster
    await cluster.stop()


@pytest_twisted.async_yield_fixture
async def own_cluster(tmp_path):
    """A cluster whose Redis a test may kill."""
    with RedisServer(tmp_path / "redis") as server:
        cluster = await Cluster(tmp_path, server).start()
        yield cluster
        await cluster.stop()


@pytest.fixture
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(connection, "LOOK", connection.LOOK / 10)


async def two_sweeps(cluster: Cluster, crowd: Crowd) -> None:
    """What was acknowledged has arrived by then."""
    await cluster.advance(2 * SWEEP)
    await until(crowd.complete)
    crowd.check()


# --- nothing goes wrong ------------------------------------------------------


async def test_messages_between_nodes_need_no_sweep(cluster: Cluster) -> None:
    crowd = await Crowd(cluster).come(6)
    await crowd.talk(300)
    await until(crowd.complete)
    crowd.check()
    await crowd.routes_are_right()


async def test_a_login_elsewhere_ends_the_older_session(cluster: Cluster) -> None:
    first, second, third = cluster.nodes
    await cluster.register("ann")
    ann = await cluster.log_in("ann", first)
    for node in (second, third, first, second):
        again = await cluster.log_in("ann", node)
        assert await ann.told("kicked") == {"reason": "takeover"}
        await ann.ended()
        assert cluster.live(again.id) == [node.node.name]
        ann = again


async def test_a_hundred_logins_by_token_at_once_leave_one_session(cluster: Cluster) -> None:
    """Though the clock stands still: no sweep and no heartbeat ends one that is left over, as they do for processes."""
    [uid] = await cluster.register("ann")
    token = await cluster.token(uid)
    clients = [await cluster.connect(cluster.nodes[number % 3]) for number in range(100)]
    for client in clients:
        client.tell("login", id=uid, token=token)
    await until(lambda: [bool(client.lines) for client in clients if not client.closed] == [True])
    [winner] = [client for client in clients if not client.closed]
    assert winner.lines[0]["type"] == "login.ok"
    assert len(cluster.live(uid)) == 1
    await winner.ok("ping")
    [running] = [running for running in cluster.nodes if running.node.name == winner.lines[0]["server"]]
    session = running.node.sessions[uid]
    assert session.number == 100
    assert await cluster.redis.routes([uid]) == {uid: Route(running.node.name, running.node.boot, 100)}
    # Nothing that comes later ends it.
    await cluster.advance(2 * SWEEP)
    await winner.ok("ping")
    assert cluster.live(uid) == [running.node.name]


# --- Redis forgets -----------------------------------------------------------


async def test_redis_is_emptied_under_load(cluster: Cluster) -> None:
    crowd = await Crowd(cluster).come(6)
    async with admin(cluster.server) as root:
        for _ in range(3):
            await crowd.talk_during(lambda: root.command("FLUSHALL"))
            await two_sweeps(cluster, crowd)
            await crowd.routes_are_right()
    # And from then on without sweeps.
    await crowd.talk(60)
    await until(crowd.complete)
    crowd.check()


async def test_redis_restarts_from_an_old_dump_under_load(own_cluster: Cluster) -> None:
    cluster = own_cluster
    crowd = await Crowd(cluster).come(6)
    first, second, _ = cluster.nodes
    await cluster.register("ann", "bob")
    older = await cluster.log_in("ann", first)
    left = await cluster.log_in("bob", first)

    async def killed() -> None:
        cluster.server.kill()

    async def started() -> None:
        cluster.server.start()
        await cluster.works_again()

    async with admin(cluster.server) as root:
        await root.command("SAVE")
    ann = await cluster.log_in("ann", second)
    await older.ended()
    await left.close()
    await until(lambda: not cluster.live(left.id))
    await crowd.talk_during(killed)
    await crowd.talk_during(started)
    await two_sweeps(cluster, crowd)
    await crowd.routes_are_right()
    # The dump had her on the first node with a lower number, and him who is gone.
    assert cluster.live(ann.id) == [second.node.name]
    assert (await cluster.redis.routes([ann.id]))[ann.id].node == second.node.name
    await ann.ok("ping")
    assert await cluster.redis.routes([left.id]) == {}
    bob = await cluster.log_in("bob", second)
    assert cluster.live(bob.id) == [second.node.name]


async def test_connections_to_redis_are_killed_under_load(cluster: Cluster) -> None:
    crowd = await Crowd(cluster).come(6)
    async with admin(cluster.server) as root:
        for kinds in (("normal",), ("pubsub",), ("normal", "pubsub")):

            async def kill(kinds: tuple[str, ...] = kinds) -> None:
                for kind in kinds:
                    await root.command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

            await crowd.talk_during(kill)
            await cluster.works_again()
            await two_sweeps(cluster, crowd)
    await crowd.routes_are_right()
    await crowd.talk(60)
    await until(crowd.complete)
    crowd.check()


# --- Redis cannot be reached -------------------------------------------------


Fault = Callable[[Proxy], None]


@pytest.mark.parametrize("fault", [Proxy.cut, Proxy.swallow], ids=["cut", "swallowed"])
async def test_only_the_node_that_publishes_is_cut_off(cluster: Cluster, impatient, fault: Fault) -> None:
    first, second, _ = cluster.nodes
    await cluster.register("ann", "bob")
    ann, bob = await cluster.log_in("ann", first), await cluster.log_in("bob", second)
    proxy = cluster.proxies[first.node.name]
    fault(proxy)
    for number in range(10):
        await ann.ok("send", to=bob.id, text=str(number))
    await cluster.advance(SWEEP)
    assert [(await bob.told("message"))["text"] for _ in range(10)] == list("0123456789")
    proxy.heal()
    await cluster.works_again()
    await ann.ok("send", to=bob.id, text="again")
    assert (await bob.told("message"))["text"] == "again"


@pytest.mark.parametrize("fault", [Proxy.cut, Proxy.swallow], ids=["cut", "swallowed"])
async def test_a_node_that_hears_nothing_looks_every_second(cluster: Cluster, impatient, fault: Fault) -> None:
    first, second, _ = cluster.nodes
    await cluster.register("ann", "bob")
    ann, bob = await cluster.log_in("ann", first), await cluster.log_in("bob", second)
    proxy = cluster.proxies[second.node.name]
    fault(proxy)
    await until(lambda: not second.node.bus.connected)
    for number in range(3):
        await ann.ok("send", to=bob.id, text=str(number))
        await cluster.advance(2.0)
        assert (await bob.told("message"))["text"] == str(number)
        # It serves its own all the time.
        await bob.ok("ping")
    proxy.heal()
    await cluster.works_again()
    await ann.ok("send", to=bob.id, text="again")
    assert (await bob.told("message"))["text"] == "again"


async def test_logins_while_redis_is_away(own_cluster: Cluster) -> None:
    cluster = own_cluster
    first, second, _ = cluster.nodes
    ids = await cluster.register("ann", "bob")
    token = await cluster.token(ids[0])
    older = await cluster.log_in("bob", first)
    cluster.server.kill()
    for state, _ in cluster.shares.values():
        await until(lambda state=state: not state._link.connected)
    client = await cluster.connect(first)
    assert await client.refused("login", id=ids[0], token=token) == "unavailable"
    ann = await cluster.log_in("ann", first)
    bob = await cluster.log_in("bob", second)
    # Nobody could tell the first node; the sweep finds out.
    assert sorted(cluster.live(bob.id)) == [first.node.name, second.node.name]
    await cluster.advance(SWEEP)
    assert await older.told("kicked") == {"reason": "takeover"}
    cluster.server.start()
    await cluster.works_again()
    await cluster.eventually(lambda: _has_routes(cluster, ids))
    assert cluster.live(ann.id) == [first.node.name]
    assert cluster.live(bob.id) == [second.node.name]


async def _has_routes(cluster: Cluster, ids: list[int]) -> bool:
    return set(await cluster.redis.routes(ids)) == set(ids)


async def test_routes_of_those_who_left_while_redis_was_away_are_released(own_cluster: Cluster) -> None:
    cluster = own_cluster
    names = [f"user{number}" for number in range(30)]
    ids = await cluster.register(*names)
    clients = [await cluster.log_in(name, cluster.nodes[0]) for name in names]
    async with admin(cluster.server) as root:
        await root.command("SAVE")
    cluster.server.kill()
    await until(lambda: not cluster.nodes[0].node.bus.connected)
    for client in clients:
        await client.close()
    await until(lambda: len(cluster.nodes[0].node.sessions) == 0)
    cluster.server.start()
    await cluster.works_again()

    async def released() -> bool:
        return not await cluster.redis.routes(ids)

    await cluster.eventually(released)
