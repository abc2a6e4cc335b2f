"""What a session is given: connections that choke, close and break, and the sweep that finds what nobody told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from delivery_backends import InlineStore, opened_store
from delivery_lab import Client, Lab
from delivery_steps import now
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs

from flux.backends.sqlite import SqliteStore
from flux.chat import spread as spread_module
from flux.model.bus import Hint
from flux.model.messages import Message


@pytest.fixture
def inline_store(tmp_path: Path) -> Iterator[InlineStore]:
    with opened_store(tmp_path) as store:
        yield store


@pytest.fixture
def lab(inline_store: InlineStore) -> Iterator[Lab]:
    lab = Lab(inline_store, "AB")
    yield lab
    lab.stop()


class Pair:
    """Ann on node A, who writes to Bob on node B."""

    def __init__(self, lab: Lab, acks: bool = True, numbered: bool = False, buffer: int = 2_000) -> None:
        self.lab = lab
        self.ann, self.bob = lab.accounts(2)
        self.acks = acks
        self.a = lab.client("A", self.ann).login()
        self.b = lab.client("B", self.bob, numbered=numbered, buffer=buffer).login(acks=acks)
        lab.settle()

    def send(self, count: int = 1) -> None:
        for _ in range(count):
            self.a.tell(type="send", to=self.bob, text="x" * 100)
        self.lab.settle()

    @property
    def chat(self) -> int:
        [cursor] = now(self.lab.store.overview(self.bob)).cursors
        return cursor.chat

    @property
    def received(self) -> int:
        """Bob's cursor."""
        [cursor] = now(self.lab.store.overview(self.bob)).cursors
        return cursor.received

    def pushed(self, client: Client | None = None) -> list[int]:
        return [seq for seqs in (client or self.b).pushed.values() for seq in seqs]

    def reconnected(self) -> list[int]:
        """What a new connection of Bob's is given."""
        again = self.lab.client("B", self.bob).login(acks=True)
        self.lab.settle()
        return self.pushed(again)


# --- slow and broken connections ---


def test_a_live_session_that_chokes_gets_nothing_until_it_has_drained(lab: Lab) -> None:
    pair = Pair(lab)
    pair.b.link.stuck = True
    pair.send(50)
    # One message over the limit of 2,000 bytes at most, and what one commit gathered with it.
    waiting = len(pair.b.link.dataBuffer)
    pair.send(50)
    assert len(pair.b.link.dataBuffer) == waiting
    assert lab.nodes["B"].delivery.chats
    pair.b.link.unstick()
    lab.settle()
    assert pair.pushed() == list(range(1, 101))
    pair.send()
    assert pair.pushed()[-1] == 101


def test_a_login_whose_answer_chokes_the_connection_is_not_live_yet(lab: Lab) -> None:
    pair = Pair(lab)
    pair.b.link.lose()
    slow = lab.client("B", pair.bob, buffer=10)
    slow.link.stuck = True
    slow.login(acks=True)
    lab.settle()
    assert slow.connection.choked
    pair.send(10)
    assert b'"message"' not in slow.link.dataBuffer
    slow.link.unstick()
    lab.settle()
    assert pair.pushed(slow) == list(range(1, 11))


@pytest.mark.parametrize("numbered", [False, True])
@pytest.mark.parametrize("end", ["close", "abort", "reset", "lose"])
def test_what_a_dying_connection_was_not_given_is_given_to_the_next(lab: Lab, end: str, numbered: bool) -> None:
    """Without acknowledgements. What comes between the end and the news of it has never left."""
    pair = Pair(lab, acks=False, numbered=numbered)
    pair.send(2)
    lab.advance(2)
    assert pair.received == 2
    if end in ("close", "abort"):
        getattr(pair.b.connection, end)()
    else:
        pair.b.link.stuck = True
    pair.a.tell(type="send", to=pair.bob, text="between")
    lab.steps.settle()
    if end in ("reset", "lose"):
        getattr(pair.b.link, end)()
    lab.advance(2)
    assert pair.received == 2
    assert pair.reconnected() == [3]


def test_lines_gathered_when_a_connection_is_aborted_are_not_counted_as_received(lab: Lab) -> None:
    pair = Pair(lab, acks=False)
    node = lab.nodes["B"]
    pair.send()
    lab.advance(2)
    node.gather.begin()
    seq = lab.commit(pair.ann, pair.bob).seq
    node.deliver(Hint(Message(pair.chat, seq, pair.ann, "", "x", 0, to=pair.bob), 1, SqliteStore.past, (pair.bob,)))
    pair.b.connection.abort()
    node.gather.end()
    lab.advance(2)
    assert pair.received == 1
    assert pair.reconnected() == [2]


@pytest.mark.parametrize("wait", ["asked", "answered"])
@pytest.mark.parametrize("event", ["lose", "choke", "kick"])
def test_whatever_happens_to_a_session_that_is_being_filled(lab: Lab, wait: str, event: str) -> None:
    pair = Pair(lab)
    pair.b.link.lose()
    pair.send(500)
    b = lab.client("B", pair.bob, buffer=2_000).login(acks=True)
    for _ in range(2):
        lab.steps.until("B.store.fill", " = ") if wait == "answered" else lab.steps.until("B.store.fill")
        if wait == "asked":
            break
        lab.steps.happen("B.store.fill", " = ")
    if event == "lose":
        b.link.lose()
    elif event == "kick":
        b.session.kick("admin")
    else:
        b.link.stuck = True
    lab.settle()
    if event == "choke":
        assert len(b.link.dataBuffer) < 80_000
        b.link.unstick()
        lab.settle()
        assert pair.pushed(b) == list(range(1, 501))
        pair.send()
        assert pair.pushed(b)[-1] == 501
    else:
        assert not lab.nodes["B"].delivery.chats
        assert pair.reconnected() == list(range(1, 501))


@pytest.mark.parametrize("unchoked", range(6))
def test_a_connection_that_drains_at_any_moment_of_its_filling_gets_live(lab: Lab, unchoked: int) -> None:
    pair = Pair(lab)
    pair.b.link.stuck = True
    pair.send(300)
    pair.b.link.unstick()
    pair.b.link.stuck = True
    for _ in range(unchoked):
        if lab.steps.pending:
            lab.steps.take(lab.steps.pending[0])
    pair.b.link.unstick()
    lab.settle()
    pair.send()
    assert pair.pushed() == list(range(1, 302))
    assert pair.b.session.live


def test_fillings_at_once_are_bounded_and_each_gets_its_turn(inline_store: InlineStore) -> None:
    """Also where the store answers inside the call: one that ends starts the next one in the midst of its own end."""
    for stepped in (True, False):
        lab = Lab(inline_store, "A", stepped=stepped, limits__catchups=2)
        ann, *others = lab.accounts(8)
        for uid in others:
            for _ in range(3):
                lab.commit(ann, uid)
        clients = [lab.client("A", uid).login(acks=True) for uid in others]
        most = 0
        while lab.steps.pending:
            most = max(most, sum("store.fill" in step.label for step in lab.steps.pending))
            lab.steps.take(lab.steps.pending[0])
        lab.settle()
        assert most == (2 if stepped else 0)
        assert all(client.session.live for client in clients)
        assert all(list(client.pushed.values()) == [[1, 2, 3]] for client in clients)
        lab.stop()


# --- the sweep ---


def test_a_message_of_which_nobody_told_is_found_by_the_sweep(lab: Lab) -> None:
    pair = Pair(lab)
    pair.send()
    lab.commit(pair.ann, pair.bob)
    lab.settle()
    assert pair.pushed() == [1]
    lab.advance(6)
    assert pair.pushed() == [1, 2]


def test_the_first_message_of_a_pair_of_which_nobody_told_is_found_by_the_sweep(lab: Lab) -> None:
    pair = Pair(lab)
    lab.commit(pair.ann, pair.bob)
    lab.advance(6)
    assert pair.pushed() == [1]
    # She has sent it herself, though this connection knows nothing of it.
    assert pair.pushed(pair.a) == []
    assert pair.a.session.live


def test_after_a_commit_of_unknown_outcome_its_chats_are_looked_at_at_once(lab: Lab) -> None:
    pair = Pair(lab)
    pair.send()
    lab.advance(5)
    lab.backends["A"][0].fault = lambda method: "after" if method == "append" else ""
    pair.a.tell(type="send", to=pair.bob, text="committed", cid="c")
    carol = lab.accounts(1)[0]
    c = lab.client("A", carol).login()
    lab.settle()
    assert pair.a.got("error")[0]["name"] == "unavailable"
    lab.backends["A"][0].fault = lambda method: ""
    lab.advance(1)
    assert not lab.nodes["A"].spread.degraded
    assert c.session.live
    lab.advance(5)
    assert pair.pushed() == [1, 2]
    pair.a.tell(type="send", to=pair.bob, text="committed", cid="c")
    lab.settle()
    assert pair.a.got("send.ok")[-1]["duplicate"]
    assert pair.pushed() == [1, 2]


def test_a_mark_that_lapsed_is_made_good_by_comparing_everything(tmp_path: Path) -> None:
    """Messages, a join, a new pair and a takeover happened, and the store remembers only one thing of each kind."""
    store = InlineStore(tmp_path / "flux.db", changes_bound=1).open()
    lab = Lab(store, "AB")
    ann, bob, cat, dan = lab.accounts(4)
    group = now(store.group_create(ann, "g", "", False, False)).group
    old = now(store.group_create(ann, "g", "", False, False)).group
    now(store.group_join(cat, old))
    for uid in (ann, bob):
        lab.commit(uid, cat)
    lab.bus.copies = lambda event: 0
    clients = {uid: lab.client("B", uid).login(acks=True) for uid in (bob, cat)}
    first = lab.client("B", dan).login()
    lab.settle()
    now(store.group_leave(cat, old))
    lab.commit(ann, group=old)
    now(store.group_join(cat, group))
    lab.commit(ann, group=group)
    lab.commit(ann, cat)
    lab.commit(ann, bob)
    now(store.open_session(dan))
    for other in lab.accounts(3):
        now(store.open_session(other))
        lab.commit(ann, other)
        now(store.group_create(other, "other", "", False, False))
    lab.advance(6)
    pushed = clients[cat].pushed
    assert pushed[group] == [1]
    assert old not in pushed
    assert sorted(map(tuple, pushed.values())) == [(1,), (1,), (1, 2)]
    assert list(clients[bob].pushed.values()) == [[1]]
    assert first.got("kicked")
    lab.stop()
    now(store.stop())


def test_comparing_everything_while_sessions_end_leaves_nothing_behind(tmp_path: Path) -> None:
    store = InlineStore(tmp_path / "flux.db", changes_bound=1).open()
    lab = Lab(store, "A")
    ann, bob, cat = lab.accounts(3)
    lab.commit(ann, bob)
    b, c = lab.client("A", bob).login(), lab.client("A", cat).login()
    lab.advance(1)
    lab.commit(ann, cat)
    lab.commit(ann, bob)
    lab.settle()
    lab.clocks["A"].advance(5)
    lab.steps.until("A.store.overview", " = ")
    b.link.lose()
    lab.settle()
    assert set(lab.nodes["A"].sessions) == {cat}
    assert all(session is c.session for chat in lab.nodes["A"].delivery.chats.values() for session in chat.sessions)
    lab.advance(6)
    lab.stop()
    now(store.stop())


@pytest.mark.parametrize("method", ["changes", "membership", "fill"])
@pytest.mark.parametrize("fault", ["before", "after"])
def test_a_sweep_that_meets_a_store_that_is_away_is_made_good(lab: Lab, method: str, fault: str) -> None:
    pair = Pair(lab)
    pair.send()
    group = now(lab.store.group_create(pair.ann, "g", "", False, False)).group
    now(lab.store.group_join(pair.bob, group))
    lab.commit(pair.ann, group=group)
    lab.commit(pair.ann, pair.bob)
    lab.backends["B"][0].fault = lambda called: fault if called == method else ""
    lab.advance(12)
    assert pair.pushed() == [1] or method != "fill"
    lab.backends["B"][0].fault = lambda called: ""
    lab.advance(8)
    assert pair.b.pushed == {pair.b.got("message")[0]["chat"]: [1, 2], group: [1]}
    assert pair.b.session.live


def test_a_store_that_is_away_is_complained_about_once(lab: Lab) -> None:
    """Not once for each session that waits, and again for each of its attempts."""
    pairs = [Pair(lab) for _ in range(5)]
    for pair in pairs:
        pair.send()
    store = lab.backends["B"][0]
    for _ in range(2):
        store.fault = lambda called: "before" if called in ("fill", "membership") else ""
        for pair in pairs:
            lab.commit(pair.ann, pair.bob)
        with capturedLogs() as logged:
            lab.advance(12)
        complaints = [event for event in logged if event["log_namespace"] == "flux.chat.delivery.Delivery"]
        assert sum(event["log_level"] >= LogLevel.warn for event in complaints) == 1
        assert len(complaints) > len(pairs)
        store.fault = lambda called: ""
        lab.advance(8)
    assert [pair.pushed() for pair in pairs] == [[1, 2, 3]] * 5


def test_a_shared_state_that_is_away_is_complained_about_once(lab: Lab) -> None:
    """Not once for each batch of messages that nobody can be told of."""
    pair = Pair(lab)
    for _ in range(2):
        lab.backends["A"][1].fault = lambda method: "before" if method == "routes" else ""
        with capturedLogs() as logged:
            for _ in range(5):
                pair.send()
            lab.backends["A"][1].fault = lambda method: ""
            pair.send()
        events = [event for event in logged if event["log_namespace"] == "flux.chat.spread.Spread"]
        levels = [event["log_level"] for event in events]
        assert levels == [LogLevel.warn, *[LogLevel.debug] * 4, LogLevel.info]


def test_hints_do_not_wait_for_those_before_them(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would wait until another node, and Redis, get at a processor that is busy."""
    monkeypatch.setattr(spread_module, "MAX_WAITING", 2)
    pair = Pair(lab)
    spread = lab.nodes["A"].spread
    real, answers = spread._bus.multicast, []

    async def multicast(*arguments: Any) -> int:
        published = await real(*arguments)
        answers.append(Deferred())
        await answers[-1]
        return published

    spread._bus = SimpleNamespace(multicast=multicast)
    pair.send()
    pair.send()
    assert pair.pushed() == [1, 2]
    assert spread.waiting == len(answers) == 2
    # As many as may be under way: the next one is left to the sweep.
    assert not spread.degraded
    pair.send()
    assert spread.degraded
    assert pair.pushed() == [1, 2]
    for answer in answers:
        answer.callback(None)
    assert spread.waiting == 0
    lab.advance(6)
    assert pair.pushed() == [1, 2, 3]


def test_hints_that_cannot_be_sent_make_the_sweeps_frequent(lab: Lab) -> None:
    pair = Pair(lab)
    pair.send()
    lab.advance(5)
    for where in ("A", "B"):
        lab.backends[where][1].fault = lambda method: "before" if method == "routes" else ""
    pair.send()
    assert lab.nodes["A"].spread.degraded
    lab.advance(1)
    assert not lab.nodes["A"].spread.degraded
    lab.advance(5)
    assert pair.pushed() == [1, 2]


def test_a_gap_on_the_bus_is_followed_by_a_look(lab: Lab) -> None:
    pair = Pair(lab)
    lab.bus.copies = lambda event: 0
    pair.send()
    now(lab.state.release(pair.bob, pair.b.session.route))
    lab.bus.gap(lab.nodes["B"])
    lab.settle()
    assert pair.pushed() == [1]
    assert pair.bob in now(lab.state.routes([pair.bob]))


def test_a_gap_while_the_backends_are_away_is_made_good_later(lab: Lab) -> None:
    pair = Pair(lab)
    lab.bus.copies = lambda event: 0
    for backend in lab.backends["B"]:
        backend.fault = lambda method: "before" if method in ("renew", "changes") else ""
    pair.send()
    lab.bus.gap(lab.nodes["B"])
    lab.settle()
    assert pair.pushed() == []
    for backend in lab.backends["B"]:
        backend.fault = lambda method: ""
    lab.advance(2)
    assert pair.pushed() == [1]


# --- start and stop ---


def test_a_gap_before_the_port_is_open_takes_no_lease(lab: Lab) -> None:
    """The first subscription is a gap too, and what is not reachable yet must not be given to anybody."""
    node = lab.new_node("C")
    now(node.start())
    node.gap()
    lab.settle()
    assert "C" not in {found.name for found in now(lab.state.snapshot()).nodes}
    now(node.take_lease("C", 1))
    lab.settle()
    assert "C" in {found.name for found in now(lab.state.snapshot()).nodes}


def test_a_node_that_stops_does_not_come_back(lab: Lab) -> None:
    """Its lease and routes stay given up however long the last connection takes."""
    pair = Pair(lab)
    pair.b.link.stuck = True
    pair.send(50)
    node = lab.nodes["B"]
    stopped = Deferred.fromCoroutine(node.stop(8.0))
    lab.advance(4)
    assert not stopped.called
    assert "B" not in {found.name for found in now(lab.state.snapshot()).nodes}
    assert node.draining
    lab.advance(5)
    assert stopped.called


@pytest.mark.parametrize("acks", [False, True])
def test_what_was_accepted_before_the_stop_is_brought_out(lab: Lab, acks: bool) -> None:
    pair = Pair(lab, acks=acks)
    pair.send(3)
    if acks:
        pair.b.tell(type="received", chat=pair.chat, seq=2)
    for _ in range(5):
        pair.a.tell(type="send", to=pair.bob, text="late")
    group = now(lab.store.group_create(lab.accounts(1)[0], "g", "", False, False)).group
    pair.a.tell(type="group.join", group=group, ref=1)
    stops = [Deferred.fromCoroutine(node.stop(5.0)) for node in lab.nodes.values()]
    lab.advance(6)
    assert all(stop.called for stop in stops)
    assert len(pair.a.got("send.ok")) == 8
    assert len(pair.a.got("group.join.ok")) == 1
    assert [line["reason"] for line in pair.a.got("kicked")] == ["shutdown"]
    assert pair.received == (2 if acks else len(pair.pushed()))
