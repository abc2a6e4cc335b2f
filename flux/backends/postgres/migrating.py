"""Bringing the schema up to date: of many processes that start at once one does it, and the others wait for it.

::

    all applied? ── yes ──> done
       ^  │ no
       │  v
       │  pg_try_advisory_lock ── ours ──> BEGIN, all scripts that are missing, COMMIT
       │  │ another's
       └──┴─ a pause, with jitter

Both may take as long as they need, so they say now and then that they are not through.  Who waits gives up where
nothing is seen of the other one any more: a process that has gone loses the lock, one that is stopped does not.
"""

from __future__ import annotations

import random
from typing import Any

import psycopg2
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.backends.postgres import schema
from flux.backends.postgres.connection import Link, Run
from flux.backends.postgres.failures import first_line
from flux.errors import Unavailable
from flux.lifecycle import backoff, sleep, spawn

LOCK = 0x666C7578
"""Key of the advisory lock on migrations: ``flux`` in ASCII."""

PAUSES = (0.05, 1.0)
"""Seconds between looks at whether the other one is through: the first ones, and at most."""

TELL_EVERY = 15.0
"""Seconds between log lines that say what takes so long."""

PATIENCE = 300.0
"""Seconds without a sign of the other one's work after which it is not waited for any more."""

OTHER = """
    SELECT lock.pid, coalesce(other.state = 'active' AND other.wait_event_type IS DISTINCT FROM 'Lock', false)
    FROM pg_locks lock LEFT JOIN pg_stat_activity other ON other.pid = lock.pid
    WHERE lock.locktype = 'advisory' AND lock.granted AND lock.classid = 0 AND lock.objid = %s AND lock.objsubid = 1
        AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
"""Who has the lock, and whether it is seen at work; what other roles do only some roles may see."""

_log = Logger()


async def migrate(link: Link, run: Run, clock: IReactorTime, rng: random.Random) -> list[str]:
    """Bring the schema up to date, or wait until another process has; returns what was applied here.

    :param link: runs the scripts, however long they take.
    :param run: runs everything else on the same connection.
    :raises Unavailable: see :func:`~flux.backends.postgres.schema.applied`; or the role may not, or another process
        has the lock and does nothing.
    """
    known = schema.migrations()
    other = _Other(clock)
    for pause in backoff(*PAUSES, rng):
        if await schema.applied(run) == len(known):
            return []
        [[ours]] = await run("SELECT pg_try_advisory_lock(%s)", (LOCK,))
        if ours:
            break
        other.seen(await run(OTHER, (LOCK,)))
        await sleep(pause, clock)
    # Once more: it may have been done between the look and the lock.
    missing = list(enumerate(known, 1))[await schema.applied(run) :]
    await schema.may_migrate(run, [migration.name for _, migration in missing])
    work = _Work(clock)
    telling = spawn(work.tell(), "telling of the migration", _log)
    try:
        # In one transaction, which begins after the lock was got, and so sees all that others have done.
        await link.execute("BEGIN")
        await link.execute(
            "CREATE TABLE IF NOT EXISTS flux_migrations"
            " (number integer PRIMARY KEY, name text NOT NULL, at timestamptz NOT NULL DEFAULT now())"
        )
        for number, migration in missing:
            work.name = migration.name
            await link.execute(migration.script)
            await link.execute("INSERT INTO flux_migrations VALUES (%s, %s)", (number, migration.name))
        await link.execute("COMMIT")
    except psycopg2.Error as error:
        raise Unavailable(f"the schema cannot be made: {first_line(error)}") from None
    finally:
        telling.cancel()
    await run("SELECT pg_advisory_unlock(%s)", (LOCK,))
    return [migration.name for _, migration in missing]


class _Other:
    """The process that has the lock, as one that waits sees it."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._began = clock.seconds()
        self._told: float | None = None
        self._pid = 0
        self._sign = self._began

    def seen(self, rows: list[tuple[Any, ...]]) -> None:
        """Take in what ``OTHER`` has found, and tell of it.

        :raises Unavailable: there has been no sign of work for too long.
        """
        now = self._clock.seconds()
        waited = round(now - self._began)
        for pid, works in rows:
            if works or pid != self._pid:
                self._pid, self._sign = pid, now
            if now - self._sign >= PATIENCE:
                raise Unavailable(
                    f"another process has been migrating the schema for {waited} s, and there was no sign of work for "
                    f"{PATIENCE:g} s: look at process {pid} of the database server (pg_stat_activity), and if it is "
                    f"stuck, end it (SELECT pg_terminate_backend({pid})) and start again"
                )
            if self._told is None or now - self._told >= TELL_EVERY:
                self._told = now
                _log.warn(
                    "another process is migrating the schema: waiting for it"
                    " (process {pid} of the database server, {waited} s so far)",
                    pid=pid, waited=waited,
                )  # fmt: skip


class _Work:
    """What this process is applying.

    :ivar name: the migration.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._began = clock.seconds()
        self.name = ""

    async def tell(self) -> None:
        """Say now and then that it is under way."""
        while True:
            await sleep(TELL_EVERY, self._clock)
            seconds = round(self._clock.seconds() - self._began)
            _log.warn("migrating the schema: at {name} ({seconds} s so far)", name=self.name, seconds=seconds)
