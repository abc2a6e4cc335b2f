"""The client of a gate, against a real one: accounts over HTTP, and sessions that find their server through it."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from gate_server import PASSWORD, GateServer, Mailbox, code_in
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock

from flux.bench.servers import free_port
from flux.client import Client, Ended, GateClient, NotConnected, Offline, Online, parse_url
from flux.client import gate as gate_module
from flux.errors import BadRequest, CodeWrong, PasswordInvalid, RateLimited, TokenInvalid, UserExists
from flux.lifecycle import DeadlineExceeded
from flux.wire.http import ProfileChange

ANN = "ann@example.org"


@pytest_twisted.async_yield_fixture
async def server(tmp_path):
    server = await GateServer(tmp_path).start()
    yield server
    await server.stop()


@pytest.fixture
def gate(server: GateServer) -> GateClient:
    from twisted.internet import reactor

    return GateClient(reactor, server.url + "/")


class Hashes:
    """Counts what costs the server a hash."""

    def __init__(self, server: GateServer) -> None:
        self.count = 0
        passwords = server.assembly.passwords
        verify = passwords.verify

        async def counted(*arguments: Any) -> Any:
            self.count += 1
            return await verify(*arguments)

        passwords.verify = counted  # type: ignore[method-assign]


async def cut(client: Client) -> type:
    """Cut the session's connection, and wait until it is back, or has ended: what happened last."""
    client._session._connection.abort("cut by the test")  # type: ignore[union-attr]
    offline = False
    async for event in client.events:
        offline = offline or isinstance(event, Offline)
        if offline and isinstance(event, (Online, Ended)):
            return type(event)
    raise AssertionError("the events ended")


async def test_accounts(gate: GateClient) -> None:
    rules = await gate.rules()
    assert (rules.code_required, rules.password_min) == (False, 8)
    await gate.request_code(ANN, "register")
    code = code_in(Mailbox.mails[-1], ANN)
    with pytest.raises(CodeWrong):
        await gate.register("ann", PASSWORD, email=ANN, code="0")
    assert (await gate.register("ann", PASSWORD, email=ANN, code=code, nick="Annie", icon="i")).id == 1
    with pytest.raises(UserExists):
        await gate.register("Ann", PASSWORD)
    for login in (gate.login("ann", password=PASSWORD), gate.login(1, password=PASSWORD)):
        assert (await login).nick == "Annie"
    logged_in = await gate.login(email=ANN.upper(), password=PASSWORD)
    assert (logged_in.id, logged_in.email, logged_in.icon) == (1, ANN, "i")
    changed = await gate.change_profile(1, logged_in.token, ProfileChange(nick="Anna"))
    assert changed == await gate.profile(1, logged_in.token)
    assert (changed.nick, changed.icon) == ("Anna", "i")
    with pytest.raises(TokenInvalid):
        await gate.profile(1, "x")
    await gate.request_code(ANN, "reset")
    assert (await gate.reset_password(ANN, code_in(Mailbox.mails[-1], ANN), "another password")).id == 1
    with pytest.raises(PasswordInvalid):
        await gate.login("ann", password=PASSWORD)


async def test_what_cannot_be_sent_is_refused() -> None:
    gate = GateClient(Clock(), "http://127.0.0.1:1")
    with pytest.raises(BadRequest, match="password: holds half a character"):
        await gate.login("ann", password="\udcff")


async def test_an_error_says_how_long_to_wait(server: GateServer, gate: GateClient) -> None:
    server.reload("limits.codes_per_hour=1")
    await gate.request_code(ANN, "reset")
    with pytest.raises(RateLimited) as refused:
        await gate.request_code(ANN, "reset")
    assert refused.value.retry_after > 1000


async def test_a_session_through_the_gate_and_back_without_a_hash(server: GateServer, gate: GateClient) -> None:
    from twisted.internet import reactor

    await server.register("ann")
    hashes = Hashes(server)
    client = Client(reactor, longest_pause=0.1)
    locator = gate.locator("ann", password=PASSWORD)
    assert (await client.login_through(locator)).name == "ann"
    assert locator.account is not None
    assert (locator.account.id, hashes.count) == (1, 1)
    for _ in range(2):
        assert await cut(client) is Online
        assert hashes.count == 1
    # Who has lost the token asks with the password.
    await server.assembly.state.revoke(1)
    assert await cut(client) is Online
    assert hashes.count == 2
    await client.logout()


async def test_a_session_outlives_a_change_of_the_password(server: GateServer, gate: GateClient) -> None:
    from twisted.internet import reactor

    await server.register("ann")
    client = Client(reactor, longest_pause=0.1)
    await client.login_through(gate.locator("ann", password=PASSWORD))
    await client.password_change(PASSWORD, "another password")
    assert await cut(client) is Online
    await client.close()


async def test_a_password_that_was_changed_elsewhere_ends_the_session(server: GateServer, gate: GateClient) -> None:
    from twisted.internet import reactor

    await server.register("ann", ANN)
    client = Client(reactor, longest_pause=0.1)
    await client.login_through(gate.locator("ann", password=PASSWORD))
    # As a reset does, but for the kick.
    await server.assembly.store.set_password(1, "")
    await server.assembly.state.revoke(1)
    assert await cut(client) is Ended
    assert isinstance(client.state, Ended)
    assert client.state.reason == "password_invalid"


async def test_a_gate_that_is_not_there() -> None:
    from twisted.internet import reactor

    gate = GateClient(reactor, f"127.0.0.1:{free_port()}")
    with pytest.raises(NotConnected, match=r"cannot reach the gate at http://127\.0\.0\.1:.*refused"):
        await gate.rules()
    with pytest.raises(NotConnected):
        await Client(reactor).login_through(gate.locator("ann", password=PASSWORD))


async def test_a_gate_without_tls_that_is_asked_with_it(server: GateServer) -> None:
    """The gate refuses at once; who asked is told what to write instead."""
    from twisted.internet import reactor

    where = server.url.removeprefix("http")
    with pytest.raises(NotConnected) as told:
        await GateClient(reactor, f"HTTPS{where}").rules()
    assert str(told.value) == f"cannot reach the gate at HTTPS{where}: it does not speak TLS; write http{where}"


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 404 no\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 1_100_000,
        b"hello\r\n",
        b"",
    ],
    ids=lambda value: repr(value[:50]) if isinstance(value, bytes) else None,
)
async def test_what_is_no_gate(said: bytes) -> None:
    from twisted.internet import reactor

    class Other(Protocol):
        def dataReceived(self, data: bytes) -> None:
            self.transport.write(said)
            self.transport.loseConnection()

    factory = Factory.forProtocol(Other)
    factory.noisy = False
    listening = reactor.listenTCP(0, factory, interface="127.0.0.1")
    try:
        with pytest.raises(NotConnected):
            await GateClient(reactor, f"127.0.0.1:{listening.getHost().port}").rules()
    finally:
        await listening.stopListening()


async def test_a_gate_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from twisted.internet import reactor

    monkeypatch.setattr(gate_module, "ANSWER_WITHIN", 0.1)
    factory = Factory.forProtocol(Protocol)
    factory.noisy = False
    listening = reactor.listenTCP(0, factory, interface="127.0.0.1")
    try:
        with pytest.raises(DeadlineExceeded, match="the gate at http:"):
            await GateClient(reactor, f"127.0.0.1:{listening.getHost().port}").rules()
    finally:
        await listening.stopListening()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://chat.example.net", "https://chat.example.net"),
        ("https://chat.example.net/", "https://chat.example.net"),
        ("http://[::1]:8080/gate/", "http://[::1]:8080/gate"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("localhost", "http://localhost"),
    ],
)
def test_addresses_of_gates(text: str, url: str) -> None:
    assert parse_url(text) == url
    assert GateClient(Clock(), text).url == url


@pytest.mark.parametrize(
    "text", ["", "http://", "ftp://a", "http://a:0", "http://a:x", "http://a?b", "http://a#b", "a b", "http://ä"]
)
def test_what_is_no_address_of_a_gate(text: str) -> None:
    with pytest.raises(ValueError, match="is not the address of a gate"):
        parse_url(text)
