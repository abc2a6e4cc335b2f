"""``flux copy`` with servers in its way."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest
from postgres_database import Database
from server_process import ServerProcess, environment, server
from store_contract_people import people
from test_copy import flux, postgres_store

from flux.bench.engines import PostgresServer
from flux.errors import Unavailable


@pytest.fixture
def database(quick_postgres: PostgresServer) -> Iterator[Database]:
    """An empty database, without tables."""
    admin = Database(quick_postgres.dsn)
    admin.query("DROP DATABASE IF EXISTS ended WITH (FORCE)")
    database = Database(quick_postgres.create_database("ended"))
    yield database
    database.close()
    admin.close()


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
