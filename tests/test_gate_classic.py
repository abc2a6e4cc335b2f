"""The paths of classic gates: the same fields, a 200 whatever happens, and no password in any answer."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from gate_server import PASSWORD, GateServer, Mailbox, code_in

ANN = "ann@example.org"
NEW = "another password"


@pytest_twisted.async_yield_fixture
async def server(tmp_path):
    server = await GateServer(tmp_path).start()
    yield server
    await server.stop()
    for reply in server.replies:
        for secret in (PASSWORD, NEW, "$argon2"):
            assert secret.encode() not in reply.raw


async def classic(server: GateServer, path: str, body: Any, **headers: str) -> dict[str, Any]:
    """What a classic front end reads: any answer has the status 200."""
    reply = await server.ask("POST", path, body, **headers)
    assert reply.status == 200
    answer: dict[str, Any] = reply.json
    return answer


async def test_the_whole_classic_path(server: GateServer) -> None:
    assert await classic(server, "/get_varifycode", {"email": ANN}) == {"error": 0, "email": ANN}
    code = code_in(Mailbox.mails[-1], ANN)
    registration = {"user": "ann", "email": ANN, "passwd": PASSWORD, "confirm": PASSWORD, "icon": ":/head_1.jpg"}
    assert await classic(server, "/user_register", {**registration, "varifycode": code}) == {
        "error": 0, "uid": 1, "user": "ann", "email": ANN, "icon": ":/head_1.jpg",
    }  # fmt: skip
    host, port = server.assembly.chat.listener.address()
    for who in ({"user": "ann"}, {"email": ANN}, {"user": "ann", "email": ANN}, {"user": "", "email": ANN}):
        login = await classic(server, "/user_login", {**who, "passwd": PASSWORD})
        token = login.pop("token")
        assert login == {"error": 0, "uid": 1, "user": "ann", "email": ANN, "host": host, "port": str(port)}
    await server.chat().ok("login", id=1, token=token)
    assert await classic(server, "/get_varifycode", {"email": ANN}) == {"error": 0, "email": ANN}
    code = code_in(Mailbox.mails[-1], ANN)
    reset = {"user": "ann", "email": ANN, "passwd": NEW, "varifycode": code}
    assert await classic(server, "/reset_pwd", reset) == {"error": 0, "uid": 1, "user": "ann", "email": ANN}
    assert (await classic(server, "/user_login", {"user": "ann", "passwd": NEW}))["uid"] == 1


async def test_the_numbers_of_the_catalogue(server: GateServer) -> None:
    await server.register("ann", ANN)
    code = await server.code(ANN, "reset")
    registration = {"user": "bob", "passwd": PASSWORD, "confirm": PASSWORD}
    tried = [
        ("/user_login", b"{", 1001),
        ("/user_login", b"[]", 1001),
        ("/user_login", b"\xff", 1001),
        ("/user_register", {**registration, "email": "b@x", "varifycode": "1"}, 1003),
        ("/reset_pwd", {"user": "ann", "email": ANN, "passwd": NEW, "varifycode": "1"}, 1004),
        ("/user_register", {**registration, "user": "ANN"}, 1005),
        ("/user_register", {**registration, "confirm": "x"}, 1006),
        ("/reset_pwd", {"user": "bob", "email": ANN, "passwd": NEW, "varifycode": code}, 1007),
        ("/user_login", {"user": "ann", "passwd": "x"}, 1009),
        ("/user_login", {"user": "nobody", "passwd": "x"}, 1009),
        ("/user_register", {**registration, "passwd": "x", "confirm": "x"}, 1009),
        ("/user_login", {"passwd": "x"}, 1102),
        ("/user_login", {"user": "ann"}, 1102),
        ("/user_login", {"email": "no address", "passwd": "x"}, 1102),
        ("/get_varifycode", {"email": "no address"}, 1102),
        ("/get_varifycode", {}, 1102),
        ("/user_login", {"user": "x" * 51, "passwd": "x"}, 1110),
    ]
    for path, body, number in tried:
        assert await classic(server, path, body) == {"error": number}, (path, body)


async def test_a_code_may_be_required(server: GateServer) -> None:
    registration = {"user": "ann", "email": ANN, "passwd": PASSWORD, "confirm": PASSWORD, "varifycode": ""}
    server.reload("gate.require_code=yes")
    assert await classic(server, "/user_register", registration) == {"error": 1102}
    server.reload()
    assert (await classic(server, "/user_register", registration))["uid"] == 1
    # An address that nobody proved leads nowhere.
    assert await classic(server, "/user_login", {"email": ANN, "passwd": PASSWORD}) == {"error": 1009}


async def test_failures_are_numbers_too(
    server: GateServer, monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any
) -> None:
    async def fail(*arguments: object) -> None:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(server.assembly.store, "credentials", fail)
    assert await classic(server, "/user_login", {"user": "ann", "passwd": "x"}) == {"error": 1111}
    assert len(flush_logged_errors(ZeroDivisionError)) == 1
    monkeypatch.undo()
    server.reload("limits.codes_per_hour=1")
    assert (await classic(server, "/get_varifycode", {"email": ANN}))["error"] == 0
    assert await classic(server, "/get_varifycode", {"email": ANN}) == {"error": 1107}


@pytest.mark.parametrize(
    ("query", "lines"),
    [
        ("", []),
        ("?key1=value1&key2=value2", ["param1 key is key1,  value is value1", "param2 key is key2,  value is value2"]),
        ("?a=1&a=2&b", ["param1 key is a,  value is 1", "param2 key is a,  value is 2"]),
        ("?a=&b", ["param1 key is a,  value is "]),
        ("?a=%E4%BD%A0+x", ["param1 key is a,  value is 你 x"]),
        ("?a=<script>", ["param1 key is a,  value is <script>"]),
    ],
)
async def test_get_test(server: GateServer, query: str, lines: list[str]) -> None:
    reply = await server.ask("GET", f"/get_test{query}")
    assert reply.status == 200
    assert reply.raw.decode().splitlines() == ["receive get_test req", *lines]
    assert reply.headers.getRawHeaders("Content-Type") == ["text/plain; charset=utf-8"]
    assert (await server.ask("POST", "/get_test", {})).status == 405
