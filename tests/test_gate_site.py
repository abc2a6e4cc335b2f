"""The gate's HTTP: what takes too long, how many there may be, who they are, and how it ends."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest
import pytest_twisted
from chat_server import with_changes
from gate_server import GateServer, Mailbox
from http_parts import GET, Raw, Slow, client_turns, connect, post
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory
from twisted.web.resource import Resource

from flux.config import Settings
from flux.errors import NotFound
from flux.gate.channel import (
    ANSWER_WITHIN,
    HEAR_OUT,
    IDLE_WITHIN,
    REQUEST_WITHIN,
    client_address,
)
from flux.gate.site import GateSite


@pytest_twisted.async_yield_fixture
async def server(tmp_path):
    server = await GateServer(tmp_path).start()
    yield server
    await server.stop()


# --- what takes too long, on a clock that stands still -----------------------


class Broken(Resource):
    """Fails before or after the first byte."""

    isLeaf = True

    def render(self, request: Any) -> Any:
        if request.args:
            request.write(b"x")
        raise ZeroDivisionError("inside")


class ClockedSite:
    """A site whose time is a test's.

    :param proxied: what connects is a proxy, which says first whose connection it is.
    """

    def __init__(self, proxied: bool = False, **changes: Any) -> None:
        from twisted.internet import reactor

        self.clock = Clock()
        self.site = GateSite(with_changes(Settings(), **changes), self.clock, proxied)
        self.slow = Slow()
        self.site.root.putChild(b"slow", self.slow)
        self.site.root.putChild(b"broken", Broken())
        factory = HAProxyWrappingFactory(self.site) if proxied else self.site
        self.listening = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.clients: list[Raw] = []

    async def connect(self) -> Raw:
        before = len(self.site._channels)
        client = await connect(self.listening.getHost().port)
        self.clients.append(client)
        await client_turns(lambda: len(self.site._channels) > before)
        return client

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.clock.advance(1)

    async def heard(self, client: Raw, data: bytes) -> None:
        """Say something, and wait until the site has it."""
        taken = []
        for channel in self.site._channels:
            take = channel.dataReceived
            channel.dataReceived = lambda data, take=take: (taken.append(data), take(data))[1]
        client.say(data)
        await client_turns(lambda: len(b"".join(taken)) >= len(data))
        for channel in self.site._channels:
            channel.__dict__.pop("dataReceived", None)


@pytest_twisted.async_yield_fixture
async def clocked():
    clocked = ClockedSite()
    yield clocked
    await close(clocked)


async def close(clocked: ClockedSite) -> None:
    for client in clocked.clients:
        client.transport.abortConnection()
        await client.ended()
    await client_turns(lambda: not clocked.site._channels)
    assert not clocked.site._per_address
    await clocked.listening.stopListening()
    await clocked.site.stop()


SLOW = b"GET /slow HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize(
    "begun", [b"", b"G", b"GET /slow HTTP/1.1\r\nA: b", SLOW[:-2] + b"Content-Length: 5\r\n\r\nab"]
)
async def test_a_request_has_to_be_complete_in_time(clocked: ClockedSite, begun: bytes) -> None:
    client = await clocked.connect()
    if begun:
        await clocked.heard(client, begun)
    clocked.pass_time(REQUEST_WITHIN)
    assert client.data == b""
    # A byte now and then does not make it longer.
    if begun:
        await clocked.heard(client, b"x")
    clocked.pass_time(1)
    assert await client.error() == (408, "bad_request")
    clocked.pass_time(HEAR_OUT + 1)
    await client.ended()


async def test_the_time_of_a_request_begins_with_its_first_byte(clocked: ClockedSite) -> None:
    client = await clocked.connect()
    for _ in range(3):
        await clocked.heard(client, SLOW)
        clocked.slow.requests.pop().fail(NotFound("x"))
        assert (await client.error())[0] == 404
        clocked.pass_time(IDLE_WITHIN - 5)
    await clocked.heard(client, SLOW[:5])
    clocked.pass_time(REQUEST_WITHIN - 1)
    await clocked.heard(client, SLOW[5:])
    clocked.slow.requests.pop().fail(NotFound("x"))
    assert (await client.error())[0] == 404


async def test_an_idle_connection_is_closed(clocked: ClockedSite) -> None:
    client = await clocked.connect()
    await clocked.heard(client, SLOW)
    clocked.slow.requests.pop().fail(NotFound("x"))
    assert (await client.error())[0] == 404
    clocked.pass_time(IDLE_WITHIN)
    assert client.closed == ""
    clocked.pass_time(1)
    await client.ended()
    assert client.closed == "ConnectionDone"


async def test_an_answer_may_take_long_but_not_for_ever(clocked: ClockedSite) -> None:
    client = await clocked.connect()
    await clocked.heard(client, SLOW)
    clocked.pass_time(ANSWER_WITHIN)
    assert client.closed == ""
    clocked.pass_time(1)
    await client.ended()
    assert clocked.slow.requests


async def test_a_refused_client_is_heard_out_and_no_longer(clocked: ClockedSite) -> None:
    client = await clocked.connect()
    await clocked.heard(client, b"x\r\n")
    assert await client.error() == (400, "bad_request")
    clocked.pass_time(HEAR_OUT)
    assert client.closed == ""
    clocked.pass_time(1)
    await client.ended()


# --- the site ----------------------------------------------------------------


async def test_connections_per_address(flush_logged_errors: Any) -> None:
    clocked = ClockedSite(limits__connections_per_address=2)
    try:
        first, second, third = [await clocked.connect() for _ in range(3)]
        assert await third.error() == (429, "rate_limited")
        for client in (first, second):
            await clocked.heard(client, SLOW)
        first.transport.abortConnection()
        await first.ended()
        clocked.pass_time(HEAR_OUT + 1)
        await third.ended()
        await client_turns(lambda: len(clocked.site._channels) == 1)
        fourth = await clocked.connect()
        await clocked.heard(fourth, SLOW)
        assert len(clocked.slow.requests) == 3
    finally:
        await close(clocked)


async def test_idle_connections_make_room_for_others_of_their_address() -> None:
    clocked = ClockedSite(limits__connections_per_address=2)
    try:
        first, second = await clocked.connect(), await clocked.connect()
        for client in (second, first):
            client.say(b"GET / HTTP/1.1\r\n\r\n")
            assert (await client.answer())[0] == 404
            clocked.pass_time(1)
        for idle in (second, first):
            client = await clocked.connect()
            await idle.ended()
            await client_turns(lambda: len(clocked.site._channels) == 2)
            await clocked.heard(client, SLOW)
        assert await (await clocked.connect()).error() == (429, "rate_limited")
    finally:
        await close(clocked)


async def test_the_connections_of_a_trusted_proxy_are_not_counted() -> None:
    networks = (ipaddress.ip_network("127.0.0.0/8"),)
    clocked = ClockedSite(limits__connections_per_address=1, gate__proxies=networks)
    try:
        for _ in range(3):
            await clocked.heard(await clocked.connect(), SLOW)
        assert len(clocked.slow.requests) == 3
    finally:
        await close(clocked)


def header(address: str) -> bytes:
    return f"PROXY TCP4 {address} 127.0.0.1 40000 80\r\n".encode()


async def test_connections_behind_a_proxy_count_by_the_address_in_its_header() -> None:
    clocked = ClockedSite(proxied=True, limits__connections_per_address=2)
    try:
        # Those who are not known yet do not count.
        unknown = [await clocked.connect() for _ in range(3)]
        for address in ("203.0.113.1", "203.0.113.2"):
            for _ in range(2):
                requests = len(clocked.slow.requests)
                (await clocked.connect()).say(header(address) + SLOW)
                await client_turns(lambda before=requests: len(clocked.slow.requests) > before)
            third = await clocked.connect()
            third.say(header(address) + SLOW)
            assert await third.error() == (429, "rate_limited")
        # Nor do those of whom the proxy knows nothing.
        unknown[0].say(b"PROXY UNKNOWN \r\n" + SLOW)
        await client_turns(lambda: len(clocked.slow.requests) == 5)
        clocked.slow.requests[0].fail(NotFound("x"))
        # The connection with the answer makes room.
        unknown[1].say(header("203.0.113.1") + SLOW)
        await client_turns(lambda: len(clocked.slow.requests) == 6)
        assert set(clocked.site._per_address) == {"203.0.113.1", "203.0.113.2"}
    finally:
        await close(clocked)


async def test_what_is_looked_at_comes_after_the_header_of_a_proxy() -> None:
    """And whoever it names has committed the offence."""
    clocked = ClockedSite(proxied=True)
    offences = []
    clocked.site.misbehaved = offences.append  # type: ignore[method-assign]
    try:
        good = await clocked.connect()
        good.say(header("203.0.113.1"))
        [channel] = clocked.site._channels
        await client_turns(lambda: channel.getPeer().host == "203.0.113.1")
        for byte in SLOW:
            channel.transport.dataReceived(bytes((byte,)))
        assert len(clocked.slow.requests) == 1
        bad = await clocked.connect()
        bad.say(header("203.0.113.2") + b"{")
        assert await bad.error() == (400, "bad_request")
        assert offences == ["203.0.113.2"]
    finally:
        await close(clocked)


async def test_who_says_nothing_behind_a_proxy_counts_as_well() -> None:
    clocked = ClockedSite(proxied=True, limits__connections_per_address=1)
    try:
        silent = await clocked.connect()
        [channel] = clocked.site._channels
        silent.say(header("203.0.113.1"))
        await client_turns(lambda: channel.getPeer().host == "203.0.113.1")
        clocked.pass_time(1)
        other = await clocked.connect()
        other.say(header("203.0.113.1") + SLOW)
        assert await other.error() == (429, "rate_limited")
        # It is refused once, whatever it is.
        clocked.pass_time(REQUEST_WITHIN)
        assert await silent.error() == (408, "bad_request")
    finally:
        await close(clocked)


@pytest.mark.parametrize("started", [False, True])
async def test_a_resource_that_fails(clocked: ClockedSite, started: bool, flush_logged_errors: Any) -> None:
    client = await clocked.connect()
    client.say(b"GET /broken%s HTTP/1.1\r\n\r\n" % (b"?x=1" if started else b""))
    if started:
        await client.ended()
    else:
        status, _, body = await client.answer()
        assert (status, json.loads(body)["name"]) == (500, "internal")
        assert b"inside" not in body
    assert flush_logged_errors(ZeroDivisionError)


async def test_an_upgraded_connection_belongs_to_somebody_else(clocked: ClockedSite) -> None:
    """It still counts, and no clock of ours ends it, nor does the gate when it stops."""
    got: list[bytes] = []

    class Other(Protocol):
        def dataReceived(self, data: bytes) -> None:
            got.append(data)

        def connectionLost(self, reason: Any = None) -> None:
            got.append(b"lost")

    client = await clocked.connect()
    await clocked.heard(client, SLOW)
    [channel] = clocked.site._channels
    channel.upgrade(Other())
    assert clocked.site._channels == set()
    assert clocked.site._per_address == {"127.0.0.1": {channel}}
    clocked.pass_time(2 * ANSWER_WITHIN)
    await clocked.site.stop()
    client.say(b"not HTTP\r\n\r\n")
    await client_turns(lambda: got)
    assert got == [b"not HTTP\r\n\r\n"]
    client.transport.abortConnection()
    await client.ended()
    await client_turns(lambda: len(got) == 2)
    assert got[1:] == [b"lost"]
    assert clocked.site._per_address == {}


async def test_a_stop_waits_for_answers_and_for_nothing_else(server: GateServer) -> None:
    held: Deferred[None] = Deferred()
    Mailbox.held = held
    idle, busy = await connect(server.port), await connect(server.port)
    idle.say(GET)
    await idle.answer()
    busy.say(post("/v1/codes", b'{"email":"a@b","purpose":"reset"}'))
    assert server.assembly.gate is not None
    gate = server.assembly.gate.gate
    await client_turns(lambda: len(gate.tasks) == 1)
    stopping = Deferred.fromCoroutine(server.assembly.stop())
    held.callback(None)
    assert (await busy.answer())[0] == 202
    await busy.ended()
    await idle.ended()
    await stopping


NETWORKS = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("1.2.3.4", [b"9.9.9.9"], "1.2.3.4"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [b"9.9.9.9"], "9.9.9.9"),
        ("10.0.0.1", [b"8.8.8.8, 9.9.9.9"], "9.9.9.9"),
        ("10.0.0.1", [b"8.8.8.8", b"9.9.9.9, 10.0.0.2"], "9.9.9.9"),
        ("10.0.0.1", [b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", [b"8.8.8.8, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [b"8.8.8.8, \xff"], "10.0.0.1"),
        ("::1", [b"2001:DB8::1"], "2001:db8::1"),
        ("local", [b"9.9.9.9"], "local"),
    ],
)
def test_whose_request_it_is(peer: str, forwarded: list[bytes], address: str) -> None:
    assert client_address(peer, forwarded, NETWORKS) == address
    assert client_address(peer, forwarded, ()) == peer
