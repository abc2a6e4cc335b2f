"""The status port on a wire in memory: every request, every error, the key, pipelining and pressure."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from status_parts import HeldState, lease, settings, settled, texts
from twisted.internet.address import IPv4Address
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import capturedLogs

from flux import tokens
from flux.errors import Unavailable
from flux.net.closing import LINGER
from flux.net.tally import TELL_AFTER
from flux.status import protocol as module
from flux.status import strangers
from flux.status.protocol import AUTH_WITHIN, StatusConnection, StatusFactory
from flux.status.service import StatusService

KEY = "a key of the cluster"


class Port:
    """A status port on a simulated reactor."""

    def __init__(self, **configured: Any) -> None:
        self.reactor = MemoryReactorClock()
        self.state = HeldState(self.reactor.seconds)
        used = settings(**configured)
        self.service = StatusService(used, self.state, self.reactor, random.Random(1))
        self.wall = 0.0
        self.factory = StatusFactory(self.service, used, self.reactor, lambda: self.wall)

    def connect(self, address: str = "203.0.113.9") -> Peer:
        return Peer(self, address)


class Wire(StringTransport):
    """A transport that knows when it is closed or cut."""

    def __init__(self, address: str) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", address, 1234))
        self.cut = False

    def abortConnection(self) -> None:
        self.cut = True
        self.loseConnection()


class Peer:
    """The other end of a connection."""

    def __init__(self, port: Port, address: str) -> None:
        self._port = port
        self.wire = Wire(address)
        protocol = port.factory.buildProtocol(self.wire.getPeer())
        assert isinstance(protocol, StatusConnection)
        self.protocol = protocol
        protocol.makeConnection(self.wire)

    def send(self, *requests: object) -> None:
        lines = [request if isinstance(request, bytes) else json.dumps(request).encode() for request in requests]
        self.protocol.dataReceived(b"".join(line + b"\n" for line in lines))
        settled(self._port.reactor)

    def received(self) -> list[dict[str, Any]]:
        data = self.wire.value()
        self.wire.clear()
        return [json.loads(line) for line in data.splitlines()]

    def ask(self, request: object) -> dict[str, Any]:
        """The one reply to ``request``."""
        self.send(request)
        (reply,) = self.received()
        return reply

    @property
    def closed(self) -> bool:
        return self.wire.disconnecting


@pytest_twisted.async_yield_fixture
async def make() -> AsyncIterator[Any]:
    ports: list[Port] = []

    async def make(**configured: Any) -> Port:
        ports.append(Port(**configured))
        await ports[-1].state.renew(lease("a", sessions=3, capacity=5000, weight=2), [])
        await ports[-1].service.start()
        return ports[-1]

    yield make
    for port in ports:
        await port.factory.stop()
        for connection in list(port.factory.connections):
            connection.connectionLost()
        await port.service.stop()
        assert port.reactor.getDelayedCalls() == []
        assert not port.factory.connections


@pytest_twisted.async_fixture
async def port(make) -> Port:
    return await make()


@pytest.fixture
def peer(port: Port) -> Peer:
    return port.connect()


# --- the rows of the table ---


async def test_a_chat_server_for_one(port, peer) -> None:
    reply = peer.ask({"type": "get_chat_server", "uid": 7, "ref": "r"})
    token, expires = reply.pop("token"), reply.pop("expires")
    assert reply == {
        "type": "get_chat_server.ok",
        "ref": "r",
        "uid": 7,
        "host": "a.example",
        "port": 8090,
        "server": "a",
        "websocket": "",
        "tls": False,
    }
    assert tokens.matches(token, await port.state.token_digest(7))
    assert isinstance(expires, int)


async def test_a_chat_server_for_each_of_many(port, peer) -> None:
    uids = list(range(1000, 0, -1))
    await port.state.renew(lease("b", boot=1), [])
    port.reactor.advance(3.1)
    reply = peer.ask({"type": "get_chat_server", "uids": uids, "ref": 3})
    assert reply["type"] == "get_chat_server.ok"
    assert reply["ref"] == 3
    assert [assignment["uid"] for assignment in reply["assignments"]] == uids
    assert {tuple(sorted(assignment)) for assignment in reply["assignments"]} == {
        ("expires", "host", "port", "server", "tls", "token", "uid", "websocket")
    }
    assert len(json.dumps(reply)) < 2**20


async def test_a_list_of_one_is_answered_with_a_list(peer) -> None:
    reply = peer.ask({"type": "get_chat_server", "uids": [7]})
    assert [assignment["uid"] for assignment in reply["assignments"]] == [7]


async def test_a_token_is_verified(peer) -> None:
    token = peer.ask({"type": "get_chat_server", "uid": 7})["token"]
    assert peer.ask({"type": "login", "uid": 7, "token": token, "ref": 1}) == {"type": "login.ok", "uid": 7, "ref": 1}
    wrong = peer.ask({"type": "login", "uid": 8, "token": token, "ref": 2})
    assert (wrong["request"], wrong["code"], wrong["name"], wrong["ref"]) == ("login", 1010, "token_invalid", 2)


async def test_the_servers(port, peer) -> None:
    peer.ask({"type": "get_chat_server", "uid": 7})
    port.reactor.advance(1.5)
    assert peer.ask({"type": "servers"}) == {
        "type": "servers.ok",
        "servers": [
            {
                "name": "a",
                "host": "a.example",
                "port": 8090,
                "sessions": 3,
                "reserved": 1,
                "capacity": 5000,
                "weight": 2,
                "state": "up",
                "heartbeat_age": 1.5,
                "websocket": "",
                "tls": False,
                "why": "",
            }
        ],
        "age": 0.0,
        "problem": "",
    }


async def test_what_is_known_of_the_servers_ages_while_the_state_is_away(port, peer) -> None:
    port.state.problem = Unavailable("the shared state is away")
    port.reactor.advance(9)
    answer = peer.ask({"type": "servers"})
    assert (answer["age"], answer["problem"]) == (9.0, "the shared state is away")
    assert [(server["state"], server["heartbeat_age"]) for server in answer["servers"]] == [("up", 9.0)]
    port.reactor.advance(2)
    answer = peer.ask({"type": "servers"})
    assert (answer["age"], [server["state"] for server in answer["servers"]]) == (11.0, ["unknown"])
    port.state.problem = None
    await port.state.renew(lease("a"), [])
    answer = peer.ask({"type": "servers"})
    assert (answer["age"], answer["problem"]) == (0.0, "")
    assert [server["state"] for server in answer["servers"]] == ["up"]


async def test_draining_and_resuming(port, peer) -> None:
    with capturedLogs() as logged:
        assert peer.ask({"type": "drain", "server": "a", "ref": 1}) == {
            "type": "drain.ok",
            "ref": 1,
            "server": "a",
            "state": "draining",
        }
    assert texts(logged) == [
        "chat server a at a.example:8090 is draining",
        "drain of a, asked by 203.0.113.9: it is draining",
    ]
    refused = peer.ask({"type": "get_chat_server", "uid": 7})
    assert (refused["code"], refused["name"]) == (1108, "no_server")
    assert peer.ask({"type": "resume", "server": "a"}) == {"type": "resume.ok", "server": "a", "state": "up"}
    assert peer.ask({"type": "get_chat_server", "uid": 7})["server"] == "a"
    for kind in ("drain", "resume"):
        unknown = peer.ask({"type": kind, "server": "nobody", "ref": "x"})
        assert (unknown["request"], unknown["code"], unknown["ref"]) == (kind, 1106, "x")


async def test_ping(port, peer) -> None:
    port.wall = 1234.5
    assert peer.ask({"type": "ping", "ref": -1}) == {"type": "ping.ok", "ref": -1, "at": 1234500}


async def test_help(peer) -> None:
    listed = peer.ask({"type": "help"})["requests"]
    assert [entry["type"] for entry in listed] == [
        "auth",
        "get_chat_server",
        "login",
        "servers",
        "drain",
        "resume",
        "ping",
        "help",
    ]
    assert all(entry["about"] for entry in listed)
    (one,) = peer.ask({"type": "help", "request": "login"})["requests"]
    assert set(one["fields"]) == {"uid", "token"}
    assert peer.ask({"type": "help", "request": "send"})["name"] == "unknown_type"


async def test_auth_without_a_key_to_show_is_no_error(peer) -> None:
    assert peer.ask({"type": "auth", "key": "whatever"}) == {"type": "auth.ok"}


# --- errors ---


@pytest.mark.parametrize(
    ("request_line", "name", "detail"),
    [
        (b"{", "bad_json", ""),
        (b"[1]", "bad_json", "object"),
        (b"\xff", "bad_json", ""),
        (b'{"type":"send"}', "unknown_type", "send"),
        (b'{"uid":7}', "bad_request", "type"),
        (b'{"type":"get_chat_server"}', "bad_request", "uid"),
        (b'{"type":"get_chat_server","uid":7,"uids":[8]}', "bad_request", "uids"),
        (b'{"type":"get_chat_server","uid":0}', "bad_request", "uid"),
        (b'{"type":"get_chat_server","uid":-7}', "bad_request", "uid"),
        (b'{"type":"get_chat_server","uid":"7"}', "bad_request", "uid"),
        (b'{"type":"get_chat_server","uid":true}', "bad_request", "uid"),
        (b'{"type":"get_chat_server","uid":9223372036854775808}', "bad_request", "uid"),
        (b'{"type":"get_chat_server","uids":[]}', "bad_request", "uids: must not be empty"),
        (b'{"type":"get_chat_server","uids":[1,0]}', "bad_request", "uids"),
        (b'{"type":"get_chat_server","uids":%s}' % str(list(range(1, 1002))).encode(), "too_large", "1000 entries"),
        (b'{"type":"login","uid":7}', "bad_request", "token"),
        (b'{"type":"login","uid":7,"token":"%s"}' % (b"x" * 1025), "too_large", "token"),
        (b'{"type":"login","uid":7,"token":"a\\u0000"}', "bad_request", "token: U+0000"),
        (b'{"type":"drain"}', "bad_request", "server"),
        (b'{"type":"drain","server":"%s"}' % (b"x" * 65), "too_large", "server"),
    ],
)
async def test_what_is_wrong_with_a_request_is_said(peer, request_line, name, detail) -> None:
    reply = peer.ask(request_line)
    assert (reply["type"], reply["name"]) == ("error", name)
    assert detail in reply["detail"]
    assert not peer.closed
    assert peer.ask({"type": "ping"})["type"] == "ping.ok"


async def test_a_state_that_is_away_is_unavailable(port, peer) -> None:
    port.state.problem = Unavailable("no connection")
    reply = peer.ask({"type": "get_chat_server", "uid": 7, "ref": 1})
    assert (reply["request"], reply["code"], reply["name"], reply["ref"]) == ("get_chat_server", 1002, "unavailable", 1)
    with capturedLogs() as logged:
        assert peer.ask({"type": "drain", "server": "a"})["name"] == "unavailable"
    [told] = texts(logged)
    assert told.startswith("drain of a, asked by 203.0.113.9, is not done: unavailable: ")
    port.state.problem = None
    token = peer.ask({"type": "get_chat_server", "uid": 7})["token"]
    assert peer.ask({"type": "login", "uid": 7, "token": token})["type"] == "login.ok"


async def test_a_bug_is_internal_and_the_connection_stays(port, peer, flush_logged_errors) -> None:
    port.state.problem = ZeroDivisionError("a bug")
    reply = peer.ask({"type": "get_chat_server", "uid": 7})
    assert (reply["code"], reply["name"]) == (1111, "internal")
    reply = peer.ask({"type": "drain", "server": "a"})
    assert (reply["code"], reply["name"], reply["detail"]) == (1111, "internal", "")
    port.state.problem = None
    port.service.servers = None
    assert peer.ask({"type": "servers"})["name"] == "internal"
    logged = flush_logged_errors(ZeroDivisionError, TypeError)
    assert len(logged) == 3
    assert [event.get("conn") for event in logged] == [None, peer.protocol.conn, peer.protocol.conn]
    assert peer.ask({"type": "ping"})["type"] == "ping.ok"


async def test_bad_lines_in_a_row_end_the_connection(make) -> None:
    port = await make(limits={"max_errors": 3})
    peer = port.connect()
    peer.send(b"?", b"?", {"type": "ping"}, b"?", b"?")
    assert not peer.closed
    with capturedLogs() as logged:
        peer.send(b"?", {"type": "ping"})
    assert peer.closed
    assert [reply["type"] for reply in peer.received()] == ["error", "error", "ping.ok", "error", "error", "error"]
    assert len(logged) == 1
    assert "3 bad lines in a row from 203.0.113.9" in texts(logged)[0]


async def test_lines_of_blanks_are_empty_lines(make) -> None:
    peer = (await make(limits={"max_errors": 2})).connect()
    peer.send(b" ", b"\t", b"", b"  ", {"type": "ping"})
    assert [reply["type"] for reply in peer.received()] == ["ping.ok"]


async def test_a_line_too_long_ends_the_connection(make) -> None:
    port = await make(limits={"max_line": 1024})
    peer = port.connect()
    peer.send({"type": "ping"}, b"x" * 1025, {"type": "ping"})
    assert [reply.get("name", "ok") for reply in peer.received()] == ["ok", "line_too_long"]
    assert peer.closed


async def test_an_http_request_ends_the_connection(peer) -> None:
    peer.send(b"POST / HTTP/1.1", {"type": "get_chat_server", "uid": 7})
    assert peer.closed
    assert peer.received() == []


# --- the cluster key ---


async def test_with_a_key_nothing_is_answered_before_auth(make) -> None:
    port = await make(status={"cluster_key": KEY})
    peer = port.connect()
    for request in ({"type": "get_chat_server", "uid": 7}, {"type": "servers"}, {"type": "help"}, {"type": "ping"}):
        reply = peer.ask(request | {"ref": 5})
        assert (reply["request"], reply["code"], reply["name"], reply["ref"]) == (
            request["type"],
            1105,
            "forbidden",
            5,
        )
    assert await port.state.token_digest(7) is None
    assert peer.ask({"type": "auth", "key": KEY, "ref": 6}) == {"type": "auth.ok", "ref": 6}
    assert peer.ask({"type": "get_chat_server", "uid": 7})["server"] == "a"


async def test_auth_and_requests_may_come_at_once(make) -> None:
    port = await make(status={"cluster_key": KEY})
    peer = port.connect()
    peer.send({"type": "auth", "key": KEY}, {"type": "get_chat_server", "uid": 7})
    assert [reply["type"] for reply in peer.received()] == ["auth.ok", "get_chat_server.ok"]


@pytest.mark.parametrize("wrong", ["", KEY[:-1], KEY + " ", KEY.upper(), "ключ"])
async def test_a_wrong_key_ends_the_connection(make, wrong) -> None:
    port = await make(status={"cluster_key": KEY})
    peer = port.connect()
    with capturedLogs() as logged:
        peer.send({"type": "auth", "key": wrong}, {"type": "auth", "key": KEY}, {"type": "get_chat_server", "uid": 7})
        port.reactor.advance(TELL_AFTER)
    (reply,) = peer.received()
    assert (reply["type"], reply["name"]) == ("error", "forbidden")
    assert peer.closed
    assert texts(logged) == ["a wrong cluster key from 203.0.113.9, closed: 1"]
    assert KEY not in str(logged)


async def test_who_shows_no_key_in_time_is_cut(make) -> None:
    port = await make(status={"cluster_key": KEY})
    late, timely = port.connect(), port.connect()
    timely.ask({"type": "auth", "key": KEY})
    port.reactor.advance(AUTH_WITHIN + 0.1)
    assert late.closed
    assert not timely.closed
    assert len(port.factory.strangers) == 1  # until its socket is gone


@pytest.mark.parametrize("ending", ["late", "wrong key", "bad lines", "long line"])
async def test_who_is_closed_and_does_not_read_is_cut(make, ending: str) -> None:
    port = await make(status={"cluster_key": KEY}, limits={"max_errors": 3, "max_line": 1024})
    peer = port.connect()
    if ending == "late":
        port.reactor.advance(AUTH_WITHIN)
    elif ending == "wrong key":
        peer.send({"type": "auth", "key": "another"})
    else:
        peer.send(*([b"?"] * 3 if ending == "bad lines" else [b"x" * 1025]))
    assert peer.closed
    port.reactor.advance(LINGER - 0.1)
    assert not peer.wire.cut
    port.reactor.advance(0.1)
    assert peer.wire.cut


async def test_who_takes_its_last_lines_is_not_cut(make) -> None:
    port = await make(status={"cluster_key": KEY})
    peer = port.connect()
    peer.send({"type": "auth", "key": "another"})
    peer.protocol.connectionLost()
    assert not len(port.factory.strangers)
    port.reactor.advance(2 * LINGER)
    assert not peer.wire.cut


async def test_connections_without_the_key_are_so_many_per_address(make) -> None:
    port = await make(status={"cluster_key": KEY}, limits={"connections_per_address": 2})
    gates = [port.connect() for _ in range(5)]
    assert [gate.wire.cut for gate in gates] == [True, True, True, False, False]
    for gate in gates[3:]:
        gate.ask({"type": "auth", "key": KEY})
    other = port.connect("203.0.113.10")
    more = [port.connect() for _ in range(2)]
    # Who has shown the key does not count, nor do other addresses.
    assert not any(peer.closed for peer in (*gates[3:], other, *more))
    port.factory.reload(settings(limits={"connections_per_address": 0}))
    assert not any(peer.closed for peer in [port.connect() for _ in range(5)])


async def test_connections_without_the_key_are_so_many_in_all(make, monkeypatch) -> None:
    monkeypatch.setattr(strangers, "MOST", 3)
    port = await make(status={"cluster_key": KEY})
    peers = [port.connect(f"203.0.113.{number}") for number in range(5)]
    assert [peer.wire.cut for peer in peers] == [True, True, False, False, False]
    for peer in peers[:2]:
        peer.protocol.connectionLost()
    assert peers[2].ask({"type": "auth", "key": KEY})["type"] == "auth.ok"
    assert not port.connect().closed
    assert [peer.closed for peer in peers[2:]] == [False, False, False]


async def test_strangers_that_are_closed_are_told_by_the_second(make) -> None:
    port = await make(status={"cluster_key": KEY}, limits={"connections_per_address": 0})
    with capturedLogs() as logged:
        for number in range(50):
            port.connect(f"2001:db8::{number:x}").send({"type": "auth", "key": "another"})
        port.connect().send(b"x" * 200_000)
        assert not logged
        port.reactor.advance(TELL_AFTER)
        port.connect().send({"type": "auth", "key": "another"})
        await port.factory.stop()
    assert texts(logged) == [
        "a wrong cluster key from 2001:db8::/64, closed: 50",
        "a line of more than 131072 bytes from 203.0.113.9, closed: 1",
        "a wrong cluster key from 203.0.113.9, closed: 1",
    ]


# --- many requests ---


async def test_pipelined_requests_are_one_batch_and_answered_with_their_ref(port, peer) -> None:
    peer.send(*({"type": "get_chat_server", "uid": uid, "ref": -uid} for uid in range(1, 501)))
    replies = peer.received()
    assert [(reply["uid"], reply["ref"]) for reply in replies] == [(uid, -uid) for uid in range(1, 501)]
    assert port.state.assigned == [list(range(1, 501))]


async def test_reading_stops_while_too_many_wait(port, peer, monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_OUTSTANDING", 10)
    port.state.holding = True
    peer.send(*({"type": "get_chat_server", "uid": uid} for uid in range(1, 31)))
    peer.send(*({"type": "get_chat_server", "uid": uid} for uid in range(31, 41)))
    assert port.state.assigned == [list(range(1, 11))]
    assert peer.wire.producerState == "paused"
    port.state.holding = False
    port.state.release()
    settled(port.reactor)
    assert [reply["uid"] for reply in peer.received()] == list(range(1, 41))
    assert peer.wire.producerState == "producing"


async def test_a_peer_that_does_not_read_is_not_worked_for(port, peer) -> None:
    producer = peer.wire.producer
    producer.pauseProducing()
    peer.send({"type": "get_chat_server", "uid": 7}, {"type": "ping"})
    assert port.state.assigned == []
    producer.resumeProducing()
    settled(port.reactor)
    assert sorted(reply["type"] for reply in peer.received()) == ["get_chat_server.ok", "ping.ok"]


async def test_answers_for_a_peer_that_has_gone_go_nowhere(port, peer) -> None:
    port.state.holding = True
    peer.send({"type": "get_chat_server", "uid": 7}, {"type": "drain", "server": "a"})
    peer.protocol.connectionLost()
    port.state.holding = False
    while port.state.held:
        port.state.release()
    settled(port.reactor)
    assert peer.wire.value() == b""


async def test_stopping_answers_what_is_left_and_closes(port, peer) -> None:
    port.state.holding = True
    peer.send({"type": "drain", "server": "a"}, {"type": "get_chat_server", "uid": 7})
    await port.service.stop()
    await port.factory.stop()
    replies = {reply["request"]: reply["name"] for reply in peer.received()}
    assert replies == {"drain": "unavailable", "get_chat_server": "unavailable"}
    assert peer.closed


async def test_reloaded_limits_hold_for_new_connections(port, peer) -> None:
    port.factory.reload(settings(limits={"max_line": 1024}))
    new = port.connect()
    for one in (peer, new):
        one.send(b'{"type":"ping","padding":"%s"}' % (b"x" * 1024))
    assert [reply["type"] for reply in peer.received()] == ["ping.ok"]
    assert [reply["name"] for reply in new.received()] == ["line_too_long"]


async def test_no_token_is_ever_logged(port, peer) -> None:
    with capturedLogs() as logged:
        token = peer.ask({"type": "get_chat_server", "uid": 7})["token"]
        peer.ask({"type": "login", "uid": 7, "token": token})
        peer.ask({"type": "login", "uid": 7, "token": "some-wrong-token"})
    assert any("user 7" in text for text in texts(logged))
    assert token not in str(logged)
    assert "some-wrong-token" not in str(logged)


async def test_many_requests_in_one_read_are_all_answered(port, peer) -> None:
    await port.state.renew(lease("a"), [])
    peer.send(b"".join(b'{"type":"get_chat_server","uid":%d}\n' % uid for uid in range(1, 1501)))
    settled(port.reactor)
    assert [reply["uid"] for reply in peer.received() if reply["type"] == "get_chat_server.ok"] == [*range(1, 1501)]
