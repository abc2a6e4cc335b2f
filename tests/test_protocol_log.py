"""What the log of a chat server tells an admin of its users."""

from __future__ import annotations

import re
from typing import Any

import pytest
import pytest_twisted
from chat_server import PASSWORD, ChatServer, befriend
from constantly import NamedConstant
from twisted.internet.defer import fail
from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent

from flux.errors import Unavailable


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


def failing(*_: Any) -> Any:
    return fail(Unavailable("it is away"))


async def test_an_outage_is_a_line_of_each_kind_however_long_and_of_however_many(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = await server.start_node()
    server.reload(limits__registrations_per_hour_address=1000)
    ann, bob, _ = await server.people("ann", "bob", "cy")
    dan = await server.log_in((await server.register("dan"))[0], second)
    group = (await ann.ok("group.create", name="g"))["group"]
    await ann.ok("group.add", group=group, id=bob.id)
    await befriend(ann, dan)

    async def all_that_is_told() -> None:
        guest = await server.connect()
        await guest.ok("register", name=f"guest {len(server.clients)}", password=PASSWORD)
        await guest.ok("login", name=f"guest {len(server.clients)}", password=PASSWORD)
        await guest.ok("friend.add", to=dan.id)
        await guest.ok("send", to=dan.id, text="hello")
        await ann.ok("group.add", group=group, id=3)
        await ann.ok("group.remove", group=group, id=3)
        await ann.ok("friends")
        await ann.ok("send", to=bob.id, text="hello")
        message = await bob.told("message")
        bob.tell("received", chat=message["chat"], seq=message["seq"])
        await bob.settled()
        await guest.close()
        await server.until(lambda: len(server.node.sessions) == 3)
        # The heartbeat and the second's work.
        await server.advance(2)

    with capturedLogs() as logged, monkeypatch.context() as broken:
        for name in ("release", "failures", "fail", "routes"):
            broken.setattr(server.state, name, failing)
        for name in ("multicast", "broadcast"):
            broken.setattr(server.bus, name, failing)
        for name in ("advance", "membership"):
            broken.setattr(server.store, name, failing)
        for _ in range(3):
            await all_that_is_told()
    assert told_of(logged, LogLevel.warn) == [
        "cursors cannot be written yet",
        "failed logins are not counted",
        "members are not shown who joins and leaves",
        "other nodes are not told of new messages",
        "other nodes are not told of presence and the like",
        "other nodes are not told who joins and leaves",
        "presence is incomplete",
        "registrations are not counted",
        "routes of ended sessions stay until the next heartbeat",
        "the members of chat 1 cannot be read",
        # On each of the two.
        "what moved in the store cannot be read",
        "what moved in the store cannot be read",
    ]
    with capturedLogs() as logged:
        for _ in range(2):
            await all_that_is_told()
    assert [line for line in told_of(logged, LogLevel.info) if "again" in line] == [
        "cursors are written again",
        "failed logins are counted again",
        "members are shown again who joins and leaves",
        "messages and members are read again",
        "other nodes are told of presence and the like again",
        "other nodes are told who joins and leaves again",
        "other nodes can be told again",
        "presence is complete again",
        "registrations are counted again",
        "routes of ended sessions are released again",
        "what moved in the store is read again",
        "what moved in the store is read again",
    ]


def told_of(logged: list[LogEvent], level: NamedConstant) -> list[str]:
    """What was told at this level, without numbers and reasons."""
    told = [formatEvent(event) for event in logged if event["log_level"] is level]
    return sorted(re.split(": |, | [(]", line)[0] for line in told)
