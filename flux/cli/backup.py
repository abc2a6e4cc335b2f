"""``flux backup``: a copy of an SQLite database, taken while the server goes on."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from rich.console import Console

from flux.cli.progress import ProgressBar
from flux.cli.shown import shown, shown_lines
from flux.config import ConfigError, load
from flux.errors import Unavailable


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``flux backup``."""
    parser.add_argument("target", metavar="FILE", type=Path, help="the copy; must not exist")
    parser.add_argument(
        "-c", "--config", metavar="CONFIG", help="the server's configuration file, which names the database"
    )
    parser.add_argument(
        "--set", metavar="SECTION.KEY=VALUE", action="append", default=[], dest="overrides",
        help="instead of what the file says; may be given many times",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Copy, and return 0; 1 when that was not possible, 2 when the configuration is wrong.

    :raises KeyboardInterrupt: it was interrupted, or told to end; nothing is left then.
    """
    from flux.assembly import back_up_store

    try:
        settings = load(args.config, args.overrides)
    except ConfigError as error:
        print(shown_lines(error), file=sys.stderr)
        return 2
    if settings.store.kind != "sqlite":
        print(
            f"flux backup: copies SQLite databases, and this is store.kind = {settings.store.kind}; "
            "PostgreSQL has pg_dump, pg_basebackup and its own archiving",
            file=sys.stderr,
        )
        return 2
    console = Console(stderr=True)
    # Or what was copied so far would stay, and be in the way of the next one.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ProgressBar(console, 1) as bar:
            made = back_up_store(settings, args.target, bar.step(f"copying {settings.store.path}"))
    except Unavailable as error:
        print(f"flux backup: {shown_lines(error.detail)}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)
    accounts = "1 account" if made.accounts == 1 else f"{made.accounts:,} accounts"
    target, source = shown(args.target), shown(made.source)
    print(f"{target}: {made.size / 1e6:,.1f} MB, {accounts}, copied from {source}")
    print(f"It is a whole database: start flux on it with --set store.path={target}")
    return 0
