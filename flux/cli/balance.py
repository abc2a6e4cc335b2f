"""``flux balance``: how evenly the balancers spread users, on a simulated clock."""

from __future__ import annotations

import argparse
import sys

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)

from flux.bench.placement import NAMED, Conditions, Outcome, Simulation
from flux.cli.numbers import at_least
from flux.cli.progress import ProgressBar
from flux.cli.shown import shown


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``flux balance``."""
    default = Conditions()
    parser.add_argument(
        "balancer", nargs="*", metavar="BALANCER",
        help=f"a name ({', '.join(NAMED)}) or the dotted path of your own (default: all that have a name)",
    )  # fmt: skip
    parser.add_argument("--servers", type=at_least(1), default=default.servers, help="chat servers (%(default)s)")
    parser.add_argument("--statuses", type=at_least(1), default=default.statuses, help="status processes (%(default)s)")
    parser.add_argument("--rate", type=at_least(1), default=default.rate, help="users a second (%(default)s)")
    parser.add_argument("--seconds", type=at_least(2), default=int(default.duration), help="how long (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="for another draw of everything that is random")


def run(args: argparse.Namespace) -> int:
    """Simulate, print a table, and return 0 if nobody was refused and no reservation is left over."""
    console = Console()
    errors = FilteringLogObserver(textFileLogObserver(sys.stderr), [LogLevelFilterPredicate(LogLevel.error)])
    globalLogBeginner.beginLoggingTo([errors], redirectStandardIO=False)
    conditions = Conditions(
        servers=args.servers, statuses=args.statuses, rate=args.rate, duration=float(args.seconds)
    )  # fmt: skip
    try:
        simulations = [Simulation(name, conditions, args.seed) for name in args.balancer or NAMED]
    except ValueError as error:
        print(f"flux balance: {shown(error)}", file=sys.stderr)
        return 2
    outcomes = []
    with ProgressBar(console, len(simulations)) as bar:
        for simulation in simulations:
            outcomes.append(simulation.run(bar.step(simulation.balancer)))
    console.print(_told(conditions))
    console.print(_table(outcomes))
    return 0 if all(not outcome.refused and not outcome.reserved for outcome in outcomes) else 1


def _told(conditions: Conditions) -> str:
    shortest, longest = conditions.login
    return (
        f"{conditions.rate:,} users a second for {conditions.duration:g} s on {conditions.servers} chat servers, "
        f"placed by {conditions.statuses} status processes {conditions.round_trip * 1000:g} ms away from the shared "
        f"state; heartbeats every {conditions.heartbeat:g} s, logins {shortest:g} to {longest:g} s after the "
        f"assignment, {conditions.abandoned:.0%} never come, {conditions.repeated:.0%} ask again."
    )


def _table(outcomes: list[Outcome]) -> Table:
    table = Table(box=SIMPLE)
    table.add_column("balancer", no_wrap=True)
    for heading in ("peak ÷ mean", "at the end", "sessions", "refused", "reserved left"):
        table.add_column(heading, justify="right")
    for outcome in outcomes:
        table.add_row(
            outcome.balancer,
            f"{outcome.worst:.3f}",
            f"{outcome.final:.3f}",
            f"{outcome.sessions:,}",
            f"{outcome.refused:,}",
            f"{outcome.reserved:,}",
        )
    return table
