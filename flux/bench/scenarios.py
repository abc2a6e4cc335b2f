"""What ``flux bench`` does to a server, and what comes out.

Every run has a server process of its own, on an empty database, alone on one processor; the
load runs in this process, on another.  ``pairs`` and ``group`` run against flux and against the
bare relay by turns, round after round, so that a machine that slows down slows both::

    round 1   relay  flux
    round 2   relay  flux       each ratio compares the two runs of one round;
    round 3   relay  flux       the reported figures are medians over the rounds
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hdrh.histogram import HdrHistogram

from flux.bench.load import Client, Load, Measured, Tally
from flux.bench.logins import close, log_in, login_line, tokens
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

Scenario = Literal["pairs", "group", "login", "idle"]
Subject = Literal["relay", "flux"]
SCENARIOS: tuple[Scenario, ...] = ("pairs", "group", "login", "idle")
SUBJECTS: tuple[Subject, ...] = ("relay", "flux")

#: Members of the group who send; the others only listen.
SENDERS = 10
#: Before the measured stretch of a run, as a share of it.
WARM_UP = 0.25
#: Sessions opened before memory is first looked at, so that what is loaded once is not counted.
FIRST_SESSIONS = 100

Progress = Callable[[float], None]
"""Told the share of a run that is done, 0 to 1."""


@dataclass(frozen=True)
class Plan:
    """How large and how long.

    :ivar clients: connections of ``pairs``, an even number.
    :ivar sessions: logins of ``login``, sessions of ``idle``.
    :ivar seconds: measured of each run; how long idle sessions are watched.
    :ivar directory: where databases go while they are needed.
    """

    clients: int
    sessions: int
    group_size: int
    seconds: float
    directory: Path


@dataclass(frozen=True)
class Percentiles:
    """Of times, in milliseconds."""

    p50: float
    p99: float
    p999: float


@dataclass(frozen=True)
class Run:
    """One run of a load.

    :ivar rate: deliveries (or logins) per second.
    :ivar cpu: server CPU per delivery (or login), in microseconds.
    :ivar load_share: of its processor that the load took; near 1 it was the bottleneck, not the server.
    :ivar delivery: from sending to arrival at a receiver.
    :ivar commit: from sending to ``send.ok``.
    """

    scenario: Scenario
    subject: Subject
    in_flight: int
    rate: float
    cpu: float
    load_share: float
    delivery: Percentiles | None = None
    commit: Percentiles | None = None
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True)
class Idle:
    """Sessions that do nothing.

    :ivar memory: growth of the server per session, in bytes.
    :ivar cpu_share: of a processor that the server takes to keep them.
    """

    sessions: int
    memory: float
    cpu_share: float


def talk(plan: Plan, scenario: Scenario, subject: Subject, in_flight: int, progress: Progress) -> Run:
    """Run ``pairs`` or ``group`` once.

    :raises flux.bench.load.LoadFailed: the server did not do its part.
    """
    grouped = scenario == "group"
    count = plan.group_size if grouped else plan.clients
    start = _relay if subject == "relay" else _flux
    with start(plan, count, count if grouped else 0) as (server, port, lines, group):
        sockets = log_in(port, lines, lambda share: None)
        try:
            clients = [
                Client(
                    sock,
                    f"{index:06}",
                    b'"group":%d' % group if grouped else b'"to":%d' % ((index ^ 1) + 1),
                    in_flight if not grouped or index < SENDERS else 0,
                )
                for index, sock in enumerate(sockets)
            ]
            load = Load(clients, server.cpu_seconds, progress)
            measured = load.run(WARM_UP * plan.seconds, plan.seconds, receivers=count - 1 if grouped else 1)
        finally:
            close(sockets)
    return _run(scenario, subject, in_flight, measured)


def log_everybody_in(plan: Plan, progress: Progress) -> Run:
    """Run ``login`` once."""
    with _flux(plan, plan.sessions, 0) as (server, port, lines, _):
        cpu, own, start = server.cpu_seconds(), time.process_time(), time.monotonic()
        sockets = log_in(port, lines, progress)
        taken = time.monotonic() - start
        cpu, own = server.cpu_seconds() - cpu, time.process_time() - own
        close(sockets)
    return Run("login", "flux", 0, plan.sessions / taken, cpu / plan.sessions * 1e6, own / taken)


def rest(plan: Plan, progress: Progress) -> Idle:
    """Run ``idle`` once."""
    with _flux(plan, FIRST_SESSIONS + plan.sessions, 0) as (server, port, lines, _):
        sockets = log_in(port, lines[:FIRST_SESSIONS], lambda share: None)
        try:
            before = server.resident()
            sockets += log_in(port, lines[FIRST_SESSIONS:], lambda share: progress(share * 0.8))
            cpu, start = server.cpu_seconds(), time.monotonic()
            while (passed := time.monotonic() - start) < plan.seconds:
                progress(0.8 + 0.2 * passed / plan.seconds)
                time.sleep(0.1)
            return Idle(
                plan.sessions,
                (server.resident() - before) / plan.sessions,
                (server.cpu_seconds() - cpu) / (time.monotonic() - start),
            )
        finally:
            close(sockets)


def make_room(connections: int) -> None:
    """Raise the limit of open files as far as it goes.

    :raises flux.bench.servers.ServerFailed: the hard limit is too low.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < connections + 100:
        raise ServerFailed(f"{connections} connections need a higher limit of open files than {hard} (ulimit -Hn)")


Started = tuple[ServerProcess, int, Sequence[bytes], int]
"""The server, the port for clients, the first line of each, and the id of the group they are in."""


@contextlib.contextmanager
def _relay(plan: Plan, clients: int, group_size: int) -> Iterator[Started]:
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
            yield server, int(output.read_text()), rooms, 0


@contextlib.contextmanager
def _flux(plan: Plan, clients: int, group_size: int) -> Iterator[Started]:
    with _pinned(plan.directory) as (cpus, directory):
        database = directory / "flux.db"
        populated = subprocess.run(
            [sys.executable, "-m", "flux.bench.population", str(database), str(clients), str(group_size)],
            check=True,
            capture_output=True,
        )
        chat_port, status_port = free_port(), free_port()
        arguments = twistd("flux", flux_settings(chat_port, status_port, database))
        with ServerProcess(arguments, directory / "output", cpus) as server:
            server.wait_until_listening(status_port, chat_port)
            token = tokens(status_port, range(1, clients + 1))
            lines = [login_line(uid, token[uid]) for uid in range(1, clients + 1)]
            yield server, chat_port, lines, int(populated.stdout)


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


def _run(scenario: Scenario, subject: Subject, in_flight: int, measured: Measured) -> Run:
    return Run(
        scenario,
        subject,
        in_flight,
        measured.delivered / measured.seconds,
        measured.server_cpu / max(measured.delivered, 1) * 1e6,
        measured.load_cpu / measured.seconds,
        _percentiles(measured.delivery),
        _percentiles(measured.commit),
        measured.total,
    )


def _percentiles(histogram: HdrHistogram) -> Percentiles:
    p50, p99, p999 = (histogram.get_value_at_percentile(percent) / 1000 for percent in (50, 99, 99.9))
    return Percentiles(p50, p99, p999)
