"""The PostgreSQL store against the model of ``test_store_model.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from postgres_database import Database
from store_contract_people import together
from store_model import ModelStore
from test_store_model import StoreMachine, plain, wait_for

from flux.backends.postgres import PostgresStore
from flux.backends.postgres.append import chats_of
from flux.bench.engines import PostgresServer
from flux.errors import FluxError
from flux.model.messages import Draft, Receipt

GROUP_CHANGES = {"group_join", "group_leave", "group_add", "group_remove", "group_role"}


class PairsFirst(ModelStore):
    """A store that makes the missing chats of a batch before anything else, by their accounts."""

    def append(self, drafts: list[Draft]) -> list[Receipt | FluxError]:
        known = {chat.pair for chat in self.chats.values()}
        asked = {
            (min(draft.sender, draft.to), max(draft.sender, draft.to)): draft
            for draft in drafts
            if draft.to in self.profiles and draft.to != draft.sender and (draft.to, draft.sender) not in self.blocks
        }
        for pair in sorted(asked.keys() - known):
            self._pair(asked[pair].sender, asked[pair].to)
        return super().append(drafts)


class PostgresMachine(StoreMachine):
    database: ClassVar[Database]

    def __init__(self) -> None:
        self.database.empty()
        super().__init__(PairsFirst())

    def open(self) -> PostgresStore:
        from twisted.internet import reactor

        store = PostgresStore(
            self.database.dsn,
            reactor,
            pool=2,
            require_fsync=False,
            now=lambda: self.model.time / 1000,
            pairs_bound=6,
        )
        wait_for(store.start())
        return store

    def lowest(self) -> dict[int, int]:
        return dict(self.database.query("SELECT chat, min(seq) FROM messages GROUP BY chat"))

    def teardown(self) -> None:
        wait_for(self.store.stop())
        self.database.check(self.pruned)

    def compare(self, calls: list[tuple[Any, ...]]) -> None:
        while calls:
            count = together_in_order(calls)
            some, calls = calls[:count], calls[count:]
            outcomes = wait_for(together([self.outcome(*call) for call in some]))
            assert plain(outcomes) == plain([self.expected(*call) for call in some])


def together_in_order(calls: list[tuple[Any, ...]]) -> int:
    """How many of the first calls may be made at once: they keep their order if each two are about one chat."""
    chats: list[set[object]] = []
    for name, *arguments in calls:
        about = chats_of(arguments[0]) if name == "append" else {arguments[1]} if name in GROUP_CHANGES else set()
        if not all(about & others for others in chats):
            break
        chats.append(about)
    return max(len(chats), 1)


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestStore(PostgresMachine.TestCase):
    settings = settings(
        max_examples=15,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )

    @pytest.fixture(scope="class", autouse=True)
    @staticmethod
    def _database(quick_postgres: PostgresServer) -> Iterator[None]:
        PostgresMachine.database = database = Database(quick_postgres.create_database("model"))
        database.migrate()
        yield
        database.close()
