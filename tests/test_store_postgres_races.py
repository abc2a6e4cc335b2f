"""What nodes do to one PostgreSQL at the same time: appends that meet, and sweeps that must not miss one."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
import pytest_twisted
from postgres_database import Database, settled
from store_contract_groups import group_of
from store_contract_messages import send
from store_contract_people import people, together

from flux.backends.postgres import PostgresStore, append, changes
from flux.backends.postgres.connection import Prepared, Run
from flux.bench.engines import PostgresServer
from flux.errors import BadRequest, Forbidden, Unavailable
from flux.model.chats import CursorMove
from flux.model.messages import Draft, Receipt


@pytest.fixture(scope="module")
def migrated(quick_postgres: PostgresServer) -> Iterator[Database]:
    database = Database(quick_postgres.create_database("races"))
    database.migrate()
    yield database
    database.close()


@pytest_twisted.async_yield_fixture
async def nodes(migrated):
    """Two nodes' stores on one empty database; there is never a deadlock, which they would get over unnoticed."""
    from twisted.internet import reactor

    migrated.empty()
    deadlocks = migrated.deadlocks()
    stores = [PostgresStore(migrated.dsn, reactor, pool=2, require_fsync=False) for _ in range(2)]
    for store in stores:
        await store.start()
    yield stores
    migrated.check()
    for store in stores:
        await store.stop()
    await migrated.until_alone()
    assert migrated.deadlocks() == deadlocks


@pytest.fixture
def other(migrated: Database) -> Iterator[Any]:
    """A connection with a transaction of its own."""
    connection = psycopg2.connect(migrated.dsn)
    yield connection
    connection.close()


def hold(other: Any, chat: int) -> None:
    """Take a chat's lock, as everybody does who changes it."""
    with other.cursor() as cursor:
        cursor.execute("SELECT FROM chats WHERE id = %s FOR NO KEY UPDATE", (chat,))


def meanwhile(other: Any, statement: str, *values: Any) -> None:
    with other.cursor() as cursor:
        cursor.execute(statement, values)


APPEND = "SELECT append_singly(%s, %s, %s, %s, %s, NULL)"


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
async def test_the_same_cid_committed_by_who_held_the_chat(migrated, nodes, other, known) -> None:
    store = nodes[0 if known else 1]
    ann, bob, cat = await people(nodes[0], "ann", "bob", "cat")
    first, there = await send(nodes[0], Draft(ann, bob, 0, "1"), Draft(ann, cat, 0, "1"))
    hold(other, first.chat)
    meanwhile(other, APPEND, [first.chat], [ann], [bob], ["k"], ["x"])
    waiting = store.append(
        [
            Draft(ann, bob, 0, "x", "k"),
            Draft(ann, cat, 0, "2"),
            Draft(ann, bob, 0, "y", "l"),
            Draft(ann, bob, 0, "z", "k"),
        ]
    )
    await migrated.until_somebody_waits()
    assert not settled(waiting)
    other.commit()
    repeated, neighbour, next_one, reused = await waiting
    assert (repeated.seq, repeated.duplicate) == (2, True)
    assert (neighbour.chat, neighbour.seq, neighbour.duplicate) == (there.chat, 2, False)
    assert (next_one.seq, next_one.duplicate) == (3, False)
    assert isinstance(reused, BadRequest)


MEANWHILE = {
    "another message": (APPEND, ["k"], ["x"], 3),
    "another message without cid": (APPEND, [""], ["x"], 3),
    "the same message": (APPEND, ["m"], ["2"], 2),
    "its cid, for another text": (APPEND, ["m"], ["x"], BadRequest),
    "a block": ("SELECT set_block(%s, %s, true)", Forbidden),
}


@pytest.mark.parametrize("seen", [True, False], ids=["seen in time", "not seen in time"])
@pytest.mark.parametrize("case", MEANWHILE)
async def test_a_message_by_itself_after_what_was_done_by_who_held_the_chat(
    migrated, nodes, other, monkeypatch, case, seen
) -> None:
    """
    :param seen: False where the statement begins before the other transaction ends, and does not notice it.
    """
    statement, *texts, expected = MEANWHILE[case]
    if not seen:
        waits = re.sub(r"\$\d+", "%s", append.ALONE.text.replace("SKIP LOCKED", ""))
        monkeypatch.setattr(append, "ALONE", Prepared(waits, until=True))
    store = nodes[0]
    ann, bob = await people(store, "ann", "bob")
    [first] = await send(store, Draft(ann, bob, 0, "1"))
    hold(other, first.chat)
    meanwhile(other, statement, *([[first.chat], [ann], [bob], *texts] if texts else [bob, ann]))
    waiting = store.append([Draft(ann, bob, 0, "2", "m")])
    await migrated.until_somebody_waits()
    assert not settled(waiting)
    other.commit()
    [outcome] = await waiting
    if isinstance(expected, int):
        assert (outcome.chat, outcome.seq, outcome.duplicate) == (first.chat, expected, expected == 2)
        _, *others = await store.fill(bob, first.chat, 0, 9)
        assert [message.seq for message in others] == list(range(2, expected + 1))
        assert [message.at for message in others] == sorted(message.at for message in others)
        assert others[-1].at == outcome.at
    else:
        assert isinstance(outcome, expected)


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
async def test_a_removal_by_who_held_the_chat(migrated, nodes, other, known) -> None:
    store = nodes[0]
    ann, bob, cat = await people(store, "ann", "bob", "cat")
    group = await group_of(store, ann, bob)
    if known:
        await send(store, Draft(ann, cat, 0, "1"))
    hold(other, group)
    meanwhile(other, "SELECT group_change('remove', %s, %s, %s, NULL)", ann, group, bob)
    waiting = store.append([Draft(bob, 0, group, "too late"), Draft(ann, 0, group, "x"), Draft(ann, cat, 0, "y")])
    await migrated.until_somebody_waits()
    other.commit()
    refused, *kept = await waiting
    assert isinstance(refused, Forbidden)
    assert [receipt.seq for receipt in kept] == [1, 2 if known else 1]
    assert kept[0].version == (await store.membership(group)).version


async def test_a_join_by_who_held_the_chat(migrated, nodes, other) -> None:
    store = nodes[0]
    ann, bob = await people(store, "ann", "bob")
    group = await group_of(store, ann)
    await send(store, Draft(ann, 0, group, "1"))
    hold(other, group)
    meanwhile(other, "SELECT group_change('join', %s, %s, %s, NULL)", bob, group, bob)
    waiting = store.append([Draft(bob, 0, group, "in time"), Draft(ann, 0, group, "x")])
    await migrated.until_somebody_waits()
    other.commit()
    receipts = await waiting
    assert [receipt.seq for receipt in receipts] == [2, 3]
    assert {receipt.version for receipt in receipts} == {(await store.membership(group)).version}
    # And the other way round: a join waits for messages, and starts above them.
    [cat] = await people(store, "cat")
    hold(other, group)
    meanwhile(other, APPEND, [group], [ann], [0], [""], ["4"])
    waiting = store.group_join(cat, group)
    await migrated.until_somebody_waits()
    other.commit()
    assert (await waiting).head == 4


async def test_two_groups_at_once_for_who_has_room_for_one(migrated, nodes, other) -> None:
    store = nodes[0]
    ann, bob = await people(store, "ann", "bob")
    groups = [await group_of(store, bob) for _ in range(3)]
    meanwhile(other, "SELECT group_enter_within('join', %s, %s, %s, 1)", ann, groups[0], ann)
    attempts = [
        store.group_join(ann, groups[1], 1),
        store.group_add(bob, groups[2], ann, 1),
        store.group_create(ann, "mine", "", False, False, 1),
    ]
    await migrated.until_somebody_waits()
    other.commit()
    for attempt in attempts:
        with pytest.raises(Forbidden, match="as many groups"):
            await attempt
    assert [group.group for group in await store.groups(ann)] == groups[:1]


async def test_a_block_while_the_first_message_is_on_its_way(migrated, nodes, other) -> None:
    """Whichever is first, append finds the block afterwards."""
    store = nodes[0]
    ann, bob = await people(store, "ann", "bob")
    meanwhile(other, "SELECT set_block(%s, %s, true)", bob, ann)
    waiting = store.append([Draft(ann, bob, 0, "x"), Draft(bob, ann, 0, "y")])
    await migrated.until_somebody_waits()
    other.commit()
    outcomes = await waiting
    assert [type(outcome) for outcome in outcomes] == [Forbidden, Receipt]
    assert isinstance((await store.append([Draft(ann, bob, 0, "x")]))[0], Forbidden)


async def test_both_first_messages_of_1000_pairs_from_two_nodes_in_opposite_order(migrated, nodes, other) -> None:
    """Of each batch both transactions are open at once; now one node's is the first, now the other's."""
    ids = await people(nodes[0], *(f"user{n}" for n in range(46)))
    pairs = random.Random(3).sample([(low, high) for low in ids for high in ids if low < high], 1000)
    there: list[Receipt] = []
    back: list[Receipt] = []
    for number in range(20):
        batch = pairs[number * 50 : (number + 1) * 50]
        drafts = [
            [Draft(low, high, 0, "there") for low, high in batch],
            [Draft(high, low, 0, "back") for low, high in reversed(batch)],
        ]
        # Whoever comes first has locked some of the accounts when it finds this one held.
        meanwhile(other, "SELECT lock_accounts(%s)", [batch[25][1]])
        calls: dict[int, Any] = {}
        for waiting, node in enumerate([0, 1] if number % 2 else [1, 0], 1):
            calls[node] = nodes[node].append(drafts[node])
            await migrated.until_somebody_waits(waiting)
        assert not any(settled(call) for call in calls.values())
        other.commit()
        there += await calls[0]
        back += reversed(await calls[1])
    assert [receipt.chat for receipt in there] == [receipt.chat for receipt in back]
    assert len({receipt.chat for receipt in there}) == 1000
    assert {(one.seq, another.seq) for one, another in zip(there, back, strict=True)} == {(1, 2), (2, 1)}


async def test_many_batches_of_two_nodes_in_any_order(migrated, nodes) -> None:
    """No gap, no message twice; the sweeps of both find every head."""
    luck = random.Random(5)
    ids = await people(nodes[0], *(f"user{n}" for n in range(12)))
    groups = [await group_of(nodes[0], ids[0], *ids[1:6]) for _ in range(3)]
    marks = [(await store.changes(0)).mark for store in nodes]
    heads: list[dict[int, int]] = [{}, {}]

    def draft() -> Draft:
        cid = f"{luck.randrange(40)}"
        if luck.random() < 0.3:
            return Draft(luck.choice(ids[:8]), 0, luck.choice(groups), "x", cid)
        one, other = luck.sample(ids, 2)
        return Draft(one, other, 0, "x", cid)

    for _ in range(40):
        # As after a restart; and the chats of other pairs are known.
        for store in nodes:
            for pair in luck.sample(list(store._pairs.young), len(store._pairs.young) // 2):
                del store._pairs.young[pair]
        calls: list[Any] = [store.append([draft() for _ in range(luck.randrange(1, 30))]) for store in nodes * 2]
        calls += [store.group_join(luck.choice(ids[6:]), luck.choice(groups)) for store in nodes]
        calls += [store.open_session(luck.choice(ids)) for store in nodes * 3]
        calls += [luck.choice([store.block, store.unblock])(*luck.sample(ids, 2)) for store in nodes * 2]
        calls += [
            store.advance([CursorMove(luck.choice(ids), 99, luck.randrange(1, 40), 99, 99) for _ in range(10)])
            for store in nodes
        ]
        await together(calls)
        for number, store in enumerate(nodes):
            found = await store.changes(marks[number])
            marks[number] = found.mark
            heads[number] |= dict(found.heads)
    expected = dict(migrated.query("SELECT id, head FROM chats WHERE head > 0"))
    assert heads == [expected, expected]


# --- the sweep ---


async def test_a_commit_that_was_under_way_is_in_the_next_look(nodes, other) -> None:
    store = nodes[0]
    ann, bob, cat = await people(store, "ann", "bob", "cat")
    slow, quick = await send(store, Draft(ann, bob, 0, "1"), Draft(ann, cat, 0, "1"))
    mark = (await store.changes(0)).mark
    meanwhile(other, APPEND, [slow.chat], [ann], [bob], [""], ["2"])
    meanwhile(other, "SELECT open_sessions(%s)", [bob])
    await send(store, Draft(ann, cat, 0, "2"))
    first = await store.changes(mark)
    assert (first.heads, first.sessions) == (((quick.chat, 2),), ())
    await send(store, Draft(ann, cat, 0, "3"))
    second = await store.changes(first.mark)
    assert second.heads == ((quick.chat, 3),)
    other.commit()
    third = await store.changes(second.mark)
    assert (third.heads, third.sessions) == (((slow.chat, 2),), ((bob, 1),))
    assert (await store.changes(third.mark)).heads == ()


async def test_what_was_rolled_back_has_not_moved(nodes, other) -> None:
    store = nodes[0]
    ann, bob = await people(store, "ann", "bob")
    [receipt] = await send(store, Draft(ann, bob, 0, "1"))
    mark = (await store.changes(0)).mark
    meanwhile(other, APPEND, [receipt.chat], [ann], [bob], [""], ["2"])
    assert (await store.changes(mark)).heads == ()
    other.rollback()
    assert (await store.changes(mark)).heads == ()


async def test_old_moves_are_removed_and_a_mark_from_before_cannot_be_answered(
    migrated, nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, neighbour = nodes
    monkeypatch.setattr(changes, "KEPT_TRANSACTIONS", 20)
    monkeypatch.setattr(changes, "PRUNE_EVERY", 1)
    ann, bob = await people(store, "ann", "bob")
    old = (await neighbour.changes(0)).mark
    mark = (await store.changes(0)).mark
    for _ in range(100):
        await send(store, Draft(ann, bob, 0, "x"))
        found = await store.changes(mark)
        assert found.complete
        mark = found.mark
    [[left]] = migrated.query("SELECT count(*) FROM moves")
    assert 20 <= left <= 45
    late = await neighbour.changes(old)
    assert (late.complete, late.reset, late.heads) == (False, False, ())
    await send(store, Draft(ann, bob, 0, "x"))
    assert (await neighbour.changes(late.mark)).heads == ((1, 101),)


@pytest.mark.parametrize("where", ["here", "in another database"])
async def test_a_transaction_that_stays_open_holds_nothing_up(
    quick_postgres: PostgresServer, migrated, nodes, other, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Looks stay complete, old rows go nevertheless, and when it has ended at last it is in the next look."""
    store = nodes[0]
    monkeypatch.setattr(changes, "KEPT_TRANSACTIONS", 20)
    monkeypatch.setattr(changes, "PRUNE_EVERY", 1)
    ann, bob, cat = await people(store, "ann", "bob", "cat")
    slow, quick = await send(store, Draft(ann, bob, 0, "1"), Draft(ann, cat, 0, "1"))
    marks = [(await node.changes(0)).mark for node in nodes]
    if where == "here":
        meanwhile(other, APPEND, [slow.chat], [ann], [bob], [""], ["2"])
    else:
        elsewhere = psycopg2.connect(quick_postgres.dsn)
        with elsewhere.cursor() as cursor:
            cursor.execute("SELECT pg_current_xact_id()")
    for number in range(100):
        await send(store, Draft(ann, cat, 0, "x"))
        for place, node in enumerate(nodes):
            found = await node.changes(marks[place])
            assert (found.complete, found.heads) == (True, ((quick.chat, number + 2),))
            marks[place] = found.mark
    [[left]] = migrated.query("SELECT count(*) FROM moves")
    assert left <= 45
    if where == "here":
        other.commit()
        for place, node in enumerate(nodes):
            found = await node.changes(marks[place])
            assert (found.complete, found.heads) == (True, ((slow.chat, 2),))
    else:
        elsewhere.close()


async def test_a_look_reads_what_is_new_however_long_a_transaction_is_open(nodes, other) -> None:
    """Not all that has moved since that one began."""
    store = nodes[0]
    ann, bob = await people(store, "ann", "bob")
    meanwhile(other, "SELECT pg_current_xact_id()")
    for _ in range(50):
        await store.open_session(ann)
    [[seen]] = await store._pool.call(ask, "SELECT pg_current_snapshot()::text")
    await store.open_session(bob)
    explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {changes.SINCE}"
    [[[plan]]] = await store._pool.call(ask, explain, {"seen": seen, "newest": seen})
    rows = [node["Actual Rows"] + node.get("Rows Removed by Filter", 0) for node in scans(plan["Plan"])]
    # The newest, and twice the one that moved.
    assert sum(rows) == 3


async def ask(run: Run, statement: str, values: Any = ()) -> list[Any]:
    return await run(statement, values)


def scans(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of a plan that read rows of moves."""
    found = [plan] if plan.get("Relation Name") == "moves" else []
    return found + [node for part in plan.get("Plans", ()) for node in scans(part)]


async def test_the_numbers_of_another_server_are_put_right_by_the_first_look(migrated, nodes) -> None:
    """After a dump was restored there, its transactions seem to be of the future."""
    store = nodes[0]
    ann, bob = await people(store, "ann", "bob")
    await send(store, Draft(ann, bob, 0, "1"))
    far = "9000000000:9000000000:"
    migrated.query(f"UPDATE moves_kept SET gone = '{far}', following = '{far}'; UPDATE moves SET xact = '8999999999'")
    mark = (await store.changes(0)).mark
    await send(store, Draft(ann, bob, 0, "2"))
    found = await store.changes(mark)
    assert (found.complete, found.heads) == (True, ((1, 2),))
    assert (await store.changes(found.mark)).heads == ()


# --- cursors of another past ---


@pytest.mark.parametrize("noted", ["before it is known", "before it is told"])
async def test_cursors_of_an_earlier_past_are_refused_however_long_they_wait(migrated, nodes, noted: str) -> None:
    """They wait for a connection behind the look that tells of the database's going back, and behind nothing else."""
    store = nodes[0]
    ann, bob = await people(store, "ann", "bob")
    number = await store.open_session(bob)
    mark = (await store.changes(0)).mark
    [receipt] = await send(store, Draft(ann, bob, 0, "new 1"))
    move = CursorMove(bob, number, receipt.chat, 1, 1)
    # Of two connections, one is for calls in order as long as there are such calls: the look gets the other.
    busy = [store._pool.call(ask, "SELECT pg_sleep(0.05)") for _ in range(2)]
    if noted == "before it is known":
        look, written = store.changes(mark), store.advance([move])
        store._marks.forget()
    else:
        store._marks.forget()
        look, written = store.changes(mark), store.advance([move])
    await together(busy)
    assert (await look).reset
    with pytest.raises(Unavailable, match="earlier state"):
        await written
    [cursor] = (await store.overview(bob)).cursors
    assert (cursor.received, cursor.read) == (0, 0)
    await store.advance([move])
    [cursor] = (await store.overview(bob)).cursors
    assert (cursor.received, cursor.read) == (1, 1)
