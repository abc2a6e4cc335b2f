"""Group commit: the calls that gathered become one transaction.

::

    calls ──> BEGIN IMMEDIATE ── work, work, work ──> COMMIT ──> outcomes
                    │ something unexpected                 │ disk full, I/O error
                    v                                      v
              ROLLBACK, all of them again,           ROLLBACK, all Unavailable
              looking before each step
                    │ again
                    v
              each in a transaction of its own

The work of a call checks first and writes then, so a refusal (``FluxError``) costs
its neighbours nothing.  Where something unexpected happens (a ``cid`` that is known
already, a text that cannot be stored), the transaction is repeated with
:attr:`Writer.careful` set; if even that does not help, only the call that is to
blame fails.  Nothing had been answered by then, so nobody notices.

What is kept in memory (:attr:`Writer.chats`, the change log) learns of a transaction
when COMMIT has returned, and forgets what a rollback has touched.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.backends.sqlite.changes import ChangeLog
from flux.backends.sqlite.chats import Chat, Chats
from flux.backends.sqlite.lanes import Call
from flux.backends.sqlite.quiet import Quiet
from flux.backends.sqlite.schema import BUSY_TIMEOUT, log_file
from flux.errors import FluxError, Unavailable
from flux.lifecycle import Outage
from flux.model.overview import Changes

WriterCall = Call["Writer", Any]


LOG_LIMIT = 64 << 20
"""Bytes of the write-ahead log from which on it is worth waiting for the readers."""


STRANGERS = 0.1
"""Seconds to wait, while readers are kept away, for other programs that read, as a backup does for long."""


PROOF = 64 << 10
"""Bytes that have to have room again after a full disk: a long message, with what belongs to it."""


class AfterCommit:
    """Work that needs no transaction: it is done when the one of its batch is over, however that ended."""

    def __init__(self, work: Callable[[Writer], Changes]) -> None:
        self._work = work

    def __call__(self, writer: Writer) -> Changes:
        return self._work(writer)


class _WroteThenRefused(Exception):
    """A call raised a FluxError after it had written: only a rollback undoes it."""


class Writer:
    """The only connection that writes, and what its owner knows.

    :ivar db: for the work of calls.
    :param path: the file of ``db``.
    :param release: called once the connection is closed.
    :param quiet: keeps readers away where the log has to begin anew.
    :ivar chats: heads and senders of recent chats.
    :ivar careful: the running transaction is a repetition: look before each step.
    :ivar heads: chat -> head, of the running transaction; so is what follows.
    :ivar members: chat -> member version.
    :ivar sessions: account -> session number.
    :ivar changed: chats whose ``head`` or ``at`` was changed in memory.
    """

    _log = Logger()

    def __init__(
        self,
        db: sqlite3.Connection,
        path: Path,
        release: Callable[[], None],
        quiet: Quiet,
        chats_bound: int,
        changes_bound: int,
        now: Callable[[], float],
        clock: IReactorTime,
    ) -> None:
        self.db = db
        self._path = path
        self._log_file = log_file(path)
        self._log_limit = LOG_LIMIT
        self._release = release
        self._quiet = quiet
        self.chats = Chats(db, chats_bound)
        self.changes = ChangeLog(changes_bound)
        self.careful = False
        self.heads: dict[int, int] = {}
        self.members: dict[int, int] = {}
        self.sessions: dict[int, int] = {}
        self.changed: dict[int, Chat] = {}
        self._now = now
        self._outage = Outage(self._log, clock)
        self._failing = False

    def now(self) -> int:
        """The server's clock, in ms."""
        return int(self._now() * 1000)

    def run(self, calls: list[WriterCall]) -> None:
        """See :class:`flux.backends.sqlite.lanes.Runner`."""
        if writes := [call for call in calls if not isinstance(call.work, AfterCommit)]:
            self._commit(writes)
        for call in calls:
            if isinstance(call.work, AfterCommit):
                call.value = call.work(self)

    def rest(self) -> None:
        """Keep the log bounded, see :class:`flux.backends.sqlite.lanes.Runner`.

        COMMIT copies it to the tables now and then, but only up to where somebody still
        reads, and only a log that was copied to its end starts anew: while the readers
        take turns it would grow for ever. So they wait a moment here.
        """
        try:
            size = self._log_file.stat().st_size
            if size < self._log_limit:
                return
            with self._quiet.nobody_reads():
                busy = self._begin_log_anew()
        except (OSError, sqlite3.Error) as error:
            self._log.warn("the database's log could not be copied: {error}", error=str(error))
            return
        if busy:
            self._log.warn("the database's log has {size} bytes: something reads an old state for long", size=size)
        self._log_limit = 2 * size if busy else LOG_LIMIT

    def _begin_log_anew(self) -> bool:
        """Copy the log to its end; whether somebody was in the way."""
        self._wait_for_locks(STRANGERS)
        try:
            [(busy, _, _)] = self.db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        finally:
            self._wait_for_locks(BUSY_TIMEOUT)
        return bool(busy)

    def _wait_for_locks(self, seconds: float) -> None:
        self.db.execute(f"PRAGMA busy_timeout = {round(1000 * seconds)}").fetchall()

    def close(self) -> None:
        """See :class:`flux.backends.sqlite.lanes.Runner`."""
        try:
            self.db.close()
        except sqlite3.Error:
            self._log.failure("closing the database failed")
        self._release()

    def _commit(self, calls: list[WriterCall]) -> None:
        for careful in (False, True):
            try:
                self._transaction(calls, careful)
                return
            except sqlite3.OperationalError as error:
                self._away(calls, error)
                return
            except Exception:
                self._log.debug("a transaction is repeated, careful: {careful}", careful=not careful)
        for call in calls:
            try:
                self._transaction([call], careful=True)
            except _WroteThenRefused as refused:
                call.error = refused.__cause__
            except sqlite3.Error as error:
                self._away([call], error)
            except Exception as error:
                call.error = error

    def prove(self) -> None:
        """Write something that takes room, where that has failed the last time; fails if it still does."""
        if self._failing:
            self.db.execute("CREATE TABLE proof (x)")
            self.db.execute("INSERT INTO proof VALUES (zeroblob(?))", (PROOF,))
            self.db.execute("DROP TABLE proof")

    def _away(self, calls: list[WriterCall], error: sqlite3.Error) -> None:
        self._failing = True
        self._outage.failed(
            "nothing can be stored in {path} (store.path), and clients are told so: {error}",
            path=self._path, error=str(error),
        )  # fmt: skip
        for call in calls:
            call.error = Unavailable(f"the store could not write: {error}")

    def _transaction(self, calls: list[WriterCall], careful: bool) -> None:
        db = self.db
        before = db.total_changes
        self.careful = careful
        try:
            db.execute("BEGIN IMMEDIATE")
            for call in calls:
                call.error = None
                written = db.total_changes
                try:
                    call.value = call.work(self)
                except FluxError as error:
                    if db.total_changes != written:
                        raise _WroteThenRefused from error
                    call.error = error
            try:
                db.execute("COMMIT")
            except sqlite3.Error:
                # Not said: that nothing was committed. So nobody may rely on knowing what moved.
                self.changes.forget()
                raise
        except BaseException:
            self._roll_back()
            raise
        if self._failing and db.total_changes != before:
            self._failing = False
            self._outage.over("what clients send is stored again, after {seconds} s")
        self.chats.committed()
        self.changes.record(self.heads, self.members, self.sessions)
        self._forget_transaction()

    def _roll_back(self) -> None:
        self.chats.rolled_back(self.changed.values())
        self._forget_transaction()
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")

    def _forget_transaction(self) -> None:
        self.heads.clear()
        self.members.clear()
        self.sessions.clear()
        self.changed.clear()
