"""The chat port over WebSocket, by real sockets: the same sessions, the same rules, other frames."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from chat_server import PASSWORD, ChatServer, befriend, group_of, leaves_nothing, open_client
from websocket_client import WebSocketClient, WebSocketServer, frame

CLOSE, PING, TEXT, BINARY = 8, 9, 1, 2


@pytest_twisted.async_yield_fixture
async def server(tmp_path):
    server = await WebSocketServer(tmp_path).start()
    yield server
    await server.stop()


async def log_in(server: WebSocketServer, name: str, **options: Any) -> WebSocketClient:
    client = await server.log_in(name, **options)
    assert isinstance(client, WebSocketClient)
    return client


@pytest.mark.parametrize("deflate", [False, True])
async def test_a_conversation(server: WebSocketServer, deflate: bool) -> None:
    server.deflate = deflate
    ann, bob = await server.people("ann", "bob")
    await befriend(ann, bob)
    text = "hello \u4e16\u754c \U0001f600 " * 300
    sent = await ann.ok("send", to=bob.id, text=text, cid="c1")
    message = await bob.told("message")
    assert (message["text"], message["seq"], message["name"]) == (text, sent["seq"], "ann")
    group = await group_of(ann, bob)
    await bob.ok("send", group=group, text="all")
    assert (await ann.told("message"))["group"] == group
    assert [m["text"] for m in (await ann.ok("history", to=bob.id))["messages"]] == [text]
    await ann.ok("logout")
    assert await ann.ended_with() == 1000
    assert await bob.told("presence") == {"id": ann.id, "online": False}


async def test_both_framings_meet(server: WebSocketServer) -> None:
    """One talks by lines, one by WebSocket, to two nodes that share everything."""
    by_lines = await ChatServer.start_node(server)
    [ann] = await server.people("ann")
    await server.register("bob")
    bob = open_client(by_lines.port)
    server.clients.append(bob)
    bob.id = (await bob.ok("login", name="bob", password=PASSWORD))["id"]
    await ann.ok("send", to=bob.id, text="from a browser")
    assert (await bob.told("message"))["text"] == "from a browser"
    await bob.ok("send", to=ann.id, text="from a terminal")
    assert (await ann.told("message"))["text"] == "from a terminal"


async def test_a_login_takes_the_account_over_from_the_other_framing(server: WebSocketServer) -> None:
    ann = (await server.people("ann"))[0]
    again = await log_in(server, "ann")
    assert (await ann.told("kicked"))["reason"] == "takeover"
    await ann.ended()
    await again.settled()


async def test_a_message_with_line_ends_is_one_request(server: WebSocketServer) -> None:
    client = await server.connect_websocket()
    await client.opened()
    client.frames(client.peer.text(b'{\r\n "type": "ping",\n "ref": 1\n}\n'))
    assert (await client.reply(1))["type"] == "ping.ok"


async def test_the_numbered_dialect_is_not_spoken(server: WebSocketServer) -> None:
    client = await server.connect_websocket()
    client.number(1, id=1, password="x")
    assert (await client.told("error"))["name"] == "bad_request"


async def test_bad_messages_in_a_row_end_it(server: WebSocketServer) -> None:
    server.reload(limits__max_errors=3)
    client = await server.connect_websocket()
    await client.opened()
    # An empty one counts as little as an empty line.
    for text in (b"hello", b"", b"[]", b"{"):
        client.frames(client.peer.text(text))
    assert [line["name"] for line in await client.ended()] == ["bad_json"] * 3
    assert client.peer.code == 1008


@pytest.mark.parametrize(
    ("code", "data"),
    [
        (1002, frame(TEXT, b"{}", mask=None)),
        (1003, frame(BINARY, b'{"type":"ping"}')),
        (1007, frame(TEXT, b'{"type":"ping","x":"\xff"}')),
        (1009, frame(TEXT, size=131073)),
    ],
)
async def test_a_broken_rule_is_told_and_ends_the_session(server: WebSocketServer, code: int, data: bytes) -> None:
    await server.register("ann")
    ann = await log_in(server, "ann")
    ann.frames(data + frame(TEXT, b'{"type":"ping","ref":1}'))
    assert await ann.ended_with() == code
    await server.until(lambda: not server.node.sessions)
    assert not any(line.get("ref") == 1 for line in ann.lines)


async def test_too_many_connections_of_one_address_are_told(server: WebSocketServer) -> None:
    server.reload(limits__connections_per_address=2)
    clients = [await server.connect_websocket() for _ in range(3)]
    for client in clients:
        await client.opened()
    refused = clients[2]
    assert (await refused.told("error"))["name"] == "rate_limited"
    await refused.ended_with()
    await clients[0].goodbye()
    other = await server.connect_websocket()
    await other.ok("ping")


async def test_a_page_from_elsewhere_is_refused_and_origins_are_live(server: WebSocketServer) -> None:
    # The client says that it talks to 127.0.0.1.
    await (await server.connect_websocket(origin="http://127.0.0.1:8080")).ok("ping")
    for origin in ("http://evil.example", "null"):
        assert await (await server.connect_websocket(origin=origin)).opened() == 403
    server.reload(chat__origins=("http://evil.example",))
    await (await server.connect_websocket(origin="http://evil.example")).ok("ping")


# --- the end -----------------------------------------------------------------


@pytest.mark.parametrize("acks", [True, False])
async def test_a_browser_that_says_goodbye_has_what_it_was_sent(server: WebSocketServer, acks: bool) -> None:
    [ann] = await server.people("ann")
    await server.register("bob")
    bob = await log_in(server, "bob", acks=acks)
    await ann.ok("send", to=bob.id, text="x")
    chat = (await bob.told("message"))["chat"]
    await bob.goodbye(1001)
    assert bob.peer.code == 1001
    await server.until(lambda: bob.id not in server.node.sessions)
    await server.advance(2)
    assert (await server.cursors(bob.id))[chat][0] == (0 if acks else 1)


async def test_a_goodbye_waits_for_the_answers_before_it(server: WebSocketServer) -> None:
    await server.register("ann")
    client = await server.connect_websocket()
    await client.opened()
    client.tell("login", ref="login", name="ann", password=PASSWORD)
    client.tell("chats", ref="chats")
    await client.goodbye()
    assert [line["ref"] for line in client.lines] == ["login", "chats"]
    await server.until(lambda: not server.node.sessions)


async def test_who_does_not_answer_our_goodbye_is_cut(server: WebSocketServer) -> None:
    """It gets the code, and some time; its answers are not worked on."""
    await server.register("ann")
    ann = await log_in(server, "ann")
    ann.stop_reading()
    await log_in(server, "ann")
    for _ in range(5):
        assert len(server.node.connections) == 2
        ann.frames(frame(TEXT, b'{"type":"register","name":"late","password":"correct horse"}'))
        await server.advance(1)
    await server.advance(2)
    await server.until(lambda: len(server.node.connections) == 1)
    ann.go_on_reading()
    assert await ann.ended_with() == 1000
    assert await server.store.credentials(0, "late") is None


async def test_stopping_says_goodbye_to_all(server: WebSocketServer) -> None:
    clients = await server.people("ann", "bob")
    await server.stop_node(server.nodes[0])
    for client in clients:
        assert isinstance(client, WebSocketClient)
        assert (await client.told("kicked"))["reason"] == "shutdown"
        assert await client.ended_with() == 1000


# --- signs of life -----------------------------------------------------------


async def test_the_silent_are_pinged_once_and_those_who_answer_stay(server: WebSocketServer) -> None:
    await server.register("ann")
    ann = await log_in(server, "ann")
    for round_ in range(1, 4):
        await server.advance(33)
        await ann.until(lambda round_=round_: ann.peer.pings == round_)
        # Its answer is here before this is.
        await ann.settled()
        assert ann.peer.pings == round_
    await server.advance(1)
    assert ann.id in server.node.sessions


async def test_who_does_not_answer_is_gone(server: WebSocketServer) -> None:
    await server.register("ann")
    ann = await log_in(server, "ann")
    ann.stop_reading()
    await server.advance(58)
    assert ann.id in server.node.sessions
    await server.advance(5)
    assert ann.id not in server.node.sessions
    await server.advance(10)
    assert len(server.node.connections) == 0


async def test_who_does_not_log_in_is_gone(server: WebSocketServer) -> None:
    client = await server.connect_websocket()
    await client.opened()
    await server.advance(119)
    await client.ok("ping")
    await server.advance(3)
    assert await client.ended_with() == 1008


async def test_who_has_left_takes_no_memory_even_before_garbage_is_collected(server: WebSocketServer) -> None:
    [ann] = await server.people("ann")
    await leaves_nothing(server, ann)
