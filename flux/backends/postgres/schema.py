"""The database: what a server must be like, and which tables and functions it has.

Migrations are the files ``migrations/postgres/NNNN_*.sql``, numbered from 1.  ``flux_migrations`` lists those that were
applied.  All that are missing are applied in one transaction (see ``migrating.py``), so a database is never between
two of them.  One of a later flux is refused, and one that was restored in part or altered by hand: what tables,
columns, constraints, indexes and functions there have to be is read from the scripts.  The role must be able to read
and write every table and to call every function.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

from flux.backends.postgres.connection import Run
from flux.backends.scripts import Migration, migrations_of
from flux.errors import Unavailable

IN_USE = 0x636F7079
"""Key of an advisory lock, ``copy`` in ASCII: shared by all connections of stores, and alone that of ``flux copy``."""

OLDEST = 14
"""Major version of PostgreSQL: connections that have gone are noticed by a waiting server (and xid8 is older)."""

GRANT_TABLES = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ... TO it"
"""What to do about a role that owns nothing and may not use the tables."""

FEW = 5
"""Of more things than these a message names no others, and says how many there are."""

CONSTRAINTS = {
    "PRIMARY KEY": "{0}_pkey",
    "UNIQUE": "{0}_{1}_key",
    "REFERENCES": "{0}_{1}_fkey",
    "CHECK": "{0}_{1}_check",
}
"""What PostgreSQL calls the constraints of a table and a column that have no other name."""

SET_UP = """
    SELECT set_config('synchronous_commit',
            CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false),
        set_config('default_transaction_isolation', 'read committed', false),
        set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false),
        -- Everything is found by an index, whatever the statistics say or do not say yet: one plan for each statement.
        set_config('enable_seqscan', 'off', false), set_config('enable_hashjoin', 'off', false),
        set_config('enable_mergejoin', 'off', false), set_config('plan_cache_mode', 'force_generic_plan', false),
        set_config('jit', 'off', false),
        -- Or the statements inside our functions are planned anew at every call, for arrays of another length.
        set_config('plan_cache_mode', 'force_generic_plan', false),
        -- The statement of a connection that was given up ends soon, and does not pile up behind a lock.
        CASE WHEN current_setting('server_version_num')::int >= 140000
            THEN set_config('client_connection_check_interval', '5s', false)
                || set_config('idle_session_timeout', '0', false) END"""

INSPECT = """
    SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000,
        current_setting('server_encoding'), current_setting('fsync') = 'on',
        pg_is_in_recovery(), current_setting('transaction_read_only') = 'on',
        current_user::text, current_database()::text,
        concat_ws(' ', (SELECT system_identifier FROM pg_control_system()),
            CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_flush_lsn()), 8) END,
            (SELECT oid FROM pg_database WHERE datname = current_database()),
            pg_relation_filenode(to_regclass('messages')))"""


class Server(NamedTuple):
    """What a connection has found.

    :ivar version: as people write it.
    :ivar major: its first number.
    :ivar standby: a server that only follows another one.
    :ivar read_only: that, or set to be.
    :ivar history: its system identifier, timeline, database and file of messages: another one means another past.
    :ivar past: a short name for that.
    """

    version: str
    major: int
    encoding: str
    fsync: bool
    standby: bool
    read_only: bool
    role: str
    database: str
    history: str
    past: str = ""


async def inspect(run: Run, require_fsync: bool) -> Server:
    """Set a new connection up, and see what is at its other end.

    :raises Unavailable: nothing for a store, or it is being copied.
    """
    await run(SET_UP)
    [row] = await run(INSPECT)
    server = Server(*row)
    server = server._replace(past=blake2b(server.history.encode(), digest_size=6).hexdigest())
    if server.major < OLDEST:
        raise Unavailable(f"this is PostgreSQL {server.version}; flux needs {OLDEST} or later")
    if server.encoding != "UTF8":
        raise Unavailable(f"the database has the encoding {server.encoding}; create it with ENCODING 'UTF8'")
    if server.standby:
        raise Unavailable("this is a read-only standby: name the primary (several hosts are tried in turn)")
    if server.read_only:
        raise Unavailable("the database is set read-only (default_transaction_read_only): set that to off")
    if require_fsync and not server.fsync:
        raise Unavailable(
            "fsync is off there, so a crash of the machine loses messages that were acknowledged: "
            "switch it on, or set store.require_fsync = no"
        )
    [[free]] = await run("SELECT pg_try_advisory_lock_shared(%s)", (IN_USE,))
    if not free:
        raise Unavailable("flux copy is at work on this database: start when it has ended")
    return server


def migrations() -> list[Migration]:
    """All that this flux knows, in order."""
    return migrations_of("postgres")


async def applied(run: Run) -> int:
    """The version of the schema: how many migrations were applied; 0 in an empty database.

    :raises Unavailable: it is half migrated, or a later flux's, or has tables of another program; or the role may not
        look.
    """
    known = migrations()
    # Of one moment, for another node may be making them.
    tables = _made(known, "TABLE")
    [[is_there, strange, readable, nowhere]] = await run(
        "SELECT coalesce(bool_or(relname = 'flux_migrations'), false),"
        " string_agg(relname, ', ' ORDER BY array_position(%s, relname::text)) FILTER (WHERE relname = ANY (%s)),"
        " has_table_privilege(to_regclass('flux_migrations'), 'SELECT'),"
        " CASE WHEN current_schema() IS NULL THEN current_setting('search_path') END"
        " FROM pg_class WHERE relname = ANY (%s) AND pg_table_is_visible(oid)",
        (tables, tables, ["flux_migrations", *tables]),
    )
    if nowhere is not None:
        raise Unavailable(f"its role may use no schema of its search_path ({nowhere}): GRANT USAGE ON SCHEMA ... TO it")
    if not is_there:
        if strange:
            raise Unavailable(
                f"the database has tables that flux has not made ({strange}): restore it, or give flux another one"
            )
        return 0
    if not readable:
        raise Unavailable(f"its role may not read flux_migrations: {GRANT_TABLES}")
    numbers = [number for (number,) in await run("SELECT number FROM flux_migrations ORDER BY number")]
    if numbers and numbers[-1] > len(known):
        raise Unavailable(
            f"the database was written by a later flux (schema {numbers[-1]}, this one knows {len(known)}): "
            "install that version, or give this one another database"
        )
    if strange and not numbers:
        raise Unavailable("the database is half migrated (it has tables, and flux_migrations is empty): restore it")
    if numbers != list(range(1, len(numbers) + 1)):
        there = ", ".join(map(str, numbers))
        raise Unavailable(f"the database is half migrated (there are migrations {there}): restore it")
    return len(numbers)


async def verify(run: Run, version: int) -> None:
    """See that everything is there that so many migrations make.

    :raises Unavailable: something is missing.
    """
    if not version:
        return
    known = migrations()[:version]
    [[missing]] = await run(
        "SELECT array_agg(name) FROM ("
        " SELECT name FROM unnest(%s) name WHERE to_regclass(name) IS NULL"
        # Of a table that is missing nothing else has to be said.
        " UNION ALL SELECT name FROM unnest(%s) name,"
        "       to_regclass(split_part(name, '.', 1)) t, split_part(name, '.', 2) part WHERE t IS NOT NULL"
        "       AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = t AND attname = part AND NOT attisdropped)"
        "       AND NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = t AND conname = part)"
        " UNION ALL SELECT name FROM unnest(%s) name WHERE to_regproc(name) IS NULL) missing",
        (_made(known, "TABLE") + _made(known, "INDEX"), parts(known), _made(known, "FUNCTION")),
    )
    if missing:
        raise Unavailable(f"the database is half migrated or was altered (without its {_few(missing)}): restore it")


async def may_use(run: Run) -> None:
    """See that our role may read and write all tables and call all functions of the current schema.

    :raises Unavailable: it may not; says what to grant.
    """
    known = migrations()
    [[tables, functions]] = await run(
        "SELECT (SELECT array_agg(name) FROM unnest(%s) name, to_regclass(name) t"
        "   WHERE NOT (has_table_privilege(t, 'SELECT') AND has_table_privilege(t, 'INSERT')"
        "       AND has_table_privilege(t, 'UPDATE') AND has_table_privilege(t, 'DELETE'))),"
        " (SELECT array_agg(name) FROM unnest(%s) name WHERE NOT has_function_privilege(to_regproc(name), 'EXECUTE'))",
        (_made(known, "TABLE"), _made(known, "FUNCTION")),
    )
    lacks = []
    if tables:
        lacks.append(f"its role may not read and write {_few(tables)}: {GRANT_TABLES}")
    if functions:
        lacks.append(f"its role may not call {_few(functions)}: GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA ... TO it")
    if lacks:
        raise Unavailable("; ".join(lacks))


async def may_migrate(run: Run, missing: Sequence[str]) -> None:
    """See that our role may apply these migrations.

    :raises Unavailable: it may not; says what to do about it.
    """
    if not missing:
        return
    known = migrations()
    [[creates, owners]] = await run(
        "SELECT has_schema_privilege(current_schema(), 'CREATE'),"
        " (SELECT string_agg(pg_get_userbyid(owner), ', ') FROM ("
        "   SELECT relowner FROM unnest(%s) name JOIN pg_class ON pg_class.oid = to_regclass(name)"
        "   UNION SELECT proowner FROM unnest(%s) name JOIN pg_proc ON pg_proc.oid = to_regproc(name)) made (owner)"
        "   WHERE NOT pg_has_role(owner, 'USAGE'))",
        (["flux_migrations", *_made(known, "TABLE")], _made(known, "FUNCTION")),
    )
    lacks = f"the schema lacks {', '.join(missing)}, and its role"
    if owners:
        # To alter a table or replace a function takes more than GRANT can give.
        raise Unavailable(
            f"{lacks} does not own the tables and functions that are there, but {owners}: run flux migrate --apply as "
            "a role that owns them"
        )
    if not creates:
        raise Unavailable(
            f"{lacks} may make no tables: run flux migrate --apply as a role that may, or GRANT CREATE ON SCHEMA ... "
            "TO it"
        )


def parts(known: Sequence[Migration]) -> list[str]:
    """Columns and constraints, as ``table.name``, of all tables that migrations make and do not drop again."""
    found = []
    for migration in known:
        for table, body in re.findall(r"^CREATE TABLE (\w+) \(\n(.*?)^\)", migration.script, re.MULTILINE | re.DOTALL):
            for line in body.splitlines():
                words = line.partition("--")[0]
                name = words.split()[0]
                if name.islower():
                    found.append((table, name))
                found += [(table, called.format(table, name)) for kind, called in CONSTRAINTS.items() if kind in words]
        for table, changes in re.findall(r"^ALTER TABLE (\w+) (.*);", migration.script, re.MULTILINE):
            found += [(table, column) for column in re.findall(r"\bADD (\w+)", changes)]
    tables = _made(known, "TABLE")
    return [f"{table}.{name}" for table, name in found if table in tables]


def _few(names: Sequence[str]) -> str:
    more = len(names) - FEW
    return ", ".join(names[:FEW]) + (f" and {more} more" if more > 0 else "")


def _made(known: Sequence[Migration], kind: str) -> list[str]:
    """Names of all tables, indexes or functions that migrations make and do not drop again."""
    names: dict[str, None] = {}
    for migration in known:
        for verb, name in re.findall(rf"^(CREATE|DROP) (?:UNIQUE )?{kind} (\w+)", migration.script, re.MULTILINE):
            if verb == "CREATE":
                names[name] = None
            else:
                del names[name]
    return list(names)
