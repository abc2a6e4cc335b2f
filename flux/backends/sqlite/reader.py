"""Reads: the calls that gathered share one snapshot, begun after the last of them was made."""

from __future__ import annotations

import sqlite3
from typing import Any

from twisted.logger import Logger

from flux.backends.sqlite.lanes import Call
from flux.errors import Unavailable


class Reader:
    """A connection that only reads."""

    _log = Logger()

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def run(self, calls: list[Call[sqlite3.Connection, Any]]) -> None:
        """See :class:`flux.backends.sqlite.lanes.Runner`."""
        db = self._db
        try:
            db.execute("BEGIN")
            for call in calls:
                try:
                    call.value = call.work(db)
                except sqlite3.OperationalError:
                    raise
                except Exception as error:
                    call.error = error
            db.execute("COMMIT")
        except sqlite3.Error as error:
            self._log.warn("reading failed: {error}", error=str(error))
            for call in calls:
                call.error = Unavailable(f"the store could not read: {error}")
            self._end_snapshot()

    def close(self) -> None:
        """See :class:`flux.backends.sqlite.lanes.Runner`."""
        try:
            self._db.close()
        except sqlite3.Error:
            self._log.failure("closing a reading connection failed")

    def _end_snapshot(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error:
            self._log.failure("ending a snapshot failed")
