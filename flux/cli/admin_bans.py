"""``flux admin ban``, ``unban``, ``bans``: who is kept out.

::

    flux admin ban ann --reason spam       no login any more; ends the session
    flux admin ban ann --for 7d
    flux admin ban 203.0.113.0/24          no connection from there; ends those there are
    flux admin unban 203.0.113.7           whoever has banned it, an admin or the server itself
    flux admin bans
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from flux.cli.admin_port import AdminPort, Command, as_user, out, tell_ending
from flux.cli.shown import cell, shown
from flux.cli.tables import show
from flux.config.kinds import duration

SPAN = duration("1s", "36500d")


def configure(command: Command) -> None:
    """Declare the arguments, with what :func:`flux.cli.admin_port.configure` returns."""
    ban = command("ban", "let a user log in no more, or an address or a network connect no more", _ban)
    unban = command("unban", "undo ban, or a ban that the server has made by itself", _unban)
    for each in (ban, unban):
        each.add_argument(
            "user", metavar="WHO", help="a user's name or id, an IP address, or a network (203.0.113.0/24)"
        )
        each.add_argument("--name", action="store_true", help="WHO is a name though it looks like something else")
    ban.add_argument("--for", dest="span", metavar="SPAN", default="", help="90, 15m, 12h or 7d (default: for ever)")
    ban.add_argument("--reason", metavar="TEXT", default="", help="is shown to whoever is banned")
    listing = command("bans", "list who is banned", _bans)
    listing.add_argument("--limit", type=int, default=100, metavar="N", help="list at most so many (default: 100)")


def _who(args: argparse.Namespace) -> dict[str, int | str]:
    if not args.name and ("." in args.user or ":" in args.user):
        try:
            ip_network(args.user, strict=False)
        except ValueError:
            pass
        else:
            return {"network": args.user}
    return {"user": as_user(args)}


def _seconds(span: str) -> float:
    """:raises ValueError: it is none."""
    if not span:
        return 0.0
    try:
        return float(SPAN.parse(span))
    except ValueError as error:
        raise ValueError(f"--for: {error}; expected {SPAN.expected}") from None


def _ban(args: argparse.Namespace, port: AdminPort) -> None:
    done = port.post("/api/ban", **_who(args), reason=args.reason, seconds=_seconds(args.span))
    if out(args, done):
        return
    ban, ending = done["ban"], done["ending"]
    if ending is not None:
        tell_ending(ending, f"banned {_end(ban['until'])}; ")
    else:
        print(f"{shown(ban['network'])} is banned {_end(ban['until'])}")


def _unban(args: argparse.Namespace, port: AdminPort) -> None:
    lifted = port.post("/api/unban", **_who(args))
    if not out(args, lifted):
        print(f"{shown(_subject(lifted))} is not banned any more")


def _bans(args: argparse.Namespace, port: AdminPort) -> None:
    found = port.get("/api/bans", limit=args.limit)
    if out(args, found):
        return
    if not found:
        print("nobody is banned")
        return
    table = Table(box=SIMPLE)
    for heading in ("who", "by", "until", "since"):
        table.add_column(heading, no_wrap=True)
    table.add_column("reason", overflow="fold")
    for ban in found:
        until = _time(ban["until"]) if ban["until"] else "for ever"
        since = "" if ban["at"] is None else _time(ban["at"])
        table.add_row(cell(_subject(ban)), cell(ban["by"]), until, since, cell(ban["reason"]))
    show(table)


def _subject(ban: Any) -> str:
    return str(ban["network"] or f"{ban['name']} ({ban['id']})")


def _end(until: int) -> str:
    return f"until {_time(until)}" if until else "for ever"


def _time(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
