"""What was said, on the chat port, sentence by sentence: history, conversations, who has read what."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted
from chat_server import ChatServer, Client, group_of

from flux.model.messages import Draft


@pytest_twisted.async_yield_fixture
async def server(tmp_path):
    server = await ChatServer(tmp_path).start()
    yield server
    await server.stop()


def texts(page: dict[str, Any]) -> list[str]:
    return [message["text"] for message in page["messages"]]


# --- history -----------------------------------------------------------------


async def chat_of(server: ChatServer, count: int, text: str = "") -> tuple[Client, int]:
    """Two users and a chat between them of ``count`` messages, all from the first."""
    ann, bob = await server.register("ann", "bob")
    receipts = await server.store.append([Draft(ann, bob, 0, text or f"{n}") for n in range(1, count + 1)])
    return await server.log_in(ann), receipts[0].chat


async def test_history_is_paged_from_both_ends(server: ChatServer) -> None:
    ann, chat = await chat_of(server, 250)

    async def page(**fields: Any) -> tuple[list[int], bool]:
        found = await ann.ok("history", chat=chat, **fields)
        assert found["chat"] == chat
        return [message["seq"] for message in found["messages"]], found["more"]

    def seqs(first: int, last: int) -> list[int]:
        return list(range(first, last + 1))

    assert await page() == (seqs(201, 250), True)
    assert await page(limit=3) == (seqs(248, 250), True)
    assert await page(limit=200) == (seqs(51, 250), True)
    assert await page(limit=10**9) == (seqs(51, 250), True)
    assert await page(before=4) == (seqs(1, 3), False)
    assert await page(before=5, limit=3) == (seqs(2, 4), True)
    assert await page(before=1) == ([], False)
    assert await page(before=0) == ([], False)
    assert await page(before=2**63 - 1, limit=1) == ([250], True)
    assert await page(after=0) == (seqs(1, 50), True)
    assert await page(after=0, limit=250) == (seqs(1, 200), True)
    assert await page(after=100, limit=2) == (seqs(101, 102), True)
    assert await page(after=247) == (seqs(248, 250), False)
    assert await page(after=250) == ([], False)
    assert await page(after=2**63 - 1) == ([], False)
    for fields in ({"limit": 0}, {"limit": -1}, {"before": -1}, {"after": -1}, {"before": 5, "after": 1}):
        assert await ann.refused("history", chat=chat, **fields) == "bad_request"
    everything: list[int] = []
    while (found := await ann.ok("history", chat=chat, limit=60, **({"before": everything[0]} if everything else {})))[
        "more"
    ]:
        everything = [message["seq"] for message in found["messages"]] + everything
    assert [message["seq"] for message in found["messages"]] + everything == seqs(1, 250)


async def test_history_by_chat_by_user_and_by_group(server: ChatServer) -> None:
    ann, bob, cy = await server.people("ann", "bob", "cy")
    group = await group_of(ann, bob)
    chat = (await ann.ok("send", to=bob.id, text="pair"))["chat"]
    await ann.ok("send", group=group, text="group")
    for client, other in ((ann, bob), (bob, ann)):
        assert await client.ok("history", to=other.id) == await client.ok("history", chat=chat)
        assert await client.ok("history", group=group) == await client.ok("history", chat=group)
    assert texts(await ann.ok("history", to=bob.id)) == ["pair"]
    assert texts(await ann.ok("history", group=group)) == ["group"]
    # A chat that has no messages yet is empty.
    assert await ann.ok("history", to=cy.id) == {"chat": 0, "messages": [], "more": False}
    for fields in ({}, {"chat": chat, "to": bob.id}, {"chat": chat, "group": group}, {"to": bob.id, "group": group}):
        assert await ann.refused("history", **fields) == "bad_request"
    assert await ann.refused("history", to=ann.id) == "user_invalid"
    assert await cy.refused("history", chat=chat) == "forbidden"
    assert await cy.refused("history", chat=group) == "forbidden"
    assert await cy.refused("history", group=group) == "forbidden"
    assert await ann.refused("history", chat=99) == "not_found"
    assert await ann.refused("history", group=99) == "not_found"
    assert await ann.refused("history", group=chat) == "not_found"


async def test_a_reply_stays_within_a_mebibyte_and_says_what_is_missing(server: ChatServer) -> None:
    ann, chat = await chat_of(server, 200, "\x01" * 8000)
    forwards = await ann.ok("history", chat=chat, after=0, limit=200)
    count = len(forwards["messages"])
    assert 10 < count < 30
    assert forwards["more"] is True
    assert [message["seq"] for message in forwards["messages"]] == list(range(1, count + 1))
    assert len(json.dumps(forwards)) < 1024 * 1024
    backwards = await ann.ok("history", chat=chat, limit=200)
    assert backwards["more"] is True
    assert [message["seq"] for message in backwards["messages"]] == list(range(201 - count, 201))
    before = await ann.ok("history", chat=chat, before=101, limit=200)
    assert before["messages"][-1]["seq"] == 100
    seen = 0
    while True:
        page = await ann.ok("history", chat=chat, after=seen, limit=200)
        assert [message["seq"] for message in page["messages"]] == list(
            range(seen + 1, seen + 1 + len(page["messages"]))
        )
        seen += len(page["messages"])
        if not page["more"]:
            break
    assert seen == 200


# --- conversations -----------------------------------------------------------


async def test_the_conversation_list(server: ChatServer) -> None:
    ann, bob, cy = await server.people("ann", "bob", "cy")
    group = await group_of(bob, ann, cy)
    assert await ann.ok("chats") == {"chats": []}
    pair = await bob.ok("send", to=ann.id, text="1")
    await bob.ok("send", group=group, text="2")
    await ann.ok("send", group=group, text="3")
    own = await ann.ok("send", to=cy.id, text="4")
    last = await cy.ok("send", group=group, text="5")
    chats = (await ann.ok("chats"))["chats"]
    assert chats == [
        {
            "chat": group, "group": group, "name": "group", "unread": 2, "read": 0, "read_by": 0,
            "last": {
                "type": "message", "chat": group, "seq": 3, "from": cy.id, "name": "cy", "group": group, "text": "5",
                "at": last["at"],
            },
        },
        {
            "chat": own["chat"], "to": cy.id, "name": "cy", "unread": 0, "read": 0, "read_by": 0,
            "last": {
                "type": "message", "chat": own["chat"], "seq": 1, "from": ann.id, "name": "ann", "to": cy.id,
                "text": "4", "at": own["at"],
            },
        },
        {
            "chat": pair["chat"], "to": bob.id, "name": "bob", "unread": 1, "read": 0, "read_by": 0,
            "last": {
                "type": "message", "chat": pair["chat"], "seq": 1, "from": bob.id, "name": "bob", "to": ann.id,
                "text": "1", "at": pair["at"],
            },
        },
    ]  # fmt: skip
    ann.tell("read", chat=group, seq=2)
    await ann.settled()
    await server.advance(1)
    row = (await ann.ok("chats"))["chats"][0]
    assert (row["unread"], row["read"]) == (1, 2)
    assert [row["read_by"] for row in (await cy.ok("chats"))["chats"]] == [2, 0]


# --- read, received, unread --------------------------------------------------


async def test_in_small_chats_the_others_see_who_has_read(server: ChatServer) -> None:
    ann, bob, cy = await server.people("ann", "bob", "cy")
    group = await group_of(ann, bob, cy)
    chat = (await ann.ok("send", to=bob.id, text="1"))["chat"]
    await ann.ok("send", group=group, text="1")
    # Nobody has read what has not arrived.
    assert [(await bob.told("message"))["chat"] for _ in range(2)] == [chat, group]
    bob.tell("read", chat=chat, seq=1)
    assert await ann.told("read") == {"chat": chat, "id": bob.id, "seq": 1}
    bob.tell("read", chat=group, seq=1)
    assert await ann.told("read") == await cy.told("read") == {"chat": group, "id": bob.id, "seq": 1}
    assert await bob.settled() == []
    # What is not there yet cannot be read, and what was read is not told again, in another session either.
    for _ in range(2):
        for seq in (1000, 1, 0):
            bob.tell("read", chat=group, seq=seq)
            bob.tell("read", chat=chat, seq=seq)
        await bob.settled()
        await server.advance(2)
        assert await ann.settled() == []
        bob = await server.log_in("bob")
    await ann.ok("send", to=bob.id, text="2")
    await bob.told("message")
    bob.tell("read", chat=chat, seq=1000)
    assert await ann.told("read") == {"chat": chat, "id": bob.id, "seq": 2}


async def test_of_what_one_has_joined_or_was_added_to_the_others_see_what_is_read_since(server: ChatServer) -> None:
    ann, bob, cy = await server.people("ann", "bob", "cy")
    group = await group_of(ann)
    for number in range(1, 4):
        await ann.ok("send", group=group, text=f"{number}")
    await bob.ok("group.join", group=group)
    await ann.ok("group.add", group=group, id=cy.id)
    await ann.ok("send", group=group, text="4")
    for newcomer in (bob, cy):
        await newcomer.told("message")
        for seq in (1, 3):
            newcomer.tell("read", chat=group, seq=seq)
        await newcomer.ok("ping")
        await server.advance(2)
        assert [line for line in await ann.settled() if line["type"] == "read"] == []
        newcomer.tell("read", chat=group, seq=4)
        assert await ann.told("read") == {"chat": group, "id": newcomer.id, "seq": 4}


async def test_of_much_reading_the_others_see_a_little_and_the_last_of_it(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    chat = (await ann.ok("send", to=bob.id, text="1"))["chat"]
    for number in range(2, 101):
        await ann.ok("send", to=bob.id, text=f"{number}")
    for seq in range(1, 51):
        bob.tell("read", chat=chat, seq=seq)
    await bob.settled()
    assert [line["seq"] for line in await ann.settled() if line["type"] == "read"] == [1]
    server.clock.advance(0.25)
    for seq in range(51, 101):
        bob.tell("read", chat=chat, seq=seq)
    await bob.settled()
    assert [line["seq"] for line in await ann.settled() if line["type"] == "read"] == [50]
    # Also where the session has ended meanwhile.
    await bob.close()
    server.clock.advance(0.25)
    assert (await ann.told("read"))["seq"] == 100
    await server.advance(2)
    assert await ann.settled() == []


async def test_a_server_that_stops_tells_what_was_read_last(server: ChatServer) -> None:
    second = await server.start_node()
    await server.register("ann", "bob")
    ann, bob = await server.log_in("ann"), await server.log_in("bob", second)
    for number in range(1, 4):
        chat = (await ann.ok("send", to=bob.id, text=f"{number}"))["chat"]
        await bob.told("message")
    for seq in (1, 2, 3):
        bob.tell("read", chat=chat, seq=seq)
    await bob.settled()
    assert (await ann.told("read"))["seq"] == 1
    await server.stop_node(second)
    assert (await ann.told("read"))["seq"] == 3


@pytest.mark.parametrize("apart", [False, True])
async def test_who_has_blocked_and_who_is_blocked_do_not_see_each_other_read_and_type(
    server: ChatServer, apart: bool
) -> None:
    second = await server.start_node() if apart else None
    await server.register("ann", "bob", "cy")
    ann, bob, cy = await server.log_in("ann"), await server.log_in("bob", second), await server.log_in("cy")
    group = await group_of(cy, ann, bob)
    chat = (await ann.ok("send", to=bob.id, text="1"))["chat"]
    for number in range(2, 4):
        await ann.ok("send", to=bob.id, text=f"{number}")
    for number in range(1, 4):
        await cy.ok("send", group=group, text=f"{number}")
    for client, messages in ((ann, 3), (bob, 6)):
        for _ in range(messages):
            await client.told("message")
        await client.settled()

    async def seen(seq: int) -> list[list[tuple[str, int]]]:
        """What ann and bob see of each other when both read and type in both chats."""
        for who, other in ((ann, bob), (bob, ann)):
            for number in (chat, group):
                who.tell("read", chat=number, seq=seq)
            who.tell("typing", to=other.id)
            who.tell("typing", group=group)
            await who.ok("ping")
            assert (await cy.told("read"))["id"] == (await cy.told("typing"))["from"] == who.id
        # Comes to everybody after it, on the same ways.
        await cy.ok("send", group=group, text="that is all")
        await ann.told("message")
        await bob.told("message")
        return [[(line["type"], line["chat"]) for line in await who.settled()] for who in (ann, bob)]

    in_group = [("read", group), ("typing", group)]
    await bob.ok("user.block", id=ann.id)
    assert await seen(1) == [in_group, []]
    # The block holds for who logs in again.
    await server.advance(1)
    bob = await server.log_in("bob", second)
    assert await seen(2) == [in_group, []]
    await server.advance(1)
    await bob.ok("user.unblock", id=ann.id)
    both = [("read", chat), ("read", group), ("typing", chat), ("typing", group)]
    assert await seen(3) == [both, both]


@pytest.mark.parametrize(("size", "seen"), [(50, True), (51, False)])
async def test_chats_of_more_than_50_are_not_told(server: ChatServer, size: int, seen: bool) -> None:
    ann, bob = await server.people("ann", "bob")
    group = await group_of(ann, bob)
    for uid in await server.register(*(f"user {number}" for number in range(size - 2))):
        await server.store.group_add(ann.id, group, uid)
    await server.advance(6)
    await ann.ok("send", group=group, text="1")
    bob.tell("read", chat=group, seq=1)
    await bob.settled()
    assert [line["type"] for line in await ann.settled()] == ["read"] * seen
    await server.advance(1)
    assert (await server.cursors(bob.id))[group][1] == 1


async def test_reading_is_seen_on_other_nodes_too(server: ChatServer) -> None:
    second = await server.start_node()
    await server.register("ann", "bob")
    ann, bob = await server.log_in("ann"), await server.log_in("bob", second)
    chat = (await ann.ok("send", to=bob.id, text="1"))["chat"]
    await bob.told("message")
    bob.tell("read", chat=chat, seq=1)
    assert await ann.told("read") == {"chat": chat, "id": bob.id, "seq": 1}
    ann.tell("typing", to=bob.id)
    assert await bob.told("typing") == {"chat": chat, "from": ann.id}


async def test_unread_counts_what_others_wrote_since_the_last_read(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    group = await group_of(ann, bob)
    for number in range(1, 6):
        await ann.ok("send", group=group, text=f"a{number}")
        await bob.ok("send", group=group, text=f"b{number}")

    async def unread() -> list[dict[str, int]]:
        await server.advance(1)
        return (await server.log_in("bob")).lines[0]["unread"]

    assert await unread() == [{"chat": group, "group": group, "count": 5, "head": 10}]
    bob = await server.log_in("bob")
    bob.tell("read", chat=group, seq=3)
    await bob.settled()
    assert await unread() == [{"chat": group, "group": group, "count": 3, "head": 10}]
    # Received is not read, and what was read stays read.
    bob = await server.log_in("bob", acks=True)
    bob.tell("received", chat=group, seq=10)
    bob.tell("read", chat=group, seq=1)
    await bob.settled()
    assert await unread() == [{"chat": group, "group": group, "count": 3, "head": 10}]
    bob = await server.log_in("bob")
    bob.tell("read", chat=group, seq=10)
    await bob.settled()
    assert await unread() == []


@pytest.mark.parametrize("kind", ["read", "received"])
@pytest.mark.parametrize("fields", [{}, {"chat": 1}, {"seq": 1}, {"chat": "1", "seq": 1}, {"chat": 1, "seq": -1}])
async def test_requests_without_reply_answer_only_with_errors(server: ChatServer, kind: str, fields: dict) -> None:
    [ann] = await server.people("ann")
    error = await ann.fails(kind, **fields)
    assert (error["name"], error["request"]) == ("bad_request", kind)
    ann.tell(kind, **fields)
    assert "ref" not in await ann.told("error")


async def test_requests_without_reply_answer_nothing_on_success(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    chat = (await bob.ok("send", to=ann.id, text="1"))["chat"]
    await ann.told("message")
    for kind, fields in (
        ("read", {"chat": chat, "seq": 1}),
        ("received", {"chat": chat, "seq": 1}),
        ("typing", {"to": bob.id}),
    ):
        ann.tell(kind, ref="r", **fields)
        assert await ann.settled() == []
