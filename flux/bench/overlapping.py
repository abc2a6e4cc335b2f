"""A cluster in which several things go wrong at the same time.

What is repaired may not come back at once, because what it needs is broken just then: a server that finds no database
says so and ends.  Its supervisor starts it again, and so it is here.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from flux.bench.cluster import BEYOND_LEASE, DEAD_FOR, NODES, Cluster, Node, What, nothing
from flux.bench.engines import Engine, PostgresServer, RedisServer
from flux.bench.installation import Fault, FluxServer, in_thread
from flux.bench.links import Link
from flux.bench.servers import ServerFailed
from flux.client import ClientError
from flux.errors import FluxError, NotFound, Unavailable
from flux.lifecycle import DeadlineExceeded, sleep

#: How long a link is broken or a process stands still, in seconds, at least and at most; at most longer with a long
#: lease.  A node gives a statement up after 10, and a client a request after 30: what arrives later is to be seen, too.
BROKEN_FOR = (0.5, 40.0)
#: From the moment when an admin asks a node to drain until it is started again, in seconds.
DRAINED_FOR = (2.0, 10.0)
#: Between two attempts at what fails because something else is broken, in seconds.
TRY_AGAIN_AFTER = 1.0
#: What still fails after that has failed, in seconds: longer than what it needs is ever broken.
PASSES_WITHIN = 120.0


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
    """See :class:`flux.bench.cluster.Cluster`; each of its faults says which resource suffers it.

    Clients log in at one node after the other: with another balancer all would go where nobody is, and who has logged
    in there in vain would not be anywhere else by the time when something of that arrives.
    """

    def __init__(self, reactor: Any, directory: Path, lease: float = 10.0, only: str = "") -> None:
        super().__init__(reactor, directory, lease=lease, only=only, balancer="round_robin")

    def disturb(self, rng: random.Random) -> None:
        """See :meth:`flux.bench.installation.Installation.disturb`."""
        rng.choice(self.nodes).clients.lose_one(rng)

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
            start = partial(self._start_again, server)
            what[f"{name} killed"] = self._away(server, server.kill, start, DEAD_FOR)
            what[f"{name} stopped"] = self._away(server, server.stop, start, DEAD_FOR)
            drain, restart = partial(self._drain_whenever, node), partial(self._after_drain, node)
            what[f"{name} drained"] = self._away(server, drain, restart, DRAINED_FOR)
            what[f"{name} paused"] = server.pause, server.resume, long
            broken(node.redis, name, RedisServer.name)
            broken(node.postgres, name, PostgresServer.name)
            broken(node.clients, "clients", name)
        status = self.status_server
        what["status killed"] = self._away(status, status.kill, partial(self._start_again, status), DEAD_FOR)
        what["status paused"] = status.pause, status.resume, long
        for engine in (self.redis, self.postgres):
            kill, start_engine = (partial(in_thread, self._reactor, do) for do in (engine.kill, engine.start))
            what[f"{engine.name} killed"] = self._away(engine, kill, start_engine, DEAD_FOR)
        what[f"{RedisServer.name} emptied"] = partial(in_thread, self._reactor, self.redis.empty), nothing, (0.0, 0.0)
        return what

    def _away(
        self,
        process: FluxServer | Engine,
        ended: Callable[[], Awaitable[object]],
        started: Callable[[], Awaitable[object]],
        lasts: tuple[float, float],
    ) -> What:
        """A process that has to end, and is started again: in between it may end by itself, too."""

        async def leave() -> None:
            self.absent.add(process)
            await ended()

        async def come_back() -> None:
            await started()
            self.absent.discard(process)

        return leave, come_back, lasts

    async def _drain_whenever(self, node: Node) -> None:
        """An admin takes a node out of service, who may find that nobody can be asked just now."""
        assert self.status is not None
        await self._insist(partial(self.status.drain, node.name), FluxError, ClientError, DeadlineExceeded)

    async def _after_drain(self, node: Node) -> None:
        """Start it again, if it has not ended by now as well; it does not go on draining."""
        assert self.status is not None
        await node.server.stop()
        with contextlib.suppress(NotFound):
            await self._insist(partial(self.status.resume, node.name), Unavailable, ClientError, DeadlineExceeded)
        await self._start_again(node.server)

    async def _start_again(self, server: FluxServer) -> None:
        """As a supervisor does.

        :raises flux.bench.servers.ServerFailed: it does not serve.
        """

        async def start() -> None:
            try:
                await server.start()
            except ServerFailed:
                await server.kill()
                raise

        await self._insist(start, ServerFailed)

    async def _insist(self, attempt: Callable[[], Awaitable[object]], *passing: type[Exception]) -> None:
        """Repeat ``attempt`` while it fails with something that passes.

        :raises Exception: one of these, after ``PASSES_WITHIN``.
        """
        deadline = self._reactor.seconds() + PASSES_WITHIN
        while True:
            try:
                await attempt()
            except passing:
                if self._reactor.seconds() > deadline:
                    raise
                await sleep(TRY_AGAIN_AFTER, self._reactor)
            else:
                return
