"""Behind a proxy: clients are told apart by the addresses in its PROXY headers, and nothing else changes."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from typing import Any

import pytest
import pytest_twisted
from chat_server import PASSWORD, ChatServer, Client, open_client
from status_parts import texts
from twisted.internet.endpoints import serverFromString
from twisted.logger import capturedLogs

from flux.chat.protocol import ChatFactory
from flux.net.eager import EagerServer, make_eager

BUFFER = 16 * 1024
ANNS, BOBS = "203.0.113.7", "2001:db8::7"


@pytest_twisted.async_yield_fixture
async def server(tmp_path):
    server = await ChatServer(tmp_path, chat__buffer=BUFFER).start()
    [running] = server.nodes
    await running.listening.stopListening()
    endpoint = serverFromString(server.reactor, "haproxy:tcp:0:interface=127.0.0.1")
    running.listening = await endpoint.listen(ChatFactory(running.node, proxied=True))
    make_eager(running.listening, BUFFER)
    yield server
    await server.stop()


def header(address: str) -> bytes:
    """As nginx writes it."""
    if ":" in address:
        return f"PROXY TCP6 {address} ::1 40000 8090\r\n".encode()
    return f"PROXY TCP4 {address} 127.0.0.1 40000 8090\r\n".encode()


def header_v2(address: str) -> bytes:
    """The binary form, with something after the addresses as some proxies have it."""
    family, version = (socket.AF_INET6, 0x21) if ":" in address else (socket.AF_INET, 0x11)
    addresses = socket.inet_pton(family, address) * 2 + struct.pack("!HH", 40000, 8090)
    return b"\r\n\r\n\0\r\nQUIT\n\x21" + bytes([version]) + struct.pack("!H", len(addresses)) + addresses


def through(server: ChatServer, address: str, first: bytes | None = None, **options: Any) -> Client:
    """A client that comes through a proxy which sends ``first``, normally a header with ``address``."""
    client = open_client(server.nodes[0].port, **options)
    server.clients.append(client)
    client.raw(header(address) if first is None else first)
    return client


async def logged_in(server: ChatServer, name: str, address: str, **options: Any) -> Client:
    client = through(server, address, **options)
    client.id = (await client.ok("login", name=name, password=PASSWORD, acks=True))["id"]
    return client


@pytest.mark.parametrize("address", [ANNS, BOBS])
@pytest.mark.parametrize("form", [header, header_v2])
async def test_the_log_shows_the_clients_own_address(server: ChatServer, form: Any, address: str) -> None:
    await server.register("ann")
    client = through(server, "", form(address))
    with capturedLogs() as logged:
        await client.ok("login", name="ann", password=PASSWORD)
    [shown] = [text.rpartition(" ")[2] for text in texts(logged) if text.startswith("user 1 logged in from ")]
    assert ip_address(shown) == ip_address(address)


async def test_header_and_first_lines_may_come_in_one_piece_or_in_many(server: ChatServer) -> None:
    await server.register("ann")
    lines = b'{"type":"ping","ref":1}\n{"type":"ping","ref":2}\n'
    client = through(server, ANNS, header(ANNS) + lines)
    await client.reply(2)
    slow = through(server, ANNS, header(ANNS)[:8])
    await client.settled()
    for piece in (header(ANNS)[8:20], header(ANNS)[20:] + lines[:5], lines[5:]):
        slow.raw(piece)
        # By then the server has read it, for it reads what came first before what came last.
        await client.ok("ping")
    await slow.reply(2)
    assert {connection.address for connection in server.node.connections._all} == {ANNS}


async def test_wrong_passwords_are_counted_by_the_clients_address(server: ChatServer) -> None:
    server.reload(limits__logins_per_minute=2)
    await server.register("ann")
    guessing = through(server, ANNS)
    for _ in range(2):
        assert await guessing.refused("login", name="ann", password="x") == "password_invalid"
    assert await guessing.refused("login", name="ann", password=PASSWORD) == "rate_limited"
    elsewhere = through(server, BOBS)
    await elsewhere.ok("login", name="ann", password=PASSWORD)


async def test_an_address_may_have_so_many_connections(server: ChatServer) -> None:
    server.reload(limits__connections_per_address=2)
    some = [through(server, ANNS) for _ in range(2)]
    for client in some:
        await client.ok("ping")
    late = through(server, ANNS)
    late.tell("ping")
    [error] = await late.ended()
    assert error["name"] == "rate_limited"
    others = [through(server, BOBS) for _ in range(2)]
    for client in others:
        await client.ok("ping")
    await some[0].close()
    await some[1].ok("ping")
    await through(server, ANNS).ok("ping")


async def test_who_says_nothing_is_counted_too(server: ChatServer) -> None:
    server.reload(limits__connections_per_address=2)
    silent = [through(server, ANNS) for _ in range(4)]
    await server.until(lambda: len(server.node.connections) == 4)
    # Another connection's answer: by then the headers that came before it were read.
    await through(server, BOBS).ok("ping")
    await server.advance(1)
    await server.until(lambda: sum(bool(client.closed) for client in silent) == 2)
    assert [line["name"] for client in silent for line in client.lines] == ["rate_limited"] * 2
    assert not any(len(client.lines) > 1 for client in silent)


async def test_a_proxy_may_come_on_its_own_behalf(server: ChatServer) -> None:
    client = through(server, "", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")
    await client.ok("ping")
    assert [connection.address for connection in server.node.connections._all] == ["127.0.0.1"]


async def test_who_comes_past_the_proxy_is_closed_and_the_log_says_why(server: ChatServer) -> None:
    clients = [through(server, "", b'{"type":"ping","ref":1}\n') for _ in range(3)]
    for client in clients:
        assert await client.ended() == []
    with capturedLogs() as logged:
        await server.advance(1)
    [text] = [text for text in texts(logged) if "PROXY" in text]
    assert text.startswith("connections from 127.0.0.1 without the PROXY header that chat.listen = haproxy:")
    assert text.endswith("closed: 3")
    assert not server.node.connections
    # A proxy that only looks whether somebody listens is no reason to complain.
    visitor = through(server, "", b"")
    await visitor.close()
    with capturedLogs() as logged:
        await server.advance(1)
    assert not [text for text in texts(logged) if "PROXY" in text]


async def test_writes_are_as_eager_as_without_a_proxy(server: ChatServer) -> None:
    await server.register("ann", "bob")
    ann, bob = await logged_in(server, "ann", ANNS), await logged_in(server, "bob", BOBS)
    connection = server.node.sessions[bob.id].connection
    wrapped: Any = connection.transport
    assert isinstance(wrapped.transport, EagerServer)
    before = connection.taken()
    line = b'{"type":"presence","id":1,"online":true}\n'
    connection.write(line)
    # Without a turn of the reactor in between.
    assert connection.taken() == before + len(line)
    assert connection.drained()
    assert await bob.told("presence") == {"id": 1, "online": True}
    await ann.settled()


async def test_a_client_that_does_not_read_is_not_fed_and_catches_up(server: ChatServer) -> None:
    server.nodes[0].listening.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    await server.register("ann", "bob")
    ann, bob = await logged_in(server, "ann", ANNS), await logged_in(server, "bob", BOBS, receive_buffer=4096)
    connection = server.node.sessions[bob.id].connection
    bob.stop_reading()
    count = 0
    while not connection.choked:
        count += 1
        assert count < 2000
        await ann.ok("send", to=bob.id, text="x" * 4000)
    assert not connection.drained()
    for _ in range(50):
        await ann.ok("send", to=bob.id, text="x" * 4000)
    before = connection.taken()
    bob.go_on_reading()
    assert [(await bob.told("message"))["seq"] for _ in range(count + 50)] == list(range(1, count + 51))
    await bob.settled()
    assert connection.drained()
    # By this, who is slow is told from who is stuck.
    assert connection.taken() - before > 50 * 4000


async def test_the_last_words_arrive(server: ChatServer) -> None:
    client = through(server, ANNS)
    await client.ok("ping")
    # More is under way than the server reads before it closes: a close that does not hear it out is a reset.
    client.raw(b"x" * 600_000)
    await client.until(lambda: client.lines[1:] or client.closed)
    assert client.lines[1]["name"] == "line_too_long"
    await client.close()
