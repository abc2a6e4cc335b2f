"""The schema of the PostgreSQL store: nodes that start at the same moment, and migrations that take long."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing

import pytest
from postgres_database import Database
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from flux.backends.postgres import PostgresStore, migrating, schema
from flux.backends.postgres import store as store_module
from flux.backends.postgres.migrating import LOCK
from flux.bench.engines import PostgresServer
from flux.errors import Unavailable
from flux.lifecycle import sleep

numbers = itertools.count()


def store(database: Database) -> PostgresStore:
    from twisted.internet import reactor

    return PostgresStore(database.dsn, reactor, pool=1)


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[Database]:
    database = Database(postgres_server.create_database(f"schema_{next(numbers)}"))
    yield database
    database.close()


@pytest.fixture
def other(database: Database) -> Iterator[Database]:
    """Another process, which has the lock on migrations."""
    with closing(Database(database.dsn)) as other:
        other.query("SELECT pg_advisory_lock(%s)", LOCK)
        yield other


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What is logged about migrations."""
    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        if event["log_namespace"] == migrating.__name__:
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


async def until_said(said: list[str], starting: Deferred[None], lines: int = 1) -> None:
    from twisted.internet import reactor

    while len(said) < lines:
        assert not starting.called, said
        await sleep(0.01, reactor)


# --- others that migrate ---


async def test_a_node_that_waits_for_another_says_so_and_finds_its_tables(
    database: Database, other: Database, said: list[str]
) -> None:
    waits = store(database)
    starting = Deferred.fromCoroutine(waits.start())
    await until_said(said, starting)
    [[pid]] = other.query("SELECT pg_backend_pid()")
    assert said == [
        f"another process is migrating the schema: waiting for it (process {pid} of the database server, 0 s so far)"
    ]
    # It need not let the lock go: that the tables are there is enough.
    other.connection.autocommit = False
    other.migrate()
    other.connection.commit()
    await starting
    await waits.stop()


async def test_a_node_that_waits_takes_over_from_one_that_has_gone(
    database: Database, other: Database, said: list[str]
) -> None:
    waits = store(database)
    starting = Deferred.fromCoroutine(waits.start())
    await until_said(said, starting)
    other.close()
    await starting
    assert await waits.next_boot("a") == 1
    await waits.stop()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute is a fraction of a second."""
    monkeypatch.setattr(migrating, "TELL_EVERY", 0.05)
    monkeypatch.setattr(migrating, "PATIENCE", 0.4)
    monkeypatch.setattr(migrating, "PAUSES", (0.01, 0.03))


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("blocked", [False, True], ids=["idle", "blocked"])
async def test_who_does_nothing_is_not_waited_for_for_ever(
    database: Database, other: Database, said: list[str], blocked: bool
) -> None:
    [[pid]] = other.query("SELECT pg_backend_pid()")
    database.query("CREATE TABLE theirs (a int)")
    with closing(Database(database.dsn)) as third:
        third.connection.autocommit = False
        third.query("LOCK TABLE theirs")
        waiting = deferToThread(other.query, "LOCK TABLE theirs; SELECT 1" if blocked else "SELECT 1")
        with pytest.raises(Unavailable) as raised:
            await store(database).start()
        third.connection.rollback()
        await waiting
    detail = raised.value.detail
    assert detail.startswith("store.dsn: another process has been migrating the schema for ")
    assert f" s, and there was no sign of work for 0.4 s: look at process {pid} of the database server" in detail
    assert f"SELECT pg_terminate_backend({pid})" in detail
    # Told again and again.
    assert len(said) > 2
    assert database.query("SELECT to_regclass('accounts')") == [(None,)]


@pytest.mark.usefixtures("short")
async def test_who_works_is_waited_for(database: Database, other: Database) -> None:
    def work() -> None:
        other.query("SELECT pg_sleep(1.2)")  # three times as long as somebody idle is waited for
        other.connection.autocommit = False
        other.migrate()
        other.connection.commit()

    waits = store(database)
    working = deferToThread(work)
    await waits.start()
    await working
    await waits.stop()


async def test_a_start_that_is_ended_while_it_waits(database: Database, other: Database, said: list[str]) -> None:
    """It leaves nothing behind: the fixture of all tests sees to that."""
    starting = Deferred.fromCoroutine(store(database).start())
    await until_said(said, starting)
    starting.cancel()
    with pytest.raises(CancelledError):
        await starting


async def test_ten_nodes_that_start_at_once_make_it_once(database: Database) -> None:
    stores = [store(database) for _ in range(10)]
    await gatherResults([Deferred.fromCoroutine(each.start()) for each in stores], consumeErrors=True)
    for each in stores:
        await each.stop()
    assert database.query("SELECT count(*) = max(number) FROM flux_migrations") == [(True,)]


# --- what takes long ---


async def test_a_migration_takes_as_long_as_it_needs_and_nothing_else_does(
    database: Database, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "START_WITHIN", 1.5)
    monkeypatch.setattr(migrating, "TELL_EVERY", 0.5)
    known = [*schema.migrations(), schema.Migration("slow", "SELECT pg_sleep(2);")]
    monkeypatch.setattr(schema, "migrations", lambda: known)
    migrates = store(database)
    await migrates.start()
    await migrates.stop()
    assert said
    assert said[-1].startswith("migrating the schema: at slow (")
    assert database.query("SELECT number FROM flux_migrations WHERE name = 'slow'") == [(len(known),)]
    database.connection.autocommit = False
    database.query("LOCK TABLE flux_migrations")
    with pytest.raises(Unavailable, match=r"^unavailable: store\.dsn: the database did not answer within 1\.5 s$"):
        await store(database).start()
    database.connection.rollback()
