"""The part of ``flux admin`` that asks an admin port: HTTP, one request a command.

::

    flux admin stats                   the process at a glance
    flux admin sessions ann            who is here
    flux admin users an                accounts, and where they are
    flux admin kick ann                ends a session and revokes the token
    flux admin passwd ann              asks for the new password twice
    flux admin ban ann                 see flux.cli.admin_bans
    flux admin reload                  reads the configuration again
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
from collections.abc import Callable
from getpass import getpass
from typing import Any
from urllib.parse import quote

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flux.addresses import HostPort
from flux.cli.shown import cell, say, shown
from flux.cli.tables import show
from flux.cli.way import Way, add_arguments, find_way
from flux.config import Settings, load
from flux.workers.supervisor import worker_admin_ports

WITHIN = 15.0
"""Seconds an admin port may take to answer."""

NONE_BY_ITSELF = "flux-chat, flux-status and flux-gate have no admin port until admin.listen names one."

ENDED = {
    "ended": "the session has ended",
    "ending": "the session ends within some seconds",
    "offline": "there was no session",
}


Command = Callable[[str, str, Any], argparse.ArgumentParser]


class NotAnswered(Exception):
    """Nobody could be asked; the text says why, and what to do."""


class Refused(Exception):
    """What was asked for was refused."""


class AdminPort:
    """An admin port.

    :param token: what it wants to be shown; empty: nothing.
    :param where_else: what to say besides where nobody listens there.
    """

    def __init__(self, way: Way, token: str, where_else: str = "") -> None:
        self._way = way
        self._where_else = where_else
        self._address = way.address
        self._token = token

    def get(self, path: str, **query: object) -> Any:
        """What is there."""
        parts = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in query.items())
        return self._ask("GET", f"{path}?{parts}" if parts else path, None)

    def post(self, path: str, **body: object) -> Any:
        """The outcome of an action."""
        return self._ask("POST", path, json.dumps(body).encode())

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        """:raises NotAnswered: there was no answer, or none of an admin port.

        :raises Refused: it was an error.
        """
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        host, port = HostPort("localhost", 80) if self._address.is_path else self._address
        connection = http.client.HTTPConnection(host, port)
        try:
            connection.sock = self._way.connect(WITHIN)
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            status, text = answer.status, answer.read()
        except ConnectionResetError:
            # By a chat port, after so many lines that are none of its own, if its answer has not come first.
            raise NotAnswered(
                self._is_none("ends the connection instead of answering as an admin port of flux does")
            ) from None
        except (OSError, http.client.IncompleteRead) as error:
            why = getattr(error, "verify_message", "") or str(error) or type(error).__name__
            problem = f"{self._address}: {why}. Is the server running, and is this its admin.listen?"
            if self._where_else and isinstance(error, ConnectionRefusedError):
                problem += f" {self._where_else}"
            raise NotAnswered(problem) from None
        except http.client.HTTPException:
            raise NotAnswered(self._is_none()) from None
        finally:
            connection.close()
        try:
            value = json.loads(text)
        except ValueError:
            raise NotAnswered(self._is_none()) from None
        if status == 401:
            given = "refuses this admin.token" if self._token else "wants a token"
            raise NotAnswered(
                f"{self._address} {given}: give the configuration that it has (--config FILE), "
                "or --set admin.token=file:/path or env:NAME"
            )
        if status != 200:
            raise Refused(_problem(value))
        return value

    def _is_none(self, what: str = "is no admin port of flux") -> str:
        perhaps = "" if self._way.name else ", or it has TLS (--tls)"
        return f"{self._address} {what}{perhaps}; see admin.listen"


def _problem(value: Any) -> str:
    if not isinstance(value, dict):
        return shown(value)
    return shown(value.get("detail") or value.get("error") or value)


def configure(commands: Any) -> Command:
    """Declare the arguments; returns what adds another command that asks an admin port.

    That takes its name, what it does in words, and the function that does it, given the arguments and the port.
    """
    common = argparse.ArgumentParser(add_help=False)
    where = "the admin port (default: the configuration's, which is 127.0.0.1:9090 unless it says otherwise)"
    common.add_argument("--admin", metavar="HOST:PORT", default="", help=where)
    common.add_argument("-c", "--config", metavar="FILE", help="take admin.listen and admin.token from it")
    common.add_argument(
        "--set", metavar="SECTION.KEY=VALUE", action="append", default=[], dest="overrides",
        help="instead of what the file says, admin.token=file:/path for instance; may be given many times",
    )  # fmt: skip
    add_arguments(common)
    common.add_argument("--json", action="store_true", help="print for programs")

    def command(name: str, text: str, does: Any) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, parents=[common])
        parser.set_defaults(does=does)
        return parser

    command("stats", "show a process at a glance: health, load, rates", _stats)
    listing = command("sessions", "list the sessions on the chat server of a process", _sessions)
    finding = command("users", "find accounts, and the servers they are on", _users)
    for each, what in (
        (listing, "beginning of a name, an id, or a connection"),
        (finding, "beginning of a name, or an id"),
    ):
        each.add_argument("query", nargs="?", default="", metavar="QUERY", help=f"{what} (default: all)")
        each.add_argument("--limit", type=int, default=100, metavar="N", help="list at most so many (default: 100)")
    kick = command("kick", "end a user's session, wherever it is, and revoke the login token", _kick)
    passwd = command("passwd", "set a user's password, end the session and revoke the login token", _passwd)
    for each in (kick, passwd):
        each.add_argument("user", metavar="USER", help="the name, or the id")
        each.add_argument("--name", action="store_true", help="USER is a name though it looks like an id")
    passwd.add_argument("--stdin", action="store_true", help="read the password from standard input, one line")
    command("reload", "read the configuration again, as SIGHUP does, and say what has changed", _reload)
    return command


def run(args: argparse.Namespace) -> None:
    """Do it.

    :raises NotAnswered: nobody could be asked.
    :raises Refused: it was refused.
    :raises ValueError: an argument is wrong, or the configuration does not tell where to ask.
    :raises flux.config.ConfigError: the configuration is wrong.
    """
    settings = load(args.config, args.overrides)
    way = find_way(settings, "admin", settings.admin.endpoint(True), args.admin, 9090, args)
    args.does(args, AdminPort(way, settings.admin.token, _where_else(settings, args.admin)))


def _where_else(settings: Settings, told: str) -> str:
    """What may be the matter where nobody listens.

    :param told: the address, where one was given.
    """
    if settings.admin.listen == "auto":
        return NONE_BY_ITSELF
    workers = [] if told else worker_admin_ports(settings)
    if not workers:
        return ""
    ports = ", ".join(f"{where} ({name})" for name, where in workers)
    return f"With chat.workers each worker has an admin port of its own; give one by --admin: {ports}."


def as_user(args: argparse.Namespace) -> int | str:
    """The id or the name that was given."""
    return int(args.user) if args.user.isdecimal() and args.user.isascii() and not args.name else str(args.user)


def out(args: argparse.Namespace, value: Any) -> bool:
    """Print for programs, if that is wanted."""
    if args.json:
        print(json.dumps(value))
    return bool(args.json)


def _stats(args: argparse.Namespace, port: AdminPort) -> None:
    seen = port.get("/api/overview")
    if out(args, seen):
        return
    console = Console()
    process, numbers = seen["process"], seen["numbers"]
    name = process["name"] or " + ".join(process["roles"])
    up = span(process["uptime"])
    say(console, f"{shown(name)}, flux {shown(process['version'])}, process {process['pid']}, up for {up}")
    for problem in seen["problems"]:
        console.print(Text.assemble(("not ready", "red"), ": ", shown(problem)), soft_wrap=True)
    table = Table(show_header=False, box=SIMPLE)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for key, title, in_words in NUMBERS:
        if key in numbers:
            table.add_row(title, in_words(numbers[key]))
    show(table)
    table = Table(box=SIMPLE)
    table.add_column("backend", no_wrap=True)
    table.add_column("state", overflow="fold")
    table.add_column("answers in", justify="right", no_wrap=True)
    for backend in seen["backends"]:
        problem = ("away", "red"), ": ", shown(backend["problem"])
        state = Text("up", "green") if backend["up"] else Text.assemble(*problem)
        table.add_row(cell(backend["name"]), state, seconds(backend["seconds"]))
    show(table)


def seconds(value: float) -> str:
    """A short time."""
    return f"{value * 1000:.2f} ms" if value < 1 else f"{value:.1f} s"


def span(value: float) -> str:
    """A long time."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if value >= 2 * size:
            return f"{value / size:.0f} {unit}"
    return f"{value:.0f} s"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _rate(value: float) -> str:
    return f"{value:,.1f}/s"


#: What is shown of a process: the number's name, what it is called, how it is written.
NUMBERS = [
    ("sessions", "sessions", _whole),
    ("sessions_behind", "of them behind", _whole),
    ("connections", "connections", _whole),
    ("messages", "messages stored", _rate),
    ("delivered", "messages delivered", _rate),
    ("commits_waiting", "waiting to be stored", _whole),
    ("commit_median", "commit, median", seconds),
    ("commit_slow", "commit, slowest 1 %", seconds),
    ("bans", "addresses banned", _whole),
    ("offences", "what counts towards bans", _rate),
    ("lag", "reactor is late by", seconds),
    ("cpu", "processor", lambda value: f"{value:.1%}"),
    ("process_resident_memory_bytes", "memory", lambda value: f"{value / 1e6:,.0f} MB"),
]


def _sessions(args: argparse.Namespace, port: AdminPort) -> None:
    found = port.get("/api/sessions", query=args.query, limit=args.limit)
    if out(args, found):
        return
    if not found:
        print("no sessions")
        return
    table = Table(box=SIMPLE)
    for heading in ("id", "name", "address", "connection", "dialect", "chats", "state", "since"):
        table.add_column(heading, justify="right" if heading in ("id", "chats", "since") else "left", no_wrap=True)
    for each in found:
        table.add_row(
            cell(each["id"]), cell(each["name"]), cell(each["address"]), cell(each["conn"]), cell(each["dialect"]),
            f"{each['chats']:,}", "[green]live" if each["live"] else "[yellow]behind", span(each["since"]),
        )  # fmt: skip
    _print(table, found, args.limit)


def _users(args: argparse.Namespace, port: AdminPort) -> None:
    found = port.get("/api/users", query=args.query, limit=args.limit)
    if out(args, found):
        return
    if not found:
        print("no users")
        return
    table = Table(box=SIMPLE)
    table.add_column("id", justify="right", no_wrap=True)
    table.add_column("name", no_wrap=True)
    table.add_column("nick", overflow="fold")
    table.add_column("server", no_wrap=True)
    for each in found:
        server = "[yellow]unknown" if each["server"] is None else cell(each["server"] or "offline")
        table.add_row(cell(each["id"]), cell(each["name"]), cell(each["nick"]), server)
    _print(table, found, args.limit)


def _print(table: Table, found: list[Any], limit: int) -> None:
    show(table)
    if len(found) == limit:
        print(f"the first {limit}; there may be more: --limit N", file=sys.stderr)


def _kick(args: argparse.Namespace, port: AdminPort) -> None:
    _ended(args, port.post("/api/kick", user=as_user(args)), "")


def _passwd(args: argparse.Namespace, port: AdminPort) -> None:
    if args.stdin or not sys.stdin.isatty():
        password = sys.stdin.readline().removesuffix("\n")
    else:
        password = getpass("New password: ")
        if getpass("Again: ") != password:
            raise Refused("the two are not the same; nothing was changed")
    if not password:
        raise Refused("the password is empty; nothing was changed")
    _ended(args, port.post("/api/password", user=as_user(args), password=password), "the password was set; ")


def _ended(args: argparse.Namespace, ending: Any, before: str) -> None:
    if not out(args, ending):
        tell_ending(ending, before)
    whole(ending)


def tell_ending(ending: Any, before: str) -> None:
    """Print what became of a session, after what was done before."""
    token = "the token is revoked" if ending["token"] else "THE TOKEN IS NOT REVOKED"
    print(f"{shown(ending['name'])} ({ending['id']}): {before}{ENDED[ending['session']]}, {token}")
    if ending["problem"]:
        print(f"because: {shown(ending['problem'])}", file=sys.stderr)


def whole(ending: Any) -> None:
    """See that all of it was done.

    :raises Refused: the token works until it expires.
    """
    if not ending["token"]:
        raise Refused(f"the token still lets {shown(ending['name'])} in until it expires: try again")


def _reload(args: argparse.Namespace, port: AdminPort) -> None:
    outcome = port.post("/api/reload")
    if out(args, outcome):
        return
    print(f"changed: {shown(', '.join(outcome['changed']) or 'nothing')}")
    if outcome["restart"]:
        print(f"a restart is needed for: {shown(', '.join(outcome['restart']))}")
