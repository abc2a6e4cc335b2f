"""``flux copy`` and ``flux backup`` that come to nothing: interrupted, failed, or with servers in their way."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest
import pytest_twisted
from postgres_database import Database, empty_database
from server_process import ServerProcess, environment, server
from store_contract_people import people
from test_copy import flux, postgres_store, sqlite_store

from flux.assembly import Interruption, copy_store
from flux.backends.postgres.migrating import LOCK
from flux.backends.transfer import PostgresSide
from flux.bench.engines import PostgresServer
from flux.config import load
from flux.errors import Unavailable

INTERRUPTED = "flux copy: interrupted, and nothing was kept\n"


@pytest.fixture
def database(quick_postgres: PostgresServer) -> Iterator[Database]:
    """An empty database, without tables."""
    with empty_database(quick_postgres, "ended") as database:
        yield database


@pytest.fixture
def folder(database: Database, tmp_path: Path) -> Path:
    """A folder with a configuration for each kind of store."""
    (tmp_path / "lite.ini").write_text("[store]\npath = lite/flux.db\n")
    configure(tmp_path / "post.ini", database.dsn)
    return tmp_path


def configure(file: Path, dsn: str) -> None:
    file.write_text(f"[store]\nkind = postgres\ndsn = {dsn}\nrequire_fsync = no\n")


def begin(folder: Path, *arguments: str) -> AbstractContextManager[ServerProcess]:
    """``flux`` in a process of its own, which goes on."""
    command = "import sys; from flux.cli.main import main; sys.exit(main())"
    return server([sys.executable, "-c", command, *arguments], folder, environment())


@contextmanager
def barred(database: Database, table: str) -> Iterator[Database]:
    """Whoever reads this table waits, until this connection closes."""
    with closing(Database(database.dsn)) as other:
        other.query("BEGIN")
        other.query(f"LOCK TABLE {table}")
        yield other


def left(folder: Path) -> list[str]:
    """What there is of an SQLite database."""
    return sorted(file.name for file in (folder / "lite").iterdir())


# --- interrupted ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_copy_to_postgresql(number: signal.Signals, folder: Path, database: Database) -> None:
    store = sqlite_store(folder / "lite" / "flux.db")
    await store.start()
    await people(store, "ann")
    await store.stop()
    database.migrate()
    with barred(database, "sessions"), begin(folder, "copy", "lite.ini", "post.ini") as process:
        await database.until_somebody_waits()
        process.signal(number)
        assert process.end() == (130, INTERRUPTED)
    assert database.query("SELECT count(*) FROM accounts") == [(0,)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_copy_to_sqlite(number: signal.Signals, folder: Path, database: Database) -> None:
    store = postgres_store(database)
    await store.start()
    await people(store, "ann")
    await store.stop()
    with barred(database, "messages"), begin(folder, "copy", "post.ini", "lite.ini") as process:
        await database.until_somebody_waits()
        process.signal(number)
        assert process.end() == (130, INTERRUPTED)
    assert left(folder) == ["flux.db.lock"]


async def test_a_copy_that_waits_for_a_migration_is_interrupted(folder: Path, database: Database) -> None:
    store = sqlite_store(folder / "lite" / "flux.db")
    await store.start()
    await store.stop()
    with closing(Database(database.dsn)) as other:
        other.query("SELECT pg_advisory_lock(%s)", LOCK)
        with begin(folder, "copy", "lite.ini", "post.ini") as process:
            assert process.popen.stderr is not None
            assert "another process is migrating the schema" in process.popen.stderr.readline()
            process.signal(signal.SIGTERM)
            assert process.end() == (130, INTERRUPTED)
    assert database.query("SELECT to_regclass('accounts')") == [(None,)]


async def test_rows_that_go_by_are_interrupted(
    folder: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    store = postgres_store(database)
    await store.start()
    await people(store, "ann")
    await store.stop()
    interruption, seen = Interruption(), []

    def told(share: float, what: str) -> None:
        seen.append(what)
        if what == "copying members":
            # No statement runs that could be ended.
            interruption._came = True

    with pytest.raises(Unavailable, match="interrupted"):
        copy_store(load("post.ini"), load("lite.ini"), told, interruption)
    assert seen[-1] == "copying members"


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_an_interrupted_backup(number: str, folder: Path) -> None:
    assert flux(folder, "migrate", "-c", "lite.ini", "--apply").returncode == 0
    script = (
        "import os, signal, sys; from flux.backends.sqlite import backup; from flux.cli.main import main\n"
        f"backup.recognise = lambda *_: os.kill(os.getpid(), signal.{number})\n"
        "sys.exit(main(['backup', 'copy.db', '-c', 'lite.ini']))"
    )
    with server([sys.executable, "-c", script], folder, environment()) as process:
        assert process.end() == (130, "")
    assert not list(folder.glob("copy.db*"))


# --- failed ---


@pytest_twisted.async_yield_fixture
async def fails(folder: Path, database: Database, quick_postgres: PostgresServer) -> AsyncIterator[str]:
    """A source of which one table cannot be read, which shows when its turn has come; what is said then."""
    store = postgres_store(database)
    await store.start()
    await store.stop()
    database.query(
        "DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN PASSWORD 'reader-word';"
        " GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader; REVOKE SELECT ON bans FROM reader"
    )
    configure(folder / "post.ini", f"postgresql://reader:reader-word@127.0.0.1:{quick_postgres.port}/ended")
    yield "flux copy: copying failed, and nothing was kept: permission denied for table bans\n"
    database.query("DROP OWNED BY reader; DROP ROLE reader")


def test_a_copy_that_fails_leaves_no_file(folder: Path, fails: str) -> None:
    failed = flux(folder, "copy", "post.ini", "lite.ini")
    assert (failed.returncode, failed.stderr) == (1, fails)
    assert left(folder) == ["flux.db.lock"]


def test_a_file_that_was_there_stays_when_a_copy_fails(folder: Path, fails: str) -> None:
    assert flux(folder, "migrate", "-c", "lite.ini", "--apply").returncode == 0
    failed = flux(folder, "copy", "post.ini", "lite.ini")
    assert (failed.returncode, failed.stderr) == (1, fails)
    assert left(folder) == ["flux.db", "flux.db.lock"]


async def test_a_connection_that_is_lost_at_the_commit(folder: Path, database: Database) -> None:
    """Nobody knows whether that was done."""
    store = postgres_store(database)
    await store.start()
    await store.stop()
    with closing(PostgresSide(database.dsn, write=True)) as side:
        side.count("accounts")
        database.query(f"SELECT pg_terminate_backend({side._db.info.backend_pid})")
        with pytest.raises(Unavailable, match="lost at the very end: look whether it has everything"):
            side.commit()


def test_a_link_to_where_the_file_will_be_stays_when_a_copy_fails(folder: Path, fails: str) -> None:
    (folder / "lite").mkdir()
    (folder / "lite" / "flux.db").symlink_to(folder / "large.db")
    assert flux(folder, "copy", "post.ini", "lite.ini").stderr == fails
    assert (folder / "lite" / "flux.db").is_symlink()
    assert not (folder / "large.db").exists()


async def test_one_file_by_two_names(folder: Path) -> None:
    store = sqlite_store(folder / "lite" / "flux.db")
    await store.start()
    await store.stop()
    (folder / "link").symlink_to("lite")
    (folder / "same.ini").write_text("[store]\npath = link/flux.db\n")
    same = flux(folder, "copy", "lite.ini", "same.ini")
    assert (same.returncode, same.stderr) == (1, "flux copy: FROM and TO name the same store\n")


async def test_a_file_that_a_server_has(folder: Path, database: Database) -> None:
    store = sqlite_store(folder / "lite" / "flux.db")
    await store.start()
    database.migrate()
    for arguments in (["lite.ini", "post.ini"], ["post.ini", "lite.ini"]):
        refused = flux(folder, "copy", *arguments)
        assert refused.returncode == 1
        assert refused.stderr.startswith(f"flux copy: {Path('lite', 'flux.db')} is in use by process ")
        assert refused.stderr.endswith(": stop that one first\n")
    await store.stop()


# --- servers ---


async def test_a_server_does_not_start_on_what_is_being_copied(folder: Path, database: Database) -> None:
    store = postgres_store(database)
    await store.start()
    await people(store, "ann")
    await store.stop()
    with barred(database, "messages") as other, begin(folder, "copy", "post.ini", "lite.ini") as process:
        await database.until_somebody_waits()
        with pytest.raises(Unavailable, match="flux copy is at work on this database: start when it has ended"):
            await postgres_store(database).start()
        other.close()
        assert process.end() == (0, "")
    await store.start()
    await store.stop()


@pytest.mark.parametrize("name", ["chatnode", "flux"])
async def test_servers_are_seen_whatever_they_are_called(name: str, folder: Path, database: Database) -> None:
    database.dsn += f"?application_name={name}"
    configure(folder / "post.ini", database.dsn)
    store = postgres_store(database)
    await store.start()
    refused = flux(folder, "copy", "post.ini", "lite.ini")
    assert refused.returncode == 1
    assert "is in use: 2 connections of servers or of another flux copy are open; stop those first" in refused.stderr
    await store.stop()
    assert flux(folder, "copy", "post.ini", "lite.ini").returncode == 0
