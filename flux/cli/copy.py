"""``flux copy``: moves an installation to another kind of store.

Accounts, friends, chats, members, cursors, messages, session and boot numbers come along with their ids and seqs, so
that nobody notices but for the server's absence.  What is written is read again and compared before it is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.threads import deferToThreadPool

from flux.cli.output import warnings_to_stderr
from flux.cli.progress import ProgressBar
from flux.cli.shown import say, shown_lines
from flux.config import ConfigError, Settings, load
from flux.errors import Unavailable
from flux.lifecycle import CannotStart, react, sleep, turn

if TYPE_CHECKING:
    from flux.assembly import Copied, Interruption

STRIKE_EVERY = 0.1
"""Seconds between attempts to end the statements of a copy that was interrupted."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``flux copy``."""
    about = "its [store] section says {}"
    parser.add_argument("source", metavar="FROM", help=f"a configuration file: {about.format('what is copied')}")
    parser.add_argument("target", metavar="TO", help=f"another: {about.format('where to; that has to be empty')}")
    parser.epilog = "Stop the servers first. The original stays as it is; afterwards start them with TO."


def run(args: argparse.Namespace) -> int:
    """Copy, and return 0; 1 when nothing was copied, 2 when a configuration is wrong, 130 when interrupted."""
    from flux.assembly import Interruption

    try:
        source, target = load(args.source), load(args.target)
    except ConfigError as error:
        print(shown_lines(error), file=sys.stderr)
        return 2
    warnings_to_stderr("flux copy")
    attempt = _Attempt(Interruption())
    with contextlib.suppress(SystemExit):  # which is how react always ends
        react(attempt.run, (source, target))
    # What was kept before it could be interrupted is told of as ever.
    if attempt.copied is not None:
        _show(attempt.copied)
        return 0
    if attempt.interrupted:
        print("flux copy: interrupted, and nothing was kept", file=sys.stderr)
        return 130
    return 1


class _Attempt:
    """What becomes of a copy.

    :ivar copied: None where nothing was.
    :ivar interrupted: it was ended from outside.
    """

    def __init__(self, interruption: Interruption) -> None:
        self.copied: Copied | None = None
        self.interrupted = False
        self._interruption = interruption
        self._ended = False

    async def run(self, reactor: Any, source: Settings, target: Settings) -> None:
        """Copy, in a thread, so that signals are heard whatever a database takes its time for."""
        from flux.assembly import copy_store

        self._preparing = Deferred.fromCoroutine(_prepare(reactor, source, target))
        reactor.addSystemEventTrigger("before", "shutdown", self._shut_down, reactor)
        try:
            await self._preparing
            with ProgressBar(Console(stderr=True), 1) as bar:
                self.copied = await deferToThreadPool(
                    reactor, reactor.getThreadPool(), copy_store, source, target, bar.show, self._interruption
                )
        except CancelledError:
            pass
        except (Unavailable, CannotStart) as error:
            if not self.interrupted:
                print(f"flux copy: {shown_lines(getattr(error, 'detail', None) or error)}", file=sys.stderr)
        finally:
            self._ended = True

    def _shut_down(self, reactor: Any) -> Deferred[None] | None:
        # React stops the reactor also when it was interrupted, and this is somewhere in the middle then.
        if self._ended:
            return None
        self.interrupted = True
        for number in (signal.SIGINT, signal.SIGTERM):
            # Where even that takes too long, a second one ends it at once.
            signal.signal(number, signal.SIG_DFL)
        self._preparing.cancel()
        return Deferred.fromCoroutine(self._interrupt(reactor))

    async def _interrupt(self, reactor: Any) -> None:
        while not self._ended:
            self._interruption.strike()
            await sleep(STRIKE_EVERY, reactor)


async def _prepare(reactor: Any, source: Settings, target: Settings) -> None:
    """See that the source is as this flux knows it and not in use, and make the target's tables if that takes a store.

    :raises Unavailable: it is not, or they cannot be made.
    :raises CannotStart: the two are nothing that can be copied.
    """
    from flux.assembly import has_migrations, make_store, see_whether_idle

    # Signals are the reactor's matter as soon as it runs.
    await turn(reactor)
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
    # An SQLite file is made with what is written to it.
    if target.store.kind == "postgres":
        # First, so that a source which is in use leaves the target as it was.
        see_whether_idle(source)
        await stores[1].migrate()


def _place(settings: Settings) -> object:
    store = settings.store
    return store.dsn if store.kind == "postgres" else store.path.resolve()


def _show(copied: Copied) -> None:
    tables = Table()
    tables.add_column("table")
    tables.add_column("rows", justify="right")
    tables.add_column("checksum on both sides")
    for table in copied.tables:
        tables.add_row(table.name, f"{table.rows:,}", table.checksum)
    output = Console()
    output.print(tables)
    say(output, f"copied {copied.source} to {copied.target}")
