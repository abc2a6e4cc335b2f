"""A database with flux's tables for tests, emptied in a few ms."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
from store_invariants import check_database
from twisted.internet.task import deferLater

from flux.backends.postgres import schema
from flux.bench.engines import PostgresServer

#: Depends on others before what it depends on.
TABLES = (
    "bans",
    "messages",
    "members",
    "groups",
    "removals",
    "chats",
    "blocks",
    "friend_requests",
    "friends",
    "sessions",
    "boots",
)


def settled(call: Any) -> bool:
    """Whether a call has its outcome."""
    return bool(call.called)


def remember(server: PostgresServer) -> Callable[[], None]:
    """Kill a server, keep what it has stored, and start it; returns what makes it go back to that."""
    server.kill()
    kept = server._data.with_name("kept")
    shutil.copytree(server._data, kept, symlinks=True)
    server.start()

    def go_back() -> None:
        server.kill()
        shutil.rmtree(server._data)
        kept.rename(server._data)
        if server._user is not None:
            for path in (server._data, *server._data.rglob("*")):
                shutil.chown(path, server._user, server._user)
        server._data.chmod(0o700)
        server.start()

    return go_back


@contextmanager
def empty_database(server: PostgresServer, name: str) -> Iterator[Database]:
    """A new database without tables; one of that name that was there is gone."""
    with closing(Database(server.dsn)) as admin:
        admin.query(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        with closing(Database(server.create_database(name))) as database:
            yield database


class Database:
    """The database at ``dsn``, seen by a connection of its own."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.connection = psycopg2.connect(dsn)
        self.connection.autocommit = True

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of a statement that has some."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def migrate(self, version: int | None = None) -> None:
        """Make the tables, without a store; those that an earlier version had."""
        self.query(
            "CREATE TABLE flux_migrations"
            " (number integer PRIMARY KEY, name text NOT NULL, at timestamptz NOT NULL DEFAULT now())"
        )
        for number, (name, script) in enumerate(schema.migrations()[:version], 1):
            self.query(script)
            self.query("INSERT INTO flux_migrations VALUES (%s, %s)", number, name)

    def empty(self) -> None:
        """Forget everything but what moved when; ids start with 1 again."""
        self.query(
            "".join(f"DELETE FROM {table};" for table in (*TABLES, "accounts"))
            + "".join(f"ALTER TABLE {table} ALTER id RESTART;" for table in ("accounts", "chats"))
        )

    async def until_somebody_waits(self, count: int = 1) -> None:
        """Until a statement waits for a lock, or so many do."""
        from twisted.internet import reactor

        while self.query(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ) < [(count,)]:
            await deferLater(reactor, 0.001)  # type: ignore[arg-type]

    async def eventually(self, statement: str, value: Any) -> bool:
        """Wait until a statement returns this."""
        from twisted.internet import reactor

        while self.query(statement) != [(value,)]:
            await deferLater(reactor, 0.01)  # type: ignore[arg-type]
        return True

    def deadlocks(self) -> int:
        """How many there have been: of connections that are still open, perhaps not the latest."""
        [(count,)] = self.query("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int(count)

    async def until_alone(self) -> None:
        """Until the server has ended all connections to this database but this one, and counted what they did."""
        await self.eventually("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()", 1)

    def check(self, pruned: bool = False) -> None:
        """The invariants.

        :param pruned: old messages may have been removed.
        """
        with self.connection.cursor() as cursor:
            check_database(cursor, pruned)

    def close(self) -> None:
        self.connection.close()
