"""What one connection, address or account may ask of the chat port: lines, rates, guesses, connections, silence."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import Any

import pytest
import pytest_twisted
from chat_server import PASSWORD, ChatServer, Client

from flux.accounts.pace import Pace
from flux.chat.protocol import ChatConnection
from flux.errors import RateLimited


@pytest_twisted.async_yield_fixture
async def server(tmp_path):
    server = await ChatServer(tmp_path).start()
    yield server
    await server.stop()


# --- lines -------------------------------------------------------------------


async def test_the_server_says_nothing_until_asked(server: ChatServer) -> None:
    client = await server.connect()
    await server.advance(5)
    client.raw(b"\n\r\n\n")
    assert await client.settled() == []


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
async def test_lines_may_end_in_newline_or_return_and_newline_and_come_in_any_chunks(
    server: ChatServer, end: bytes
) -> None:
    client = await server.connect()
    line = b'{"type":"ping","ref":"a"}' + end
    for at in range(1, len(line)):
        client.raw(line[:at])
        other = await server.connect()
        await other.ok("ping")
        client.raw(line[at:] + end)
        await client.reply("a")
    client.raw((line * 3)[: -len(end)])
    for _ in range(2):
        await client.reply("a")
    assert client.waiting == []
    client.raw(end)
    await client.reply("a")


async def test_a_line_of_exactly_the_limit_is_taken(server: ChatServer) -> None:
    client = await server.connect()
    limit = server.settings.limits.max_line
    line = b'{"type":"ping","ref":"x","fill":"'
    line += b"x" * (limit - len(line) - 2) + b'"}'
    for end in (b"\n", b"\r\n"):
        client.raw(line + end)
        await client.reply("x")
    client.raw(line + b" \n")
    assert (await client.told("error"))["name"] == "line_too_long"
    await client.ended()


@pytest.mark.parametrize("ended", [True, False])
async def test_a_line_over_the_limit_is_said_so_and_closes(server: ChatServer, ended: bool) -> None:
    client = await server.connect()
    client.tell("ping", ref="before")
    client.raw(b"x" * 1_000_000 + b"\n" * ended)
    client.tell("ping", ref="after")
    assert [line["type"] for line in await client.ended()] == ["ping.ok", "error"]
    error = client.lines[-1]
    assert (error["code"], error["name"]) == (1103, "line_too_long")
    assert "request" not in error


async def test_who_goes_on_after_the_last_word_is_cut(server: ChatServer) -> None:
    server.reload(limits__max_line=1024)
    with socket.create_connection(("127.0.0.1", server.nodes[0].port)) as sock:
        sock.setblocking(False)
        sock.send(b"x" * 2000)
        heard = b""

        def ended() -> bool:
            nonlocal heard
            with suppress(BlockingIOError):
                while chunk := sock.recv(65536):
                    heard += chunk
                return True
            return False

        await server.until(ended)
        assert json.loads(heard)["name"] == "line_too_long"
        # It may say more for a while, so that our last word reaches it, and then it is gone.
        sock.send(b"and another thing\n")
        await server.advance(3)
        assert len(server.node.connections) == 1
        await server.advance(5)
        await server.until(lambda: not server.node.connections)


@pytest.mark.parametrize("last", ["send", "history"])
async def test_what_was_asked_before_a_line_too_long_is_answered(server: ChatServer, last: str) -> None:
    server.reload(limits__max_line=1024)
    ann, bob = await server.people("ann", "bob")
    requests = [{"type": "send", "ref": number, "to": bob.id, "text": f"{number}"} for number in range(20)]
    if last == "history":
        requests.append({"type": "history", "ref": 20, "to": bob.id})
    ann.raw(b"".join(json.dumps(request).encode() + b"\n" for request in requests) + b"x" * 1025)
    lines = await ann.ended()
    assert [line.get("ref") for line in lines] == [*range(len(requests)), None]
    assert lines[-1]["name"] == "line_too_long"


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /x HTTP/1.0\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\n",
        b"CONNECT localhost:8090 HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\n",
    ],
)
async def test_an_http_request_closes_the_connection_without_a_word(server: ChatServer, first: bytes) -> None:
    client = await server.connect()
    client.raw(first + b'{"type":"register","name":"evil","password":"from a web page"}\n')
    assert await client.ended() == []
    other = await server.connect()
    assert await other.refused("login", name="evil", password="from a web page") == "password_invalid"


async def test_only_the_first_line_is_looked_at_for_http(server: ChatServer) -> None:
    client = await server.connect()
    await client.ok("ping")
    client.raw(b"GET / HTTP/1.1\r\n")
    assert (await client.told("error"))["name"] == "bad_json"
    await client.ok("ping")


async def test_after_20_bad_lines_in_a_row_the_server_closes(server: ChatServer) -> None:
    client = await server.connect()
    limit = server.settings.limits.max_errors
    assert limit == 20
    bad = [b"hello\n", b"[]\n", b'{"type":"nope"}\n', b'{"type":"login","id":"x"}\n']
    for number in range(limit - 1):
        client.raw(bad[number % len(bad)])
    # A request that is well-formed begins the count anew, even if it fails.
    assert await client.refused("chats") == "not_logged_in"
    assert len(client.waiting) == limit - 1
    client.raw(b"".join(bad) * 10)
    errors = await client.ended()
    assert len(errors) == limit - 1 + limit
    assert {error["type"] for error in errors} == {"error"}


@pytest.mark.parametrize("terminator", [b"\n", b"\0"])
async def test_lines_of_blanks_are_empty_lines(server: ChatServer, terminator: bytes) -> None:
    server.reload(limits__max_errors=2)
    client = await server.connect(terminator=terminator)
    for blank in (b"", b" ", b"\t  \r", b" "):
        client.raw(blank + terminator)
    # The first line that counts decides about the dialect.
    client.raw(b'{"msgid":4,"name":"dora","password":"correct horse"}' + terminator)
    assert (await client.take(lambda line: line.get("msgid") == 5))["errno"] == 0
    named = await server.connect()
    named.raw(b" \n\t\n \n")
    await named.ok("ping")
    named.raw(b" \n\t\n \n")
    assert await named.settled() == []


async def test_limits_of_0_mean_none(server: ChatServer) -> None:
    server.reload(limits__max_errors=0, limits__connections_per_address=0, limits__logins_per_minute=0,
                  limits__logins_per_minute_address=0)  # fmt: skip
    await server.register("ann")
    client = await server.connect()
    client.raw(b"hello\n" * 100)
    for _ in range(100):
        assert await client.refused("login", name="ann", password="wrong") == "password_invalid"
    clients = [await server.connect() for _ in range(150)]
    for each in clients:
        await each.ok("ping")


# --- rates -------------------------------------------------------------------


async def test_too_many_requests_are_refused_with_the_time_to_wait(server: ChatServer) -> None:
    server.reload(limits__messages_per_second=16, limits__messages_burst=100)
    ann, bob = await server.people("ann", "bob")
    for number in range(105):
        ann.tell("send", ref=number, to=bob.id, text=f"{number}")
    replies = [await ann.reply(number) for number in range(105)]
    assert [reply["type"] for reply in replies] == ["send.ok"] * 100 + ["error"] * 5
    assert {(reply.get("name"), reply.get("retry_after")) for reply in replies[100:]} == {("rate_limited", 62)}
    # What was refused costs nothing: after the wait one goes through, and no more.
    for _ in range(3):
        server.clock.advance(1 / 16)
        await ann.ok("send", to=bob.id, text="one")
        assert await ann.refused("send", to=bob.id, text="another") == "rate_limited"
    # After a pause the whole burst is there again.
    server.clock.advance(100)
    for _ in range(100):
        await ann.ok("send", to=bob.id, text="again")
    assert await ann.refused("send", to=bob.id, text="one more") == "rate_limited"
    # Others are not concerned.
    await bob.ok("send", to=ann.id, text="hello")


async def test_who_logs_in_again_has_no_new_burst(server: ChatServer) -> None:
    server.reload(limits__messages_per_second=16, limits__messages_burst=10)
    ann, bob = await server.people("ann", "bob")
    for number in range(10):
        await ann.ok("send", to=bob.id, text=f"{number}")
    await ann.close()
    ann = await server.log_in("ann")
    assert await ann.refused("send", to=bob.id, text="again") == "rate_limited"
    # Nor has who takes the session over.
    ann = await server.log_in("ann")
    error = await ann.fails("send", to=bob.id, text="again")
    assert (error["name"], error["retry_after"]) == ("rate_limited", 62)
    server.clock.advance(1 / 16)
    await ann.ok("send", to=bob.id, text="later")
    # Who owes nothing any more is forgotten.
    assert len(server.node.pace) == 1
    await server.advance(2)
    assert len(server.node.pace) == 0
    ann = await server.log_in("ann")
    for number in range(10):
        await ann.ok("send", to=bob.id, text=f"{number}")


async def test_so_many_debts_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux.accounts.pace.MOST", 10)
    pace: Pace[int] = Pace()
    for uid in range(1, 31):
        for _ in range(uid):
            pace.take(uid, 1.0, 0.0)
    pace.prune(5.0)
    assert len(pace) == 10
    assert pace.wait(30, 1.0, 1, 5.0) == 25.0
    assert pace.wait(20, 1.0, 1, 5.0) == 0.0


async def test_logins_by_token_are_refused_after_so_many(server: ChatServer) -> None:
    server.reload(limits__token_logins_per_minute=3)
    await server.register("ann", "bob")
    token = await server.token(1)
    for _ in range(10):
        # Who does not have the token uses nothing up.
        assert await (await server.connect()).refused("login", id=1, token="another") == "token_invalid"
    for _ in range(3):
        await (await server.connect()).ok("login", id=1, token=token)
    client = await server.connect()
    error = await client.fails("login", id=1, token=token)
    assert (error["name"], error["retry_after"]) == ("rate_limited", 20_000)
    # The session that was there stays, others and passwords are not concerned; after a while the token is good again.
    await server.clients[-2].ok("ping")
    await (await server.connect()).ok("login", id=2, token=await server.token(2))
    await server.log_in("ann")
    await server.advance(20)
    await client.ok("login", id=1, token=token)
    assert await (await server.connect()).refused("login", id=1, token=token) == "rate_limited"
    server.reload(limits__token_logins_per_minute=0)
    for _ in range(10):
        await (await server.connect()).ok("login", id=1, token=token)


async def slowed(server: ChatServer, client: Client, connection: ChatConnection, line: bytes, at_once: int) -> None:
    """With two requests a second, a client is answered so many lines now, and one more each half a second."""
    before = len(client.lines)

    async def answered(count: int) -> None:
        await client.until(lambda: len(client.lines) == before + count)

    client.raw((line + b"\n") * (at_once + 3))
    await server.until(lambda: len(connection._backlog or ()) == 3)
    await answered(at_once)
    for left in (2, 1, 0):
        server.clock.advance(0.375)
        assert len(connection._backlog or ()) == left + 1
        server.clock.advance(0.125)
        assert len(connection._backlog or ()) == left
        await answered(at_once + 3 - left)
    server.clock.advance(0.5)


PING = b'{"type":"ping"}'


@pytest.mark.parametrize(
    "line", [PING, b'{"type":"chats"}', b'{"type":"history","to":99}', b'{"type":"typo"}', b"nonsense"]
)
async def test_an_account_that_asks_too_much_is_read_more_slowly(server: ChatServer, line: bytes) -> None:
    server.reload(limits__requests_per_second=2, limits__max_errors=0)
    ann, bob = await server.people("ann", "bob")
    await slowed(server, ann, server.node.sessions[ann.id].connection, line, 20)
    assert server.node.metrics.held_back._value.get() == 4
    # Others are not concerned; who logs in again goes on where it was, and after a pause all is there again.
    await bob.ok("ping")
    ann = await server.log_in("ann")
    await slowed(server, ann, server.node.sessions[ann.id].connection, line, 1)
    server.clock.advance(20)
    await slowed(server, ann, server.node.sessions[ann.id].connection, line, 20)
    await server.advance(20)
    assert len(server.node.asking) == 0


@pytest.mark.parametrize("line", [b'{"type":"help"}', b'{"type":"chats"}', b"nonsense"])
async def test_so_is_a_connection_without_a_login_whatever_it_asks(server: ChatServer, line: bytes) -> None:
    server.reload(limits__requests_per_second=2, limits__max_errors=0)
    client, other = await server.connect(), await server.connect()
    await server.until(lambda: len(server.node.connections) == 2)
    connection, _ = sorted(server.node.connections._all, key=lambda each: each.conn)
    await slowed(server, client, connection, line, 20)
    await other.ok("ping")


async def test_a_long_answer_counts_as_several_requests(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    group = (await ann.ok("group.create", name="long"))["group"]
    for _ in range(20):
        await ann.ok("send", group=group, text="x" * 8000)
    server.reload(limits__requests_per_second=2)
    # It is one, and 161 kB are nine pieces.
    await ann.ok("history", group=group)
    await slowed(server, ann, server.node.sessions[ann.id].connection, PING, 10)


async def test_who_goes_on_after_a_refusal_is_read_more_slowly(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    server.reload(limits__messages_per_second=1, limits__messages_burst=1, limits__requests_per_second=2)
    assert await ann.refused("send", to=99, text="x") == "user_invalid"
    for _ in range(20):
        assert await ann.refused("send", to=99, text="x") == "rate_limited"
    ann.tell("ping", ref="later")
    connection = server.node.sessions[ann.id].connection
    await server.until(lambda: connection._backlog)
    server.clock.advance(0.5)
    await ann.reply("later")


async def test_what_changes_nothing_is_never_limited(server: ChatServer) -> None:
    server.reload(limits__messages_per_second=1, limits__messages_burst=1)
    ann, bob = await server.people("ann", "bob", acks=True)
    chat = (await ann.ok("send", to=bob.id, text="1"))["chat"]
    assert await ann.refused("send", to=bob.id, text="2") == "rate_limited"
    for number in range(50):
        ann.tell("received", chat=chat, seq=number)
        ann.tell("read", chat=chat, seq=number)
        await ann.ok("ping")
    assert [line for line in await ann.settled() if line["type"] == "error"] == []
    for _ in range(20):
        for kind in ("help", "chats", "friends", "friend.requests", "groups", "profile.get"):
            await ann.ok(kind)
        await ann.ok("history", chat=chat)
    assert await ann.refused("typing", to=bob.id) == "rate_limited"
    assert await ann.refused("group.members", group=chat) == "rate_limited"
    await ann.ok("logout")


async def test_an_account_is_in_so_many_groups(server: ChatServer) -> None:
    server.reload(limits__groups=2)
    ann, bob = await server.people("ann", "bob")
    theirs = [(await bob.ok("group.create", name=name))["group"] for name in "ab"]
    assert await bob.refused("group.create", name="c") == "forbidden"
    await ann.ok("group.create", name="mine")
    await bob.ok("group.add", group=theirs[0], id=ann.id)
    for refused in (ann.fails("group.join", group=theirs[1]), bob.fails("group.add", group=theirs[1], id=ann.id)):
        error = await refused
        assert (error["name"], "as many groups" in error["detail"]) == ("forbidden", True)
    assert len((await ann.ok("groups"))["groups"]) == 2
    await ann.ok("group.leave", group=theirs[0])
    await ann.ok("group.join", group=theirs[1])
    server.reload(limits__groups=0)
    await ann.ok("group.join", group=theirs[0])


# --- guesses -----------------------------------------------------------------


async def attempts(client: Client, count: int, **fields: object) -> list[str]:
    return [await client.refused("login", **fields) for _ in range(count)]


async def test_guesses_at_an_account_are_refused_after_10_a_minute(server: ChatServer) -> None:
    await server.register("ann", "bob")
    guesser = await server.connect()
    assert await attempts(guesser, 10, name="ann", password="wrong") == ["password_invalid"] * 10
    error = await guesser.fails("login", name="ann", password="wrong")
    assert error["name"] == "rate_limited"
    assert 0 < error["retry_after"] <= 60_000
    # Then even the right password is not looked at, by whatever name and on whatever connection and node...
    other = await server.connect(await server.start_node())
    for identity in ({"name": "ann"}, {"name": "ANN"}, {"id": 1}):
        assert await other.refused("login", **identity, password=PASSWORD) == "rate_limited"
    # ...but from another address it is, and other accounts are not concerned.
    owner = await server.connect(address="127.0.0.2")
    await owner.ok("login", name="ann", password=PASSWORD)
    await other.ok("login", name="bob", password=PASSWORD)
    # And by token one comes in from anywhere.
    by_token = await server.connect()
    await by_token.ok("login", id=1, token=await server.token(1))
    await server.advance(60)
    await guesser.ok("login", name="ann", password=PASSWORD)


async def test_guesses_from_an_address_are_refused_after_60_a_minute(server: ChatServer) -> None:
    names = [f"user {number}" for number in range(8)]
    await server.register(*names)
    guesser = await server.connect()
    for name in names[:6]:
        assert await attempts(guesser, 10, name=name, password="wrong") == ["password_invalid"] * 10
    for name in names:
        assert await guesser.refused("login", name=name, password=PASSWORD) == "rate_limited"
    owner = await server.connect(address="127.0.0.3")
    await owner.ok("login", name=names[0], password=PASSWORD)
    await server.advance(61)
    await guesser.ok("login", name=names[7], password=PASSWORD)


async def test_guesses_at_an_account_that_does_not_exist_count_as_well(server: ChatServer) -> None:
    guesser = await server.connect()
    assert await attempts(guesser, 10, name="nobody", password="wrong") == ["password_invalid"] * 10
    assert await guesser.refused("login", name="NOBODY", password="wrong") == "rate_limited"
    assert await attempts(guesser, 10, id=99, password="wrong") == ["password_invalid"] * 10
    assert await guesser.refused("login", id=99, password="wrong") == "rate_limited"


async def test_the_old_password_of_a_change_cannot_be_guessed_faster(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    for _ in range(10):
        assert await ann.refused("password.change", old="wrong", new="a fine password") == "password_invalid"
    assert await ann.refused("password.change", old=PASSWORD, new="a fine password") == "rate_limited"


async def test_right_passwords_do_not_count(server: ChatServer) -> None:
    await server.register("ann")
    for _ in range(70):
        await (await server.log_in("ann")).ok("logout")


async def test_guesses_in_numbers_are_refused_too(server: ChatServer) -> None:
    await server.register("ann")
    guesser = await server.connect()
    for _ in range(10):
        guesser.number(1, id=1, password="wrong")
        assert (await guesser.numbered(2))["errno"] == 1
    guesser.number(1, id=1, password=PASSWORD)
    assert (await guesser.numbered(2))["errno"] == 1


# --- registrations ---


async def test_an_address_registers_so_many_an_hour(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    offences: list[tuple[str, str]] = []
    hash_as_ever = server.passwords.hash

    async def hash_counted(password: str, *arguments: Any) -> str:
        hashed.append(password)
        return await hash_as_ever(password, *arguments)

    monkeypatch.setattr(server.passwords, "hash", hash_counted)
    monkeypatch.setattr(server.node.bans, "offence", lambda *offence: offences.append(offence))
    second = await server.start_node()
    server.reload(limits__registrations_per_hour_address=3)
    client, elsewhere = await server.connect(), await server.connect(second)
    # What costs nothing does not count.
    for _ in range(10):
        assert await client.refused("register", name=" ", password=PASSWORD) == "bad_request"
        assert await client.refused("register", name="ann", password="short") == "password_invalid"
    await client.ok("register", name="ann", password=PASSWORD)
    # A name that is taken shows after the hash.
    assert await client.refused("register", name="ann", password=PASSWORD) == "user_exists"
    await elsewhere.ok("register", name="bob", password=PASSWORD)
    assert len(hashed) == 3
    for each in (client, elsewhere):
        error = await each.fails("register", name="cy", password=PASSWORD)
        assert (error["name"], error["retry_after"]) == ("rate_limited", 3_600_000)
    assert len(hashed) == 3
    assert offences == [("registrations", "127.0.0.1")]
    # Another address may, whoever has an account logs in, and after an hour there is room again.
    other = await server.connect(address="127.0.0.2")
    await other.ok("register", name="cy", password=PASSWORD)
    await client.ok("login", name="ann", password=PASSWORD)
    server.clock.advance(3600)
    client = await server.connect()
    await client.ok("register", name="dan", password=PASSWORD)
    server.reload(limits__registrations_per_hour_address=0)
    for number in range(5):
        await client.ok("register", name=f"user {number}", password=PASSWORD)


async def test_neighbours_in_ipv6_share_their_registrations(server: ChatServer) -> None:
    server.reload(limits__registrations_per_hour_address=1)
    accounts = server.node.accounts
    await accounts.register("ann", PASSWORD, "2001:db8::1", "c1")
    with pytest.raises(RateLimited):
        await accounts.register("bob", PASSWORD, "2001:db8::2:1", "c2")
    await accounts.register("bob", PASSWORD, "2001:db8:0:1::1", "c3")


# --- connections -------------------------------------------------------------


async def test_an_address_may_have_so_many_connections(server: ChatServer) -> None:
    server.reload(limits__connections_per_address=5)
    clients = [await server.connect() for _ in range(5)]
    for client in clients:
        await client.ok("ping")
    late = await server.connect()
    [error] = await late.ended()
    assert (error["name"], error["code"]) == ("rate_limited", 1107)
    assert error["retry_after"] > 0
    elsewhere = await server.connect(address="127.0.0.2")
    await elsewhere.ok("ping")
    await clients[0].close()
    await clients[1].ok("ping")
    await (await server.connect()).ok("ping")


# --- silence -----------------------------------------------------------------


async def test_who_does_not_log_in_in_time_is_closed(server: ChatServer) -> None:
    await server.register("ann")
    idle, half, busy = [await server.connect() for _ in range(3)]
    half.raw(b'{"type":"ping"')
    await busy.ok("ping")
    await server.advance(60)
    await busy.ok("ping")
    late = await server.connect()
    await server.advance(59)
    assert not any(client.closed for client in (idle, half, busy))
    await server.advance(3)
    for client in (idle, half, busy):
        await client.ended()
    await late.ok("login", name="ann", password=PASSWORD)
    await server.advance(1000)
    await late.ok("ping")


async def test_who_pings_once_and_falls_silent_is_closed_after_heartbeat_timeout(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    await ann.ok("ping")
    await bob.ok("ping")
    for _ in range(3):
        await server.advance(55)
        # Anything said is a sign of life, even an empty line.
        bob.raw(b"\n")
        await ann.ok("chats")
        assert not bob.closed
    await server.advance(59)
    await ann.ok("chats")
    await server.advance(4)
    assert await bob.ended() == []
    await ann.ok("chats")


async def test_who_never_pings_is_watched_by_keepalive_alone(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    assert server.node.sessions[ann.id].connection.transport.getTcpKeepAlive()
    await server.advance(500)
    assert not ann.closed
    await ann.ok("chats")
