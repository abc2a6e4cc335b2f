"""What the log of a chat server tells an admin of its users."""

from __future__ import annotations

import pytest_twisted
from chat_server import ChatServer
from twisted.logger import LogLevel, capturedLogs, formatEvent


@pytest_twisted.async_yield_fixture
async def server(tmp_path):
    server = await ChatServer(tmp_path).start()
    yield server
    await server.stop()


async def test_who_came_and_how_they_went(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    with capturedLogs() as logged:
        for way in ("close", "reset", "logout"):
            await (ann.ok("logout") if way == "logout" else getattr(ann, way)())
            await server.until(lambda: not server.node.sessions)
            ann = await server.log_in("ann")
    told = [formatEvent(event) for event in logged if str(event["log_format"]).startswith("user {uid}")]
    came = f"user {ann.id} logged in from 127.0.0.1"
    went = ("has closed the connection", "has lost the connection", "logged out")
    assert told == [line for way in went for line in (f"user {ann.id} {way}", came)]


async def test_a_stop_is_one_line_however_many_there_are(server: ChatServer) -> None:
    await server.people("ann", "bob", "cy")
    with capturedLogs() as logged:
        await server.stop_node(server.nodes[0])
    told = [formatEvent(event) for event in logged if event["log_level"] > LogLevel.debug]
    assert "sessions that end because this server stops: 3" in told
    assert not any("user" in line for line in told)
