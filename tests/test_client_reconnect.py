"""A client's session over many connections: departures, reconnects, moves."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from scripted_server import PROFILE, ScriptedServer, result, start

from flux.client import (
    Ended,
    Offline,
    Online,
    SessionEnded,
)

ONE, TWO, THREE = ("one", 1), ("two", 2), ("three", 3)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.end()


# --- reconnecting ------------------------------------------------------------


@pytest.mark.parametrize("reason", ["slow", "shutdown", "a reason of the future"])
def test_kicked_for_a_passing_reason_comes_back(server: ScriptedServer, reason: str) -> None:
    client, link, taken = server.logged_in()
    link.push(type="kicked", reason=reason)
    link.cut(clean=True)
    server.wait(0.2)
    assert [type(event) for event in taken] == [Offline, Online]
    assert len(server.links) == 2
    request = server.link.take("login")
    assert (request["id"], request["password"]) == (7, "secret word")
    assert isinstance(client.state, Online)


def test_comes_back_with_growing_jittered_bounded_pauses(server: ScriptedServer) -> None:
    _, link, taken = server.logged_in(rng=random.Random(5))
    server.refusing = {ONE}
    link.cut()
    server.wait(60)
    pauses = [event.retry_in for event in taken if isinstance(event, Offline)]
    for index, pause in enumerate(pauses):
        ceiling = min(0.1 * 2**index, 10.0)
        assert ceiling / 2 <= pause <= ceiling
    assert len(set(pauses)) == len(pauses)
    assert 10 <= len(pauses) <= 16
    server.refusing = set()
    server.wait(10)
    assert isinstance(taken[-1], Online)


def test_a_short_session_does_not_reset_the_pauses(server: ScriptedServer) -> None:
    _, _, taken = server.logged_in()
    for _ in range(8):
        server.link.cut()
        while not server.link.open:
            server.wait(0.05)
    short = [event.retry_in for event in taken if isinstance(event, Offline)]
    assert short[-1] > 3
    server.wait(11)
    server.link.cut()
    server.clock.advance(0)
    assert [event.retry_in for event in taken if isinstance(event, Offline)][-1] <= 0.1


def test_goes_round_the_addresses(server: ScriptedServer) -> None:
    _, link, _ = server.logged_in(ONE, TWO, THREE)
    server.refusing = {ONE, TWO}
    link.cut()
    server.wait(1)
    assert [address for address, _ in server.attempts] == [ONE, ONE, TWO, THREE]
    server.refusing = set()
    server.link.cut()
    server.wait(2)
    assert server.link.address == THREE, "where it last worked"


def test_login_limits_are_waited_out(server: ScriptedServer) -> None:
    _, link, taken = server.logged_in()
    server.answers_logins = False
    link.cut()
    server.wait(0.2)
    server.link.error(server.link.take("login"), "rate_limited", retry_after=5000)
    server.clock.advance(0)
    assert taken[-1].retry_in == 5.0  # type: ignore[union-attr]
    server.wait(4.8)
    assert len(server.links) == 2
    server.wait(0.3)
    assert len(server.links) == 3


@pytest.mark.parametrize("name", ["unavailable", "no_server", "already_logged_in", "internal"])
def test_passing_refusals_are_tried_again(server: ScriptedServer, name: str) -> None:
    _, link, taken = server.logged_in()
    server.answers_logins = False
    link.cut()
    server.wait(0.2)
    server.link.error(server.link.take("login"), name)
    server.answers_logins = True
    server.wait(0.5)
    assert isinstance(taken[-1], Online)


def test_a_lasting_refusal_ends_the_session(server: ScriptedServer) -> None:
    client, link, taken = server.logged_in()
    server.answers_logins = False
    link.cut()
    server.wait(0.2)
    server.link.error(server.link.take("login"), "password_invalid")
    server.wait(30)
    assert isinstance(taken[-1], Ended)
    assert taken[-1].reason == "password_invalid"
    assert taken.ended
    assert len(server.links) == 2
    with pytest.raises(SessionEnded, match="refused to log in again"):
        result(client.send("x", to=8))
    with pytest.raises(SessionEnded):
        result(client.friends())


def test_later_logins_use_the_changed_password(server: ScriptedServer) -> None:
    client, link, _ = server.logged_in()
    changed = start(client.password_change("secret word", "better word"))
    link.ok(link.take("password.change"))
    result(changed)
    link.cut()
    server.wait(0.2)
    assert server.link.take("login")["password"] == "better word"


def test_a_silent_link_is_noticed(server: ScriptedServer) -> None:
    _, link, taken = server.logged_in()
    server.answers_pings = False
    server.wait(20)
    assert "ping" in link.types()
    server.wait(10.3)
    assert not link.open
    assert taken[0] == Offline("no sign of life from the server", taken[0].retry_in)  # type: ignore[union-attr]
    assert isinstance(taken[-1], Online)


def test_pings_keep_a_quiet_link(server: ScriptedServer) -> None:
    _, link, taken = server.logged_in()
    server.wait(300)
    assert link.open
    assert taken == []


def test_what_is_no_flux_server_is_left(server: ScriptedServer) -> None:
    _, link, taken = server.logged_in()
    link.write_raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    server.wait(0.05)
    assert not link.open
    assert "does not speak" in taken[0].reason  # type: ignore[union-attr]


def test_an_endless_line_is_left(server: ScriptedServer) -> None:
    _, link, _ = server.logged_in()
    for _ in range(17):
        link.write_raw(b"x" * 65536)
    server.wait(0.05)
    assert not link.open


# --- kicked for good ---------------------------------------------------------


@pytest.mark.parametrize("reason", ["takeover", "admin", "password"])
def test_kicked_for_good_ends_the_session(server: ScriptedServer, reason: str) -> None:
    client, link, taken = server.logged_in()
    sent = client.send("hello", to=8)
    link.push(type="kicked", reason=reason)
    with pytest.raises(SessionEnded) as end:
        result(sent)
    assert end.value.reason == reason
    server.wait(60)
    assert [type(event) for event in taken] == [Ended]
    assert taken.ended
    assert len(server.links) == 1
    assert not link.open
    assert isinstance(client.state, Ended)


def test_kicked_for_good_while_logging_in_again_ends_the_session(server: ScriptedServer) -> None:
    _, link, taken = server.logged_in()
    server.answers_logins = False
    link.cut()
    server.wait(0.2)
    server.link.push(type="kicked", reason="takeover")
    server.link.cut(clean=True)
    server.wait(30)
    assert isinstance(taken[-1], Ended)
    assert taken[-1].reason == "takeover"
    assert len(server.links) == 2


# --- moved -------------------------------------------------------------------


def moved(**fields: object) -> dict[str, object]:
    return {"type": "moved", "host": "two", "port": 2, "reason": "drain", "grace": 5000, **fields}


def test_moved_is_followed_with_the_token(server: ScriptedServer) -> None:
    client, old, taken = server.logged_in(ONE)
    sent = client.send("on its way", to=8)
    first = old.take("send")
    server.answers_logins = False
    old.push(**moved(token="t0ken"))
    new = server.link
    assert new.address == TWO
    login = new.take("login")
    assert (login["id"], login["token"], login["acks"]) == (7, "t0ken", True)
    assert "password" not in login
    old.message(1, text="still served")
    new.ok(login, **PROFILE)
    old.push(type="kicked", reason="takeover")
    server.clock.advance(0)
    again = new.take("send")
    assert again["cid"] == first["cid"]
    new.receipt(again, 1, duplicate=True)
    assert result(sent).seq == 1
    server.wait(1)
    assert not old.open
    assert taken.texts() == ["still served"]
    assert [type(event) for event in taken[1:]] == [Online]
    assert len(server.links) == 2


def test_moved_then_kicked_before_the_new_login_means_nothing(server: ScriptedServer) -> None:
    _, old, taken = server.logged_in(ONE)
    server.answers_logins = False
    old.push(**moved(token="t0ken"))
    old.push(type="kicked", reason="takeover")
    old.cut(clean=True)
    server.link.ok(server.link.take("login"), **PROFILE)
    server.wait(1)
    assert [type(event) for event in taken] == [Online]


def test_a_session_by_token_goes_on_with_the_token_of_the_move(server: ScriptedServer) -> None:
    client = server.client(ONE)
    result(client.login(7, token="first token"))
    server.link.push(**moved(token="second token"))
    server.link.cut()
    server.wait(0.5)
    assert [link.take("login")["token"] for link in server.links] == ["first token", "second token", "second token"]


@pytest.mark.parametrize("fault", ["refused", "token_invalid"])
def test_a_move_that_fails_is_a_reconnect(server: ScriptedServer, fault: str) -> None:
    _, old, taken = server.logged_in(ONE)
    if fault == "refused":
        server.refusing = {TWO}
        old.push(**moved(token="t0ken"))
    else:
        server.answers_logins = False
        old.push(**moved(token="t0ken"))
        server.link.error(server.link.take("login"), "token_invalid")
        server.answers_logins = True
    server.wait(1)
    assert not old.open
    assert server.link.address == ONE
    assert server.link.take("login")["password"] == "secret word"
    assert [type(event) for event in taken] == [Offline, Online]
