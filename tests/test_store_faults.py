"""The SQLite store when statements fail, the disk is full, the process dies or somebody else has the file."""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from server_process import environment
from store_contract_people import people, together
from store_faults import Faults
from store_invariants import check_file, check_invariants
from twisted.logger import LogLevel, capturedLogs, formatEvent

from flux.backends.sqlite import SqliteStore
from flux.errors import FluxError, Unavailable
from flux.model.chats import CursorMove
from flux.model.messages import Draft, Receipt


def store_with(path: Path, **options: Any) -> SqliteStore:
    from twisted.internet import reactor

    return SqliteStore(path, reactor, **options)


@pytest_twisted.async_yield_fixture
async def opened(tmp_path):
    """Makes started stores, and checks and stops them afterwards."""
    stores = []

    async def opened(path: Path = tmp_path / "flux.db", **options: Any) -> SqliteStore:
        store = store_with(path, **options)
        await store.start()
        stores.append(store)
        return store

    yield opened
    for store in stores:
        check_invariants(store)
        await store.stop()


class Ledger:
    """What a store was told and what it answered, to be compared with what it holds."""

    def __init__(self) -> None:
        self.receipts: dict[tuple[int, int], str] = {}
        self.sent: dict[str, int] = defaultdict(int)

    async def send(self, store: SqliteStore, *drafts: Draft) -> None:
        """Send until it is acknowledged, always with the same cids."""
        for _ in range(3):
            try:
                outcomes = await store.append(drafts)
            except Unavailable:
                continue
            for draft, outcome in zip(drafts, outcomes, strict=True):
                assert isinstance(outcome, Receipt), outcome
                assert self.receipts.setdefault((outcome.chat, outcome.seq), draft.text) == draft.text
            return
        raise AssertionError("never acknowledged")

    async def compare(self, store: SqliteStore, uid: int) -> None:
        """Everything acknowledged is there, once."""
        for chat in {chat for chat, _ in self.receipts}:
            page = await insist(lambda chat=chat: store.history(uid, chat, 0, 0, 0, -1, 1000))
            stored = {(chat, message.seq): message.text for message in page.messages}
            assert stored == {key: text for key, text in self.receipts.items() if key[0] == chat}


async def insist(call: Any) -> Any:
    """The result of a call that may be unavailable once; other refusals are fine when it is repeated."""
    for attempt in range(3):
        try:
            return await call()
        except Unavailable:
            continue
        except FluxError:
            if attempt:
                return None
            raise
    raise AssertionError("never available")


async def a_day(store: SqliteStore) -> None:
    """A bit of everything, through any one failure."""
    ledger = Ledger()
    for name in ("ann", "bob", "cat"):
        await insist(lambda name=name: store.create_account(name, name, "h", "", ""))
    ann, bob, cat = [(await insist(lambda n=n: store.credentials(0, n))).id for n in ("ann", "bob", "cat")]
    start = (await insist(lambda: store.changes(0))).mark
    await ledger.send(store, Draft(ann, bob, 0, "1", "a"), Draft(ann, cat, 0, "1", "a"), Draft(bob, ann, 0, "2", "a"))
    await insist(lambda: store.friend_add(ann, bob, "", "", False))
    await insist(lambda: store.friend_answer(bob, ann, True, ""))
    await insist(lambda: store.block(cat, bob))
    group = (await insist(lambda: store.group_create(ann, "g", "", False, True))).group
    await insist(lambda: store.group_join(bob, group))
    await ledger.send(
        store, Draft(ann, 0, group, "1", "b"), Draft(ann, bob, 0, "3", "b"), Draft(bob, 0, group, "2", "b")
    )
    number = await insist(lambda: store.open_session(bob))
    overview = await insist(lambda: store.overview(bob))
    moves = [CursorMove(bob, number, cursor.chat, cursor.head, 1) for cursor in overview.cursors]
    await insist(lambda: store.advance(moves))
    await insist(lambda: store.group_remove(ann, group, bob))
    both = [Draft(bob, ann, 0, "4", "c"), Draft(ann, 0, group, "3", "c")]
    await together([ledger.send(store, draft) for draft in both])
    await ledger.send(store, *both)
    await insist(lambda: store.conversations(ann, 10))
    await ledger.compare(store, ann)
    changes = await insist(lambda: store.changes(start))
    if changes.complete:
        heads = {chat: max(seq for c, seq in ledger.receipts if c == chat) for chat, _ in ledger.receipts}
        assert dict(changes.heads) == heads
        assert dict(changes.sessions)[bob] >= number
    cursors = {cursor.chat: cursor for cursor in (await insist(lambda: store.overview(bob))).cursors}
    assert all(cursors[move.chat].received >= move.received for move in moves if move.chat in cursors)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_each_statement_fails_once(tmp_path, after) -> None:
    number = 0
    while True:
        number += 1
        path = tmp_path / f"{number}" / "flux.db"
        faults = Faults(after=after, sync=False)
        store = store_with(path, connect=faults.connect)
        await store.start()
        faults.arm(number)
        try:
            await a_day(store)
        finally:
            await store.stop()
        check_file(path)
        if not faults.hit:
            break
    assert number > 100


async def test_each_statement_of_the_start_fails_once(tmp_path) -> None:
    path = tmp_path / "flux.db"
    number, started = 0, False
    while not started:
        number += 1
        faults = Faults(number)
        store = store_with(path, connect=faults.connect)
        try:
            await store.start()
            started = True
        except Unavailable as error:
            refusal = str(error)
        await store.stop()
        assert started == (not faults.hit)
        assert started or str(path) in refusal
        assert all(map(_is_closed, faults.connections))
    assert number > 10
    check_file(path)


def _is_closed(connection: sqlite3.Connection) -> bool:
    try:
        connection.total_changes  # noqa: B018
    except sqlite3.ProgrammingError:
        return True
    return False


async def test_a_failed_commit_fails_all_of_its_calls_and_the_next_one_is_right(opened) -> None:
    faults = Faults(only="COMMIT")
    store = await opened(connect=faults.connect)
    ann, bob = await people(store, "ann", "bob")
    await store.append([Draft(ann, bob, 0, "1", "a")])
    mark = (await store.changes(0)).mark
    faults.arm(1)
    calls = [
        store.append([Draft(ann, bob, 0, "2", "b")]),
        store.open_session(ann),
        store.append([Draft(bob, ann, 0, "3")]),
    ]
    for call in calls:
        with pytest.raises(Unavailable, match="disk I/O error"):
            await call
    assert not (await store.changes(mark)).complete
    assert [r.seq for r in await store.append([Draft(ann, bob, 0, "2", "b"), Draft(bob, ann, 0, "3")])] == [2, 3]
    assert await store.open_session(ann) == 1


async def test_a_store_that_cannot_write_still_reads_and_recovers(opened) -> None:
    faults = Faults(only="BEGIN IMMEDIATE", lasting=True)
    store = await opened(connect=faults.connect)
    ann, bob = await people(store, "ann", "bob")
    await store.append([Draft(ann, bob, 0, "1")])
    faults.arm(1)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await store.append([Draft(ann, bob, 0, "2")])
        assert [message.text for message in (await store.history(bob, 0, ann, 0, 0, -1, 9)).messages] == ["1"]
        assert (await store.changes(0)).complete
    faults.arm(0)
    assert [receipt.seq for receipt in await store.append([Draft(ann, bob, 0, "2")])] == [2]


async def test_a_full_disk_is_unavailable_until_there_is_room(opened) -> None:
    faults = Faults()
    store = await opened(connect=faults.connect)
    ann, bob = await people(store, "ann", "bob")
    writing = faults.connections[0]
    await store.append([Draft(ann, bob, 0, "first", "0")])
    [[pages]] = writing.execute("PRAGMA page_count").fetchall()
    writing.execute(f"PRAGMA max_page_count = {pages + 20}").fetchall()
    sent, full = 0, None
    with capturedLogs() as captured:
        while full is None:
            try:
                await store.append([Draft(ann, bob, 0, "x" * 4000, f"{sent + 1}")])
                sent += 1
            except Unavailable as error:
                full = error
        assert sent > 5
        assert "full" in full.detail
        for _ in range(2):
            with pytest.raises(Unavailable):
                await store.append([Draft(ann, bob, 0, "y" * 200_000)])
            # Which is how it is seen whether the store works.
            with pytest.raises(Unavailable, match="full"):
                await store.advance([])
        assert (await store.history(bob, 0, ann, 0, 0, -1, 1)).messages[0].seq == sent + 1
        writing.execute("PRAGMA max_page_count = 1000000").fetchall()
        await store.advance([])
    told = [formatEvent(event) for event in captured if event["log_level"] > LogLevel.debug]
    assert [re.sub("after .* s$", "after a while", line) for line in told] == [
        f"nothing can be stored in {store.path} (store.path), and clients are told so: database or disk is full",
        "what clients send is stored again, after a while",
    ]
    receipts = await store.append([Draft(ann, bob, 0, "x" * 4000, f"{n}") for n in (sent, sent + 1)])
    assert [(receipt.seq, receipt.duplicate) for receipt in receipts] == [(sent + 1, True), (sent + 2, False)]


async def test_one_file_belongs_to_one_store(opened, tmp_path) -> None:
    store = await opened(tmp_path / "flux.db")
    for _ in range(2):
        with pytest.raises(Unavailable, match=rf"flux\.db is in use by process {os.getpid()} on .+store\.path"):
            await store_with(tmp_path / "flux.db").start()
    assert await store.next_boot("a") == 1


async def test_two_stores_on_two_files_do_not_disturb_each_other(opened, tmp_path) -> None:
    stores = [await opened(tmp_path / name / "flux.db") for name in "ab"]
    for store in stores:
        await people(store, "ann", "bob")
    sends = [store.append([Draft(1, 2, 0, f"{n}")]) for n in range(50) for store in stores]
    receipts = [receipt for [receipt] in await together(sends)]
    assert [receipt.seq for receipt in receipts] == [n for n in range(1, 51) for _ in stores]


def sending(path: Path, run: int) -> subprocess.Popen[str]:
    """A process that sends messages without end and prints those that were acknowledged."""
    return subprocess.Popen(
        [sys.executable, "-m", "store_process", path, f"{run}"],
        env=environment(),
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_second_process_is_refused_and_told_who_has_the_file(tmp_path) -> None:
    with sending(tmp_path / "flux.db", 1) as first:
        assert first.stdout.readline()
        with sending(tmp_path / "flux.db", 2) as second:
            output, errors = second.communicate(timeout=60)
        first.kill()
    assert (second.returncode, output) == (1, "")
    assert f"in use by process {first.pid}" in errors


def acknowledged_until_killed(path: Path, runs: int) -> dict[tuple[int, int], str]:
    acknowledged: dict[tuple[int, int], str] = {}
    luck = random.Random(1)
    for run in range(runs):
        with sending(path, run) as process:
            lines = [process.stdout.readline() for _ in range(luck.randrange(20, 300))]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout
        for line in lines:
            if line.endswith("\n"):
                chat, seq, text = line.split()
                assert acknowledged.setdefault((int(chat), int(seq)), text) == text
    return acknowledged


async def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path) -> None:
    path = tmp_path / "flux.db"
    acknowledged = acknowledged_until_killed(path, runs=4)
    check_file(path)
    stored = await messages_in(path, {chat for chat, _ in acknowledged})
    assert {key: stored.get(key) for key in acknowledged} == acknowledged


async def messages_in(path: Path, chats: set[int]) -> dict[tuple[int, int], str]:
    store = store_with(path)
    await store.start()
    stored = {}
    for chat in chats:
        after = 0
        while page := await store.fill(1, chat, after, 1000):
            stored |= {(chat, message.seq): message.text for message in page}
            after = page[-1].seq
    await store.stop()
    return stored
