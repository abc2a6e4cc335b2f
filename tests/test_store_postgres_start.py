"""How the PostgreSQL store starts: migrations, and servers, databases and roles that it refuses."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from postgres_database import Database
from server_process import ServerProcess, environment, server
from store_contract_people import people, together

from flux.assembly.services import Assembly
from flux.backends.postgres import PostgresStore, schema
from flux.backends.postgres.dsn import Dsn
from flux.backends.postgres.migrating import LOCK
from flux.bench.engines import PostgresServer
from flux.bench.servers import free_port, twistd
from flux.config import load
from flux.errors import Unavailable
from flux.model.messages import Draft
from flux.model.people import Ban


@pytest.fixture
def database(quick_postgres: PostgresServer) -> Iterator[Database]:
    """An empty database, without tables."""
    admin = Database(quick_postgres.dsn)
    admin.query("DROP DATABASE IF EXISTS start WITH (FORCE)")
    database = Database(quick_postgres.create_database("start"))
    yield database
    database.close()
    admin.close()


def store_on(dsn: str, **options: Any) -> PostgresStore:
    from twisted.internet import reactor

    return PostgresStore(dsn, reactor, **{"require_fsync": False, "pool": 1} | options)


def attempts(store: PostgresStore) -> dict[str, Callable[[], Awaitable[object]]]:
    """What ``flux check`` tries of it."""
    return {step.name: step.attempt for step in store.checks()}


async def refusal(dsn: str, **options: Any) -> str:
    """Why a store does not start: one line, which does not show a password."""
    with pytest.raises(Unavailable) as raised:
        await store_on(dsn, **options).start()
    detail = raised.value.detail
    assert "\n" not in detail
    assert detail.startswith("store.dsn")
    password = re.search(r":([^:@]+)@", dsn)
    assert password is None or password[1] not in detail
    return detail


# --- migrations ---


async def test_an_empty_database_gets_its_tables_and_the_next_start_finds_them(database: Database) -> None:
    for start in (1, 2):
        store = store_on(database.dsn)
        await store.start()
        assert await store.next_boot("a") == start
        await store.stop()
    applied = database.query("SELECT number, name FROM flux_migrations ORDER BY 1")
    assert applied[:2] == [(1, "0001_initial"), (2, "0002_bans")]
    assert applied == [(number, migration.name) for number, migration in enumerate(schema.migrations(), 1)]


async def test_ten_nodes_that_start_at_once_migrate_once(database: Database) -> None:
    stores = [store_on(database.dsn) for _ in range(10)]
    await together([store.start() for store in stores])
    assert database.query("SELECT number FROM flux_migrations ORDER BY 1") == [(1,), (2,), (3,), (4,)]
    assert await people(stores[3], "ann", "bob") == [1, 2]
    assert sorted(await together([store.next_boot("a") for store in stores])) == list(range(1, 11))
    for store in stores:
        await store.stop()


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> list[schema.Migration]:
    """What a later version of flux would bring along."""
    known = schema.migrations()
    monkeypatch.setattr(schema, "migrations", lambda: known)
    return known


async def test_only_what_is_missing_is_applied_and_in_one_piece(database: Database, later) -> None:
    store = store_on(database.dsn)
    await store.start()
    await people(store, "ann")
    await store.stop()
    later += [
        schema.Migration("0005_more", "CREATE TABLE more (a int);"),
        schema.Migration("0006_wrong", "CREATE TABLE even_more (a int); SELECT 1 / 0;"),
    ]
    assert "the schema cannot be made: division by zero" in await refusal(database.dsn)
    assert database.query("SELECT number FROM flux_migrations ORDER BY 1") == [(1,), (2,), (3,), (4,)]
    assert database.query("SELECT to_regclass('more')") == [(None,)]
    later[5:] = [schema.Migration("0006_right", "CREATE TABLE even_more (a int);\nDROP TABLE more;")]
    store = store_on(database.dsn)
    await store.start()
    assert database.query("SELECT name FROM flux_migrations WHERE number > 4 ORDER BY 1") == [
        ("0005_more",),
        ("0006_right",),
    ]
    assert (await store.profile(1)).name == "ann"
    await store.stop()


@pytest.mark.parametrize("version", [1, 2])
async def test_a_database_of_an_earlier_flux_is_brought_up_to_date(database: Database, version: int) -> None:
    """It keeps what it has, what moved lately too."""
    database.migrate(version)
    database.query("SELECT create_account(name, name, 'h', name, '', '', '') FROM unnest(ARRAY['ann', 'bob']) name")
    database.query("SELECT append_carefully(ARRAY[1], ARRAY[2], ARRAY[0], ARRAY['k'], ARRAY['x'], NULL)")
    before = database.query("SELECT * FROM moves")
    store = store_on(database.dsn)
    assert len(await store.migrate()) == len(schema.migrations()) - version
    await store.start()
    mark = (await store.changes(0)).mark
    assert database.query("SELECT * FROM moves") == before
    [again, new] = await store.append([Draft(1, 2, 0, "x", "k"), Draft(1, 2, 0, "y", "l")])
    assert (again.seq, again.duplicate, new.seq, new.duplicate) == (1, True, 2, False)
    assert (await store.append([Draft(1, 2, 0, "y", "l")]))[0].duplicate
    found = await store.changes(mark)
    assert (found.complete, found.heads) == (True, ((1, 2),))
    assert (await store.credentials(1, "")).ban is None
    await store.ban(Ban(1, "", "spam", 1, 0))
    assert (await store.overview(1)).ban == Ban(1, "", "spam", 1, 0, "ann")
    assert await store.open_session(1) == 1
    await store.stop()


async def test_a_database_of_a_later_flux_is_refused(database: Database, later) -> None:
    later += [schema.Migration("0005_more", "CREATE TABLE more (a int);")]
    store = store_on(database.dsn)
    await store.start()
    await store.stop()
    later.pop()
    assert "was written by a later flux (schema 5, this one knows 4)" in await refusal(database.dsn)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("DROP INDEX messages_by_cid", "half migrated or was altered (without its messages_by_cid)"),
        ("DROP FUNCTION append_batch", "half migrated or was altered (without its append_batch)"),
        ("DROP TABLE blocks, moves CASCADE", "without its blocks, moves, moves_by_xact): "),
        ("ALTER TABLE members DROP COLUMN role", "without its members.role, members.members_role_check): "),
        ("ALTER TABLE messages DROP CONSTRAINT messages_pkey", "without its messages.messages_pkey): "),
        ("ALTER TABLE accounts DROP CONSTRAINT accounts_verified_key", "without its accounts.accounts_verified_key): "),
        (
            "ALTER TABLE accounts DROP CONSTRAINT accounts_pkey CASCADE",
            "without its accounts.accounts_pkey, sessions.sessions_uid_fkey, friends.friends_uid_fkey,"
            " friends.friends_friend_fkey, friend_requests.friend_requests_uid_fkey and 6 more): ",
        ),
        ("DROP TABLE flux_migrations", "has tables that flux has not made (accounts, sessions, "),
        ("INSERT INTO flux_migrations VALUES (5, 'x')", "was written by a later flux (schema 5"),
        ("UPDATE flux_migrations SET number = number + 7", "later flux (schema 11"),
        ("DELETE FROM flux_migrations WHERE number = 1", "half migrated (there are migrations 2, 3, 4)"),
        ("DELETE FROM flux_migrations", "half migrated (it has tables, and flux_migrations is empty): restore it"),
    ],
)
async def test_a_database_that_is_not_whole_is_refused(database: Database, damage: str, complaint: str) -> None:
    database.migrate()
    database.query(damage)
    refused = await refusal(database.dsn)
    assert complaint in refused
    # And flux migrate says the same.
    with pytest.raises(Unavailable) as raised:
        await store_on(database.dsn).pending()
    assert raised.value.detail == refused


async def test_what_is_read_from_the_migrations_is_what_they_make(database: Database) -> None:
    for version in range(1, len(schema.migrations()) + 1):
        database.query("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        database.migrate(version)
        there = database.query(
            "SELECT relname || '.' || name FROM pg_class t,"
            " LATERAL (SELECT attname FROM pg_attribute WHERE attrelid = t.oid AND attnum > 0"
            "   UNION SELECT conname FROM pg_constraint WHERE conrelid = t.oid AND contype <> 'n') part (name)"
            " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> 'flux_migrations'"
        )
        assert sorted(schema.parts(schema.migrations()[:version])) == sorted(name for (name,) in there)


async def test_a_damaged_database_of_an_earlier_flux_is_seen_before_a_start(database: Database) -> None:
    database.migrate(1)
    database.query("DROP INDEX messages_by_cid")
    with pytest.raises(Unavailable, match=r"half migrated or was altered \(without its messages_by_cid\)"):
        await store_on(database.dsn).pending()


async def test_a_database_of_another_program_is_refused_and_left_alone(database: Database) -> None:
    database.query("CREATE TABLE accounts (theirs int)")
    assert "has tables that flux has not made (accounts): " in await refusal(database.dsn)
    assert database.query("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(1,)]


# --- servers and roles ---


async def test_a_server_that_is_not_there(database: Database) -> None:
    port = free_port()
    detail = await refusal(f"postgresql://flux:hushhush@127.0.0.1:{port}/flux")
    assert detail == f"store.dsn: 127.0.0.1:{port}: Connection refused"


async def test_a_host_that_is_not_there() -> None:
    detail = await refusal("postgresql://flux:hushhush@nowhere.invalid/flux")
    assert detail == "store.dsn: there is no host nowhere.invalid"


async def test_a_wrong_password_or_database_or_user(database: Database, quick_postgres: PostgresServer) -> None:
    at = f"127.0.0.1:{quick_postgres.port}"
    for dsn, why in (
        (f"postgresql://flux:hushhush@{at}/flux", 'password authentication failed for user "flux"'),
        (f"postgresql://nobody:hushhush@{at}/flux", 'password authentication failed for user "nobody"'),
        (quick_postgres.dsn_of("nowhere"), 'database "nowhere" does not exist'),
    ):
        assert await refusal(dsn) == f"store.dsn: {at}: {why}"


async def test_of_several_hosts_the_first_that_will_do_is_taken(
    database: Database, quick_postgres: PostgresServer
) -> None:
    database.query("ALTER DATABASE start SET default_transaction_read_only = on")
    nowhere, port = free_port(), quick_postgres.port
    hosts = f"localhost:{nowhere},127.0.0.1:{port}"
    dsn = f"postgresql://flux:{quick_postgres.password}@{hosts}/start"
    detail = await refusal(dsn)
    assert "Connection refused" in detail
    assert "this is a read-only standby: name the primary" in detail
    database.connection.close()
    admin = Database(quick_postgres.dsn)
    admin.query("ALTER DATABASE start RESET default_transaction_read_only")
    admin.close()
    store = store_on(dsn)
    await store.start()
    assert await store.next_boot("a") == 1
    await store.stop()


async def test_a_role_without_rights(database: Database, quick_postgres: PostgresServer) -> None:
    database.query(
        "DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN PASSWORD 'guest-word';"
        " REVOKE CREATE ON SCHEMA public FROM PUBLIC"
    )
    dsn = f"postgresql://guest:guest-word@127.0.0.1:{quick_postgres.port}/start"
    detail = await refusal(dsn)
    assert re.fullmatch(
        r"store\.dsn: the schema lacks 0001_initial, .*, and its role may make no tables: run flux migrate --apply as "
        r"a role that may, or GRANT CREATE ON SCHEMA \.\.\. TO it",
        detail,
    )
    with pytest.raises(Unavailable, match=re.escape(detail)):
        await attempts(store_on(dsn))["schema"]()
    database.query("REVOKE USAGE ON SCHEMA public FROM PUBLIC")
    assert await refusal(dsn) == (
        'store.dsn: its role may use no schema of its search_path ("$user", public): GRANT USAGE ON SCHEMA ... TO it'
    )
    database.query("GRANT USAGE ON SCHEMA public TO guest")
    database.migrate()
    assert await refusal(dsn) == (
        "store.dsn: its role may not read flux_migrations: "
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ... TO it"
    )
    database.query("GRANT SELECT ON ALL TABLES IN SCHEMA public TO guest")
    detail = await refusal(dsn)
    assert "its role may not read and write accounts, sessions," in detail
    assert "GRANT SELECT, INSERT, UPDATE, DELETE" in detail
    # To read which migrations there are is enough to look.
    assert await store_on(dsn).pending() == (len(schema.migrations()), [])
    # This is enough: whoever owns the tables migrates.
    database.query("GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO guest")
    store = store_on(dsn)
    await store.start()
    assert await people(store, "ann", "bob") == [1, 2]
    assert [step.name for step in store.checks()] == ["connect", "schema", "write and fsync", "close"]
    await store.stop()
    database.query("REVOKE EXECUTE ON FUNCTION pg_control_system FROM PUBLIC")
    assert await refusal(dsn) == (
        f"store.dsn: 127.0.0.1:{quick_postgres.port}: permission denied for function pg_control_system (42501);"
        " GRANT the role what it lacks"
    )
    database.query("GRANT EXECUTE ON FUNCTION pg_control_system TO PUBLIC; ALTER ROLE guest CONNECTION LIMIT 2")
    assert 'too many connections for role "guest"' in await refusal(dsn, pool=3)
    database.query("ALTER ROLE guest CONNECTION LIMIT -1; REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC")
    assert re.fullmatch(
        r"store\.dsn: its role may not call now_ms, create_account, (\w+, ){2}\w+ and \d+ more: "
        r"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA \.\.\. TO it",
        await refusal(dsn),
    )
    database.query("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO guest; REVOKE DELETE ON bans FROM guest")
    database.query("REVOKE EXECUTE ON FUNCTION set_block FROM guest")
    detail = await refusal(dsn)
    assert "may not read and write bans: GRANT SELECT, " in detail
    assert "; its role may not call set_block: GRANT EXECUTE " in detail
    database.query("DROP OWNED BY guest; DROP ROLE guest")


async def test_a_role_that_does_not_own_what_is_there_is_told_so_before_a_start(
    database: Database, quick_postgres: PostgresServer
) -> None:
    """What a migration changes only the owner may change, whatever was granted."""
    database.migrate(2)
    database.query(
        "DROP ROLE IF EXISTS helper; CREATE ROLE helper LOGIN PASSWORD 'helper-word';"
        " GRANT ALL ON ALL TABLES IN SCHEMA public TO helper; GRANT ALL ON SCHEMA public TO helper"
    )
    dsn = f"postgresql://helper:helper-word@127.0.0.1:{quick_postgres.port}/start"
    detail = await refusal(dsn)
    assert re.fullmatch(
        r"store\.dsn: the schema lacks 0003_\w+, 0004_\w+, and its role does not own the tables and functions that "
        r"are there, but flux: run flux migrate --apply as a role that owns them",
        detail,
    )
    for attempt in (attempts(store_on(dsn))["schema"], store_on(dsn).pending):
        with pytest.raises(Unavailable) as raised:
            await attempt()
        assert raised.value.detail == detail
    # Who is a member of the owner may do what that may.
    database.query("GRANT flux TO helper")
    assert "a start applies 0003_" in await attempts(store_on(dsn))["schema"]()
    store = store_on(dsn)
    await store.start()
    await store.stop()
    database.query("DROP OWNED BY helper CASCADE; DROP ROLE helper")


async def test_a_server_without_fsync_is_refused_unless_told(database: Database) -> None:
    detail = await refusal(database.dsn, require_fsync=True)
    assert "fsync is off there" in detail
    assert "store.require_fsync = no" in detail


async def test_a_database_without_unicode(quick_postgres: PostgresServer) -> None:
    admin = Database(quick_postgres.dsn)
    admin.query("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    admin.close()
    assert "has the encoding LATIN1" in await refusal(quick_postgres.dsn_of("latin"))


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql//flux:hushhush@localhost/flux",
        "postgresql://flux:hush/hush@localhost/flux",
        "postgresql://flux:hush@hush@localhost/flux",
        "postgresql://flux:hush#hush@localhost:70000/flux",
        "host=a,b port=1,2,3 password=hushhush",
        "hushhush",
        "password=hushhush wrong=1",
    ],
)
def test_what_is_no_connection_string_is_told_without_showing_it(dsn: str) -> None:
    with pytest.raises(Unavailable, match=r"^unavailable: store\.dsn is no connection string: expected") as raised:
        Dsn(dsn)
    assert "hush" not in str(raised.value)


async def test_what_a_session_sets(database: Database) -> None:
    """Whatever the role or the database has for defaults."""
    database.query(
        "ALTER DATABASE start SET synchronous_commit = off; ALTER DATABASE start SET statement_timeout = '1s'"
    )
    store = store_on(database.dsn)
    await store.start()
    names = (
        "synchronous_commit",
        "statement_timeout",
        "client_connection_check_interval",
        "default_transaction_isolation",
    )
    values = [(await store._pool.call(_setting, name)) for name in names]
    assert values == ["on", "0", "5s", "read committed"]
    await store.stop()


async def _setting(run: Any, name: str) -> str:
    [[value]] = await run("SELECT current_setting(%s)", (name,))
    return value


# --- the commands ---


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
        r"store postgres: schema\n +schema 0\n +a start applies 0001_initial, 0002_\w+, 0003_\w+, 0004_\w+\n",
        empty.stdout,
    )
    assert "not tried without the tables that a start makes" in empty.stdout
    assert database.query("SELECT to_regclass('flux_migrations'), to_regclass('accounts')") == [(None, None)]
    database.migrate()
    checked = flux("check", "-c", "flux.ini", cwd=tmp_path)
    lines = checked.stdout
    assert checked.returncode == 0, checked
    assert re.search(
        r"ok +\d+ ms  store postgres: connect\n +PostgreSQL \d+.*, database start as flux, fsync is OFF", lines
    )
    assert re.search(r"ok +\d+ ms  store postgres: schema\n +schema 4\n", lines)
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
        errors = does_not_start(f"postgresql://visitor:visitor-word@127.0.0.1:{quick_postgres.port}/start", tmp_path)
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
