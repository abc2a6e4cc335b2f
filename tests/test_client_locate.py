"""Sessions that ask before each attempt where to log in, and the client of the status port."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_server import PROFILE, Link, ScriptedServer, Taken, result, start, waiting
from twisted.internet.defer import CancelledError, Deferred, succeed

from flux.assembly import assemble
from flux.client import (
    Assignment,
    Client,
    ClientError,
    Ended,
    NotConnected,
    Offline,
    Online,
    QueueFull,
    SessionEnded,
    StatusClient,
)
from flux.client import session as client_session
from flux.client import status as status_module
from flux.config import load
from flux.errors import FluxError, Forbidden, NoServer, PasswordInvalid, TokenInvalid, Unavailable
from flux.lifecycle import Abandoned, DeadlineExceeded

ONE, TWO = ("one", 1), ("two", 2)
"""Chat servers."""

FIRST, SECOND = ("status", 50052), ("status", 50053)
"""Status services."""


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.end()


class Guide:
    """Says where to log in, with a new token each time; or what it is told to say."""

    def __init__(self, *places: tuple[str, int] | Exception) -> None:
        self.places = list(places)
        self.asked = 0

    def __call__(self) -> Awaitable[Assignment]:
        self.asked += 1
        place = self.places.pop(0) if len(self.places) > 1 else self.places[0]
        if isinstance(place, Exception):
            raise place
        return succeed(Assignment(7, *place, "chat1", f"token {self.asked}", 10**13))


def located(server: ScriptedServer, guide: Guide) -> Taken:
    client = server.client(longest_pause=0.1)
    result(client.login_through(guide))
    return Taken(client)


# --- sessions ----------------------------------------------------------------


def test_the_login_goes_where_it_is_told_with_the_token(server: ScriptedServer) -> None:
    guide = Guide(TWO)
    client = server.client(ONE)
    login = result(client.login_through(guide))
    assert (login.id, server.link.address, guide.asked) == (7, TWO, 1)
    request = server.link.take("login")
    assert (request["id"], request["token"], request["acks"]) == (7, "token 1", True)
    assert not {"name", "password"} & request.keys()
    with pytest.raises(ClientError, match="once"):
        result(client.login_through(guide))


def test_each_attempt_asks_again(server: ScriptedServer) -> None:
    guide = Guide(ONE, TWO, TWO, ONE)
    taken = located(server, guide)
    server.refusing = {TWO}
    server.link.cut()
    server.wait(1)
    assert [address for address, _ in server.attempts] == [ONE, TWO, TWO, ONE]
    assert server.link.take("login")["token"] == "token 4"
    assert isinstance(taken[-1], Online)
    assert taken[-1].host == "one"
    assert any(isinstance(event, Offline) for event in taken)


@pytest.mark.parametrize(
    "passing",
    [
        Unavailable("busy"),
        NoServer("none"),
        NotConnected("no status"),
        QueueFull("too many ask"),
        ClientError("not today"),
        DeadlineExceeded("late"),
        OSError("no route"),
        CancelledError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_guide_that_cannot_tell_is_asked_again(
    server: ScriptedServer, passing: Exception, flush_logged_errors: Any
) -> None:
    guide = Guide(ONE, passing, passing, TWO)
    located(server, guide)
    server.link.cut()
    server.wait(1)
    assert (guide.asked, server.link.address) == (4, TWO)
    # What no guide should raise is logged, each time.
    unexpected = isinstance(passing, OSError | CancelledError) and not isinstance(passing, DeadlineExceeded)
    assert len(flush_logged_errors(OSError, Abandoned)) == (2 if unexpected else 0)


@pytest.mark.parametrize("error", [KeyError("mistake"), CancelledError()], ids=["an error", "a cancellation"])
def test_a_mistake_in_the_client_ends_the_session_for_all_to_see(
    server: ScriptedServer, error: Exception, monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any
) -> None:
    taken = located(server, Guide(ONE))
    client = taken._client

    def mistaken(*_: object) -> None:
        raise error

    monkeypatch.setattr(client._session._servers, "told", mistaken)
    server.link.cut()
    sending = client.send("hello", to=8)
    server.wait(1)
    assert isinstance(taken[-1], Ended)
    assert taken[-1].reason == "internal"
    assert taken.ended
    with pytest.raises(SessionEnded):
        result(sending)
    assert len(flush_logged_errors(KeyError, Abandoned)) == 1


def test_a_guide_that_does_not_answer_is_asked_again(server: ScriptedServer) -> None:
    guide = Guide(ONE)
    taken = located(server, guide)
    never: Deferred[Assignment] = Deferred()
    answers = iter([never])
    silent = lambda: next(answers, None) or guide()  # noqa: E731
    taken._client._session._locate = silent
    server.link.cut()
    server.wait(client_session.LOCATE_WITHIN - 0.5)
    assert len(server.links) == 1
    server.wait(2)
    assert len(server.links) == 2
    assert never.called


def test_a_token_that_has_become_void_is_replaced(server: ScriptedServer) -> None:
    guide = Guide(ONE)
    located(server, guide)
    server.answers_logins = False
    server.link.cut()
    server.wait(0.2)
    server.link.error(server.link.take("login"), "token_invalid")
    server.wait(0.2)
    request = server.link.take("login")
    assert request["token"] == "token 3"
    server.link.ok(request, **PROFILE)
    assert len(server.links) == 3


@pytest.mark.parametrize("reason", ["takeover", "closed"])
def test_the_session_ends_as_others_do(server: ScriptedServer, reason: str) -> None:
    taken = located(server, Guide(ONE))
    if reason == "closed":
        closing = start(taken._client.close())
        server.wait(0.1)
        result(closing)
    else:
        server.link.push(type="kicked", reason=reason)
    server.wait(1)
    assert isinstance(taken[-1], Ended)
    assert taken[-1].reason == reason
    assert len(server.links) == 1


def test_a_guide_that_refuses_ends_the_session(server: ScriptedServer) -> None:
    taken = located(server, Guide(ONE, PasswordInvalid("changed")))
    server.link.cut()
    server.wait(1)
    assert taken[-1] == Ended("password_invalid", "the server refused to log in again: changed")


def test_leaving_while_asking(server: ScriptedServer) -> None:
    guide = Guide(ONE)
    taken = located(server, guide)
    never: Deferred[Assignment] = Deferred()
    taken._client._session._locate = lambda: never
    server.link.cut()
    server.wait(0.2)
    assert waiting(never)
    result(taken._client.close())
    server.wait(0.1)
    assert never.called
    assert isinstance(taken[-1], Ended)


@pytest.mark.parametrize("error", [TokenInvalid, NoServer])
def test_the_first_login_reports_what_goes_wrong(server: ScriptedServer, error: type[FluxError]) -> None:
    client = server.client()
    with pytest.raises(error):
        result(client.login_through(Guide(error("no"))))
    result(client.login_through(Guide(ONE)))


def test_the_first_login_reports_what_the_server_says(server: ScriptedServer) -> None:
    server.answers_logins = False
    client = server.client()
    login = start(client.login_through(Guide(ONE)))
    server.link.error(server.link.take("login"), "token_invalid")
    with pytest.raises(TokenInvalid):
        result(login)


@pytest.mark.parametrize("token", ["another", None])
def test_moved_is_followed_without_asking(server: ScriptedServer, token: str | None) -> None:
    guide = Guide(ONE)
    taken = located(server, guide)
    fields = {} if token is None else {"token": token}
    server.link.push(type="moved", host="two", port=2, reason="drain", grace=1000, **fields)
    server.wait(0.1)
    assert (server.link.address, guide.asked) == (TWO, 1)
    assert server.link.take("login")["token"] == (token or "token 1")
    server.link.cut()
    server.wait(1)
    assert (server.link.address, guide.asked) == (ONE, 2)
    assert isinstance(taken[-1], Online)


# --- the status port ---------------------------------------------------------


class Status(ScriptedServer):
    """A status service; ``key`` is what it wants to be shown."""

    def __init__(self) -> None:
        super().__init__()
        self.key = ""
        self.answers = True
        self.clients: list[StatusClient] = []

    def answer(self, link: Link, request: dict[str, Any]) -> bool:
        if request["type"] == "auth":
            if request["key"] == self.key:
                link.ok(request)
            else:
                link.error(request, "forbidden")
            return True
        if request["type"] == "get_chat_server" and self.answers:
            where = {"uid": request["uid"], "host": "one", "port": 1, "server": "chat1"}
            link.ok(request, **where, token=f"token of {request['uid']}", expires=5)
            return True
        return False

    def status_client(self, *addresses: tuple[str, int], key: str = "") -> StatusClient:
        client = StatusClient(self.clock, addresses or (FIRST,), key=key, endpoint=self.endpoint, rng=random.Random(1))  # type: ignore[arg-type]
        self.clients.append(client)
        return client

    def end(self) -> None:
        for client in self.clients:
            closing = start(client.close())
            self.wait(0.1)
            result(closing)
        super().end()


@pytest.fixture
def status() -> Iterator[Status]:
    status = Status()
    yield status
    status.end()


def test_locate(status: Status) -> None:
    client = status.status_client()
    assert result(client.locate(7)) == Assignment(7, "one", 1, "chat1", "token of 7", 5)
    assert result(client.locate(8)).token == "token of 8"
    assert len(status.links) == 1


def test_everybody_shares_a_connection_that_is_being_made(status: Status) -> None:
    status.silent = {FIRST}
    client = status.status_client(FIRST, SECOND)
    asking = [start(client.locate(uid)) for uid in (7, 8, 9)]
    asking[1].cancel()
    asking[1].addErrback(lambda failure: None)
    status.wait(11)
    assert [result(asking[0]).uid, result(asking[2]).uid] == [7, 9]
    assert [address for address, _ in status.attempts] == [FIRST, SECOND]


def test_a_connection_that_broke_is_replaced_when_somebody_asks(status: Status) -> None:
    client = status.status_client(FIRST, SECOND)
    result(client.locate(7))
    status.answers = False
    asking = start(client.locate(7))
    status.link.cut()
    with pytest.raises(NotConnected):
        result(asking)
    assert len(status.links) == 1
    status.refusing = {FIRST}
    status.answers = True
    assert result(client.locate(7)).uid == 7
    assert status.link.address == SECOND


def test_nobody_to_ask(status: Status) -> None:
    status.refusing = {FIRST, SECOND}
    client = status.status_client(FIRST, SECOND)
    with pytest.raises(NotConnected, match="cannot reach status:5005"):
        result(client.locate(7))
    assert len(status.attempts) == 2
    status.refusing = set()
    assert result(client.locate(7)).uid == 7


def test_a_service_that_does_not_answer(status: Status) -> None:
    client = status.status_client()
    status.answers = False
    asking = start(client.locate(7))
    status.wait(status_module.ANSWER_WITHIN + 0.1)
    with pytest.raises(DeadlineExceeded):
        result(asking)
    status.answers = True
    assert result(client.locate(7)).uid == 7
    assert len(status.links) == 2


def test_the_key_is_shown_first(status: Status) -> None:
    status.key = "sesame"
    assert result(status.status_client(key="sesame").locate(7)).uid == 7
    with pytest.raises(Forbidden):
        result(status.status_client(key="simsim").locate(7))


def test_closing_while_connecting(status: Status) -> None:
    status.silent = {FIRST}
    client = status.status_client()
    asking = start(client.locate(7))
    result(client.close())
    with pytest.raises(NotConnected, match="closed"):
        result(asking)
    with pytest.raises(NotConnected, match="closed"):
        result(client.locate(7))


async def test_a_session_through_a_real_status_service(tmp_path: Path) -> None:
    """Everything in one process: assigned, logged in by token, cut off, back with another token."""
    from twisted.internet import reactor

    overrides = ["chat.listen=tcp:0:interface=127.0.0.1", "status.listen=tcp:0:interface=127.0.0.1", "admin.listen="]
    assembly = assemble(
        load(None, [*overrides, f"store.path={tmp_path / 'flux.db'}"]), frozenset(("status", "chat")), reactor
    )
    await assembly.start()
    status = StatusClient(reactor, [assembly.status_listener.address()])
    try:
        [node] = await status.servers()
        client = Client(reactor, [(node.host, node.port)], longest_pause=0.2)
        account = await client.register("ann", "correct horse")
        tokens = []

        async def locate() -> Assignment:
            assignment = await status.locate(account.id)
            tokens.append(assignment.token)
            return assignment

        assert (await client.login_through(locate)).name == "ann"
        client._session._connection.abort("cut by the test")  # type: ignore[union-attr]
        came = []
        async for event in client.events:
            came.append(type(event))
            if came.count(Online) == 2:
                break
        assert came[0] is Online
        assert Offline in came
        assert len(set(tokens)) == 2
        await client.logout()
    finally:
        await status.close()
        await assembly.stop()
