"""A cluster of one's own, and everything that can go wrong with it.

::

                      clients
          ┌──────────────┼──────────────┐
        link           link           link             │        the address that a node advertises
          │              │              │              │
        chat1          chat2          chat3         status
        │   └──────┐   │   │          │   │            │
      link        link ...            ...              │        one link per node and engine, to be broken
        │          │                                   │
      Redis     PostgreSQL                           Redis

Each process has a folder of its own for its configuration and what it prints.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from flux.bench.engines import Engine, PostgresServer, RedisServer, find_postgres, find_redis
from flux.bench.installation import Fault, FluxServer, Installation, in_thread
from flux.bench.links import Link
from flux.bench.servers import ServerFailed, free_port, twistd
from flux.client import StatusClient
from flux.lifecycle import together

#: How long a killed process stays dead, in seconds.
DEAD_FOR = (0.5, 3.0)
#: How long a node is paused or cut off, in leases: until some time after it was declared dead.
BEYOND_LEASE = 1.5
#: ``chat.drain`` of the nodes, in seconds.
DRAIN = 2.0


#: The rest of a :class:`~flux.bench.installation.Fault`: injects, repairs, lasts.
What = tuple[Callable[[], Awaitable[None]], Callable[[], Awaitable[None]], tuple[float, float]]

#: Chat nodes, unless told otherwise.
NODES = 3


def node_names(nodes: int = NODES, number: int = 0) -> list[str]:
    """The chat nodes in the order in which things happen to them in round ``number``, from 0."""
    return [f"chat{(index + number) % nodes + 1}" for index in range(nodes)]


def fault_names(nodes: int = NODES, number: int = 0) -> list[str]:
    """What goes wrong in round ``number``, in this order; no cluster is needed to know."""
    names = node_names(nodes, number)
    one, two, three = (names * 3)[:3]
    return [
        *(f"{name} killed" for name in names),
        *(f"{name} drained" for name in names),
        "status killed",
        f"{RedisServer.name} killed",
        f"{PostgresServer.name} killed",
        "Redis emptied",
        f"{one} paused",
        f"{two} cut off from Redis",
        f"{three} cut off from PostgreSQL",
        f"Redis swallows {three}",
        f"PostgreSQL swallows {two}",
        f"clients cut off from {one}",
        f"{two} swallows clients",
    ]


class Node:
    """A chat node and its links.

    :ivar name: ``chat1``, ``chat2``, ...
    :ivar port: of its chat port.
    :ivar server: its process.
    :ivar redis: its link to Redis.
    :ivar postgres: its link to PostgreSQL.
    :ivar clients: the link to it from its clients, which are told this address.
    """

    def __init__(self, name: str, port: int, server: FluxServer, redis: Link, postgres: Link, clients: Link) -> None:
        self.name = name
        self.port = port
        self.server = server
        self.redis = redis
        self.postgres = postgres
        self.clients = clients

    @property
    def links(self) -> tuple[Link, ...]:
        """All of them."""
        return self.redis, self.postgres, self.clients


class Cluster(Installation):
    """A status process, chat nodes, a Redis and a PostgreSQL, on free ports of the loopback interface.

    :param directory: for data and output; not one that another cluster has used.
    :param nodes: how many chat nodes.
    :param lease: seconds after which a silent node counts as dead; it reports three times as often.
    :param rounds: how often everything goes wrong.
    :param only: only faults with this in their names.
    :param balancer: of the status process.
    :raises flux.bench.servers.ServerFailed: there is no program of a Redis or a PostgreSQL; says what to install.
    :ivar absent: the processes that are on their way out or in: nobody looks how they are.
    """

    def __init__(
        self,
        reactor: Any,
        directory: Path,
        nodes: int = NODES,
        lease: float = 10.0,
        rounds: int = 1,
        only: str = "",
        balancer: str = "least_connections",
    ) -> None:
        find_redis()
        find_postgres()
        self._reactor = reactor
        self._directory = directory
        self._lease = lease
        self._rounds = rounds
        self._only = only
        self.absent: set[FluxServer | Engine] = set()
        self.redis = RedisServer(directory / "redis")
        self.postgres = PostgresServer(directory / "postgres")
        self._status_port = free_port()
        where = {"state.url": self.redis.url, "status.balancer": balancer}
        self.status_server = self._server("flux-status", "status", "status.listen", self._status_port, where)
        self.nodes = [self.make_node(name) for name in node_names(nodes)]
        super().__init__([("127.0.0.1", node.clients.port) for node in self.nodes])

    @property
    def faults(self) -> list[Fault]:
        """Everything once a round; which node it happens to changes."""
        faults = [fault for number in range(self._rounds) for fault in self._round(number)]
        return [fault for fault in faults if self._only in fault.name]

    async def start(self) -> None:
        """See :meth:`flux.bench.installation.Installation.start`. Engines that run already are left alone."""
        engines = [engine for engine in self._engines if engine.process is None]
        await together(in_thread(self._reactor, engine.start) for engine in engines)
        for link in self._links:
            await link.open()
        # All at once: one of them creates the tables, the others wait for that.
        await together(server.start() for server in self._servers)
        self.status = StatusClient(self._reactor, [("127.0.0.1", self._status_port)])

    def check(self) -> None:
        """See :meth:`flux.bench.installation.Installation.check`."""
        for server in self._servers:
            if server not in self.absent:
                server.check()
        for engine in self._engines:
            if engine not in self.absent and (process := engine.process) is not None:
                process.check()

    async def stop(self) -> None:
        """End everything but the engines."""
        if self.status is not None:
            await self.status.close()
        for server in self._servers:
            await server.kill()
        for link in self._links:
            await link.close()

    async def close(self) -> None:
        """See :meth:`flux.bench.installation.Installation.close`."""
        await self.stop()
        for engine in self._engines:
            await in_thread(self._reactor, engine.close)

    # what it consists of

    @property
    def _engines(self) -> tuple[Engine, ...]:
        return self.redis, self.postgres

    @property
    def _servers(self) -> list[FluxServer]:
        return [self.status_server, *(node.server for node in self.nodes)]

    @property
    def _links(self) -> list[Link]:
        return [link for node in self.nodes for link in node.links]

    def make_node(self, name: str, folder: str = "") -> Node:
        """A node that is not started, nor its links opened; whoever makes one beyond those of the cluster ends it."""
        port = free_port()
        links = [Link(self._reactor, target) for target in (self.redis.port, self.postgres.port, port)]
        redis, postgres, clients = links
        settings = {
            "chat.name": name,
            "chat.advertise": f"127.0.0.1:{clients.port}",
            "chat.drain": f"{DRAIN:g}",
            "store.kind": "postgres",
            "store.dsn": self.postgres.dsn_through(postgres.port),
            "state.url": self.redis.url_through(redis.port),
            "limits.connections_per_address": "0",
            "limits.messages_per_second": "0",
            "limits.requests_per_second": "0",
            "limits.token_logins_per_minute": "0",
            "limits.registrations_per_hour_address": "0",
        }
        server = self._server("flux-chat", folder or name, "chat.listen", port, settings)
        return Node(name, port, server, redis, postgres, clients)

    def _server(self, command: str, folder: str, listen: str, port: int, settings: dict[str, str]) -> FluxServer:
        """A process with a configuration file of its own: command lines can be read by everybody."""
        settings = {
            listen: f"tcp:{port}:interface=127.0.0.1:backlog=4096",
            "state.kind": "redis",
            "status.lease": f"{self._lease:g}",
            "status.heartbeat": f"{self._lease / 3:g}",
        } | settings
        directory = self._directory / folder
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / "flux.ini"
        file.touch(0o600)
        file.write_text(_ini(settings))
        return FluxServer(self._reactor, [*twistd(command, {}), "--config", str(file)], [port], directory / "output")

    # what goes wrong with it

    def _round(self, number: int) -> list[Fault]:
        by_name = {node.name: node for node in self.nodes}
        nodes = [by_name[name] for name in node_names(len(self.nodes), number)]
        one, two, three = (nodes * 3)[:3]
        long = (BEYOND_LEASE * self._lease, BEYOND_LEASE * self._lease)
        # In the order of their names.
        what: list[What] = [
            *((node.server.kill, node.server.start, DEAD_FOR) for node in nodes),
            *((partial(self._drain, node), node.server.start, (0.0, 0.0)) for node in nodes),
            (self.status_server.kill, self.status_server.start, DEAD_FOR),
            self._engine_killed(self.redis),
            self._engine_killed(self.postgres),
            (partial(in_thread, self._reactor, self.redis.empty), nothing, (0.0, 0.0)),
            (one.server.pause, one.server.resume, long),
            (two.redis.cut, two.redis.open, long),
            (three.postgres.cut, three.postgres.open, long),
            (three.redis.swallow, three.redis.open, long),
            (two.postgres.swallow, two.postgres.open, long),
            (one.clients.cut, one.clients.open, long),
            (two.clients.swallow, two.clients.open, long),
        ]
        names = fault_names(len(self.nodes), number)
        return [Fault(name, *each) for name, each in zip(names, what, strict=True)]

    async def _drain(self, node: Node) -> None:
        """What is no fault: an admin takes a node out of service. Clients are to notice even less of it."""
        assert self.status is not None
        await self.status.drain(node.name)
        status = await node.server.ended()
        if status:
            raise ServerFailed(f"{node.name} was drained, and has ended with status {status}")

    def _engine_killed(self, engine: Engine) -> What:
        async def start() -> None:
            await in_thread(self._reactor, engine.start)

        return partial(in_thread, self._reactor, engine.kill), start, DEAD_FOR


async def nothing() -> None:
    """There is nothing to repair."""


def _ini(settings: dict[str, str]) -> str:
    sections: dict[str, list[str]] = {}
    for name, value in settings.items():
        section, _, key = name.partition(".")
        sections.setdefault(section, []).append(f"{key} = {value}\n")
    return "\n".join(f"[{section}]\n" + "".join(lines) for section, lines in sections.items())
