"""An SQLite file as one side of a copy."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

from flux.backends.sqlite import runs
from flux.backends.sqlite.schema import open_writer, own
from flux.backends.transfer.tables import AT_ONCE, TABLES, TRUTH_VALUES, Row
from flux.errors import Unavailable

RUN = 100
"""Messages of one entry of the index. Counting unread ones looks at the messages of an entry one by one."""


class SqliteSide:
    """A file with the current schema, which belongs to this process as long as it is open.

    :param write: the file is made where there is none, and is gone again where nothing was committed.
    :raises Unavailable: a server has it, or it cannot be opened.
    """

    def __init__(self, path: Path, write: bool = False) -> None:
        self.name = str(path)
        # Of a link that leads to nothing yet the file is made, not the link.
        self._path = path.resolve()
        self._lock = own(path, "stop that one first")
        self._remove = write and not path.exists()
        try:
            if write:
                open_writer(path, sqlite3.connect).close()
            self._db = sqlite3.connect(path, isolation_level=None)
            # One snapshot of all tables, or one transaction.
            self._db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        except BaseException as error:
            self._give_up()
            if isinstance(error, sqlite3.Error):
                raise Unavailable(f"{path} cannot be used: {error}") from error
            raise

    def count(self, table: str) -> int:
        """See ``Side``; so for the other methods here."""
        [(count,)] = self._db.execute(f"SELECT count(*) FROM {table}").fetchall()
        return int(count)

    def rows(self, table: str) -> Iterator[Row]:
        columns = TABLES[table]
        truth = [place for place, column in enumerate(columns) if column in TRUTH_VALUES]
        # Messages lie in the order of their commits.
        order = " ORDER BY id" if table == "messages" else ""
        cursor = self._db.execute(f"SELECT {', '.join(columns)} FROM {table}{order}")
        while found := cursor.fetchmany(AT_ONCE):
            if not truth:
                yield from found
                continue
            for row in found:
                values = list(row)
                for place in truth:
                    values[place] = bool(values[place])
                yield tuple(values)

    def write(self, table: str, rows: Iterable[Row]) -> None:
        if table == "messages":
            self._write_messages(iter(rows))
            return
        columns = TABLES[table]
        statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        self._db.executemany(statement, rows)

    def _write_messages(self, rows: Iterator[Row]) -> None:
        """As a store does it, entries of the index included."""
        while found := list(islice(rows, AT_ONCE)):
            batch: list[runs.Run] = []
            found.sort(key=itemgetter(0))
            for _, of_chat in groupby(found, key=itemgetter(0)):
                messages = list(of_chat)
                for start in range(0, len(messages), RUN):
                    batch.append([value for row in messages[start : start + RUN] for value in row])
            runs.insert(self._db, batch)

    def finish(self) -> None:
        """Nothing: everything follows from the rows."""

    def commit(self) -> None:
        self._db.execute("COMMIT")
        self._remove = False
        # Servers do without.
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA optimize").fetchall()

    def interrupt(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._db.interrupt()

    def close(self) -> None:
        self._db.close()
        self._give_up()

    def _give_up(self) -> None:
        if self._remove:
            self._path.unlink(missing_ok=True)
        self._lock.release()
