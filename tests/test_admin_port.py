"""The admin port: who may ask for what, whether health means it, and what is done reaches every node."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from admin_parts import FREE, TOKEN, ask, login, running
from http_parts import Slow
from redis_parts import admin
from twisted.internet.address import IPv4Address
from twisted.internet.defer import fail
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure

from flux.admin.actions import Actions
from flux.admin.sources import Sources
from flux.bench.engines import RedisServer
from flux.bench.servers import free_port
from flux.client import Ended
from flux.config import ConfigError, Difference, Mistake, load
from flux.errors import Unavailable
from flux.net import web
from flux.net.web import MAX_BODY, MAX_PER_ADDRESS, REQUEST_WITHIN, BoundedSite

PATHS = ["/metrics", "/api/overview", "/api/sessions", "/api/users"]
ACTIONS = ["/api/kick", "/api/password", "/api/drain", "/api/resume", "/api/reload"]


async def ends(client: Any) -> str:
    """Why a client's session has ended."""
    async for event in client.events:
        if isinstance(event, Ended):
            return event.reason
    raise AssertionError("its events ended without a reason")


# --- who may ask ---


async def test_with_a_token_everything_but_health_and_the_page_needs_it(tmp_path: Path) -> None:
    async with running(tmp_path, f"admin.token={TOKEN}") as assembly:
        for path in ("/healthz", "/readyz", "/", "/dashboard.js", "/dashboard.css", "/favicon.svg"):
            assert (await ask(assembly, path)).status == 200, path
        for path in PATHS + ACTIONS:
            body = {} if path in ACTIONS else None
            for authorization in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
                answer = await ask(assembly, path, body, **authorization)
                assert (answer.status, answer.json["error"]) == (401, "token_invalid"), path
                assert TOKEN not in answer.body.decode()
                assert answer.headers["www-authenticate"] == "Bearer"
        for path in PATHS:
            # From elsewhere as well, by whatever name.
            answer = await ask(assembly, path, Authorization=f"Bearer {TOKEN}", Host="flux.example")
            assert answer.status == 200, path


async def test_wrong_tokens_are_told_by_the_second(tmp_path: Path) -> None:
    with capturedLogs() as logged:
        async with running(tmp_path, f"admin.token={TOKEN}") as assembly:
            for _ in range(3):
                await ask(assembly, "/metrics", Authorization="Bearer wrong")
        told = [event for event in logged if "a wrong admin token" in event["log_format"]]
    assert sum(event["count"] for event in told) == 3
    assert formatEvent(told[0]).startswith("a wrong admin token from 127.0.0.1: ")


async def test_without_a_token_a_page_from_elsewhere_gets_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly:
        port = assembly.admin_listener.address()[1]
        for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
            assert (await ask(assembly, "/api/overview", Host=host)).status == 200
        for host in (f"evil.example:{port}", "", "127.0.0.1.evil.example", "[", "10.0.0.1"):
            assert (await ask(assembly, "/api/overview", Host=host)).status == 403, host
        # What a form can send, and what a script from elsewhere would.
        assert (await ask(assembly, "/api/reload", raw=b"{}", Content_Type="text/plain")).status == 400
        for sent in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}):
            answer = await ask(assembly, "/api/drain", {"server": "chat1"}, **sent)
            assert (answer.status, answer.json["error"]) == (403, "forbidden"), sent
        assert assembly.status is not None
        assert [node.state for node in assembly.status.servers()] == ["up"]
        own = {"Origin": f"http://127.0.0.1:{port}", "Sec_Fetch_Site": "same-origin"}
        assert (await ask(assembly, "/api/drain", {"server": "chat1"}, **own)).json["state"] == "draining"


async def test_beyond_loopback_a_token_is_required() -> None:
    with pytest.raises(ConfigError, match=r"admin.listen: it ends sessions .* or an admin.token"):
        load(None, ["admin.listen=tcp:9090"])
    with pytest.raises(ConfigError, match=r"admin.token: the secret is too short"):
        load(None, ["admin.listen=tcp:9090", "admin.token=short"])
    assert load(None, ["admin.listen=tcp:9090", f"admin.token={TOKEN}"]).admin.endpoint(False) == "tcp:9090"
    assert load(None).admin.endpoint(True) == "tcp:9090:interface=127.0.0.1"
    assert load(None).admin.endpoint(False) == ""
    assert load(None, ["admin.listen="]).admin.endpoint(True) == ""


async def test_the_token_changes_with_a_reload(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly:
        assembly.reload(load(None, [f"admin.listen={FREE}", f"admin.token={TOKEN}"]))
        assert (await ask(assembly, "/metrics")).status == 401
        assert (await ask(assembly, "/metrics", Authorization=f"bearer {TOKEN}")).status == 200


# --- bad requests ---


async def test_bad_requests_get_errors_in_json_and_never_a_traceback(tmp_path: Path, flush_logged_errors: Any) -> None:
    async with running(tmp_path) as assembly:
        for status, path, sent in (
            (404, "/nothing", {}),
            (404, "/../setup.py", {}),
            (404, "/static/index.html", {}),
            (405, "/api/kick", {}),
            (405, "/healthz", {"body": {}}),
            (405, "/metrics", {"method": "DELETE"}),
            (400, "/api/kick", {"raw": b"{"}),
            (400, "/api/kick", {"raw": b"[" * 60_000}),
            (400, "/api/kick", {"body": {}}),
            (400, "/api/kick", {"body": {"user": 1.5}}),
            (400, "/api/users?limit=x", {}),
            (400, "/api/users?limit=100000", {}),
            (400, "/api/users?query=%ff", {}),
            (404, "/api/kick", {"body": {"user": "nobody"}}),
            (404, "/api/kick", {"body": {"user": 99}}),
            (404, "/api/drain", {"body": {"server": "nowhere"}}),
            (413, "/api/kick", {"raw": b"x" * (MAX_BODY + 1)}),
            (422, "/api/password", {"body": {"user": 1, "password": "short"}}),
        ):
            if status == 422:
                await (await login(assembly, "ann")).close()
            answer = await ask(assembly, path, **sent)
            assert answer.status == status, (path, answer)
            assert set(answer.json) == {"error", "code", "detail"}, (path, answer)
        setattr(assembly.store, "search", lambda *a: fail(ZeroDivisionError("secret")))  # noqa: B010 - of a stand-in
        answer = await ask(assembly, "/api/users")
        assert (answer.status, answer.json["error"]) == (500, "internal")
        assert b"secret" not in answer.body
        assert len(flush_logged_errors(ZeroDivisionError)) == 1


@pytest.mark.parametrize("token", ["", TOKEN])
async def test_headers_may_have_any_byte(tmp_path: Path, token: str) -> None:
    async with running(tmp_path, f"admin.token={token}") as assembly:
        address = assembly.admin_listener.address()

        def status(path: bytes, *headers: bytes) -> int:
            with socket.create_connection(address, timeout=20) as sock:
                method = b"POST" if path == b"/api/reload" else b"GET"
                head = (b"%b %b HTTP/1.1" % (method, path), b"Connection: close", *headers)
                sock.sendall(b"\r\n".join([*head, b"", b""]))
                return int(sock.makefile("rb").readline().split()[1])

        here = b"Host: localhost\r\nAuthorization: Bearer %b" % TOKEN.encode()
        kind = b"Content-Type: application/json"
        for expected, path, headers in (
            (401 if token else 403, b"/metrics", [b"Host: \xff"]),
            (401 if token else 200, b"/metrics", [b"Host: localhost", b"Authorization: Bearer \xff"]),
            (400, b"/api/reload", [here, b"Content-Type: \xff"]),
            (403, b"/api/reload", [here, kind, b"Origin: \xff"]),
            (403, b"/api/reload", [here, kind, b"Origin: http://["]),
            (403, b"/api/reload", [here, kind, b"Sec-Fetch-Site: \xff"]),
            (400, b"/api/reload", [here, kind, b"Content-Length: " + b"9" * 5000]),
        ):
            assert await deferToThread(status, path, *headers) == expected, (path, headers)


async def test_a_body_that_does_not_say_how_long_it_is_is_bounded_too(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly:
        address = assembly.admin_listener.address()

        def send() -> bytes:
            with socket.create_connection(address, timeout=20) as sock:
                head = "POST /api/kick HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                sock.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
                taken = 0
                try:
                    while taken < 64 * MAX_BODY:
                        sock.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
                        taken += 4096
                    return sock.recv(100)
                except OSError:
                    return b""

        assert await deferToThread(send) == b""


async def test_what_is_not_http_is_refused_before_its_line_ends(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly:
        address = assembly.admin_listener.address()

        def told(said: bytes) -> bytes:
            # Less than a request may take.
            with socket.create_connection(address, timeout=REQUEST_WITHIN / 2) as sock:
                sock.sendall(said)
                return b"".join(iter(lambda: sock.recv(1000), b""))

        for said in (b"\x16\x03\x01", b'{"type":"ping"}\n', b"\r\n{"):
            assert await deferToThread(told, said) == b"HTTP/1.1 400 Bad Request\r\n\r\n", said


# --- many connections ---


class Port:
    """A site in memory."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.slow = Slow()
        self.site = BoundedSite(self.slow, self.clock)
        self.channels: list[Any] = []

    def connect(self, address: str = "127.0.0.1", said: bytes = b"") -> Any:
        """The transport of a new connection."""
        channel = self.site.buildProtocol(None)
        transport = StringTransport(peerAddress=IPv4Address("TCP", address, 40000))
        channel.makeConnection(transport)
        transport.say = channel.dataReceived
        channel.dataReceived(said)
        self.channels.append(channel)
        return transport


ASK = b"GET / HTTP/1.1\r\n\r\n"


def test_who_asks_is_not_kept_out_by_the_silent_of_the_same_address() -> None:
    port = Port()
    silent = [port.connect(said=b"GET / HTTP") for _ in range(MAX_PER_ADDRESS)]
    with capturedLogs() as logged:
        other, asked = port.connect("127.0.0.2"), port.connect(said=ASK)
        port.clock.advance(1)
    assert [each.disconnected for each in silent] == [True] + [False] * (MAX_PER_ADDRESS - 1)
    assert not other.disconnected
    assert not asked.disconnected
    assert [formatEvent(event) for event in logged] == ["more than 64 connections from 127.0.0.1, closed: 1"]
    # Whoever waits for an answer stays, and once it has it counts as the last who came.
    [request] = port.slow.requests
    asking = [port.connect(said=ASK) for _ in range(MAX_PER_ADDRESS - 1)]
    assert all(each.disconnected for each in silent)
    assert port.connect().disconnected
    request.finish()
    assert not port.connect().disconnected
    assert asked.disconnected
    assert not any(each.disconnected for each in asking)


def test_who_asks_is_not_kept_out_by_the_silent_of_many_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MAX_CONNECTIONS", 3)
    port = Port()
    silent = [port.connect(f"203.0.113.{number}") for number in range(3)]
    silent[0].say(ASK)
    assert not port.connect("203.0.113.9").disconnected
    assert [each.disconnected for each in silent] == [False, True, False]
    for channel in port.channels:
        channel.connectionLost(Failure(ConnectionDone()))
    assert not port.site.channels
    assert not port.site.waiting


async def test_pages_may_do_nothing_but_what_they_are_for(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly:
        page = await ask(assembly, "/")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert page.headers["x-content-type-options"] == "nosniff"
        assert b"style=" not in page.body
        assert b"http:" not in page.body
        script = await ask(assembly, "/dashboard.js")
        assert script.headers["content-type"].startswith("text/javascript")
        assert b"innerHTML" not in script.body
        unchanged = await ask(assembly, "/dashboard.js", If_None_Match=script.headers["etag"])
        assert (unchanged.status, unchanged.body) == (304, b"")


# --- health ---


async def test_ready_means_that_backends_answer(tmp_path: Path) -> None:
    from twisted.internet import reactor

    async with running(tmp_path) as assembly:
        answer = await ask(assembly, "/readyz")
        assert (answer.status, answer.json) == (200, {"ready": True, "problems": []})
        setattr(assembly.store, "advance", lambda moves: fail(Unavailable("the disk is full")))  # noqa: B010
        health: Any = assembly.admin._health  # type: ignore[union-attr]
        health._checked = reactor.seconds() - 60  # type: ignore[attr-defined]
        answer = await ask(assembly, "/readyz")
        # Why, only admins are told.
        assert (answer.status, answer.json) == (503, {"ready": False, "problems": ["store: away"]})
        assert (await ask(assembly, "/api/overview")).json["problems"] == ["store: the disk is full"]
        assert assembly.registry.get_sample_value("flux_backend_up", {"backend": "store"}) == 0
        assert (await ask(assembly, "/healthz")).body == b"ok\n"
        assert [each["name"] for each in (await ask(assembly, "/api/overview")).json["backends"]] == [
            "store", "state", "bus",
        ]  # fmt: skip


async def test_a_redis_that_takes_no_writes_is_not_ready(tmp_path: Path) -> None:
    from twisted.internet import reactor

    with RedisServer(tmp_path / "redis") as server:
        async with running(tmp_path, "state.kind=redis", f"state.url={server.url}") as assembly, admin(server) as root:
            health: Any = assembly.admin._health  # type: ignore[union-attr]
            assert (await ask(assembly, "/readyz")).status == 200
            await root.command("CONFIG", "SET", "maxmemory", "1")
            health._checked = reactor.seconds() - 60  # type: ignore[attr-defined]
            answer = await ask(assembly, "/readyz")
            assert (answer.status, answer.json) == (503, {"ready": False, "problems": ["state: away"]})
            [problem] = (await ask(assembly, "/api/overview")).json["problems"]
            assert "it is full: more memory is needed (maxmemory)" in problem
            assert assembly.registry.get_sample_value("flux_backend_up", {"backend": "state"}) == 0
            await root.command("CONFIG", "SET", "maxmemory", "0")
            health._checked = reactor.seconds() - 60  # type: ignore[attr-defined]
            assert (await ask(assembly, "/readyz")).status == 200


async def test_a_gate_without_a_status_service_is_not_ready(tmp_path: Path) -> None:
    port = free_port()
    alone = [f"gate.status=127.0.0.1:{port}", f"gate.listen={FREE}"]
    async with running(tmp_path, *alone, roles=frozenset({"gate"})) as gate:
        answer = await ask(gate, "/readyz")
        assert (answer.status, answer.json) == (503, {"ready": False, "problems": ["status: away"]})
        seen = (await ask(gate, "/api/overview")).json
        assert [each["up"] for each in seen["backends"] if each["name"] == "status"] == [False]
        [problem] = seen["problems"]
        assert problem.startswith(f"status: no status service answers: 127.0.0.1:{port}: ")
        listen = f"status.listen=tcp:{port}:interface=127.0.0.1"
        async with running(tmp_path / "status", listen, roles=frozenset({"status"})):
            while (answer := await ask(gate, "/readyz")).status != 200:
                pass
            assert answer.json == {"ready": True, "problems": []}
            assert gate.registry.get_sample_value("flux_backend_up", {"backend": "status"}) == 1


async def test_while_it_starts_drains_or_stops_it_is_not_ready(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly:
        assembly._listening = False
        answer = await ask(assembly, "/readyz")
        assert (answer.status, answer.json["problems"]) == (503, ["not everything listens yet, or any more"])
        assembly._listening = True
        assert assembly.node is not None
        assembly.node.draining = True
        answer = await ask(assembly, "/readyz")
        assert (answer.status, answer.json["problems"]) == (503, ["draining: no logins are taken"])


# --- what is done ---


async def test_a_kick_ends_the_session_keeps_its_cursors_and_revokes_the_token(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly:
        ann, bob = await login(assembly, "ann"), await login(assembly, "bob")
        [assignment] = await assembly.status.placement.assign([2])  # type: ignore[union-attr]
        await ann.send("hello", to=2)
        answer = await ask(assembly, "/api/kick", {"user": "BOB"})
        assert answer.json == {"id": 2, "name": "bob", "session": "ended", "token": True, "problem": ""}
        assert await ends(bob) == "admin"
        assert await assembly.state.token_digest(2) is None
        assert assignment.token
        assert (await ask(assembly, "/api/kick", {"user": 2})).json["session"] == "offline"
        assert [each["name"] for each in (await ask(assembly, "/api/sessions")).json] == ["ann"]
        kicks = assembly.registry.get_sample_value("flux_sessions_kicked_total", {"reason": "admin"})
        assert kicks == 1
        await ann.close()
        await bob.close()


async def test_a_kick_that_nobody_hears_ends_the_session_with_the_next_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as assembly:
        ann = await login(assembly, "ann")

        async def away(*arguments: Any) -> Any:
            raise Unavailable("Redis does not answer")

        for call in ("revoke", "routes"):
            monkeypatch.setattr(assembly.state, call, away, raising=False)
        answer = await ask(assembly, "/api/kick", {"user": 1})
        assert answer.json == {
            "id": 1, "name": "ann", "session": "ending", "token": False, "problem": "Redis does not answer",
        }  # fmt: skip
        assert assembly.node is not None
        await assembly.node.sweep.look()
        assert 1 not in assembly.node.sessions
        monkeypatch.undo()
        await ann.close()


async def test_a_new_password_ends_the_session_and_is_the_only_one(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly:
        ann = await login(assembly, "ann")
        answer = await ask(assembly, "/api/password", {"user": "ann", "password": "battery staple"})
        assert (answer.status, answer.json["session"]) == (200, "ended")
        assert await ends(ann) == "password"
        await ann.close()
        from twisted.internet import reactor

        from flux.client import Client

        again = Client(reactor, [assembly.chat.listener.address()])  # type: ignore[list-item]
        await again.login("ann", password="battery staple")
        await again.close()


async def test_sessions_and_users_are_found(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly:
        async with AsyncExitStack() as stack:
            for name in ("ann", "Anton", "bob"):
                stack.push_async_callback((await login(assembly, name)).close)
            found = (await ask(assembly, "/api/sessions?query=AN")).json
            assert [(each["id"], each["name"], each["live"], each["dialect"]) for each in found] == [
                (1, "ann", True, "named"), (2, "Anton", True, "named"),
            ]  # fmt: skip
            assert len((await ask(assembly, "/api/sessions?limit=2")).json) == 2
            assert [each["id"] for each in (await ask(assembly, "/api/sessions?query=3")).json] == [3]
        users = (await ask(assembly, "/api/users?query=an")).json
        assert [each["name"] for each in users] == ["ann", "Anton"]


async def test_what_a_reload_changes_and_what_is_wrong_is_told(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly:
        asked = []

        async def reread(by: str) -> Difference:
            asked.append(by)
            return Difference(("chat.drain",), ("chat.name",))

        async def wrong(by: str) -> Difference:
            raise ConfigError([Mistake("chat.name", '"-" is not a name', "flux.ini:3")])

        assembly.reread = reread
        assert (await ask(assembly, "/api/reload", {})).json == {"changed": ["chat.drain"], "restart": ["chat.name"]}
        assert asked == ["admin at 127.0.0.1"]
        assembly.reread = wrong
        answer = await ask(assembly, "/api/reload", {})
        assert (answer.status, answer.json["mistakes"]) == (422, ['chat.name: "-" is not a name (flux.ini:3)'])


async def test_a_process_without_a_chat_server_says_whom_to_ask(tmp_path: Path) -> None:
    async with running(tmp_path, roles=frozenset({"status"})) as assembly:
        overview = (await ask(assembly, "/api/overview?samples=5")).json
        assert overview["process"]["roles"] == ["status"]
        assert [each["name"] for each in overview["backends"]] == ["state", "bus"]
        assert "sessions" not in overview["numbers"]
        for path, body in (("/api/sessions", None), ("/api/users", None), ("/api/kick", {"user": 1})):
            answer = await ask(assembly, path, body)
            assert answer.status == 404
            assert "ask the admin address of" in answer.json["detail"]


async def test_a_kick_reaches_a_session_on_another_node(tmp_path: Path) -> None:
    from chat_server import ChatServer

    server = await ChatServer(tmp_path).start()
    other = await server.start_node()
    try:
        [ann] = await server.register("ann")
        client = await server.log_in(ann, other)
        sources = Sources(
            roles=["chat"], name="chat1", state=server.state, bus=server.bus, store=server.store,
            directory=None, listening=lambda: True, reread=None,  # type: ignore[arg-type]
        )  # fmt: skip
        ending = await Actions(sources, server.reactor).kick("ann", "a test")
        assert (ending.id, ending.session, ending.token) == (ann, "ended", True)
        assert (await client.told("kicked"))["reason"] == "admin"
        assert other.node.sessions == {}
    finally:
        await server.stop()
