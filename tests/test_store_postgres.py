"""The PostgreSQL store: the contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from postgres_database import Database
from store_contract import StoreContract
from store_contract_messages import send
from store_contract_people import people

from flux.backends.postgres import PostgresStore
from flux.bench.engines import PostgresServer
from flux.model.chats import CursorMove
from flux.model.messages import Draft


@pytest.fixture(scope="module")
def migrated(quick_postgres: PostgresServer) -> Iterator[Database]:
    database = Database(quick_postgres.create_database("contract"))
    database.migrate()
    yield database
    database.close()


class TestContract(StoreContract):
    @pytest_twisted.async_yield_fixture
    async def store(self, request, migrated):
        from twisted.internet import reactor

        migrated.empty()
        store = PostgresStore(migrated.dsn, reactor, pool=2, require_fsync=False)
        await store.start()
        yield store
        migrated.check(pruned=request.node.get_closest_marker("prunes") is not None)
        await store.stop()

    @pytest.mark.prunes
    async def test_that_a_first_message_is_missing_is_found_where_nothing_was_pruned(self, migrated, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        for _ in range(3):
            [receipt] = await send(store, Draft(ann, bob, 0, "x"))
        await store.advance([CursorMove(uid, await store.open_session(uid), receipt.chat, 3, 3) for uid in (ann, bob)])
        migrated.check()
        migrated.query("DELETE FROM messages WHERE seq = 1")
        migrated.check(pruned=True)
        with pytest.raises(AssertionError, match="from 1 to the head"):
            migrated.check()
