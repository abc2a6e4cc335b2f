"""Nodes of the version before work on while the schema is already this one's.

Such a node cannot be run here any more, but what it asks can. These are its statements as that version had them: they
stay as they are until the version after the next one, and then make room for those of this one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2.errors
import pytest
import pytest_twisted
from postgres_database import Database
from store_contract_messages import send
from store_contract_people import people

from flux.backends.postgres import PostgresStore
from flux.bench.engines import PostgresServer
from flux.model.messages import Draft

KNOWN = """
    SELECT heads::text, versions::text, ats::text, move
    FROM append_known(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""
CAREFULLY = "SELECT nth, outcome, chat, seq, at, version FROM append_carefully(%s, %s, %s, %s, %s, %s)"

_LAST_MOVE = "(SELECT m.xact::text || ' ' || m.at FROM moves m ORDER BY m.xact DESC LIMIT 1)"
NOW = f"SELECT pg_current_snapshot()::text, {_LAST_MOVE}"
_UNSEEN = (
    "m.xact >= pg_snapshot_xmin(%({0})s::pg_snapshot) AND NOT pg_visible_in_snapshot(m.xact, %({0})s::pg_snapshot)"
)
SINCE = f"""
    WITH moved AS MATERIALIZED (SELECT m.* FROM moves m WHERE {_UNSEEN.format("seen")})
    SELECT pg_current_snapshot()::text, {_LAST_MOVE},
        EXISTS (SELECT FROM moves m WHERE {_UNSEEN.format("newest")}),
        pg_snapshot_xmin(%(seen)s::pg_snapshot) >= (SELECT since FROM moves_kept),
        ARRAY(SELECT ARRAY[c.id, c.head] FROM chats c
            WHERE c.id IN (SELECT unnest(heads) FROM moved) AND c.head > 0)::text,
        ARRAY(SELECT ARRAY[c.id, c.version] FROM chats c WHERE c.id IN (SELECT unnest(members) FROM moved))::text,
        ARRAY(SELECT ARRAY[s.uid, s.number] FROM sessions s
            WHERE s.uid IN (SELECT unnest(sessions) FROM moved))::text"""
WITNESS = """
    SELECT EXISTS (SELECT FROM moves WHERE xact = %(xact)s AND at = %(at)s)
        OR (SELECT since FROM moves_kept) > %(xact)s::xid8"""
PRUNE = "SELECT prune_moves(%s)"
GROUP_CREATE = "SELECT group_create(%s, %s, %s, %s, %s)"
GROUP_CHANGE = "SELECT outcome, version, head FROM group_change(%s, %s, %s, %s, %s)"


@pytest.fixture
def before(quick_postgres: PostgresServer) -> Iterator[Database]:
    """What a node of the version before has a connection to: all migrations were applied."""
    with closing(Database(quick_postgres.dsn)) as admin:
        admin.query("DROP DATABASE IF EXISTS before WITH (FORCE)")
    with closing(Database(quick_postgres.create_database("before"))) as database:
        database.migrate()
        yield database


@pytest_twisted.async_yield_fixture
async def store(before: Database):
    """A node of this version."""
    from twisted.internet import reactor

    store = PostgresStore(before.dsn, reactor, pool=1, require_fsync=False)
    await store.start()
    yield store
    before.check()
    await store.stop()


def append(before: Database, chat: int, sender: int, to: int, cid: str, text: str) -> list[tuple[Any, ...]]:
    """One message, the quick way."""
    pair: tuple[list[int], ...] = ([sender], [to], [], []) if to else ([], [], [sender], [chat])
    return before.query(KNOWN, [chat], [1], *pair, [1], [1], [sender], [cid], [text], None)


async def test_messages(before: Database, store: PostgresStore) -> None:
    ann, bob = await people(store, "ann", "bob")
    [first] = before.query(CAREFULLY, [ann], [bob], [0], ["a"], ["1"], None)
    chat = first[2]
    assert (first[1], first[3]) == ("new", 1)
    [(heads, versions, _, move)] = append(before, chat, bob, ann, "b", "2")
    assert (heads, versions) == ("{1}", "{1}")
    assert before.query(f"SELECT {_LAST_MOVE}") == [(move,)]
    # Each knows what the other one has committed.
    known, new = await send(store, Draft(bob, ann, 0, "2", "b"), Draft(ann, bob, 0, "3", "c"))
    assert (known.seq, known.duplicate, new.chat, new.seq) == (2, True, chat, 3)
    with pytest.raises(psycopg2.errors.UniqueViolation):
        append(before, chat, ann, bob, "c", "3")
    [again] = before.query(CAREFULLY, [ann], [bob], [0], ["c"], ["3"], None)
    assert again[1:4] == ("known", chat, 3)
    # Nobody is written to whom he has blocked: no row.
    await store.block(bob, ann)
    assert append(before, chat, ann, bob, "d", "4") == []
    [[group]] = before.query(GROUP_CREATE, ann, "g", "", False, False)
    assert append(before, group, bob, 0, "", "stranger") == []
    assert before.query(GROUP_CHANGE, "join", bob, group, bob, None) == [("changed", 2, 0)]
    [(heads, *_)] = append(before, group, bob, 0, "", "member")
    assert heads == "{0}"
    assert (await store.membership(group)).head == 1


def look(before: Database, seen: str) -> tuple[str, bool, str]:
    """The snapshot of now, and whether what has moved since another one is complete, and the heads of that."""
    with before.connection.cursor() as cursor:
        cursor.execute(SINCE, {"seen": seen, "newest": seen})
        [(snapshot, _, _, complete, heads, _, _)] = cursor.fetchall()
    return snapshot, complete, heads


def is_there(before: Database, move: str) -> bool:
    """Whether a row of moves is there or was removed in its time."""
    xact, at = move.split()
    with before.connection.cursor() as cursor:
        cursor.execute(WITNESS, {"xact": xact, "at": at})
        [[there]] = cursor.fetchall()
    return bool(there)


async def test_looks(before: Database, store: PostgresStore) -> None:
    """They may be incomplete more often than they were, but never miss what they do not say to miss."""
    ann, bob, cat = await people(store, "ann", "bob", "cat")
    quick, slow = await send(store, Draft(ann, bob, 0, "1"), Draft(ann, cat, 0, "1"))
    [(first, move)] = before.query(NOW)
    await send(store, Draft(ann, bob, 0, "2"))
    seen, complete, heads = look(before, first)
    assert (complete, heads) == (True, f"{{{{{quick.chat},2}}}}")
    # Nodes of both versions remove old rows, and each sees what is left.
    mark = oldest = (await store.changes(0)).mark
    for number in range(3, 40):
        await send(store, Draft(ann, bob, 0, "x"))
        before.query(PRUNE, 10)
        seen, complete, heads = look(before, seen)
        assert (complete, heads) == (True, f"{{{{{quick.chat},{number}}}}}")
        found = await store.changes(mark)
        assert (found.complete, found.heads) == (True, ((quick.chat, number),))
        mark = found.mark
    [[left]] = before.query("SELECT count(*) FROM moves")
    assert left <= 25
    # Who has looked before those that are gone is told so.
    assert look(before, first)[1] is False
    assert (await store.changes(oldest)).complete is False
    assert before.query("SELECT EXISTS (SELECT FROM moves WHERE xact = %s)", move.split()[0]) == [(False,)]
    assert is_there(before, move)
    assert is_there(before, before.query(NOW)[0][1])
    assert not is_there(before, f"{2**40} 1")
    # What commits late is in the next look, or that one is incomplete.
    with closing(psycopg2.connect(before.dsn)) as late, late.cursor() as cursor:
        cursor.execute("INSERT INTO moves (heads) VALUES (%s)", ([slow.chat],))
        [(early, _)] = before.query(NOW)
        for _ in range(40):
            await send(store, Draft(ann, bob, 0, "x"))
            before.query(PRUNE, 10)
            seen, complete, heads = look(before, seen)
            assert not complete or heads.startswith(f"{{{{{quick.chat},")
        assert look(before, early)[1] is False
        late.commit()
    seen, complete, heads = look(before, seen)
    assert not complete or str(slow.chat) in heads
    await send(store, Draft(ann, bob, 0, "x"))
    seen, complete, heads = look(before, seen)
    assert (complete, heads.startswith(f"{{{{{quick.chat},")) == (True, True)
