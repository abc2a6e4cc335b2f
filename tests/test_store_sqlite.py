"""The SQLite store: the contract, and what is its own."""

from __future__ import annotations

import pytest_twisted
from store_contract import StoreContract
from store_contract_people import people, together
from store_invariants import check_invariants

from flux.backends.sqlite import SqliteStore
from flux.model import Draft


@pytest_twisted.async_yield_fixture
async def store(tmp_path):
    from twisted.internet import reactor

    store = SqliteStore(tmp_path / "data" / "flux.db", reactor)
    await store.start()
    yield store
    check_invariants(store)
    await store.stop()


class TestSqliteStore(StoreContract):
    pass


async def test_results_arrive_in_the_order_of_the_calls(store) -> None:
    ann, bob = await people(store, "ann", "bob")
    [first] = await store.append([Draft(ann, bob, 0, "0")])
    mark = (await store.changes(0)).mark
    seen: list[tuple[str, int]] = []

    async def send(text: str) -> None:
        [receipt] = await store.append([Draft(ann, bob, 0, text)])
        seen.append(("committed", receipt.seq))

    async def sweep() -> None:
        heads = dict((await store.changes(mark)).heads)
        seen.append(("swept", heads[first.chat]))

    async def log_in() -> None:
        seen.append(("session", await store.open_session(ann)))

    calls = [call for n in range(10) for call in (send(f"{n}"), sweep(), log_in())]
    await together(calls)
    assert [what for what, _ in seen] == ["committed", "swept", "session"] * 10
    committed = 0
    for what, number in seen:
        if what == "committed":
            committed = number
        elif what == "swept":
            assert number >= committed
    assert [number for what, number in seen if what == "session"] == list(range(1, 11))
