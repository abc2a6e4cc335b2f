"""Members that come and go while messages, hints and events about them overtake each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from delivery_backends import InlineStore, opened_store
from delivery_lab import Client, Lab
from delivery_steps import now

from flux.backends.sqlite import SqliteStore
from flux.model.bus import Hint, MembersChanged
from flux.model.chats import MemberChange
from flux.model.messages import Message


@pytest.fixture
def inline_store(tmp_path: Path) -> Iterator[InlineStore]:
    with opened_store(tmp_path) as store:
        yield store


class Group:
    """A group of an owner on node A and members on B, as the store has it.

    ``events`` are what the bus would bring about its members, in order.
    """

    def __init__(self, lab: Lab, members: int = 1) -> None:
        self.lab = lab
        self.owner, *self.members = lab.accounts(1 + members)
        self.id: int = now(lab.store.group_create(self.owner, "group", "", False, False)).group
        self.events: list[MemberChange] = []

    def join(self, uid: int) -> MemberChange:
        return self._changed(now(self.lab.store.group_join(uid, self.id)))

    def leave(self, uid: int) -> MemberChange:
        return self._changed(now(self.lab.store.group_leave(uid, self.id)))

    def _changed(self, change: MemberChange) -> MemberChange:
        self.events.append(change)
        return change

    def send(self) -> int:
        return self.lab.commit(self.owner, group=self.id).seq

    def hint(self, seq: int, version: int = 0) -> Hint:
        """What a node would tell B of the message ``seq``."""
        message = Message(self.id, seq, self.owner, "", "x", 0, group=self.id)
        newest = version or now(self.lab.store.membership(self.id)).version
        return Hint(message, newest, SqliteStore.past, tuple(self.members))

    def pushed(self, client: Client) -> list[int]:
        return client.pushed.get(self.id, [])


@pytest.fixture
def lab(inline_store: InlineStore) -> Iterator[Lab]:
    lab = Lab(inline_store, "AB")
    yield lab
    lab.stop()


def test_an_event_that_comes_late_brings_nobody_back(lab: Lab) -> None:
    group = Group(lab, 2)
    bob, cat = group.members
    group.join(cat)
    b, c = lab.client("B", bob).login(), lab.client("B", cat).login()
    lab.settle()
    node = lab.nodes["B"]
    node.deliver(group.hint(group.send()))
    lab.settle()
    joined, left = group.join(bob), group.leave(bob)
    node.deliver(MembersChanged(joined))
    node.deliver(MembersChanged(left))
    node.deliver(MembersChanged(joined))
    lab.settle()
    node.deliver(group.hint(group.send()))
    lab.settle()
    assert group.pushed(b) == []
    assert group.pushed(c) == [1, 2]


@pytest.mark.parametrize("known", [False, True], ids=["members unknown", "members known"])
@pytest.mark.parametrize("times", [1, 2])
def test_an_event_that_comes_late_sends_nobody_away(lab: Lab, known: bool, times: int) -> None:
    group = Group(lab)
    [bob] = group.members
    node = lab.nodes["B"]
    b = lab.client("B", bob).login()
    lab.settle()
    node.deliver(MembersChanged(group.join(bob)))
    left, again = group.leave(bob), group.join(bob)
    node.deliver(MembersChanged(again))
    if known:
        group.send()
        node.deliver(group.hint(1))
        lab.settle()
    for _ in range(times):
        node.deliver(MembersChanged(left))
        lab.settle()
    seq = group.send()
    node.deliver(group.hint(seq))
    lab.settle()
    assert group.pushed(b) == list(range(1, seq + 1))


def test_who_leaves_and_joins_again_at_once_gets_each_message_once(lab: Lab) -> None:
    """A node hears its own events too, later than it has acted on them."""
    group = Group(lab)
    [bob] = group.members
    b = lab.client("B", bob).login()
    lab.settle()
    echoes = []

    def acted(kind: str) -> None:
        b.tell(type=f"group.{kind}", group=group.id)
        while not b.got(f"group.{kind}.ok"):
            for step in list(lab.steps.pending):
                if step.label.startswith("bus."):
                    lab.steps.pending.remove(step)
                    echoes.append(step)
            lab.steps.take(lab.steps.pending[0])
        b.lines.clear()

    for kind in ("join", "leave", "join"):
        acted(kind)
    lab.nodes["B"].deliver(group.hint(group.send()))
    lab.settle()
    for echo in echoes:
        echo.run()
        lab.settle()
    lab.nodes["B"].deliver(group.hint(group.send()))
    lab.settle()
    assert group.pushed(b) == [1, 2]


@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
@pytest.mark.parametrize("heard", ["event", "members", "overview"])
def test_what_was_there_before_one_joined_counts_as_read(lab: Lab, heard: str, again: bool) -> None:
    group = Group(lab)
    [bob] = group.members
    if again:
        group.join(bob)
    a, b = lab.client("A", group.owner).login(), lab.client("B", bob).login()
    lab.settle()
    node = lab.nodes["B"]
    if again:
        group.send()
        lab.advance(7)
        b.tell(type="read", chat=group.id, seq=1)
        lab.settle()
        node.deliver(MembersChanged(group.leave(bob)))
        lab.settle()
    for _ in range(10):
        group.send()
    joined = group.join(bob)
    seq = group.send()
    if heard == "event":
        node.deliver(MembersChanged(joined))
    elif heard == "members":
        node.deliver(group.hint(seq))
    else:
        node.delivery.positions.compare(b.session, now(lab.store.overview(bob)).cursors)
    lab.advance(7)
    a.lines.clear()
    for number in (3, seq - 1):
        b.tell(type="read", chat=group.id, seq=number)
        lab.advance(1)
    assert a.got("read") == []
    b.tell(type="read", chat=group.id, seq=seq)
    lab.advance(1)
    assert [line["seq"] for line in a.got("read")] == [seq]


def test_who_is_removed_while_logging_in_gets_nothing_more(lab: Lab) -> None:
    group = Group(lab, 2)
    bob, cat = group.members
    group.join(cat)
    node = lab.nodes["B"]
    c = lab.client("B", cat).login()
    lab.settle()
    node.deliver(group.hint(group.send()))
    lab.settle()
    node.deliver(MembersChanged(group.join(bob)))
    b = lab.client("B", bob).login()
    lab.steps.until("overview", " = ")
    # The answer with the cursors is on its way; what it says of this group is wrong by now.
    node.deliver(MembersChanged(group.leave(bob)))
    lab.settle()
    assert b.live
    node.deliver(group.hint(group.send()))
    lab.settle()
    assert group.pushed(b) == []
    assert group.pushed(c) == [1, 2]


def test_a_lost_join_is_found_while_the_account_logs_in(lab: Lab) -> None:
    """The cursors were read before the join, the members after it; nobody tells B of the join."""
    group = Group(lab, 2)
    bob, cat = group.members
    group.join(cat)
    node = lab.nodes["B"]
    c = lab.client("B", cat).login()
    lab.settle()
    b = lab.client("B", bob).login()
    lab.steps.until("overview", " = ")
    group.join(bob)
    node.deliver(group.hint(group.send()))
    while any("membership" in step.label for step in lab.steps.pending):
        lab.steps.happen("membership")
    lab.settle()
    node.deliver(group.hint(group.send()))
    lab.settle()
    assert group.pushed(b) == group.pushed(c) == [1, 2]


@pytest.mark.parametrize("connected", [False, True])
def test_a_lost_join_is_found_by_the_sweep(lab: Lab, connected: bool) -> None:
    group = Group(lab, 2)
    bob, cat = group.members
    if connected:
        group.join(cat)
    c = lab.client("B", cat).login()
    b = lab.client("B", bob).login()
    lab.settle()
    group.join(bob)
    group.send()
    lab.advance(6)
    assert group.pushed(b) == [1]
    assert group.pushed(c) == ([1] if connected else [])
    lab.nodes["B"].deliver(group.hint(group.send()))
    lab.settle()
    assert group.pushed(b) == [1, 2]


def test_a_lost_join_is_found_by_the_sweep_while_older_members_are_being_read(lab: Lab) -> None:
    group = Group(lab, 2)
    bob, cat = group.members
    group.join(cat)
    node = lab.nodes["B"]
    c, b = lab.client("B", cat).login(), lab.client("B", bob).login()
    lab.settle()
    node.deliver(group.hint(group.send()))
    lab.steps.happen("B.store.membership")
    # The answer that is on its way knows nothing of this.
    group.join(bob)
    group.send()
    answer = lab.steps.hold("membership", " = ")
    lab.advance(6)
    lab.steps.pending.append(answer)
    lab.advance(1)
    assert group.pushed(c) == [1, 2]
    assert group.pushed(b) == [2]


def test_members_read_before_the_chat_was_entered_anew_send_nobody_away(lab: Lab) -> None:
    """An answer that is older than the session it would send away."""
    group = Group(lab, 2)
    bob, cat = group.members
    group.join(cat)
    node = lab.nodes["B"]
    c = lab.client("B", cat).login()
    lab.settle()
    group.send()
    c.tell(type="typing", group=group.id)
    lab.steps.happen("B.store.membership")
    group.join(bob)
    old = lab.steps.hold("membership", " = ")
    c.link.lose()
    b = lab.client("B", bob).login()
    lab.settle()
    old.run()
    lab.settle()
    node.deliver(group.hint(group.send()))
    lab.settle()
    node.deliver(group.hint(group.send()))
    lab.settle()
    assert group.pushed(b) == [2, 3]


@pytest.mark.parametrize("false", [3, 4, 9])
@pytest.mark.parametrize("told_by", ["hint", "sweep"])
def test_a_message_that_comes_while_a_false_head_is_corrected(lab: Lab, false: int, told_by: str) -> None:
    """The store has nothing for what was promised; while that is found out, the next message is committed."""
    group = Group(lab)
    [bob] = group.members
    group.join(bob)
    node = lab.nodes["B"]
    b = lab.client("B", bob).login()
    lab.settle()
    for _ in range(2):
        node.deliver(group.hint(group.send()))
    lab.settle()
    node.delivery.positions.raise_head(node.delivery.chats[group.id], false)
    lab.steps.until("B.store.membership", " = ")
    correction = lab.steps.hold("B.store.membership", " = ")
    assert group.send() == 3
    if told_by == "hint":
        node.deliver(group.hint(3))
    else:
        lab.advance(6)
    correction.run()
    lab.settle()
    assert group.pushed(b) == [1, 2, 3]
    node.deliver(group.hint(group.send()))
    lab.settle()
    assert group.pushed(b) == [1, 2, 3, 4]
    assert node.delivery.chats[group.id].head == 4


def test_a_member_version_that_does_not_exist_holds_nothing_up(lab: Lab) -> None:
    group = Group(lab)
    [bob] = group.members
    group.join(bob)
    b = lab.client("B", bob).login()
    lab.settle()
    lab.nodes["B"].deliver(group.hint(group.send(), version=99))
    lab.settle()
    lab.nodes["B"].deliver(group.hint(group.send()))
    lab.settle()
    assert group.pushed(b) == [1, 2]
    assert not [step for step in lab.steps.pending if "membership" in step.label]


def test_messages_held_back_while_the_members_cannot_be_read_are_bounded(lab: Lab) -> None:
    group = Group(lab)
    [bob] = group.members
    group.join(bob)
    b = lab.client("B", bob).login()
    lab.settle()
    node = lab.nodes["B"]
    lab.backends["B"][0].fault = lambda method: "before" if method in ("membership", "changes") else ""
    for _ in range(1_500):
        node.deliver(group.hint(group.send()))
    lab.advance(2)
    waiting = node.delivery.chats[group.id].waiting
    assert waiting is not None
    assert len(waiting) == 1_000
    lab.backends["B"][0].fault = lambda method: ""
    lab.advance(10)
    assert group.pushed(b) == list(range(1, 1_501))


def test_a_chat_nobody_here_is_in_is_not_kept(lab: Lab) -> None:
    group = Group(lab, 2)
    bob, cat = group.members
    group.join(bob)
    node = lab.nodes["B"]
    c = lab.client("B", cat).login()
    lab.settle()
    node.deliver(group.hint(group.send()))
    node.deliver(Hint(group.hint(1).message, 2, SqliteStore.past, (cat,)))
    node.deliver(MembersChanged(group.leave(bob)))
    node.deliver(MembersChanged(MemberChange(group.id, bob, "join", 2, 0)))
    lab.advance(6)
    assert not node.delivery.chats
    assert group.pushed(c) == []


def test_joining_what_one_was_added_to_meanwhile_skips_nothing(lab: Lab) -> None:
    """Bob was added elsewhere and the event is on its way; his own joining changes nothing any more."""
    group = Group(lab)
    [bob] = group.members
    b = lab.client("B", bob).login()
    lab.settle()
    now(lab.store.group_add(group.owner, group.id, bob))
    group.send()
    b.tell(type="group.join", group=group.id)
    lab.settle()
    assert b.got("group.join.ok")
    lab.nodes["B"].deliver(group.hint(group.send()))
    lab.settle()
    assert group.pushed(b) == [1, 2]


def test_an_event_that_changed_nothing_does_not_hide_one_that_did(lab: Lab) -> None:
    """It carries the version of a change that B has not heard of."""
    group = Group(lab, 2)
    bob, cat = group.members
    group.join(cat)
    group.join(bob)
    node = lab.nodes["B"]
    b, c = lab.client("B", bob).login(), lab.client("B", cat).login()
    lab.settle()
    node.deliver(group.hint(group.send()))
    lab.settle()
    left = group.leave(bob)
    node.deliver(MembersChanged(group.join(cat)))
    node.deliver(MembersChanged(left))
    lab.settle()
    node.deliver(group.hint(group.send()))
    lab.settle()
    assert group.pushed(b) == [1]
    assert group.pushed(c) == [1, 2]


def test_the_other_one_of_a_new_pair_is_found_though_its_chat_came_with_a_login(lab: Lab) -> None:
    """Bob is here since before the first message; Ann logs in here before the hint about it arrives."""
    ann, bob = lab.accounts(2)
    b = lab.client("B", bob).login()
    lab.settle()
    receipt = lab.commit(ann, bob)
    a = lab.client("B", ann).login()
    lab.settle()
    message = Message(receipt.chat, 1, ann, "", "x", receipt.at, to=bob)
    lab.nodes["B"].deliver(Hint(message, 1, SqliteStore.past, (bob,)))
    lab.advance(6)
    assert b.pushed == {receipt.chat: [1]}
    assert a.pushed == {}


def test_one_lost_leave_and_one_lost_join_are_found_together(lab: Lab) -> None:
    """The only one of a chat that B knew is gone, and another one is in it: the chat stays."""
    group = Group(lab, 2)
    bob, cat = group.members
    group.join(cat)
    node = lab.nodes["B"]
    b, c = lab.client("B", bob).login(), lab.client("B", cat).login()
    lab.settle()
    group.leave(cat)
    group.join(bob)
    lab.advance(6)
    for _ in range(2):
        node.deliver(group.hint(group.send()))
        lab.settle()
    assert group.pushed(b) == [1, 2]
    assert group.pushed(c) == []
    assert b.session.chats == [node.delivery.chats[group.id]]


def test_what_was_said_between_leaving_and_joining_again_is_not_shown(lab: Lab) -> None:
    """B has heard nothing of the leaving, and holds back two messages from that time when she joins again."""
    group = Group(lab, 2)
    bob, cat = group.members
    group.join(cat)
    group.join(bob)
    node = lab.nodes["B"]
    b, c = lab.client("B", bob).login(), lab.client("B", cat).login()
    lab.settle()
    node.deliver(group.hint(group.send()))
    lab.settle()
    group.leave(bob)
    for _ in range(2):
        node.deliver(group.hint(group.send()))
    lab.steps.happen("B.store.membership")
    node.deliver(MembersChanged(group.join(bob)))
    lab.settle()
    node.deliver(group.hint(group.send()))
    lab.settle()
    assert group.pushed(b) == [1, 4]
    assert group.pushed(c) == [1, 2, 3, 4]
