"""Cursors: what clients claim to have received and read, and links that swallow.

Whatever a client says, nothing becomes undeliverable that its rule does not allow to
be: with acknowledgements nothing at all, without them what had left the server.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from delivery_backends import InlineStore, opened_store
from delivery_lab import Client, Lab
from delivery_steps import now

from flux.backends.sqlite import SqliteStore
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


def cursors(lab: Lab, uid: int) -> dict[int, tuple[int, int]]:
    return {cursor.chat: (cursor.received, cursor.read) for cursor in now(lab.store.overview(uid)).cursors}


def pushed(client: Client) -> list[tuple[int, int]]:
    return sorted((chat, seq) for chat, seqs in client.pushed.items() for seq in seqs)


# --- what clients claim ---


class Claims:
    """Bob, who says whatever comes to his mind about three chats, one of which he is not in."""

    def __init__(self, lab: Lab, rng: random.Random) -> None:
        self.lab = lab
        self.rng = rng
        self.ann, self.bob, self.cat = lab.accounts(3)
        self.group = now(lab.store.group_create(self.ann, "g", "", False, False)).group
        self.foreign = now(lab.store.group_create(self.ann, "f", "", False, False)).group
        now(lab.store.group_join(self.bob, self.group))
        self.pair = lab.commit(self.ann, self.bob).chat
        self.sessions: list[Client] = []
        self.first = 1
        self.member = True

    def log_in(self) -> None:
        self.sessions.append(self.lab.client(self.rng.choice("AB"), self.bob).login(acks=True))

    def send(self) -> None:
        self.lab.commit(self.ann, self.bob)
        self.lab.commit(self.ann, group=self.group)
        self.lab.commit(self.ann, group=self.foreign)
        if self.rng.random() < 0.5 and self.sessions:
            self.sessions[-1].tell(type="send", to=self.ann, text="x")

    def claim(self) -> None:
        rng = self.rng
        if self.sessions:
            # The newest one is honest about what it has received; the superseded ones are not.
            client = rng.choice(self.sessions)
            chat = rng.choice((self.pair, self.group, self.foreign, 10**6))
            seq = rng.choice((0, 1, 2, 7, 10**6, 2**62))
            kind = rng.choice(("received", "read"))
            if kind == "received" and client is self.sessions[-1] and client.link.stuck:
                seq = max(client.pushed.get(chat, [0]))
            client.tell(type=kind, chat=chat, seq=seq)

    def come_and_go(self) -> None:
        store = self.lab.store
        self.member = not self.member
        change = now((store.group_join if self.member else store.group_leave)(self.bob, self.group))
        if self.member:
            self.first = change.head + 1

    def wait(self) -> None:
        self.lab.advance(self.rng.choice((1.0, 3.0, 6.0)))

    def step(self) -> None:
        ready = self.lab.steps.ready()
        if ready:
            self.lab.steps.take(self.rng.choice(ready))


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_claimed_everything_is_delivered(lab: Lab, seed: int) -> None:
    rng = random.Random(seed)
    claims = Claims(lab, rng)
    seen: set[tuple[int, int]] = set()
    before: dict[int, tuple[int, int]] = {}
    for _ in range(120):
        rng.choices(
            (claims.log_in, claims.send, claims.claim, claims.come_and_go, claims.wait, claims.step),
            (1, 4, 10, 1, 2, 10),
        )[0]()
        for chat, (received, read) in cursors(lab, claims.bob).items():
            earlier = before.get(chat, (0, 0))
            assert received >= earlier[0]
            assert read >= earlier[1]
        before = cursors(lab, claims.bob)
    lab.advance(6)
    claims.log_in()
    lab.advance(6)
    for client in claims.sessions:
        seen.update(pushed(client))
    assert claims.foreign not in {chat for chat, _ in seen}
    wanted = [(claims.pair, 1)] + ([(claims.group, claims.first)] if claims.member else [])
    for chat, first in wanted:
        messages = now(lab.store.fill(claims.bob, chat, 0, 10_000))
        missing = {m.seq for m in messages if m.sender != claims.bob and m.seq >= first} - {
            s for c, s in seen if c == chat
        }
        assert not missing


@pytest.mark.parametrize("seq", [3, 10**6])
def test_received_is_cut_to_what_was_pushed_here(lab: Lab, seq: int) -> None:
    ann, bob = lab.accounts(2)
    lab.commit(ann, bob)
    chat = lab.commit(ann, bob).chat
    b = lab.client("B", bob).login(acks=True)
    lab.settle()
    assert pushed(b) == [(chat, 1), (chat, 2)]
    # Committed, and B knows nothing of it.
    lab.commit(ann, bob)
    b.tell(type="received", chat=chat, seq=seq)
    lab.advance(2)
    assert cursors(lab, bob)[chat][0] == 2
    b.link.lose()
    again = lab.client("A", bob).login(acks=True)
    lab.settle()
    assert pushed(again) == [(chat, 3)]


def test_received_while_the_session_is_being_filled_is_cut_to_what_was_written(lab: Lab) -> None:
    ann, bob = lab.accounts(2)
    for _ in range(250):
        chat = lab.commit(ann, bob).chat
    b = lab.client("B", bob).login(acks=True)
    lab.steps.until("B.store.fill(", f"{chat}, 200, 200")
    b.tell(type="received", chat=chat, seq=250)
    lab.clocks["B"].advance(1)
    b.link.lose()
    lab.advance(2)
    assert cursors(lab, bob)[chat][0] == 200
    again = lab.client("A", bob).login(acks=True)
    lab.settle()
    assert pushed(again) == [(chat, seq) for seq in range(201, 251)]


def test_an_account_passes_its_own_messages_when_what_lies_before_is_acknowledged(lab: Lab) -> None:
    ann, bob = lab.accounts(2)
    b = lab.client("B", bob).login(acks=True)
    chat = lab.commit(ann, bob).chat
    lab.advance(6)
    b.tell(type="send", to=ann, text="own")
    lab.advance(2)
    assert cursors(lab, bob)[chat][0] == 0
    b.tell(type="received", chat=chat, seq=1)
    lab.advance(2)
    assert cursors(lab, bob)[chat][0] == 2


@pytest.mark.parametrize("where", "AB")
def test_a_superseded_session_moves_no_cursor(lab: Lab, where: str) -> None:
    """It claims before it is kicked, and its claim is written after the newer one has its number."""
    ann, bob = lab.accounts(2)
    chat = lab.commit(ann, bob).chat
    old = lab.client("A", bob).login(acks=True)
    lab.settle()
    lab.bus.copies = lambda event: 0
    new = lab.client(where, bob).login(acks=True)
    lab.steps.until(f"{where}.store.open_session", " = ")
    old.tell(type="received", chat=chat, seq=1)
    old.tell(type="read", chat=chat, seq=1)
    lab.settle()
    lab.advance(2)
    assert cursors(lab, bob)[chat] == (0, 0)
    assert pushed(old) == pushed(new) == [(chat, 1)]
    new.tell(type="received", chat=chat, seq=1)
    lab.advance(2)
    assert cursors(lab, bob)[chat] == (1, 0)


def test_what_was_claimed_before_leaving_means_nothing_after_joining_again(lab: Lab) -> None:
    ann, bob = lab.accounts(2)
    group = now(lab.store.group_create(ann, "g", "", False, False)).group
    b = lab.client("B", bob).login(acks=True)
    b.tell(type="group.join", group=group)
    lab.settle()
    for _ in range(3):
        lab.commit(ann, group=group)
    lab.advance(6)
    b.tell(type="received", chat=group, seq=3)
    b.tell(type="read", chat=group, seq=3)
    # Nothing of this is written yet.
    b.tell(type="group.leave", group=group)
    b.tell(type="received", chat=group, seq=10**6)
    b.tell(type="group.join", group=group)
    b.tell(type="received", chat=group, seq=10**6)
    lab.settle()
    lab.commit(ann, group=group)
    lab.advance(6)
    assert pushed(b) == [(group, seq) for seq in (1, 2, 3, 4)]
    assert cursors(lab, bob)[group] == (3, 3)


@pytest.mark.parametrize("fault", ["before", "after"])
def test_cursors_that_could_not_be_written_are_written_later(lab: Lab, fault: str) -> None:
    ann, bob = lab.accounts(2)
    chat = lab.commit(ann, bob).chat
    b = lab.client("B", bob).login(acks=True)
    lab.settle()
    lab.backends["B"][0].fault = lambda method: fault if method == "advance" else ""
    b.tell(type="received", chat=chat, seq=1)
    lab.advance(3)
    b.link.lose()
    lab.advance(3)
    lab.backends["B"][0].fault = lambda method: ""
    lab.advance(2)
    assert cursors(lab, bob)[chat][0] == 1


# --- links that swallow ---

RULES = [("acks", True), ("acks", False), ("numbered", False)]


class Swallowing:
    """Bob on a link that swallows everything from some moment on, and nobody is told."""

    def __init__(self, lab: Lab, kind: str, acks: bool, buffer: int = 2**40) -> None:
        self.lab = lab
        self.kind = kind
        self.ann, self.bob = lab.accounts(2)
        self.a = lab.client("A", self.ann).login()
        self.b = self.connect(acks, buffer=buffer)
        lab.settle()

    def connect(self, acks: bool, **options: Any) -> Client:
        return self.lab.client("B", self.bob, numbered=self.kind == "numbered", **options).login(acks=acks)

    def send(self, *texts: str) -> None:
        for text in texts:
            self.a.tell(type="send", to=self.bob, text=text)
        self.lab.settle()

    @staticmethod
    def texts(client: Client) -> list[str]:
        """What was shown, in either dialect and also inside the answer to a login."""
        found = []
        for line in client.lines:
            if line.get("type") == "message":
                found.append(line["text"])
            elif line.get("msgid") == 6:
                found.append(line["msg"])
            for inner in line.get("offlinemsg", ()):
                found.append(json.loads(inner)["msg"])
        return found

    def again(self, acks: bool) -> list[str]:
        client = self.connect(acks)
        self.lab.advance(6)
        return self.texts(client)


@pytest.mark.parametrize(("kind", "acks"), RULES)
@pytest.mark.parametrize("noticed", ["takeover", "reset", "closed"])
@pytest.mark.parametrize("looked", [False, True], ids=["at once", "after the cursors"])
def test_a_link_that_swallows_loses_what_its_rule_allows(
    lab: Lab, kind: str, acks: bool, noticed: str, looked: bool
) -> None:
    """With acks nothing; without, what had left the server's buffers while the connection seemed to live."""
    bob = Swallowing(lab, kind, acks)
    bob.send("seen")
    if acks:
        [chat] = bob.b.pushed
        bob.b.tell(type="received", chat=chat, seq=1)
    lab.advance(2)
    bob.b.link.swallows = True
    bob.send("swallowed")
    if looked:
        lab.advance(2)
    if noticed == "reset":
        bob.b.link.reset()
    elif noticed == "closed":
        # An orderly end: the peer's system took all that was sent. The cursors are written a second later.
        bob.b.link.lose()
        lab.advance(2)
    # Else he comes back while the old connection still stands.
    shown = bob.again(acks)
    assert Swallowing.texts(bob.b) == ["seen"]
    if acks:
        assert shown == ["swallowed"]
    elif looked or noticed == "closed":
        assert shown == []
    else:
        assert shown == ["swallowed"]


@pytest.mark.parametrize(("kind", "acks"), RULES)
@pytest.mark.parametrize("noticed", ["takeover", "reset", "slow"])
def test_a_window_that_closes_loses_nothing(lab: Lab, kind: str, acks: bool, noticed: str) -> None:
    """The peer takes nothing any more: what is in the server's buffers counts for nothing, whatever the rule."""
    bob = Swallowing(lab, kind, acks, buffer=1_000)
    bob.send("seen")
    lab.advance(2)
    bob.b.link.stuck = True
    texts = [f"{number:0200}" for number in range(20)]
    bob.send(*texts)
    lab.advance(5)
    if noticed == "reset":
        bob.b.link.reset()
    elif noticed == "slow":
        lab.advance(70)
        assert bob.b.link.lost
    shown = bob.again(acks)
    assert shown == (["seen", *texts] if acks else texts)


@pytest.mark.parametrize("acks", [False, True])
def test_half_of_what_was_written_left_before_the_window_closed(lab: Lab, acks: bool) -> None:
    """The cursor without acks moves when all of it has left, not before."""
    bob = Swallowing(lab, "acks", acks)
    bob.send("one", "two")
    bob.b.link.stuck = True
    bob.send("three")
    lab.advance(3)
    bob.b.link.reset()
    shown = bob.again(acks)
    # What the first tick had not confirmed is repeated, and the client drops it by (chat, seq).
    assert shown == ["one", "two", "three"]


def test_offline_messages_inside_an_answer_that_was_swallowed(lab: Lab) -> None:
    """The numbered dialect: they count as pushed, so they follow its rule."""
    ann, bob = lab.accounts(2)
    chat = lab.commit(ann, bob, text="offline").chat
    b = lab.client("B", bob, numbered=True)
    b.link.stuck = True
    b.login()
    lab.advance(3)
    assert cursors(lab, bob)[chat][0] == 0
    b.link.reset()
    lab.advance(2)
    again = lab.client("B", bob, numbered=True).login()
    lab.advance(2)
    assert Swallowing.texts(again) == ["offline"]
    assert cursors(lab, bob)[chat][0] == 1


def test_a_hint_for_a_message_that_was_pushed_already_is_dropped(lab: Lab) -> None:
    bob = Swallowing(lab, "acks", True)
    bob.send("one")
    [chat] = bob.b.pushed
    hint = Hint(Message(chat, 1, bob.ann, "", "one", 0, to=bob.bob), 1, SqliteStore.past, (bob.bob,))
    for _ in range(3):
        lab.nodes["B"].deliver(hint)
    lab.settle()
    assert Swallowing.texts(bob.b) == ["one"]
