"""The store goes back while clients are connected: a restored backup, a failover that lost its tail."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from delivery_backends import InlineStore
from delivery_lab import Client, Lab
from delivery_steps import now
from store_invariants import check_invariants
from twisted.internet.defer import Deferred, fail

from flux.errors import Unavailable
from flux.model.chats import CursorMove
from flux.model.overview import Changes


class View:
    """The restored store as a node sees it that knew the earlier one (as ``PostgresStore`` does)."""

    def __init__(self, store: InlineStore) -> None:
        self._store = store
        self._told = False

    @property
    def past(self) -> str:
        return self._store.path.name if self._told else ""

    def __getattr__(self, method: str) -> Any:
        return getattr(self._store, method)

    async def changes(self, mark: int) -> Changes:
        found = await self._store.changes(mark)
        reset = mark != 0 and not self._told
        self._told |= reset
        return msgspec.structs.replace(found, complete=found.complete and not reset, reset=reset)

    def advance(self, moves: Sequence[CursorMove]) -> Any:
        return self._store.advance(moves) if self._told else fail(Unavailable("another past"))


class History:
    """A lab's store, which can go back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self.store = InlineStore(folder / "0.db").open()
        self.lab = Lab(self.store, "AB")

    def remember(self) -> None:
        """This is the state to go back to."""
        with closing(sqlite3.connect(self.store.path)) as source, closing(sqlite3.connect(self._kept)) as kept:
            source.backup(kept)

    @property
    def _kept(self) -> Path:
        return self._folder / "kept.db"

    def restore(self) -> None:
        """Go back; the nodes find out when they ask."""
        now(self.store.stop())
        self._number += 1
        shutil.copy(self._kept, self._folder / f"{self._number}.db")
        self.store = self.lab.store = InlineStore(self._folder / f"{self._number}.db").open()
        for store, _ in self.lab.backends.values():
            store.target = View(self.store)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    history = History(tmp_path)
    yield history
    history.lab.stop()
    check_invariants(history.store)
    now(history.store.stop())


def texts(client: Client) -> list[str]:
    return [message["text"] for message in client.got("message")]


def begin_again(*clients: Client) -> None:
    """From here on seqs may repeat."""
    for client in clients:
        client.pushed.clear()
        client.lines.clear()


class Pair:
    """Ann and Bob, with messages 1 to 5 between them, of which the store remembers 1 and 2."""

    def __init__(self, history: History, acks: bool, nodes: str = "AB") -> None:
        self.history, self.lab = history, history.lab
        self.ann, self.bob = self.lab.accounts(2)
        self.a = self.lab.client(nodes[0], self.ann).login()
        self.b = self.lab.client(nodes[1], self.bob).login(acks=acks)
        self.nodes = nodes
        self.lab.settle()
        self.send("1", "2")
        self.receive(2)
        self.lab.advance(2)
        history.remember()
        self.send("3", "4", "5")

    @property
    def chat(self) -> int:
        return self.b.got("message")[0]["chat"]

    def send(self, *messages: str) -> None:
        for text in messages:
            self.a.tell(type="send", to=self.bob, text=text)
            self.lab.settle()

    def receive(self, seq: int) -> None:
        if self.b.session.acks:
            self.b.tell(type="received", chat=self.chat, seq=seq)
            self.lab.settle()


@pytest.mark.parametrize("nodes", ["AB", "AA"])
@pytest.mark.parametrize("acks", [True, False])
def test_new_messages_under_reused_seqs_are_shown(history: History, acks: bool, nodes: str) -> None:
    pair = Pair(history, acks, nodes)
    assert texts(pair.b) == ["1", "2", "3", "4", "5"]
    history.restore()
    begin_again(pair.b)
    pair.send("new 3", "new 4")
    pair.lab.advance(7)
    assert texts(pair.b) == ["new 3", "new 4"]
    pair.send("new 5", "new 6")
    assert texts(pair.b) == ["new 3", "new 4", "new 5", "new 6"]
    assert pair.a.live
    assert pair.b.live


@pytest.mark.parametrize("knows", ["nobody", "the sender's node", "the receiver's node"])
@pytest.mark.parametrize("nodes", ["AB", "AA"])
def test_numbers_above_those_of_the_earlier_store_are_shown_in_order(history: History, nodes: str, knows: str) -> None:
    """The first number that was never used follows the last that was shown, before anybody has seen what happened."""
    pair = Pair(history, False, nodes)
    history.restore()
    begin_again(pair.b)
    if knows != "nobody":
        looking = Deferred.fromCoroutine(pair.lab.nodes[nodes["sr".index(knows[4])]].sweep.look())
        pair.lab.settle()
        assert looking.called
    pair.send("new 3", "new 4", "new 5", "new 6", "new 7")
    pair.lab.advance(7)
    assert texts(pair.b) == ["new 3", "new 4", "new 5", "new 6", "new 7"]
    pair.send("new 8")
    assert texts(pair.b)[5:] == ["new 8"]


@pytest.mark.parametrize("acks", [True, False])
def test_what_was_received_before_counts_for_nothing(history: History, acks: bool) -> None:
    pair = Pair(history, acks)
    chat = pair.chat
    # Noted, but not written yet when the store goes back.
    pair.receive(5)
    history.restore()
    begin_again(pair.b)
    pair.send("new 3", "new 4")
    # Cursors are written every second, the sweep is later.
    pair.lab.advance(2)
    pair.b.tell(type="received", chat=chat, seq=5)
    pair.lab.settle()
    pair.b.link.swallows = True
    pair.lab.advance(7)
    pair.b.link.reset()
    again = pair.lab.client(pair.nodes[1], pair.bob).login(acks=True)
    pair.lab.settle()
    # Without acks, what has left the server counts as received.
    assert texts(again) == (["new 3", "new 4"] if acks else [])


@pytest.mark.parametrize("nodes", ["AB", "AA"])
def test_what_was_read_before_is_not_told_after(history: History, nodes: str) -> None:
    pair = Pair(history, False, nodes)
    # The second one waits for the end of a pause.
    for seq in (3, 5):
        pair.b.tell(type="read", chat=pair.chat, seq=seq)
    pair.lab.settle()
    history.restore()
    looking = Deferred.fromCoroutine(pair.b.node.sweep.look())
    pair.lab.settle()
    assert looking.called
    pair.lab.advance(7)
    assert [line["seq"] for line in pair.a.got("read")] == [3]
    pair.b.tell(type="read", chat=pair.b.got("message")[0]["chat"], seq=1)
    pair.lab.settle()
    assert [line["seq"] for line in pair.a.got("read")] == [3, 1]


def test_messages_of_chats_that_were_made_later_are_shown(history: History) -> None:
    lab = history.lab
    ann, bob, cat = lab.accounts(3)
    history.remember()
    clients = {uid: lab.client("A", uid) for uid in (ann, bob, cat)}
    # Their logins were before what is remembered, too.
    for client in clients.values():
        client.login()
    lab.settle()
    history.remember()
    clients[ann].tell(type="send", to=bob, text="gone")
    lab.settle()
    history.restore()
    begin_again(*clients.values())
    # The chat of these two gets the id that the other one had.
    clients[ann].tell(type="send", to=cat, text="hello cat")
    lab.settle()
    lab.advance(7)
    clients[cat].tell(type="send", to=ann, text="hello ann")
    lab.settle()
    assert [texts(clients[uid]) for uid in (ann, bob, cat)] == [["hello ann"], [], ["hello cat"]]


def test_members_are_those_that_the_store_has(history: History) -> None:
    lab = history.lab
    ann, bob, cat = lab.accounts(3)
    a, b, c = (lab.client("A", ann).login(), lab.client("B", bob).login(), lab.client("B", cat).login())
    group = now(lab.store.group_create(ann, "g", "", False, False)).group
    now(lab.store.group_join(bob, group))
    lab.advance(7)
    history.remember()
    a.tell(type="group.remove", group=group, id=bob)
    a.tell(type="group.add", group=group, id=cat)
    a.tell(type="send", group=group, text="for ann and cat")
    lab.settle()
    assert (texts(b), texts(c)) == ([], ["for ann and cat"])
    history.restore()
    begin_again(b, c)
    lab.advance(7)
    a.tell(type="send", group=group, text="for ann and bob")
    lab.settle()
    assert (texts(b), texts(c)) == (["for ann and bob"], [])


def test_who_logged_in_later_is_sent_to_log_in_again(history: History) -> None:
    pair = Pair(history, True)
    pair.b.tell(type="logout")
    pair.lab.settle()
    later = pair.lab.client("B", pair.bob).login(acks=True)
    pair.lab.settle()
    assert later.live
    history.restore()
    pair.lab.advance(7)
    assert later.got("kicked") == [{"type": "kicked", "reason": "shutdown"}]
    assert not later.live
    assert pair.a.live
    again = pair.lab.client("B", pair.bob).login(acks=True)
    pair.lab.settle()
    assert again.live


def test_a_login_under_way_is_cut(history: History) -> None:
    pair = Pair(history, True)
    login = pair.lab.client("B", pair.ann).login()
    pair.lab.steps.until("B.store.overview", "= Overview")
    held = pair.lab.steps.hold("B.store.overview", "= Overview")
    history.restore()
    pair.lab.advance(7)
    held.run()
    pair.lab.settle()
    pair.lab.advance(1)
    assert not login.live
    assert login.link.lost


def test_accounts_that_the_store_does_not_know_are_sent_away(history: History) -> None:
    lab = history.lab
    history.remember()
    [ann] = lab.accounts(1)
    client = lab.client("A", ann).login()
    lab.settle()
    history.restore()
    lab.advance(7)
    assert not client.live


def test_who_cannot_be_read_at_once_has_its_turn(history: History) -> None:
    pair = Pair(history, True)
    store, _ = pair.lab.backends["B"]
    history.restore()
    store.fault = lambda method: "before" if method == "overview" else ""
    begin_again(pair.b)
    pair.send("new 3")
    pair.lab.advance(6)
    assert texts(pair.b) == []
    pair.send("new 4")
    store.fault = lambda method: ""
    pair.lab.advance(2)
    assert texts(pair.b) == ["new 3", "new 4"]


@pytest.mark.parametrize("point", ["fill", "membership"])
def test_what_was_being_read_meanwhile_does_no_harm(history: History, point: str) -> None:
    """An answer of the earlier store arrives after the later one was found out."""
    pair = Pair(history, True)
    lab = pair.lab
    if point == "fill":
        lab.bus.copies = lambda event: 0
        pair.send("6")
        lab.clock.advance(5)
        lab.clocks["B"].advance(5)
    else:
        lab.nodes["B"].delivery.chats[pair.chat].newest += 1
        lab.bus.copies = lambda event: 1
        pair.a.tell(type="send", to=pair.bob, text="6")
    lab.steps.until(f"B.store.{point}", " = ")
    held = lab.steps.hold(f"B.store.{point}", " = ")
    lab.bus.copies = lambda event: 1
    history.restore()
    begin_again(pair.b)
    pair.send("new 3")
    lab.advance(7)
    held.run()
    lab.settle()
    pair.send("new 4")
    lab.advance(7)
    assert texts(pair.b) == ["new 3", "new 4"]


def test_cursors_that_are_refused_after_everything_was_forgotten_are_not_tried_again(history: History) -> None:
    """Their call is under way while a look, which did not wait for it, is told of the restore."""
    pair = Pair(history, True)
    lab, chat = pair.lab, pair.chat
    pair.receive(5)
    history.restore()
    begin_again(pair.b)
    lab.clock.advance(1)
    lab.clocks["B"].advance(1)
    lab.steps.happen("B.store.advance(")
    refused = lab.steps.hold("B.store.advance(", "= Unavailable")
    lab.nodes["B"].gap()
    lab.settle()
    # Nobody is told of these, and the one who would be shows nothing of it.
    pair.b.link.swallows = True
    pair.send("new 3", "new 4", "new 5")
    refused.run()
    lab.advance(2)
    assert {cursor.chat: cursor.received for cursor in now(lab.store.overview(pair.bob)).cursors} == {chat: 2}
    pair.b.link.reset()
    again = lab.client("B", pair.bob).login(acks=True)
    lab.settle()
    assert texts(again) == ["new 3", "new 4", "new 5"]
