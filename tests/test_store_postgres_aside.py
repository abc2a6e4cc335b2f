"""Messages that cannot simply be appended, and pairs that the node does not know: the rest of their batch does not
notice, nor does the server's log."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
import pytest_twisted
from postgres_database import Database
from store_contract_groups import group_of
from store_contract_messages import send
from store_contract_people import people, together

from flux.backends.postgres import PostgresStore
from flux.backends.postgres.append import ALONE, KNOWN
from flux.backends.postgres.connection import Link
from flux.bench.engines import PostgresServer
from flux.errors import BadRequest, Forbidden, NotFound, UserInvalid
from flux.model.messages import Draft, Receipt

NOTED = """
    CREATE TABLE looked_at (nth serial, text text);
    ALTER FUNCTION append_singly RENAME TO append_singly_unnoted;
    CREATE FUNCTION append_singly(
        in_chats bigint[], senders bigint[], tos bigint[], cids text[], texts text[], clock bigint
    ) RETURNS TABLE (nth bigint, outcome text, chat bigint, seq bigint, at bigint, version bigint)
    LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO looked_at (text) SELECT unnest(texts);
        RETURN QUERY SELECT * FROM append_singly_unnoted(in_chats, senders, tos, cids, texts, clock);
    END
    $$"""
"""Keeps the texts of the messages that are looked at one by one."""


@pytest.fixture(scope="module")
def migrated(quick_postgres: PostgresServer) -> Iterator[Database]:
    database = Database(quick_postgres.create_database("aside"))
    database.migrate()
    database.query(NOTED)
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
def looked_at(migrated: Database) -> Callable[[], list[str]]:
    """The texts of messages that were looked at one by one since the last call; the others went the quick way."""

    def texts() -> list[str]:
        found = migrated.query("SELECT text FROM looked_at ORDER BY nth")
        migrated.query("DELETE FROM looked_at")
        return [text for (text,) in found]

    texts()
    return texts


async def test_a_retry_leaves_nothing_in_the_log_of_the_server(
    quick_postgres: PostgresServer, migrated: Database, nodes
) -> None:
    ann, bob, cat, dan = await people(nodes[0], "ann", "bob", "cat", "dan")
    await send(nodes[0], Draft(ann, bob, 0, "hello", "k"), Draft(cat, dan, 0, "hi"))
    log = quick_postgres.directory / "output"
    before = log.read_text()
    _, repeated = await nodes[0].append([Draft(cat, dan, 0, "for dan alone"), Draft(ann, bob, 0, "hello", "k")])
    assert repeated.duplicate
    [repeated] = await nodes[0].append([Draft(ann, bob, 0, "hello", "k")])
    assert repeated.duplicate
    # On another node, while the first attempt is not committed yet.
    other = psycopg2.connect(migrated.dsn)
    with other.cursor() as cursor:
        cursor.execute("SELECT FROM chats WHERE id = %s FOR NO KEY UPDATE", (repeated.chat,))
        cursor.execute("SELECT append_singly(%s, %s, %s, '{m}', '{hi}', NULL)", ([repeated.chat], [ann], [bob]))
    waiting = nodes[0].append([Draft(ann, bob, 0, "hi", "m")])
    await migrated.until_somebody_waits()
    other.commit()
    other.close()
    [repeated] = await waiting
    assert repeated.duplicate
    assert log.read_text()[len(before) :] == ""


async def test_a_message_by_itself_is_one_statement_where_that_is_enough(migrated, nodes, monkeypatch) -> None:
    asked: list[object] = []
    run = Link.run

    async def noted(link: Link, statement: object, *values: Any) -> Any:
        asked.append(statement)
        return await run(link, statement, *values)

    monkeypatch.setattr(Link, "run", noted)
    seen: list[str] = []
    monkeypatch.setattr(nodes[0]._marks, "saw", seen.append)
    ann, bob = await people(nodes[0], "ann", "bob")
    group = await group_of(nodes[0], ann)

    async def seq(*draft: Any) -> int:
        asked.clear()
        [receipt] = await send(nodes[0], Draft(*draft))
        if not receipt.duplicate:
            # By this it is noticed when the database goes back.
            assert [(seen[-1],)] == migrated.query("SELECT xact || ' ' || at FROM moves ORDER BY xact DESC LIMIT 1")
        return receipt.seq

    assert (await seq(ann, bob, 0, "1"), asked) == (1, [KNOWN])
    assert (await seq(ann, bob, 0, "2", "k"), asked) == (2, [ALONE])
    assert (await seq(ann, bob, 0, "3"), asked) == (3, [ALONE])
    assert (await seq(ann, bob, 0, "2", "k"), asked) == (2, [ALONE, KNOWN])
    assert (await seq(ann, 0, group, "1"), asked) == (1, [KNOWN])
    await nodes[0].block(ann, bob)
    assert (await seq(ann, bob, 0, "4"), asked) == (4, [ALONE, KNOWN])
    await nodes[0].unblock(ann, bob)
    # Another machine's clock was ahead.
    [(ahead, _)] = migrated.query("UPDATE chats SET at = at + 1000000 WHERE low IS NOT NULL RETURNING at, id")
    [receipt] = await send(nodes[0], Draft(ann, bob, 0, "5"))
    assert (receipt.seq, receipt.at, asked[-1]) == (5, ahead, ALONE)


async def test_what_is_set_aside_leaves_no_gap_and_its_neighbours_go_the_quick_way(nodes, looked_at) -> None:
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
    assert looked_at() == []
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
    aside = ["1", "other", "2", "other", "stranger", "1", "blocked", "1", "nowhere", "no group"]
    assert looked_at() == aside


async def test_a_batch_of_which_nothing_is_new_moves_nothing(migrated, nodes, looked_at) -> None:
    store = nodes[0]
    ann, bob, cat = await people(store, "ann", "bob", "cat")
    first = await send(store, Draft(ann, bob, 0, "1", "k"), Draft(ann, cat, 0, "1", "k"))
    assert looked_at() == []
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
    assert looked_at() == ["1", "1", "x", "x", "x"]


async def test_two_nodes_that_repeat_each_others_cids_at_the_same_time(nodes, looked_at) -> None:
    """Whichever was first, both are told the same, and of each message there is one."""
    luck = random.Random(7)
    ids = await people(nodes[0], *(f"user{n}" for n in range(6)))
    pairs = [(one, other) for one in ids for other in ids if one < other]
    for store in nodes:
        await store.append([Draft(one, other, 0, "first", "first") for one, other in pairs])
    assert looked_at() == ["first"] * len(pairs)
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
    assert len(looked_at()) == 20 * 2 * 40 - news


async def test_only_what_is_wrong_with_messages_of_unknown_pairs_is_looked_at_one_by_one(nodes, looked_at) -> None:
    """Chats that are known, found, and made; whatever the ids say of their order."""
    other, store = nodes
    ann, bob, cat, dan, eve = await people(store, "ann", "bob", "cat", "dan", "eve")
    found, both, barred = await send(
        other, Draft(ann, bob, 0, "1", "k"), Draft(ann, cat, 0, "1"), Draft(ann, dan, 0, "1", "d")
    )
    await send(store, Draft(ann, cat, 0, "2"))
    group = await group_of(store, ann, bob)
    [known] = await send(store, Draft(dan, cat, 0, "1", "k"))
    await store.block(dan, ann)
    await store.block(eve, ann)
    mark = (await store.changes(0)).mark
    assert looked_at() == []
    outcomes = await store.append(
        [
            Draft(dan, cat, 0, "2"),
            Draft(bob, eve, 0, "1 by bob", "k"),
            Draft(ann, bob, 0, "2", "l"),
            Draft(ann, 0, found.chat, "no group"),
            Draft(cat, ann, 0, "3"),
            Draft(ann, 10**6, 0, "nobody"),
            Draft(ann, cat, 0, "4"),
            Draft(eve, bob, 0, "2 by eve", "k"),
            Draft(ann, eve, 0, "blocked, no chat"),
            Draft(bob, eve, 0, "1 by bob", "k"),
            Draft(ann, bob, 0, "1", "k"),
            Draft(bob, ann, 0, "3", "k"),
            Draft(ann, dan, 0, "blocked"),
            Draft(ann, dan, 0, "1", "d"),
            Draft(dan, ann, 0, "2"),
            Draft(bob, 0, group, "1"),
            Draft(10**6, ann, 0, "of nobody"),
            Draft(bob, bob, 0, "to oneself"),
            Draft(cat, eve, 0, "1"),
            Draft(bob, eve, 0, "other", "k"),
            Draft(ann, 10**6, 0, "nobody again"),
            Draft(bob, eve, 0, "3 by bob"),
        ]
    )
    told = [
        (outcome.chat, outcome.seq, outcome.duplicate) if isinstance(outcome, Receipt) else type(outcome)
        for outcome in outcomes
    ]
    first, second = outcomes[1].chat, outcomes[18].chat
    assert group < known.chat < first < second
    assert told == [
        (known.chat, 2, False),
        (first, 1, False),
        (found.chat, 2, False),
        NotFound,
        (both.chat, 3, False),
        UserInvalid,
        (both.chat, 4, False),
        (first, 2, False),
        Forbidden,
        (first, 1, True),
        (found.chat, 1, True),
        (found.chat, 3, False),
        Forbidden,
        (barred.chat, 1, True),
        (barred.chat, 2, False),
        (group, 1, False),
        UserInvalid,
        BadRequest,
        (second, 1, False),
        BadRequest,
        UserInvalid,
        (first, 3, False),
    ]
    wrong = ["no group", "nobody", "blocked, no chat", "1 by bob", "1", "blocked", "1", "of nobody", "other"]
    assert looked_at() == [*wrong, "nobody again"]
    page = await store.history(eve, first, 0, 0, 0, 0, 99)
    assert [message.text for message in page.messages] == ["1 by bob", "2 by eve", "3 by bob"]
    page = await store.history(bob, found.chat, 0, 0, 0, 0, 99)
    assert [message.text for message in page.messages] == ["1", "2", "3"]
    moved = await store.changes(mark)
    heads = {found.chat: 3, both.chat: 4, barred.chat: 2, group: 1, known.chat: 2, first: 3, second: 1}
    assert (dict(moved.heads), dict(moved.members)) == (heads, {first: 1, second: 1})


async def test_chats_that_were_looked_up_are_known(nodes, looked_at) -> None:
    """After a restart everybody's are looked up once, by the call that appends."""
    ids = await people(nodes[0], *(f"user{n}" for n in range(9)))
    drafts = [Draft(one, other, 0, "x", "k") for one in ids for other in ids if one != other]
    before = await nodes[0].append(drafts)
    for cid in "lm":
        after = await nodes[1].append([Draft(draft.sender, draft.to, 0, "x", cid) for draft in drafts])
        assert [receipt.chat for receipt in after] == [receipt.chat for receipt in before]
        assert sorted(nodes[1]._pairs.young) == sorted((draft.sender, draft.to) for draft in drafts)
    assert looked_at() == []


async def test_a_batch_of_which_no_chat_exists(nodes, looked_at) -> None:
    ann, bob = await people(nodes[0], "ann", "bob")
    await nodes[0].block(bob, ann)
    drafts = [Draft(ann, 10**6, 0, "nobody"), Draft(ann, bob, 0, "blocked"), Draft(ann, 0, 10**6, "no group")]
    errors = [UserInvalid, Forbidden, NotFound]
    for some in (slice(3), slice(1), slice(1, 2), slice(2, 3)):
        assert [type(outcome) for outcome in await nodes[0].append(drafts[some])] == errors[some]
        assert looked_at() == [draft.text for draft in drafts[some]]


@pytest.mark.parametrize("wrong", ["a\0b", "a\ud800b"], ids=["NUL", "surrogate"])
async def test_a_text_that_no_database_takes_shifts_no_other(nodes, wrong: str) -> None:
    store = nodes[0]
    ann, bob = await people(store, "ann", "bob")
    [first] = await send(store, Draft(ann, bob, 0, "1"))
    outcomes = await store.append([Draft(ann, bob, 0, wrong), Draft(ann, bob, 0, "2"), Draft(ann, bob, 0, "3", wrong)])
    assert [type(outcome) for outcome in outcomes] == [BadRequest, Receipt, BadRequest]
    for draft in (Draft(ann, bob, 0, wrong), Draft(ann, bob, 0, "3", wrong)):
        [outcome] = await store.append([draft])
        assert isinstance(outcome, BadRequest)
    page = await store.history(bob, first.chat, 0, 0, 0, 0, 99)
    assert [message.text for message in page.messages] == ["1", "2"]
