"""Copying all tables, and making sure of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import psycopg2

from flux.backends.postgres.failures import first_line
from flux.backends.transfer.tables import TABLES, Row, Side, Sum
from flux.errors import Unavailable

Progress = Callable[[float, str], None]
"""Is told the share that is done, 0 to 1, and of what."""

SHOWN_EVERY = 1_000
"""Rows after which progress is told."""


class Table(NamedTuple):
    """A table that was copied: its rows, and their checksum on both sides."""

    name: str
    rows: int
    checksum: str


class Copied(NamedTuple):
    """What was copied from where to where, for people."""

    source: str
    target: str
    tables: list[Table]


class Interruption:
    """What ends a copy from another thread.

    :ivar sides: what there is to end; the thread that copies puts it here.
    """

    def __init__(self) -> None:
        self.sides: list[Side] = []
        self._came = False

    def strike(self) -> None:
        """Have what runs fail, and all that is asked afterwards; again and again, for it may lie between the two."""
        self._came = True
        for side in list(self.sides):
            side.interrupt()

    def check(self) -> None:
        """:raises Unavailable: it has come."""
        if self._came:
            raise Unavailable("interrupted, and nothing was kept")


def copy(source: Side, target: Side, progress: Progress) -> Copied:
    """Copy an installation into an empty one, compare, and keep it.

    :raises Unavailable: the target is not empty, or what it has in the end is not what the source has.
    """
    try:
        return _copy(source, target, progress)
    except (psycopg2.Error, sqlite3.Error) as error:
        raise Unavailable(f"copying failed, and nothing was kept: {first_line(error)}") from error


def _copy(source: Side, target: Side, progress: Progress) -> Copied:
    for table in TABLES:
        if target.count(table):
            raise Unavailable(f"{target.name} is not empty: it has {table}; copying needs an empty one")
    counts = {table: source.count(table) for table in TABLES}
    # Everything is read, written and read again.
    bar = _Bar(2 * sum(counts.values()), progress)
    sums = {}
    for table in TABLES:
        sums[table] = Sum()
        target.write(table, bar.over(f"copying {table}", source.rows(table), sums[table]))
    bar.say("making indexes and the next ids")
    target.finish()
    for table, expected in sums.items():
        found = Sum()
        for _ in bar.over(f"comparing {table}", target.rows(table), found):
            pass
        if found != expected:
            raise Unavailable(
                f"{table} differ: {source.name} has {expected.count} rows with the checksum {expected.value:016x},"
                f" {target.name} has {found.count} with {found.value:016x}; nothing was kept"
            )
    target.commit()
    tables = [Table(name, total.count, f"{total.value:016x}") for name, total in sums.items()]
    return Copied(source.name, target.name, tables)


class _Bar:
    """Counts rows that go by."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total = max(total, 1)
        self._progress = progress
        self._done = 0

    def say(self, what: str) -> None:
        self._progress(min(1.0, self._done / self._total), what)

    def over(self, what: str, rows: Iterable[Row], total: Sum) -> Iterator[Row]:
        """The rows, added to ``total`` as they go by."""
        self.say(what)
        for row in rows:
            total.add(row)
            self._done += 1
            if self._done % SHOWN_EVERY == 0:
                self.say(what)
            yield row
