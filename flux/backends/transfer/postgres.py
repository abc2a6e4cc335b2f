"""A PostgreSQL database as one side of a copy."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterable, Iterator
from typing import Any

import psycopg2

from flux.backends.postgres.failures import first_line
from flux.backends.postgres.schema import IN_USE
from flux.backends.transfer.tables import AT_ONCE, TABLES, Row
from flux.errors import Unavailable

ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
"""Of COPY's text format."""

PATIENCE = 20
"""Tenths of a second that connections may take to end which are being closed."""

USERS = """
    SELECT count(*) FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid = %s AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
HEADS = """
    UPDATE chats SET head = newest.seq, at = newest.at
    FROM (SELECT DISTINCT ON (chat) chat, seq, at FROM messages ORDER BY chat, seq DESC) newest
    WHERE newest.chat = chats.id"""
BARRED = "UPDATE chats SET barred = is_barred(low, high) WHERE is_barred(low, high)"
NEXT_ID = "SELECT setval(pg_get_serial_sequence('{0}', 'id'), max(id)) FROM {0} HAVING max(id) IS NOT NULL"


class PostgresSide:
    """A database with the current schema, which no server opens as long as this is open.

    :raises Unavailable: it cannot be reached, or servers use it.
    """

    def __init__(self, dsn: str, write: bool = False) -> None:
        try:
            # Of several hosts the primary: what is locked on a standby is locked there alone.
            self._db = psycopg2.connect(dsn, fallback_application_name="flux copy", target_session_attrs="read-write")
            self._db.set_client_encoding("UTF8")
            self._db.set_session(isolation_level="REPEATABLE READ", readonly=not write)
            self.name = f"PostgreSQL database {self._db.info.dbname}"
            self._refuse_company()
        except psycopg2.Error as error:
            raise Unavailable(f"store.dsn: {first_line(error)}") from error

    def _refuse_company(self) -> None:
        """What a server stores while its database is copied would be in one of the two only.

        Each connection of a store shares a lock as long as it lives.  Who has that lock alone, from before the snapshot
        until after the commit, has all that was ever acknowledged, and nothing is added: a server that is started
        meanwhile gets no connection.  It does not matter what the connections call themselves, or as whom they log in.
        """
        for _ in range(PATIENCE):
            [[alone]] = self._query("SELECT pg_try_advisory_lock(%s)", IN_USE)
            # And a snapshot that is taken afterwards; the lock stays.
            self._db.rollback()
            if alone:
                return
            time.sleep(0.1)
        [[others]] = self._query(USERS, IN_USE)
        self._db.close()
        raise Unavailable(
            f"{self.name} is in use: {others} connections of servers or of another flux copy are open; stop those first"
        )

    def _query(self, statement: str, *values: object) -> list[Row]:
        with self._db.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def count(self, table: str) -> int:
        """See ``Side``; so for the other methods here."""
        [[count]] = self._query(f"SELECT count(*) FROM {table}")
        return int(count)

    def rows(self, table: str) -> Iterator[Row]:
        order = " ORDER BY chat, seq" if table == "messages" else ""
        # A cursor on the server: not all of it comes at once.
        with self._db.cursor(name="flux_copy") as cursor:
            cursor.itersize = AT_ONCE
            cursor.execute(f"SELECT {', '.join(TABLES[table])} FROM {table}{order}")
            yield from cursor

    def write(self, table: str, rows: Iterable[Row]) -> None:
        with self._db.cursor() as cursor:
            cursor.copy_expert(f"COPY {table} ({', '.join(TABLES[table])}) FROM STDIN", _Lines(iter(rows)))

    def finish(self) -> None:
        self._query(HEADS)
        self._query(BARRED)
        for table in ("accounts", "chats"):
            self._query(NEXT_ID.format(table))
        self._query("ANALYZE")

    def commit(self) -> None:
        try:
            self._db.commit()
        except psycopg2.Error as error:
            if error.pgcode:
                raise
            raise Unavailable(
                f"the connection to {self.name} was lost at the very end: look whether it has everything, "
                "or make it empty and copy again"
            ) from error

    def interrupt(self) -> None:
        with contextlib.suppress(psycopg2.Error):
            self._db.cancel()

    def close(self) -> None:
        self._db.close()


class _Lines(io.RawIOBase):
    """Rows as COPY wants them, made as they are read."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows = rows
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """See ``io.RawIOBase``: fill as much as there is room for."""
        parts, length = [self._rest], len(self._rest)
        while length < len(buffer) and (row := next(self._rows, None)) is not None:
            parts.append(line := ("\t".join(map(_value, row)) + "\n").encode())
            length += len(line)
        text = b"".join(parts)
        taken = text[: len(buffer)]
        self._rest = text[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)


def _value(value: Any) -> str:
    if value is None:
        return "\\N"
    if isinstance(value, bool):
        return "t" if value else "f"
    return str(value).translate(ESCAPES)
