"""From an HTTP request to a WebSocket: who may, what is answered to those who may not, and whose connection it is."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from chat_server import with_changes
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from websocket_client import HEAD, frame

from flux.config import Settings
from flux.gate.site import GateSite
from flux.net.connection import Gather
from flux.net.tally import TELL_AFTER
from flux.net.upgrade import WebSocketResource, permitted
from flux.net.websocket import WebSocketProtocol

PROXIES = (ip_network("10.0.0.0/8"), ip_network("203.0.113.0/24"))


class Lines(WebSocketProtocol):
    """Keeps what comes."""

    def __init__(self) -> None:
        super().__init__("w1", Gather(), 1000, Clock())
        self.lines: list[bytes] = []

    def line_received(self, line: bytes) -> None:
        self.lines.append(line)


class Web:
    """A site in memory with ``/ws``, and a connection to it.

    :ivar opened: the WebSocket connections that were made.
    """

    def __init__(self, *origins: str, peer: str = "203.0.113.7") -> None:
        self.clock = Clock()
        self.opened: list[Lines] = []
        self.addresses: list[str] = []
        self.site = GateSite(with_changes(Settings(), gate__proxies=PROXIES), self.clock)
        self.site.root.putChild(b"ws", WebSocketResource(self._build, lambda: origins))
        self.channel = self.site.buildProtocol(None)
        self.transport = StringTransport(peerAddress=IPv4Address("TCP", peer, 40000))
        self.channel.makeConnection(self.transport)

    def _build(self, request: Any) -> Lines:
        self.addresses.append(request.address)
        self.opened.append(Lines())
        return self.opened[-1]

    def ask(self, data: bytes) -> bytes:
        """Send bytes; what comes back."""
        self.channel.dataReceived(data)
        answer = self.transport.value()
        self.transport.clear()
        return answer

    def status(self, data: bytes) -> int:
        return int(self.ask(data).split()[1])


def request(*headers: str, without: str = "", first: str = "GET /ws HTTP/1.1") -> bytes:
    """A handshake with other headers."""
    lines = [line for line in HEAD.decode().split("\r\n")[1:-1] if not without or not line.startswith(without)]
    return "\r\n".join([first, *lines, *headers, "", ""]).encode()


def test_a_handshake_is_answered_and_the_socket_taken_over() -> None:
    web = Web()
    answer = web.ask(request())
    assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    # The example of RFC 6455, section 1.3.
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer
    assert web.ask(frame(1, b"hello") + frame(9, b"x")) == b"\x8a\x01x"
    [connection] = web.opened
    assert connection.lines == [b"hello"]
    web.channel.connectionLost(Failure(ConnectionDone()))
    assert connection.closed
    assert not web.clock.getDelayedCalls()


def test_what_comes_with_the_handshake_is_a_message() -> None:
    web = Web()
    web.ask(request() + frame(1, b"1") + frame(1, b"2")[:3])
    web.ask(frame(1, b"2")[3:])
    assert web.opened[0].lines == [b"1", b"2"]


def test_deflate_is_offered_without_contexts() -> None:
    answer = Web().ask(request("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"))
    header = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    assert b"\r\nSec-WebSocket-Extensions: " + header + b"\r\n" in answer


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (426, b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n"),
        (426, request(without="Upgrade")),
        (426, request(without="Connection")),
        (426, request("Upgrade: h2c", without="Upgrade")),
        (400, request(without="Sec-WebSocket-Key")),
        (400, request("Sec-WebSocket-Key: x", without="Sec-WebSocket-Key")),
        (400, request("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")),
        (400, request(without="Sec-WebSocket-Version")),
        (400, request("Sec-WebSocket-Version: 8", without="Sec-WebSocket-Version")),
        (505, request(first="GET /ws HTTP/1.0")),
        (405, request(first="POST /ws HTTP/1.1")),
        (405, request(first="DELETE /ws HTTP/1.1")),
        (404, request(first="GET /ws/../x HTTP/1.1")),
        (404, request(first="GET /wsx HTTP/1.1")),
        (400, request("Origin: http://evil.example", "Origin: http://chat.example.net")),
        (403, request("Origin: http://chat.example.net", "Origin: http://evil.example")),
        (403, request("Origin: http://evil.example")),
    ],
)
def test_what_is_no_handshake_gets_an_http_answer(status: int, data: bytes) -> None:
    web = Web()
    assert web.status(data) == status
    # The connection can go on with a proper one, where HTTP says so.
    if status in (400, 403, 426) and web.channel.persistent:
        assert web.status(request()) == 101


@pytest.mark.parametrize("headers", [b"Host: x\r\nOrigin: \xff", b"Host: \xff\r\nOrigin: http://x"])
def test_headers_may_have_any_byte(headers: bytes) -> None:
    assert Web().status(b"GET /ws HTTP/1.1\r\n%b\r\n\r\n" % headers) == 403


def test_a_refusal_says_what_it_takes() -> None:
    assert b"\r\nUpgrade: websocket\r\n" in Web().ask(b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"\r\nSec-Websocket-Version: 13\r\n" in Web().ask(request(without="Sec-WebSocket-Version"))


def test_a_connection_that_was_taken_over_is_not_looked_at_any_more() -> None:
    """How long it may be silent is for who has it now."""
    web = Web()
    web.site.startFactory()
    web.ask(request())
    for _ in range(1000):
        web.clock.advance(1)
    assert not web.transport.disconnecting
    assert web.ask(frame(9, b"x")) == b"\x8a\x01x"
    web.channel.connectionLost(Failure(ConnectionDone()))


# --- origins -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "host", "right"),
    [
        ("http://chat.example.net", "chat.example.net", True),
        ("https://chat.example.net", "chat.example.net:443", True),
        ("http://chat.example.net:8080", "chat.example.net:8091", True),
        ("http://Chat.Example.NET", "chat.example.net", True),
        ("http://[::1]:8080", "[::1]:8091", True),
        ("http://127.0.0.1:8080", "127.0.0.1:8080", True),
        ("http://evil.example", "chat.example.net", False),
        ("http://chat.example.net.evil.example", "chat.example.net", False),
        ("http://evilchat.example.net", "chat.example.net", False),
        ("http://chat.example.net@evil.example", "chat.example.net", False),
        ("null", "chat.example.net", False),
        ("", "", False),
        ("null", "", False),
        ("file://", "chat.example.net", False),
        ("http://[", "[", False),
    ],
)
def test_pages_from_the_same_host_may_connect(origin: str, host: str, right: bool) -> None:
    assert permitted(origin, host, ()) is right


@pytest.mark.parametrize(
    ("origin", "right"),
    [
        ("https://a.example", True),
        ("https://A.example", True),
        ("http://b.example:8080", True),
        ("http://a.example", False),
        ("https://a.example:444", False),
        ("http://b.example", False),
        ("https://chat.example.net", False),
    ],
)
def test_a_list_of_origins_is_the_whole_list(origin: str, right: bool) -> None:
    assert permitted(origin, "chat.example.net", ("https://a.example", "http://b.example:8080")) is right


def test_pages_that_are_refused_are_told_by_the_second() -> None:
    web = Web()
    with capturedLogs() as logged:
        for _ in range(3):
            web.ask(request("Origin: http://evil.example"))
        assert not logged
        web.clock.advance(TELL_AFTER)
    assert [formatEvent(event) for event in logged] == [
        "WebSockets of pages of http://evil.example refused to 203.0.113.7: 3"
    ]


def test_a_star_is_everybody_and_no_origin_no_page() -> None:
    assert Web("*").status(request("Origin: http://evil.example")) == 101
    assert Web("https://a.example").status(request()) == 101
    assert Web("https://a.example").status(request("Origin: null")) == 403


# --- addresses ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("198.51.100.1", [], "198.51.100.1"),
        ("198.51.100.1", ["192.0.2.1"], "198.51.100.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["6.6.6.6, 192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["6.6.6.6", "192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["192.0.2.1, 10.0.0.2,203.0.113.9"], "192.0.2.1"),
        ("10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["192.0.2.1, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1, nonsense, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [""], "10.0.0.1"),
    ],
)
def test_the_client_is_who_the_proxies_say(peer: str, forwarded: list[str], address: str) -> None:
    web = Web(peer=peer)
    assert web.status(request(*[f"X-Forwarded-For: {value}" for value in forwarded])) == 101
    assert web.addresses == [address]
