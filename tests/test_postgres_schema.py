"""The schema of the PostgreSQL store: nodes that start at the same moment."""

from __future__ import annotations

from typing import Any

import pytest
from postgres_database import Database
from twisted.internet.defer import Deferred, gatherResults

from flux.backends.postgres import PostgresStore
from flux.backends.postgres.schema import LOCK
from flux.bench.engines import PostgresServer
from flux.lifecycle import sleep


def store(database: Database) -> PostgresStore:
    from twisted.internet import reactor

    return PostgresStore(database.dsn, reactor, pool=1)


@pytest.fixture
def database(postgres_server: PostgresServer, request: Any):
    database = Database(postgres_server.create_database(f"schema_{request.node.name[:40]}"))
    yield database
    database.close()


async def test_a_node_that_waits_for_another_finds_its_tables(database: Database) -> None:
    from twisted.internet import reactor

    # Another node is in the middle of it.
    database.connection.autocommit = False
    database.query("SELECT pg_advisory_xact_lock(%s)", LOCK)
    waits = store(database)
    starting = Deferred.fromCoroutine(waits.start())
    looking = Database(database.dsn)
    while not looking.query("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
        assert not starting.called
        await sleep(0.01, reactor)
    looking.close()
    database.migrate()
    database.connection.commit()
    database.connection.autocommit = True
    await starting
    await waits.stop()


async def test_ten_nodes_that_start_at_once_make_it_once(database: Database) -> None:
    stores = [store(database) for _ in range(10)]
    await gatherResults([Deferred.fromCoroutine(each.start()) for each in stores], consumeErrors=True)
    for each in stores:
        await each.stop()
    assert database.query("SELECT count(*) = max(number) FROM flux_migrations") == [(True,)]
