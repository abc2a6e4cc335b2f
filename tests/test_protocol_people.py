"""Friends, blocking, presence and groups on the chat port, sentence by sentence."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
import pytest_twisted
from chat_server import ChatServer, Client, befriend, group_of

from flux.errors import Unavailable
from flux.model.bus import Notify, Online
from flux.model.events import Presence


@pytest_twisted.async_yield_fixture
async def server(tmp_path):
    server = await ChatServer(tmp_path).start()
    yield server
    await server.stop()


async def friends_of(client: Client) -> list[dict[str, Any]]:
    return list((await client.ok("friends"))["friends"])


async def requests_of(client: Client) -> list[tuple[int, str, str]]:
    found = (await client.ok("friend.requests"))["friend_requests"]
    return [(request["from"], request["name"], request["note"]) for request in found]


# --- friends -----------------------------------------------------------------


async def test_a_request_is_shown_listed_and_accepted(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    assert await ann.ok("friend.add", to=bob.id, note="it's me", remark="bobby") == {"to": bob.id, "status": "pending"}
    assert await bob.told("friend.requested") == {"from": ann.id, "name": "ann", "note": "it's me"}
    [request] = (await bob.ok("friend.requests"))["friend_requests"]
    assert request == {"from": ann.id, "name": "ann", "note": "it's me", "at": request["at"]}
    assert await friends_of(ann) == await friends_of(bob) == []
    answer = await bob.ok("friend.answer", **{"from": ann.id}, accept=True, remark="annie")
    assert answer == {"from": ann.id, "status": "accepted"}
    assert await ann.told("friend.answered") == {"id": bob.id, "status": "accepted"}
    assert await ann.told("presence") == {"id": bob.id, "online": True}
    assert await bob.told("presence") == {"id": ann.id, "online": True}
    assert await friends_of(ann) == [{"id": bob.id, "name": "bob", "nick": "", "remark": "bobby", "online": True}]
    assert await friends_of(bob) == [{"id": ann.id, "name": "ann", "nick": "", "remark": "annie", "online": True}]
    assert await requests_of(bob) == []
    assert await ann.settled() == await bob.settled() == []


async def test_a_request_is_refused(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    await ann.ok("friend.add", to=bob.id)
    answer = await bob.ok("friend.answer", **{"from": ann.id}, accept=False)
    assert answer == {"from": ann.id, "status": "rejected"}
    assert await ann.told("friend.answered") == {"id": bob.id, "status": "rejected"}
    assert await friends_of(ann) == await friends_of(bob) == await requests_of(bob) == []
    assert await bob.refused("friend.answer", **{"from": ann.id}, accept=True) == "not_found"
    # Asking again is a new request.
    assert (await ann.ok("friend.add", to=bob.id))["status"] == "pending"


async def test_two_who_ask_each_other_are_friends(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    await ann.ok("friend.add", to=bob.id, remark="bobby")
    assert await bob.ok("friend.add", to=ann.id, remark="annie") == {"to": ann.id, "status": "accepted"}
    assert await ann.told("friend.answered") == {"id": bob.id, "status": "accepted"}
    assert [friend["remark"] for client in (ann, bob) for friend in await friends_of(client)] == ["bobby", "annie"]
    assert await requests_of(ann) == await requests_of(bob) == []


async def test_asking_again_refreshes_note_and_remark(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    await ann.ok("friend.add", to=bob.id, note="one", remark="b1")
    await ann.ok("friend.add", to=bob.id, note="two", remark="b2")
    assert await requests_of(bob) == [(ann.id, "ann", "two")]
    await bob.ok("friend.answer", **{"from": ann.id}, accept=True)
    assert [friend["remark"] for friend in await friends_of(ann)] == ["b2"]
    # With a friend, it changes the remark, and the friend need not know.
    await bob.settled()
    assert (await ann.ok("friend.add", to=bob.id, remark="b3"))["status"] == "accepted"
    assert [friend["remark"] for friend in await friends_of(ann)] == ["b3"]
    assert await bob.settled() == []


@pytest.mark.parametrize("taken_back", [False, True])
async def test_who_asks_again_and_again_is_heard_once_a_minute(server: ChatServer, taken_back: bool) -> None:
    await server.start_node()
    await server.register("ann", "bob")
    bob = await server.log_in("bob")

    async def ask(note: str) -> None:
        # A login elsewhere is no way around it.
        for node in server.nodes:
            ann = await server.log_in("ann", node)
            await ann.ok("friend.add", to=bob.id, note=note)
            if taken_back:
                await ann.ok("friend.remove", id=bob.id)

    for note in ("1", "2", "3"):
        await ask(note)
    assert [push["note"] for push in await bob.settled()] == ["1"]
    # What is asked meanwhile is not lost.
    assert [note for _, _, note in await requests_of(bob)] == ([] if taken_back else ["3"])
    await server.advance(61)
    await ask("4")
    assert [push["note"] for push in await bob.settled()] == ["4"]
    # Others are not held up.
    await (await server.log_in((await server.register("cy"))[0])).ok("friend.add", to=bob.id)
    assert (await bob.told("friend.requested"))["name"] == "cy"


async def test_a_request_is_shown_while_the_shared_state_is_away(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = await server.people("ann", "bob")
    monkeypatch.setattr(server.state, "fail", Mock(side_effect=Unavailable("the shared state is away")))
    await ann.ok("friend.add", to=bob.id)
    assert (await bob.told("friend.requested"))["from"] == ann.id


async def test_requests_to_nobody_and_to_oneself(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    assert await ann.refused("friend.add", to=99) == "user_invalid"
    assert await ann.refused("friend.add", to=ann.id) == "bad_request"
    assert await ann.refused("friend.add", to=ann.id, note="x" * 201) == "too_large"
    assert await ann.refused("friend.answer", **{"from": 99}, accept=True) == "not_found"


async def test_requests_wait_for_who_is_away(server: ChatServer) -> None:
    ann, cy = await server.people("ann", "cy")
    [uid] = await server.register("bob")
    await ann.ok("friend.add", to=uid, note="first")
    await cy.ok("friend.add", to=uid, note="second")
    bob = await server.log_in(uid)
    shown = [(request["from"], request["note"]) for request in bob.lines[0]["friend_requests"]]
    assert shown == [(ann.id, "first"), (cy.id, "second")]


async def test_a_friendship_ends_on_both_sides(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    await befriend(ann, bob)
    assert await ann.ok("friend.remove", id=bob.id) == {"id": bob.id}
    assert await friends_of(ann) == await friends_of(bob) == []
    assert await bob.told("presence") == {"id": ann.id, "online": False}
    assert await ann.ok("friend.remove", id=bob.id) == {"id": bob.id}
    await ann.ok("friend.add", to=bob.id)
    await ann.ok("friend.remove", id=bob.id)
    assert await requests_of(bob) == []
    # From now on neither sees the other come and go.
    await bob.settled()
    await ann.ok("logout")
    assert await bob.settled() == []


# --- blocking ----------------------------------------------------------------


async def test_a_blocked_user_may_neither_send_nor_ask(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    await bob.ok("send", to=ann.id, text="before")
    await ann.told("message")
    assert await ann.ok("user.block", id=bob.id) == {"id": bob.id}
    assert await bob.refused("send", to=ann.id, text="no") == "forbidden"
    assert await bob.refused("friend.add", to=ann.id) == "forbidden"
    assert await ann.settled() == []
    # The one who blocked may still send, and history stays.
    await ann.ok("send", to=bob.id, text="yes")
    assert (await bob.told("message"))["text"] == "yes"
    assert len((await bob.ok("history", to=ann.id))["messages"]) == 2
    assert await ann.ok("user.unblock", id=bob.id) == {"id": bob.id}
    await bob.ok("send", to=ann.id, text="again")
    assert (await ann.told("message"))["seq"] == 3


@pytest.mark.parametrize("where", ["one node", "two nodes"])
async def test_blocking_ends_a_friendship(server: ChatServer, where: str) -> None:
    second = server.nodes[0] if where == "one node" else await server.start_node()
    await server.register("ann", "bob")
    ann, bob = await server.log_in("ann"), await server.log_in("bob", second)
    await befriend(ann, bob)
    await ann.ok("user.block", id=bob.id)
    assert await bob.told("presence") == {"id": ann.id, "online": False}
    assert await friends_of(ann) == await friends_of(bob) == []
    # From now on neither sees the other come and go.
    await ann.ok("logout")
    await ann.ended()
    ann = await server.log_in("ann")
    await bob.ok("logout")
    await bob.ended()
    await server.advance(6)
    assert await ann.settled() == []
    assert not [line for line in bob.waiting if line["type"] == "presence"]
    # Undoing the block brings no friendship back.
    await ann.ok("user.unblock", id=bob.id)
    assert await friends_of(ann) == []


async def test_blocking_ends_a_request(server: ChatServer) -> None:
    ann, bob, cy = await server.people("ann", "bob", "cy")
    await ann.ok("friend.add", to=bob.id)
    await cy.ok("friend.add", to=ann.id)
    for other in (bob, cy):
        await ann.ok("user.block", id=other.id)
    assert await requests_of(ann) == await requests_of(bob) == []
    assert await bob.refused("friend.answer", **{"from": ann.id}, accept=True) == "not_found"
    # Who asks somebody whom they have blocked is not accepted, but can be refused.
    await ann.ok("friend.add", to=bob.id)
    error = await bob.fails("friend.answer", **{"from": ann.id}, accept=True)
    assert (error["name"], error["detail"]) == ("forbidden", "one of you has blocked the other")
    assert await friends_of(ann) == await friends_of(bob) == []
    await bob.ok("friend.answer", **{"from": ann.id}, accept=False)
    assert await ann.told("friend.answered") == {"id": bob.id, "status": "rejected"}


async def test_blocking_before_the_first_message(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    await ann.ok("user.block", id=bob.id)
    await ann.ok("user.block", id=bob.id)
    assert await bob.refused("send", to=ann.id, text="no") == "forbidden"
    await ann.ok("user.unblock", id=bob.id)
    await ann.ok("user.unblock", id=bob.id)
    assert (await bob.ok("send", to=ann.id, text="yes"))["seq"] == 1


async def test_blocking_nobody_and_oneself(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    assert await ann.refused("user.block", id=99) == "user_invalid"
    assert await ann.refused("user.block", id=ann.id) == "bad_request"
    assert await ann.ok("user.unblock", id=ann.id) == {"id": ann.id}


async def test_a_block_is_about_one_to_one(server: ChatServer) -> None:
    ann, bob, cy = await server.people("ann", "bob", "cy")
    group = await group_of(cy, ann, bob)
    await ann.ok("user.block", id=bob.id)
    await bob.ok("send", group=group, text="hello all")
    assert (await ann.told("message"))["text"] == "hello all"
    # But nobody is added to a group by whom they have blocked.
    other = (await bob.ok("group.create", name="bob's"))["group"]
    assert await bob.refused("group.add", group=other, id=ann.id) == "forbidden"


async def test_who_is_there_is_not_shown_between_two_with_a_block(server: ChatServer) -> None:
    ann, bob, cy = await server.people("ann", "bob", "cy")
    group = await group_of(ann, bob, cy)
    await bob.ok("user.block", id=cy.id)

    async def seen(client: Client) -> list[bool]:
        return [online for _, _, online in await members_of(client, group)]

    assert [await seen(client) for client in (ann, bob, cy)] == [
        [True, True, True],
        [True, True, False],
        [True, False, True],
    ]
    await bob.ok("user.unblock", id=cy.id)
    assert await seen(cy) == [True, True, True]


# --- presence ----------------------------------------------------------------


@pytest.mark.parametrize("where", ["one node", "two nodes"])
async def test_friends_see_each_other_come_and_go(server: ChatServer, where: str) -> None:
    second = server.nodes[0] if where == "one node" else await server.start_node()
    await server.register("ann", "bob", "cy")
    ann, cy = await server.log_in("ann"), await server.log_in("cy")
    bob = await server.log_in("bob", second)
    await befriend(ann, bob)
    await bob.ok("logout")
    assert await ann.told("presence") == {"id": bob.id, "online": False}
    assert [friend["online"] for friend in await friends_of(ann)] == [False]
    bob = await server.log_in("bob", second)
    assert await ann.told("presence") == {"id": bob.id, "online": True}
    assert bob.lines[0]["friends"][0]["online"] is True
    await bob.reset()
    assert await ann.told("presence") == {"id": bob.id, "online": False}
    # Who takes over was there all the time.
    bob = await server.log_in("bob", second)
    assert (await ann.told("presence"))["online"] is True
    bob = await server.log_in("bob", second)
    await server.advance(6)
    assert not [push for push in await ann.settled() if not push["online"]]
    assert await cy.settled() == []


@pytest.mark.parametrize("comes_back", [True, False])
async def test_friends_see_that_a_node_died_and_that_it_had_only_stood_still(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, comes_back: bool
) -> None:
    third, second = await server.start_node(), await server.start_node()
    await server.register("ann", "bob", "cy", "dan")
    ann, cy = await server.log_in("ann"), await server.log_in("cy", third)
    bob, dan = await server.log_in("bob", second), await server.log_in("dan", second)
    for one, other in ((ann, bob), (cy, bob), (ann, dan)):
        await befriend(one, other)
        await one.settled()
    with monkeypatch.context() as patch:
        away = Unavailable("the shared state is away")
        patch.setattr(second.node.heartbeat, "_state", Mock(renew=Mock(side_effect=away)))
        await server.advance(server.settings.status.lease + 2 * server.settings.status.heartbeat)
    assert await ann.told("presence") == {"id": bob.id, "online": False}
    assert await cy.told("presence") == {"id": bob.id, "online": False}
    assert await ann.told("presence") == {"id": dan.id, "online": False}
    assert await ann.settled() == await cy.settled() == []
    if comes_back:
        await server.advance(server.settings.status.heartbeat)
    else:
        bob = await server.log_in("bob")
    assert await ann.told("presence") == {"id": bob.id, "online": True}
    assert await cy.told("presence") == {"id": bob.id, "online": True}
    others = [push["id"] for push in await ann.settled()]
    assert others == ([dan.id] if comes_back else [])
    assert await cy.settled() == []


async def test_what_was_announced_does_not_hide_what_came_after_it(server: ChatServer) -> None:
    second = await server.start_node()
    await server.register("ann", "bob")
    ann, bob = await server.log_in("ann"), await server.log_in("bob", second)
    await befriend(ann, bob)
    await ann.settled()
    for later in (True, False):
        server.node.deliver(Online((bob.id, 999), not later))
        # Of a login, or the end of a session, which is known before all sessions have been gone through.
        server.node.deliver(Notify(Presence(bob.id, later), (ann.id,)))
        assert await ann.told("presence") == {"id": bob.id, "online": later}
        assert await ann.settled() == []


async def test_a_friendship_made_across_nodes_is_seen_from_both(server: ChatServer) -> None:
    second = await server.start_node()
    await server.register("ann", "bob")
    ann, bob = await server.log_in("ann"), await server.log_in("bob", second)
    await befriend(ann, bob)
    await ann.ok("logout")
    assert await bob.told("presence") == {"id": ann.id, "online": False}
    ann = await server.log_in("ann")
    await bob.told("presence")
    await ann.ok("friend.remove", id=bob.id)
    await bob.told("presence")
    await bob.ok("logout")
    await bob.ended()
    await server.advance(6)
    assert await ann.settled() == []


async def test_a_request_that_was_not_accepted_shows_nothing(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    await ann.ok("friend.add", to=bob.id)
    await bob.told("friend.requested")
    await bob.ok("logout")
    bob = await server.log_in("bob")
    assert await ann.settled() == []


# --- groups ------------------------------------------------------------------


async def members_of(client: Client, group: int) -> list[tuple[int, str, bool]]:
    found = (await client.ok("group.members", group=group))["members"]
    return [(member["id"], member["role"], member["online"]) for member in found]


async def test_a_group_is_created_listed_and_joined(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    created = await ann.ok("group.create", name="us", description="all of us")
    group = created["group"]
    assert created == {"group": group, "chat": group, "name": "us"}
    assert await ann.ok("groups") == {
        "groups": [{"group": group, "chat": group, "name": "us", "description": "all of us", "role": "owner"}]
    }
    assert await bob.ok("groups") == {"groups": []}
    assert await bob.ok("group.join", group=group) == {"group": group, "chat": group}
    assert await ann.told("group.changed") == {"group": group, "change": "join", "id": bob.id}
    # Nothing changes by a repetition, so nobody is told.
    assert await bob.ok("group.join", group=group) == {"group": group, "chat": group}
    await ann.ok("group.add", group=group, id=bob.id)
    await ann.ok("ping")
    await bob.ok("ping")
    assert not [line for client in (ann, bob) for line in client.waiting if line["type"] == "group.changed"]
    assert (await bob.ok("groups"))["groups"][0]["role"] == "member"
    assert (await bob.ok("group.members", group=group))["members"] == [
        {"id": ann.id, "name": "ann", "role": "owner", "online": True},
        {"id": bob.id, "name": "bob", "role": "member", "online": True},
    ]
    assert await ann.settled() == await bob.settled() == []
    # Names of groups are nobody's.
    assert (await bob.ok("group.create", name="us"))["group"] != group


async def test_group_names_and_descriptions(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    assert await ann.refused("group.create", name="") == "bad_request"
    for name in (" \u3000", "\u3164", "\u200b \ufe0f"):
        assert await ann.refused("group.create", name=name) == "bad_request"
    assert await ann.refused("group.create", name="x" * 51) == "too_large"
    assert await ann.refused("group.create", name="x", description="x" * 501) == "too_large"
    assert await ann.refused("group.create", name="x", history="none") == "bad_request"
    assert await ann.refused("group.create", name="x", closed="yes") == "bad_request"
    assert (await ann.ok("group.create", name="x" * 50, description="x" * 500))["name"] == "x" * 50


@pytest.mark.parametrize(
    "kind", ["group.join", "group.leave", "group.members", "group.add", "group.remove", "group.role"]
)
async def test_groups_that_are_not_there(server: ChatServer, kind: str) -> None:
    ann, bob = await server.people("ann", "bob")
    chat = (await ann.ok("send", to=bob.id, text="x"))["chat"]
    more = {"group.add": {"id": bob.id}, "group.remove": {"id": bob.id}, "group.role": {"id": bob.id, "role": "admin"}}
    for group in (99, chat, 2**63 - 1):
        assert await ann.refused(kind, group=group, **more.get(kind, {})) == "not_found"


async def test_joining_twice_changes_nothing(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    group = await group_of(ann, bob)
    await ann.ok("send", group=group, text="1")
    assert await bob.ok("group.join", group=group) == {"group": group, "chat": group}
    assert await ann.ok("group.add", group=group, id=bob.id) == {"group": group, "id": bob.id}
    await ann.ok("send", group=group, text="2")
    assert [(await bob.told("message"))["seq"] for _ in range(2)] == [1, 2]
    await ann.ok("group.role", group=group, id=bob.id, role="admin")
    await bob.ok("group.join", group=group)
    assert await members_of(bob, group) == [(ann.id, "owner", True), (bob.id, "admin", True)]


async def test_a_closed_group_is_entered_by_being_added(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    group = (await ann.ok("group.create", name="us", closed=True))["group"]
    assert await bob.refused("group.join", group=group) == "forbidden"
    assert await ann.refused("group.add", group=group, id=99) == "user_invalid"
    assert await ann.ok("group.add", group=group, id=bob.id) == {"group": group, "id": bob.id}
    assert await bob.told("group.changed") == {"group": group, "change": "add", "id": bob.id}
    await ann.ok("send", group=group, text="hello")
    assert (await bob.told("message"))["text"] == "hello"
    # Who left comes back only when added again.
    await bob.ok("group.leave", group=group)
    assert await bob.refused("group.join", group=group) == "forbidden"


async def test_who_leaves_or_is_removed_gets_nothing_more(server: ChatServer) -> None:
    ann, bob, cy = await server.people("ann", "bob", "cy")
    group = await group_of(ann, bob, cy)
    assert await bob.ok("group.leave", group=group) == {"group": group, "chat": group}
    for client in (ann, cy):
        assert await client.told("group.changed") == {"group": group, "change": "leave", "id": bob.id}
    assert await ann.ok("group.remove", group=group, id=cy.id) == {"group": group, "id": cy.id}
    assert await cy.told("group.changed") == {"group": group, "change": "remove", "id": cy.id}
    await ann.ok("send", group=group, text="alone")
    for client in (bob, cy):
        assert await client.settled() == []
        assert await client.ok("groups") == {"groups": []}
        for kind, fields in (("send", {"text": "x"}), ("history", {}), ("group.members", {}), ("group.leave", {})):
            assert await client.refused(kind, group=group, **fields) == "forbidden"
    await server.advance(6)
    assert await bob.settled() == await cy.settled() == []


async def test_who_was_removed_comes_back_when_added(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    group = await group_of(ann, bob)
    await ann.ok("group.remove", group=group, id=bob.id)
    await bob.told("group.changed")
    error = await bob.fails("group.join", group=group)
    assert error["name"] == "forbidden"
    assert error["detail"] == "you were removed from this group: its owner or an admin adds you again"
    await ann.settled()
    assert await bob.settled() == []
    await ann.ok("group.add", group=group, id=bob.id)
    # Who leaves may come back.
    await bob.ok("group.leave", group=group)
    assert await bob.ok("group.join", group=group) == {"group": group, "chat": group}


@pytest.mark.parametrize("history", ["open", "joined", None])
async def test_what_was_said_before_joining(server: ChatServer, history: str | None) -> None:
    ann, bob = await server.people("ann", "bob")
    options = {} if history is None else {"history": history}
    group = (await ann.ok("group.create", name="us", **options))["group"]
    await ann.ok("send", group=group, text="before")
    await bob.ok("group.join", group=group)
    await ann.ok("send", group=group, text="after")
    # Pushed is only what came after joining, whatever may be read.
    first = await bob.told("message")
    assert (first["seq"], first["text"]) == (2, "after")
    assert await bob.settled() == []
    seen = [message["text"] for message in (await bob.ok("history", group=group))["messages"]]
    assert seen == (["before", "after"] if history == "open" else ["after"])
    again = await server.log_in("bob")
    assert [entry["count"] for entry in again.lines[0]["unread"]] == [1]


async def test_joining_again_is_a_new_membership(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    group = await group_of(ann, bob)
    await ann.ok("send", group=group, text="1")
    assert (await bob.told("message"))["text"] == "1"
    await bob.ok("group.leave", group=group)
    await ann.ok("send", group=group, text="2")
    await bob.ok("group.join", group=group)
    await ann.ok("send", group=group, text="3")
    assert (await bob.told("message"))["text"] == "3"
    assert await bob.settled() == []
    page = await bob.ok("history", group=group, after=0)
    assert [message["text"] for message in page["messages"]] == ["3"]
    again = await server.log_in("bob", acks=True)
    assert again.lines[0]["unread"] == [{"chat": group, "group": group, "count": 1, "head": 3}]


async def test_who_is_away_when_added_finds_what_came_since(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    [uid] = await server.register("bob")
    group = (await ann.ok("group.create", name="us"))["group"]
    await ann.ok("send", group=group, text="before")
    await ann.ok("group.add", group=group, id=uid)
    await ann.ok("send", group=group, text="after")
    bob = await server.log_in(uid)
    assert (await bob.told("message"))["text"] == "after"
    assert await bob.settled() == []
    assert [entry["group"] for entry in bob.lines[0]["groups"]] == [group]


ROLES = ["owner", "admin", "other admin", "member", "other member", "nobody"]
#: Who may do what to whom.
MAY = {
    "group.add": {("owner", "nobody"), ("admin", "nobody")},
    "group.remove": {
        ("owner", "admin"), ("owner", "member"), ("admin", "member"),
    },
    "group.role": {("owner", "admin"), ("owner", "member")},
}  # fmt: skip


@pytest.mark.parametrize("kind", MAY)
@pytest.mark.parametrize("actor", ["owner", "admin", "member", "nobody"])
@pytest.mark.parametrize("target", ["owner", "admin", "member", "nobody"])
async def test_who_may_change_whom(server: ChatServer, kind: str, actor: str, target: str) -> None:
    owner, admin, admin2, member, member2, nobody, nobody2 = await server.people("o", "a", "a2", "m", "m2", "n", "n2")
    group = await group_of(owner, admin, admin2, member, member2)
    for client in (admin, admin2):
        await owner.ok("group.role", group=group, id=client.id, role="admin")
    actors = {"owner": owner, "admin": admin, "member": member, "nobody": nobody}
    # Oneself is a case of its own.
    targets = {"owner": owner, "admin": admin2, "member": member2, "nobody": nobody2}
    who, whom = actors[actor], targets[target]
    role = {"role": "member"} if kind == "group.role" else {}
    before = await members_of(owner, group)
    if (actor, target) in MAY[kind]:
        assert await who.ok(kind, group=group, id=whom.id, **role) == {"group": group, "id": whom.id}
        assert (await members_of(owner, group) != before) == (kind != "group.role" or target == "admin")
        return
    reply = await who.ask(kind, group=group, id=whom.id, **role)
    leads = actor in ("owner", "admin")
    if kind == "group.add" and leads:
        assert reply["type"] == "group.add.ok"  # a member already
    elif target == "nobody" and (actor == "owner" or (leads and kind == "group.remove")):
        assert reply["name"] == "not_found"
    else:
        assert reply["name"] == "forbidden"
    assert await members_of(owner, group) == before


async def test_roles_are_given_and_shown(server: ChatServer) -> None:
    ann, bob, cy = await server.people("ann", "bob", "cy")
    group = await group_of(ann, bob, cy)
    assert await ann.ok("group.role", group=group, id=bob.id, role="admin") == {"group": group, "id": bob.id}
    for client in (bob, cy):
        assert await client.told("group.changed") == {"group": group, "change": "role", "id": bob.id, "role": "admin"}
    assert await members_of(cy, group) == [(ann.id, "owner", True), (bob.id, "admin", True), (cy.id, "member", True)]
    await ann.ok("group.role", group=group, id=bob.id, role="member")
    assert (await members_of(cy, group))[1] == (bob.id, "member", True)


async def test_an_owner_hands_over_before_leaving(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    group = await group_of(ann, bob)
    assert await ann.refused("group.leave", group=group) == "forbidden"
    assert await ann.refused("group.role", group=group, id=ann.id, role="member") == "forbidden"
    await ann.ok("group.role", group=group, id=bob.id, role="owner")
    assert (await bob.told("group.changed"))["role"] == "owner"
    assert await members_of(bob, group) == [(bob.id, "owner", True), (ann.id, "admin", True)]
    await ann.ok("group.leave", group=group)
    # The last one may leave, and the group has ended.
    await bob.ok("group.leave", group=group)
    assert await ann.refused("group.join", group=group) == "not_found"
    assert await bob.refused("send", group=group, text="x") == "forbidden"


async def test_changes_reach_members_on_other_nodes(server: ChatServer) -> None:
    second = await server.start_node()
    await server.register("ann", "bob")
    ann, bob = await server.log_in("ann"), await server.log_in("bob", second)
    group = (await ann.ok("group.create", name="us"))["group"]
    await ann.ok("group.add", group=group, id=bob.id)
    assert await bob.told("group.changed") == {"group": group, "change": "add", "id": bob.id}
    await ann.ok("send", group=group, text="1")
    assert (await bob.told("message"))["text"] == "1"
    await ann.ok("group.remove", group=group, id=bob.id)
    assert (await bob.told("group.changed"))["change"] == "remove"
    await ann.ok("send", group=group, text="2")
    await server.advance(6)
    assert await bob.settled() == []
