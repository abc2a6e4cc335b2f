"""What a gate has for browsers: the page, its own chat server's WebSockets, and those of others."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from chat_server import open_client
from gate_server import PASSWORD, GateServer
from twisted.logger import LogLevel, capturedLogs, formatEvent
from websocket_client import WebSocketClient

from flux.model.placement import Assignment, Lease

DRAIN = "chat.drain=5"


@pytest_twisted.async_yield_fixture
async def server(tmp_path):
    server = await GateServer(tmp_path, DRAIN).start()
    yield server
    await server.stop()


@asynccontextmanager
async def running(folder: Path, *changes: str) -> AsyncIterator[GateServer]:
    server = await GateServer(folder, DRAIN, *changes).start()
    try:
        yield server
    finally:
        await server.stop()


async def browser(server: GateServer, port: int = 0, path: str = "/ws", origin: str | None = None) -> WebSocketClient:
    """A WebSocket connection, to the gate if not to another port."""
    client = WebSocketClient(True, origin, path)
    open_client(port or server.port, client=client)
    server._clients.append(client)
    await client.opened()
    return client


async def log_in(server: GateServer, name: str) -> dict[str, Any]:
    login: dict[str, Any] = await server.ok("/v1/login", name=name, password=PASSWORD)
    return login


async def test_from_the_page_to_a_chat(server: GateServer) -> None:
    await server.register("ann")
    await server.register("bob")
    page = await server.ask("GET", "/")
    assert page.status == 200
    assert b"main.js" in page.raw
    ann, bob = await log_in(server, "ann"), await log_in(server, "bob")
    assert ann["websocket"] == bob["websocket"] == "/ws"
    from_page = await browser(server, path=ann["websocket"], origin=server.url)
    by_lines = server.chat()
    await from_page.ok("login", id=ann["id"], token=ann["token"], acks=True)
    await by_lines.ok("login", id=bob["id"], token=bob["token"])
    await from_page.ok("send", to=bob["id"], text="hello")
    assert (await by_lines.told("message"))["text"] == "hello"


async def test_a_stop_lets_browsers_have_their_last_words(server: GateServer) -> None:
    """The gate stops before the chat server, and these connections are the chat server's."""
    await server.register("ann")
    login = await log_in(server, "ann")
    client = await browser(server)
    await client.ok("login", id=login["id"], token=login["token"])
    client.tell("send", ref="s", to=login["id"] + 1, text="x")
    await server.assembly.stop()
    assert (await client.reply("s"))["name"] == "user_invalid"
    assert (await client.told("kicked"))["reason"] == "shutdown"
    assert await client.ended_with() == 1000


async def test_connections_of_one_address_are_counted_once_more_at_the_gate(tmp_path: Path) -> None:
    async with running(tmp_path, "limits.connections_per_address=2") as server:
        clients = [await browser(server) for _ in range(2)]
        refused = open_client(server.port, client=WebSocketClient(True, None, "/ws"))
        server._clients.append(refused)
        await refused.until(lambda: refused.closed)
        await clients[0].goodbye()
        assert (await (await browser(server)).ok("ping"))["at"]


async def test_the_page_may_connect_where_it_has_to_and_nowhere_else(tmp_path: Path, server: GateServer) -> None:
    policy = (await server.ask("GET", "/")).headers.getRawHeaders("Content-Security-Policy")
    assert policy is not None
    assert "connect-src 'self';" in policy[0]


async def test_origins_are_those_of_the_configuration(server: GateServer) -> None:
    async def status(origin: str) -> int:
        client = WebSocketClient(True, origin, "/ws")
        open_client(server.port, client=client)
        server._clients.append(client)
        return await client.opened()

    assert await status("http://127.0.0.1:1") == 101
    assert await status("https://chat.example.net") == 403
    server.reload("chat.origins=https://chat.example.net")
    assert await status("http://127.0.0.1:1") == 403
    assert await status("https://chat.example.net") == 101


async def test_what_is_no_websocket_is_refused_as_everything_else_is(server: GateServer) -> None:
    reply = await server.ask("GET", "/ws")
    assert (reply.status, reply.error) == (426, "bad_request")
    reply = await server.ask("POST", "/ws", {})
    assert (reply.status, reply.error) == (405, "bad_request")
    reply = await server.ask("GET", "/ws/x")
    assert (reply.status, reply.error) == (404, "not_found")


# --- other chat servers ------------------------------------------------------


async def lease(server: GateServer, name: str, port: int, websocket: str = "") -> None:
    """Another chat server, by the word of the shared state."""
    await server.assembly.state.renew(Lease(name, 1, "127.0.0.1", port, 0, 0, 1, 60.0, websocket), [])


async def test_another_chat_server_is_reached_through_the_gate(server: GateServer) -> None:
    """It is the same one here, under another name."""
    await server.register("ann")
    await lease(server, "chat2", server.assembly.chat.listener.address()[1])
    login = await log_in(server, "ann")
    client = await browser(server, path="/ws?server=chat2")
    await client.ok("login", id=login["id"], token=login["token"])
    # Not the gate's own connection: it came by lines.
    node = server.assembly.node
    assert node is not None
    assert node.sessions[login["id"]].connection.conn.startswith("c")
    await server.assembly.stop()
    await client.ended()


async def test_the_longest_line_of_relayed_connections_is_that_of_the_last_reload(server: GateServer) -> None:
    await lease(server, "chat2", server.assembly.chat.listener.address()[1])
    before = await browser(server, path="/ws?server=chat2")
    await before.ok("ping")
    server.reload("limits.max_line=1024")
    after = await browser(server, path="/ws?server=chat2")
    for client in (before, after):
        client.frames(client.peer.text(b'{"type":"ping","ref":"p"%b}' % (b" " * 1024)))
    assert await after.ended_with() == 1009
    await before.reply("p")


async def test_a_server_that_nobody_knows_is_told_with_a_code(server: GateServer) -> None:
    for name in ("nobody", "127.0.0.1:22", "%00", "chat1%20"):
        client = await browser(server, path=f"/ws?server={name}")
        assert await client.ended_with() == 1013


async def test_servers_that_nobody_knows_are_told_by_the_second(server: GateServer) -> None:
    relays = server.assembly.gate.browsers._relays
    with capturedLogs() as logged:
        for _ in range(3):
            assert await (await browser(server, path=f"/ws?server={'x' * 5_000}")).ended_with() == 1013
        await relays.stop()
    told = [event for event in logged if event["log_level"] is LogLevel.warn]
    assert sum(event["count"] for event in told) == 3
    assert formatEvent(told[0]).startswith("no chat server for 127.0.0.1, closed: ")
    assert formatEvent(told[0]).endswith(f"; no chat server is called '{'x' * 64}'")


async def test_a_static_server_is_known(server: GateServer) -> None:
    port = server.assembly.chat.listener.address()[1]
    server.reload("chatservers.name=old", "old.host=127.0.0.1", f"old.port={port}")
    client = await browser(server, path="/ws?server=old")
    await client.ok("ping")


async def test_the_own_server_by_its_name_is_no_detour(server: GateServer) -> None:
    await server.register("ann")
    login = await log_in(server, "ann")
    client = await browser(server, path="/ws?server=chat1")
    await client.ok("login", id=login["id"], token=login["token"])
    node = server.assembly.node
    assert node is not None
    assert node.sessions[login["id"]].connection.conn.startswith("w")


@pytest.mark.parametrize(
    ("via_gate", "websocket", "address"),
    [
        ("auto", "", "/ws?server=chat2"),
        ("auto", "wss://two/ws", "wss://two/ws"),
        ("yes", "", "/ws?server=chat2"),
        ("yes", "wss://two/ws", "/ws?server=chat2"),
        ("no", "", ""),
        ("no", "wss://two/ws", "wss://two/ws"),
    ],
)
async def test_what_browsers_are_told(server: GateServer, via_gate: str, websocket: str, address: str) -> None:
    server.reload(f"gate.chat_via_gate={via_gate}")
    assert server.assembly.gate is not None
    browsers = server.assembly.gate.browsers
    assert browsers.address(Assignment(1, "two", 8090, "chat2", "t", 0, websocket)) == address
    assert browsers.address(Assignment(1, "one", 8090, "chat1", "t", 0, websocket)) == "/ws"


async def test_the_gate_can_be_no_way_to_others(server: GateServer) -> None:
    server.reload("gate.chat_via_gate=no")
    await lease(server, "chat2", server.assembly.chat.listener.address()[1])
    assert (await server.ask("GET", "/ws?server=chat2")).status == 404
    assert (await server.ask("GET", "/ws?server=chat1")).status == 426


# --- a port of one's own -----------------------------------------------------


@pytest.mark.parametrize("url", ["", "wss://chat.example.net/ws"])
async def test_chat_websocket_is_a_port_of_its_own(tmp_path: Path, url: str) -> None:
    async with running(tmp_path, "chat.websocket=tcp:0:interface=127.0.0.1", f"chat.websocket_url={url}") as server:
        own = server.assembly.chat.websocket
        assert own is not None
        port = own.listener.address()[1]
        [node] = (await server.assembly.state.snapshot()).nodes
        assert node.websocket == (url or f"ws://127.0.0.1:{port}/ws")
        await server.register("ann")
        login = await log_in(server, "ann")
        client = await browser(server, port)
        await client.ok("login", id=login["id"], token=login["token"])
        reply = await server.http.request("GET", f"http://127.0.0.1:{port}/", {}, None)
        assert (reply[0], json.loads(reply[2])["name"]) == (404, "not_found")
        await server.assembly.stop()
        assert (await client.told("kicked"))["reason"] == "shutdown"
        assert await client.ended_with() == 1000


async def test_a_taken_websocket_port_is_said(tmp_path: Path, server: GateServer) -> None:
    from flux.lifecycle import CannotStart

    folder = tmp_path / "second"
    folder.mkdir()
    second = GateServer(folder, f"chat.websocket=tcp:{server.port}:interface=127.0.0.1")
    with pytest.raises(CannotStart, match=r"chat\.websocket = tcp:"):
        await second.start()
