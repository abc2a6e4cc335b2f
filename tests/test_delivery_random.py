"""Everything at random: a bus that shuffles, drops and doubles, people who come, go, join, leave, choke and write.

Whatever happens, on one connection the pushes of a chat strictly ascend, none is the
account's own, none is from outside a membership; and when the noise is over and the
sweeps have run, nothing is missing.  A failure names its seed; the same seed is the
same run.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from delivery_backends import InlineStore, opened_store
from delivery_lab import BIG, Client, Lab
from delivery_steps import now

from flux.chat.positions import Positions
from flux.chat.session import Session
from flux.model.bus import BusEvent, Hint
from flux.model.chats import Cursor, MemberChange


@pytest.fixture
def inline_store(tmp_path: Path) -> Iterator[InlineStore]:
    with opened_store(tmp_path) as store:
        yield store


class Memberships:
    """Who was in which group from which message to which, as the store committed it.

    It stands between a store and its users and listens to what the store answers.
    """

    def __init__(self, store: InlineStore) -> None:
        self.versions: dict[int, int] = {}
        self.stretches: dict[tuple[int, int], list[list[int]]] = {}
        for kind in ("join", "leave", "add", "remove"):
            self._listen(store, f"group_{kind}")

    def _listen(self, store: InlineStore, method: str) -> None:
        inner = getattr(store, method)

        def call(*arguments: Any) -> Any:
            answer = inner(*arguments)
            answer.addCallbacks(self._note, lambda failure: failure)
            return answer

        setattr(store, method, call)

    def _note(self, change: MemberChange) -> MemberChange:
        if change.version > self.versions.get(change.chat, 1):
            self.versions[change.chat] = change.version
            stretches = self.stretches.setdefault((change.chat, change.id), [])
            if change.change in ("join", "add"):
                stretches.append([change.head + 1, BIG])
            else:
                stretches[-1][1] = change.head
        return change

    def founded(self, group: int, owner: int) -> None:
        self.stretches[group, owner] = [[1, BIG]]

    def first(self, chat: int, uid: int) -> int:
        """The first message of the present membership; 0 without one."""
        stretches = self.stretches.get((chat, uid))
        return stretches[-1][0] if stretches and stretches[-1][1] == BIG else 0

    def cover(self, chat: int, uid: int, seq: int) -> bool:
        return any(first <= seq <= last for first, last in self.stretches.get((chat, uid), ()))


class Town(Lab):
    """Five people, two groups and three nodes, and what is true of what the people are shown."""

    def __init__(self, store: InlineStore, rng: random.Random) -> None:
        self.bases: dict[Session, dict[int, int]] = {}
        names, catchups = "ABC"[: rng.choice((1, 2, 3))], rng.choice((1, 2, 64))
        # Sometimes every answer comes inside the call.
        super().__init__(store, names, stepped=rng.random() < 0.8, limits__catchups=catchups)
        self.rng = rng
        self.memberships = Memberships(store)
        self.people = self.accounts(5)
        self.groups: list[int] = []
        for owner in self.people[:2]:
            self.groups.append(now(store.group_create(owner, "group", "", False, False)).group)
            self.memberships.founded(self.groups[-1], owner)
        for uid in self.people[1:3]:
            now(store.group_join(uid, self.groups[0]))
        self.seen: dict[int, set[tuple[int, int]]] = {uid: set() for uid in self.people}
        self.left: set[tuple[Client, int]] = set()
        self.joining: Counter[tuple[Client, int]] = Counter()
        self.adding: Counter[tuple[int, int]] = Counter()

    def new_node(self, name: str) -> Any:
        node = super().new_node(name)
        self._note_bases(node.delivery.positions)
        return node

    def _note_bases(self, positions: Positions) -> None:
        enter = positions.enter

        def entering(session: Session, cursors: list[Cursor]) -> None:
            bases = self.bases.setdefault(session, {})
            for cursor in cursors:
                bases.setdefault(cursor.chat, cursor.received)
            enter(session, cursors)

        positions.enter = entering  # type: ignore[method-assign, assignment]

    def arrived(self, client: Client, chat: int, seq: int) -> None:
        self.seen[client.uid].add((chat, seq))
        if chat in self.groups:
            self.require(
                self.memberships.cover(chat, client.uid, seq), f"{client.uid} got {chat}/{seq} from outside its time"
            )
            out = (client, chat) in self.left and not self.joining[client, chat]
            self.require(not out, f"{client.uid} got {chat}/{seq} after it had left")

    def line(self, client: Client, value: dict[str, Any]) -> None:
        if value["type"] == "group.leave.ok":
            self.left.add((client, value["group"]))
        elif value["type"] == "group.join.ok":
            self.left.discard((client, value["group"]))
        if value.get("request") == "group.join" or value["type"] == "group.join.ok":
            self.joining[client, value["ref"]] -= 1
        if value.get("request", value["type"]).startswith(("group.add", "group.remove")):
            uid, group = map(int, value["ref"].split())
            self.adding[uid, group] -= 1

    # --- what people and the world do ---

    def open(self) -> list[Client]:
        return [client for client in self.clients if not client.link.lost and client.live]

    def act(self) -> None:
        """One thing happens."""
        rng = self.rng
        if rng.random() < 0.6:
            ready = self.steps.ready()
            if ready:
                self.steps.take(rng.choice(ready))
                return
        [action] = rng.choices(ACTIONS, WEIGHTS)
        action(self)

    def someone(self) -> Client | None:
        clients = self.open()
        return self.rng.choice(clients) if clients else None

    def log_in(self) -> None:
        uid, node = self.rng.choice(self.people), self.rng.choice("".join(self.nodes))
        client = self.client(node, uid, buffer=self.rng.choice((300, BIG))).login(acks=self.rng.random() < 0.5)
        # What was asked for on earlier connections may be granted when this one has left the group.
        for (other, group), asked in list(self.joining.items()):
            if other.uid == uid and asked % BIG:
                self.joining[client, group] += BIG
        for (added, group), asked in self.adding.items():
            if added == uid and asked:
                self.joining[client, group] += BIG

    def send(self) -> None:
        if client := self.someone():
            if self.rng.random() < 0.6:
                client.tell(type="send", group=self.rng.choice(self.groups), text="x")
            else:
                client.tell(type="send", to=self.rng.choice(self.people), text="x")

    def send_from_elsewhere(self) -> None:
        """A node that is gone after the commit."""
        uid, group = self.rng.choice(self.people), self.rng.choice(self.groups)
        if self.memberships.first(group, uid):
            self.commit(uid, group=group)

    def join(self) -> None:
        if client := self.someone():
            group = self.rng.choice(self.groups)
            self._may_be_in(group, client.uid, except_for=client)
            self.joining[client, group] += 1
            client.tell(type="group.join", group=group, ref=group)

    def leave(self) -> None:
        if client := self.someone():
            client.tell(type="group.leave", group=self.rng.choice(self.groups))

    def add_or_remove(self) -> None:
        if client := self.someone():
            uid, group = self.rng.choice(self.people), self.rng.choice(self.groups)
            self._may_be_in(group, uid)
            self.adding[uid, group] += 1
            kind = self.rng.choice(("group.add", "group.remove"))
            client.tell(type=kind, group=group, id=uid, ref=f"{uid} {group}")

    def _may_be_in(self, group: int, uid: int, except_for: Client | None = None) -> None:
        """From now on the account may be in again at any moment without being told on these connections."""
        for other in self.clients:
            if other.uid == uid and other is not except_for:
                self.joining[other, group] += BIG

    def acknowledge(self) -> None:
        client = self.someone()
        if client and client.pushed:
            chat = self.rng.choice(list(client.pushed))
            client.tell(type=self.rng.choice(("received", "read")), chat=chat, seq=self.rng.choice(client.pushed[chat]))

    def choke(self) -> None:
        if client := self.someone():
            client.link.stuck = True

    def unchoke(self) -> None:
        stuck = [client for client in self.clients if client.link.stuck]
        if stuck:
            self.rng.choice(stuck).link.unstick()

    def go(self) -> None:
        if client := self.someone():
            self.rng.choice((client.link.lose, client.link.reset, lambda: client.tell(type="logout")))()

    def wait(self) -> None:
        self.clock.advance(self.rng.choice((0.0, 0.3, 1.0, 2.5)))
        self._tick()

    def gap(self) -> None:
        self.bus.gap(self.rng.choice(list(self.nodes.values())))

    def wipe(self) -> None:
        """The shared state forgets every route."""
        for uid, route in now(self.state.routes(self.people)).items():
            now(self.state.release(uid, route))

    # --- the end ---

    def calm_down(self) -> None:
        """No more noise: everybody reads, and the sweeps run."""
        for client in self.clients:
            client.link.unstick()
        self.advance(12)
        for client in self.open():
            client.link.unstick()
        self.advance(12)

    def check(self) -> None:
        for uid in self.people:
            sessions = [client for client in self.clients if client.uid == uid and client.live]
            self.require(len(sessions) <= 1, f"{uid} has {len(sessions)} sessions")
            overview = now(self.store.overview(uid))
            for client in sessions:
                self.require(client.session.number == overview.session, f"the session of {uid} is not its newest")
                self.require(client.session.live, f"the session of {uid} is not live")
                for cursor in overview.cursors:
                    self._check_chat(client, cursor)

    def _check_chat(self, client: Client, cursor: Cursor) -> None:
        chat = cursor.chat
        base = self.bases[client.session].get(chat, 0)
        if not cursor.peer:
            base = max(base, self.memberships.first(chat, client.uid) - 1)
        wanted = self.from_others(client.uid, chat, base, cursor.head)
        got = [seq for seq in client.pushed.get(chat, ()) if seq > base]
        self.require(got == wanted, f"{client.uid} was pushed {got} of {chat} instead of {wanted}")

    def from_others(self, uid: int, chat: int, after: int, head: int) -> list[int]:
        messages = now(self.store.fill(uid, chat, after, 10_000))
        return [message.seq for message in messages if message.sender != uid and message.seq <= head]

    def check_cursors(self) -> None:
        """Everybody acknowledges everything: the cursors reach the heads."""
        for client in self.open():
            for chat, seqs in client.pushed.items():
                if client.session.acks:
                    client.tell(type="received", chat=chat, seq=seqs[-1])
        self.advance(3)
        for client in self.open():
            for cursor in now(self.store.overview(client.uid)).cursors:
                self.require(
                    cursor.received == cursor.head,
                    f"{client.uid} has received {cursor.received} of {cursor.head} in {cursor.chat}",
                )

    def check_nothing_lost(self) -> None:
        """Everybody logs in once more: with that, each has seen all there is of the chats it is in."""
        for client in self.clients:
            client.link.lose()
        self.settle()
        for uid in self.people:
            self.client("A", uid).login(acks=True)
        self.advance(6)
        self.check()
        for uid in self.people:
            for cursor in now(self.store.overview(uid)).cursors:
                wanted = {(cursor.chat, seq) for seq in self.from_others(uid, cursor.chat, 0, cursor.head)}
                missing = wanted - self.seen[uid]
                self.require(not missing, f"{uid} never saw {sorted(missing)}")


ACTIONS: list[Callable[[Town], None]]
WEIGHTS: list[int]
ACTIONS, WEIGHTS = zip(  # type: ignore[assignment]
    *{
        Town.log_in: 8,
        Town.send: 30,
        Town.send_from_elsewhere: 3,
        Town.join: 8,
        Town.leave: 6,
        Town.add_or_remove: 3,
        Town.acknowledge: 8,
        Town.choke: 4,
        Town.unchoke: 4,
        Town.go: 3,
        Town.wait: 6,
        Town.gap: 1,
        Town.wipe: 1,
    }.items(),
    strict=True,
)


def noise(rng: random.Random) -> Callable[[BusEvent], int]:
    """How often an event arrives: sometimes all do, sometimes none."""
    lost, doubled = rng.choice(((0.0, 0.0), (0.0, 0.5), (0.3, 0.2), (0.7, 0.1), (1.0, 0.0)))
    only_hints = rng.random() < 0.3

    def copies(event: BusEvent) -> int:
        if only_hints and not isinstance(event, Hint):
            return 1
        return 0 if rng.random() < lost else 2 if rng.random() < doubled else 1

    return copies


@pytest.mark.parametrize("seed", range(120))
def test_nothing_is_lost_doubled_or_reordered(inline_store: InlineStore, seed: int) -> None:
    rng = random.Random(seed)
    town = Town(inline_store, rng)
    town.bus.copies = noise(rng)
    for uid in town.people:
        town.client(rng.choice("".join(town.nodes)), uid).login(acks=rng.random() < 0.5)
    if rng.random() < 0.7:
        town.settle()
    for _ in range(400):
        town.act()
        assert not town.broken, town.broken
    town.calm_down()
    town.check()
    assert not town.broken, town.broken
    town.check_cursors()
    assert not town.broken, town.broken
    town.check_nothing_lost()
    town.stop()
