"""SQLite connections that fail when they are told to."""

from __future__ import annotations

import sqlite3
import threading
from typing import Any


class Faults:
    """Makes connections whose statements are counted, and fails the one with a given number.

    ``connect`` is what ``SqliteStore`` takes.  Statements of all connections count,
    in the order in which they happen to run.

    :param fail_at: see :meth:`arm`; 0 means none.
    :ivar lasting: whether all statements from there on fail, until the next :meth:`arm`.
    :ivar sync: False leaves out waiting for the disk, which makes thousands of commits quick.
    :ivar after: fail once the statement was done: its caller cannot know that it was.
    :ivar only: fail (and count) only statements that start with this.
    :ivar hit: what failed.
    :ivar seen: every statement without its values, and values it once had.
    """

    def __init__(
        self, fail_at: int = 0, *, lasting: bool = False, after: bool = False, only: str = "", sync: bool = True
    ) -> None:
        self._fail_at = fail_at
        self.lasting = lasting
        self.after = after
        self.only = only
        self.sync = sync
        self.hit: list[str] = []
        self.seen: dict[str, Any] = {}
        self.connections: list[sqlite3.Connection] = []
        self._count = 0
        self._lock = threading.Lock()

    def connect(self, *args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = sqlite3.connect(*args, factory=self._connection_class(), **kwargs)
        self.connections.append(connection)
        return connection

    def _connection_class(self) -> type[sqlite3.Connection]:
        faults = self

        class Connection(sqlite3.Connection):
            def execute(self, statement: str, values: Any = (), /) -> sqlite3.Cursor:
                if statement == "PRAGMA synchronous = FULL" and not faults.sync:
                    statement = "PRAGMA synchronous = OFF"
                faults.seen[statement] = values
                due = faults.due(statement)
                if due and not faults.after:
                    raise sqlite3.OperationalError("disk I/O error")
                cursor = super().execute(statement, values)
                if due:
                    cursor.fetchall()
                    raise sqlite3.OperationalError("disk I/O error")
                return cursor

        return Connection

    def arm(self, fail_at: int) -> None:
        """From now on, fail the statement with this number, counted from here and from 1; 0 means none."""
        with self._lock:
            self._count, self._fail_at = 0, fail_at

    def due(self, statement: str) -> bool:
        """Count a statement; whether it is the one to fail."""
        # What undoes a failure must work, or the test would be about two failures.
        if not statement.startswith(self.only) or statement == "ROLLBACK":
            return False
        with self._lock:
            self._count += 1
            due = self._count == self._fail_at or (self.lasting and 0 < self._fail_at < self._count)
            if due:
                self.hit.append(statement)
            return due
