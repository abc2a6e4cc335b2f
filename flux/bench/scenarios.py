"""What ``flux bench`` does to a server, and what comes out.

Every run has a server process of its own (``subjects.py``), on an empty database, alone on one
processor; the load runs in this process, on another.  ``pairs`` and ``group`` run against flux and
against the bare relay by turns, round after round, so that a machine that slows down slows both::

    round 1   relay  flux
    round 2   relay  flux       each ratio compares the two runs of one round;
    round 3   relay  flux       the reported figures are medians over the rounds
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from hdrh.histogram import HdrHistogram

from flux.bench.assignments import ask_for_servers
from flux.bench.load import Client, Load, Measured, Tally
from flux.bench.logins import close, log_in
from flux.bench.servers import ServerFailed, ServerProcess
from flux.bench.subjects import Subject, running

Scenario = Literal["pairs", "group", "login", "idle", "assign"]
SCENARIOS: tuple[Scenario, ...] = ("pairs", "group", "login", "idle", "assign")

#: Members of the group who send; the others only listen.
SENDERS = 10
#: Before the measured stretch of a run, as a share of it.
WARM_UP = 0.25
#: Who asks for a server in ``assign``.
ACCOUNTS = 5_000
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

    :ivar subject: the server that has them.
    :ivar memory: growth of the server per session, in bytes.
    :ivar cpu_share: of a processor that the server takes to keep them.
    """

    subject: Subject
    sessions: int
    memory: float
    cpu_share: float


def talk(plan: Plan, scenario: Scenario, subject: Subject, in_flight: int, progress: Progress) -> Run:
    """Run ``pairs`` or ``group`` once.

    :raises flux.bench.load.LoadFailed: the server did not do its part.
    """
    grouped = scenario == "group"
    count = plan.group_size if grouped else plan.clients
    with running(subject, plan.directory, count, count if grouped else 0) as server:
        sockets = log_in(server.port, server.lines, lambda share: None)
        try:
            clients = [
                Client(
                    sock,
                    f"{index:06}",
                    b'"group":%d' % server.group if grouped else b'"to":%d' % ((index ^ 1) + 1),
                    in_flight if not grouped or index < SENDERS else 0,
                )
                for index, sock in enumerate(sockets)
            ]
            load = Load(clients, server.process.cpu_seconds, progress)
            measured = load.run(WARM_UP * plan.seconds, plan.seconds, receivers=count - 1 if grouped else 1)
        finally:
            close(sockets)
    return _run(scenario, subject, in_flight, measured)


def log_everybody_in(plan: Plan, subject: Subject, progress: Progress) -> Run:
    """Run ``login`` once."""
    with running(subject, plan.directory, plan.sessions, 0) as server:
        with _Stopwatch(server.process) as spent:
            sockets = log_in(server.port, server.lines, progress)
        close(sockets)
    return spent.run("login", subject, plan.sessions)


def assign(plan: Plan, subject: Subject, progress: Progress) -> Run:
    """Run ``assign`` once: ``get_chat_server`` for one account a request, as many under way as the port takes."""
    with running(subject, plan.directory, ACCOUNTS, 0) as server, _Stopwatch(server.process) as spent:
        answered = ask_for_servers(server.status_port, ACCOUNTS, plan.seconds, progress)
    return spent.run("assign", subject, answered)


def rest(plan: Plan, subject: Subject, progress: Progress) -> Idle:
    """Run ``idle`` once."""
    with running(subject, plan.directory, FIRST_SESSIONS + plan.sessions, 0) as server:
        process, port, lines = server.process, server.port, server.lines
        sockets = log_in(port, lines[:FIRST_SESSIONS], lambda share: None)
        try:
            before = process.resident()
            sockets += log_in(port, lines[FIRST_SESSIONS:], lambda share: progress(share * 0.8))
            cpu, start = process.cpu_seconds(), time.monotonic()
            while (passed := time.monotonic() - start) < plan.seconds:
                progress(0.8 + 0.2 * passed / plan.seconds)
                time.sleep(0.1)
            return Idle(
                subject,
                plan.sessions,
                (process.resident() - before) / plan.sessions,
                (process.cpu_seconds() - cpu) / (time.monotonic() - start),
            )
        finally:
            close(sockets)


class _Stopwatch:
    """Time and CPU of what is done inside, by the server and by this process."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server

    def __enter__(self) -> Self:
        self._cpu, self._own, self._start = self._server.cpu_seconds(), time.process_time(), time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._start
        self.cpu = self._server.cpu_seconds() - self._cpu
        self.own = time.process_time() - self._own

    def run(self, scenario: Scenario, subject: Subject, count: int) -> Run:
        """``count`` things were done."""
        return Run(scenario, subject, 0, count / self.seconds, self.cpu / count * 1e6, self.own / self.seconds)


def make_room(connections: int) -> None:
    """Raise the limit of open files as far as it goes.

    :raises flux.bench.servers.ServerFailed: the hard limit is too low.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < connections + 100:
        raise ServerFailed(f"{connections} connections need a higher limit of open files than {hard} (ulimit -Hn)")


def _run(scenario: Scenario, subject: Subject, in_flight: int, measured: Measured) -> Run:
    return Run(
        scenario,
        subject,
        in_flight,
        measured.delivered / measured.seconds,
        measured.server_cpu / max(measured.delivered, 1) * 1e6,
        measured.load_cpu / measured.seconds,
        percentiles(measured.delivery),
        percentiles(measured.commit),
        measured.total,
    )


def percentiles(histogram: HdrHistogram) -> Percentiles:
    """Of a histogram of microseconds."""
    p50, p99, p999 = (histogram.get_value_at_percentile(percent) / 1000 for percent in (50, 99, 99.9))
    return Percentiles(p50, p99, p999)
