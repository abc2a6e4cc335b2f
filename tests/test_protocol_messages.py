"""Messages on the chat port, sentence by sentence: send, typing, and the order of things."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted
from chat_server import PASSWORD, ChatServer, befriend, group_of

from flux.model.messages import Draft


@pytest_twisted.async_yield_fixture
async def server(tmp_path):
    server = await ChatServer(tmp_path).start()
    yield server
    await server.stop()


def texts(page: dict[str, Any]) -> list[str]:
    return [message["text"] for message in page["messages"]]


# --- send --------------------------------------------------------------------


async def test_a_message_to_a_user(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    ok = await ann.ok("send", to=bob.id, text="hello")
    chat, at = ok["chat"], ok["at"]
    assert ok == {"chat": chat, "seq": 1, "at": at, "duplicate": False}
    message = {"chat": chat, "seq": 1, "from": ann.id, "name": "ann", "to": bob.id, "text": "hello", "at": at}
    assert await bob.told("message") == message
    # No friendship is needed, and the sender gets no copy.
    assert await ann.settled() == await bob.settled() == []
    for client in (ann, bob):
        page = await client.ok("history", chat=chat)
        assert page == {"chat": chat, "messages": [{"type": "message", **message}], "more": False}
    answer = await bob.ok("send", to=ann.id, text="hello yourself", cid="c1")
    assert answer == {"chat": chat, "seq": 2, "at": answer["at"], "duplicate": False, "cid": "c1"}
    assert (await ann.told("message"))["seq"] == 2


async def test_a_message_to_a_group(server: ChatServer) -> None:
    ann, bob, cy = await server.people("ann", "bob", "cy")
    group = await group_of(ann, bob, cy)
    ok = await bob.ok("send", group=group, text="hello")
    assert ok == {"chat": group, "seq": 1, "at": ok["at"], "duplicate": False}
    message = {"chat": group, "seq": 1, "from": bob.id, "name": "bob", "group": group, "text": "hello", "at": ok["at"]}
    assert await ann.told("message") == await cy.told("message") == message
    assert await bob.settled() == []


async def test_a_message_to_somebody_on_another_node(server: ChatServer) -> None:
    second = await server.start_node()
    await server.register("ann", "bob", "cy")
    ann, bob, cy = [await server.log_in("ann"), await server.log_in("bob", second), await server.log_in("cy", second)]
    first = await ann.ok("send", to=bob.id, text="1")
    assert (await bob.told("message"))["at"] == first["at"]
    group = (await ann.ok("group.create", name="us"))["group"]
    for client in (bob, cy):
        await client.ok("group.join", group=group)
        await ann.told("group.changed")
    await ann.ok("send", group=group, text="2")
    assert (await bob.told("message"))["text"] == (await cy.told("message"))["text"] == "2"
    await cy.ok("send", group=group, text="3")
    assert (await ann.told("message"))["text"] == (await bob.told("message"))["text"] == "3"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"text": "x"}, "bad_request"),
        ({"text": "x", "to": 2, "group": 1}, "bad_request"),
        ({"to": 2}, "bad_request"),
        ({"text": "", "to": 2}, "bad_request"),
        ({"text": "x" * 8001, "to": 2}, "too_large"),
        ({"text": "x", "to": 2, "cid": ""}, "bad_request"),
        ({"text": "x", "to": 2, "cid": "x" * 65}, "too_large"),
        ({"text": "x", "to": 2, "cid": 5}, "bad_request"),
        ({"text": "x", "to": 0}, "bad_request"),
        ({"text": "x", "to": 1}, "bad_request"),
        ({"text": "x", "to": 99}, "user_invalid"),
        ({"text": "x", "to": 2**63 - 1}, "user_invalid"),
        ({"text": "x", "group": 99}, "not_found"),
        ({"text": "x", "group": 2**63 - 1}, "not_found"),
        ({"text": "x", "group": 1}, "forbidden"),
    ],
)
async def test_messages_that_are_refused(server: ChatServer, fields: dict[str, Any], error: str) -> None:
    ann, bob = await server.people("ann", "bob")
    assert (await bob.ok("group.create", name="bob's"))["group"] == 1
    assert await ann.refused("send", **fields) == error
    # A bad one never fails its neighbours.
    ann.tell("send", ref=1, to=bob.id, text="before")
    ann.tell("send", ref=2, **fields)
    ann.tell("send", ref=3, to=bob.id, text="after")
    replies = [await ann.reply(ref) for ref in (1, 2, 3)]
    assert [reply["type"] for reply in replies] == ["send.ok", "error", "send.ok"]
    assert [(await bob.told("message"))["seq"] for _ in range(2)] == [1, 2]
    assert await bob.settled() == []


@pytest.mark.parametrize(
    "text",
    ["x", "x" * 8000, "\U0001f600" * 8000, "a\nb\r\n\tc", '"\\/', "\x01\x1f\x7f", "\u2028", "e\u0301", " ", "\ufeff"],
)
async def test_a_text_arrives_as_it_was(server: ChatServer, text: str) -> None:
    ann, bob = await server.people("ann", "bob")
    await ann.ok("send", to=bob.id, text=text, cid=text[:64])
    assert (await bob.told("message"))["text"] == text
    assert texts(await bob.ok("history", to=ann.id)) == [text]


async def test_replies_come_in_the_order_of_the_sends_and_seqs_have_no_gaps(server: ChatServer) -> None:
    ann, bob, cy = await server.people("ann", "bob", "cy")
    group = await group_of(ann, bob, cy)
    for number in range(100):
        for client in (ann, bob, cy):
            client.tell("send", ref=number, group=group, text=f"{client.id}:{number}")
    orders = []
    for client in (ann, bob, cy):
        own = {(await client.reply(number))["seq"]: f"{client.id}:{number}" for number in range(100)}
        assert list(own) == sorted(own)
        pushed = [await client.told("message") for _ in range(200)]
        assert [message["seq"] for message in pushed] == sorted(message["seq"] for message in pushed)
        orders.append(sorted({**own, **{message["seq"]: message["text"] for message in pushed}}.items()))
    assert orders[0] == orders[1] == orders[2]
    assert [seq for seq, _ in orders[0]] == list(range(1, 301))


async def test_a_thousand_sends_at_once_are_all_answered_in_order(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    lines = [{"type": "send", "ref": number, "to": bob.id, "text": f"{number}"} for number in range(1000)]
    ann.raw("".join(json.dumps(line) + "\n" for line in lines).encode())
    ann.tell("ping", ref="last")
    await ann.reply(999)
    await ann.reply("last")
    assert [line["ref"] for line in ann.lines if line["type"] == "send.ok"] == list(range(1000))
    assert [(await bob.told("message"))["text"] for _ in range(1000)] == [f"{number}" for number in range(1000)]


@pytest.mark.parametrize("acks", [True, False])
async def test_after_a_login_comes_what_was_missed_and_then_what_is_new(server: ChatServer, acks: bool) -> None:
    ann, cy = await server.people("ann", "cy")
    [uid] = await server.register("bob")
    group = await group_of(ann, cy)
    await ann.ok("group.add", group=group, id=uid)
    missed = [Draft(ann.id, uid, 0, "x"), Draft(cy.id, 0, group, "x"), Draft(cy.id, uid, 0, "x")] * 250
    await server.store.append(missed)
    bob = await server.connect()
    bob.tell("login", id=uid, password=PASSWORD, acks=acks)
    for number in range(50):
        ann.tell("send", ref=number, to=uid, text="x")
        cy.tell("send", ref=number, group=group, text="x")
    for number in range(50):
        await ann.reply(number)
        await cy.reply(number)
    seen: dict[int, list[int]] = {}
    for _ in range(3 * 250 + 2 * 50):
        message = await bob.told("message")
        seen.setdefault(message["chat"], []).append(message["seq"])
    assert bob.lines[0]["type"] == "login.ok"
    await bob.told("login.ok")
    assert sorted(len(seqs) for seqs in seen.values()) == [250, 300, 300]
    assert all(seqs == list(range(1, len(seqs) + 1)) for seqs in seen.values())
    assert await bob.settled() == []


# --- cid ---------------------------------------------------------------------


async def test_the_same_cid_again_returns_the_first_receipt(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    first = await ann.ok("send", to=bob.id, text="once", cid="c")
    again = await ann.ok("send", to=bob.id, text="once", cid="c")
    assert again == {**first, "duplicate": True}
    await bob.told("message")
    assert await bob.settled() == []
    assert texts(await bob.ok("history", to=ann.id)) == ["once"]


async def test_the_same_cid_twice_in_one_go(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    for ref, text in enumerate(("a", "a", "b", "a")):
        ann.tell("send", ref=ref, to=bob.id, text=text, cid="c")
    replies = [await ann.reply(ref) for ref in range(4)]
    assert [reply.get("duplicate", reply.get("name")) for reply in replies] == [False, True, "bad_request", True]
    assert {reply["seq"] for reply in replies if "seq" in reply} == {1}
    assert [line["text"] for line in await bob.settled()] == ["a"]


async def test_a_cid_counts_per_sender_and_chat_and_exactly(server: ChatServer) -> None:
    ann, bob, cy = await server.people("ann", "bob", "cy")
    group = await group_of(ann, bob)
    seen = [
        await ann.ok("send", to=bob.id, text="x", cid="c"),
        await ann.ok("send", to=cy.id, text="y", cid="c"),
        await ann.ok("send", group=group, text="z", cid="c"),
        await bob.ok("send", to=ann.id, text="x", cid="c"),
        await ann.ok("send", to=bob.id, text="x", cid="C"),
        await ann.ok("send", to=bob.id, text="x", cid="c "),
        await ann.ok("send", to=bob.id, text="x", cid="\u0063\u0327"),
        await ann.ok("send", to=bob.id, text="x", cid="\u00e7"),
    ]
    assert not any(ok["duplicate"] for ok in seen)
    assert len({(ok["chat"], ok["seq"]) for ok in seen}) == len(seen)


async def test_the_same_cid_with_another_text_is_refused(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    await ann.ok("send", to=bob.id, text="one", cid="c")
    error = await ann.fails("send", to=bob.id, text="two", cid="c")
    assert (error["name"], error["detail"][:4]) == ("bad_request", "cid:")


async def test_a_cid_is_known_even_to_who_may_not_send_any_more(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    group = await group_of(ann, bob)
    in_group = await bob.ok("send", group=group, text="x", cid="c")
    in_pair = await bob.ok("send", to=ann.id, text="x", cid="c")
    await bob.ok("group.leave", group=group)
    await ann.ok("user.block", id=bob.id)
    assert await bob.ok("send", group=group, text="x", cid="c") == {**in_group, "duplicate": True}
    assert await bob.ok("send", to=ann.id, text="x", cid="c") == {**in_pair, "duplicate": True}
    assert await bob.refused("send", group=group, text="y", cid="c") == "bad_request"
    assert await bob.refused("send", to=ann.id, text="y", cid="c") == "bad_request"
    assert await bob.refused("send", group=group, text="x", cid="d") == "forbidden"
    assert await bob.refused("send", to=ann.id, text="x", cid="d") == "forbidden"


async def test_a_cid_is_known_for_ever(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    first = await ann.ok("send", to=bob.id, text="x", cid="c")
    for number in range(50):
        await ann.ok("send", to=bob.id, text=f"{number}")
    await server.advance(10)
    again = await server.log_in("ann", await server.start_node())
    assert await again.ok("send", to=bob.id, text="x", cid="c") == {**first, "duplicate": True}


# --- typing ------------------------------------------------------------------


async def test_typing_is_shown_to_the_others(server: ChatServer) -> None:
    ann, bob, cy = await server.people("ann", "bob", "cy")
    group = await group_of(ann, bob, cy)
    chat = (await ann.ok("send", to=bob.id, text="1"))["chat"]
    await ann.ok("send", to=cy.id, text="1")
    for client in (bob, cy):
        await client.told("message")
    ann.tell("typing", to=bob.id)
    assert await bob.told("typing") == {"chat": chat, "from": ann.id}
    bob.tell("typing", to=ann.id)
    assert await ann.told("typing") == {"chat": chat, "from": bob.id}
    ann.tell("typing", group=group)
    assert await bob.told("typing") == await cy.told("typing") == {"chat": group, "from": ann.id}
    for client in (ann, bob, cy):
        assert await client.settled() == []


async def test_typing_where_one_may_not_send_reaches_nobody(server: ChatServer) -> None:
    ann, bob, cy = await server.people("ann", "bob", "cy")
    group = await group_of(ann, bob)
    await ann.ok("send", to=bob.id, text="1")
    await bob.told("message")
    assert await cy.refused("typing") == "bad_request"
    assert await cy.refused("typing", to=ann.id, group=group) == "bad_request"
    assert await ann.refused("typing", to=ann.id) == "bad_request"
    for fields in ({"group": group}, {"group": 99}, {"to": 99}, {"to": ann.id}):
        cy.tell("typing", **fields)
    for client in (cy, bob, ann):
        assert await client.settled() == []
    await bob.ok("group.leave", group=group)
    bob.tell("typing", group=group)
    await bob.settled()
    assert [line["type"] for line in await ann.settled()] == ["group.changed"]


# --- order -------------------------------------------------------------------


async def test_the_requests_of_one_connection_take_effect_in_order(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    for number in range(1, 11):
        ann.tell("send", to=bob.id, text=f"{number}")
        ann.tell("history", ref=f"h{number}", to=bob.id)
        ann.tell("group.create", ref=f"g{number}", name=f"{number}")
        ann.tell("groups", ref=f"gs{number}")
    for number in range(1, 11):
        assert len((await ann.reply(f"h{number}"))["messages"]) == number
        group = (await ann.reply(f"g{number}"))["group"]
        assert (await ann.reply(f"gs{number}"))["groups"][-1]["group"] == group
    assert [line["type"] for line in ann.lines[1:5]] == ["send.ok", "history.ok", "group.create.ok", "groups.ok"]


async def test_a_ref_may_be_a_string_or_a_number_and_may_be_left_out(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    for ref in ("r", "", "x" * 64, 0, -7, 2**63 - 1):
        for kind, fields in (
            ("send", {"to": bob.id, "text": "x"}),
            ("chats", {}),
            ("ping", {}),
            ("group.join", {"group": 9}),
        ):
            reply = await ann.ask(kind, ref=ref, **fields)
            assert reply["ref"] == ref
            assert type(reply["ref"]) is type(ref)
    ann.tell("chats")
    assert set(await ann.told("chats.ok")) == {"chats"}


async def test_ping_and_help(server: ChatServer) -> None:
    client = await server.connect()
    assert (await client.ok("ping"))["at"] > 1_700_000_000_000
    [entry] = (await client.ok("help", request="send"))["requests"]
    assert entry["type"] == "send"
    assert entry["fields"]["text"] == "string of at most 8000"
    assert await client.refused("help", request="nope") == "unknown_type"


async def test_a_friend_sees_nothing_of_what_is_not_theirs(server: ChatServer) -> None:
    ann, bob, cy = await server.people("ann", "bob", "cy")
    await befriend(ann, cy)
    await ann.ok("send", to=bob.id, text="secret")
    await ann.ok("group.create", name="mine")
    await bob.ok("send", to=ann.id, text="secret")
    assert await cy.settled() == []
