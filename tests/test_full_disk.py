"""A chat server whose database can store nothing for a while: clients are told, and no message is lost or doubled."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_twisted
from chat_server import ChatServer, PostgresChatServer
from postgres_database import Database
from store_faults import Faults
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from flux.backends.sqlite import SqliteStore
from flux.bench.engines import PostgresServer

numbers = itertools.count()


class SqliteDisk:
    """An SQLite file that may have no more pages."""

    says = "database or disk is full"

    def __init__(self, folder: Path) -> None:
        self._faults = Faults()
        self.server = ChatServer(folder)
        ticks = itertools.count(1_000_000)
        self.server.store = SqliteStore(
            folder / "flux.db", self.server.reactor, now=lambda: next(ticks) / 1000, connect=self._faults.connect
        )

    def fill(self) -> None:
        self._limit("1")  # what the file has is the least

    def make_room(self) -> None:
        self._limit("1000000")

    def _limit(self, pages: str) -> None:
        self._faults.connections[0].execute(f"PRAGMA max_page_count = {pages}").fetchall()

    def close(self) -> None:
        pass


class PostgresDisk:
    """A PostgreSQL database in which no message can be inserted, as its server says it when its disk is full."""

    says = (
        "store.dsn: the database could not do it: its disk is full: could not extend file (53100);"
        " make room on the disk of the database; flux goes on by itself"
    )

    def __init__(self, folder: Path, postgres: PostgresServer) -> None:
        self._database = Database(postgres.create_database(f"disk_{next(numbers)}"))
        self.server = PostgresChatServer(folder, self._database.dsn)

    def fill(self) -> None:
        self._database.query(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$;"
            " CREATE TRIGGER fail BEFORE INSERT ON messages EXECUTE FUNCTION fail()"
        )

    def make_room(self) -> None:
        self._database.query("DROP TRIGGER fail ON messages; DROP FUNCTION fail")

    def close(self) -> None:
        self._database.close()


@pytest_twisted.async_yield_fixture(params=["sqlite", "postgres"])
async def disk(request: Any, tmp_path: Path) -> AsyncIterator[Any]:
    if request.param == "sqlite":
        disk: Any = SqliteDisk(tmp_path)
    else:
        disk = PostgresDisk(tmp_path, request.getfixturevalue("quick_postgres"))
    await disk.server.start()
    yield disk
    await disk.server.stop()
    disk.close()


async def test_a_message_that_finds_the_disk_full_is_sent_again_and_shown_once(disk: Any) -> None:
    ann, bob = await disk.server.people("ann", "bob", acks=True)
    # As long as a page, so that it needs one of its own.
    texts = {cid: cid * 5000 for cid in "abc"}
    assert (await ann.ok("send", to=bob.id, text=texts["a"], cid="a"))["seq"] == 1
    warnings: list[str] = []

    def observe(event: LogEvent) -> None:
        if event["log_level"].name == "warn":
            warnings.append(formatEvent(event))

    disk.fill()
    globalLogPublisher.addObserver(observe)
    try:
        for cid in "bcb":
            refusal = await ann.fails("send", to=bob.id, text=texts[cid], cid=cid)
            assert refusal["name"] == "unavailable"
            # Nothing of where the database is.
            assert "store." not in refusal["detail"]
    finally:
        globalLogPublisher.removeObserver(observe)
        disk.make_room()
    assert any(disk.says in warning for warning in warnings), warnings
    # Nobody was shown what was not stored.
    assert [push["text"] for push in await bob.settled() if push["type"] == "message"] == [texts["a"]]
    for seq, cid in enumerate("bc", 2):
        for duplicate in (False, True):
            receipt = await ann.ok("send", to=bob.id, text=texts[cid], cid=cid)
            assert (receipt["seq"], receipt.get("duplicate", False)) == (seq, duplicate)
    shown = [push for push in await bob.settled() if push["type"] == "message"]
    assert [(push["seq"], push["text"]) for push in shown] == [(2, texts["b"]), (3, texts["c"])]
    # Who logs in anew finds the same.
    again = await disk.server.log_in("bob", acks=True)
    shown = [await again.told("message") for _ in range(3)]
    assert [(push["seq"], push["text"][0]) for push in shown] == [(1, "a"), (2, "b"), (3, "c")]
    assert [push for push in await again.settled() if push["type"] == "message"] == []
