"""``flux verify``: is every message delivered as promised, whatever dies or is cut off?

Clients talk in pairs and groups and record what they are promised and shown; at the end the
records are held against each other and against the history.  With ``--kill`` the server is one
of its own, which is killed with SIGKILL at random moments and started again on the same data;
with ``--cluster`` it is several, with a Redis and a PostgreSQL of their own, and everything in
turn is killed, paused, emptied, or cut off; with ``--chaos`` much of that is so at the same time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import shutil
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from twisted.internet.defer import Deferred

from flux.bench.checker import count
from flux.bench.cluster import Cluster, fault_names
from flux.bench.conversation import ConversationFailed, SessionLost
from flux.bench.installation import Installation, SingleServer
from flux.bench.overlapping import Overlapping, resources
from flux.bench.servers import ServerFailed
from flux.bench.verification import NotRecovered, Plan, Progress, Verdict, Verification
from flux.cli.progress import ProgressBar
from flux.cli.shown import say, shown
from flux.client import ClientError, HostPort, parse_address, trust_from
from flux.errors import FluxError
from flux.lifecycle import DeadlineExceeded, react

DEFAULT = HostPort("127.0.0.1", 8090)
#: Clients, groups and messages per second of each client: on somebody else's server below the pace that it lets an
#: account have by default (and five runs an hour, for each registers its clients), on a cluster what it and the clients
#: can do on two processors while one node serves for all.
ELSEWHERE = (20, 3, 10.0)
SINGLE = (20, 3, 50.0)
CLUSTER = (60, 10, 5.0)
#: Within so many seconds after a repair every client of a cluster must be served again.
RECOVER_WITHIN = 15.0
#: Seconds before each fault of a cluster.
CALM = (1.0, 3.0)
#: Anomalies that are printed one by one.
PRINTED = 20
TABLE_WIDTH = 120


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``flux verify``."""
    parser.add_argument(
        "addresses",
        nargs="*",
        metavar="HOST:PORT",
        help="a running server (127.0.0.1:8090), or several of one cluster; accounts and groups named verify-... stay "
        "behind there. Each client is an account, and one address may register "
        "limits.registrations_per_hour_address of them an hour (100)",
    )
    parser.add_argument("--tls", action="store_true", help="connect to HOST:PORT with TLS")
    cafile = "certificates (PEM) that theirs must be signed by (default: those the system trusts)"
    parser.add_argument("--cafile", metavar="FILE", default="", help=cafile)
    parser.add_argument("--kill", type=int, default=0, metavar="N", help="start a server, and kill it N times")
    parser.add_argument(
        "--cluster",
        action="store_true",
        help="start three chat nodes, a status process, a Redis and a PostgreSQL, and let everything go wrong in turn",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="how often everything goes wrong (1)")
    parser.add_argument(
        "--chaos",
        type=float,
        metavar="S",
        help="not in turn: for S seconds faults begin at random moments, and several are on at the same time",
    )
    parser.add_argument(
        "--only",
        metavar="WORD",
        help="only faults with WORD in their names: killed, Redis, chat2, ... (where none has, all are listed)",
    )
    parser.add_argument(
        "--lease",
        type=float,
        metavar="S",
        help="seconds until a silent node counts as dead; faults last accordingly (10)",
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="for data and output of the servers; kept (else temporary)"
    )
    parser.add_argument("--clients", type=int, metavar="N", help="clients, an even number (20; 60 with --cluster)")
    parser.add_argument("--groups", type=int, metavar="N", help="groups (3; 10 with --cluster)")
    parser.add_argument("--group-size", type=int, default=6, metavar="N", help="members of each group (6)")
    parser.add_argument(
        "--rate",
        type=float,
        metavar="N",
        help=f"messages per second of each client ({ELSEWHERE[2]:g}; {SINGLE[2]:g} with --kill, "
        f"{CLUSTER[2]:g} with --cluster)",
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, metavar="S", help="how long they talk if nothing goes wrong (10)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="repeats the random choices of an earlier run")
    parser.add_argument("--json", action="store_true", help="print the verdict for programs")


def run(args: argparse.Namespace) -> int:
    """Verify, and return 0; 1 when a promise was not kept, 2 when it could not be found out, 130 when interrupted."""
    # The table has its width also where it goes into a file.
    output, status = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH), Console(stderr=True)
    try:
        plan = _plan(args)
        there = _there(args)
        directory = _directory(args)
    except ValueError as error:
        say(status, f"flux verify: {error}")
        return 2
    attempt = _Attempt()
    with contextlib.suppress(SystemExit):  # which is how react always ends
        react(attempt.run, (args, plan, there, directory, status))
    verdict = attempt.verdict
    if verdict is not None:
        if args.json:
            print(json.dumps(_as_json(verdict), indent=2))
        else:
            show(output, verdict, plan)
    sound = verdict is not None and verdict.sound
    if directory is not None:
        if args.data is None and (sound or attempt.interrupted or not any(directory.iterdir())):
            shutil.rmtree(directory, ignore_errors=True)
        else:
            say(status, f"what the servers printed is in {directory}")
    if attempt.interrupted:
        say(status, "flux verify: interrupted, so nothing is said about the messages")
        return 130
    if verdict is None and not attempt.broken:
        return 2
    return 0 if sound else 1


class _Attempt:
    """What becomes of a verification.

    :ivar verdict: None where there was none.
    :ivar broken: clients were not served again, or lost their session, so there is none, but that is one too.
    :ivar interrupted: it was ended from outside.
    """

    def __init__(self) -> None:
        self.verdict: Verdict | None = None
        self.broken = False
        self.interrupted = False
        self._ended = False
        self._situation = ""

    async def run(
        self,
        reactor: Any,
        args: argparse.Namespace,
        plan: Plan,
        there: Installation,
        directory: Path | None,
        output: Console,
    ) -> None:
        """Verify; what goes wrong is printed, unless it goes wrong because of an interruption."""
        with ProgressBar(output, 1) as bar:
            try:
                installation = _installation(reactor, args, there, directory)
            except ServerFailed as error:
                say(output, f"cannot verify: {error}")
                return
            try:
                await self._verify(reactor, plan, installation, bar.show)
            except (NotRecovered, SessionLost) as error:
                self.broken = True
                say(output, error, "bold red")
            except (ClientError, ConversationFailed, DeadlineExceeded, FluxError, OSError, ServerFailed) as error:
                if not self.interrupted:
                    say(output, f"cannot verify: {error}")
            if self._situation and not self.interrupted:
                say(output, self._situation)

    async def _verify(self, reactor: Any, plan: Plan, installation: Installation, progress: Progress) -> None:
        def shut_down() -> Deferred[None]:
            # React stops the reactor also when it was interrupted, and this is somewhere in the middle then.
            self.interrupted = not self._ended
            return Deferred.fromCoroutine(installation.close())

        reactor.addSystemEventTrigger("before", "shutdown", shut_down)
        try:
            progress(0.0, "starting")
            await installation.start()
            verification = Verification(reactor, plan, installation, progress)
            try:
                self.verdict = await verification.run()
            finally:
                self._situation = verification.situation
        finally:
            self._ended = True
            await installation.close()


def _plan(args: argparse.Namespace) -> Plan:
    """:raises ValueError: arguments that make no sense."""
    own = args.kill or args.cluster
    if args.kill and args.cluster:
        raise ValueError("--kill is for one server, --cluster for many: choose one")
    if own and (args.addresses or args.tls):
        raise ValueError("--kill and --cluster start servers of their own: leave HOST:PORT and --tls out")
    if args.data and not own:
        raise ValueError("--data is for the servers that --kill and --cluster start")
    for name in ("rounds", "chaos", "only", "lease"):
        if getattr(args, name) is not None and not args.cluster:
            raise ValueError(f"--{name} goes with --cluster")
    if args.rounds is not None and args.rounds < 1:
        raise ValueError("--rounds: at least 1")
    if args.chaos is not None and args.rounds is not None:
        raise ValueError("--rounds is for faults that come in turn, --chaos for those that overlap: choose one")
    if args.chaos is not None and not 1 <= args.chaos <= 86_400:
        raise ValueError("--chaos: from 1 to 86400")
    if args.only is not None:
        names = _names(args)
        if not any(args.only in name for name in names):
            raise ValueError(f"--only: no fault has {args.only!r} in its name; there are: {', '.join(names)}")
    if args.lease is not None and not 3 <= args.lease <= 600:
        raise ValueError("--lease: from 3 to 600")
    clients, groups, rate = CLUSTER if args.cluster else SINGLE if args.kill else ELSEWHERE
    clients = clients if args.clients is None else args.clients
    groups = groups if args.groups is None else args.groups
    if clients < 2 or clients % 2:
        raise ValueError("--clients: an even number, for they talk in pairs")
    if args.group_size < 2:
        raise ValueError("--group-size: at least 2")
    plan = Plan(
        clients=clients,
        groups=groups,
        group_size=args.group_size,
        rate=args.rate or rate,
        seconds=args.seconds,
        chaos=args.chaos or 0.0,
        seed=secrets.randbelow(10**6) if args.seed is None else args.seed,
    )
    return replace(plan, calm=CALM, patient=True, recover_within=RECOVER_WITHIN) if args.cluster else plan


def _names(args: argparse.Namespace) -> list[str]:
    """What may go wrong with a cluster, each once."""
    if args.chaos is not None:
        return [name for names in resources().values() for name in names]
    return list(dict.fromkeys(name for number in range(args.rounds or 1) for name in fault_names(number=number)))


def _directory(args: argparse.Namespace) -> Path | None:
    """Where servers of its own keep things; None where there are none.

    :raises ValueError: it cannot be used.
    """
    if not (args.kill or args.cluster):
        return None
    if args.data is None:
        return Path(tempfile.mkdtemp(prefix="flux-verify-"))
    directory: Path = args.data
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if args.cluster and any(directory.iterdir()):
            raise ValueError(f"--data: {directory} is not empty, and a cluster starts anew")
    except OSError as error:
        raise ValueError(f"--data: {error}") from None
    return directory


def _there(args: argparse.Namespace) -> Installation:
    """What is told to run already.

    :raises ValueError: an address, or the certificates, cannot be read.
    """
    if args.cafile and not args.tls:
        raise ValueError("--cafile is for TLS: give --tls")
    try:
        trust = trust_from(Path(args.cafile)) if args.cafile else None
    except OSError as problem:
        raise ValueError(f"--cafile {args.cafile}: {problem.strerror}") from None
    addresses = [parse_address(address, DEFAULT) for address in args.addresses]
    return Installation(addresses or [DEFAULT], args.tls, trust)


def _installation(reactor: Any, args: argparse.Namespace, there: Installation, directory: Path | None) -> Installation:
    """:raises flux.bench.servers.ServerFailed: a program is missing."""
    if directory is None:
        return there
    if args.kill:
        return SingleServer(reactor, directory, args.kill)
    lease, only = args.lease or 10.0, args.only or ""
    if args.chaos is not None:
        return Overlapping(reactor, directory, lease, only)
    return Cluster(reactor, directory, lease=lease, rounds=args.rounds or 1, only=only)


def _as_json(verdict: Verdict) -> dict[str, Any]:
    found = [anomaly._asdict() for anomaly in verdict.anomalies]
    return {**asdict(verdict), "counts": count(verdict.anomalies), "anomalies": found}


def show(console: Console, verdict: Verdict, plan: Plan) -> None:
    """For people."""
    if len(verdict.periods) > 1:
        console.print(_table(verdict, plan))
    say(
        console,
        f"{verdict.sent:,} messages sent in {verdict.chats} chats, {verdict.acknowledged:,} acknowledged, "
        f"shown {verdict.shown:,} times (seed {verdict.seed})",
    )
    if not verdict.settled:
        console.print("[bold red]Not everything arrived in time.[/]")
    say(console, ", ".join(f"{kind}: {number}" for kind, number in count(verdict.anomalies).items()))
    for anomaly in verdict.anomalies[:PRINTED]:
        where = f"chat {anomaly.chat}, message {anomaly.seq}" + (f", to {anomaly.viewer}" if anomaly.viewer else "")
        console.print(
            Text.assemble("  ", (anomaly.kind, "red"), ": ", shown(f"{where}: {anomaly.detail}")), soft_wrap=True
        )
    if len(verdict.anomalies) > PRINTED:
        console.print(f"  and {len(verdict.anomalies) - PRINTED} more")
    if verdict.late:
        late = ", ".join(verdict.late)
        say(console, f"Not everybody was served again within {plan.recover_within:g} s after: {late}.", "bold red")
    if verdict.anomalies:
        console.print("[bold red]Delivery is broken.[/]")
    if verdict.sound:
        console.print("[bold green]No anomaly.[/]")


def _table(verdict: Verdict, plan: Plan) -> Table:
    """A line per fault; what is neither lost nor doubled nor out of order is under "other"."""
    title = "beginning, duration and recovery in seconds; messages are those until the next fault"
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.add_column("fault", no_wrap=True)
    for name in ("began", "duration", "acknowledged", "lost", "duplicated", "reordered", "other", "recovery"):
        table.add_column(name, justify="right")
    for number, period in enumerate(verdict.periods):
        counts = [period.counts[kind] for kind in ("lost", "duplicated", "reordered")]
        counts.append(sum(period.counts.values()) - sum(counts))
        wrong = [f"[bold red]{number:,}[/]" if number else "0" for number in counts]
        acknowledged = f"{period.acknowledged:,}"
        if not number:
            table.add_row("(none yet)", "", "", acknowledged, *wrong, "")
            continue
        recovery = "[dim]next came[/]" if period.recovery is None else f"{period.recovery:.2f}"
        if period.recovery is not None and period.recovery > plan.recover_within:
            recovery = f"[bold red]{recovery}[/]"
        times = f"{period.moment:.2f}", f"{period.duration:.2f}"
        table.add_row(period.fault, *times, acknowledged, *wrong, recovery)
    return table
