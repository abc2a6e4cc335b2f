"""Browsers that reach chat servers through somebody else: nothing is lost on the way, and nothing piles up there."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
import pytest_twisted
from chat_server import PASSWORD, ChatServer, open_client
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from websocket_client import WebSocketClient, frame

from flux.chat.protocol import ChatFactory
from flux.errors import Forbidden
from flux.gate.site import GateSite
from flux.net.connection import POLICY_VIOLATION
from flux.net.eager import make_eager
from flux.net.relay import LOOK_EVERY, Relays, Target
from flux.net.upgrade import WebSocketResource

TEXT = "x" * 4000
BUFFER = 16 * 1024


class Gate:
    """A site whose ``/ws`` leads to the first node of a server, or to any port.

    :ivar target: the port that connections are relayed to from now on.
    """

    def __init__(self, server: ChatServer, proxied: bool = False, reactor: Any = None) -> None:
        self.server = server
        self.target = server.nodes[0].port
        limits, chat = server.settings.limits, server.settings.chat
        self.relays = Relays(limits.max_line, chat.slow_timeout, proxied, reactor or server.reactor)
        site = GateSite(server.settings, server.reactor)
        site.root.putChild(b"ws", WebSocketResource(self._build, lambda: ()))
        self.listening = server.reactor.listenTCP(0, site, interface="127.0.0.1")
        self.site = site
        make_eager(self.listening, BUFFER)
        self.clients: list[WebSocketClient] = []

    def _build(self, request: Any) -> Any:
        async def find() -> Target:
            return Target("127.0.0.1", self.target)

        return self.relays.build(request.address, find)

    async def connect(self, **options: Any) -> WebSocketClient:
        client = WebSocketClient()
        open_client(self.listening.getHost().port, client=client, **options)
        self.clients.append(client)
        await client.opened()
        return client

    async def log_in(self, name: str, acks: bool = True, **options: Any) -> WebSocketClient:
        client = await self.connect(**options)
        client.id = (await client.ok("login", name=name, password=PASSWORD, acks=acks))["id"]
        return client

    async def stop(self) -> None:
        await self.listening.stopListening()
        for client in self.clients:
            if not client.closed:
                await client.reset()
        await self.relays.stop()
        await self.site.stop()


@pytest_twisted.async_yield_fixture
async def server(tmp_path):
    server = await ChatServer(tmp_path, chat__buffer=BUFFER).start()
    yield server
    await server.stop()


@pytest_twisted.async_yield_fixture
async def gate(server):
    gate = Gate(server)
    yield gate
    await gate.stop()


async def turn(server: ChatServer) -> None:
    """Let the reactor do what is due."""
    await deferLater(server.reactor, 0)


async def test_a_conversation(server: ChatServer, gate: Gate) -> None:
    await server.register("ann", "bob")
    ann = await gate.log_in("ann")
    bob = await server.log_in("bob")
    for number in range(200):
        ann.tell("send", ref=number, to=bob.id, text=f"{number} \u4e16\u754c")
    for number in range(200):
        assert (await ann.reply(number))["type"] == "send.ok"
        assert (await bob.told("message"))["text"] == f"{number} \u4e16\u754c"
    await bob.ok("send", to=ann.id, text=TEXT * 2)
    assert (await ann.told("message"))["text"] == TEXT * 2
    ann.frames(ann.peer.text(b'{"type":"ping",\r\n"ref":"p"}'))
    await ann.reply("p")
    await ann.ok("logout")
    assert await ann.ended_with() == 1000
    await server.until(lambda: not len(gate.relays))


async def test_what_the_node_says_at_the_end_arrives(server: ChatServer, gate: Gate) -> None:
    await server.register("ann")
    ann = await gate.log_in("ann")
    await server.log_in("ann")
    assert (await ann.told("kicked"))["reason"] == "takeover"
    assert await ann.ended_with() == 1000


@pytest.mark.parametrize("code", [1000, None])
@pytest.mark.parametrize("acks", [True, False])
async def test_who_leaves_has_what_it_was_sent_and_who_is_cut_off_perhaps_not(
    server: ChatServer, gate: Gate, code: int | None, acks: bool
) -> None:
    await server.register("ann", "bob")
    ann = await server.log_in("ann")
    bob = await gate.log_in("bob", acks=acks)
    await ann.ok("send", to=bob.id, text="x")
    chat = (await bob.told("message"))["chat"]
    if code:
        await bob.goodbye(code)
    else:
        await bob.reset()
    await server.until(lambda: bob.id not in server.node.sessions)
    await server.advance(2)
    assert (await server.cursors(bob.id))[chat][0] == (1 if code and not acks else 0)


async def test_no_node_is_told_with_a_code(server: ChatServer, gate: Gate) -> None:
    with socket.socket() as taken:
        # Bound and not listening: refused.
        taken.bind(("127.0.0.1", 0))
        gate.target = taken.getsockname()[1]
        client = await gate.connect()
        client.tell("ping")
        assert await client.ended_with() == 1013


async def test_a_broken_rule_ends_it_here(server: ChatServer, gate: Gate) -> None:
    await server.register("ann")
    ann = await gate.log_in("ann")
    ann.frames(frame(1, b"\xff"))
    assert await ann.ended_with() == 1007
    await server.until(lambda: not server.node.sessions)


class Stubborn(Protocol):
    """A chat server that does not read, or says what it likes."""

    def connectionMade(self) -> None:
        self.factory.made.append(self)  # type: ignore[union-attr]
        self.received = b""
        self.lost: Any = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = reason


@pytest_twisted.async_yield_fixture
async def stubborn(server, gate):
    factory = Factory.forProtocol(Stubborn)
    factory.made = []
    factory.noisy = False
    listening = server.reactor.listenTCP(0, factory, interface="127.0.0.1")
    gate.target = listening.getHost().port
    yield factory.made
    await listening.stopListening()
    for each in factory.made:
        each.transport.abortConnection()


async def test_a_node_that_does_not_read_makes_the_client_wait(
    server: ChatServer, gate: Gate, stubborn: list[Any]
) -> None:
    client = await gate.connect()
    await server.until(lambda: stubborn)
    stubborn[0].transport.pauseProducing()
    [relay] = gate.relays._all
    line = json.dumps({"type": "x", "text": TEXT}).encode()
    sent = 0
    while not relay._paused:
        client.frames(client.peer.text(line))
        sent += 1
        assert sent < 10_000
        await turn(server)
    upstream = relay._upstream.transport
    waiting = len(upstream.dataBuffer) + upstream._tempDataLen
    assert waiting < 64 * 1024 + 2 * 65536
    stubborn[0].transport.resumeProducing()
    await server.until(lambda: stubborn[0].received.count(b"\n") == sent)


async def test_a_client_that_does_not_read_makes_the_node_wait(
    server: ChatServer, gate: Gate, stubborn: list[Any]
) -> None:
    client = await gate.connect(receive_buffer=4096)
    await server.until(lambda: stubborn)
    client.stop_reading()
    [relay] = gate.relays._all
    line = json.dumps({"type": "x", "text": TEXT}).encode() + b"\n"
    sent = 0
    while not relay.choked:
        stubborn[0].transport.write(line)
        sent += 1
        assert sent < 20_000
        await turn(server)
    largest = 0
    for _ in range(100):
        stubborn[0].transport.write(line * 10)
        sent += 10
        await turn(server)
        largest = max(largest, len(relay.transport.dataBuffer) + relay.transport._tempDataLen)
    assert largest < BUFFER + 3 * 65536
    client.go_on_reading()
    await client.until(lambda: len(client.lines) == sent)


async def test_a_line_without_end_ends_it(server: ChatServer, gate: Gate, stubborn: list[Any]) -> None:
    client = await gate.connect()
    await server.until(lambda: stubborn)
    stubborn[0].transport.write(b"x" * (1024 * 1024 + 1))
    assert await client.ended_with() == 1014


@pytest.mark.parametrize("unknown", [False, True])
async def test_the_node_learns_whose_connection_it_is(server: ChatServer, unknown: bool) -> None:
    """Who comes to the gate by a UNIX socket has no address: then it is the gate's."""
    [running] = server.nodes
    await running.listening.stopListening()
    endpoint = serverFromString(server.reactor, "haproxy:tcp:0:interface=127.0.0.1")
    running.listening = await endpoint.listen(ChatFactory(running.node, proxied=True))
    gate = Gate(server, proxied=True)
    if unknown:
        build = gate.relays.build
        gate.relays.build = lambda address, find: build("local", find)  # type: ignore[method-assign]
    await server.register("ann")
    ann = await gate.log_in("ann", address="127.0.0.77")
    assert server.node.sessions[ann.id].connection.address == ("127.0.0.1" if unknown else "127.0.0.77")
    await gate.stop()


class Watched:
    """The reactor with the clock of a test."""

    def __init__(self, reactor: Any, clock: Any) -> None:
        self._reactor = reactor
        self.callLater = clock.callLater
        self.seconds = clock.seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


async def test_the_silent_are_asked_and_the_node_hears_of_those_who_answer(server: ChatServer) -> None:
    gate = Gate(server, reactor=Watched(server.reactor, server.clock))
    gate.relays.start()
    await server.register("ann", "bob")
    ann, bob = await gate.log_in("ann"), await gate.log_in("bob")
    # From now on the node expects them to say something now and then; what a browser says by itself is a pong.
    await ann.ok("ping")
    await bob.ok("ping")
    assert len(gate.relays) == 2
    for _ in range(6):
        await server.advance(LOOK_EVERY)
        for client in (ann, bob):
            await client.until(lambda client=client: client.peer.pings)
            client.peer.pings = 0
        await server.until(lambda: all(relay.heard for relay in gate.relays._all))
    assert set(server.node.sessions) == {ann.id, bob.id}
    bob.stop_reading()
    for _ in range(3):
        await server.advance(LOOK_EVERY)
        await ann.until(lambda: ann.peer.pings)
        ann.peer.pings = 0
        await server.until(lambda: any(relay.heard for relay in gate.relays._all))
    assert set(server.node.sessions) == {ann.id}
    bob.go_on_reading()
    await bob.ended()
    await gate.stop()


async def test_who_takes_nothing_is_closed_and_who_is_slow_is_not(
    server: ChatServer, gate: Gate, stubborn: list[Any]
) -> None:
    watched = Gate(server, reactor=Watched(server.reactor, server.clock))
    watched.target = gate.target
    watched.relays.start()
    client = await watched.connect(receive_buffer=4096)
    await server.until(lambda: stubborn)
    [relay] = watched.relays._all
    [upstream] = stubborn
    relay.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    line = json.dumps({"type": "x", "text": TEXT}).encode() + b"\n"

    async def fill() -> None:
        while not relay.choked:
            upstream.transport.write(line)
            await turn(server)

    async def look() -> None:
        """Let the relays be looked at while the client takes nothing; afterwards, something waits for it."""
        client.stop_reading()
        await fill()
        await server.advance(LOOK_EVERY)
        # Meanwhile the kernel may have taken all of it.
        await fill()

    looks = round(server.settings.chat.slow_timeout / LOOK_EVERY)
    for _ in range(looks + 2):
        await look()
        assert not relay.closed
        before = relay.taken()
        client.go_on_reading()
        await server.until(lambda before=before: relay.taken() != before)
    looked = 0
    while not relay.closed:
        # The kernel may go on taking something for a while.
        assert looked < 10 * looks
        await look()
        looked += 1
    assert looked > looks
    await server.until(lambda: upstream.lost is not None)
    assert not upstream.lost.check(ConnectionDone)
    client.go_on_reading()
    assert (await client.told("kicked"))["reason"] == "slow"
    await watched.stop()


async def test_who_is_banned_by_an_admin_is_told_and_closed(server: ChatServer, gate: Gate) -> None:
    await server.register("ann", "bob")
    ann, bob = await gate.log_in("ann", address="127.0.0.7"), await gate.log_in("bob")
    gate.relays.keep_out(lambda address: Forbidden("this address is banned") if address == "127.0.0.7" else None)
    assert await ann.told("kicked") == {"reason": "admin", "detail": "this address is banned"}
    assert await ann.ended_with() == POLICY_VIOLATION
    await bob.ok("ping")
    await server.until(lambda: len(gate.relays) == 1)
