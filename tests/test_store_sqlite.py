"""The SQLite store: the contract, and what is its own."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import pytest_twisted
from store_contract import StoreContract
from store_contract_groups import group_of
from store_contract_people import people, together
from store_faults import Faults
from store_invariants import check_invariants
from twisted.logger import capturedLogs

from flux.backends.sqlite import SqliteStore, quiet, runs, schema, writer
from flux.errors import BadRequest, Forbidden, NotFound, Unavailable, UserExists
from flux.interfaces import IStore
from flux.model.chats import CursorMove
from flux.model.messages import Draft, Message
from flux.model.people import Ban


@pytest_twisted.async_yield_fixture
async def opened(request, tmp_path):
    """Makes started stores, and checks and stops them afterwards."""
    from twisted.internet import reactor

    stores = []

    async def opened(path: Path = tmp_path / "data" / "flux.db", **options: Any) -> SqliteStore:
        store = SqliteStore(path, reactor, **options)
        await store.start()
        stores.append(store)
        return store

    yield opened
    for store in stores:
        check_invariants(store, pruned=request.node.get_closest_marker("prunes") is not None)
        await store.stop()


@pytest_twisted.async_fixture
async def store(opened) -> SqliteStore:
    return await opened()


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


# --- the file ----------------------------------------------------------------


async def test_the_directory_is_made_and_nobody_else_can_read_it(opened, tmp_path) -> None:
    store = await opened(tmp_path / "a" / "b" / "flux.db")
    await people(store, "ann")
    for path, mode in ((tmp_path / "a" / "b", 0o700), (store.path, 0o600), (Path(f"{store.path}-wal"), 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) == mode, path


async def test_what_was_stored_is_there_after_a_restart(opened) -> None:
    store = await opened()
    ann, bob = await people(store, "ann", "bob")
    await store.append([Draft(ann, bob, 0, "1", "a"), Draft(bob, ann, 0, "2", "b")])
    group = await group_of(store, ann, bob)
    mark = (await store.changes(0)).mark
    seen = await store.overview(bob), await store.conversations(bob, 10), await store.membership(group)
    await store.stop()
    assert sorted(path.name for path in store.path.parent.iterdir()) == ["flux.db", "flux.db.lock"]
    again = await opened()
    assert (await again.overview(bob), await again.conversations(bob, 10), await again.membership(group)) == seen
    assert not (await again.changes(mark)).complete
    receipts = await again.append([Draft(ann, bob, 0, "1", "a"), Draft(ann, bob, 0, "3")])
    assert [(receipt.seq, receipt.duplicate) for receipt in receipts] == [(1, True), (3, False)]
    assert await people(again, "cat") == [bob + 1]


async def test_a_stopped_store_refuses(opened) -> None:
    store = await opened()
    await store.stop()
    for call in (store.next_boot("a"), store.profile(1), store.changes(0)):
        with pytest.raises(Unavailable, match="closed"):
            await call
    await store.stop()


def spoiled(tmp_path: Path, script: str) -> Path:
    """A database that ``script`` was run in."""
    path = tmp_path / "flux.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(script)
    return path


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("PRAGMA application_id = 0x666C7578; PRAGMA user_version = 99", "later flux"),
        ("CREATE TABLE recipes (name)", "belongs to another program"),
        ("PRAGMA application_id = 42", "belongs to another program"),
    ],
)
async def test_a_file_that_is_not_ours_is_refused_and_left_alone(opened, tmp_path, script, reason) -> None:
    path = spoiled(tmp_path, script)
    before = path.read_bytes()
    with pytest.raises(Unavailable, match=reason) as refusal:
        await opened(path)
    assert str(path) in refusal.value.detail
    assert path.read_bytes() == before


async def test_a_file_without_the_tables_of_its_version_is_refused(opened, tmp_path) -> None:
    path = spoiled(
        tmp_path, "PRAGMA application_id = 0x666C7578; PRAGMA user_version = 1; CREATE TABLE chats (id INTEGER)"
    )
    with pytest.raises(Unavailable, match=r"damaged or was altered .*accounts, .*chats, "):
        await opened(path)


async def test_a_file_of_an_earlier_flux_is_brought_up_to_date(opened, tmp_path) -> None:
    first = schema.migrations()[0].script
    path = spoiled(
        tmp_path,
        f"{first}; PRAGMA application_id = 0x666C7578; PRAGMA user_version = 1;"
        "INSERT INTO accounts (name, key, password_hash, email, nick) VALUES ('ann', 'ann', 'h', '', '');"
        "INSERT INTO accounts (name, key, password_hash, email, nick)"
        " VALUES ('bob', 'bob', 'h', '', ''), ('cat', 'cat', 'h', '', ''), ('dan', 'dan', 'h', '', '');"
        "INSERT INTO sessions VALUES (1, 5), (2, 0), (3, 0), (4, 0);"
        # Blocking has left friendships and requests alone.
        "INSERT INTO friends VALUES (1, 2, '', 1), (2, 1, '', 1), (1, 3, '', 1), (3, 1, '', 1);"
        "INSERT INTO friend_requests VALUES (4, 1, '', '', 0), (4, 2, '', '', 0), (3, 4, '', '', 0);"
        "INSERT INTO blocks VALUES (3, 1), (1, 4), (3, 4)",
    )
    store = await opened(path)
    assert (await store.credentials(1, "")).ban is None
    assert await store.open_session(1) == 6
    await store.ban(Ban(1, "", "spam", 1, 0))
    assert (await store.overview(1)).ban == Ban(1, "", "spam", 1, 0, "ann")
    assert [[friend.id for friend in await store.friends(uid)] for uid in (1, 2, 3)] == [[2], [1], []]
    assert [[each.sender for each in await store.friend_requests(uid)] for uid in (3, 4)] == [[], [2]]


async def test_a_file_that_is_no_database_is_refused(opened, tmp_path) -> None:
    path = tmp_path / "flux.db"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(Unavailable, match=r"not a database"):
        await opened(path)
    assert path.read_bytes() == b"not a database at all" * 100


@pytest.mark.parametrize("name", ["occupied/flux.db", "directory"])
async def test_a_path_that_cannot_be_used_is_refused(opened, tmp_path, name) -> None:
    (tmp_path / "occupied").write_text("a file")
    (tmp_path / "directory").mkdir()
    with pytest.raises(Unavailable, match=r"cannot be used \(store\.path\)"):
        await opened(tmp_path / name)


async def test_a_table_that_was_altered_is_noticed(opened) -> None:
    store = await opened()
    await store.stop()
    with closing(sqlite3.connect(store.path)) as db:
        db.execute("DROP INDEX messages_by_cid")
    with pytest.raises(Unavailable, match="messages_by_cid"):
        await opened()
    with closing(sqlite3.connect(store.path)) as db:
        db.execute("CREATE UNIQUE INDEX messages_by_cid ON messages (cid, sender, chat) WHERE cid <> ''")
        db.execute("CREATE INDEX of_an_admin ON messages (at)")
    await opened()


async def test_the_log_stays_bounded_while_readers_take_turns(opened, monkeypatch) -> None:
    monkeypatch.setattr(schema, "LOG_PAGES", 50)
    monkeypatch.setattr(writer, "LOG_LIMIT", 1 << 20)
    store = await opened(connect=Faults(sync=False).connect)
    ann, bob = await people(store, "ann", "bob")
    [first] = await store.append([Draft(ann, bob, 0, "x")])
    sizes = []

    async def write() -> None:
        for _ in range(60):
            await store.append([Draft(ann, bob, 0, "x" * 8000) for n in range(20)])
            sizes.append(os.stat(f"{store.path}-wal").st_size)

    async def read() -> None:
        while len(sizes) < 60:
            await store.history(ann, first.chat, 0, 0, 0, -1, 100)

    await together([write(), *(read() for _ in range(20))])
    assert max(sizes) < 2 << 20


def busy_timeouts(store: SqliteStore) -> set[int]:
    """Of its connections, in ms."""
    faults = store._connect.__self__  # type: ignore[attr-defined] - of a Faults, which made them
    return {timeout for each in faults.connections for [timeout] in each.execute("PRAGMA busy_timeout")}


async def test_a_log_that_another_program_reads_grows_until_it_has_gone(opened, monkeypatch) -> None:
    monkeypatch.setattr(writer, "LOG_LIMIT", 1 << 20)
    store = await opened(connect=Faults(sync=False).connect)
    ann, bob = await people(store, "ann", "bob")

    async def write(size: int) -> int:
        for _ in range(size // 500_000):
            await store.append([Draft(ann, bob, 0, "x" * 10_000) for _ in range(50)])
        return os.stat(f"{store.path}-wal").st_size

    with capturedLogs() as logged, closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM accounts").fetchall()
        grown = await write(3 << 20)
    assert grown > 3 << 20
    assert 1 <= sum("something reads an old state" in event["log_format"] for event in logged) <= 2
    assert busy_timeouts(store) == {5000}
    assert await write(9 << 20) < 2 * grown + (1 << 20)


def test_reads_wait_for_the_writer_and_it_does_not_wait_for_ever(monkeypatch) -> None:
    monkeypatch.setattr(quiet, "PATIENCE", 0.05)
    turns, was_read = quiet.Quiet(), Event()

    def read() -> None:
        with turns.reading():
            was_read.set()

    with ThreadPoolExecutor(1) as thread, turns.nobody_reads():
        thread.submit(read)
        assert not was_read.wait(0.05)
    assert was_read.is_set()
    with turns.reading(), turns.nobody_reads():
        pass


# --- the writer --------------------------------------------------------------


async def test_a_transaction_is_repeated_without_anybody_noticing(store) -> None:
    ann, bob = await people(store, "ann", "bob")
    [first] = await store.append([Draft(ann, bob, 0, "1", "a")])
    mark = (await store.changes(0)).mark
    group, number, outcomes, account, refused = await together(
        [
            store.group_create(ann, "g", "", False, False),
            store.open_session(ann),
            store.append([Draft(ann, bob, 0, "2", "b"), Draft(ann, bob, 0, "1", "a"), Draft(bob, ann, 0, "3", "c")]),
            store.create_account("cat", "cat", "h", "", ""),
            store.append([Draft(ann, ann, 0, "to oneself")]),
        ]
    )
    assert [(receipt.seq, receipt.duplicate) for receipt in outcomes] == [(2, False), (1, True), (3, False)]
    assert (number, account) == (1, 3)
    assert isinstance(refused[0], BadRequest)
    changes = await store.changes(mark)
    assert (changes.heads, changes.members, changes.sessions) == (((first.chat, 3),), ((group.chat, 1),), ((ann, 1),))


async def test_only_the_call_that_is_to_blame_fails(store) -> None:
    ann, bob = await people(store, "ann", "bob")

    def wrote_then_refused(writing: writer.Writer) -> None:
        writing.db.execute("DELETE FROM sessions")
        raise NotFound("after all")

    def bug(writing: writer.Writer) -> None:
        writing.db.execute("DELETE FROM sessions")
        raise ZeroDivisionError

    calls = [
        store.open_session(ann),
        store._write(wrote_then_refused),
        store.append([Draft(ann, bob, 0, "1")]),
        store._write(bug),
        store.open_session(ann),
    ]
    with pytest.raises(NotFound, match="after all"):
        await calls[1]
    with pytest.raises(ZeroDivisionError):
        await calls[3]
    assert [await calls[0], (await calls[2])[0].seq, await calls[4]] == [1, 1, 2]


async def test_strings_no_client_can_send_harm_nobody(store) -> None:
    ann, bob = await people(store, "ann", "bob")
    calls = [
        store.create_account("\ud800", "\ud800", "h", "", ""),
        store.set_profile(ann, "\udfff", None, None, None),
        store.search("\ud800", 5),
        store.open_session(ann),
        store.profile(bob),
    ]
    for call in calls[:3]:
        with pytest.raises(UnicodeEncodeError):
            await call
    assert (await calls[3], (await calls[4]).name) == (1, "bob")
    [receipt] = await store.append([Draft(ann, bob, 0, "a\0b", "\0")])
    assert (await store.fill(bob, receipt.chat, 0, 5))[0].text == "a\0b"
    assert await people(store, "cat") == [3]


async def test_time_does_not_go_back_within_a_chat(opened) -> None:
    clock = iter([5.0, 3.0, 3.0, 7.0, 1.0])
    store = await opened(now=lambda: next(clock))
    ann, bob, cat = await people(store, "ann", "bob", "cat")
    times = [(await store.append([Draft(ann, to, 0, "x")]))[0].at for to in (bob, bob, cat, bob, bob)]
    assert times == [5000, 5000, 3000, 7000, 7000]


async def test_chats_that_were_forgotten_are_read_again(opened) -> None:
    store = await opened(chats_bound=6)
    ids = await people(store, *(f"user{n}" for n in range(12)))
    groups = [await group_of(store, uid, *ids[:5]) for uid in ids[5:]]
    heads = dict.fromkeys(groups, 0)
    for turn in range(6):
        drafts = [Draft(ids[turn % 5], 0, group, "x") for group in groups for _ in range(2)]
        drafts += [Draft(one, other, 0, f"{turn}") for one in ids for other in ids if one != other]
        outcomes = await store.append(drafts)
        for draft, receipt in zip(drafts, outcomes, strict=True):
            if draft.group:
                heads[draft.group] += 1
                assert receipt.seq == heads[draft.group]
    assert {(await store.membership(chat)).head for chat in groups} == {12}


async def test_a_group_larger_than_the_memory_for_chats(opened) -> None:
    store = await opened(chats_bound=3)
    ids = await people(store, *(f"user{n}" for n in range(10)))
    group = await group_of(store, *ids)
    receipts = await store.append([Draft(uid, 0, group, "x") for uid in ids])
    assert [receipt.seq for receipt in receipts] == list(range(1, 11))


async def test_what_was_read_in_a_failed_transaction_is_forgotten(opened) -> None:
    faults = Faults(only="COMMIT")
    store = await opened(connect=faults.connect)
    ann, bob, cat = await people(store, "ann", "bob", "cat")
    group = await group_of(store, ann)
    await store.append([Draft(bob, ann, 0, "before")])
    faults.arm(1)
    calls = [
        store.block(ann, bob),
        store.group_join(cat, group),
        store.append([Draft(bob, ann, 0, "x"), Draft(ann, cat, 0, "x"), Draft(cat, 0, group, "x")]),
    ]
    for call in calls:
        with pytest.raises(Unavailable):
            await call
    faults.arm(0)
    outcomes = await store.append([Draft(bob, ann, 0, "x"), Draft(cat, 0, group, "x"), Draft(ann, cat, 0, "x")])
    assert [outcomes[0].seq, type(outcomes[1]), outcomes[2].seq] == [2, Forbidden, 1]


async def test_old_changes_are_forgotten_and_then_nothing_is_claimed(opened) -> None:
    store = await opened(changes_bound=10)
    ids = await people(store, *(f"user{n}" for n in range(20)))
    start = (await store.changes(0)).mark
    for uid in ids[:10]:
        await store.open_session(uid)
    whole = await store.changes(start)
    assert (whole.complete, dict(whole.sessions)) == (True, dict.fromkeys(ids[:10], 1))
    await store.open_session(ids[10])
    assert not (await store.changes(start)).complete
    await store.open_session(ids[0])
    since = await store.changes(whole.mark)
    assert (since.complete, since.sessions) == (True, ((ids[0], 2), (ids[10], 1)))


async def test_reading_goes_on_while_something_is_written(store) -> None:
    ann, bob = await people(store, "ann", "bob")
    [first] = await store.append([Draft(ann, bob, 0, "1")])
    heads: list[int] = []

    async def read() -> None:
        position = 0
        while position < 500:
            for message in await store.fill(bob, first.chat, position, 50):
                assert message.seq == position + 1
                position = message.seq
            heads.append((await store.overview(bob)).cursors[0].head)

    async def write() -> None:
        for n in range(2, 501):
            await store.append([Draft(ann, bob, 0, f"{n}")])

    await together([read(), write(), read()])
    assert heads[-1] == 500


async def test_messages_are_found_in_both_parts_of_the_index(opened, monkeypatch) -> None:
    monkeypatch.setattr(runs, "MOVE_EVERY", 7)
    store = await opened()
    ann, bob, cat = await people(store, "ann", "bob", "cat")
    for n in range(1, 41):
        [receipt, _] = await store.append([Draft(ann, bob, 0, f"{n}", f"{n}"), Draft(cat, bob, 0, f"{n}")])
        if n == 17:
            await store.advance([CursorMove(bob, 0, receipt.chat, 17, 11)])
        cursor = next(c for c in (await store.overview(bob)).cursors if c.peer == ann)
        assert (cursor.head, cursor.unread) == (n, n - 11 if n >= 17 else n)
        assert [c.last.seq for c in await store.conversations(bob, 5)] == [n, n]

    def seqs(messages: tuple[Message, ...]) -> list[int]:
        assert [message.text for message in messages] == [f"{message.seq}" for message in messages]
        return [message.seq for message in messages]

    chat = receipt.chat
    for low in range(41):
        assert seqs(await store.fill(bob, chat, low, 10)) == list(range(low + 1, min(low + 10, 40) + 1))
        page = await store.history(bob, chat, 0, 0, low, -1, 10)
        assert seqs(page.messages) == (list(range(max(low - 10, 1), low)) if low else list(range(31, 41)))
    with closing(sqlite3.connect(store.path)) as db:
        assert 0 < db.execute("SELECT count(*) FROM recent_runs").fetchone()[0] < 14
    again = await store.append([Draft(ann, bob, 0, f"{n}", f"{n}") for n in range(1, 41)])
    assert [(receipt.seq, receipt.duplicate) for receipt in again] == [(n, True) for n in range(1, 41)]


# --- the statements ----------------------------------------------------------

TABLES = (
    "accounts bans sessions boots friends friend_requests blocks removals chats groups members messages runs"
    " a b c f g l m p r u"
)
WHOLE = re.compile(rf"SCAN ({TABLES.replace(' ', '|')})\b")
"""Reading a whole table, or a whole index of it, under its name or a name that a statement gives it."""


@pytest.mark.prunes
async def test_no_statement_reads_a_whole_table(opened) -> None:
    faults = Faults()
    store = await opened(connect=faults.connect)
    faults.seen.clear()
    called = set()

    class Called:
        def __getattr__(self, name: str) -> Any:
            called.add(name)
            return getattr(store, name)

    calls: Any = Called()
    await calls.next_boot("a")
    ann, bob, cat = [await calls.create_account(name, name, "h", "", "") for name in ("ann", "bob", "cat")]
    await calls.credentials(ann, "")
    await calls.credentials(0, "ann")
    await calls.credentials(0, "", "ann@example.org")
    await calls.set_password(ann, "h")
    await calls.set_email(ann, "ann@example.org", "ann@example.org")
    for taken in ("ann", "dan"):
        with pytest.raises(UserExists):
            await calls.create_account(taken, taken, "h", "", "", "", "ann@example.org")
    await calls.profile(ann)
    await calls.set_profile(ann, None, None, None, None)
    await calls.search("a", 5)
    await calls.ban(Ban(ann, "", "", 1, 0))
    await calls.ban(Ban(0, "10.0.0.0/8", "", 1, 0))
    await calls.unban(ann, "")
    await calls.network_bans()
    await calls.bans(5)
    await calls.open_session(ann)
    await calls.friend_add(ann, bob, "", "", True)
    await calls.friend_add(ann, bob, "", "", True)
    await calls.friend_answer(bob, ann, True, "")
    await calls.friend_add(ann, bob, "", "again", True)
    await calls.friend_add(cat, bob, "", "", True)
    await calls.friend_answer(bob, cat, False, "")
    await calls.friends(ann)
    await calls.friend_requests(ann)
    await calls.friend_remove(ann, bob)
    await calls.block(ann, cat)
    await calls.unblock(ann, cat)
    group = (await calls.group_create(ann, "g", "", False, False)).group
    await calls.group_join(bob, group)
    await calls.group_join(bob, group)
    await calls.group_add(ann, group, cat)
    await calls.group_role(ann, group, bob, "owner")
    await calls.groups(ann)
    await calls.members(ann, group)
    await calls.membership(group)
    await calls.group_remove(bob, group, cat)
    await calls.group_leave(ann, group)
    await calls.group_leave(bob, group)
    drafts = [Draft(ann, bob, 0, "x", "k"), Draft(ann, bob, 0, "y", "l"), Draft(ann, 0, group, "x", "k")]
    for _ in range(2):
        [receipt, *_] = await calls.append(drafts)
    await calls.append([Draft(ann, bob, 0, f"{n}") for n in range(runs.MOVE_EVERY)])
    for before, after in ((0, -1), (5, -1), (0, 1)):
        await calls.history(ann, receipt.chat, 0, 0, before, after, 5)
        await calls.history(ann, 0, bob, 0, before, after, 5)
    await calls.fill(bob, receipt.chat, 0, 5)
    await calls.conversations(ann, 5)
    await calls.advance([CursorMove(ann, 1, receipt.chat, 1, 1)])
    await calls.overview(ann)
    await calls.changes(0)
    await calls.return_session(bob, await calls.open_session(bob))
    number = await calls.open_session(bob)
    await calls.advance([CursorMove(ann, 2, receipt.chat, 2, 0), CursorMove(bob, number, receipt.chat, 2, 0)])
    assert await calls.prune(2**62, 1) == 2
    assert called == set(IStore.names()) - {"start", "stop", "past"}

    statements = {
        s: values for s, values in faults.seen.items() if s.startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "\n"))
    }
    assert len(statements) > 60
    with closing(sqlite3.connect(store.path)) as db:
        plans = {
            statement: [step for *_, step in db.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
            for statement, values in statements.items()
        }
    assert {statement: plan for statement, plan in plans.items() if any(map(WHOLE.match, plan))} == {}
