"""How the PostgreSQL store starts: migrations, and servers, databases and roles that it refuses."""

from __future__ import annotations

import re
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres_database import Database, empty_database
from store_contract_people import people, together

from flux.backends.postgres import PostgresStore, schema
from flux.backends.postgres.dsn import Dsn
from flux.bench.engines import PostgresServer
from flux.bench.servers import free_port
from flux.errors import Unavailable
from flux.model.messages import Draft
from flux.model.people import Ban


@pytest.fixture
def database(quick_postgres: PostgresServer) -> Iterator[Database]:
    """An empty database, without tables."""
    with empty_database(quick_postgres, "start") as database:
        yield database


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
    assert database.query("SELECT number FROM flux_migrations ORDER BY 1") == [(1,), (2,), (3,), (4,), (5,)]
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
        schema.Migration("0006_more", "CREATE TABLE more (a int);"),
        schema.Migration("0007_wrong", "CREATE TABLE even_more (a int); SELECT 1 / 0;"),
    ]
    assert "the schema cannot be made: division by zero" in await refusal(database.dsn)
    assert database.query("SELECT number FROM flux_migrations ORDER BY 1") == [(1,), (2,), (3,), (4,), (5,)]
    assert database.query("SELECT to_regclass('more')") == [(None,)]
    later[6:] = [schema.Migration("0007_right", "CREATE TABLE even_more (a int);\nDROP TABLE more;")]
    store = store_on(database.dsn)
    await store.start()
    assert database.query("SELECT name FROM flux_migrations WHERE number > 5 ORDER BY 1") == [
        ("0006_more",),
        ("0007_right",),
    ]
    assert (await store.profile(1)).name == "ann"
    await store.stop()


@pytest.mark.parametrize("version", [1, 2])
async def test_a_database_of_an_earlier_flux_is_brought_up_to_date(database: Database, version: int) -> None:
    """It keeps what it has, what moved lately too."""
    database.migrate(version)
    database.query("SELECT create_account(name, name, 'h', name, '', '', '') FROM unnest(ARRAY['ann', 'bob']) name")
    database.query("SELECT append_carefully(ARRAY[1], ARRAY[2], ARRAY[0], ARRAY['k'], ARRAY['x'], NULL)")
    # Blocking has left friendships and requests alone.
    database.query("SELECT create_account(name, name, 'h', '', '', '', '') FROM unnest(ARRAY['cat', 'dan']) name")
    database.query("SELECT befriend(1, '', other, '') FROM unnest(ARRAY[2, 3]) other; SELECT set_block(3, 1, true)")
    database.query("INSERT INTO friend_requests VALUES (4, 1, '', '', 0), (4, 2, '', '', 0), (3, 4, '', '', 0)")
    database.query("SELECT set_block(1, 4, true); SELECT set_block(3, 4, true)")
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
    assert [[friend.id for friend in await store.friends(uid)] for uid in (1, 2, 3)] == [[2], [1], []]
    assert [[each.sender for each in await store.friend_requests(uid)] for uid in (3, 4)] == [[], [2]]
    await store.stop()


async def test_a_database_of_a_later_flux_is_refused(database: Database, later) -> None:
    later += [schema.Migration("0006_more", "CREATE TABLE more (a int);")]
    store = store_on(database.dsn)
    await store.start()
    await store.stop()
    later.pop()
    assert "was written by a later flux (schema 6, this one knows 5)" in await refusal(database.dsn)


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
            " friends.friends_friend_fkey, friend_requests.friend_requests_uid_fkey and 7 more): ",
        ),
        ("DROP TABLE flux_migrations", "has tables that flux has not made (accounts, sessions, "),
        ("INSERT INTO flux_migrations VALUES (6, 'x')", "was written by a later flux (schema 6"),
        ("UPDATE flux_migrations SET number = number + 7", "later flux (schema 12"),
        ("DELETE FROM flux_migrations WHERE number = 1", "half migrated (there are migrations 2, 3, 4, 5)"),
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
    assert "the database is set read-only (default_transaction_read_only): set that to off" in detail
    assert "standby" not in detail
    database.connection.close()
    admin = Database(quick_postgres.dsn)
    admin.query("ALTER DATABASE start RESET default_transaction_read_only")
    admin.close()
    store = store_on(dsn)
    await store.start()
    assert await store.next_boot("a") == 1
    await store.stop()


async def test_a_standby_is_told_from_a_database_that_is_set_read_only(tmp_path: Path) -> None:
    with PostgresServer(tmp_path, {"fsync": "off"}) as server:
        server.stop()
        signal = server._data / "standby.signal"
        signal.touch()
        if server._user is not None:
            shutil.chown(signal, server._user, server._user)
        server.start()
        assert await refusal(server.dsn) == (
            f"store.dsn: 127.0.0.1:{server.port}: this is a read-only standby: name the primary "
            "(several hosts are tried in turn)"
        )


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
        r"store\.dsn: the schema lacks 0003_\w+, 0004_\w+, 0005_\w+, and its role does not own the tables and "
        r"functions that are there, but flux: run flux migrate --apply as a role that owns them",
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
