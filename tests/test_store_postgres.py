"""The PostgreSQL store: the contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from postgres_database import Database
from store_contract import StoreContract

from flux.backends.postgres import PostgresStore
from flux.bench.engines import PostgresServer


@pytest.fixture(scope="module")
def migrated(quick_postgres: PostgresServer) -> Iterator[Database]:
    database = Database(quick_postgres.create_database("contract"))
    database.migrate()
    yield database
    database.close()


class TestContract(StoreContract):
    @pytest_twisted.async_yield_fixture
    async def store(self, migrated):
        from twisted.internet import reactor

        migrated.empty()
        store = PostgresStore(migrated.dsn, reactor, pool=2, require_fsync=False)
        await store.start()
        yield store
        migrated.check()
        await store.stop()
