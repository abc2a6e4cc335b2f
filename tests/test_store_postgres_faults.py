"""The PostgreSQL store when connections and servers die, nothing answers, or the server cannot do it."""

from __future__ import annotations

import errno
import gc
import os
import random
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import psycopg2
import pytest
import pytest_twisted
from postgres_database import Database, remember, settled
from store_contract_messages import send
from store_contract_people import people, together
from store_invariants import check_dsn
from test_store_faults import a_day, insist
from twisted.internet.task import deferLater

from flux.backends.postgres import PostgresStore, channel, connection, pool
from flux.backends.postgres.connection import Run
from flux.bench.engines import PostgresServer
from flux.bench.links import Link
from flux.errors import FluxError, Unavailable, in_words
from flux.model.chats import CursorMove
from flux.model.messages import Draft


@pytest.fixture(scope="module")
def migrated(quick_postgres: PostgresServer) -> Iterator[Database]:
    database = Database(quick_postgres.create_database("faults"))
    database.migrate()
    yield database
    database.close()


@pytest_twisted.async_yield_fixture
async def opened(migrated):
    """Makes started stores on an empty database, and stops them afterwards."""
    from twisted.internet import reactor

    migrated.empty()
    stores = []

    async def opened(**options: Any) -> PostgresStore:
        options = {"pool": 2, "dsn": migrated.dsn} | options
        store = PostgresStore(options.pop("dsn"), reactor, require_fsync=False, **options)
        await store.start()
        stores.append(store)
        return store

    yield opened
    for store in stores:
        await store.stop()
    migrated.check()


class Argument:
    """What a call is about."""


async def sleeping(run: Run, seconds: float, about: object = None) -> None:
    await run("SELECT pg_sleep(%s)::text", (seconds,))


async def turns(seconds: float = 0.0) -> None:
    from twisted.internet import reactor

    await deferLater(reactor, seconds)  # type: ignore[arg-type]


ATTACHED = (
    "SELECT pid FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'flux'"
)
TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'flux'"
)


# --- connections that die ---


async def test_backends_are_killed_again_and_again_under_calls(migrated, opened) -> None:
    store = await opened(pool=3)
    ann, bob, cat = await people(store, "ann", "bob", "cat")
    luck = random.Random(3)
    receipts: dict[tuple[int, int], str] = {}
    lost = 0
    for number in range(150):
        drafts = [Draft(ann, to, 0, f"{number}-{to}", f"{number}-{to}") for to in (bob, cat)]
        calls: list[Any] = [store.append(drafts), store.overview(bob), store.open_session(cat)]
        if luck.random() < 0.2:
            migrated.query(TERMINATE + (" AND random() < 0.6" if luck.random() < 0.7 else ""))
        outcomes = await together([_outcome(call) for call in calls])
        while isinstance(outcomes[0], Unavailable):
            lost += 1
            assert in_words(outcomes[0]).startswith("store.dsn: ")
            await turns(0.02)
            outcomes[0] = await _outcome(store.append(drafts))
        for draft, receipt in zip(drafts, outcomes[0], strict=True):
            assert receipts.setdefault((receipt.chat, receipt.seq), draft.text) == draft.text
    assert lost
    assert {(c, s): t for c, s, t in migrated.query("SELECT chat, seq, text FROM messages")} == receipts


@pytest.mark.parametrize("known", [True, False])
async def test_what_was_given_up_is_not_done_when_it_arrives(
    migrated, opened, quick_postgres: PostgresServer, known: bool
) -> None:
    """A network that swallows, and delivers after whoever waited was told that it failed."""
    from twisted.internet import reactor

    link = Link(reactor, quick_postgres.port)
    await link.open()
    elsewhere = await opened()
    before = migrated.query(ATTACHED)
    store = await opened(dsn=quick_postgres.dsn_of("faults", link.port), deadline=1.0)
    ann, bob = await people(store, "ann", "bob")
    if known:
        await send(store, Draft(ann, bob, 0, "first"))
    number = await store.open_session(ann)
    behind = {*migrated.query(ATTACHED)} - {*before}
    assert len(behind) == 2
    await link.swallow()
    calls = [store.open_session(ann), store.append([Draft(ann, bob, 0, "given up", "cid")])]
    assert all(isinstance(outcome, Unavailable) for outcome in await together([_outcome(call) for call in calls]))
    assert await elsewhere.open_session(ann) == number + 1
    await link.open()
    while behind & {*migrated.query(ATTACHED)}:
        await turns(0.01)
    assert (await elsewhere.overview(ann)).session == number + 1
    [receipt] = await send(elsewhere, Draft(ann, bob, 0, "second"))
    assert receipt.seq == 1 + known
    await link.cut()


async def test_a_database_whose_clock_is_set_goes_on(opened) -> None:
    store = await opened(pool=1)
    ann, bob = await people(store, "ann", "bob")
    await send(store, Draft(ann, bob, 0, "1"))
    [link] = store._pool._links
    link._ahead -= 3600
    refused = await _outcome(store.append([Draft(ann, bob, 0, "2")]))
    assert in_words(refused) == "store.dsn: the connection to the database was lost"
    [receipt] = await send_insisting(store, Draft(ann, bob, 0, "2"))
    assert receipt.seq == 2


async def _outcome(call: Any) -> Any:
    try:
        return await call
    except FluxError as error:
        return error


async def test_an_idle_store_notices_that_its_connections_were_closed(migrated, opened) -> None:
    store = await opened()
    migrated.query(TERMINATE)
    while not isinstance(await _outcome(store.next_boot("a")), Unavailable):
        await turns()
    while isinstance(await _outcome(store.next_boot("a")), Unavailable):
        await turns(0.01)
    assert await store.next_boot("a") > 1


async def test_calls_fail_at_once_while_there_is_no_connection(migrated, opened) -> None:
    store = await opened()
    waiting = [store.next_boot("a") for _ in range(50)]
    for link in tuple(store._pool._links):
        link.abandon("cut")
    # Those that wait, those that run, and those to come.
    outcomes = await together(map(_outcome, waiting))
    assert {type(outcome) for outcome in outcomes} <= {Unavailable}
    late = store.next_boot("a")
    assert settled(late)
    assert isinstance(await _outcome(late), Unavailable)


async def test_a_connection_for_which_there_is_no_file_is_tried_again(
    migrated, opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened()
    monkeypatch.setattr(pool, "PAUSES", (0.002, 0.01))
    refused = 0
    real = os.dup

    def dup(number: int) -> int:
        nonlocal refused
        refused += 1
        if refused < 5:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(number)

    monkeypatch.setattr(channel.os, "dup", dup)
    for link in tuple(store._pool._links):
        link.abandon("cut")
    while len(store._pool._links) < 2:
        await turns(0.001)
    assert refused == 6
    assert await store.next_boot("a") > 0


async def test_a_call_that_has_ended_keeps_nothing_though_an_earlier_one_still_runs(opened) -> None:
    """Thousands end within the deadline of one, and each may have been about megabytes."""
    store = await opened()
    slow = store._pool.call(sleeping, 0.3)
    quick = [store._pool.call_in_order(partial(frozenset, [each]), sleeping, 0, Argument()) for each in range(20)]
    kept = [weakref.ref(each) for each in gc.get_objects() if isinstance(each, Argument)]
    assert len(kept) == 20
    await together(quick)
    del quick
    # Out of the last one's callback.
    await turns()
    gc.collect()
    assert not slow.called
    assert len(store._pool._deadlines) > 20
    assert [each for each in kept if each() is not None] == []
    await slow


async def test_too_many_calls_are_refused_at_once(opened) -> None:
    store = await opened(bound=20)
    calls = [store.next_boot("a") for _ in range(30)]
    assert [settled(call) for call in calls] == [False] * 20 + [True] * 10
    outcomes = await together(map(_outcome, calls))
    assert sorted(outcomes[:20]) == list(range(1, 21))
    assert all("overloaded" in outcome.detail for outcome in outcomes[20:])


# --- deadlines ---


async def test_a_deadline_closes_the_connection_and_the_store_goes_on(migrated, opened) -> None:
    store = await opened(deadline=0.3)
    ann, bob, cat = await people(store, "ann", "bob", "cat")
    await send(store, Draft(ann, bob, 0, "1", "a"))
    holder = psycopg2.connect(migrated.dsn)
    with holder.cursor() as cursor:
        cursor.execute("SELECT FROM chats FOR NO KEY UPDATE")
    for _ in range(3):
        late = await _outcome(store.append([Draft(ann, bob, 0, "2", "b")]))
        assert isinstance(late, Unavailable)
        # The others go on, on the other connection or on a new one.
        assert (await insist(lambda: store.append([Draft(cat, ann, 0, "x")])))[0].seq >= 1
        await turns(0.2)
    holder.commit()
    holder.close()
    # Whether the late ones were done was not known; it is one message now.
    while isinstance(outcome := await _outcome(store.append([Draft(ann, bob, 0, "2", "b")])), Unavailable):
        await turns(0.05)
    assert outcome[0].seq == 2
    assert await migrated.eventually("SELECT count(*) FROM messages WHERE cid = 'b'", 1)


async def test_what_waits_for_a_connection_too_long_fails_too(migrated, opened) -> None:
    store = await opened(pool=1, deadline=0.3)
    ann, bob = await people(store, "ann", "bob")
    await send(store, Draft(ann, bob, 0, "1"))
    holder = psycopg2.connect(migrated.dsn)
    with holder.cursor() as cursor:
        cursor.execute("SELECT FROM chats FOR NO KEY UPDATE")
    running = store.append([Draft(ann, bob, 0, "2")])
    await migrated.until_somebody_waits()
    waiting = [store.profile(ann), store.overview(ann), store.append([Draft(bob, ann, 0, "3")])]
    outcomes = await together(map(_outcome, [running, *waiting]))
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 4
    holder.rollback()
    holder.close()


async def test_a_login_that_the_database_does_not_answer_fails_too(migrated, opened) -> None:
    """What it asks for is gathered with what others ask for."""
    store = await opened(pool=3, deadline=0.3)
    [ann] = await people(store, "ann")
    holder = psycopg2.connect(migrated.dsn)
    with holder.cursor() as cursor:
        cursor.execute("LOCK TABLE accounts, sessions")
    outcomes = await together(map(_outcome, [store.open_session(ann), store.overview(ann)]))
    why = "the database did not answer within 0.3 s"
    assert [(str(outcome), in_words(outcome)) for outcome in outcomes] == [
        (f"unavailable: {why}", f"store.dsn: {why}")
    ] * 2
    holder.rollback()
    holder.close()
    assert await insist(lambda: store.open_session(ann)) >= 1


async def test_a_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from twisted.internet import reactor
    from twisted.internet.protocol import Factory, Protocol

    monkeypatch.setattr(connection, "CONNECT_WITHIN", 0.2)
    port = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")  # type: ignore[attr-defined]
    number = port.getHost().port
    store = PostgresStore(f"postgresql://flux:secret@127.0.0.1:{number}/flux", reactor)
    with pytest.raises(Unavailable, match=rf"store\.dsn: 127\.0\.0\.1:{number}: no answer within 0\.2 s"):
        await store.start()
    await port.stopListening()


# --- what the server cannot do ---


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("53100", "disk is full"),
        ("53300", "no connection to spare"),
        ("53200", "out of memory"),
        ("25006", "read-only: a standby, or set to be"),
        ("58030", "disk has failed"),
        ("57014", "cancelled"),
    ],
)
async def test_a_message_that_cannot_be_stored_is_unavailable_and_not_lost(
    migrated, opened, code: str, sentence: str
) -> None:
    store = await opened()
    ann, bob = await people(store, "ann", "bob")
    await send(store, Draft(ann, bob, 0, "1"))
    migrated.query(
        f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END $$;"
        " CREATE TRIGGER fail BEFORE INSERT ON messages EXECUTE FUNCTION fail()"
    )
    try:
        for draft in (Draft(ann, bob, 0, "2", "k"), Draft(bob, ann, 0, "3")):
            with pytest.raises(Unavailable, match=sentence) as raised:
                await store.append([draft])
            # Clients read the one, admins the other.
            assert "store." not in raised.value.detail
            assert in_words(raised.value).startswith(f"store.dsn: no ({code})")
            for _ in range(2):
                with pytest.raises(Unavailable, match=sentence):
                    await store.advance([])
        assert [message.text for message in (await store.history(bob, 0, ann, 0, 0, -1, 9)).messages] == ["1"]
    finally:
        migrated.query("DROP TRIGGER fail ON messages; DROP FUNCTION fail")
    await store.advance([])
    assert [receipt.seq for receipt in await store.append([Draft(ann, bob, 0, "2", "k")])] == [2]


async def test_messages_that_a_role_may_not_store_any_more_are_tried_until_it_may(
    migrated, opened, quick_postgres: PostgresServer
) -> None:
    migrated.query(
        "DROP ROLE IF EXISTS sender; CREATE ROLE sender LOGIN PASSWORD 'sender-word';"
        " GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO sender"
    )
    store = await opened(dsn=f"postgresql://sender:sender-word@127.0.0.1:{quick_postgres.port}/faults")
    ann, bob = await people(store, "ann", "bob")
    await send(store, Draft(ann, bob, 0, "1"))
    for table, right in (("messages", "INSERT"), ("moves", "INSERT"), ("chats", "UPDATE")):
        migrated.query(f"REVOKE {right} ON {table} FROM sender")
        # Nobody has noticed, and who asks costs the database nothing.
        await store.advance([])
        with pytest.raises(Unavailable, match="its role may not do this"):
            await store.append([Draft(ann, bob, 0, "2")])
        for _ in range(2):
            with pytest.raises(Unavailable, match="its role may not do this"):
                await store.advance([])
        migrated.query(f"GRANT {right} ON {table} TO sender")
        await store.advance([])
    # It leaves nothing behind.
    assert migrated.query("SELECT chat, seq FROM messages") == [(1, 1)]
    assert migrated.query("SELECT FROM moves WHERE heads = '{}'") == []
    await send(store, Draft(ann, bob, 0, "2"))
    await store.stop()
    migrated.query("DROP OWNED BY sender; DROP ROLE sender")


async def test_a_connection_that_is_lost_under_a_message_says_nothing_of_the_next_one(migrated, opened) -> None:
    store = await opened()
    ann, bob = await people(store, "ann", "bob")
    migrated.query(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '57P01'; END $$;"
        " CREATE TRIGGER fail BEFORE INSERT ON messages EXECUTE FUNCTION fail()"
    )
    try:
        with pytest.raises(Unavailable, match="the connection to the database was lost"):
            await store.append([Draft(ann, bob, 0, "1")])
        await store.advance([])
    finally:
        migrated.query("DROP TRIGGER fail ON messages; DROP FUNCTION fail")


async def test_a_deadlock_with_somebody_else_is_not_the_callers_problem(migrated, opened) -> None:
    store = await opened()
    ann, bob, cat = await people(store, "ann", "bob", "cat")
    first, second = await send(store, Draft(ann, bob, 0, "1"), Draft(ann, cat, 0, "1"))
    other = psycopg2.connect(migrated.dsn)
    with other.cursor() as cursor:
        cursor.execute("SET deadlock_timeout = '10s'")
        cursor.execute("SELECT FROM chats WHERE id = %s FOR NO KEY UPDATE", (second.chat,))
        waiting = store.append([Draft(ann, bob, 0, "2"), Draft(ann, cat, 0, "2")])
        await migrated.until_somebody_waits()
        # In the wrong order: the server breaks the store's statement off.
        cursor.execute("SELECT FROM chats WHERE id = %s FOR NO KEY UPDATE", (first.chat,))
    other.commit()
    other.close()
    assert [receipt.seq for receipt in await waiting] == [2, 2]


# --- every statement fails once ---


class Fault:
    """Fails the n-th statement: before it is sent, or after it was done, and with it the connection."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
        self.left = 0
        self.hit = False
        original = connection.Link._run

        async def run(link: Any, statement: str, values: Any) -> Any:
            self.left -= 1
            if self.left != 0:
                return await original(link, statement, values)
            self.hit = True
            if after:
                await original(link, statement, values)
            link.abandon("cut")
            raise Unavailable("the connection to the database was lost")

        monkeypatch.setattr(connection.Link, "_run", run)


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_each_statement_fails_once(migrated, opened, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
    store = await opened()
    monkeypatch.setattr(pool, "PAUSES", (0.002, 0.1))
    fault = Fault(monkeypatch, after)
    number = 0
    while True:
        number += 1
        migrated.empty()
        store._pairs.young.clear()
        while len(store._pool._links) < 2:
            await turns(0.005)
        fault.hit, fault.left = False, number
        await a_day(store)
        fault.left = 0
        migrated.check()
        if not fault.hit:
            break
    assert number > 20


# --- servers that die ---


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server to kill."""
    with PostgresServer(tmp_path_factory.mktemp("mortal-postgres"), {"fsync": "off"}) as server:
        yield server


@asynccontextmanager
async def started_on(server: PostgresServer, name: str, **options: Any) -> AsyncIterator[PostgresStore]:
    """A store in a database of its own, which is whole in the end."""
    from twisted.internet import reactor

    dsn = server.create_database(name)
    store = PostgresStore(dsn, reactor, require_fsync=False, **options)
    await store.start()
    try:
        yield store
    finally:
        await store.stop()
    check_dsn(dsn)


@pytest.mark.slow
async def test_a_server_is_killed_and_started_again_under_calls(mortal: PostgresServer) -> None:
    async with started_on(mortal, "killed") as store:
        ann, bob = await people(store, "ann", "bob")
        mark = (await store.changes(0)).mark
        receipts: dict[int, str] = {}
        for round_ in range(3):
            failures = 0
            for number in range(60):
                draft = Draft(ann, bob, 0, f"{round_}-{number}", f"{round_}-{number}")
                if number == 20:
                    call = store.append([draft])
                    mortal.kill()
                    outcomes = [await _outcome(call)]
                    # Its backends outlive the postmaster by a moment, and may do what has reached them.
                    while not isinstance(outcomes[-1], Unavailable):
                        outcomes.append(await _outcome(store.append([draft])))
                    outcomes += [await _outcome(store.append([draft])) for _ in range(20)]
                    for outcome in outcomes:
                        if not isinstance(outcome, Unavailable):
                            assert receipts.setdefault(outcome[0].seq, draft.text) == draft.text
                    assert isinstance(outcomes[-1], Unavailable)
                    mortal.start()
                while isinstance(outcome := await _outcome(store.append([draft])), Unavailable):
                    failures += 1
                    await turns(0.02)
                [receipt] = outcome
                assert receipts.setdefault(receipt.seq, draft.text) == draft.text
            assert failures
        page = await store.history(bob, 0, ann, 0, 0, 0, 1000)
        assert {message.seq: message.text for message in page.messages} == receipts
        # It is the same database, with everything that it acknowledged: what it says of the time before is true.
        assert (await store.changes(mark)).complete


@pytest.mark.slow
async def test_a_database_that_was_restored_is_recognised(mortal: PostgresServer) -> None:
    async with started_on(mortal, "restored", pool=2) as store:
        ann, bob = await people(store, "ann", "bob")
        await send(store, Draft(ann, bob, 0, "1"))
        go_back = remember(mortal)
        await send_insisting(store, Draft(ann, bob, 0, "2"), Draft(ann, bob, 0, "3"))
        mark = (await store.changes(0)).mark
        go_back()
        past = store.past
        [receipt] = await send_insisting(store, Draft(bob, ann, 0, "new 2"))
        assert receipt.seq == 2
        # Who never asks what moved, as a gate, goes on.
        await store.advance([])
        move = CursorMove(ann, 1, receipt.chat, 1, 1)
        with pytest.raises(Unavailable, match="earlier state"):
            await store.advance([move])
        assert store.past == ""
        found = await store.changes(mark)
        assert (found.complete, found.reset) == (False, True)
        assert past
        assert store.past
        await store.advance([move])
        again = await store.changes(found.mark)
        assert (again.complete, again.reset) == (True, False)


async def send_insisting(store: PostgresStore, *drafts: Draft) -> list[Any]:
    while isinstance(outcome := await _outcome(store.append(drafts)), Unavailable):
        await turns(0.02)
    return outcome


async def test_another_database_under_the_same_name_is_recognised(quick_postgres: PostgresServer) -> None:
    """As after a dump was restored."""
    async with started_on(quick_postgres, "replaced", pool=1) as store:
        ann, bob = await people(store, "ann", "bob")
        await send(store, Draft(ann, bob, 0, "1"))
        mark = (await store.changes(0)).mark
        admin = Database(quick_postgres.dsn)
        admin.query("DROP DATABASE replaced WITH (FORCE)")
        replacement = Database(quick_postgres.create_database("replaced"))
        replacement.migrate()
        replacement.close()
        admin.close()
        while isinstance(outcome := await _outcome(store.changes(mark)), Unavailable):
            await turns(0.02)
        assert outcome.reset
        # The chat that was known is not there any more.
        ann, bob = await people(store, "bob", "ann")
        assert [receipt.seq for receipt in await send(store, Draft(bob, ann, 0, "1"))] == [1]
