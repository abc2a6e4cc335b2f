"""A cluster in which several things go wrong at the same time.

What is repaired may not come back at once, because what it needs is broken just then: a server that finds no database
says so and ends.  Its supervisor starts it again, and so it is here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

from flux.bench.cluster import BEYOND_LEASE, DEAD_FOR, NODES, Cluster, Node, What, nothing
from flux.bench.engines import Engine, PostgresServer, RedisServer
from flux.bench.installation import Fault, FluxServer, in_thread
from flux.bench.links import Link
from flux.bench.servers import ServerFailed
from flux.client import ClientError
from flux.errors import FluxError
from flux.lifecycle import DeadlineExceeded, sleep

#: How long a link is broken or a process stands still, in seconds, at least and at most; at most longer with a long
#: lease.  A node gives a statement up after 10, and a client a request after 30: what arrives later is to be seen, too.
BROKEN_FOR = (0.5, 40.0)
#: From the moment when an admin asks a node to drain until it is started again, in seconds.
DRAINED_FOR = (2.0, 10.0)
#: Between two attempts to start a server again, in seconds.
START_AGAIN_AFTER = 1.0
#: A server that does not serve by then has failed, in seconds: longer than what it needs is ever broken.
SERVES_WITHIN = 120.0


def resources(nodes: int = NODES) -> dict[str, list[str]]:
    """What can suffer faults, and which; no cluster is needed to know."""
    what: dict[str, list[str]] = {}
    for name in (f"chat{number + 1}" for number in range(nodes)):
        what[name] = [f"{name} {verb}" for verb in ("killed", "stopped", "drained", "paused")]
        for engine in (RedisServer.name, PostgresServer.name):
            what[f"{name} to {engine}"] = [f"{name} cut off from {engine}", f"{engine} swallows {name}"]
        what[f"clients to {name}"] = [f"clients cut off from {name}", f"{name} swallows clients"]
    what["status"] = ["status killed", "status paused"]
    what[RedisServer.name] = [f"{RedisServer.name} killed", f"{RedisServer.name} emptied"]
    what[PostgresServer.name] = [f"{PostgresServer.name} killed"]
    return what


class Overlapping(Cluster):
    """See :class:`flux.bench.cluster.Cluster`; each of its faults says which resource suffers it."""

    @property
    def faults(self) -> list[Fault]:
        """Everything that can go wrong, with which resource."""
        what = self._what()
        named = resources(len(self.nodes))
        faults = [Fault(name, *what[name], resource) for resource, names in named.items() for name in names]
        return [fault for fault in faults if self._only in fault.name]

    def _what(self) -> dict[str, What]:
        """The faults by name."""
        long = BROKEN_FOR[0], max(BROKEN_FOR[1], BEYOND_LEASE * self._lease)
        what: dict[str, What] = {}

        def broken(link: Link, here: str, there: str) -> None:
            what[f"{here} cut off from {there}"] = link.cut, link.open, long
            what[f"{there} swallows {here}"] = link.swallow, link.open, long

        for node in self.nodes:
            name, server = node.name, node.server
            what[f"{name} killed"] = self._away(server, server.kill, DEAD_FOR)
            what[f"{name} stopped"] = self._away(server, server.stop, DEAD_FOR)
            what[f"{name} drained"] = self._away(server, partial(self._ask_to_drain, node), DRAINED_FOR)
            what[f"{name} paused"] = server.pause, server.resume, long
            broken(node.redis, name, RedisServer.name)
            broken(node.postgres, name, PostgresServer.name)
            broken(node.clients, "clients", name)
        status = self.status_server
        what["status killed"] = self._away(status, status.kill, DEAD_FOR)
        what["status paused"] = status.pause, status.resume, long
        what[f"{RedisServer.name} emptied"] = partial(in_thread, self._reactor, self.redis.empty), nothing, (0.0, 0.0)
        for engine in (self.redis, self.postgres):
            what[f"{engine.name} killed"] = self._away(engine, partial(in_thread, self._reactor, engine.kill), DEAD_FOR)
        return what

    def _away(
        self, process: FluxServer | Engine, ended: Callable[[], Awaitable[None]], lasts: tuple[float, float]
    ) -> What:
        """A process that ``ended`` has end is started again."""

        async def leave() -> None:
            self.absent.add(process)
            await ended()

        async def come_back() -> None:
            if isinstance(process, Engine):
                await in_thread(self._reactor, process.start)
            else:
                await self._start_again(process)
            self.absent.discard(process)

        return leave, come_back, lasts

    async def _ask_to_drain(self, node: Node) -> None:
        """An admin takes a node out of service, who may find that nobody can be asked just now."""
        assert self.status is not None
        # If not, it is stopped without, when the time has come.
        with contextlib.suppress(FluxError, ClientError, DeadlineExceeded):
            await self.status.drain(node.name)

    async def _start_again(self, server: FluxServer) -> None:
        """As a supervisor does.

        :raises flux.bench.servers.ServerFailed: it does not serve within ``SERVES_WITHIN``.
        """
        await server.stop()
        deadline = self._reactor.seconds() + SERVES_WITHIN
        while True:
            try:
                await server.start()
            except ServerFailed:
                await server.kill()
                if self._reactor.seconds() > deadline:
                    raise
                await sleep(START_AGAIN_AFTER, self._reactor)
            else:
                return
