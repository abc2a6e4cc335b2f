"""``flux bench nodes``: what only several processes show: messages from node to node, storms of connections."""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from flux.bench import across, storm
from flux.bench.across import Across
from flux.bench.judgement import all_hold, as_table
from flux.bench.load import LoadFailed, Tally
from flux.bench.scenarios import make_room
from flux.bench.servers import ServerFailed
from flux.bench.storm import Storm
from flux.cli.progress import ProgressBar
from flux.cli.shown import say

SCENARIOS = ("across", "storm")
#: From which share of the processor on messages wait for it, as each of them needs it several times.
TOO_BUSY = 0.9
_MB = 1e6


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``flux bench nodes``."""
    parser.add_argument(
        "--scenario",
        nargs="+",
        choices=SCENARIOS,
        default=list(SCENARIOS),
        help=f"across: {across.PACE:.0f} messages a second between two nodes; storm: many new clients, as many again "
        "when they have gone, and many that come back at once after a restart, while others chat (both)",
    )
    parser.add_argument(
        "--seconds", type=float, default=15.0, metavar="S",
        help=f"measured of each of the two ways of across, which take turns in {across.PARTS} parts (15)",
    )  # fmt: skip
    parser.add_argument(
        "--rate", type=float, default=200.0, metavar="N", help="new clients a second of the storm (200)"
    )
    parser.add_argument(
        "--storm", type=float, default=60.0, metavar="S", help="how long they come each time, in seconds (60)"
    )
    parser.add_argument("--returning", type=int, default=2000, metavar="N", help="who comes back at once (2000)")
    parser.add_argument(
        "--data", type=Path, default=Path(tempfile.gettempdir()), metavar="DIR", help="where databases go for a while"
    )
    parser.add_argument("--json", action="store_true", help="print figures for programs instead of tables")


def run(args: argparse.Namespace) -> int:
    """Measure, and return 0; 1 when a promise does not hold, 2 when it could not be measured."""
    output, status = Console(), Console(stderr=True)
    between: Across | None = None
    many: Storm | None = None
    try:
        args.data.mkdir(parents=True, exist_ok=True)
        make_room(max(round(args.rate * args.storm), args.returning))
        with ProgressBar(status, len(args.scenario)) as bar:
            if "across" in args.scenario:
                between = across.measure(args.data, args.seconds, bar.step("messages between two nodes"))
            if "storm" in args.scenario:
                step = bar.step(f"{args.rate:g} new clients a second, and {args.returning:,} at once")
                many = storm.measure(args.data, args.rate, args.storm, args.returning, step)
    except (LoadFailed, ServerFailed, OSError) as error:
        say(status, f"cannot measure: {error}")
        return 2
    judgements = [*(across.judge(between) if between else ()), *(storm.judge(many) if many else ())]
    if args.json:
        figures = {
            "across": asdict(between) if between else None,
            "storm": asdict(many) if many else None,
            "judgements": [asdict(each) for each in judgements],
        }
        print(json.dumps(figures, indent=2))
    else:
        if between:
            output.print(_across(between))
        if many:
            output.print(_storm(many), _meanwhile(many))
        output.print(as_table(judgements))
    return 0 if all_hold(judgements) else 1


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, box=SIMPLE, title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _faults(tally: Tally) -> tuple[str, str, str]:
    return str(tally.lost), str(tally.duplicated), str(tally.reordered)


def _across(between: Across) -> Table:
    table = _table(
        "from sending to arrival, in ms",
        "p50", "p99", "p99.9", "CPU µs", "busy", "lost", "duplicated", "reordered",
    )  # fmt: skip
    ways = zip(
        ("same node", "two nodes"),
        (between.same, between.between),
        between.cpu,
        between.busy,
        between.tallies,
        strict=True,
    )
    for name, times, cpu, busy, tally in ways:
        percentiles = (f"{each:.2f}" for each in (times.p50, times.p99, times.p999))
        table.add_row(name, *percentiles, f"{cpu:,.0f}", f"{busy:.0%}", *_faults(tally))
    parts = zip(between.added, between.counted, strict=True)
    table.caption = "p50 added, part by part: " + ", ".join(
        f"{added:+.2f}" if counted else f"({added:+.2f})" for added, counted in parts
    )
    if not all(between.counted):
        table.caption += "\nLeft out, in brackets: parts in which the same messages took more of the processor."
    if max(between.busy) > TOO_BUSY:
        table.caption += "\nThe processor was full: what is added is mostly the time that messages wait for it."
    table.caption_justify = "left"
    return table


def _storm(many: Storm) -> Table:
    table = _table(
        "clients at once; times in ms",
        "clients",
        "all in after s",
        "came again",
        "refused",
        "cut off",
        "login p50",
        "p99",
    )
    for phase in many.phases:
        table.add_row(
            phase.name,
            f"{phase.sessions:,}",
            f"{phase.seconds:.1f}",
            str(phase.retries),
            str(phase.refused),
            str(phase.cut_off),
            *(f"{value:.1f}" for value in (phase.login_p50, phase.login_p99)),
        )
    return table


def _meanwhile(many: Storm) -> Table:
    table = _table(
        "messages of the others meanwhile, in ms, and memory of both nodes then",
        "p50", "p99", "lost", "duplicated", "reordered", "memory MB",
    )  # fmt: skip
    table.add_row("before", "", "", "", "", "", f"{many.memory_before / _MB:.0f}")
    for each in many.meanwhile:
        table.add_row(
            each.name, f"{each.delivery_p50:.1f}", f"{each.delivery_p99:.1f}", *_faults(each.tally),
            f"{each.memory / _MB:.0f}",
        )  # fmt: skip
    return table
