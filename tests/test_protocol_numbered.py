"""The numbered dialect on the chat port: the one that the classic cluster chat servers' clients speak."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import pytest_twisted
from chat_server import PASSWORD, ChatServer, Client, befriend, group_of

from flux.model.messages import Draft
from flux.wire.numbered import MAX_LOGIN_ANSWER


@pytest_twisted.async_yield_fixture
async def server(tmp_path):
    server = await ChatServer(tmp_path).start()
    yield server
    await server.stop()
    # Whatever happened: no object without a number to who speaks in numbers.
    for client in server.clients:
        if isinstance(client, ClassicClient):
            assert all("msgid" in line and "type" not in line for line in client.lines)


class ClassicClient(Client):
    """A client that speaks in numbers."""


@pytest.fixture(params=[b"\n", b"\0", b"\r\n"], ids=["newline", "nul", "crlf"])
def end(request) -> bytes:
    return bytes(request.param)


async def connect(server: ChatServer, end: bytes = b"\n") -> Client:
    client = await server.connect()
    client.__class__ = ClassicClient
    client.terminator = end
    return client


async def answer(client: Client, who: str | int, password: str = PASSWORD) -> dict[str, Any]:
    client.number(1, id=who, password=password)
    return await client.numbered(2)


async def log_in(server: ChatServer, uid: int, end: bytes = b"\n") -> Client:
    client = await connect(server, end)
    assert (await answer(client, uid))["errno"] == 0
    client.id = uid
    return client


async def people(server: ChatServer, *names: str) -> list[Client]:
    return [await log_in(server, uid) for uid in await server.register(*names)]


async def settled(client: Client) -> list[dict[str, Any]]:
    """All that came before the answer to a registration, which every connection may make."""
    client.number(4, name=f"barrier {time.monotonic_ns()}", password="123456")
    await client.numbered(5)
    waiting, client.waiting = client.waiting, []
    return waiting


def strings(texts: list[str]) -> list[Any]:
    return [json.loads(text) for text in texts]


# --- 4 and 5, 1 and 2, 3 -----------------------------------------------------


async def test_the_example_of_the_protocol(server: ChatServer, end: bytes) -> None:
    await server.register(*(f"user {number}" for number in range(21)))
    client = await connect(server, end)
    client.raw(b'{"msgid":4,"name":"zhang san","password":"123456"}' + end)
    assert await client.numbered(5) == {"msgid": 5, "errno": 0, "id": 22}
    assert await answer(client, 22, "123456") == {"msgid": 2, "errno": 0, "id": 22, "name": "zhang san"}


async def test_replies_end_as_the_requests_do(server: ChatServer, end: bytes) -> None:
    ann, bob = await server.register("ann", "bob")
    clients = [await log_in(server, uid, end) for uid in (ann, bob)]
    # Every object is on its own, whatever one chunk had in it.
    for number in range(3):
        clients[0].number(6, id=ann, name="ann", toid=bob, msg=f"{number}\n{number}", time="now")
    for number in range(3):
        assert (await clients[1].numbered(6))["msg"] == f"{number}\n{number}"
    assert clients[1]._partial == b""


async def test_registration_takes_six_characters_and_any_password(server: ChatServer) -> None:
    client = await connect(server)
    for name, password, errno in (("a", "12345", 1), ("a", "123456", 0), ("b", "password", 0), ("a", "123456", 1)):
        client.number(4, name=name, password=password)
        reply = await client.numbered(5)
        assert reply["errno"] == errno
        assert ("id" in reply) == (errno == 0)
    client.number(4, name="c\nd", password="123456")
    assert await client.numbered(5) == {"msgid": 5, "errno": 1}


async def test_a_login_that_fails_has_number_1(server: ChatServer) -> None:
    [uid] = await server.register("ann")
    client = await connect(server)
    wrong = await answer(client, uid, "wrong")
    assert wrong == {"msgid": 2, "errno": 1, "errmsg": wrong["errmsg"]}
    assert await answer(client, 99) == wrong
    assert (await answer(client, uid))["errno"] == 0


async def test_a_login_in_use_has_number_2_where_takeover_is_off(server: ChatServer) -> None:
    server.reload(chat__takeover=False)
    [uid] = await server.register("ann")
    first = await log_in(server, uid)
    second = await connect(server)
    refused = await answer(second, uid)
    assert refused == {"msgid": 2, "errno": 2, "errmsg": refused["errmsg"]}
    first.number(3, id=uid)
    await settled(first)
    assert (await answer(second, uid))["errno"] == 0


async def test_takeover_closes_the_older_session_without_a_word(server: ChatServer) -> None:
    [uid] = await server.register("ann")
    older = await log_in(server, uid)
    named = await server.log_in("ann")
    assert await older.ended() == []
    await log_in(server, uid)
    assert await named.ended() == [{"type": "kicked", "reason": "takeover"}]


async def test_logout_leaves_the_connection_open_for_a_new_login(server: ChatServer, end: bytes) -> None:
    ann, bob = await server.register("ann", "bob")
    named = await server.log_in("bob")
    client = await log_in(server, ann, end)
    # Longer than an unused connection may live.
    await server.advance(server.settings.chat.login_timeout + 5)
    client.number(3, id=ann)
    assert await settled(client) == []
    client.number(6, id=ann, name="ann", toid=bob, msg="not logged in", time="")
    assert await settled(client) == []
    await named.ok("send", to=ann, text="while away")
    await server.advance(3)
    back = await answer(client, ann)
    assert [message["msg"] for message in strings(back["offlinemsg"])] == ["while away"]
    client.number(3, id=ann)
    assert (await answer(client, bob))["name"] == "bob"
    client.number(6, id=bob, name="bob", toid=ann, msg="as somebody else", time="")
    await settled(client)
    assert [row["last"]["text"] for row in (await (await server.log_in("ann")).ok("chats"))["chats"]] == [
        "as somebody else"
    ]


async def test_a_connection_that_logged_out_may_not_stay_for_ever(server: ChatServer) -> None:
    [uid] = await server.register("ann")
    client = await log_in(server, uid)
    await server.advance(100)
    client.number(3, id=uid)
    await settled(client)
    await server.advance(server.settings.chat.login_timeout - 2)
    assert not client.closed
    await server.advance(4)
    await client.ended()


async def test_logout_revokes_the_token(server: ChatServer) -> None:
    [uid] = await server.register("ann")
    token = await server.token(uid)
    client = await log_in(server, uid)
    client.number(3, id=uid)
    await settled(client)
    named = await server.connect()
    assert await named.refused("login", id=uid, token=token) == "token_invalid"


# --- 6 and 10 ----------------------------------------------------------------


async def test_messages_carry_the_accounts_own_name_and_the_time_of_the_commit(server: ChatServer) -> None:
    ann, bob = await people(server, "ann", "bob")
    ann.number(6, id=ann.id, name="somebody else", toid=bob.id, msg="hello", time="1999-01-01 00:00:00")
    message = await bob.numbered(6)
    named = await server.log_in("ann")
    at = (await named.ok("history", to=bob.id))["messages"][0]["at"]
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at / 1000))
    assert message == {"msgid": 6, "id": ann.id, "name": "ann", "toid": bob.id, "msg": "hello", "time": stamp}


async def test_groups_are_created_joined_and_spoken_in(server: ChatServer) -> None:
    ann, bob = await people(server, "ann", "bob")
    ann.number(8, id=ann.id, groupname="us", groupdesc="all of us")
    assert await settled(ann) == []
    [group] = await server.store.groups(ann.id)
    assert (group.name, group.description, group.role) == ("us", "all of us", "owner")
    bob.number(9, id=bob.id, groupid=group.group)
    assert await settled(bob) == await settled(ann) == []
    bob.number(10, id=bob.id, name="bob", groupid=group.group, msg="hello", time="")
    message = await ann.numbered(10)
    assert message == {
        "msgid": 10, "id": bob.id, "name": "bob", "groupid": group.group, "msg": "hello", "time": message["time"],
    }  # fmt: skip
    assert await settled(bob) == []


async def test_the_dialects_understand_each_other(server: ChatServer) -> None:
    ann, cy = await server.people("ann", "cy")
    [bob] = await people(server, "bob")
    pair = await ann.ok("send", to=bob.id, text="1")
    assert (await bob.numbered(6))["msg"] == "1"
    bob.number(6, id=bob.id, name="bob", toid=ann.id, msg="2", time="")
    message = await ann.told("message")
    assert message == {
        "chat": pair["chat"], "seq": 2, "from": bob.id, "name": "bob", "to": ann.id, "text": "2", "at": message["at"],
    }  # fmt: skip
    group = await group_of(ann, cy)
    bob.number(9, id=bob.id, groupid=group)
    for client in (ann, cy):
        assert await client.told("group.changed") == {"group": group, "change": "join", "id": bob.id}
    bob.number(10, id=bob.id, name="bob", groupid=group, msg="3", time="")
    for client in (ann, cy):
        assert (await client.told("message"))["text"] == "3"
    await ann.ok("send", group=group, text="4")
    assert (await bob.numbered(10))["msg"] == (await cy.told("message"))["text"] == "4"


async def test_what_the_dialect_has_no_word_for_is_not_shown(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    [bob] = await people(server, "bob")
    chat = (await ann.ok("send", to=bob.id, text="1"))["chat"]
    await bob.numbered(6)
    ann.tell("typing", to=bob.id)
    ann.tell("read", chat=chat, seq=1)
    await ann.ok("friend.add", to=bob.id)
    group = await group_of(ann)
    await ann.ok("group.add", group=group, id=bob.id)
    await ann.ok("group.remove", group=group, id=bob.id)
    await ann.ok("logout")
    assert await settled(bob) == []


# --- 7 -----------------------------------------------------------------------


async def test_a_friend_is_added_on_one_side_and_shows_as_offline_until_accepted(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    [bob] = await people(server, "bob")
    bob.number(7, id=bob.id, friendid=ann.id)
    assert await ann.told("friend.requested") == {"from": bob.id, "name": "bob", "note": ""}
    assert await settled(bob) == []
    assert await ann.ok("friends") == {"friends": []}
    bob = await connect(server)
    assert strings((await answer(bob, 2))["friends"]) == [{"id": ann.id, "name": "ann", "state": "offline"}]
    await ann.ok("friend.answer", **{"from": 2}, accept=True)
    bob = await connect(server)
    assert strings((await answer(bob, 2))["friends"]) == [{"id": ann.id, "name": "ann", "state": "online"}]
    assert [friend["id"] for friend in (await ann.ok("friends"))["friends"]] == [2]
    # A friend, oneself, nobody: dropped.
    for friend in (ann.id, 2, 99):
        bob.number(7, id=2, friendid=friend)
    assert await settled(bob) == []
    assert len(await server.store.friends(2)) == 1


# --- what an answer to a login holds -----------------------------------------


async def test_the_answer_to_a_login_lists_friends_and_groups(server: ChatServer) -> None:
    ann, cy = await server.people("ann", "cy")
    [bob] = await server.people("bob")
    await befriend(ann, bob)
    await befriend(cy, bob)
    group = await group_of(ann, bob)
    other = await group_of(cy, bob, description="of cy")
    await ann.ok("group.role", group=group, id=bob.id, role="admin")
    await cy.ok("logout")
    await cy.ended()
    client = await connect(server)
    found = await answer(client, bob.id)
    assert strings(found["friends"]) == [
        {"id": ann.id, "name": "ann", "state": "online"},
        {"id": cy.id, "name": "cy", "state": "offline"},
    ]
    groups = strings(found["groups"])
    for each in groups:
        each["users"] = strings(each["users"])
    me = {"id": bob.id, "name": "bob", "state": "online", "role": "normal"}
    assert groups == [
        {
            "id": group, "groupname": "group", "groupdesc": "",
            "users": [{"id": ann.id, "name": "ann", "state": "online", "role": "creator"}, me],
        },
        {
            "id": other, "groupname": "group", "groupdesc": "of cy",
            "users": [{"id": cy.id, "name": "cy", "state": "offline", "role": "creator"}, me],
        },
    ]  # fmt: skip
    assert "offlinemsg" not in found


async def test_the_answer_to_a_login_shows_nobody_with_whom_there_is_a_block(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    [bob] = await server.register("bob")
    group = (await ann.ok("group.create", name="us"))["group"]
    await ann.ok("group.add", group=group, id=bob)
    await ann.ok("user.block", id=bob)
    client = await connect(server)
    [found] = strings((await answer(client, bob))["groups"])
    assert [user["state"] for user in strings(found["users"])] == ["offline", "online"]


@pytest.mark.parametrize("size", [1, 60, 300, 2000])
@pytest.mark.parametrize("count", [1, 9, 30])
async def test_what_was_sent_meanwhile_comes_whole_once_and_in_order(server: ChatServer, count: int, size: int) -> None:
    ann, bob, cy = await server.register("ann", "bob", "cy")
    group = (await server.store.group_create(ann, "us", "", False, False)).group
    await server.store.group_join(cy, group)
    said: dict[str, list[str]] = {"ann": [], "bob": [], "us": []}
    drafts = []
    for number in range(count):
        for sender, place, draft in ((ann, "ann", (cy, 0)), (bob, "bob", (cy, 0)), (ann, "us", (0, group))):
            text = f"{number} ".ljust(size, "x")
            said[place].append(text)
            drafts.append(Draft(sender, *draft, text))
    await server.store.append(drafts)
    # The receiver's own messages in between are no news.
    await server.store.append([Draft(cy, ann, 0, "mine"), Draft(cy, 0, group, "mine"), Draft(ann, cy, 0, "last")])
    said["ann"].append("last")
    client = await connect(server)
    found = await answer(client, cy)
    inside = strings(found.get("offlinemsg", []))
    if inside:
        line = json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        assert len(line) <= MAX_LOGIN_ANSWER
    assert bool(inside) == (size < 2000)
    total = sum(map(len, said.values()))
    outside = [await client.take(lambda line: line["msgid"] in (6, 10)) for _ in range(total - len(inside))]
    heard: dict[str, list[str]] = {"ann": [], "bob": [], "us": []}
    for message in inside + outside:
        heard["us" if message["msgid"] == 10 else message["name"]].append(message["msg"])
    assert heard == said
    assert await settled(client) == []
    # All of it left the buffers, so the next login brings nothing.
    await server.advance(3)
    assert "offlinemsg" not in await answer(await connect(server), cy)


async def test_the_cursor_moves_when_the_bytes_have_left(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    [bob] = await people(server, "bob")
    chat = (await ann.ok("send", to=bob.id, text="1"))["chat"]
    await bob.numbered(6)
    assert (await server.cursors(bob.id))[chat] == (0, 0)
    await server.advance(1)
    assert (await server.cursors(bob.id))[chat] == (1, 0)


# --- what is refused ---------------------------------------------------------


async def test_requests_in_another_name_are_refused(server: ChatServer) -> None:
    ann, bob, cy = await people(server, "ann", "bob", "cy")
    cy.number(6, id=ann.id, name="ann", toid=bob.id, msg="forged", time="")
    cy.number(7, id=ann.id, friendid=bob.id)
    cy.number(8, id=ann.id, groupname="forged", groupdesc="")
    cy.number(3, id=ann.id)
    assert await settled(cy) == await settled(bob) == await settled(ann) == []
    assert await server.store.friends(ann.id) == await server.store.groups(ann.id) == ()
    cy.number(6, id=cy.id, name="cy", toid=bob.id, msg="still here", time="")
    assert (await bob.numbered(6))["id"] == cy.id


async def test_what_is_unknown_or_malformed_is_dropped_and_counted(server: ChatServer) -> None:
    [ann] = await people(server, "ann")
    bad = [
        b"hello", b"[]", b"{}", b'{"msgid":99}', b'{"msgid":"1"}', b'{"msgid":6}', b'{"type":"ping"}', b"\xff",
        b'{"msgid":2,"errno":0}', b'{"msgid":6,"id":1,"toid":"2","msg":"x"}', b'{"msgid":6,"id":1,"toid":2,"msg":""}',
        b'{"msgid":6,"id":1,"toid":2,"msg":"a\\u0000"}', b"[" * 5000,
    ]  # fmt: skip
    for _ in range(3):
        ann.raw(b"".join(line + b"\n" for line in bad))
        assert await settled(ann) == []
    ann.raw((bad[0] + b"\n") * server.settings.limits.max_errors)
    assert await ann.ended() == []


async def test_refused_requests_have_no_answer(server: ChatServer) -> None:
    ann, bob = await people(server, "ann", "bob")
    closed = (await server.store.group_create(bob.id, "closed", "", True, False)).group
    await server.store.block(bob.id, ann.id)
    ann.number(6, id=ann.id, name="", toid=bob.id, msg="blocked", time="")
    ann.number(6, id=ann.id, name="", toid=99, msg="to nobody", time="")
    ann.number(6, id=ann.id, name="", toid=ann.id, msg="to myself", time="")
    ann.number(7, id=ann.id, friendid=bob.id)
    ann.number(9, id=ann.id, groupid=closed)
    ann.number(9, id=ann.id, groupid=99)
    ann.number(10, id=ann.id, name="", groupid=closed, msg="not a member", time="")
    assert await settled(ann) == await settled(bob) == []


async def test_a_line_too_long_closes_without_a_word(server: ChatServer) -> None:
    [ann] = await people(server, "ann")
    ann.raw(b'{"msgid":6,"x":"' + b"x" * server.settings.limits.max_line)
    assert await ann.ended() == []


async def test_the_first_line_holds_for_the_life_of_the_connection(server: ChatServer) -> None:
    await server.register("ann")
    classic = await connect(server)
    classic.number(1, id=1, password="wrong")
    classic.tell("ping")
    classic.tell("login", name="ann", password=PASSWORD)
    assert [line["msgid"] for line in [await classic.numbered(2), *await settled(classic)]] == [2]
    named = await server.connect()
    named.tell("ping")
    named.number(1, id=1, password=PASSWORD)
    assert await named.told("ping.ok")
    assert (await named.told("error"))["name"] == "bad_request"


async def test_a_flood_is_slowed_and_nothing_is_lost(server: ChatServer) -> None:
    server.reload(limits__messages_per_second=16, limits__messages_burst=10)
    [ann] = await server.people("ann")
    [bob] = await people(server, "bob")
    for number in range(50):
        bob.number(6, id=bob.id, name="bob", toid=ann.id, msg=f"{number}", time="")
    bob.number(4, name="barrier", password="123456")
    for number in range(11):
        assert (await ann.told("message"))["text"] == f"{number}"
    assert await ann.settled() == []
    for number in range(11, 50):
        server.clock.advance(1 / 16)
        assert (await ann.told("message"))["text"] == f"{number}"
    server.clock.advance(1 / 16)
    await bob.numbered(5)
    assert await ann.settled() == []
    # Coming again does not help: it is slow from the login on.
    bob = await connect(server)
    bob.number(1, id=2, password=PASSWORD)
    await bob.numbered(2)
    bob.number(6, id=2, name="bob", toid=ann.id, msg="50", time="")
    await server.until(lambda: server.node.sessions[2].connection._backlog)
    assert await ann.settled() == []
    server.clock.advance(1 / 16)
    assert (await ann.told("message"))["text"] == "50"
