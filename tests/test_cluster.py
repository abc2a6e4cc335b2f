"""Real processes on a real Redis and PostgreSQL: whatever dies or is cut off, no promise is broken."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg2
import pytest
import pytest_twisted
from chat_server import PASSWORD, Client, open_client
from chat_server import befriend as make_friends
from postgres_database import Database
from server_process import environment
from store_invariants import check_dsn
from twisted.internet.defer import Deferred
from twisted.internet.utils import getProcessOutputAndValue

from flux.bench.cluster import Cluster, Node
from flux.bench.installation import Fault
from flux.bench.overlapping import Overlapping
from flux.bench.servers import ServerFailed
from flux.bench.verification import Plan, Verdict, Verification
from flux.cli.verify import CALM, CLUSTER, RECOVER_WITHIN
from flux.lifecycle import sleep

LEASE = 2.0
"""Of the nodes here, in seconds: a fifth of the default one, so that faults are short."""

DEADLINE = 30.0
"""Until something that should happen by itself has happened."""

CLIENTS, GROUPS, RATE = CLUSTER
#: In the shorter run. Less to hash and to draw is less to wait for, and nothing else is different.
FEWER = 30, 5, 5.0


def run(awaitable: Awaitable[Any]) -> Any:
    async def wait() -> Any:
        return await awaitable

    return pytest_twisted.blockon(Deferred.fromCoroutine(wait()))


async def until(happened: Callable[[], Any]) -> Any:
    """What ``happened`` returns once that is true."""
    from twisted.internet import reactor

    end = reactor.seconds() + DEADLINE
    while not (outcome := happened()):
        assert reactor.seconds() < end, "it does not happen"
        await sleep(0.02, reactor)
    return outcome


def healthy(directory: Path) -> None:
    """No process has printed a traceback."""
    for output in directory.glob("*/output"):
        assert "Traceback" not in output.read_text("utf-8", "replace"), output


# --- everything, under load --------------------------------------------------


class OneOfEachKind(Cluster):
    """Nodes are alike: one is killed for all; and what is dead is soon started again."""

    @property
    def faults(self) -> list[Fault]:
        return [
            replace(fault, lasts=(0.1, 1.0)) if "killed" in fault.name else fault
            for fault in super().faults
            if not fault.name.startswith(("chat2 killed", "chat3 killed", "chat2 drained", "chat3 drained"))
        ]


async def survive(cluster: Cluster, plan: Plan, directory: Path) -> Verdict:
    from twisted.internet import reactor

    try:
        await cluster.start()
        verdict = await Verification(reactor, plan, cluster, lambda share, what: None).run()
        check_dsn(cluster.postgres.dsn)
    finally:
        await cluster.close()
    assert (verdict.anomalies, verdict.late) == ([], [])
    assert verdict.settled
    assert verdict.chats == plan.clients // 2 + plan.groups
    healthy(directory)
    return verdict


async def survive_in_turn(cluster: Cluster, plan: Plan, directory: Path) -> None:
    verdict = await survive(cluster, plan, directory)
    assert [period.fault for period in verdict.periods[1:]] == [fault.name for fault in cluster.faults]
    # Whatever is broken, somebody is served meanwhile or soon after.
    assert all(period.acknowledged > plan.clients for period in verdict.periods)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_everything_goes_wrong(tmp_path: Path) -> None:
    from twisted.internet import reactor

    clients, groups, rate = FEWER
    plan = Plan(clients, groups, rate=rate, calm=(0.2, 0.5), patient=True, recover_within=RECOVER_WITHIN, seed=1)
    await survive_in_turn(OneOfEachKind(reactor, tmp_path, lease=LEASE), plan, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_everything_goes_wrong_twice_with_the_default_lease(tmp_path: Path) -> None:
    from twisted.internet import reactor

    plan = Plan(CLIENTS, GROUPS, rate=RATE, calm=CALM, patient=True, recover_within=RECOVER_WITHIN, seed=2)
    await survive_in_turn(Cluster(reactor, tmp_path, rounds=2), plan, tmp_path)


@pytest.mark.slow
async def test_much_goes_wrong_at_the_same_time(tmp_path: Path) -> None:
    from twisted.internet import reactor

    clients, groups, rate = FEWER
    plan = Plan(clients, groups, rate=rate, chaos=20.0, recover_within=RECOVER_WITHIN, seed=4)
    verdict = await survive(Overlapping(reactor, tmp_path, lease=LEASE), plan, tmp_path)
    moments = [(period.moment, period.moment + period.duration) for period in verdict.periods[1:]]
    assert any(until > begun for (_, until), (begun, _) in pairwise(moments))
    assert max(verdict.periods, key=lambda period: period.moment + period.duration).recovery is not None


@pytest.mark.slow
async def test_the_command_starts_a_cluster_and_ends_it(tmp_path: Path) -> None:
    from twisted.internet import reactor

    data = tmp_path / "data"
    few = ["--clients=4", "--groups=1", "--group-size=3", f"--lease={LEASE + 1:g}", "--only=emptied"]
    command = "import sys; from flux.cli.main import main; sys.exit(main())"
    arguments = ["-c", command, "verify", "--cluster", f"--data={data}", "--json", *few]
    output, errors, status = await getProcessOutputAndValue(sys.executable, arguments, environment(), reactor=reactor)
    assert status == 0, errors
    verdict = json.loads(output)
    assert [period["fault"] for period in verdict["periods"]] == ["", "Redis emptied"]
    assert verdict["acknowledged"] == sum(period["acknowledged"] for period in verdict["periods"]) > 0
    assert {folder.name for folder in data.iterdir()} == {"chat1", "chat2", "chat3", "postgres", "redis", "status"}
    assert str(data) in errors.decode()
    healthy(data)


# --- one thing at a time -----------------------------------------------------


class People:
    """Accounts on the nodes of a cluster, speaking the protocol by hand: nobody reconnects behind a test's back."""

    def __init__(self) -> None:
        self.clients: list[Client] = []

    async def login(self, node: Node, uid: int = 0) -> Client:
        """Log in with ``uid``, or as somebody new."""
        client = open_client(node.port)
        self.clients.append(client)
        if not uid:
            uid = (await client.ok("register", name=f"user {uuid4()}", password=PASSWORD))["id"]
        await client.ok("login", id=uid, password=PASSWORD, acks=True)
        client.id = uid
        return client

    async def end(self) -> None:
        for client in self.clients:
            await client.reset()


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of which only Redis and PostgreSQL run."""
    from twisted.internet import reactor

    directory = tmp_path_factory.mktemp("cluster")
    cluster = Cluster(reactor, directory, nodes=2, lease=LEASE)
    with cluster.redis, cluster.postgres:
        yield cluster
    healthy(directory)


@pytest.fixture
def cluster(engines: Cluster) -> Iterator[Cluster]:
    """Two nodes."""
    try:
        run(engines.start())
        yield engines
    finally:
        run(engines.stop())
        check_dsn(engines.postgres.dsn)


@pytest.fixture
def people(cluster: Cluster) -> Iterator[People]:
    people = People()
    yield people
    run(people.end())


async def befriend(sender: Client, receiver: Client) -> int:
    """Make the chat of two, so that nobody has to look for it later; the receiver has confirmed everything."""
    chat = (await sender.ok("send", to=receiver.id, text="hello"))["chat"]
    assert (await receiver.told("message"))["seq"] == 1
    receiver.tell("received", chat=chat, seq=1)
    await receiver.settled()
    return int(chat)


@pytest.mark.slow
async def test_what_was_committed_by_a_node_that_could_tell_nobody_arrives(cluster: Cluster, people: People) -> None:
    """Its link to Redis swallows, so its look-up of the routes hangs while PostgreSQL commits; then it is killed."""
    one, other = cluster.nodes
    sender, receiver = await people.login(one), await people.login(other)
    await befriend(sender, receiver)
    await one.redis.swallow()
    sent = await sender.ok("send", to=receiver.id, text="are you there?")
    await one.server.kill()
    # Only now might what it had to tell get through, and there is nobody left to answer.
    await one.redis.cut()
    got = await receiver.told("message")
    assert (got["seq"], got["text"]) == (sent["seq"], "are you there?")
    assert not receiver.closed


@pytest.mark.slow
async def test_friends_see_that_a_node_was_killed(cluster: Cluster, people: People) -> None:
    one, other = cluster.nodes
    ann, bob, dan = await people.login(one), await people.login(other), await people.login(other)
    for each in (bob, dan):
        await make_friends(ann, each)
    await other.server.kill()
    offline = [await ann.told("presence") for _ in range(2)]
    assert sorted(push["id"] for push in offline) == [bob.id, dan.id]
    assert not any(push["online"] for push in offline)
    assert not any(friend["online"] for friend in (await ann.ok("friends"))["friends"])
    # Who logs in elsewhere is back, and the rest is not.
    await people.login(one, bob.id)
    assert await ann.told("presence") == {"id": bob.id, "online": True}
    assert await ann.settled() == []


@pytest.mark.slow
async def test_a_node_that_cannot_publish_goes_on_serving(cluster: Cluster, people: People) -> None:
    one, other = cluster.nodes
    sender, here, there = await people.login(one), await people.login(one), await people.login(other)
    await befriend(sender, here)
    await befriend(sender, there)
    await one.redis.cut()
    for text in ("one", "two", "three"):
        await sender.ok("send", to=here.id, text=text)
        await sender.ok("send", to=there.id, text=text)
    assert [(await here.told("message"))["text"] for _ in range(3)] == ["one", "two", "three"]
    # Nobody tells this one's node: it finds out by its sweep.
    assert [(await there.told("message"))["text"] for _ in range(3)] == ["one", "two", "three"]
    await there.ok("send", to=sender.id, text="and back")
    assert (await sender.told("message"))["text"] == "and back"
    await one.redis.open()
    await until(lambda: "connected to Redis for commands again" in printed(one))
    await here.ok("send", to=there.id, text="over")
    assert (await there.told("message"))["text"] == "over"
    assert [client.closed for client in (sender, here, there)] == ["", "", ""]


@pytest.mark.slow
async def test_a_node_that_is_cut_off_from_its_store_gets_no_users(cluster: Cluster, people: People) -> None:
    one, other = cluster.nodes
    here = await people.login(one)

    async def state(node: Node) -> str:
        assert cluster.status is not None
        return {each.name: each.state for each in await cluster.status.servers()}[node.name]

    async def assigned() -> set[str]:
        assert cluster.status is not None
        return {(await cluster.status.locate(uid)).server for uid in range(100, 120)}

    assert await assigned() == {one.name, other.name}
    await one.postgres.cut()
    while await state(one) == "up":
        pass
    assert await state(one) == "unready"
    assert await assigned() == {other.name}
    await one.postgres.open()
    while await state(one) != "up":
        pass
    assert one.name in await assigned()
    # Whoever was there has stayed there.
    assert await here.settled() == []


def printed(node: Node) -> str:
    """What its process has printed."""
    return node.server.output.read_text("utf-8", "replace")


def received(cluster: Cluster) -> dict[tuple[int, int], int]:
    """The cursors in the store, by chat and account."""
    with closing(psycopg2.connect(cluster.postgres.dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT chat, uid, received FROM members")
        return {(chat, uid): position for chat, uid, position in cursor.fetchall()}


def stands_still(node: Node) -> bool:
    """Whether its process has been stopped by a signal."""
    assert node.server._process is not None
    return Path(f"/proc/{node.server._process.pid}/stat").read_text().rpartition(") ")[2].startswith("T")


@pytest.mark.slow
async def test_a_node_that_stood_still_finds_a_successor_and_ends(cluster: Cluster, people: People) -> None:
    """Stopped in the middle of a commit and beyond its lease; resumed while another process has its name."""
    from twisted.internet import reactor

    one, other = cluster.nodes
    ann, bob = await people.login(one), await people.login(other)
    chat = await befriend(ann, bob)
    group = (await ann.ok("group.create", name="lunch"))["group"]
    await bob.ok("group.join", group=group)
    await ann.settled()

    with closing(psycopg2.connect(cluster.postgres.dsn)) as holder, closing(Database(cluster.postgres.dsn)) as database:
        # The transaction with the first of these waits until somebody else lets go of the group.
        with holder.cursor() as cursor:
            cursor.execute("SELECT FROM chats WHERE id = %s FOR NO KEY UPDATE", (group,))
        for number in range(200):
            ann.tell("send", group=group, text=f"ann {number}", cid=f"a{number}", ref=f"a{number}")
        await database.until_somebody_waits()
        await one.server.pause()
        await until(lambda: stands_still(one))
        [(pid,)] = database.query("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        # Others do not stall while it is open,
        for number in range(20):
            await bob.ok("send", to=ann.id, text=f"to ann {number}")
        assert database.query("SELECT state, wait_event_type FROM pg_stat_activity WHERE pid = %s", pid) == [
            ("active", "Lock")
        ]
        holder.commit()
        # nor afterwards: it ends without the node, which never sees that it was committed.
        for number in range(20):
            await bob.ok("send", group=group, text=f"bob {number}")
        await until(lambda: database.query("SELECT state FROM pg_stat_activity WHERE pid = %s", pid) == [("idle",)])
        [(committed,)] = database.query("SELECT count(*) FROM messages WHERE chat = %s AND sender = %s", group, ann.id)
        assert committed > 0
    assert [line for line in ann.waiting if "ref" in line] == []

    async def state(name: str) -> str:
        assert cluster.status is not None
        return next(node.state for node in await cluster.status.servers() if node.name == name)

    while await state("chat1") == "up":
        await sleep(0.1, reactor)
    successor = cluster.make_node("chat1", "successor")
    for link in successor.links:
        await link.open()
    try:
        await successor.server.start()
        again = await people.login(successor, ann.id)
        for number in range(20):
            assert (await again.take(lambda line: line.get("chat") == chat))["text"] == f"to ann {number}"
        again.tell("received", chat=chat, seq=21)
        await again.settled()
        await until(lambda: received(cluster)[chat, ann.id] == 21)
        before = received(cluster)

        # What lay in the socket of the old one is read now: it must not count.
        ann.tell("received", chat=chat, seq=1)
        await one.server.resume()
        await ann.until(lambda: ann.closed)
        with pytest.raises(ServerFailed, match=r"another process at 127\.0\.0\.1:\d+ started as 'chat1'"):
            await until(one.server.check)
        after = received(cluster)
        assert {key: after[key] for key in before if after[key] < before[key]} == {}
        assert not again.closed

        # Each of the 200 can be repeated and is there once, in order.
        for number in range(200):
            await again.ok("send", group=group, text=f"ann {number}", cid=f"a{number}")
        lines = (await again.ok("history", group=group, limit=200, after=0))["messages"]
        lines += (await again.ok("history", group=group, limit=200, after=lines[-1]["seq"]))["messages"]
        assert [line["seq"] for line in lines] == list(range(1, 221))
        assert [line["text"] for line in lines if line["from"] == ann.id] == [f"ann {number}" for number in range(200)]
        assert [line["text"] for line in lines if line["from"] == bob.id] == [f"bob {number}" for number in range(20)]
    finally:
        await successor.server.kill()
        for link in successor.links:
            await link.close()
