"""The database: what a server must be like, and which tables and functions it has.

Migrations are the files ``migrations/postgres/NNNN_*.sql``, numbered from 1.  ``flux_migrations`` lists those that were
applied.  All that are missing are applied in one transaction (see ``migrating.py``), so a database is never between
two of them.  One of a later flux is refused, and one that was restored in part or altered by hand; the role must be
able to read and write every table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from flux.backends.postgres.connection import Run
from flux.backends.scripts import Migration, migrations_of
from flux.errors import Unavailable

OLDEST = 14
"""Major version of PostgreSQL: connections that have gone are noticed by a waiting server (and xid8 is older)."""

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
        pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on',
        current_user::text, current_database()::text,
        concat_ws(' ', (SELECT system_identifier FROM pg_control_system()),
            CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_flush_lsn()), 8) END,
            (SELECT oid FROM pg_database WHERE datname = current_database()),
            pg_relation_filenode(to_regclass('messages')))"""


class Server(NamedTuple):
    """What a connection has found.

    :ivar version: as people write it.
    :ivar major: its first number.
    :ivar read_only: a standby, or made so.
    :ivar history: its system identifier, timeline, database and file of messages: another one means another past.
    """

    version: str
    major: int
    encoding: str
    fsync: bool
    read_only: bool
    role: str
    database: str
    history: str


async def inspect(run: Run, require_fsync: bool) -> Server:
    """Set a new connection up, and see what is at its other end.

    :raises Unavailable: nothing for a store.
    """
    await run(SET_UP)
    [row] = await run(INSPECT)
    server = Server(*row)
    if server.major < OLDEST:
        raise Unavailable(f"this is PostgreSQL {server.version}; flux needs {OLDEST} or later")
    if server.encoding != "UTF8":
        raise Unavailable(f"the database has the encoding {server.encoding}; create it with ENCODING 'UTF8'")
    if server.read_only:
        raise Unavailable("this is a read-only standby: name the primary (several hosts are tried in turn)")
    if require_fsync and not server.fsync:
        raise Unavailable(
            "fsync is off there, so a crash of the machine loses messages that were acknowledged: "
            "switch it on, or set store.require_fsync = no"
        )
    return server


def migrations() -> list[Migration]:
    """All that this flux knows, in order."""
    return migrations_of("postgres")


async def applied(run: Run) -> int:
    """The version of the schema: how many migrations were applied; 0 in an empty database.

    :raises Unavailable: it is half migrated, or a later flux's, or has tables of another program.
    """
    known = migrations()
    # Of one moment, for another node may be making them.
    tables = _made(known, "TABLE")
    [[is_there, strange]] = await run(
        "SELECT coalesce(bool_or(relname = 'flux_migrations'), false),"
        " string_agg(relname, ', ' ORDER BY array_position(%s, relname::text)) FILTER (WHERE relname = ANY (%s))"
        " FROM pg_class WHERE relname = ANY (%s) AND pg_table_is_visible(oid)",
        (tables, tables, ["flux_migrations", *tables]),
    )
    if not is_there:
        if strange:
            raise Unavailable(
                f"the database has tables that flux has not made ({strange}): restore it, or give flux another one"
            )
        return 0
    numbers = [number for (number,) in await run("SELECT number FROM flux_migrations ORDER BY number")]
    if numbers and numbers[-1] > len(known):
        raise Unavailable(
            f"the database was written by a later flux (schema {numbers[-1]}, this one knows {len(known)}): "
            "install that version, or give this one another database"
        )
    if numbers != list(range(1, len(numbers) + 1)):
        there = ", ".join(map(str, numbers))
        raise Unavailable(f"the database is half migrated (there are migrations {there}): restore it")
    return len(numbers)


async def verify(run: Run) -> None:
    """See that everything is there that the migrations make, and may be used.

    :raises Unavailable: something is missing, or the role may not.
    """
    known = migrations()
    tables = _made(known, "TABLE")
    [[missing, forbidden]] = await run(
        "SELECT (SELECT string_agg(name, ', ') FROM ("
        "   SELECT name FROM unnest(%s) name WHERE to_regclass(name) IS NULL"
        "   UNION ALL SELECT name FROM unnest(%s) name WHERE to_regproc(name) IS NULL) missing),"
        " (SELECT string_agg(name, ', ') FROM unnest(%s) name, to_regclass(name) t"
        "   WHERE NOT (has_table_privilege(t, 'SELECT') AND has_table_privilege(t, 'INSERT')"
        "       AND has_table_privilege(t, 'UPDATE') AND has_table_privilege(t, 'DELETE')))",
        (tables + _made(known, "INDEX"), _made(known, "FUNCTION"), tables),
    )
    if missing:
        raise Unavailable(f"the database is half migrated or was altered (without its {missing}): restore it")
    if forbidden:
        raise Unavailable(
            f"its role may not read and write {forbidden}: "
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ... TO it"
        )


async def may_not_migrate(run: Run) -> str:
    """Why our role may not apply migrations, and what to do about it; empty where it may."""
    known = migrations()
    [[creates, owners]] = await run(
        "SELECT coalesce(has_schema_privilege(current_schema(), 'CREATE'), false),"
        " (SELECT string_agg(pg_get_userbyid(owner), ', ') FROM ("
        "   SELECT relowner FROM unnest(%s) name JOIN pg_class ON pg_class.oid = to_regclass(name)"
        "   UNION SELECT proowner FROM unnest(%s) name JOIN pg_proc ON pg_proc.oid = to_regproc(name)) made (owner)"
        "   WHERE NOT pg_has_role(owner, 'USAGE'))",
        (["flux_migrations", *_made(known, "TABLE")], _made(known, "FUNCTION")),
    )
    if owners:
        # To alter a table or replace a function takes more than GRANT can give.
        return (
            f"its role does not own the tables and functions that are there, but {owners}: run flux migrate --apply as "
            "a role that owns them"
        )
    if not creates:
        return (
            "its role may make no tables: run flux migrate --apply as a role that may, or GRANT CREATE ON SCHEMA to it"
        )
    return ""


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
