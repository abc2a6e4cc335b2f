"""What moves cursors, and that nothing a client says makes a message undeliverable."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from chat_server import PASSWORD, ChatServer, Client, group_of
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from flux.model.bus import Kick


@pytest_twisted.async_yield_fixture
async def server(tmp_path):
    server = await ChatServer(tmp_path).start()
    yield server
    await server.stop()


async def received(server: ChatServer, client: Client, chat: int) -> int:
    """The account's cursor in the store, once what moved has been written."""
    await client.settled()
    await server.advance(1)
    return (await server.cursors(client.id))[chat][0]


async def messages(client: Client, count: int) -> list[int]:
    return [(await client.told("message"))["seq"] for _ in range(count)]


# --- acks: true --------------------------------------------------------------


async def test_with_acks_the_cursor_moves_by_received_alone(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    [bob] = await server.people("bob", acks=True)
    for number in range(5):
        chat = (await ann.ok("send", to=bob.id, text=f"{number}"))["chat"]
    assert await messages(bob, 5) == [1, 2, 3, 4, 5]
    assert await received(server, bob, chat) == 0
    bob.tell("read", chat=chat, seq=5)
    assert await received(server, bob, chat) == 0
    for said, counts in ((2, 2), (1, 2), (0, 2), (4, 4)):
        bob.tell("received", chat=chat, seq=said)
        assert await received(server, bob, chat) == counts
    await bob.close()
    await server.advance(2)
    again = await server.log_in("bob", acks=True)
    assert await messages(again, 1) == [5]
    assert await again.settled() == []


@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_with_acks_what_was_not_acknowledged_comes_again(server: ChatServer, ending: str) -> None:
    [ann] = await server.people("ann")
    [uid] = await server.register("bob")
    for number in range(300):
        await ann.ok("send", to=uid, text=f"{number}")
    for _ in range(3):
        bob = await server.log_in("bob", acks=True)
        assert await messages(bob, 300) == list(range(1, 301))
        await server.advance(3)
        await getattr(bob, ending)()
    bob = await server.log_in("bob", acks=True)
    await messages(bob, 300)
    bob.tell("received", chat=1, seq=300)
    await bob.settled()
    await bob.reset()
    # Cursors are written once a second.
    await server.advance(1)
    bob = await server.log_in("bob", acks=True)
    await server.advance(6)
    assert await bob.settled() == []


async def test_received_is_cut_to_what_was_pushed_on_this_connection(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    [bob] = await server.people("bob", acks=True)
    chat = (await ann.ok("send", to=bob.id, text="1"))["chat"]
    bob.tell("received", chat=chat, seq=2**63 - 1)
    await ann.ok("send", to=bob.id, text="2")
    assert await received(server, bob, chat) <= 2
    await ann.ok("send", to=bob.id, text="3")
    await bob.reset()
    await ann.ok("send", to=bob.id, text="4")
    # The cursor did not run ahead of what this connection had brought.
    again = await server.log_in("bob", acks=True)
    assert (await messages(again, 2))[-2:] in ([2, 3], [3, 4])
    assert 4 in {line["seq"] for line in again.lines[1:]} or await messages(again, 1) == [4]


async def test_received_is_cut_while_a_login_is_still_being_filled(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    [uid] = await server.register("bob")
    for number in range(50):
        await ann.ok("send", to=uid, text=f"{number}")
    bob = await server.connect()
    bob.tell("login", name="bob", password=PASSWORD, acks=True)
    bob.tell("received", chat=1, seq=50)
    await bob.told("login.ok")
    await bob.reset()
    await server.advance(2)
    assert await server.cursors(uid) == {1: (0, 0)}
    again = await server.log_in("bob", acks=True)
    assert await messages(again, 50) == list(range(1, 51))


async def test_own_messages_need_no_acknowledgement(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob", acks=True)
    for number in range(3):
        chat = (await bob.ok("send", to=ann.id, text=f"{number}"))["chat"]
    assert await received(server, bob, chat) == 3
    # But they do not carry the cursor over what is not acknowledged.
    await ann.ok("send", to=bob.id, text="4")
    await messages(bob, 1)
    await bob.ok("send", to=ann.id, text="5")
    assert await received(server, bob, chat) == 3
    again = await server.log_in("bob", acks=True)
    assert await messages(again, 1) == [4]
    again.tell("received", chat=chat, seq=4)
    assert await received(server, again, chat) >= 4
    again = await server.log_in("bob", acks=True)
    await server.advance(6)
    assert await again.settled() == []


async def test_read_is_cut_to_the_head(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob", acks=True)
    chat = (await ann.ok("send", to=bob.id, text="1"))["chat"]
    bob.tell("read", chat=chat, seq=2**63 - 1)
    await bob.settled()
    await server.advance(1)
    assert (await server.cursors(bob.id))[chat] == (0, 1)
    await ann.ok("send", to=bob.id, text="2")
    assert [entry["count"] for entry in (await server.log_in("bob")).lines[0]["unread"]] == [1]


async def test_acknowledging_a_foreign_chat_does_nothing(server: ChatServer) -> None:
    ann, bob, cy = await server.people("ann", "bob", "cy", acks=True)
    chat = (await ann.ok("send", to=bob.id, text="1"))["chat"]
    group = await group_of(ann, bob)
    await ann.ok("send", group=group, text="1")
    for number in (chat, group, 99, 2**63 - 1):
        cy.tell("received", chat=number, seq=5)
        cy.tell("read", chat=number, seq=5)
    await cy.settled()
    await server.advance(2)
    assert await server.cursors(cy.id) == {}
    assert await server.cursors(bob.id) == {chat: (0, 0), group: (0, 0)}


async def test_acknowledging_after_leaving_does_nothing_to_a_new_membership(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob", acks=True)
    group = await group_of(ann, bob)
    for number in range(3):
        await ann.ok("send", group=group, text=f"{number}")
    await messages(bob, 3)
    await bob.ok("group.leave", group=group)
    bob.tell("received", chat=group, seq=3)
    await bob.settled()
    await ann.ok("send", group=group, text="not for bob")
    await bob.ok("group.join", group=group)
    bob.tell("received", chat=group, seq=1000)
    bob.tell("received", chat=group, seq=2)
    await bob.settled()
    await ann.ok("send", group=group, text="for bob")
    assert await messages(bob, 1) == [5]
    assert await received(server, bob, group) == 4
    again = await server.log_in("bob", acks=True)
    assert await messages(again, 1) == [5]


async def test_a_superseded_session_moves_no_cursor(server: ChatServer, monkeypatch) -> None:
    second = await server.start_node()
    [ann] = await server.people("ann")
    [older] = await server.people("bob", acks=True)
    chat = (await ann.ok("send", to=older.id, text="1"))["chat"]
    await messages(older, 1)
    publish = server.bus.publish

    async def lossy(node: str, boot: int, event: Any) -> None:
        if not isinstance(event, Kick):
            await publish(node, boot, event)

    monkeypatch.setattr(server.bus, "publish", lossy)
    newer = await server.log_in("bob", second, acks=True)
    await messages(newer, 1)
    # The older one has not heard of it yet: what it says must not count.
    older.tell("received", chat=chat, seq=1)
    older.tell("read", chat=chat, seq=1)
    await older.settled()
    await server.advance(1)
    assert (await server.cursors(older.id))[chat] == (0, 0)
    # Its node finds out by itself.
    await server.advance(6)
    assert (await older.ended())[-1] == {"type": "kicked", "reason": "takeover"}
    assert await server.cursors(older.id) == {chat: (0, 0)}
    newer.tell("received", chat=chat, seq=1)
    assert await received(server, newer, chat) == 1


# --- acks: false -------------------------------------------------------------


async def test_without_acks_the_cursor_follows_what_has_left(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    for number in range(5):
        chat = (await ann.ok("send", to=bob.id, text=f"{number}"))["chat"]
    await messages(bob, 5)
    # Acknowledgements mean nothing here.
    bob.tell("received", chat=chat, seq=2)
    assert await received(server, bob, chat) == 5
    await bob.reset()
    again = await server.log_in("bob")
    await server.advance(6)
    assert await again.settled() == []


async def test_without_acks_what_has_not_left_comes_again(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    await server.register("bob")
    bob = await server.log_in("bob", receive_buffer=4096)
    bob.stop_reading()
    sent = 0
    while not server.node.sessions[bob.id].connection.choked:
        sent += 1
        chat = (await ann.ok("send", to=bob.id, text="x" * 8000))["chat"]
    await server.advance(5)
    assert (await server.cursors(bob.id))[chat][0] == 0
    await bob.reset()
    again = await server.log_in("bob")
    assert await messages(again, sent) == list(range(1, sent + 1))


async def test_without_acks_a_reset_right_after_a_push_loses_nothing(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    bob.stop_reading()
    await ann.ok("send", to=bob.id, text="1")
    await bob.reset()
    again = await server.log_in("bob")
    assert await messages(again, 1) == [1]


async def test_without_acks_an_orderly_end_counts_what_was_read(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    await ann.ok("send", to=bob.id, text="1")
    await messages(bob, 1)
    await bob.close()
    await server.until(lambda: bob.id not in server.node.sessions)
    await server.advance(1)
    assert await server.cursors(bob.id) == {1: (1, 0)}
    again = await server.log_in("bob")
    await server.advance(6)
    assert await again.settled() == []


# --- whatever clients say ----------------------------------------------------

USERS = ("ann", "bob", "cy")
SEQS = st.integers(0, 12) | st.just(2**63 - 1)
OPERATIONS = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 2), st.integers(0, 2)),
    st.tuples(st.sampled_from(["received", "read"]), st.integers(0, 2), st.tuples(st.integers(1, 5), SEQS)),
    st.tuples(st.sampled_from(["vanish", "reconnect", "lie"]), st.integers(0, 2), st.booleans()),
    st.tuples(st.sampled_from(["group.leave", "group.join"]), st.integers(1, 2), st.none()),
    st.tuples(st.just("time"), st.just(0), st.sampled_from([1.0, 6.0])),
)


class Crowd:
    """Three users in pairs and in a group, and what each of them is owed and has seen."""

    def __init__(self, server: ChatServer) -> None:
        self.server = server
        self.clients: list[Client] = []
        self.seen: dict[int, set[tuple[int, int]]] = defaultdict(set)
        self.owed: dict[int, set[tuple[int, int]]] = defaultdict(set)
        self.group = 0
        self.members = {1, 2, 3}

    async def begin(self) -> None:
        self.clients = await self.server.people(*USERS, acks=True)
        self.group = await group_of(*self.clients)

    def note(self, client: Client) -> None:
        """Look at everything that came on a connection: per chat it ascends."""
        heads: dict[int, int] = {}
        for line in client.lines:
            if line["type"] == "message":
                assert line["seq"] > heads.get(line["chat"], 0), "out of order, or twice on one connection"
                heads[line["chat"]] = line["seq"]
                self.seen[client.id].add((line["chat"], line["seq"]))

    async def send(self, who: int, place: int) -> None:
        sender = self.clients[who]
        if sender.closed:
            return
        if place == who:
            ok = await sender.ask("send", group=self.group, text="x")
            receivers = self.members - {sender.id}
            assert (ok["type"] == "send.ok") == (sender.id in self.members)
        else:
            ok = await sender.ask("send", to=self.clients[place].id, text="x")
            receivers = {self.clients[place].id}
        if ok["type"] == "send.ok":
            for uid in receivers:
                self.owed[uid].add((ok["chat"], ok["seq"]))

    async def vanish(self, who: int, acks: bool) -> None:
        """Be away; what had arrived counts as seen."""
        client = self.clients[who]
        if not client.closed:
            await client.settled()
            self.note(client)
            await client.reset()

    async def reconnect(self, who: int, acks: bool) -> None:
        """Be here again, or take over from oneself."""
        if not self.clients[who].closed:
            await self.clients[who].settled()
            self.note(self.clients[who])
        self.clients[who] = await self.server.log_in(USERS[who], acks=acks)

    async def lie(self, who: int, acks: bool) -> None:
        """Be sent to while away, claim everything with the login, before any of it can have come, and vanish."""
        await self.vanish(who, acks)
        for other in range(3):
            if other != who:
                await self.send(other, who)
                await self.send(other, other)
        liar = await self.server.connect()
        liar.tell("login", name=USERS[who], password=PASSWORD, acks=True)
        for chat in range(1, 5):
            liar.tell("received", chat=chat, seq=2**63 - 1)
        await liar.told("login.ok")
        liar.id = self.clients[who].id
        self.note(liar)
        await liar.reset()
        await self.server.advance(1)
        await self.reconnect(who, acks)

    async def change(self, kind: str, who: int) -> None:
        client = self.clients[who]
        if client.closed:
            return
        await client.ask(kind, group=self.group)
        await client.settled()
        self.note(client)
        if kind == "group.leave":
            self.members.discard(client.id)
            self.owed[client.id] = {owed for owed in self.owed[client.id] if owed[0] != self.group}
        else:
            self.members.add(client.id)

    async def end(self) -> None:
        """Whatever was said before: who logs in now has seen, or gets, all that is owed."""
        for who in range(3):
            await self.reconnect(who, True)
        for client in self.clients:

            def everything(client: Client = client) -> bool:
                self.note(client)
                return self.owed[client.id] <= self.seen[client.id]

            if not everything():
                await client.until(everything)


# A failure waits for its deadline: to look for a smaller one would take long.
@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(st.lists(OPERATIONS, min_size=5, max_size=40))
async def test_no_acknowledgement_makes_a_message_undeliverable(operations: list[tuple[str, int, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = await ChatServer(Path(folder)).start()
        try:
            crowd = Crowd(server)
            await crowd.begin()
            for kind, who, what in operations:
                if kind == "send":
                    await crowd.send(who, what)
                elif kind in ("vanish", "reconnect", "lie"):
                    await getattr(crowd, kind)(who, what)
                elif kind == "time":
                    await server.advance(what)
                elif kind in ("received", "read"):
                    crowd.clients[who].tell(kind, chat=what[0], seq=what[1])
                else:
                    await crowd.change(kind, who)
            await crowd.end()
        finally:
            await server.stop()
