"""Who is kept out, and what ports do about it: on one server, and on all of several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest_twisted
from chat_server import HASHER, PASSWORD, ChatServer, Client, open_client
from gate_server import GateServer
from redis_parts import new_prefix
from status_parts import texts
from twisted.logger import capturedLogs

from flux.assembly import Assembly, assemble
from flux.bench.engines import PostgresServer, RedisServer
from flux.config import load
from flux.model.people import Ban

ADDRESS = "203.0.113.7"

# --- the chat port -----------------------------------------------------------


@pytest_twisted.async_yield_fixture
async def server(tmp_path: Path):
    server = await ChatServer(tmp_path, limits__ban_after=5, limits__ban_exempt=()).start()
    yield server
    await server.stop()


def kinds(server: ChatServer) -> dict[str, int]:
    """The offences of 127.0.0.9 that were counted, by kind, among those of everybody."""
    [family] = [family for family in server.node.bans._metrics._registry.collect() if family.name == "flux_offences"]
    return {sample.labels["kind"]: int(sample.value) for sample in family.samples}


async def test_who_guesses_passwords_is_cut_and_cannot_come_back(server: ChatServer) -> None:
    await server.register("ann", "bob")
    bob = await server.log_in("bob", address="127.0.0.9")
    guessing, waiting = [await server.connect(address="127.0.0.9") for _ in range(2)]
    for number in range(5):
        assert await guessing.refused("login", name="ann", password=f"guess {number}") == "password_invalid"
    await server.node.bans.tell()
    for client in (guessing, waiting):
        told = await client.told("error")
        assert (told["name"], told["retry_after"]) == ("rate_limited", 600_000)
        await client.ended()
    again = await server.connect(address="127.0.0.9")
    # Also who speaks first is told, and nothing is done for it.
    again.tell("login", name="ann", password=PASSWORD)
    assert (await again.told("error"))["name"] == "rate_limited"
    await again.ended()
    # Somebody else there had logged in, and others are elsewhere.
    await bob.ok("ping")
    await server.log_in("ann", address="127.0.0.10")
    metrics = server.node.metrics
    assert metrics.banned._value.get() == 3
    await server.node.bans._state.pardon("127.0.0.9")
    await server.node.bans.refresh()
    await server.log_in("ann", address="127.0.0.9")


async def test_what_counts(server: ChatServer) -> None:
    await server.register("ann")
    server.reload(limits__max_errors=2, limits__max_line=1024, limits__logins_per_minute=1, limits__ban_after=0)
    client = await server.connect()
    assert await client.refused("login", id=1, token="x") == "token_invalid"
    assert await client.refused("login", name="ann", password="wrong") == "password_invalid"
    assert await client.refused("login", name="ann", password="wrong") == "rate_limited"
    for sent in (b"x\nx\n", b"x" * 2000, b"GET / HTTP/1.1\r\n\r\n"):
        bad = await server.connect()
        bad.raw(sent)
        await bad.ended()
    assert kinds(server) == {"token": 1, "password": 1, "throttled": 1, "bad_lines": 3}
    # Single bad lines do not: a client that is newer than the server may have some.
    assert (await client.ask("surprise"))["name"] == "unknown_type"
    assert kinds(server)["bad_lines"] == 3


async def test_logging_in_too_often_with_a_right_token_shows_and_counts_for_no_ban(server: ChatServer) -> None:
    [ann] = await server.register("ann")
    server.reload(limits__token_logins_per_minute=1)
    token = await server.token(ann)
    await (await server.connect()).ok("login", id=ann, token=token)
    with capturedLogs() as logged:
        for _ in range(3):
            assert await (await server.connect()).refused("login", id=ann, token=token) == "rate_limited"
        server.node.accounts.report()
    assert "3 logins refused from 127.0.0.1: too many" in texts(logged)
    assert server.node.metrics.accounts.throttled._value.get() == 3
    # Others come from this address, too.
    assert kinds(server) == {}


async def test_a_banned_account_is_told_why_once_it_has_shown_its_password(server: ChatServer) -> None:
    [ann] = await server.register("ann")
    token = await server.token(ann)
    await server.store.ban(Ban(ann, "", "spam", 1))
    client = await server.connect()
    wrong = await client.fails("login", name="ann", password="wrong")
    assert wrong["name"] == "password_invalid"
    for how in ({"name": "ann", "password": PASSWORD}, {"id": ann, "token": token}):
        refused = await client.fails("login", **how)
        assert (refused["name"], refused["detail"]) == ("forbidden", "this account is banned: spam")
    assert server.node.metrics.accounts.banned._value.get() == 2
    assert server.node.sessions == {}
    assert await server.state.routes([ann]) == {}
    await server.store.ban(Ban(ann, "", "", 2, 1_000))
    await client.ok("login", name="ann", password=PASSWORD)


async def test_numbered_clients_of_a_banned_account_are_told_in_their_words(server: ChatServer) -> None:
    [ann] = await server.register("ann")
    await server.store.ban(Ban(ann, "", "spam", 1))
    client = await server.connect()
    client.number(1, id=ann, password=PASSWORD)
    answer = await client.numbered(2)
    assert (answer["errno"], answer["errmsg"]) == (1, "this account is banned: spam")


async def test_who_logs_out_at_a_banned_address_cannot_log_in_again_there(server: ChatServer) -> None:
    [ann] = await server.register("ann")
    client = await server.connect(address="127.0.0.9")
    client.number(1, id=ann, password=PASSWORD)
    await client.numbered(2)
    for _ in range(5):
        server.node.bans.offence("password", "127.0.0.9")
    await server.node.bans.tell()
    client.number(3, id=ann)
    assert (await client.ended())[-1]["name"] == "rate_limited"


async def test_an_admins_ban_of_a_network_ends_sessions(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    carl = await server.connect(address="127.0.1.7")
    await server.register("dora")
    dora = await server.log_in("dora", address="127.0.1.8")
    await server.store.ban(Ban(0, "127.0.1.0/24", "vandals", 1))
    await server.node.bans.refresh()
    assert await dora.told("kicked") == {"reason": "admin", "detail": "this address is banned: vandals"}
    await dora.ended()
    assert (await carl.told("error"))["name"] == "forbidden"
    await carl.ended()
    for client in (ann, bob):
        await client.ok("ping")


async def test_ipv6_customers_share_limits(server: ChatServer) -> None:
    connections = server.node.connections
    server.reload(limits__connections_per_address=2)

    class One:
        def __init__(self, address: str) -> None:
            self.address = address

    theirs: list[Any] = [One(f"2001:db8::{number}") for number in range(3)]
    assert [connections.count(one) for one in theirs] == [True, True, False]
    assert connections.count(One("2001:db8:0:1::1"))
    for one in theirs:
        connections._all.add(one)
        connections.remove(one)
    assert "2001:db8::/64" not in connections._per_address


# --- the gate ----------------------------------------------------------------


@pytest_twisted.async_yield_fixture
async def gate(tmp_path: Path):
    gate = await GateServer(tmp_path, "limits.ban_after=5", "gate.proxies=127.0.0.1").start()
    yield gate
    await gate.stop()


async def ask_from(gate: GateServer, address: str, password: str = PASSWORD) -> Any:
    return await gate.ask("POST", "/v1/login", {"name": "ann", "password": password}, X_Forwarded_For=address)


async def test_the_gate_bans_clients_and_not_their_proxy(gate: GateServer) -> None:
    await gate.register("ann")
    for _ in range(5):
        assert (await ask_from(gate, ADDRESS, "wrong password")).error == "password_invalid"
    assert gate.assembly.bans is not None
    await gate.assembly.bans.tell()
    refused = await ask_from(gate, ADDRESS)
    assert (refused.status, refused.error) == (429, "rate_limited")
    assert refused.headers.getRawHeaders("Retry-After") == ["600"]
    classic = await gate.ask("POST", "/user_login", {"user": "ann", "passwd": PASSWORD}, X_Forwarded_For=ADDRESS)
    assert (classic.status, classic.json) == (200, {"error": 1107})
    # Pages and WebSockets neither.
    for path in ("/", "/ws", "/openapi.json"):
        assert (await gate.ask("GET", path, X_Forwarded_For=ADDRESS)).status == 429
    assert (await ask_from(gate, "203.0.113.8")).status == 200
    assert (await gate.ask("GET", "/")).status == 200


async def test_codes_and_tokens_count_at_the_gate(gate: GateServer) -> None:
    gate.reload("limits.codes_per_hour=1", "limits.ban_after=1000")
    value = gate.assembly.registry.get_sample_value
    await gate.code("ann@example.org")
    assert (await gate.post("/v1/codes", email="ann@example.org", purpose="register")).error == "rate_limited"
    fields = {"name": "ann", "password": PASSWORD, "email": "ann@example.org", "code": "x"}
    assert (await gate.post("/v1/accounts", **fields)).error == "code_wrong"
    fields["email"] = "bob@example.org"
    assert (await gate.post("/v1/accounts", **fields)).error == "code_expired"
    assert (await gate.ask("GET", "/v1/profile", Authorization="Bearer 1:x")).error == "token_invalid"
    for kind, count in (("codes", 1), ("code", 2), ("token", 1)):
        assert value("flux_offences_total", {"kind": kind}) == count, kind
    for reason in ("throttled", "wrong", "expired"):
        assert value("flux_codes_refused_total", {"reason": reason}) == 1, reason


async def test_a_banned_account_gets_no_server(gate: GateServer) -> None:
    uid = await gate.register("ann")
    await gate.assembly.store.ban(Ban(uid, "", "spam", 1))
    refused = await gate.post("/v1/login", name="ann", password=PASSWORD)
    assert (refused.status, refused.error, refused.json["detail"]) == (403, "forbidden", "this account is banned: spam")
    classic = await gate.post("/user_login", user="ann", passwd=PASSWORD)
    assert (classic.status, classic.json["error"]) == (200, 1105)


async def test_what_is_no_http_counts(gate: GateServer) -> None:
    from twisted.internet.threads import deferToThread

    gate.reload("limits.ban_exempt=", "gate.proxies=", "limits.ban_after=3")

    def say() -> bytes:
        import socket

        with socket.create_connection(("127.0.0.1", gate.port), timeout=20) as sock:
            sock.sendall(b"\x16\x03\x01 hello\r\n\r\n")
            return sock.recv(1000)

    for _ in range(3):
        assert b" 400 " in await deferToThread(say)
    assert gate.assembly.bans is not None
    await gate.assembly.bans.tell()
    assert b" 429 " in await deferToThread(say)


# --- several processes -------------------------------------------------------


async def test_a_ban_holds_on_all_servers_of_a_redis_and_a_postgresql(
    redis_server: RedisServer, quick_postgres: PostgresServer
) -> None:
    from twisted.internet import reactor

    free = "tcp:0:interface=127.0.0.1"
    given = [
        "state.kind=redis",
        f"state.url={redis_server.url}",
        f"state.prefix={new_prefix()}",
        "store.kind=postgres",
        f"store.dsn={quick_postgres.create_database('bans')}",
        "store.require_fsync=no",
        "store.pool=2",
        "chat.drain=0",
        "limits.ban_after=3",
        "limits.ban_exempt=",
        f"chat.listen={free}",
    ]
    one, two = (assemble(load(None, [*given, f"chat.name={name}"]), frozenset({"chat"}), reactor) for name in "ab")
    clients: list[Client] = []

    def client(server: Assembly, address: str) -> Client:
        clients.append(open_client(server.chat.listener.address()[1], address=address))
        return clients[-1]

    try:
        for server in (one, two):
            await server.start()
            server.passwords._hasher = HASHER
        ann = client(one, "127.0.0.1")
        await ann.ok("register", name="ann", password=PASSWORD)
        await ann.ok("login", name="ann", password=PASSWORD)
        # Two guesses here and one there.
        for server in (one, one, two):
            wrong = await client(server, "127.0.0.9").fails("login", name="ann", password="not the one")
            assert wrong["name"] == "password_invalid"
        for server in (one, two):
            assert server.bans is not None
            await server.bans.tell()
            await server.bans.refresh()
        assert one.bans is not None
        await one.bans.refresh()
        for server in (one, two):
            told = await client(server, "127.0.0.9").told("error")
            assert (told["name"], 590_000 < told["retry_after"] <= 600_000) == ("rate_limited", True)
        # An account, which is logged in at the other one: the node looks into the store, and at nothing else.
        await one.store.ban(Ban(1, "", "spam", 1))
        refused = await client(two, "127.0.0.1").fails("login", name="ann", password=PASSWORD)
        assert (refused["name"], refused["detail"]) == ("forbidden", "this account is banned: spam")
        await one.store.ban(Ban(0, "127.0.0.10/32", "", 1))
        assert two.bans is not None
        await two.bans.refresh()
        assert (await client(two, "127.0.0.10").told("error"))["name"] == "forbidden"
    finally:
        for each in clients:
            if not each.closed:
                await each.reset()
        for server in (one, two):
            await server.stop()
