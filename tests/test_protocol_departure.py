"""Why a session ends from the server's side: draining, moving, stopping; and what a stop brings out before."""

from __future__ import annotations

from itertools import pairwise

import pytest
import pytest_twisted
from chat_server import PASSWORD, ChatServer, Client, leaves_nothing
from status_parts import texts
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent

from flux.chat import departure
from flux.errors import Unavailable


@pytest_twisted.async_yield_fixture
async def server(tmp_path):
    server = await ChatServer(tmp_path).start()
    yield server
    await server.stop()


DRAIN = 10.0


async def drain(server: ChatServer, name: str = "chat1", draining: bool = True) -> None:
    """Mark a node and let its next heartbeat see that."""
    await server.state.drain(name, draining)
    await server.advance(4)


async def until_moved(server: ChatServer, *clients: Client) -> None:
    """Let time pass until all have been told to go; as many seconds as that takes at most."""
    for _ in range(int(2 * DRAIN) + 4):
        if all("moved" in [line["type"] for line in client.lines] for client in clients):
            return
        await server.advance(1)
    raise AssertionError("not all were told to go")


async def held_login(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> tuple[Client, Deferred[None]]:
    """A client whose login is under way until the deferred fires; its reply has the ref 1."""
    [uid] = await server.register("ann")
    held: Deferred[None] = Deferred()
    original = server.store.open_session

    async def slowly(uid: int) -> int:
        await held
        return await original(uid)

    monkeypatch.setattr(server.store, "open_session", slowly)
    client = await server.connect()
    client.tell("login", ref=1, id=uid, password=PASSWORD)
    await server.until(lambda: bool(server.node.logging_in))
    return client, held


# --- draining ----------------------------------------------------------------


async def test_a_draining_node_takes_no_logins(server: ChatServer) -> None:
    [uid] = await server.register("ann")
    token = await server.token(uid)
    await drain(server)
    client = await server.connect()
    for fields in (
        {"name": "ann", "password": PASSWORD},
        {"id": uid, "token": token},
        {"name": "ann", "password": "x"},
    ):
        error = await client.fails("login", **fields)
        assert (error["code"], error["name"]) == (1108, "no_server")
    await drain(server, draining=False)
    await client.ok("login", name="ann", password=PASSWORD)


async def test_clients_of_a_draining_node_are_told_where_to_go_with_a_token(server: ChatServer) -> None:
    first, second = server.nodes[0], await server.start_node()
    first.placement.target = second
    clients = await server.people("ann", "bob", "cy")
    await server.state.drain("chat1", True)
    for client in clients:
        await until_moved(server, client)
        moved = await client.told("moved")
        token = moved.pop("token")
        assert moved == {
            "host": "127.0.0.1", "port": second.port, "reason": "drain", "grace": DRAIN * 1000, "server": "chat2",
            "websocket": "ws://chat2/ws",
        }  # fmt: skip
        there = await server.connect(second)
        with capturedLogs() as logged:
            assert (await there.ok("login", id=client.id, token=token))["server"] == "chat2"
            assert (await client.ended())[-1] == {"type": "kicked", "reason": "takeover"}
        told = [formatEvent(event) for event in logged]
        assert f"user {client.id} is on another server now" in told
        assert not any("kicked" in line for line in told)


async def test_they_are_not_asked_all_at_once(server: ChatServer) -> None:
    first, second = server.nodes[0], await server.start_node()
    first.placement.target = second
    clients = await server.people(*(f"user {number}" for number in range(20)))
    await server.state.drain("chat1", True)
    await server.advance(3)
    counts = [0]
    staying = clients
    while staying:
        for _ in range(20):
            await server.advance(0.05)
        for client in staying:
            await client.ok("ping")
        staying = [client for client in staying if "moved" not in [line["type"] for line in client.lines]]
        counts.append(len(clients) - len(staying))
        assert len(counts) < 2 * DRAIN
    assert len(counts) > DRAIN / 2
    asked = [later - earlier for earlier, later in pairwise(counts)]
    assert max(asked) < 8
    # Nor at even intervals: servers that are drained one after the other would send everybody back at the same moments.
    assert len(set(asked)) > 3


async def test_who_does_not_go_is_closed_after_the_grace(server: ChatServer) -> None:
    first, second = server.nodes[0], await server.start_node()
    first.placement.target = second
    [ann] = await server.people("ann")
    await server.state.drain("chat1", True)
    await until_moved(server, ann)
    await ann.told("moved")
    # In between everything works as before.
    assert (await ann.ok("profile.get"))["id"] == ann.id
    with capturedLogs() as logged:
        await server.advance(DRAIN)
        assert await ann.ended() == [{"type": "kicked", "reason": "shutdown"}]
        await server.advance(1)
    told = [formatEvent(event) for event in logged]
    assert any(line.endswith("clients closed that were told where to go, and stayed: 1") for line in told)


async def test_a_drain_that_is_taken_back_closes_nobody(server: ChatServer) -> None:
    first, second = server.nodes[0], await server.start_node()
    first.placement.target = second
    [ann] = await server.people("ann")
    await server.state.drain("chat1", True)
    await until_moved(server, ann)
    await ann.told("moved")
    await drain(server, draining=False)
    await server.advance(2 * DRAIN)
    await ann.ok("chats")


async def test_without_another_server_clients_stay_until_the_deadline(server: ChatServer, monkeypatch) -> None:
    monkeypatch.setattr(departure, "PORTION", 3)
    clients = await server.people(*(f"user {number}" for number in range(7)))
    # It began with a heartbeat within those 4 s.
    await drain(server)
    with capturedLogs() as logged:
        await server.advance(2 * DRAIN - 4)
        for client in clients:
            assert await client.settled() == []
        await server.advance(5)
    assert any(text.endswith(f"for whom no other server was found: {len(clients)}") for text in texts(logged))
    for client in clients:
        assert await client.ended() == [{"type": "kicked", "reason": "shutdown"}]
    await server.advance(1)
    assert server.nodes[0].drained == 1


async def test_a_login_that_ends_after_the_deadline_is_closed_too(server: ChatServer, monkeypatch) -> None:
    client, held = await held_login(server, monkeypatch)
    await drain(server)
    await server.advance(2 * DRAIN)
    assert not server.nodes[0].drained
    held.callback(None)
    assert (await client.reply(1))["type"] == "login.ok"
    await server.advance(2)
    assert await client.ended() == [{"type": "kicked", "reason": "shutdown"}]
    assert server.nodes[0].drained == 1


async def test_clients_stay_until_there_is_another_server(server: ChatServer) -> None:
    first = server.nodes[0]
    clients = await server.people("ann", "bob", "cy")
    with capturedLogs() as logged:
        await drain(server)
        for _ in range(int(DRAIN)):
            if any(text.startswith("no other server for clients, the next try is in ") for text in texts(logged)):
                break
            await server.advance(1)
        else:
            raise AssertionError(texts(logged))
    # Nobody's token was replaced by one that nobody is told of.
    assert not any(client.lines[1:] for client in clients)
    first.placement.target = second = await server.start_node()
    await until_moved(server, *clients)
    for client in clients:
        moved = await client.told("moved")
        assert 0 < moved["grace"] <= 1000 * DRAIN
        token = moved["token"]
        await (await server.connect(second)).ok("login", id=client.id, token=token)
    await server.until(lambda: not first.node.sessions)
    assert not first.drained
    await server.advance(1)
    assert first.drained == 1


async def test_who_is_asked_late_has_the_time_that_is_left(server: ChatServer) -> None:
    first = server.nodes[0]
    clients = await server.people(*(f"user {number}" for number in range(5)))
    await server.state.drain("chat1", True)
    while not first.node.draining:
        await server.advance(1)
    ends = server.clock.seconds() + 2 * DRAIN
    await server.advance(DRAIN)
    assert not any(client.lines[1:] for client in clients)
    first.placement.target = await server.start_node()
    staying = list(clients)
    while staying:
        await server.advance(0.25)
        now = server.clock.seconds()
        for client in list(staying):
            for moved in await client.settled():
                staying.remove(client)
                # Asked in the first half of what was left; and the second in which it began is not known exactly.
                assert moved["type"] == "moved"
                assert abs(now + moved["grace"] / 1000 - ends) < 1.5
                assert moved["grace"] > 1000
    await server.advance(ends - server.clock.seconds() - 1.5)
    assert not any(client.closed for client in clients)
    await server.advance(3)
    for client in clients:
        assert await client.ended() == [{"type": "kicked", "reason": "shutdown"}]


async def test_as_many_go_as_there_are_places_for(server: ChatServer) -> None:
    first, second = server.nodes[0], await server.start_node()
    first.placement.target, first.placement.places = second, 13
    clients = await server.people(*(f"user {number}" for number in range(20)))
    # All are due at once, and closed then.
    server.reload(chat__drain=0.0)
    await drain(server)
    await server.until(lambda: not first.node.sessions)
    told = [[line["type"] for line in await client.ended()] for client in clients]
    assert sorted(told) == [["kicked"]] * 7 + [["moved", "kicked"]] * 13


async def test_a_client_that_does_not_read_keeps_its_token(server: ChatServer) -> None:
    first, second = server.nodes[0], await server.start_node()
    first.placement.target = second
    ann, bob = await server.people("ann", "bob")
    token = await server.token(bob.id)
    bob.stop_reading()
    session = first.node.sessions[bob.id]
    while not session.connection.choked:
        await ann.ok("send", to=bob.id, text="x" * 8000)
    await server.state.drain("chat1", True)
    await server.advance(2 * DRAIN + 5)
    # Not told of a server, it was closed in the end.
    assert session.ended
    assert not any(bob.id in uids for uids in first.placement.asked)
    await (await server.connect(second)).ok("login", id=bob.id, token=token)


async def test_a_client_of_the_numbered_dialect_is_closed_at_its_moment(server: ChatServer) -> None:
    first = server.nodes[0]
    [uid] = await server.register("ann")
    client = await server.connect()
    client.number(1, id=uid, password=PASSWORD)
    assert (await client.numbered(2))["errno"] == 0
    await drain(server)
    await server.advance(DRAIN - 4)
    # There is no other server: it stays.
    assert not client.closed
    first.placement.target = await server.start_node()
    with capturedLogs() as logged:
        while not client.closed:
            assert not any("the time of the drain is over" in text for text in texts(logged))
            await server.advance(1)
    assert await client.ended() == []
    assert len(client.lines) == 1


async def test_a_login_that_was_under_way_is_sent_on(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = server.nodes[0], await server.start_node()
    first.placement.target = second
    client, held = await held_login(server, monkeypatch)
    await drain(server)
    assert not first.drained
    held.callback(None)
    assert (await client.reply(1))["type"] == "login.ok"
    await until_moved(server, client)
    await server.advance(DRAIN + 1)
    assert (await client.ended())[-1] == {"type": "kicked", "reason": "shutdown"}
    await server.advance(1)
    assert first.drained == 1


async def test_a_node_is_drained_as_soon_as_everybody_has_gone(server: ChatServer) -> None:
    first, second = server.nodes[0], await server.start_node()
    first.placement.target = second
    clients = await server.people("ann", "bob")
    server.reload(chat__drain=1.0)
    await drain(server)
    for client in clients:
        await until_moved(server, client)
        await client.close()
    await server.until(lambda: not first.node.sessions)
    await server.advance(1)
    assert first.drained == 1


async def test_a_node_without_clients_is_drained_at_once(server: ChatServer) -> None:
    await drain(server)
    assert server.nodes[0].drained == 1


async def test_whoever_starts_a_drained_server_again_wants_it_to_serve(server: ChatServer) -> None:
    await server.register("ann")
    await drain(server)
    first = server.nodes[0]
    await server.stop_node(first)
    await server.start_node(chat__name=first.node.name)
    await server.advance(4)
    await server.log_in("ann")


async def test_also_where_it_was_stopped_before_it_knew(server: ChatServer) -> None:
    await server.state.drain("chat1", True)
    first = server.nodes[0]
    await server.stop_node(first)
    again = await server.start_node(chat__name=first.node.name)
    await server.advance(4)
    assert not again.node.draining


async def test_a_server_that_crashed_while_draining_goes_on_draining(server: ChatServer) -> None:
    await drain(server)
    # Its lease has lapsed, and nobody has taken the mark away.
    await server.state.retire("chat1", server.node.boot)
    again = await server.start_node(chat__name="chat1")
    assert again.node.draining


# --- stopping ----------------------------------------------------------------


async def test_a_stop_answers_what_was_sent_tells_why_and_closes(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    idle = await server.connect()
    for number in range(50):
        ann.tell("send", ref=number, to=bob.id, text=f"{number}")
    await ann.reply(0)
    await server.stop_node(server.nodes[0])
    assert await idle.ended() == []
    lines = await ann.ended()
    assert lines[-1] == {"type": "kicked", "reason": "shutdown"}
    acknowledged = [line["seq"] for line in lines[:-1]]
    assert acknowledged == list(range(2, len(lines) + 1))
    pushed = await bob.ended()
    assert pushed[-1] == {"type": "kicked", "reason": "shutdown"}
    assert [line["seq"] for line in pushed[:-1]] == [1, *acknowledged]
    # What was written before the end counts as received.
    assert await server.cursors(bob.id) == {1: (len(pushed) - 1, 0)}


async def test_a_stop_tells_clients_of_another_server(server: ChatServer) -> None:
    first, second = server.nodes[0], await server.start_node()
    first.placement.target = second
    [ann] = await server.people("ann")
    await server.stop_node(first)
    moved, kicked = await ann.ended()
    token = moved.pop("token")
    assert moved == {
        "type": "moved", "host": "127.0.0.1", "port": second.port, "reason": "shutdown", "grace": 0, "server": "chat2",
        "websocket": "ws://chat2/ws",
    }  # fmt: skip
    assert kicked == {"type": "kicked", "reason": "shutdown"}
    await (await server.connect(second)).ok("login", id=ann.id, token=token)


async def test_a_stop_does_not_wait_for_ever_for_who_does_not_read(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    bob.stop_reading()
    for number in range(200):
        ann.tell("send", ref=number, to=bob.id, text="x" * 8000)
    for number in range(200):
        await ann.reply(number)
    before = server.clock.seconds()
    await server.stop_node(server.nodes[0])
    assert server.clock.seconds() - before < DRAIN + 2
    await ann.ended()


@pytest.mark.parametrize("kind", ["login", "history", "send"])
async def test_a_stop_while_a_request_waits_logs_no_error(server: ChatServer, kind: str, monkeypatch) -> None:
    ann, bob = await server.people("ann", "bob")
    [uid] = await server.register("cy")
    chat = (await ann.ok("send", to=bob.id, text="x"))["chat"]
    stuck: list[Deferred[None]] = []

    def never(*arguments: object) -> Deferred[None]:
        stuck.append(Deferred())
        return stuck[-1]

    monkeypatch.setattr(server.store, {"login": "open_session", "history": "history", "send": "append"}[kind], never)
    if kind == "login":
        client = await server.connect()
        client.tell("login", id=uid, password=PASSWORD)
    elif kind == "history":
        ann.tell("history", chat=chat)
    else:
        ann.tell("send", to=bob.id, text="x")
    await server.until(lambda: stuck)
    running = server.nodes[0]
    if kind == "send":
        # The journal is flushed before anything is closed; the store has a deadline for that.
        server.reactor.callLater(0.01, lambda: stuck[0].errback(Unavailable("too slow")))
    await server.stop_node(running)
    # The fixture that looks for errors in the log is the test.
    await ann.ended()


async def test_who_has_left_takes_no_memory_even_before_garbage_is_collected(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    await leaves_nothing(server, ann)
