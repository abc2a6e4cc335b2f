"""Real processes on one Redis and one PostgreSQL: what must happen once, however many begin it at the same moment."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen
from uuid import uuid4

import pytest
from chat_server import PASSWORD, Client, open_client
from postgres_database import Database
from processes import Person, Place, shared_by_all, started
from redis_parts import started as state_and_bus
from redis_parts import until
from server_process import ServerProcess
from twisted.internet.threads import deferToThread

from flux.backends.postgres import schema
from flux.backends.postgres.migrating import LOCK
from flux.bench.engines import PostgresServer, RedisServer
from flux.bench.servers import free_port
from flux.lifecycle import together
from flux.model.sessions import Route

pytestmark = pytest.mark.slow

LOGINS = 100
NODES = 10
"""That migrate; people log in to three."""


class Node(NamedTuple):
    """A ``twistd flux-chat``."""

    name: str
    port: int
    admin: int
    process: ServerProcess

    async def sees(self, what: str, uid: int) -> Any:
        """What its admin port says of an account."""

        def ask() -> Any:
            with urlopen(f"http://127.0.0.1:{self.admin}/api/{what}?query={uid}", timeout=30) as answer:
                return json.load(answer)

        return await deferToThread(ask)


def launch(place: Place, count: int) -> list[Node]:
    """Chat servers that begin to start at the same moment."""
    nodes = []
    for number in range(1, count + 1):
        name, port, admin = f"chat{number}", free_port(), free_port()
        own = {
            "chat.name": name,
            "chat.listen": f"tcp:{port}:interface=127.0.0.1",
            "admin.listen": f"tcp:{admin}:interface=127.0.0.1",
        }
        options = [word for key, value in own.items() for word in ("--set", f"{key}={value}")]
        nodes.append(Node(name, port, admin, place.launch("flux-chat", *options)))
    return nodes


def end(*processes: ServerProcess) -> None:
    """Stop them; none of them may have complained."""
    for process in processes:
        process.signal(signal.SIGTERM)
    for process in processes:
        assert process.end() == (0, "")
        assert not [line for line in process.lines if " error " in line or "Traceback" in line]


# --- migrations --------------------------------------------------------------


def test_ten_nodes_that_start_at_once_migrate_once(
    tmp_path: Path, redis_server: RedisServer, postgres_server: PostgresServer
) -> None:
    with ExitStack() as stack:
        place = Place(tmp_path, stack, **shared_by_all(redis_server, postgres_server, "migrated_at_once"))
        database = stack.enter_context(closing(Database(place.settings["store.dsn"])))
        # Whoever is quick waits for the others: all have found an empty database before one of them may begin.
        with closing(Database(database.dsn)) as other:
            other.query("SELECT pg_advisory_lock(%s)", LOCK)
            nodes = launch(place, NODES)
            for node in nodes:
                node.process.wait_for("another process is migrating the schema: waiting for it")
            assert database.query("SELECT to_regclass('flux_migrations')") == [(None,)]
        for node in nodes:
            node.process.wait_for(started("flux-chat"))

        known = [migration.name for migration in schema.migrations()]
        # One transaction has one time.
        [[at]] = database.query("SELECT DISTINCT at FROM flux_migrations")
        assert database.query("SELECT * FROM flux_migrations ORDER BY 1") == [
            (number, name, at) for number, name in enumerate(known, 1)
        ]
        lines = [line for node in nodes for line in node.process.lines]
        [applied] = [line for line in lines if "the schema was brought up to date" in line]
        assert applied.endswith(f"the schema was brought up to date: {', '.join(known)}")

        # And each of them serves.
        for node in nodes:
            with closing(Person(node.port)) as person:
                person.ask("register", name="ann", password=PASSWORD)
                assert person.ask("login", name="ann", password=PASSWORD)["server"] == node.name
        end(*(node.process for node in nodes))


# --- logins ------------------------------------------------------------------


class Cluster(NamedTuple):
    """A status process, three nodes, and what they share."""

    place: Place
    nodes: list[Node]
    redis: RedisServer

    def token(self, uid: int) -> str:
        """A login token from the status service."""
        with closing(Person(self.place.status)) as person:
            return str(person.ask("get_chat_server", uid=uid)["token"])

    async def route(self, uid: int) -> Route | None:
        """Where the shared state has an account."""
        async with state_and_bus(self.redis.url, self.place.settings["state.prefix"]) as (state, _):
            return (await state.routes([uid])).get(uid)


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, postgres_server: PostgresServer
) -> Iterator[Cluster]:
    with ExitStack() as stack:
        place = Place(
            tmp_path_factory.mktemp("cluster"), stack, **shared_by_all(redis_server, postgres_server, "logins"),
            # No node may refuse a login before it has competed.
            limits__token_logins_per_minute="0",
            # Nor may a heartbeat put right what the logins have made of the route.
            status__heartbeat="300", status__lease="600",
        )  # fmt: skip
        nodes = launch(place, 3)
        for node in nodes:
            node.process.wait_for(started("flux-chat"))
        # Its first look finds them all.
        status = place.start("flux-status")
        yield Cluster(place, nodes, redis_server)
        end(status, *(node.process for node in nodes))


@asynccontextmanager
async def connections() -> AsyncIterator[Callable[[Node], Awaitable[Client]]]:
    """Connects to nodes, until they have answered; in the end all connections are cut."""
    clients: list[Client] = []

    async def connect(node: Node) -> Client:
        clients.append(client := open_client(node.port))
        await client.ok("ping")
        return client

    try:
        yield connect
    finally:
        for client in clients:
            await client.reset()


async def one_that_lives(clients: list[Client]) -> tuple[Client, str]:
    """The one that is logged in once all others are closed, and on which node."""
    await until(lambda: sum(not client.closed for client in clients) <= 1)
    [survivor] = [client for client in clients if not client.closed]
    welcome = await survivor.reply("login")
    assert welcome["type"] == "login.ok", welcome
    return survivor, welcome["server"]


def pushed(client: Client) -> dict[int, list[tuple[int, str]]]:
    """The messages that were pushed to a client, in their order by chat."""
    chats: dict[int, list[tuple[int, str]]] = {}
    for line in client.lines:
        if line["type"] == "message":
            chats.setdefault(line["chat"], []).append((line["seq"], line["text"]))
    return chats


@pytest.mark.parametrize("at_once", [LOGINS, 3])
async def test_of_a_hundred_logins_by_token_on_three_nodes_one_session_lives(cluster: Cluster, at_once: int) -> None:
    """All at the same moment; or one on each node, and so again and again, against a session that lives already."""
    nodes = cluster.nodes
    async with connections() as connect:
        friends = [await connect(node) for node in nodes]
        uid = (await friends[0].ok("register", name=f"user {uuid4()}", password=PASSWORD))["id"]
        for friend in friends:
            name = f"user {uuid4()}"
            await friend.ok("register", name=name, password=PASSWORD)
            await friend.ok("login", name=name, password=PASSWORD)
        token = await deferToThread(cluster.token, uid)
        clients = await together(connect(nodes[number % len(nodes)]) for number in range(LOGINS))

        sent = 0

        def write() -> None:
            """A friend on each node does."""
            nonlocal sent
            sent += 1
            for friend in friends:
                friend.tell("send", to=uid, text=str(sent), ref=sent)

        survivors: list[Client] = []
        for begin in range(0, LOGINS, at_once):
            competing = clients[begin : begin + at_once]
            for number, client in enumerate(competing, begin):
                if number % 10 == 0:
                    write()
                client.tell("login", id=uid, token=token, acks=True, ref="login")
            survivor, server = await one_that_lives([*survivors, *competing])
            survivors = [survivor]
            # It is the last one in the order of the store, where each has taken a number.
            assert await cluster.route(uid) == Route(server, 1, begin + len(competing))

        await survivor.ok("ping")
        losers = [client for client in clients if client is not survivor]
        assert all(client.lines[-1] == {"type": "kicked", "reason": "takeover"} for client in losers)
        for node in nodes:
            numbers = [session["number"] for session in await node.sees("sessions", uid)]
            assert numbers == ([LOGINS] if node.name == server else [])
            assert [user["server"] for user in await node.sees("users", uid)] == [server]

        write()
        answers = [[await friend.reply(number) for number in range(1, sent + 1)] for friend in friends]
        assert all(answer["type"] == "send.ok" for each in answers for answer in each)
        chats = {each[0]["chat"] for each in answers}
        await until(lambda: sum(line["type"] == "message" for line in survivor.lines) >= sent * len(chats))
        await survivor.settled()
        everything = [(number, str(number)) for number in range(1, sent + 1)]
        assert pushed(survivor) == dict.fromkeys(chats, everything)
        # What the others were shown before they were kicked had no gaps either.
        assert all(got == everything[: len(got)] for loser in losers for got in pushed(loser).values())
