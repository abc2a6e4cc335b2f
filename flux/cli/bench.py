"""``flux bench``: throughput, latency and memory, against a bare relay on the same machine."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from rich.console import Console

from flux.bench import report
from flux.bench.disk import sync_latency
from flux.bench.judgement import all_hold
from flux.bench.load import LoadFailed
from flux.bench.scenarios import (
    SCENARIOS,
    Idle,
    Plan,
    Run,
    Scenario,
    assign,
    log_everybody_in,
    make_room,
    rest,
    talk,
)
from flux.bench.servers import ServerFailed
from flux.bench.subjects import Subject
from flux.cli.numbers import at_least, even
from flux.cli.progress import ProgressBar
from flux.cli.shown import say

SERVERS: tuple[Subject, ...] = ("flux", "cluster")

Step = tuple[Scenario, Subject, int, int]
"""A run to come: its scenario, the server, messages in flight, the number of the round."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``flux bench``."""
    parser.add_argument(
        "--scenario",
        nargs="+",
        choices=SCENARIOS,
        default=list(SCENARIOS),
        help="pairs: clients talk in twos; group: all in one; login: logins by token; idle: memory of sessions that "
        "do nothing; assign: get_chat_server, pipelined (default: all)",
    )
    parser.add_argument(
        "--server",
        nargs="+",
        choices=SERVERS,
        default=["flux"],
        help="flux: on SQLite and memory; cluster: on a PostgreSQL and a Redis of its own, from this machine or the "
        "extra flux-messenger[servers], on the same processor as the server (flux)",
    )
    parser.add_argument("--clients", type=even, default=200, metavar="N", help="clients of pairs (200)")
    parser.add_argument(
        "--in-flight",
        type=at_least(1),
        nargs="+",
        default=[1, 8],
        metavar="W",
        help="messages each sender has under way (1 and 8)",
    )
    parser.add_argument("--group-size", type=at_least(2), default=500, metavar="G", help="members of the group (500)")
    parser.add_argument("--sessions", type=at_least(1), default=5000, metavar="N", help="of login and idle (5000)")
    parser.add_argument("--seconds", type=float, default=4.0, metavar="S", help="measured in each run (4)")
    parser.add_argument("--rounds", type=at_least(1), default=3, metavar="R", help="times each load is run (3)")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(tempfile.gettempdir()),
        metavar="DIR",
        help="where the databases go for a while",
    )
    parser.add_argument("--json", action="store_true", help="print figures for programs instead of tables")


def run(args: argparse.Namespace) -> int:
    """Measure, and return 0; 1 when messages were lost, duplicated or reordered or a promise does not hold, 2 when it
    could not be measured."""
    output, status = Console(), Console(stderr=True)
    steps = _steps(args)
    plan = Plan(args.clients, args.sessions, args.group_size, args.seconds, args.data)
    try:
        args.data.mkdir(parents=True, exist_ok=True)
        make_room(max(args.clients, args.group_size, args.sessions))
        sync = sync_latency(args.data)
        with ProgressBar(status, len(steps)) as bar:
            runs, idle = _measure(args, plan, steps, bar)
    except (LoadFailed, ServerFailed, OSError) as error:
        say(status, f"cannot measure: {error}")
        return 2
    summaries = report.summarise(runs)
    if args.json:
        print(json.dumps(report.as_json(summaries, idle, sync), indent=2))
    else:
        report.show(output, summaries, idle, sync)
    return 0 if report.sound(summaries) and all_hold(report.judge(summaries)) else 1


def _steps(args: argparse.Namespace) -> list[Step]:
    servers: list[Subject] = [server for server in SERVERS if server in args.server]
    steps: list[Step] = []
    for scenario in (scenario for scenario in SCENARIOS if scenario in args.scenario):
        if scenario in ("pairs", "group"):
            for in_flight in args.in_flight:
                for number in range(args.rounds):
                    steps += [(scenario, subject, in_flight, number) for subject in ("relay", *servers)]
        elif scenario == "idle":
            steps += [(scenario, subject, 0, 0) for subject in servers]
        else:
            steps += [(scenario, subject, 0, number) for number in range(args.rounds) for subject in servers]
    return steps


def _measure(args: argparse.Namespace, plan: Plan, steps: list[Step], bar: ProgressBar) -> tuple[list[Run], list[Idle]]:
    runs: list[Run] = []
    idle: list[Idle] = []
    for scenario, subject, in_flight, number in steps:
        of = f"{subject}, round {number + 1} of {args.rounds}"
        if scenario == "idle":
            idle.append(rest(plan, subject, bar.step(f"{plan.sessions:,} idle sessions: {subject}")))
        elif scenario == "login":
            runs.append(log_everybody_in(plan, subject, bar.step(f"{plan.sessions:,} logins: {of}")))
        elif scenario == "assign":
            runs.append(assign(plan, subject, bar.step(f"assignments: {of}")))
        else:
            progress = bar.step(f"{scenario} W={in_flight}: {of}")
            runs.append(talk(plan, scenario, subject, in_flight, progress))
    return runs, idle
