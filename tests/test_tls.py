"""Listeners with TLS in one process: each from end to end, a renewed certificate, clients that do not play along."""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from certificates import Authority
from gate_server import PASSWORD, GateServer
from msgspec import UNSET
from msgspec.structs import replace
from prometheus_client import CollectorRegistry
from tls_parts import Peer, client_context, der, in_thread, shown
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, eventAsText, formatEvent, globalLogPublisher
from websockets.sync.client import connect as connect_websocket

from flux.chat.departure import _moved
from flux.cli.admin_port import AdminPort, NotAnswered
from flux.cli.way import Way
from flux.client import Client, GateClient, HostPort, NotConnected, Online, StatusClient, trust_from
from flux.config import ChatServer
from flux.httpclient import HttpClient
from flux.status.health import HealthChecks
from flux.tls import layer
from flux.tls.client import TlsEndpoint, TlsFailed, Trust

TOKEN = "an admin token of a test"
EVERYWHERE = "chat, websocket, gate, status, admin"
FREE = "tcp:0:interface=127.0.0.1"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def running(
    folder: Path, authority: Authority, *changes: str, host: str = "localhost", **validity: float
) -> AsyncIterator[GateServer]:
    """A server whose listeners all have TLS."""
    certificate, key = authority.issue(host, file="server", **validity)
    options = [
        f"tls.certificate={certificate}", f"tls.key={key}", f"tls.listeners={EVERYWHERE}",
        f"chat.websocket={FREE}", f"admin.listen={FREE}", f"admin.token={TOKEN}",
    ]  # fmt: skip
    server = await GateServer(folder, *options, *changes).start()
    try:
        yield server
    finally:
        await server.stop()


class Logged:
    """What is logged from now on, as text."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        globalLogPublisher.addObserver(self)

    def __call__(self, event: LogEvent) -> None:
        self.lines.append(eventAsText(event, includeTimestamp=False, includeSystem=False))

    def close(self) -> None:
        globalLogPublisher.removeObserver(self)


@pytest.fixture
def logged() -> Any:
    with closing(Logged()) as logged:
        yield logged


async def until(happened: Callable[[], Any]) -> Any:
    """What ``happened`` returns, once that is true."""
    from twisted.internet import reactor

    late = reactor.seconds() + 10
    while not (result := happened()):
        assert reactor.seconds() < late, "it did not happen"
        await deferLater(reactor, 0.001)
    return result


def chat_port(server: GateServer) -> int:
    return int(server.assembly.chat.listener.address()[1])


def handshakes(server: GateServer, listener: str = "chat.listen") -> dict[str, float]:
    """How often handshakes ended how, those that never did left out."""
    registry: CollectorRegistry = server.assembly.registry
    found = {
        outcome: registry.get_sample_value("flux_tls_handshakes_total", {"listener": listener, "outcome": outcome})
        for outcome in ("done", "failed", "late", "left")
    }
    return {outcome: count for outcome, count in found.items() if count}


# --- each of them ------------------------------------------------------------


async def test_every_listener_with_the_standard_library(tmp_path: Path, authority: Authority) -> None:
    from twisted.internet import reactor

    async with running(tmp_path, authority) as server:
        assembly = server.assembly
        assert assembly.chat.websocket is not None
        ports = {
            "chat.listen": chat_port(server),
            "chat.websocket": assembly.chat.websocket.listener.address()[1],
            "gate.listen": server.port,
            "status.listen": assembly.status_listener.address()[1],
            "admin.listen": assembly.admin_listener.address()[1],
        }
        certificate = der(tmp_path / "server.crt")
        for name, port in ports.items():
            assert await in_thread(shown, port, authority) == certificate, name
            await until(lambda name=name: handshakes(server, name) == {"done": 1})

        def chat() -> int:
            with closing(Peer(ports["chat.listen"], authority)) as peer:
                assert peer.socket.version() == "TLSv1.3"
                uid = peer.ask("register", name="ann", password=PASSWORD)["id"]
                assert peer.ask("login", name="ann", password=PASSWORD)["type"] == "login.ok"
                assert peer.ask("logout")["type"] == "logout.ok"
                return int(uid)

        uid = await in_thread(chat)

        def websocket() -> str:
            address = f"wss://localhost:{ports['chat.websocket']}/ws"
            with connect_websocket(address, ssl=client_context(authority)) as browser:
                browser.send('{"type":"ping"}')
                return str(json.loads(browser.recv())["type"])

        assert await in_thread(websocket) == "ping.ok"
        [node] = (await assembly.state.snapshot()).nodes
        assert (node.tls, node.websocket) == (True, f"wss://127.0.0.1:{ports['chat.websocket']}/ws")

        def agreed(port: int, *offered: str) -> str | None:
            context = client_context(authority, *offered)
            with context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="localhost") as got:
                return got.selected_alpn_protocol()

        for name in ("chat.websocket", "gate.listen", "admin.listen"):
            assert await in_thread(agreed, ports[name], "h2", "http/1.1") == "http/1.1", name
        # A browser that was led astray gets nowhere.
        with pytest.raises(ssl.SSLError):
            await in_thread(agreed, ports["chat.listen"], "h2", "http/1.1")
        server.http = HttpClient(reactor, trust_from(authority.path))
        server.url = f"https://localhost:{server.port}"
        assert (await server.ask("GET", "/")).status == 200

        trust = trust_from(authority.path)
        status = StatusClient(reactor, [("localhost", ports["status.listen"])], tls=True, trust=trust)
        assignment = await status.locate(uid)
        assert (assignment.server, assignment.tls) == ("chat1", True)
        await status.close()

        way = Way(HostPort("localhost", ports["admin.listen"]), "localhost", Trust(authority.path))
        assert (await in_thread(AdminPort(way, TOKEN).get, "/api/sessions")) == []
        plain = Way(way.address, "", way.trust)
        with pytest.raises(NotAnswered):
            await in_thread(AdminPort(plain, TOKEN).get, "/api/sessions")
        stranger = Way(way.address, "localhost", Trust(None))
        with pytest.raises(NotAnswered, match="unable to get local issuer certificate"):
            await in_thread(AdminPort(stranger, TOKEN).get, "/api/sessions")


async def test_a_session_with_the_library(tmp_path: Path, authority: Authority) -> None:
    """By address, and through a gate; the certificate is for the address."""
    from twisted.internet import reactor

    trust = trust_from(authority.path)
    async with running(tmp_path, authority, host="127.0.0.1") as server:
        gate = GateClient(reactor, server.url, http=HttpClient(reactor, trust))
        bob_id = (await gate.register("bob", PASSWORD)).id
        await gate.register("ann", PASSWORD)
        ann = Client(reactor, trust=trust)
        await ann.login_through(gate.locator("ann", password=PASSWORD))
        bob = Client(reactor, [("127.0.0.1", chat_port(server))], tls=True, trust=trust)
        await bob.login("bob", password=PASSWORD)
        text = "x" * 8000
        receipts = [await ann.send(text, to=bob_id) for _ in range(20)]
        seqs = []
        async for event in bob.events:
            if getattr(event, "text", "") == text:
                seqs.append(event.seq)
                if len(seqs) == 20:
                    break
        assert seqs == [receipt.seq for receipt in receipts]
        await ann.logout()
        await bob.close()


# --- what clients are told of bad certificates -------------------------------


async def why(host: str, port: int, trust: Any) -> str:
    from twisted.internet import reactor

    client = Client(reactor, [(host, port)], tls=True, trust=trust, endpoint=lambda host, port: loopback(port))
    with pytest.raises(NotConnected) as refused:
        await client.login("ann", password=PASSWORD)
    return str(refused.value).removeprefix(f"cannot reach {host}:{port}: ")


def loopback(port: int) -> TCP4ClientEndpoint:
    from twisted.internet import reactor

    return TCP4ClientEndpoint(reactor, "127.0.0.1", port)


async def test_why_there_is_no_connection(tmp_path: Path, authority: Authority, monkeypatch: Any) -> None:
    from twisted.internet import reactor

    trust = trust_from(authority.path)
    async with running(tmp_path, authority) as server:
        port = chat_port(server)
        assert await why("chat.example.net", port, trust) == "its certificate is not for chat.example.net"
        nobody = "its certificate is signed by nobody who is trusted here"
        assert await why("localhost", port, None) == nobody
        stranger = trust_from(Authority(tmp_path, "stranger").path)
        assert await why("localhost", port, stranger) == nobody
        # Who does not like the name says no word to the server.
        await until(lambda: handshakes(server) == {"failed": 2, "left": 1})
        plain = Client(reactor, [("127.0.0.1", port)])
        with pytest.raises(NotConnected, match="the server closed the connection without a word; perhaps it wants TLS"):
            await plain.login("ann", password=PASSWORD)
    expired, key = authority.issue("localhost", days=-1, file="expired")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(expired, key)

    def serve(listening: socket.socket, secure: bool) -> None:
        with listening, listening.accept()[0] as accepted:
            if secure:
                with pytest.raises(ssl.SSLError):
                    context.wrap_socket(accepted, server_side=True)
            else:
                accepted.recv(1)
                accepted.sendall(b'{"type":"error"}\n')

    for secure, what in ((True, "its certificate has expired"), (False, "it does not speak TLS")):
        listening = socket.create_server(("127.0.0.1", 0))
        serving = in_thread(serve, listening, secure)
        assert await why("localhost", listening.getsockname()[1], trust) == what
        await serving


async def test_who_gives_up_connecting_leaves_nothing(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    from twisted.internet import reactor

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        endpoint = TlsEndpoint(loopback(port), "localhost", trust_from(authority.path), reactor)
        connecting = connectProtocol(endpoint, Protocol())
        accepted, _ = await in_thread(silent.accept)
        accepted.close()
        connecting.cancel()
        with pytest.raises(Exception):  # noqa: B017, PT011 - whichever of the two layers ends it
            await connecting
        monkeypatch.setattr(layer, "HANDSHAKE_WITHIN", 0.01)
        with pytest.raises(TlsFailed, match=r"no handshake within 0\.01 s"):
            await connectProtocol(endpoint, Protocol())


# --- renewing ----------------------------------------------------------------


async def test_a_renewed_certificate_is_for_new_connections(
    tmp_path: Path, authority: Authority, logged: Logged
) -> None:
    async with running(tmp_path, authority, "tls.warn_days=5") as server:
        port = chat_port(server)
        old = der(tmp_path / "server.crt")
        assert any("expires on" in line and line.endswith("renew it") for line in logged.lines)
        before = await in_thread(Peer, port, authority)
        uid = (await in_thread(lambda: before.ask("register", name="ann", password=PASSWORD)))["id"]
        await in_thread(lambda: before.ask("login", name="ann", password=PASSWORD))
        logged.lines.clear()
        authority.issue("localhost", days=60, file="server")
        new = der(tmp_path / "server.crt")
        assert new != old
        # Not before it is told.
        assert await in_thread(shown, port, authority) == old
        server.reload()
        assert await in_thread(shown, port, authority) == new
        assert await in_thread(shown, server.port, authority) == new
        # Her connection goes on, on both sides.
        assert before.certificate == old
        newer = await in_thread(Peer, port, authority)
        await in_thread(lambda: newer.ask("register", name="bob", password=PASSWORD))
        await in_thread(lambda: newer.ask("login", name="bob", password=PASSWORD))
        assert (await in_thread(lambda: newer.ask("send", to=uid, text="hello")))["type"] == "send.ok"
        assert (await in_thread(before.next))["text"] == "hello"
        assert (await in_thread(lambda: before.ask("ping")))["type"] == "ping.ok"
        [told] = [line for line in logged.lines if "certificate" in line]
        assert told.startswith("new connections get the certificate that is for localhost and expires in 60 days")
        ends = server.assembly.registry.get_sample_value("flux_tls_certificate_expiry_timestamp_seconds")
        from twisted.internet import reactor

        assert 59.9 < (ends - reactor.seconds()) / 86400 < 60
        before.close()
        newer.close()


async def test_a_server_starts_with_a_certificate_that_has_expired_and_says_so(
    tmp_path: Path, authority: Authority, flush_logged_errors: Any
) -> None:
    async with running(tmp_path, authority, days=-1) as server:
        [told] = flush_logged_errors()
        assert re.fullmatch(
            r"tls\.certificate: it is for localhost and has expired: it was valid until 20\S+ \S+ UTC; "
            "clients refuse it: replace it, and send SIGHUP",
            formatEvent(told),
        )
        with pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"):
            await in_thread(shown, chat_port(server), authority)
        authority.issue("localhost", file="server")
        server.reload()
        assert await in_thread(shown, chat_port(server), authority) == der(tmp_path / "server.crt")


# --- clients that do not play along ------------------------------------------


async def test_last_words_arrive_before_the_goodbye(tmp_path: Path, authority: Authority) -> None:
    async with running(tmp_path, authority) as server:

        def taken_over() -> list[dict[str, Any]]:
            with (
                closing(Peer(chat_port(server), authority)) as one,
                closing(Peer(chat_port(server), authority)) as other,
            ):
                one.ask("register", name="ann", password=PASSWORD)
                one.ask("login", name="ann", password=PASSWORD)
                other.ask("login", name="ann", password=PASSWORD)
                return [one.next(), one.next()]

        # A connection that ends without a close_notify would raise here.
        assert await in_thread(taken_over) == [{"type": "kicked", "reason": "takeover"}, {"type": "closed"}]
        assert (await in_thread(long_line, chat_port(server), authority)) == ["error", "closed"]


def long_line(port: int, authority: Authority) -> list[str]:
    """More than is read before the connection is closed."""
    with closing(Peer(port, authority)) as peer:
        peer.socket.sendall(b"x" * 200_000)
        return [peer.next()["type"], peer.next()["type"]]


async def test_plain_text_is_closed_and_told_once(tmp_path: Path, authority: Authority, logged: Logged) -> None:
    """That nothing is logged as an error is what every test is checked for."""
    async with running(tmp_path, authority) as server:

        def answer(port: int, said: bytes) -> bytes:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
                plain.sendall(said)
                try:
                    return plain.recv(1000)
                except ConnectionResetError:
                    return b""

        for said in (
            b'{"type":"ping"}\n',
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x00" * 100,
            b"\x16\x03\x01\xff\xff" + b"x" * 100,
        ):
            assert b"pong" not in await in_thread(answer, chat_port(server), said)
        await until(lambda: handshakes(server) == {"failed": 4})
        assert await in_thread(answer, server.port, b"GET / HTTP/1.1\r\n\r\n") == b""
        # One that only looks whether somebody listens.
        socket.create_connection(("127.0.0.1", chat_port(server))).close()
        await until(lambda: handshakes(server) == {"failed": 4, "left": 1})
        told = [line for line in logged.lines if line.startswith("TLS on ")]
        assert told == [
            f"TLS on {listener} with 127.0.0.1 failed: the client does not speak TLS"
            for listener in ("chat.listen", "gate.listen")
        ]
        assert await in_thread(shown, chat_port(server), authority)


async def test_a_handshake_has_its_time(tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "HANDSHAKE_WITHIN", 0.05)
    async with running(tmp_path, authority) as server:
        for port in (chat_port(server), server.port):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as silent:
                assert await in_thread(ended, silent) == b""
            # Nor does it help to say a little.
            with socket.create_connection(("127.0.0.1", port), timeout=30) as slow:
                slow.sendall(b"\x16\x03\x01")
                assert await in_thread(ended, slow) == b""
        assert handshakes(server) == handshakes(server, "gate.listen") == {"late": 2}
        assert len(server.assembly.node.connections) == 0


def ended(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1)
    except ConnectionResetError:
        return b""


async def test_who_has_not_begun_counts_for_the_address(tmp_path: Path, authority: Authority) -> None:
    async with running(tmp_path, authority, "limits.connections_per_address=2") as server:
        silent = [socket.create_connection(("127.0.0.1", chat_port(server))) for _ in range(2)]
        await until(lambda: len(server.assembly.node.connections) == 2)

        def refused() -> tuple[str, str]:
            with closing(Peer(chat_port(server), authority)) as peer:
                return str(peer.next()["name"]), str(peer.next()["type"])

        assert await in_thread(refused) == ("rate_limited", "closed")
        for each in silent:
            each.close()
        await until(lambda: len(server.assembly.node.connections) == 0)
        assert await in_thread(shown, chat_port(server), authority)


async def test_who_does_not_answer_a_goodbye_is_cut(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer, "LINGER", 0.05)
    async with running(tmp_path, authority, "status.cluster_key=0123456789abcdef") as server:
        port = server.assembly.status_listener.address()[1]

        def guess() -> bytes:
            """Says something wrong, reads everything and never says goodbye."""
            raw = socket.create_connection(("127.0.0.1", port), timeout=30)
            client = client_context(authority).wrap_socket(raw, server_hostname="localhost")
            client.sendall(b'{"type":"auth","key":"x"}\n')
            assert b"wrong cluster key" in client.recv(1000)
            under = socket.socket(fileno=client.detach())
            under.settimeout(30)
            with under:
                while said := ended(under):
                    assert said
            return said

        assert await in_thread(guess) == b""
        await until(lambda: not server.assembly.status_factory.connections)


async def test_a_reset_in_the_middle_of_anything(tmp_path: Path, authority: Authority) -> None:
    async with running(tmp_path, authority) as server:

        def reset(after: int) -> None:
            raw = socket.create_connection(("127.0.0.1", chat_port(server)), timeout=30)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if after:
                client = client_context(authority).wrap_socket(raw, server_hostname="localhost")
                client.sendall(b'{"type":"help"}\n' * after)
                raw = socket.socket(fileno=client.detach())
            raw.close()

        for after in (0, 1, 200):
            await in_thread(reset, after)
        await until(lambda: len(server.assembly.node.connections) == 0)


async def test_small_answers_do_not_wait_for_each_other(tmp_path: Path, authority: Authority) -> None:
    """TCP_NODELAY is set on the socket below TLS."""
    async with running(tmp_path, authority) as server:
        peer = await in_thread(Peer, chat_port(server), authority)
        [connection] = await until(lambda: list(server.assembly.node.connections._all))
        assert connection.transport.getTcpNoDelay()
        assert connection.transport.getTcpKeepAlive()
        peer.close()


# --- other servers -----------------------------------------------------------


async def test_servers_of_the_static_list_are_checked_by_tls(tmp_path: Path, authority: Authority) -> None:
    from twisted.internet import reactor

    async def problem(port: int, trust: Any, tls: bool = True) -> str:
        told: list[str] = []
        health = HealthChecks(
            reactor, lambda name: True, lambda name, what: told.append(what), 60, 5, random.Random(1), trust
        )
        health.watch([ChatServer("old", host="localhost", port=port, tls=tls)])
        await health.checked(10)
        await health.stop()
        return told[0]

    async with running(tmp_path, authority) as server:
        assert await problem(chat_port(server), trust_from(authority.path)) == ""
        assert await problem(chat_port(server), None) == "its certificate is signed by nobody who is trusted here"
        await until(lambda: len(server.assembly.node.connections) == 0)
    with socket.create_server(("127.0.0.1", 0)) as plain:
        assert await problem(plain.getsockname()[1], None, tls=False) == ""


async def test_moved_leads_to_tls(tmp_path: Path, authority: Authority) -> None:
    """From a server without it."""
    from twisted.internet import reactor

    async with running(tmp_path, authority) as server:
        server.http = HttpClient(reactor, trust_from(authority.path))
        server.url = f"https://localhost:{server.port}"
        uid = await server.register("ann")
        [place] = await server.assembly.status.placement.assign([uid])
        assert place.tls
        profile = {"id": uid, "name": "ann", "nick": "", "description": "", "sex": "", "icon": "", "protocol": 1}
        moved = _moved(replace(place, host="localhost"), "drain", 5000)
        assert moved.tls is True
        assert _moved(replace(place, tls=False), "drain", 5000).tls is UNSET

        def old_server(listening: socket.socket) -> None:
            with listening.accept()[0] as link, link.makefile("rb") as lines:
                ref = json.loads(lines.readline())["ref"]
                ok = {"type": "login.ok", "ref": ref, "server": "old", **profile}
                ok |= {"friends": [], "friend_requests": [], "groups": [], "unread": []}
                link.sendall(json.dumps(ok).encode() + b"\n" + msgspec.json.encode(moved) + b"\n")
                with contextlib.suppress(ConnectionResetError):
                    lines.read()

        with socket.create_server(("127.0.0.1", 0)) as listening:
            serving = in_thread(old_server, listening)
            ann = Client(reactor, [listening.getsockname()], trust=trust_from(authority.path))
            await ann.login(uid, password=PASSWORD)
            await until(lambda: isinstance(ann.state, Online) and ann.state.login.server == "chat1")
            assert (await ann.friends()).friends == []
            await ann.close()
            await serving
