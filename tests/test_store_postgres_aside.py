"""Messages that cannot simply be appended: the rest of their batch does not notice, nor does the server's log."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from postgres_database import Database
from store_contract_groups import group_of
from store_contract_messages import send
from store_contract_people import people, together

from flux.backends.postgres import PostgresStore, append
from flux.bench.engines import PostgresServer
from flux.errors import BadRequest, Forbidden, NotFound
from flux.model.messages import Draft, Receipt


@pytest.fixture(scope="module")
def migrated(quick_postgres: PostgresServer) -> Iterator[Database]:
    database = Database(quick_postgres.create_database("aside"))
    database.migrate()
    yield database
    database.close()


@pytest_twisted.async_yield_fixture
async def nodes(migrated):
    """Two nodes' stores on one empty database."""
    from twisted.internet import reactor

    migrated.empty()
    stores = [PostgresStore(migrated.dsn, reactor, pool=2, require_fsync=False) for _ in range(2)]
    for store in stores:
        await store.start()
    yield stores
    migrated.check()
    for store in stores:
        await store.stop()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The batches that were done message by message as a whole."""
    slow: list[Any] = []
    original = append._carefully

    async def noted(*arguments: Any) -> Any:
        slow.append(arguments[-1])
        return await original(*arguments)

    monkeypatch.setattr(append, "_carefully", noted)
    return slow


async def test_a_retry_leaves_nothing_in_the_log_of_the_server(quick_postgres: PostgresServer, nodes) -> None:
    ann, bob, cat, dan = await people(nodes[0], "ann", "bob", "cat", "dan")
    await send(nodes[0], Draft(ann, bob, 0, "hello", "k"), Draft(cat, dan, 0, "hi"))
    log = quick_postgres.directory / "output"
    before = log.read_text()
    _, repeated = await nodes[0].append([Draft(cat, dan, 0, "for dan alone"), Draft(ann, bob, 0, "hello", "k")])
    assert repeated.duplicate
    assert log.read_text()[len(before) :] == ""


async def test_what_is_set_aside_leaves_no_gap_and_its_neighbours_go_the_quick_way(nodes, quick) -> None:
    store = nodes[0]
    ann, bob, cat, dan = await people(store, "ann", "bob", "cat", "dan")
    group = await group_of(store, ann, bob)
    # A group's messages and those to someone who has blocked the sender, between others in id order.
    [pair] = await send(store, Draft(ann, bob, 0, "1", "k"))
    [barred] = await send(store, Draft(ann, dan, 0, "1", "d"))
    other = await group_of(store, cat)
    [last] = await send(store, Draft(cat, bob, 0, "1"))
    [first] = await send(store, Draft(ann, 0, group, "1", "k"))
    await store.block(dan, ann)
    quick.clear()
    nowhere = last.chat + 1
    outcomes = await store.append(
        [
            Draft(ann, bob, 0, "2", "l"),
            Draft(ann, bob, 0, "1", "k"),
            Draft(ann, bob, 0, "3", "m"),
            Draft(ann, bob, 0, "other", "k"),
            Draft(ann, bob, 0, "2", "l"),
            Draft(ann, bob, 0, "other", "l"),
            Draft(ann, 0, group, "2", "l"),
            Draft(cat, 0, group, "stranger", "c"),
            Draft(ann, 0, group, "1", "k"),
            Draft(bob, 0, group, "3", "k"),
            Draft(ann, dan, 0, "blocked"),
            Draft(ann, dan, 0, "1", "d"),
            Draft(ann, 0, nowhere, "nowhere", "n"),
            Draft(ann, 0, pair.chat, "no group"),
            Draft(cat, 0, other, "1"),
            Draft(ann, bob, 0, "4"),
            Draft(cat, bob, 0, "2", "k"),
        ]
    )
    told = [
        (outcome.chat, outcome.seq, outcome.duplicate) if isinstance(outcome, Receipt) else type(outcome)
        for outcome in outcomes
    ]
    assert told == [
        (pair.chat, 2, False),
        (pair.chat, 1, True),
        (pair.chat, 3, False),
        BadRequest,
        (pair.chat, 2, True),
        BadRequest,
        (group, 2, False),
        Forbidden,
        (group, 1, True),
        (group, 3, False),
        Forbidden,
        (barred.chat, 1, True),
        NotFound,
        NotFound,
        (other, 1, False),
        (pair.chat, 4, False),
        (last.chat, 2, False),
    ]
    assert (outcomes[1].at, outcomes[8].at, outcomes[11].at) == (pair.at, first.at, barred.at)
    assert outcomes[8].version == outcomes[6].version == (await store.membership(group)).version
    page = await store.history(bob, pair.chat, 0, 0, 0, 0, 99)
    assert [message.text for message in page.messages] == ["1", "2", "3", "4"]
    assert quick == []


async def test_a_batch_of_which_nothing_is_new_moves_nothing(migrated, nodes, quick) -> None:
    store = nodes[0]
    ann, bob, cat = await people(store, "ann", "bob", "cat")
    first = await send(store, Draft(ann, bob, 0, "1", "k"), Draft(ann, cat, 0, "1", "k"))
    quick.clear()
    mark = (await store.changes(0)).mark
    before = migrated.query("SELECT * FROM chats ORDER BY id")
    again = await store.append(
        [Draft(ann, bob, 0, "1", "k"), Draft(ann, cat, 0, "1", "k"), Draft(ann, 0, 999, "x"), Draft(ann, 0, 998, "x")]
    )
    assert [receipt.duplicate for receipt in again[:2]] == [True, True]
    assert [(receipt.chat, receipt.seq, receipt.at) for receipt in again[:2]] == [(r.chat, r.seq, r.at) for r in first]
    assert [type(outcome) for outcome in again[2:]] == [NotFound, NotFound]
    assert isinstance((await store.append([Draft(ann, 0, 999, "x")]))[0], NotFound)
    assert migrated.query("SELECT * FROM chats ORDER BY id") == before
    assert (await store.changes(mark)).heads == ()
    assert quick == []


async def test_two_nodes_that_repeat_each_others_cids_at_the_same_time(nodes, quick) -> None:
    """Whichever was first, both are told the same, and of each message there is one."""
    luck = random.Random(7)
    ids = await people(nodes[0], *(f"user{n}" for n in range(6)))
    pairs = [(one, other) for one in ids for other in ids if one < other]
    for store in nodes:
        await store.append([Draft(one, other, 0, "first", "first") for one, other in pairs])
    quick.clear()
    told: dict[tuple[int, str], set[tuple[int, int]]] = {}
    news = 0
    for round_ in range(20):
        drafts = [Draft(*luck.choice(pairs), 0, "x", f"{round_}-{n % 9}") for n in range(40)]
        batches = [drafts, luck.sample(drafts, len(drafts))]
        for batch, receipts in zip(
            batches, await together([node.append(some) for node, some in zip(nodes, batches, strict=True)]), strict=True
        ):
            for draft, receipt in zip(batch, receipts, strict=True):
                told.setdefault((receipt.chat, draft.cid), set()).add((receipt.seq, receipt.at))
                news += not receipt.duplicate
    assert {len(places) for places in told.values()} == {1}
    assert news == len(told)
    assert quick == []


@pytest.mark.parametrize("wrong", ["a\0b", "a\ud800b"], ids=["NUL", "surrogate"])
async def test_a_text_that_no_database_takes_shifts_no_other(nodes, wrong: str) -> None:
    store = nodes[0]
    ann, bob = await people(store, "ann", "bob")
    [first] = await send(store, Draft(ann, bob, 0, "1"))
    outcomes = await store.append([Draft(ann, bob, 0, wrong), Draft(ann, bob, 0, "2"), Draft(ann, bob, 0, "3", wrong)])
    assert [type(outcome) for outcome in outcomes] == [BadRequest, Receipt, BadRequest]
    page = await store.history(bob, first.chat, 0, 0, 0, 0, 99)
    assert [message.text for message in page.messages] == ["1", "2"]
