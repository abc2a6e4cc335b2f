"""``flux admin``: the chat servers of a cluster through a status port, and a process through its admin port.

::

    flux admin servers                       who is there, with how many sessions
    flux admin drain chat1 --wait            no new users; returns when those it has are elsewhere
    flux admin drain 'chat1-*'               all workers of a machine
    flux admin resume chat1 --wait           users again; returns when it takes them

Address and key come from the configuration of the status service (``--config``), or
the address alone from ``--status``.  What asks an admin port instead is in :mod:`flux.cli.admin_port`
and :mod:`flux.cli.admin_bans`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import msgspec
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from flux.cli import admin_bans, admin_port
from flux.cli.progress import ProgressBar
from flux.cli.shown import cell, say, shown
from flux.cli.tables import show
from flux.cli.way import Way, add_arguments, find_way
from flux.client import ClientError, HostPort
from flux.client.status import StatusClient
from flux.config import ConfigError, load
from flux.errors import FluxError, Forbidden, UnknownType
from flux.lifecycle import DeadlineExceeded, react, sleep
from flux.model.placement import Node, NodeState

LOOK_EVERY = 0.5
"""Seconds between two looks at a server that is waited for."""

GONE_WITHIN = 10.0
"""Seconds that an empty server has to end; one that still lives then goes on (``twistd flux`` does)."""

COLOURS = {
    "up": "green",
    "draining": "yellow",
    "unready": "red",
    "down": "red",
    "stopped": "default",
    "unknown": "yellow",
}


class AdminFailed(Exception):
    """What was asked for did not happen; the text says why."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``flux admin``."""
    common = argparse.ArgumentParser(add_help=False)
    where = "the status port (default: the configuration's, which is 127.0.0.1:50052 unless it says otherwise)"
    common.add_argument("--status", metavar="HOST:PORT", default="", help=where)
    common.add_argument("-c", "--config", metavar="FILE", help="take status.listen and status.cluster_key from it")
    common.add_argument(
        "--set", metavar="SECTION.KEY=VALUE", action="append", default=[], dest="overrides",
        help="instead of what the file says, status.cluster_key=file:/path for instance; may be given many times",
    )  # fmt: skip
    add_arguments(common)
    common.add_argument("--json", action="store_true", help="print for programs")
    commands = parser.add_subparsers(dest="action", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[common])

    command("servers", "list the chat servers")
    drain = command("drain", "give a server no more users, and let it send those it has to other servers")
    resume = command("resume", "undo drain")
    for each in (drain, resume):
        each.add_argument("names", nargs="+", metavar="NAME", help="a server; with * or ? all that match, quoted")
    admin_bans.configure(admin_port.configure(commands))
    drain.add_argument("--wait", action="store_true", help="return when the server is empty, or has ended")
    resume.add_argument("--wait", action="store_true", help="return when the server takes users")


def run(args: argparse.Namespace) -> int:
    """Do it and return 0; 1 if it was refused or did not happen, 2 if nobody could be asked."""
    status = Console(stderr=True)
    result = 2

    def complain(problem: object) -> None:
        say(status, f"flux admin: {problem}")

    async def ask(reactor: Any) -> None:
        nonlocal result
        client = StatusClient(reactor, [address], key=key, endpoint=lambda host, port: way.endpoint(reactor))
        try:
            await _act(args, client, reactor, status)
            result = 0
        except Forbidden as error:
            complain(_forbidden(address, key, error))
        except UnknownType:
            complain(f"{address} is no status port, but perhaps a chat port; see status.listen")
        except DeadlineExceeded:
            complain(f"{address} gives no answer as a status port does; see status.listen")
        except ClientError as error:
            complain(f"{error}. Is the status service running, and is this its status.listen?")
        except (AdminFailed, FluxError) as error:
            result = 1
            complain(error)
        finally:
            await client.close()

    try:
        if "does" in args:
            admin_port.run(args)
            return 0
        way, key = _where(args)
        address = way.address
        react(ask)
    except admin_port.Refused as error:
        complain(error)
        return 1
    except (ConfigError, ValueError, admin_port.NotAnswered) as error:
        complain(error)
    except SystemExit:  # which is how react always ends, with 0 also when it was interrupted
        pass
    return result


def _where(args: argparse.Namespace) -> tuple[Way, str]:
    """The way to the status port, and its key.

    :raises ConfigError: the configuration is wrong.
    :raises ValueError: the address is none, or the configuration does not tell it.
    """
    settings = load(args.config, args.overrides)
    return find_way(settings, "status", settings.status.listen, args.status, 50052, args), settings.status.cluster_key


def _forbidden(address: HostPort, key: str, error: Forbidden) -> str:
    if key:
        return f"{address} refuses status.cluster_key: {error.detail}"
    return (
        f"{address} wants a cluster key: give the configuration that it has (--config FILE), "
        "or --set status.cluster_key=file:/path or env:NAME"
    )


async def _act(args: argparse.Namespace, client: StatusClient, reactor: Any, status: Console) -> None:
    """:raises AdminFailed: it did not happen."""
    seen = await client.look()
    servers = seen.servers
    if args.action == "servers":
        _show(servers, args.json)
        if seen.problem:
            raise AdminFailed(f"WARNING: this is as it was {seen.age:.1f} s ago, since {seen.problem}")
        return
    change = client.drain if args.action == "drain" else client.resume
    states = {name: (await change(name)).state for name in _matching(args.names, servers)}
    if args.action == "drain" and not any(node.state == "up" for node in await client.servers()):
        say(status, "flux admin: no other server is up: clients that find none are closed when the drain ends")
    if args.action == "drain" and args.wait:
        known = {node.name: node for node in servers}
        states = await _wait(client, {name: known[name] for name in states}, reactor, status)
    if args.action == "resume" and args.wait:
        states = await _wait_until_up(client, list(states), reactor, status)
    if args.json:
        print(json.dumps([{"server": name, "state": state} for name, state in states.items()]))
    else:
        for name, state in states.items():
            print(f"{shown(name)} is {state}")
    if args.action == "resume" and (still := [name for name, state in states.items() if state != "up"]):
        raise AdminFailed(f"no users for {', '.join(still)} before it runs again; --wait waits for that")


def _matching(patterns: Sequence[str], servers: Sequence[Node]) -> list[str]:
    """The names that are meant, in the order in which they were given, each once.

    :raises AdminFailed: a pattern means none.
    """
    names: dict[str, None] = {}
    for pattern in patterns:
        if set(pattern) & set("*?["):
            found = sorted(node.name for node in servers if fnmatchcase(node.name, pattern))
            if not found:
                raise AdminFailed(f"no chat server matches {pattern!r}; known: {_listed(servers)}")
        elif any(node.name == pattern for node in servers):
            found = [pattern]
        else:
            raise AdminFailed(f"no chat server is called {pattern!r}; known: {_listed(servers)}")
        names.update(dict.fromkeys(found))
    return list(names)


def _listed(servers: Sequence[Node]) -> str:
    return ", ".join(sorted(node.name for node in servers)) or "none"


async def _wait(client: StatusClient, drained: dict[str, Node], reactor: Any, status: Console) -> dict[str, NodeState]:
    """Wait until all have ended, or are empty and go on; their states then.

    :raises AdminFailed: one was resumed meanwhile, or its sessions are not known.
    """
    for name, node in drained.items():
        if node.heartbeat_age < 0:
            raise AdminFailed(f"{name} is of the static list: it gets no more users, but nobody knows when it is empty")
    total = sum(node.sessions for node in drained.values())
    empty_since: float | None = None
    with ProgressBar(status, max(1, total)) as bar:
        while True:
            now = {node.name: node for node in await client.servers()}
            states: dict[str, NodeState] = {name: now[name].state if name in now else "down" for name in drained}
            for name, state in states.items():
                if state == "up":
                    raise AdminFailed(f"{name} takes users again: somebody has resumed it, or it was started anew")
            left = sum(now[name].sessions for name in drained if states[name] != "down")
            bar.show(total - left, f"draining {', '.join(drained)}: {left} of {total} sessions left")
            if all(state == "down" for state in states.values()):
                return states
            if left or "unknown" in states.values():
                empty_since = None
            elif empty_since is None:
                empty_since = reactor.seconds()
            elif reactor.seconds() - empty_since >= GONE_WITHIN:
                return states
            await sleep(LOOK_EVERY, reactor)


async def _wait_until_up(
    client: StatusClient, names: Sequence[str], reactor: Any, status: Console
) -> dict[str, NodeState]:
    """Wait until all of them get users, however long that takes; their states then."""
    with ProgressBar(status, len(names)) as bar:
        while True:
            now: dict[str, NodeState] = {node.name: node.state for node in await client.servers()}
            waiting = [name for name in names if now.get(name) != "up"]
            if not waiting:
                return {name: now[name] for name in names}
            bar.show(len(names) - len(waiting), f"waiting for {', '.join(waiting)}")
            await sleep(LOOK_EVERY, reactor)


def _show(servers: Sequence[Node], for_programs: bool) -> None:
    servers = sorted(servers, key=lambda node: node.name)
    if for_programs:
        print(json.dumps(msgspec.to_builtins(servers)))
        return
    if not servers:
        print("no chat server has reported yet")
        return
    # Narrower than usual: with eight columns it has to fit a terminal of 80.
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("server", "address", "state"):
        table.add_column(heading, no_wrap=True)
    for heading in ("sessions", "reserved", "capacity", "weight", "heard"):
        table.add_column(heading, justify="right", no_wrap=True)
    for node in servers:
        heard = "never" if node.heartbeat_age < 0 else f"{node.heartbeat_age:.1f} s ago"
        capacity = f"{node.capacity:,}" if node.capacity else "no limit"
        state = node.state if node.state != "down" or node.why else "stopped"
        table.add_row(
            cell(node.name), cell(HostPort(node.host, node.port)), f"[{COLOURS[state]}]{state}",
            f"{node.sessions:,}", f"{node.reserved:,}", capacity, str(node.weight), heard,
        )  # fmt: skip
    show(table)
    for node in servers:
        if node.why:
            print(f"{shown(node.name)} is {node.state}: {shown(node.why)}")
