"""Every error of the protocol, provoked on the chat port, and what an error does to the connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import pytest_twisted
from chat_server import PASSWORD, ChatServer, Client

from flux import errors
from flux.errors import FluxError, Unavailable


@pytest_twisted.async_yield_fixture
async def server(tmp_path):
    server = await ChatServer(tmp_path).start()
    yield server
    await server.stop()


Provocation = Callable[[ChatServer, Client], Awaitable[dict[str, Any]]]
PROVOCATIONS: dict[type[FluxError], Provocation] = {}


def provokes(error: type[FluxError]) -> Callable[[Provocation], Provocation]:
    def enter(provocation: Provocation) -> Provocation:
        PROVOCATIONS[error] = provocation
        return provocation

    return enter


def failing(error: Exception) -> Callable[..., Awaitable[Any]]:
    async def fail(*arguments: object) -> None:
        raise error

    return fail


# Each gets a client that is logged in, and returns the error it got with its ``ref``.


@provokes(errors.BadJson)
async def no_json(server: ChatServer, client: Client) -> dict[str, Any]:
    client.raw(b"hello\n")
    return {"ref": "r", "request": "", **await client.told("error")}


@provokes(errors.Unavailable)
async def the_store_is_away(server: ChatServer, client: Client) -> dict[str, Any]:
    server.store.groups = failing(Unavailable("the disk is full"))  # type: ignore[method-assign]
    return await client.fails("groups", ref="r")


@provokes(errors.CodeExpired)
async def a_code_that_was_never_asked_for(server: ChatServer, client: Client) -> dict[str, Any]:
    return await client.fails("register", ref="r", name="eve", password=PASSWORD, email="e@example.org", code="123456")


@provokes(errors.CodeWrong)
async def a_code_that_is_guessed(server: ChatServer, client: Client) -> dict[str, Any]:
    await server.node.accounts.codes.issue("register", "e@example.org", "127.0.0.1")
    return await client.fails("register", ref="r", name="eve", password=PASSWORD, email="e@example.org", code="guess")


@provokes(errors.UserExists)
async def a_name_that_is_taken(server: ChatServer, client: Client) -> dict[str, Any]:
    return await client.fails("register", ref="r", name="ANN", password=PASSWORD)


@provokes(errors.PasswordInvalid)
async def a_wrong_password(server: ChatServer, client: Client) -> dict[str, Any]:
    return await (await server.connect()).fails("login", ref="r", name="ann", password="wrong")


@provokes(errors.TokenInvalid)
async def a_wrong_token(server: ChatServer, client: Client) -> dict[str, Any]:
    return await (await server.connect()).fails("login", ref="r", id=client.id, token="wrong")


@provokes(errors.UserInvalid)
async def nobody(server: ChatServer, client: Client) -> dict[str, Any]:
    return await client.fails("send", ref="r", to=99, text="x")


@provokes(errors.UnknownType)
async def an_unknown_request(server: ChatServer, client: Client) -> dict[str, Any]:
    client.tell("nope", ref="r")
    return {"request": "", **await client.reply("r")}


@provokes(errors.BadRequest)
async def a_missing_field(server: ChatServer, client: Client) -> dict[str, Any]:
    return await client.fails("send", ref="r", to=99)


@provokes(errors.LineTooLong)
async def a_long_line(server: ChatServer, client: Client) -> dict[str, Any]:
    client.raw(b"x" * 1_000_000)
    return {"ref": "r", "request": "", **await client.told("error")}


@provokes(errors.NotLoggedIn)
async def before_login(server: ChatServer, client: Client) -> dict[str, Any]:
    return await (await server.connect()).fails("chats", ref="r")


@provokes(errors.Forbidden)
async def not_a_member(server: ChatServer, client: Client) -> dict[str, Any]:
    [other] = await server.register("bob")
    group = (await server.store.group_create(other, "closed", "", True, False)).group
    return await client.fails("group.join", ref="r", group=group)


@provokes(errors.NotFound)
async def no_group(server: ChatServer, client: Client) -> dict[str, Any]:
    return await client.fails("group.join", ref="r", group=99)


@provokes(errors.RateLimited)
async def a_flood(server: ChatServer, client: Client) -> dict[str, Any]:
    server.reload(limits__messages_per_second=1, limits__messages_burst=1)
    await client.ok("group.create", name="x")
    return await client.fails("group.create", ref="r", name="x")


@provokes(errors.NoServer)
async def a_draining_server(server: ChatServer, client: Client) -> dict[str, Any]:
    await server.state.drain("chat1", True)
    await server.advance(4)
    return await (await server.connect()).fails("login", ref="r", name="ann", password=PASSWORD)


@provokes(errors.AlreadyLoggedIn)
async def twice(server: ChatServer, client: Client) -> dict[str, Any]:
    return await client.fails("login", ref="r", name="ann", password=PASSWORD)


@provokes(errors.TooLarge)
async def a_long_text(server: ChatServer, client: Client) -> dict[str, Any]:
    return await client.fails("send", ref="r", to=99, text="x" * 8001)


@provokes(errors.Internal)
async def a_bug(server: ChatServer, client: Client) -> dict[str, Any]:
    server.store.groups = failing(ZeroDivisionError("inside"))  # type: ignore[method-assign]
    return await client.fails("groups", ref="r")


#: What only the gate answers.
ELSEWHERE = {FluxError, errors.PasswordMismatch, errors.EmailMismatch}
ALL = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, FluxError) and kind not in ELSEWHERE
]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
async def test_every_error_is_provoked_somehow(server: ChatServer, kind: type[FluxError], flush_logged_errors) -> None:
    [ann] = await server.people("ann")
    error = await PROVOCATIONS[kind](server, ann)
    assert error["detail"]
    assert (error["code"], error["name"], error["ref"]) == (kind.code, kind.name, "r")
    assert ("retry_after" in error) == (kind is errors.RateLimited)
    if kind is errors.Internal:
        # Logged with the name of the connection, and not shown to the client.
        [event] = flush_logged_errors(ZeroDivisionError)
        assert event["conn"]
        assert "inside" not in error["detail"]
    if kind.fatal:
        await ann.ended()
    else:
        await ann.ok("ping")


def test_no_provocation_is_of_an_error_that_is_not_there() -> None:
    assert set(PROVOCATIONS) == set(ALL)


# --- a store that fails ------------------------------------------------------


@pytest.mark.parametrize("error", [Unavailable("the disk is full"), ZeroDivisionError("a bug")])
async def test_a_send_that_cannot_be_stored_is_not_acknowledged(
    server: ChatServer, error: Exception, flush_logged_errors, monkeypatch
) -> None:
    ann, bob = await server.people("ann", "bob")
    with monkeypatch.context() as broken:
        broken.setattr(server.store, "append", failing(error))
        for number in range(3):
            ann.tell("send", ref=number, to=bob.id, text="x", cid=f"{number}")
        names = {(await ann.reply(number))["name"] for number in range(3)}
    assert names == {"unavailable" if isinstance(error, Unavailable) else "internal"}
    flush_logged_errors(ZeroDivisionError)
    assert await bob.settled() == []
    # The same again, and once only.
    for number in range(3):
        assert (await ann.ok("send", to=bob.id, text="x", cid=f"{number}"))["seq"] == number + 1
    assert [line["seq"] for line in await bob.settled()] == [1, 2, 3]


@pytest.mark.parametrize("step", ["credentials", "open_session", "overview"])
async def test_a_login_that_fails_leaves_the_connection_as_it_was(server: ChatServer, step: str, monkeypatch) -> None:
    await server.register("ann")
    client = await server.connect()
    with monkeypatch.context() as broken:
        broken.setattr(server.store, step, failing(Unavailable("the disk is full")))
        assert await client.refused("login", name="ann", password=PASSWORD) == "unavailable"
    assert await client.refused("chats") == "not_logged_in"
    assert server.node.sessions == {}
    assert await server.state.routes([1]) == {}
    await client.ok("login", name="ann", password=PASSWORD)
    await client.ok("chats")


async def test_a_message_that_cannot_be_filled_in_yet_comes_later(server: ChatServer, monkeypatch) -> None:
    [ann] = await server.people("ann")
    [uid] = await server.register("bob")
    for number in range(3):
        await ann.ok("send", to=uid, text=f"{number}")
    with monkeypatch.context() as broken:
        broken.setattr(server.store, "fill", failing(Unavailable("the disk is full")))
        bob = await server.log_in("bob")
        await server.advance(1)
        assert await bob.settled() == []
    await server.advance(6)
    assert [(await bob.told("message"))["text"] for _ in range(3)] == ["0", "1", "2"]


async def test_with_the_shared_state_away_passwords_work_and_tokens_do_not(server: ChatServer, monkeypatch) -> None:
    [uid] = await server.register("ann")
    token = await server.token(uid)
    away = Unavailable("the state is away")
    with monkeypatch.context() as broken:
        for name in ("claim", "token_digest", "failures", "fail", "routes", "release", "renew", "revoke"):
            broken.setattr(server.state, name, failing(away))
        client = await server.connect()
        assert await client.refused("login", id=uid, token=token) == "unavailable"
        assert await client.refused("login", name="ann", password="wrong") == "password_invalid"
        await client.ok("login", name="ann", password=PASSWORD)
        bob = await server.connect()
        await bob.ok("register", name="bob", password=PASSWORD)
        await bob.ok("login", name="bob", password=PASSWORD)
        await bob.ok("send", to=uid, text="hello")
        assert (await client.told("message"))["text"] == "hello"
        await bob.ok("logout")
    await server.advance(7)
    assert list(await server.state.routes([1, 2])) == [1]
