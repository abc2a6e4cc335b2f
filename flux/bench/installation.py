"""What a verification puts clients on: somebody's server, one of its own, or (:mod:`flux.bench.cluster`) many.

An installation says where clients go and which *faults* can be made in it.  A fault is injected, lasts, and is
repaired; whoever runs through the list need not know what any of them does.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.threads import deferToThreadPool

from flux.bench.servers import ServerProcess, flux_settings, free_port, twistd
from flux.client import HostPort, StatusClient

T = TypeVar("T")

#: How long a killed server stays dead, in seconds.
DEAD_FOR = (0.0, 0.3)


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    :ivar name: reads as a sentence: "chat2 killed".
    :ivar inject: makes it so; returns when it is.
    :ivar repair: ends it; returns when everything serves again.
    :ivar lasts: from the one to the other, in seconds: at least and at most.
    :ivar resource: what suffers it, where several faults may be on at the same time: a process, a link.
    """

    name: str
    inject: Callable[[], Awaitable[None]]
    repair: Callable[[], Awaitable[None]]
    lasts: tuple[float, float]
    resource: str = ""


class Installation:
    """Servers with chat ports.

    :ivar addresses: of the chat ports.
    :ivar tls: whether connections to them begin with TLS.
    :ivar trust: whose certificates theirs must be signed by; None: those the system trusts.
    :ivar status: the service that gives users their servers; None: they know them.
    """

    def __init__(self, addresses: Sequence[tuple[str, int]], tls: bool = False, trust: Any = None) -> None:
        self.addresses = [HostPort(*address) for address in addresses]
        self.tls = tls
        self.trust = trust
        self.status: StatusClient | None = None

    @property
    def faults(self) -> list[Fault]:
        """What is to go wrong, in this order; or, where faults overlap, what can."""
        return []

    async def start(self) -> None:
        """Return when it serves.

        :raises flux.bench.servers.ServerFailed: it does not.
        """

    def disturb(self, rng: random.Random) -> None:
        """Let the connection of some client break, where that can be done."""

    def check(self) -> None:
        """:raises flux.bench.servers.ServerFailed: a process of it has ended by itself."""

    async def close(self) -> None:
        """Leave nothing running. May be called at any time, and more than once."""


class FluxServer:
    """A process of flux, to be killed, stopped in its tracks, and started again.

    :param command: see :func:`flux.bench.servers.twistd`.
    :param ports: on which it listens when it serves.
    :ivar output: the file that takes what it prints.
    """

    def __init__(self, reactor: Any, command: Sequence[str], ports: Sequence[int], output: Path) -> None:
        self._reactor = reactor
        self._command = command
        self._ports = ports
        self.output = output
        self._process: ServerProcess | None = None

    async def start(self) -> None:
        """Start it, and return when it listens.

        :raises flux.bench.servers.ServerFailed: it does not.
        """
        self._process = process = await in_thread(self._reactor, lambda: ServerProcess(self._command, self.output))
        await in_thread(self._reactor, lambda: process.wait_until_listening(*self._ports))

    def check(self) -> None:
        """:raises flux.bench.servers.ServerFailed: it has ended by itself."""
        if self._process is not None:
            self._process.check()

    async def pause(self) -> None:
        """SIGSTOP."""
        if self._process is not None:
            self._process.signal(signal.SIGSTOP)

    async def resume(self) -> None:
        """SIGCONT."""
        if self._process is not None:
            self._process.signal(signal.SIGCONT)

    async def ended(self) -> int:
        """Wait until it has ended by itself, as one that was drained does; its exit status.

        :raises flux.bench.servers.ServerFailed: it does not end.
        """
        process, self._process = self._process, None
        assert process is not None
        return await in_thread(self._reactor, process.wait)

    async def stop(self) -> None:
        """SIGTERM; returns when it is gone."""
        process, self._process = self._process, None
        if process is not None:
            await in_thread(self._reactor, process.stop)

    async def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        process, self._process = self._process, None
        if process is not None:
            await in_thread(self._reactor, process.kill)


class SingleServer(Installation):
    """``twistd flux`` on ports and data of its own, which is killed ``kills`` times.

    :param directory: where its data goes, and what it prints.
    """

    def __init__(self, reactor: Any, directory: Path, kills: int) -> None:
        port = free_port()
        super().__init__([("127.0.0.1", port)])
        settings = flux_settings(port, free_port()) | {"store.path": str(directory / "flux.db")}
        self._server = FluxServer(reactor, twistd("flux", settings), [port], directory / "output")
        self._kills = kills

    @property
    def faults(self) -> list[Fault]:
        """Kills."""
        return [Fault("killed", self._server.kill, self._server.start, DEAD_FOR)] * self._kills

    async def start(self) -> None:
        """See :meth:`Installation.start`."""
        await self._server.start()

    def check(self) -> None:
        """See :meth:`Installation.check`."""
        self._server.check()

    async def close(self) -> None:
        """See :meth:`Installation.close`."""
        await self._server.kill()


async def in_thread(reactor: Any, call: Callable[[], T]) -> T:
    """What ``call`` returns, which takes its time."""
    result: T = await deferToThreadPool(reactor, reactor.getThreadPool(), call)
    return result
