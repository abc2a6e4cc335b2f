"""``flux verify``: is every message delivered as promised, even by a server that is killed?

Clients talk in pairs and groups and record what they are promised and shown; at the end the
records are held against each other and against the history.  With ``--kill`` the server is one
of its own, which is killed with SIGKILL at random moments and started again on the same data.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from flux.bench.checker import count
from flux.bench.conversation import ConversationFailed
from flux.bench.servers import ServerFailed
from flux.bench.verification import Plan, Verdict, Verification, Victim
from flux.cli.progress import ProgressBar
from flux.client import Address, ClientError, parse_address
from flux.errors import FluxError
from flux.lifecycle import DeadlineExceeded

#: Messages per second of each client: below the default limit of somebody else's server.
RATE = 10.0
RATE_OF_OWN = 50.0
#: Anomalies that are printed one by one.
PRINTED = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``flux verify``."""
    parser.add_argument(
        "address",
        nargs="?",
        metavar="HOST:PORT",
        help="a running server (127.0.0.1:8090); accounts and groups named verify-... stay behind on it",
    )
    parser.add_argument("--kill", type=int, default=0, metavar="N", help="start a server, and kill it N times")
    parser.add_argument("--data", type=Path, metavar="DIR", help="data of the server to kill; kept (else temporary)")
    parser.add_argument("--clients", type=int, default=20, metavar="N", help="clients, an even number (20)")
    parser.add_argument("--groups", type=int, default=3, metavar="N", help="groups (3)")
    parser.add_argument("--group-size", type=int, default=6, metavar="N", help="members of each group (6)")
    parser.add_argument(
        "--rate",
        type=float,
        metavar="N",
        help=f"messages per second of each client ({RATE:g}; {RATE_OF_OWN:g} with --kill)",
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, metavar="S", help="how long they talk without --kill (10)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="repeats the random choices of an earlier run")
    parser.add_argument("--json", action="store_true", help="print the verdict for programs")


def run(args: argparse.Namespace) -> int:
    """Verify, and return 0; 1 when there was an anomaly, 2 when it could not be found out."""
    output, status = Console(), Console(stderr=True)
    try:
        plan = _plan(args)
        address = parse_address(args.address or "", Address("127.0.0.1", 8090))
    except ValueError as error:
        status.print(f"flux verify: {error}", markup=False)
        return 2
    verdicts: list[Verdict] = []

    async def verify(reactor: Any) -> None:
        with _directory(args.data) as directory, ProgressBar(status, 1) as bar:
            victim = Victim(reactor, directory) if plan.kills else None
            if victim is not None:
                # Also when this is interrupted, and the reactor stops with the coroutine in the middle.
                reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(victim.kill()))
            try:
                await _verify(reactor, plan, address, victim, bar, verdicts)
            except (ClientError, ConversationFailed, DeadlineExceeded, FluxError, OSError, ServerFailed) as error:
                status.print(f"cannot verify: {error}", markup=False)
            finally:
                if victim is not None:
                    await victim.kill()

    with contextlib.suppress(SystemExit):  # which is how react always ends
        react(verify)
    if not verdicts:
        return 2
    [verdict] = verdicts
    if args.json:
        print(json.dumps(_as_json(verdict), indent=2))
    else:
        show(output, verdict)
    return 1 if verdict.anomalies else 0


async def _verify(
    reactor: Any, plan: Plan, address: Address, victim: Victim | None, bar: ProgressBar, verdicts: list[Verdict]
) -> None:
    if victim is not None:
        await victim.start()
        await victim.listening()
        address = Address("127.0.0.1", victim.port)
    verdicts.append(await Verification(reactor, plan, address, victim, bar.show).run())


def _plan(args: argparse.Namespace) -> Plan:
    """:raises ValueError: arguments that make no sense."""
    if args.kill and args.address:
        raise ValueError("--kill starts a server of its own: leave HOST:PORT out")
    if args.data and not args.kill:
        raise ValueError("--data is for the server that --kill starts")
    if args.clients < 2 or args.clients % 2:
        raise ValueError("--clients: an even number, for they talk in pairs")
    if args.group_size < 2:
        raise ValueError("--group-size: at least 2")
    rate = args.rate or (RATE_OF_OWN if args.kill else RATE)
    seed = secrets.randbelow(10**6) if args.seed is None else args.seed
    return Plan(args.clients, args.groups, args.group_size, rate, args.seconds, args.kill, seed)


@contextlib.contextmanager
def _directory(chosen: Path | None) -> Iterator[Path]:
    if chosen is not None:
        chosen.mkdir(parents=True, exist_ok=True)
        yield chosen
        return
    with tempfile.TemporaryDirectory(prefix="flux-verify-") as directory:
        yield Path(directory)


def _as_json(verdict: Verdict) -> dict[str, Any]:
    found = [anomaly._asdict() for anomaly in verdict.anomalies]
    return {**asdict(verdict), "counts": count(verdict.anomalies), "anomalies": found}


def show(console: Console, verdict: Verdict) -> None:
    """For people."""
    if verdict.kills:
        table = Table(title="kills; seconds")
        for name in ("", "at", "acknowledged since the last", "nobody for", "everybody back after"):
            table.add_column(name, justify="right")
        for number, kill in enumerate(verdict.kills, 1):
            recovery = "killed before" if kill.recovery is None else f"{kill.recovery:.2f}"
            table.add_row(str(number), f"{kill.moment:.1f}", f"{kill.acknowledged:,}", f"{kill.down:.2f}", recovery)
        console.print(table)
    console.print(
        f"{verdict.sent:,} messages sent in {verdict.chats} chats, {verdict.acknowledged:,} acknowledged, "
        f"shown {verdict.shown:,} times (seed {verdict.seed})"
    )
    if not verdict.settled:
        console.print("[bold red]Not everything arrived in time.[/]")
    console.print(", ".join(f"{kind}: {number}" for kind, number in count(verdict.anomalies).items()))
    for anomaly in verdict.anomalies[:PRINTED]:
        where = f"chat {anomaly.chat}, message {anomaly.seq}" + (f", to {anomaly.viewer}" if anomaly.viewer else "")
        console.print(f"  [red]{anomaly.kind}[/]: {where}: {anomaly.detail}", highlight=False)
    if len(verdict.anomalies) > PRINTED:
        console.print(f"  and {len(verdict.anomalies) - PRINTED} more")
    console.print("[bold green]No anomaly.[/]" if not verdict.anomalies else "[bold red]Delivery is broken.[/]")
