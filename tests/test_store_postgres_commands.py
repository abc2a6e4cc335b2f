"""Starting on PostgreSQL as people do it: what commands and servers say, and who waits for whose migration."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import psycopg2
import pytest
from postgres_database import Database, empty_database
from server_process import ServerProcess, environment, server

from flux.assembly.services import Assembly
from flux.backends.postgres import schema
from flux.backends.postgres.migrating import LOCK
from flux.bench.engines import PostgresServer
from flux.bench.servers import free_port, twistd
from flux.config import load


@pytest.fixture
def database(quick_postgres: PostgresServer) -> Iterator[Database]:
    """An empty database, without tables."""
    with empty_database(quick_postgres, "commands") as database:
        yield database


# --- commands and servers ---


def flux(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "import sys; from flux.cli.main import main; sys.exit(main())", *arguments],
        env=environment(), cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_flux_check_shows_the_steps(database: Database, tmp_path: Path) -> None:
    (tmp_path / "flux.ini").write_text(
        f"[store]\nkind = postgres\ndsn = {database.dsn}\nrequire_fsync = no\n"
        f"[chat]\nlisten = tcp:0\n[status]\nlisten = tcp:0:interface=127.0.0.1\n[gate]\nlisten =\n"
    )
    empty = flux("check", "-c", "flux.ini", cwd=tmp_path)
    assert empty.returncode == 0, empty
    assert re.search(
        r"store postgres: schema\n +schema 0\n +a start applies 0001_initial, 0002_\w+, 0003_\w+, 0004_\w+, 0005_\w+\n",
        empty.stdout,
    )
    assert "not tried without the tables that a start makes" in empty.stdout
    assert database.query("SELECT to_regclass('flux_migrations'), to_regclass('accounts')") == [(None, None)]
    database.migrate()
    checked = flux("check", "-c", "flux.ini", cwd=tmp_path)
    lines = checked.stdout
    assert checked.returncode == 0, checked
    assert re.search(
        r"ok +\d+ ms  store postgres: connect\n +PostgreSQL \d+.*, database commands as flux, fsync is OFF", lines
    )
    assert re.search(r"ok +\d+ ms  store postgres: schema\n +schema 5\n", lines)
    assert re.search(r"ok +\d+ ms  store postgres: write and fsync\n +a commit takes \d+\.\d+ ms", lines)
    wrong = database.dsn.replace(":flux@", ":").replace(
        psycopg2.extensions.parse_dsn(database.dsn)["password"], "guessed"
    )
    refused = flux("check", "-c", "flux.ini", "--set", f"store.dsn={wrong}", cwd=tmp_path)
    assert refused.returncode == 1
    assert "FAILED" in refused.stdout
    assert "guessed" not in refused.stdout + refused.stderr


def twistd_flux(dsn: str, folder: Path) -> AbstractContextManager[ServerProcess]:
    ports = dict.fromkeys(("chat.listen", "status.listen"), "tcp:0:interface=127.0.0.1")
    store = {"store.kind": "postgres", "store.dsn": dsn, "store.pool": "1", "store.require_fsync": "no"}
    return server(twistd("flux", ports | store | {"gate.listen": "", "admin.listen": ""}), folder, environment())


def does_not_start(dsn: str, folder: Path) -> str:
    """The one line that says why."""
    with twistd_flux(dsn, folder) as process:
        status, errors = process.end()
    assert (status, errors.count("\n")) == (1, 1), errors
    [said] = [line for line in process.lines if "critical" in line]
    assert said.endswith(errors.rstrip())
    assert "Traceback" not in "\n".join(process.lines)
    password = psycopg2.extensions.parse_dsn(dsn)["password"]
    assert password not in errors + "\n".join(process.lines)
    return errors.rstrip()


def test_a_server_that_cannot_reach_its_database_says_so_in_one_line(tmp_path: Path) -> None:
    port = free_port()
    errors = does_not_start(f"postgresql://flux:hushhush@127.0.0.1:{port}/flux", tmp_path)
    assert errors == f"cannot start flux: the store: store.dsn: 127.0.0.1:{port}: Connection refused"


def test_a_server_whose_role_may_not_use_the_tables_says_so_in_one_line(
    database: Database, quick_postgres: PostgresServer, tmp_path: Path
) -> None:
    database.migrate()
    database.query(
        "DROP ROLE IF EXISTS visitor; CREATE ROLE visitor LOGIN PASSWORD 'visitor-word';"
        " GRANT SELECT ON ALL TABLES IN SCHEMA public TO visitor"
    )
    try:
        errors = does_not_start(f"postgresql://visitor:visitor-word@127.0.0.1:{quick_postgres.port}/commands", tmp_path)
    finally:
        database.query("DROP OWNED BY visitor; DROP ROLE visitor")
    assert errors.startswith("cannot start flux: the store: store.dsn: its role may not read and write accounts, ")
    assert errors.endswith(": GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ... TO it")


def test_a_server_whose_database_can_store_nothing_says_so_in_one_line(database: Database, tmp_path: Path) -> None:
    database.migrate()
    database.query(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$;"
        " CREATE TRIGGER fail BEFORE INSERT ON boots EXECUTE FUNCTION fail()"
    )
    assert does_not_start(database.dsn, tmp_path) == (
        "cannot start flux: the chat node: store.dsn: could not extend file (53100);"
        " make room on the disk of the database; flux goes on by itself"
    )


def test_a_server_that_is_older_than_its_database_says_so_in_one_line(database: Database, tmp_path: Path) -> None:
    database.migrate()
    known = len(schema.migrations())
    database.query("INSERT INTO flux_migrations VALUES (%s, 'later')", known + 1)
    assert does_not_start(database.dsn, tmp_path) == (
        "cannot start flux: the store: store.dsn: the database was written by a later flux"
        f" (schema {known + 1}, this one knows {known}): install that version, or give this one another database"
    )


# --- others that migrate ---


@pytest.fixture
def other(database: Database) -> Iterator[Database]:
    """Another process, which has the lock on migrations."""
    with closing(Database(database.dsn)) as other:
        other.query("SELECT pg_advisory_lock(%s)", LOCK)
        yield other


WAITS = "another process is migrating the schema: waiting for it (process "


def test_a_server_waits_for_the_migration_of_another(database: Database, other: Database, tmp_path: Path) -> None:
    with twistd_flux(database.dsn, tmp_path) as process:
        assert " warn  " in process.wait_for(WAITS)
        other.close()
        process.wait_for("FluxProcess flux started in")
        process.signal(signal.SIGTERM)
        assert process.end() == (0, "")


def test_a_server_that_waits_can_be_stopped(database: Database, other: Database, tmp_path: Path) -> None:
    with twistd_flux(database.dsn, tmp_path) as process:
        process.wait_for(WAITS)
        process.signal(signal.SIGTERM)
        assert process.end() == (0, "")
    assert not any("cannot start" in line or "Traceback" in line for line in process.lines)


def test_flux_migrate_says_that_it_waits(database: Database, other: Database, tmp_path: Path) -> None:
    (tmp_path / "flux.ini").write_text(f"[store]\nkind = postgres\ndsn = {database.dsn}\nrequire_fsync = no\n")
    command = "import sys; from flux.cli.main import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", command, "migrate", "--config", "flux.ini", "--apply"],
        env=environment(), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert process.stderr.readline().startswith(f"flux migrate: {WAITS}")
        other.close()
        output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert output.endswith("".join(f"applied {migration.name}\n" for migration in schema.migrations()))


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_start_does_not_cut_a_migration_off(kind: str, database: Database) -> None:
    from twisted.internet import reactor

    assembly = Assembly(
        load(None, [f"store.kind={kind}", f"store.dsn={database.dsn}"]), frozenset({"status", "gate"}), reactor
    )
    [stage] = [stage for stage in assembly._stages._stages if stage.name == "the store"]
    assert stage.start_within is None
