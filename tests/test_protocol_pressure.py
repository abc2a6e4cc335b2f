"""Clients that do not read: what waits for them is bounded, they are not read from, and they miss nothing."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
import pytest_twisted
from chat_server import PASSWORD, ChatServer, Client, RunningNode
from tls_parts import TlsServer
from websocket_client import WebSocketServer

BUFFER = 16 * 1024
"""Bytes that may wait for a client of these tests."""

TEXT = "x" * 4000


@pytest_twisted.async_yield_fixture(params=[ChatServer, WebSocketServer, TlsServer])
async def server(tmp_path, request):
    server = await request.param(tmp_path, chat__buffer=BUFFER).start()
    for running in server.nodes:
        with_small_buffers(running)
    yield server
    await server.stop()


def with_small_buffers(running: RunningNode) -> None:
    """Let the kernel keep little of what this node's clients do not read, so that the node has to."""
    running.listening.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


async def slow_client(server: ChatServer, name: str, **options: Any) -> Client:
    return await server.log_in(name, receive_buffer=4096, **options)


def waiting_for(server: ChatServer, client: Client) -> int:
    """Bytes that the server keeps for a client."""
    transport: Any = server.node.sessions[client.id].connection.transport
    return len(transport.dataBuffer) - transport.offset + transport._tempDataLen


def choked(server: ChatServer, client: Client) -> bool:
    return bool(server.node.sessions[client.id].connection.choked)


async def fill(sender: Client, receiver: Client, server: ChatServer) -> int:
    """Send to a client that does not read until the server notices; how many."""
    receiver.stop_reading()
    count = 0
    while not choked(server, receiver):
        count += 1
        assert count < 2000
        await sender.ok("send", to=receiver.id, text=TEXT, cid=f"{count}")
    return count


async def until_cut(client: Client, server: ChatServer) -> int:
    """Let time pass until a client that takes nothing is cut; for how many seconds it had taken nothing.

    The kernel may take a little more when one thinks it is full.
    """
    connection = server.node.sessions[client.id].connection
    taken, idle = connection.taken(), 0
    while client.id in server.node.sessions:
        await server.advance(1)
        idle = idle + 1 if connection.taken() == taken else 0
        taken = connection.taken()
    return idle


@pytest.mark.parametrize("acks", [True, False])
async def test_a_client_that_does_not_read_is_not_fed_and_catches_up(server: ChatServer, acks: bool) -> None:
    [ann] = await server.people("ann")
    await server.register("bob")
    bob = await slow_client(server, "bob", acks=acks)
    count = await fill(ann, bob, server)
    before = waiting_for(server, bob)
    for number in range(200):
        await ann.ok("send", to=bob.id, text=f"{number}")
    assert waiting_for(server, bob) <= before <= BUFFER + 2 * len(TEXT)
    bob.go_on_reading()
    seqs = [(await bob.told("message"))["seq"] for _ in range(count + 200)]
    assert seqs == list(range(1, count + 201))
    # From now on it is fed live again.
    await bob.settled()
    await ann.ok("send", to=bob.id, text="live")
    assert (await bob.told("message"))["seq"] == count + 201
    assert await bob.settled() == []


async def test_many_messages_of_one_commit_are_bounded_too(server: ChatServer) -> None:
    senders = await server.people("ann", "cy", "dan")
    await server.register("bob")
    bob = await slow_client(server, "bob")
    bob.stop_reading()
    for sender in senders:
        for number in range(200):
            sender.tell("send", ref=number, to=bob.id, text=TEXT)
    largest = 0
    for sender in senders:
        for number in range(200):
            await sender.reply(number)
            largest = max(largest, waiting_for(server, bob))
    assert choked(server, bob)
    assert largest < BUFFER + 150_000
    bob.go_on_reading()
    seen = [await bob.told("message") for _ in range(600)]
    for sender in senders:
        assert [message["seq"] for message in seen if message["from"] == sender.id] == list(range(1, 201))


async def test_what_is_no_message_is_dropped_for_who_does_not_read(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    await server.register("bob")
    bob = await slow_client(server, "bob")
    count = await fill(ann, bob, server)
    chat = (await ann.ok("history", to=bob.id, limit=1))["chat"]
    before = waiting_for(server, bob)
    for _ in range(2000):
        ann.tell("typing", to=bob.id)
    ann.tell("read", chat=chat, seq=1)
    await ann.settled()
    assert waiting_for(server, bob) <= before
    bob.go_on_reading()
    for _ in range(count):
        await bob.told("message")
    assert await bob.settled() == []


async def test_a_client_that_does_not_read_is_not_read_from(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    await server.register("bob")
    bob = await slow_client(server, "bob")
    await fill(ann, bob, server)
    bob.tell("send", ref="s", to=ann.id, text="from bob")
    for _ in range(3):
        await server.advance(1)
        assert await ann.settled() == []
    bob.go_on_reading()
    await bob.reply("s")
    assert (await ann.told("message"))["text"] == "from bob"


REPLIES: dict[str, tuple[int, dict[str, Any]]] = {
    "history": (200, {"to": 1, "limit": 200}),
    "help": (300, {}),
    "chats": (2000, {}),
    "user.search": (2000, {"query": "x"}),
    "nope": (4000, {}),
}
"""What a client asks and does not read the replies to, and how often."""


@pytest.mark.parametrize("kind", REPLIES)
async def test_replies_count_as_well(server: ChatServer, kind: str) -> None:
    ann, bob = await server.people("ann", "bob")
    for number in range(20):
        await bob.ok("send", to=ann.id, text=TEXT, cid=f"{number}")
    server.reload(limits__max_errors=0)
    greedy = await slow_client(server, "bob")
    greedy.stop_reading()
    count, fields = REPLIES[kind]
    greedy.raw((json.dumps({"type": kind, "ref": "x" * 60, **fields}).encode() + b"\n") * count)
    largest = 0
    while not choked(server, greedy):
        await ann.settled()
        largest = max(largest, waiting_for(server, greedy))
    for _ in range(10):
        await ann.settled()
        largest = max(largest, waiting_for(server, greedy))
    # One reply may go over the limit, or one write of several joined.
    assert largest < BUFFER + 150_000
    greedy.go_on_reading()
    for _ in range(count):
        await greedy.reply("x" * 60)


async def test_help_needs_no_login_and_is_bounded_all_the_same(server: ChatServer) -> None:
    client = await server.connect(receive_buffer=4096)
    client.stop_reading()
    client.raw(b'{"type":"help"}\n' * 200)
    barrier = await server.connect()
    for _ in range(20):
        await barrier.ok("ping")
    [transport] = [
        c.transport
        for c in server.node.connections._all
        if c.transport.getPeer().port == client.transport.getHost().port
    ]
    assert len(transport.dataBuffer) + transport._tempDataLen < BUFFER + 150_000
    client.go_on_reading()
    for _ in range(200):
        await client.told("help.ok")


# --- slow_timeout ------------------------------------------------------------


async def test_who_takes_nothing_for_slow_timeout_is_cut(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    await server.register("bob")
    bob = await slow_client(server, "bob", acks=True)
    count = await fill(ann, bob, server)
    assert 60 <= await until_cut(bob, server) <= 62
    # What was not taken is there at the next login.
    await server.advance(10)
    again = await server.log_in("bob", acks=True)
    seqs = [(await again.told("message"))["seq"] for _ in range(count)]
    assert seqs == list(range(1, count + 1))


async def test_the_reason_arrives_if_it_reads_in_the_end(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    await server.register("bob")
    bob = await slow_client(server, "bob")
    await fill(ann, bob, server)
    await until_cut(bob, server)
    bob.go_on_reading()
    assert (await bob.ended())[-1] == {"type": "kicked", "reason": "slow"}


async def test_who_takes_a_little_now_and_then_is_not_cut(server: ChatServer) -> None:
    # Where the kernel takes what waits, a WebSocket is pinged, and who does not read does not answer.
    server.reload(chat__heartbeat_timeout=3600.0)
    [ann] = await server.people("ann")
    await server.register("bob")
    bob = await slow_client(server, "bob")
    await fill(ann, bob, server)
    connection = server.node.sessions[bob.id].connection
    for _ in range(5):
        await server.advance(50)
        taken = connection.taken()
        bob.go_on_reading()
        # The kernel may have taken the rest while time passed.
        await server.until(lambda taken=taken: connection.taken() > taken or not choked(server, bob))
        bob.stop_reading()
        await fill(ann, bob, server)
    bob.go_on_reading()
    await bob.settled()
    assert not bob.closed


async def test_who_took_everything_and_says_nothing_is_not_slow(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    await server.advance(300)
    await ann.ok("send", to=bob.id, text="x")
    await bob.told("message")


async def test_a_slow_client_that_is_kicked_gets_all_that_was_written_and_then_the_end(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    await server.register("bob")
    bob = await slow_client(server, "bob")
    await fill(ann, bob, server)
    newer = await server.log_in("bob")
    bob.go_on_reading()
    assert (await bob.ended())[-1] == {"type": "kicked", "reason": "takeover"}
    assert [line["seq"] for line in bob.lines[1:-1]] == list(range(1, len(bob.lines) - 1))
    await newer.ok("ping")


async def test_a_closed_connection_that_is_not_read_is_cut_after_a_while(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    await server.register("bob")
    bob = await slow_client(server, "bob")
    await fill(ann, bob, server)
    await server.log_in("bob")
    assert len(server.node.connections) == 3
    await server.advance(10)
    # The end of a connection is told in a later turn of the reactor.
    await server.until(lambda: len(server.node.connections) == 2)


# --- a login that has much to bring ------------------------------------------


@pytest.mark.parametrize(
    ("server", "numbered"),
    [(ChatServer, False), (ChatServer, True), (WebSocketServer, False)],
    indirect=["server"],
)
async def test_a_catch_up_waits_for_a_slow_reader(server: ChatServer, numbered: bool) -> None:
    [ann] = await server.people("ann")
    [uid] = await server.register("bob")
    for number in range(100):
        await ann.ok("send", to=uid, text=TEXT, cid=f"{number}")
    bob = await server.connect(receive_buffer=4096)
    if numbered:
        bob.number(1, id=uid, password=PASSWORD)
    else:
        bob.tell("login", id=uid, password=PASSWORD)
    await bob.until(lambda: bob.lines)
    bob.stop_reading()
    bob.id = uid
    for _ in range(5):
        await server.advance(1)
        assert waiting_for(server, bob) < BUFFER + 100_000
    for number in range(100, 110):
        await ann.ok("send", to=uid, text=TEXT, cid=f"{number}")
    bob.go_on_reading()
    await bob.until(lambda: len(bob.lines) == 111)
    if not numbered:
        assert [line["seq"] for line in bob.lines[1:]] == list(range(1, 111))
