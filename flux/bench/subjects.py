"""What ``flux bench`` measures: the bare relay, flux on SQLite, flux on PostgreSQL and Redis.

::

    relay     flux.bench.relay
    flux      twistd flux                               SQLite, memory
    cluster   twistd flux, PostgreSQL, Redis            the databases on the server's processor

Each is started for one run, with accounts that nobody needs a password for, and gone afterwards.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flux.bench.engines import PostgresServer, RedisServer
from flux.bench.logins import login_line, tokens
from flux.bench.servers import (
    START_WITHIN,
    ServerFailed,
    ServerProcess,
    flux_settings,
    free_port,
    processors,
    python,
    twistd,
)

Subject = Literal["relay", "flux", "cluster"]
SUBJECTS: tuple[Subject, ...] = ("relay", "flux", "cluster")


@dataclass(frozen=True)
class Running:
    """A server that listens.

    :ivar port: for clients.
    :ivar status_port: of the status service; 0 where there is none.
    :ivar lines: the first line of each client.
    :ivar group: the group they are in, if they share one.
    """

    process: ServerProcess
    port: int
    status_port: int
    lines: Sequence[bytes]
    group: int


@contextlib.contextmanager
def running(subject: Subject, parent: Path, clients: int, group_size: int) -> Iterator[Running]:
    """Start ``subject`` for ``clients``, of whom the first ``group_size`` share a group.

    :param parent: where databases go.
    :raises flux.bench.servers.ServerFailed: it does not come up.
    """
    start = _relay if subject == "relay" else _flux
    with start(subject, parent, clients, group_size) as server:
        yield server


@contextlib.contextmanager
def _relay(subject: Subject, parent: Path, clients: int, group_size: int) -> Iterator[Running]:
    with _pinned() as (cpus, directory):
        output = directory / "output"
        with ServerProcess(python("-m", "flux.bench.relay"), output, cpus) as server:
            deadline = time.monotonic() + START_WITHIN
            while not output.read_text().endswith("\n"):
                server.check()
                if time.monotonic() > deadline:
                    raise ServerFailed("the relay does not start")
                time.sleep(0.005)
            rooms = [b"room-%d\n" % (0 if group_size else index // 2) for index in range(clients)]
            yield Running(server, int(output.read_text()), 0, rooms, 0)


@contextlib.contextmanager
def _flux(subject: Subject, parent: Path, clients: int, group_size: int) -> Iterator[Running]:
    with _pinned(parent) as (cpus, directory), contextlib.ExitStack() as running:
        backends = {"store.path": str(directory / "flux.db")}
        if subject == "cluster":
            backends = running.enter_context(engines(directory, cpus)).settings
        group = populate(backends, clients, group_size)
        chat_port, status_port = free_port(), free_port()
        settings = flux_settings(chat_port, status_port) | backends
        with ServerProcess(twistd("flux", settings), directory / "output", cpus) as server:
            server.wait_until_listening(status_port, chat_port)
            token = tokens(status_port, range(1, clients + 1))
            lines = [login_line(uid, token[uid]) for uid in range(1, clients + 1)]
            yield Running(server, chat_port, status_port, lines, group)


@dataclass(frozen=True)
class Nodes:
    """Chat nodes of one cluster, each a process.

    :ivar commands: that start them.
    :ivar status_port: of its status process.
    """

    processes: Sequence[ServerProcess]
    commands: Sequence[Sequence[str]]
    ports: Sequence[int]
    status_port: int
    directory: Path
    cpus: Sequence[int]
    engines: Engines

    def cpu_seconds(self) -> float:
        """CPU time of all nodes, of PostgreSQL and of Redis so far."""
        return sum(process.cpu_seconds() for process in self.processes) + self.engines.cpu_seconds()


@contextlib.contextmanager
def nodes(parent: Path, count: int, accounts: int) -> Iterator[Nodes]:
    """Start a PostgreSQL, a Redis, a status process and ``count`` chat nodes, all on one processor.

    :raises flux.bench.servers.ServerFailed: one of them does not come up.
    """
    with _pinned(parent) as (cpus, directory), contextlib.ExitStack() as running:
        used = running.enter_context(engines(directory, cpus))
        settings = used.settings
        populate(settings, accounts, 0)
        status_port = free_port()
        ports = [free_port() for _ in range(count)]
        commands = [twistd("flux-status", flux_settings(0, status_port) | settings)]
        commands += [
            twistd("flux-chat", flux_settings(port, 0) | settings | {"chat.name": f"chat{number}"})
            for number, port in enumerate(ports, 1)
        ]
        processes = [
            running.enter_context(ServerProcess(command, directory / f"output{number}", cpus))
            for number, command in enumerate(commands)
        ]
        for process, port in zip(processes, [status_port, *ports], strict=True):
            process.wait_until_listening(port)
        yield Nodes(processes[1:], commands[1:], ports, status_port, directory, cpus, used)


@dataclass(frozen=True)
class Engines:
    """A PostgreSQL and a Redis."""

    postgres: PostgresServer
    redis: RedisServer

    @property
    def settings(self) -> dict[str, str]:
        """Of a server that uses them."""
        return {
            "store.kind": "postgres",
            "store.dsn": self.postgres.dsn,
            "state.kind": "redis",
            "state.url": self.redis.url,
        }

    def cpu_seconds(self) -> float:
        """CPU time of both so far."""
        return sum(each.process.family_cpu_seconds() for each in (self.postgres, self.redis) if each.process)


@contextlib.contextmanager
def engines(directory: Path, cpus: Sequence[int] = ()) -> Iterator[Engines]:
    """Start a PostgreSQL and a Redis.

    :raises flux.bench.servers.ServerFailed: one of them does not come up.
    """
    with contextlib.ExitStack() as running:
        postgres = PostgresServer(directory / "postgres")
        running.callback(postgres.close)
        redis = RedisServer(directory / "redis")
        running.callback(redis.close)
        postgres.start(cpus)
        redis.start(cpus)
        yield Engines(postgres, redis)


def populate(settings: Mapping[str, str], accounts: int, group_size: int) -> int:
    """Create accounts 1, 2, ... in an empty store, and a group of the first; the group's id.

    :raises flux.bench.servers.ServerFailed: with what the store had to say.
    """
    overrides = [f"{key}={value}" for key, value in settings.items()]
    populated = subprocess.run(
        [sys.executable, "-m", "flux.bench.population", str(accounts), str(group_size), *overrides],
        check=False,
        capture_output=True,
        text=True,
    )
    if populated.returncode:
        raise ServerFailed(f"the accounts could not be made:\n{populated.stderr[-4000:]}")
    return int(populated.stdout)


@contextlib.contextmanager
def _pinned(parent: Path | None = None) -> Iterator[tuple[Sequence[int], Path]]:
    """This process on the processor of the load; yields those of the server, and a directory."""
    everywhere = os.sched_getaffinity(0)
    for_server, for_load = processors()
    with tempfile.TemporaryDirectory(prefix="flux-bench-", dir=parent) as directory:
        os.sched_setaffinity(0, for_load)
        try:
            yield for_server, Path(directory)
        finally:
            os.sched_setaffinity(0, everywhere)
