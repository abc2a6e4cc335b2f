"""``flux migrate``: which changes of the schema the database has seen, and which it lacks."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from flux.cli.output import warnings_to_stderr
from flux.cli.shown import shown_lines
from flux.config import ConfigError, Settings, load
from flux.errors import Unavailable
from flux.lifecycle import CannotStart, react


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``flux migrate``."""
    parser.add_argument("-c", "--config", metavar="FILE", help="the configuration file")
    parser.add_argument(
        "--set", metavar="SECTION.KEY=VALUE", action="append", default=[], dest="overrides",
        help="instead of what the file says; may be given many times",
    )  # fmt: skip
    parser.add_argument(
        "--apply", action="store_true", help="apply what is missing; a server does so too when it starts, if it may"
    )


def run(args: argparse.Namespace) -> int:
    """Show or apply, and return 0; 1 when the database is nothing for this flux, 2 when the configuration is wrong."""
    try:
        settings = load(args.config, args.overrides)
    except ConfigError as error:
        print(shown_lines(error), file=sys.stderr)
        return 2
    status = 1
    warnings_to_stderr("flux migrate")

    async def work(reactor: Any) -> None:
        nonlocal status
        try:
            await _migrate(settings, reactor, args.apply)
            status = 0
        except (Unavailable, CannotStart) as error:
            print(f"flux migrate: {shown_lines(getattr(error, 'detail', None) or error)}", file=sys.stderr)

    try:
        react(work)
    except SystemExit:  # which is how react always ends
        return status


async def _migrate(settings: Settings, reactor: Any, apply: bool) -> None:
    from flux.assembly import has_migrations, make_store

    store: Any = make_store(settings, reactor)
    if not has_migrations(store):
        raise CannotStart(f"store.kind = {settings.store.kind}: only flux's own stores have a schema of flux's")
    version, pending = await store.pending()
    print(f"the database has schema {version}; this flux knows {version + len(pending)}")
    if not pending:
        print("nothing to apply")
    elif apply:
        applied = await store.migrate()
        for name in applied:
            print(f"applied {name}")
        if not applied:
            print("another process has applied it meanwhile")
    else:
        for name in pending:
            print(f"to apply: {name}")
        print("flux migrate --apply applies them, and so does a server when it starts")
