"""The SQLite store against a model: random calls, several at a time, and after each step the same answers."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import pytest_twisted
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from store_contract_people import together
from store_faults import Faults
from store_invariants import check_invariants
from store_model import ModelStore
from twisted.internet.defer import Deferred

from flux.backends.sqlite import SqliteStore, runs
from flux.errors import FluxError
from flux.model.chats import CursorMove
from flux.model.messages import Draft
from flux.names import fold

NAMES = ["ann", "Bob", "cat", "DAN"]
# Small numbers, so that calls meet. Somebody who acts has an account; others may be anybody, or nobody.
actors = st.integers(1, len(NAMES))
others = st.integers(1, len(NAMES) + 1)
groups = st.sampled_from([1, 1, 1, 2, 2, 3, 4, 5, 6])
chats = st.one_of(groups, st.integers(1, 6))
remarks = st.sampled_from(["", "r", "s"])
limits = st.integers(1, 4)
EMAILS = ["a@example.org", "b@example.org"]
emails = st.sampled_from(["", *EMAILS])

drafts = st.builds(
    Draft,
    sender=actors,
    to=st.one_of(st.just(0), others),
    group=groups,
    text=st.sampled_from(["x", "x", "y"]),
    cid=st.sampled_from(["", "k", "l"]),
)
moves = st.builds(
    CursorMove,
    uid=actors,
    number=st.integers(0, 2),
    chat=chats,
    received=st.integers(-1, 9),
    read=st.integers(-1, 9),
)
sends = st.tuples(st.just("append"), st.lists(drafts, min_size=2, max_size=8))
writes = st.one_of(
    sends,
    st.tuples(st.just("advance"), st.lists(moves, min_size=1, max_size=4)),
    st.tuples(st.just("open_session"), actors),
    st.tuples(st.just("return_session"), actors, st.integers(1, 4)),
    st.builds(
        lambda name, email: ("create_account", name, fold(name), "h", "", email, "i", email),
        st.sampled_from([*NAMES, "eve", "fox"]),
        emails,
    ),
    st.builds(lambda uid, email: ("set_email", uid, email, email), others, st.sampled_from(EMAILS)),
    st.tuples(st.just("friend_add"), actors, others, remarks, remarks, st.booleans()),
    st.tuples(st.just("friend_answer"), actors, others, st.booleans(), remarks),
    st.tuples(st.just("friend_remove"), actors, others),
    st.tuples(st.just("block"), actors, others),
    st.tuples(st.just("unblock"), actors, others),
    st.tuples(st.just("group_create"), actors, st.just("g"), st.just("d"), st.booleans(), st.booleans()),
    st.tuples(st.just("group_join"), actors, groups),
    st.tuples(st.just("group_leave"), actors, groups),
    st.tuples(st.just("group_add"), actors, groups, others),
    st.tuples(st.just("group_remove"), actors, groups, others),
    st.tuples(st.just("group_role"), actors, groups, others, st.sampled_from(["owner", "admin", "member"])),
)
whichever = st.one_of(
    st.tuples(chats, st.just(0), st.just(0)),
    st.tuples(st.just(0), others, st.just(0)),
    st.tuples(st.just(0), st.just(0), chats),
)
reads = st.one_of(
    st.tuples(st.just("overview"), others),
    st.tuples(st.just("credentials"), st.just(0), st.sampled_from(["", "", "bob", "fox"]), emails),
    st.tuples(st.just("conversations"), actors, limits),
    st.tuples(st.just("membership"), chats),
    st.tuples(st.just("members"), actors, chats),
    st.tuples(st.just("fill"), actors, chats, st.integers(0, 12), limits),
    st.builds(
        lambda uid, which, *page: ("history", uid, *which, *page),
        actors,
        whichever,
        st.integers(0, 12),
        st.integers(-1, 12),
        limits,
    ),
)


def wait_for(coroutine: Any) -> Any:
    return pytest_twisted.blockon(Deferred.fromCoroutine(coroutine))


def plain(outcome: Any) -> Any:
    """An outcome for comparing: of an error only its kind."""
    if isinstance(outcome, FluxError):
        return type(outcome)
    return [plain(item) for item in outcome] if isinstance(outcome, list) else outcome


class StoreMachine(RuleBasedStateMachine):
    """The calls; subclasses know the store.

    :ivar model: what should be in it.
    :ivar prunes_all: it removes all old messages that have arrived, not only most.
    :ivar pruned: it has removed some.
    """

    prunes_all = True

    def __init__(self, model: ModelStore) -> None:
        super().__init__()
        self.model = model
        self.pruned = False
        self.store = self.open()
        self.mark = wait_for(self.outcome("changes", 0)).mark

    def open(self) -> Any:
        """A started store on what was stored before."""
        raise NotImplementedError

    def lowest(self) -> dict[int, int]:
        """The lowest message of each chat that is in the store."""
        raise NotImplementedError

    async def outcome(self, name: str, *arguments: Any) -> Any:
        try:
            return await getattr(self.store, name)(*arguments)
        except FluxError as error:
            return error

    def expected(self, name: str, *arguments: Any) -> Any:
        try:
            return getattr(self.model, name)(*arguments)
        except FluxError as error:
            return error

    @initialize()
    def people(self) -> None:
        self.write([("create_account", name, fold(name), "h", "", "") for name in NAMES])
        self.write([("group_create", 1, "g", "", False, False), ("group_create", 2, "h", "", False, True)])
        self.write([("group_join", uid, 1) for uid in (2, 3)])
        # So that what comes next finds something to meet.
        for sent in [(1, 2, 0), (2, 1, 0), (1, 0, 1), (2, 0, 1), (1, 2, 0), (3, 0, 1), (1, 3, 0), (2, 0, 2)]:
            self.write([("append", [Draft(*sent, text) for text in "xy"])], 1)

    @rule(calls=st.lists(writes, min_size=1, max_size=6), ms=st.integers(0, 3))
    def write(self, calls: list[tuple[Any, ...]], ms: int = 0) -> None:
        self.model.time += ms
        self.compare(calls)

    @rule(calls=st.lists(st.one_of(sends, writes), min_size=1, max_size=4))
    def send(self, calls: list[tuple[Any, ...]]) -> None:
        self.compare(calls)

    @rule(calls=st.lists(reads, min_size=1, max_size=5))
    def read(self, calls: list[tuple[Any, ...]]) -> None:
        self.compare(calls)

    @rule(uid=actors)
    def look_around(self, uid: int) -> None:
        calls: list[tuple[Any, ...]] = [("overview", uid), ("conversations", uid, 100), ("groups", uid)]
        for chat in self.model.chats:
            calls += [("membership", chat), ("history", uid, chat, 0, 0, 0, -1, 100), ("fill", uid, chat, 0, 100)]
        self.compare(calls)

    def compare(self, calls: list[tuple[Any, ...]]) -> None:
        """Make the calls at once; the answers are those of a store that does one after the other."""
        outcomes = wait_for(together([self.outcome(*call) for call in calls]))
        assert plain(outcomes) == plain([self.expected(*call) for call in calls])

    @rule(restart=st.sampled_from([False, False, False, True]))
    def sweep(self, restart: bool) -> None:
        if restart:
            wait_for(self.store.stop())
            self.store = self.open()
        changes = wait_for(self.outcome("changes", self.mark))
        self.mark = changes.mark
        # A number that was given back may count as one that moved; it is the one that there is now.
        here, mine = self.model.sessions, self.model.numbers
        numbers = {uid: number for uid, number in changes.sessions if uid in mine or number != here[uid]}
        seen = [dict(changes.heads), dict(changes.members), numbers]
        moved = [self.model.heads, self.model.versions, self.model.numbers]
        assert (changes.complete, seen) == ((False, [{}, {}, {}]) if restart else (True, moved))
        for each in moved:
            each.clear()

    @rule(but=chats, age=st.sampled_from([-1, -1, -1, 0, 1]), limit=st.integers(1, 6))
    def prune(self, but: int, age: int, limit: int) -> None:
        """Remove what is old, after everything has arrived but what is in one chat."""
        moves = [
            CursorMove(uid, self.model.sessions[uid], chat.id, chat.head, 0)
            for chat in self.model.chats.values()
            if chat.id != but
            for uid in chat.members
        ]
        self.compare([("advance", moves)])
        before = self.model.time - age
        count = 0
        while some := wait_for(self.outcome("prune", before, limit)):
            count += some
        assert count == self.model.removed(before, self.lowest(), self.prunes_all)
        self.pruned = self.pruned or count > 0


class SqliteMachine(StoreMachine):
    prunes_all = False  # but whole runs

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        # Small enough that every run moves entries between the parts of the index and forgets chats.
        self.small = mock.patch.object(runs, "MOVE_EVERY", 5)
        self.small.start()
        super().__init__(ModelStore())

    def open(self) -> SqliteStore:
        from twisted.internet import reactor

        store = SqliteStore(
            self.folder / "flux.db",
            reactor,
            now=lambda: self.model.time / 1000,
            chats_bound=6,
            connect=Faults(sync=False).connect,
        )
        wait_for(store.start())
        return store

    def lowest(self) -> dict[int, int]:
        with closing(sqlite3.connect(self.folder / "flux.db")) as db:
            return dict(db.execute("SELECT chat, min(seq) FROM messages GROUP BY chat").fetchall())

    def teardown(self) -> None:
        wait_for(self.store.stop())
        self.small.stop()
        check_invariants(self.store, self.pruned)
        shutil.rmtree(self.folder)


TestStore = pytest.mark.timeout(600)(pytest.mark.slow(SqliteMachine.TestCase))
TestStore.settings = settings(
    max_examples=50,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
