"""The gate's HTTP: what is no request, and what is too much."""

from __future__ import annotations

import json

import pytest
import pytest_twisted
from gate_server import GateServer, Mailbox
from http_parts import GET, LOGIN, Raw, client_turns, connect, post
from twisted.internet.defer import Deferred

from flux.gate.channel import (
    MAX_BODY,
    MOST_UNHEARD,
)


@pytest_twisted.async_yield_fixture
async def server(tmp_path):
    server = await GateServer(tmp_path).start()
    yield server
    await server.stop()


@pytest_twisted.async_yield_fixture
async def client(server):
    client = await connect(server.port)
    yield client
    client.transport.abortConnection()
    await client.ended()


# --- what is no request ------------------------------------------------------


NO_REQUESTS = [
    b"hello\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n",
    b'{"type":"ping"}\r\n',
    b"GET /v1/rules\r\n\r\n",
    b"GET /v1/rules HTTP/3.9\r\n\r\n",
    b"GET /v1/\xff HTTP/1.1\r\n\r\n",
    b"GET  /v1/rules HTTP/1.1\r\n\r\n",
    b"GET /v1/rules HTTP/1.1\r\nno colon\r\n\r\n",
    b"GET /v1/rules HTTP/1.1\r\n: no name\r\n\r\n",
    b"GET /v1/rules HTTP/1.1\r\nA b: c\r\n\r\n",
    b"GET /v1/rules HTTP/1.1\r\nA: b\x00c\r\n\r\n",
    b"POST /v1/login HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    b"POST /v1/login HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /v1/login HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"POST /v1/login HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/login HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    b"POST /v1/login HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    b"POST /v1/login HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    # Floods.
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
    b"G" * 100_000,
    b"GET /v1/rules HTTP/1.1\r\n" + b"".join(b"A%d: b\r\n" % n for n in range(101)) + b"\r\n",
    b"GET /v1/rules HTTP/1.1\r\nA: " + b"b" * 17_000 + b"\r\n\r\n",
    b"GET /v1/rules HTTP/1.1\r\nA: b\r\n" + b" more\r\n" * 5_000 + b"\r\n",
    b"GET /v1/rules HTTP/1.1\r\n" + b"A: b\r\n" * 10_000,
]


async def test_what_is_no_request_is_refused_once_and_the_connection_ends(server: GateServer) -> None:
    clients = [(said, await connect(server.port)) for said in NO_REQUESTS]
    for said, client in clients:
        client.say(said)
    for said, client in clients:
        assert await client.error() == (400, "bad_request"), said[:60]
        client.say(GET)
    for said, client in clients:
        await client.ended()
        assert client.data == b"", said[:60]


NEVER_REQUESTS = [
    # Twisted would wait for the line's end: none has one, or it is none in HTTP.
    b"\x16",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    b"{",
    b'{"type":"ping"}\n',
    b"hello\n",
    b"GET /v1/rules HTTP/1.1\n\n",
    b" GET",
    b"G\x00",
    b"GET\t",
    b"GET /\x00",
    b"GET /\rv",
    b"\n",
    b"\r{",
    b"\r\n{",
]


def offences(server: GateServer) -> float | None:
    """Those that were counted because what was said is not HTTP."""
    return server.assembly.registry.get_sample_value("flux_offences_total", {"kind": "http"})


async def test_what_can_become_no_request_is_refused_before_its_line_ends(server: GateServer) -> None:
    """No clock has to move for it, and it counts as any other offence does."""
    clients = [(said, await connect(server.port)) for said in NEVER_REQUESTS]
    for number, (said, client) in enumerate(clients, 1):
        client.say(said)
        assert await client.error() == (400, "bad_request"), said
        assert offences(server) == number, said
        client.say(GET)
    for said, client in clients:
        await client.ended()
        assert client.data == b"", said
    assert offences(server) == len(clients)


async def test_what_follows_requests_in_one_piece_is_refused_after_their_answers(
    server: GateServer, client: Raw
) -> None:
    client.say(GET + post("/v1/login", b"{") + GET + post("/v1/login", LOGIN) + post("/v1/login", b"{") + b"{")
    for expected in (200, 400, 200, 403, 400):
        assert (await client.answer())[0] == expected
    assert await client.error() == (400, "bad_request")
    assert offences(server) == 1


async def test_right_requests_may_come_byte_by_byte(server: GateServer, client: Raw) -> None:
    """With the blank line that may come before one, and up to a WebSocket, which says what is not HTTP."""
    assert server.assembly.gate is not None
    await client_turns(lambda: server.assembly.gate.site._channels)
    [channel] = server.assembly.gate.site._channels

    def slowly(data: bytes) -> None:
        for byte in data:
            channel.dataReceived(bytes((byte,)))

    for blank in (b"", b"\r\n"):
        slowly(blank + GET)
        assert (await client.answer())[0] == 200
        slowly(blank + post("/v1/login", LOGIN))
        assert await client.error() == (403, "password_invalid")
        slowly(blank + b"M-SEARCH http://x/v1/?a=~&b=%20#! HTTP/1.1\r\n\r\n")
        assert await client.error() == (404, "not_found")
    slowly(
        b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert (await client.answer())[0] == 101
    ping = b'{"type":"ping"}'
    # A text frame, masked with zeros.
    slowly(b"\x81" + bytes((0x80 | len(ping),)) + bytes(4) + ping)
    await client.until(lambda: b"ping.ok" in client.data)


BAD_BODIES = [
    (b"", 400, "bad_json"),
    (b"{", 400, "bad_json"),
    (b"[]", 400, "bad_json"),
    (b"null", 400, "bad_json"),
    (b'"x"', 400, "bad_json"),
    (b"\xff\xfe{}", 400, "bad_json"),
    (b'{"a":"\xff"}', 400, "bad_json"),
    (b"[" * 60_000, 400, "bad_json"),
    (b'{"a":' * 10_000, 400, "bad_json"),
    (b'{"name":"ann"}', 400, "bad_request"),
    (b'{"name":7,"password":"x"}', 400, "bad_request"),
    (b'{"name":"","password":"x"}', 400, "bad_request"),
    (b'{"name":"ann","password":null}', 400, "bad_request"),
    (b'{"name":"a\\u0000b","password":"x"}', 400, "bad_request"),
    (b'{"name":"\\ud800","password":"x"}', 400, "bad_json"),
    (b'{"name":7,', 400, "bad_json"),
    (b'{"name":"\\u0000', 400, "bad_json"),
    (b'{"email":"no address","password":"x"}', 400, "bad_request"),
    (b'{"email":"a@b\\n","password":"x"}', 400, "bad_request"),
    (b'{"id":0,"password":"x"}', 400, "bad_request"),
    (b'{"id":9223372036854775808,"password":"x"}', 400, "bad_request"),
    (b'{"id":1e400,"password":"x"}', 400, "bad_request"),
    (b'{"name":"' + b"x" * 51 + b'","password":"x"}', 413, "too_large"),
    (b'{"name":"ann","password":"' + b"x" * 1025 + b'"}', 413, "too_large"),
    (b'{"name":"nobody","password":"x","more":{"a":[1]}}', 403, "password_invalid"),
]


async def test_bad_bodies_are_told_and_the_connection_goes_on(client: Raw) -> None:
    for body, status, name in BAD_BODIES:
        client.say(post("/v1/login", body))
        assert await client.error() == (status, name), body[:60]


@pytest.mark.parametrize(
    ("path", "body", "detail"),
    [
        ("/v1/accounts", b'{"name":"ann"}', "password: missing"),
        ("/v1/accounts", b'{"name":"a\\u0000","password":"x"}', "name: U+0000 is not allowed in a string"),
        ("/v1/codes", b'{"email":"a@b","purpose":"fun"}', "purpose: expected one of register, reset"),
        ("/v1/codes", b'{"email":"ann at home","purpose":"reset"}', "email: this is no e-mail address"),
        ("/v1/login", b'{"name":"ann","password":5}', "password: expected string, got integer"),
        ("/v1/login", b"\xff", "not UTF-8"),
    ],
)
async def test_a_detail_names_the_field(client: Raw, path: str, body: bytes, detail: str) -> None:
    client.say(post(path, body))
    assert json.loads((await client.answer())[2])["detail"] == detail


CONTENT_TYPES = [
    ("Content-Type: application/json", True),
    ("content-type: Application/JSON ; charset=utf-8", True),
    ("X: y\r\nContent-Type:", False),
    ("Content-Type: text/plain", False),
    ("Content-Type: text/json", False),
    ("Content-Type: application/x-www-form-urlencoded", False),
    ("Content-Type: multipart/form-data; boundary=x", False),
]


async def test_content_types(server: GateServer, client: Raw) -> None:
    """What a foreign web page can send without asking, a form or plain text, is not taken."""
    server.reload("limits.logins_per_minute=0", "limits.logins_per_minute_address=0")
    for header, taken in CONTENT_TYPES:
        client.say(post("/v1/login", LOGIN, header))
        assert await client.error() == ((403, "password_invalid") if taken else (415, "bad_request")), header
        # Classic front ends send all sorts.
        client.say(post("/user_login", b'{"user":"ann","passwd":"x"}', header))
        status, _, body = await client.answer()
        assert (status, json.loads(body)) == (200, {"error": 1009}), header


PATHS = [
    "//", "/v1", "/v1/", "/v1/login/", "//v1/login", "/v1//login", "/V1/login", "/./v1/login", "/../v1/login",
     "/v1/../v1/login", "/%2e%2e/etc/passwd", "/..%2f..%2fetc/passwd", "/v1/log%69n", "/v1/login%00", "/v1/login;x",
     "/v1\\login", "/" + "a/" * 4000, "http://x/v1/login", "/%", "/%zz"
]  # fmt: skip


async def test_path_tricks_lead_nowhere(client: Raw) -> None:
    for path in PATHS:
        for request in (post(path, LOGIN), f"GET {path} HTTP/1.1\r\n\r\n".encode()):
            client.say(request)
            assert await client.error() == (404, "not_found"), path
    client.say(GET)
    assert (await client.answer())[0] == 200


async def test_other_methods(client: Raw) -> None:
    for method in (b"GET", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT", b"FOO", b"post"):
        client.say(post("/v1/login", LOGIN).replace(b"POST", method))
        status, headers, body = await client.answer()
        assert (status, headers[b"allow"], json.loads(body)["name"]) == (405, b"POST", "bad_request")
    client.say(GET)
    assert (await client.answer())[0] == 200


async def test_a_query_is_no_part_of_the_path(client: Raw) -> None:
    client.say(GET.replace(b"rules", b"rules?a=b&c"))
    assert (await client.answer())[0] == 200


async def test_options_of_everything(client: Raw) -> None:
    client.say(b"OPTIONS * HTTP/1.1\r\n\r\n")
    assert (await client.answer())[0] in (200, 405)
    client.say(GET)
    assert (await client.answer())[0] == 200


async def test_head_is_a_get_without_the_body(client: Raw) -> None:
    for path in (b"/v1/rules", b"/openapi.json", b"/get_test", b"/nothing"):
        client.say(b"GET " + path + b" HTTP/1.1\r\n\r\n")
        whole = await client.answer()
        client.say(b"HEAD " + path + b" HTTP/1.1\r\n\r\n")
        await client.until(lambda: b"\r\n\r\n" in client.data)
        head, _, rest = client.data.partition(b"\r\n\r\n")
        assert rest == b""
        assert b"%d" % whole[0] in head.split(b"\r\n")[0]
        assert b"Content-Length: %d" % len(whole[2]) in head.split(b"\r\n")
        client.data = b""


async def test_what_every_answer_says(client: Raw) -> None:
    for request in (GET, b"GET /get_test HTTP/1.1\r\n\r\n", b"GET /nothing HTTP/1.1\r\n\r\n"):
        client.say(request)
        _, headers, _ = await client.answer()
        assert headers[b"server"] == b"flux"
        assert headers[b"x-content-type-options"] == b"nosniff"
        assert not [name for name in headers if name.startswith(b"access-control")]


async def test_pipelined_requests_are_answered_in_order(server: GateServer, client: Raw) -> None:
    await server.register("ann")
    login = post("/v1/login", b'{"name":"ann","password":"correct horse"}')
    client.say(b"".join(GET + login for _ in range(20)) + GET)
    for number in range(41):
        status, _, body = await client.answer()
        assert (status, b"token" in body) == (200, number % 2 == 1)


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1\r\nConnection: close"])
async def test_who_wants_no_more_is_closed(client: Raw, version: str) -> None:
    client.say(f"GET /v1/rules {version}\r\n\r\n".encode())
    await client.ended()
    assert client.data.startswith(b"HTTP/1.")
    assert client.data.endswith(b'"codes_sent":true}')
    assert client.closed == "ConnectionDone"


async def test_a_client_that_leaves_early_is_no_error(server: GateServer) -> None:
    held: Deferred[None] = Deferred()
    Mailbox.held = held
    client = await connect(server.port)
    client.say(post("/v1/codes", b'{"email":"a@b","purpose":"reset"}'))
    assert server.assembly.gate is not None
    gate = server.assembly.gate.gate
    await client_turns(lambda: len(gate.tasks) == 1)
    client.transport.abortConnection()
    await client.ended()
    held.callback(None)
    await client_turns(lambda: len(gate.tasks) == 0)
    assert len(Mailbox.mails) == 1


# --- what is too much --------------------------------------------------------


async def test_a_long_body_is_refused_before_it_is_sent(client: Raw) -> None:
    client.say(post("/v1/login", b"", "Expect: 100-continue", length=MAX_BODY + 1))
    assert await client.error() == (413, "too_large")
    assert client.data == b""


async def test_a_body_that_is_not_too_long_is_asked_for(client: Raw) -> None:
    client.say(post("/v1/login", b"", "Expect: 100-continue", length=len(LOGIN)))
    await client.until(lambda: client.data)
    assert client.data == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.data = b""
    client.say(LOGIN)
    assert await client.error() == (403, "password_invalid")


async def test_the_longest_body(client: Raw) -> None:
    client.say(post("/v1/login", LOGIN[:-1] + b" " * (MAX_BODY - len(LOGIN)) + b"}"))
    assert await client.error() == (403, "password_invalid")


async def test_a_body_of_unknown_length_is_counted(server: GateServer) -> None:
    for chunk in (1, 1000, MAX_BODY + 1):
        client = await connect(server.port)
        client.say(
            b"POST /v1/login HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            + (b"%x\r\n" % chunk + b" " * chunk + b"\r\n") * (MAX_BODY // chunk + 1)
        )
        assert await client.error() == (413, "too_large")
        client.transport.abortConnection()
        await client.ended()


async def test_chunks_that_fit_are_taken(client: Raw) -> None:
    client.say(
        b"POST /v1/login HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"1\r\n%c\r\n" % byte for byte in LOGIN)
        + b"0\r\n\r\n"
    )
    assert await client.error() == (403, "password_invalid")


async def test_who_sends_a_long_body_all_the_same_gets_the_answer(client: Raw) -> None:
    """The connection is not closed on them while they send."""
    client.say(post("/v1/login", b"x" * (MOST_UNHEARD // 2)))
    assert await client.error() == (413, "too_large")
    assert client.closed == ""


async def test_who_does_not_stop_sending_is_cut(client: Raw) -> None:
    client.say(post("/v1/login", b"x" * (2 * MOST_UNHEARD)))
    await client.ended()


async def test_a_truncated_body(server: GateServer) -> None:
    for body in (b"", b"{", LOGIN[:-1]):
        client = await connect(server.port)
        client.say(post("/v1/login", body, length=len(LOGIN)))
        client.transport.loseConnection()
        await client.ended()
    assert (await server.ask("GET", "/v1/rules")).status == 200
