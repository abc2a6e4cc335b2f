"""Reads: the calls that gathered share one snapshot, begun after the last of them was made."""

from __future__ import annotations

import sqlite3
from typing import Any

from twisted.logger import Logger

from flux.backends.sqlite.lanes import Call
from flux.backends.sqlite.quiet import Quiet
from flux.errors import Unavailable


class Reader:
    """A connection that only reads."""

    _log = Logger()

    def __init__(self, db: sqlite3.Connection, quiet: Quiet) -> None:
        self._db = db
        self._quiet = quiet

    def run(self, calls: list[Call[sqlite3.Connection, Any]]) -> None:
        """See :class:`flux.backends.sqlite.lanes.Runner`."""
        with self._quiet.reading():
            self._read(calls)

    def _read(self, calls: list[Call[sqlite3.Connection, Any]]) -> None:
        db = self._db
        self._end_snapshot()
        try:
            db.execute("BEGIN")
        except sqlite3.Error as error:
            for call in calls:
                call.error = self._away(error)
        else:
            for call in calls:
                try:
                    call.value = call.work(db)
                except sqlite3.Error as error:
                    call.error = self._away(error)
                except Exception as error:
                    call.error = error
        self._end_snapshot()

    def _away(self, error: sqlite3.Error) -> Unavailable:
        self._log.warn("reading failed: {error}", error=str(error))
        return Unavailable(f"the store could not read: {error}")

    def rest(self) -> None:
        """Nothing: see :class:`flux.backends.sqlite.lanes.Runner`."""

    def close(self) -> None:
        """See :class:`flux.backends.sqlite.lanes.Runner`."""
        try:
            self._db.close()
        except sqlite3.Error:
            self._log.failure("closing a reading connection failed")

    def _end_snapshot(self) -> None:
        """End the snapshot if there is one. Where that fails, the next call tries again."""
        for ending in ("COMMIT", "ROLLBACK"):
            if self._db.in_transaction:
                try:
                    self._db.execute(ending)
                except sqlite3.Error as error:
                    self._log.warn("a snapshot could not be ended: {error}", error=str(error))
