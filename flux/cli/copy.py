"""``flux copy``: moves an installation to another kind of store.

Accounts, friends, chats, members, cursors, messages, session and boot numbers come along with their ids and seqs, so
that nobody notices but for the server's absence.  What is written is read again and compared before it is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from flux.cli.output import warnings_to_stderr
from flux.cli.progress import ProgressBar
from flux.config import ConfigError, Settings, load
from flux.errors import Unavailable
from flux.lifecycle import CannotStart, react


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``flux copy``."""
    about = "its [store] section says {}"
    parser.add_argument("source", metavar="FROM", help=f"a configuration file: {about.format('what is copied')}")
    parser.add_argument("target", metavar="TO", help=f"another: {about.format('where to; that has to be empty')}")
    parser.epilog = "Stop the servers first. The original stays as it is; afterwards start them with TO."


def run(args: argparse.Namespace) -> int:
    """Copy, and return 0; 1 when nothing was copied, 2 when a configuration is wrong."""
    try:
        source, target = load(args.source), load(args.target)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    warnings_to_stderr("flux copy")
    try:
        _prepare(source, target)
        _copy(source, target)
    except (Unavailable, CannotStart) as error:
        print(f"flux copy: {getattr(error, 'detail', None) or error}", file=sys.stderr)
        return 1
    return 0


def _prepare(source: Settings, target: Settings) -> None:
    """See that the source is as this flux knows it and not in use, and make the target's tables.

    :raises Unavailable: it is not, or they cannot be made.
    """
    from flux.assembly import has_migrations, make_store, see_whether_idle

    problem: Exception | None = None

    async def work(reactor: Any) -> None:
        nonlocal problem
        try:
            stores: list[Any] = [make_store(settings, reactor) for settings in (source, target)]
            for settings, store in zip((source, target), stores, strict=True):
                if not has_migrations(store):
                    raise CannotStart(f"store.kind = {settings.store.kind}: only flux's own stores can be copied")
            if _place(source) == _place(target):
                raise CannotStart("FROM and TO name the same store")
            version, pending = await stores[0].pending()
            if not version:
                raise CannotStart("there is nothing to copy: FROM names an empty database")
            if pending:
                raise CannotStart("FROM has an older schema: bring it up to date with flux migrate --apply")
            # First, so that a copy that is refused leaves the target as it was.
            see_whether_idle(source)
            await stores[1].migrate()
        except (Unavailable, CannotStart) as error:
            problem = error

    with contextlib.suppress(SystemExit):  # which is how react always ends
        react(work)
    if problem is not None:
        raise problem


def _place(settings: Settings) -> object:
    store = settings.store
    return store.dsn if store.kind == "postgres" else store.path.absolute()


def _copy(source: Settings, target: Settings) -> None:
    from flux.assembly import copy_store

    with ProgressBar(Console(stderr=True), 1) as bar:
        copied = copy_store(source, target, bar.show)
    shown = Table()
    shown.add_column("table")
    shown.add_column("rows", justify="right")
    shown.add_column("checksum on both sides")
    for table in copied.tables:
        shown.add_row(table.name, f"{table.rows:,}", table.checksum)
    output = Console()
    output.print(shown)
    output.print(f"copied {copied.source} to {copied.target}", markup=False, highlight=False)
