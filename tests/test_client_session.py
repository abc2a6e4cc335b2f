"""A client's session on one connection: logins, requests, leaving."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from scripted_server import PROFILE, ScriptedServer, result, start, waiting
from twisted.internet.defer import CancelledError
from twisted.internet.defer import TimeoutError as GivenUp

from flux.client import (
    ClientError,
    Ended,
    NotConnected,
    Online,
    Presence,
    QueueFull,
    SessionEnded,
)
from flux.client import connection as connection_module
from flux.errors import BadRequest, Forbidden, PasswordInvalid, UserExists
from flux.lifecycle import DeadlineExceeded

ONE, TWO, THREE = ("one", 1), ("two", 2), ("three", 3)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.end()


# --- logging in --------------------------------------------------------------


def test_login_asks_for_acks_and_brings_the_profile(server: ScriptedServer) -> None:
    client = server.client()
    login = result(client.login("ann", password="secret word"))
    assert login.name == "ann"
    request = server.link.take("login")
    assert (request["name"], request["password"], request["acks"]) == ("ann", "secret word", True)
    assert "id" not in request
    assert result(client.events.__anext__()) == Online(login, "one", 1)
    with pytest.raises(ClientError, match="once"):
        result(client.login("ann", password="secret word"))


def test_login_by_token(server: ScriptedServer) -> None:
    result(server.client().login(7, token="t0ken"))
    request = server.link.take("login")
    assert (request["id"], request["token"]) == (7, "t0ken")
    assert "name" not in request
    assert "password" not in request


def test_a_refused_login_raises_and_leaves_no_connection(server: ScriptedServer) -> None:
    server.answers_logins = False
    client = server.client(ONE, TWO)
    login = start(client.login("ann", password="wrong"))
    server.link.error(server.link.take("login"), "password_invalid")
    with pytest.raises(PasswordInvalid):
        result(login)
    server.wait(1)
    assert [link.open for link in server.links] == [False]
    server.answers_logins = True
    assert result(client.login("ann", password="right")).id == 7


def test_login_tries_the_addresses_in_turn(server: ScriptedServer) -> None:
    server.refusing = {ONE}
    client = server.client(ONE, TWO)
    result(client.login("ann", password="secret word"))
    assert server.link.address == TWO


def test_login_says_why_nobody_can_be_reached(server: ScriptedServer) -> None:
    server.refusing = {ONE}
    with pytest.raises(NotConnected, match="cannot reach one:1: "):
        result(server.client().login("ann", password="secret word"))


def test_connecting_has_a_deadline(server: ScriptedServer) -> None:
    server.silent = {ONE}
    login = start(server.client().login("ann", password="secret word"))
    server.wait(connection_module.CONNECT_WITHIN - 0.1)
    assert waiting(login)
    server.wait(0.2)
    with pytest.raises(NotConnected, match="nothing after 10 s"):
        result(login)


def test_register_uses_a_connection_of_its_own(server: ScriptedServer) -> None:
    client = server.client()
    registered = start(client.register("ann", "secret word", nick="Annie"))
    request = server.link.take("register")
    assert request["nick"] == "Annie"
    server.link.ok(request, id=7, name="ann")
    server.wait(0.1)
    assert result(registered).id == 7
    assert not server.link.open


def test_register_reports_what_the_server_says(server: ScriptedServer) -> None:
    registered = start(server.client().register("ann", "secret word"))
    server.link.error(server.link.take("register"), "user_exists")
    server.wait(0.1)
    with pytest.raises(UserExists):
        result(registered)
    assert not server.link.open


def test_lines_come_in_any_chunks(server: ScriptedServer) -> None:
    server.answers_logins = False
    login = start(server.client().login("ann", password="secret word"))
    ref = server.link.take("login")["ref"]
    for byte in json.dumps({"type": "login.ok", "ref": ref, **PROFILE}).encode() + b"\r\n":
        server.link.write_raw(bytes([byte]))
    assert result(login).id == 7


# --- requests ----------------------------------------------------------------


def test_requests_are_matched_by_ref(server: ScriptedServer) -> None:
    client, link, _ = server.logged_in()
    first, second = start(client.profile_get(1)), start(client.profile_get(2))
    asked = [link.take("profile.get"), link.take("profile.get")]
    for request in reversed(asked):
        link.ok(request, id=request["id"], name="x", nick="", description="", sex="", icon="")
    assert result(first).id == 1
    assert result(second).id == 2


def test_a_request_has_a_deadline_and_its_late_answer_is_dropped(server: ScriptedServer) -> None:
    client, link, _ = server.logged_in()
    asked = start(client.friends())
    server.wait(connection_module.REQUEST_WITHIN + 0.1)
    with pytest.raises(DeadlineExceeded, match="friends"):
        result(asked)
    link.ok(link.take("friends"), friends=[])
    assert result(client.ping()).at == 0


def test_a_request_fails_with_its_connection_and_while_offline(server: ScriptedServer) -> None:
    client, link, _ = server.logged_in()
    asked = start(client.friends())
    link.cut()
    with pytest.raises(NotConnected, match="the connection broke"):
        result(asked)
    with pytest.raises(NotConnected):
        result(client.friends())


def test_an_answer_of_another_type_is_an_error_of_its_request(server: ScriptedServer) -> None:
    client, link, _ = server.logged_in()
    asked = start(client.friends())
    link.push(type="groups.ok", ref=link.take("friends")["ref"], groups=[])
    with pytest.raises(Exception, match="something else"):
        result(asked)


def test_what_cannot_be_sent_is_refused_and_leaves_nothing_behind(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "MAX_WAITING", 1)
    client, link, _ = server.logged_in()
    for _ in range(2):
        with pytest.raises(BadRequest, match=r"^bad_request: note: holds half a character") as refused:
            result(client.friend_add(8, note="secret \udcff"))
        assert "secret" not in str(refused.value)
    assert link.types() == []
    friends = start(client.friends())
    link.ok(link.take("friends"), friends=[])
    assert result(friends).friends == []


def test_a_login_that_cannot_be_sent_is_refused(server: ScriptedServer) -> None:
    client = server.client()
    with pytest.raises(BadRequest, match="password: holds half a character"):
        result(client.login("ann", password="\udcff"))
    server.wait(0.1)
    assert [link.open for link in server.links] == [False]
    assert result(client.login("ann", password="right")).id == 7


def test_waiting_requests_are_bounded(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MAX_WAITING", 2)
    client, link, _ = server.logged_in()
    friends, groups = start(client.friends()), start(client.groups())
    with pytest.raises(QueueFull):
        result(client.chats())
    link.ok(link.take("friends"), friends=[])
    link.ok(link.take("groups"), groups=[])
    assert result(friends).friends == []
    assert result(groups).groups == []
    assert result(client.ping()).at == 0


def test_events_come_through_and_unknown_ones_do_not_hurt(server: ScriptedServer) -> None:
    _, link, taken = server.logged_in()
    link.push(type="hologram", of="you")
    link.push(type="error", request="typing", code=1105, name="forbidden", detail="no")
    link.push(type="presence", id=8, online=True)
    server.clock.advance(0)
    assert taken == [Presence(id=8, online=True)]


# --- leaving -----------------------------------------------------------------


def test_logout(server: ScriptedServer) -> None:
    client, link, taken = server.logged_in()
    link.message(1)
    server.clock.advance(0)
    leaving = start(client.logout())
    assert link.types() == ["received", "logout"]
    link.ok(link.take("logout"))
    link.cut(clean=True)
    server.wait(0.1)
    result(leaving)
    assert taken[-1] == Ended("logout", "logged out")
    assert taken.ended
    server.wait(60)
    assert len(server.links) == 1
    assert server.clock.getDelayedCalls() == []


def test_close_acknowledges_what_was_taken(server: ScriptedServer) -> None:
    client, link, taken = server.logged_in()
    link.message(1)
    server.clock.advance(0)
    leaving = start(client.close())
    server.wait(0.1)
    result(leaving)
    assert link.take("received")["seq"] == 1
    assert taken[-1] == Ended("closed", "closed")
    assert not link.open
    assert server.clock.getDelayedCalls() == []


@pytest.mark.parametrize("when", ["paused", "looking the name up", "connecting", "logging in"])
def test_close_while_reconnecting(server: ScriptedServer, when: str) -> None:
    client, link, taken = server.logged_in()
    if when == "connecting":
        server.silent = {ONE}
    elif when == "looking the name up":
        server.unresolved = {ONE}
    server.answers_logins = False
    link.cut()
    if when != "paused":
        server.wait(0.2)
    result(client.close())
    server.names.fail()
    server.unresolved = set()
    server.wait(5)
    assert isinstance(taken[-1], Ended)
    assert isinstance(client.state, Ended)
    assert not server.link.open
    assert len(server.attempts) == (1 if when == "paused" else 2), "it is not tried again"
    assert server.clock.getDelayedCalls() == []


def test_close_from_where_a_request_failed(server: ScriptedServer) -> None:
    """What applications do in their error paths must not disturb what the client is just doing."""
    client, link, taken = server.logged_in()

    async def ask_or_leave() -> None:
        try:
            await client.friends()
        except NotConnected:
            await client.close()

    asked = start(ask_or_leave())
    link.cut()
    server.wait(30)
    result(asked)
    assert isinstance(taken[-1], Ended)
    assert len(server.links) == 1
    assert server.clock.getDelayedCalls() == []


def test_close_while_logging_in(server: ScriptedServer) -> None:
    server.answers_logins = False
    client = server.client()
    login = start(client.login("ann", password="secret word"))
    result(client.close())
    server.link.ok(server.link.take("login"), **PROFILE)
    with pytest.raises(SessionEnded):
        result(login)
    server.wait(0.1)
    assert not server.link.open


@pytest.mark.parametrize("limit", [None, 0.2])
def test_a_login_that_is_given_up_says_so(server: ScriptedServer, limit: float | None) -> None:
    """Also while the host name is being looked up, for which Twisted has another word."""
    server.unresolved = {ONE}
    login = start(server.client().login("ann", password="secret word"))
    if limit is None:
        login.cancel()
    else:
        login.addTimeout(limit, server.clock)
        server.wait(limit)
    with pytest.raises(CancelledError if limit is None else GivenUp):
        result(login)
    server.names.fail()
    assert server.clock.getDelayedCalls() == []


def test_close_while_the_name_of_the_first_server_is_being_looked_up(server: ScriptedServer) -> None:
    server.unresolved = {ONE}
    client = server.client(ONE, TWO)
    login = start(client.login("ann", password="secret word"))
    result(client.close())
    server.wait(connection_module.CONNECT_WITHIN)
    with pytest.raises(SessionEnded):
        result(login)
    assert server.link.types() == [], "a login would end the session that the account may have elsewhere by now"


def test_close_without_a_session(server: ScriptedServer) -> None:
    client = server.client()
    result(client.close())
    with pytest.raises(SessionEnded):
        result(client.send("x", to=8))
    assert isinstance(client.state, Ended)


def test_refused_requests_raise_what_the_server_named(server: ScriptedServer) -> None:
    client, link, _ = server.logged_in()
    asked = start(client.group_members(3))
    link.error(link.take("group.members"), "forbidden")
    with pytest.raises(Forbidden, match="because"):
        result(asked)
