"""``flux bench store``: what a pool of connections and what group commit bring, as a table and a plot."""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from flux.assembly import make_store
from flux.bench.disk import sync_latency
from flux.bench.engines import PostgresServer
from flux.bench.servers import ServerFailed
from flux.bench.stores import SENDERS, AppendFailed, Case, Outcome, cases, measure
from flux.cli.progress import ProgressBar
from flux.cli.shown import say
from flux.config import load
from flux.errors import FluxError
from flux.lifecycle import CannotStart, react

STORES = ("sqlite", "postgres")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``flux bench store``."""
    parser.add_argument(
        "--store",
        nargs="+",
        choices=STORES,
        default=list(STORES),
        help="sqlite, and a postgres of its own from this machine or the extra flux-messenger[servers] (both)",
    )
    parser.add_argument(
        "--pool",
        type=int,
        nargs="+",
        default=[1, 2, 4, 8],
        choices=range(1, 33),
        metavar="N",
        help="appends at the same time where each message is a call of its own; of postgres also its connections "
        "(1 2 4 8)",
    )
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="measured of each case (3)")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw it; needs the extra flux-messenger[bench]")
    parser.add_argument(
        "--data", type=Path, default=Path(tempfile.gettempdir()), metavar="DIR", help="where databases go for a while"
    )
    parser.add_argument("--json", action="store_true", help="print figures for programs instead of a table")


def run(args: argparse.Namespace) -> int:
    """Measure, and return 0; 2 when it could not be measured."""
    output, status = Console(), Console(stderr=True)
    outcomes: list[Outcome] = []
    problems: list[str] = []

    async def all_cases(reactor: Any) -> None:
        planned = cases([store for store in STORES if store in args.store], args.pool)
        try:
            with tempfile.TemporaryDirectory(prefix="flux-bench-", dir=args.data) as directory:
                await _measure(planned, Path(directory), args.seconds, reactor, status, outcomes)
        except (AppendFailed, CannotStart, FluxError, OSError, ServerFailed) as error:
            problems.append(str(error))

    if args.plot is not None:
        try:
            from flux.bench.plot import draw
        except ImportError:
            say(status, "--plot needs matplotlib: pip install 'flux-messenger[bench]'")
            return 2
    try:
        args.data.mkdir(parents=True, exist_ok=True)
        sync = sync_latency(args.data)
    except OSError as error:
        say(status, f"cannot measure: {error}")
        return 2
    if args.plot is not None:
        try:
            _try_to_write(args.plot)
        except OSError as error:
            say(status, f"--plot: cannot write {args.plot}: {error.strerror}")
            return 2
    with contextlib.suppress(SystemExit):  # which is how react always ends
        react(all_cases)
    if problems:
        say(status, f"cannot measure: {problems[0]}")
        return 2
    if args.json:
        print(json.dumps({"fsync_ms": sync * 1000, "outcomes": [asdict(outcome) for outcome in outcomes]}, indent=2))
    else:
        output.print(_table(outcomes))
        output.print(f"disk: a 4 KiB write is durable after {sync * 1000:.2f} ms (median)")
    if args.plot is not None:
        draw(outcomes, args.plot)
        say(status, f"drawn to {args.plot}")
    return 0


def _try_to_write(path: Path) -> None:
    """Find out whether a file can be written there; none is left where there was none.

    :raises OSError: it cannot.
    """
    new = not path.exists()
    path.open("ab").close()
    if new:
        path.unlink()


async def _measure(
    planned: list[Case], directory: Path, seconds: float, reactor: Any, status: Console, outcomes: list[Outcome]
) -> None:
    postgres = PostgresServer(directory / "postgres")
    try:
        if any(case.store == "postgres" for case in planned):
            postgres.start()
        with ProgressBar(status, len(planned)) as bar:
            for number, case in enumerate(planned):
                settings = [f"store.kind={case.store}", f"store.path={directory}/{number}.db"]
                if case.store == "postgres":
                    dsn = postgres.create_database(f"case{number}")
                    settings += [f"store.dsn={dsn}", f"store.pool={case.at_once}"]
                store = make_store(load(None, settings), reactor)
                await store.start()
                try:
                    outcomes.append(
                        await measure(store, case, seconds, reactor, bar.step(f"{case.store}: {case.label}"))
                    )
                finally:
                    await store.stop()
    finally:
        postgres.close()


def _table(outcomes: list[Outcome]) -> Table:
    table = Table(title=f"appends of {SENDERS} senders, each waiting for its receipt", box=SIMPLE, title_justify="left")
    table.add_column("store", no_wrap=True)
    table.add_column("appended", no_wrap=True)
    for heading in ("messages a second", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="right")
    for outcome in outcomes:
        table.add_row(
            outcome.case.store, outcome.case.label, f"{outcome.rate:,.0f}", f"{outcome.p50:.2f}", f"{outcome.p99:.2f}"
        )  # fmt: skip
    if any(outcome.case.store == "sqlite" for outcome in outcomes):
        table.caption = "sqlite: what is called at the same time is committed together."
        table.caption_justify = "left"
    return table
