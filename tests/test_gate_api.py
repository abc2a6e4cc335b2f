"""The gate's API against a whole server: registering, logging in, codes, resets, profiles."""

from __future__ import annotations

import re
from typing import Any

import pytest
import pytest_twisted
from gate_server import PASSWORD, GateServer, Mailbox, code_in
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent

from flux import errors
from flux.accounts.codes import LIFETIME, TRIES
from flux.errors import FluxError, Unavailable
from flux.gate.channel import STATUS

ANN = "Ann@Example.org"
BEARER = "Authorization"


@pytest_twisted.async_yield_fixture
async def server(tmp_path):
    server = await GateServer(tmp_path).start()
    yield server
    await server.stop()
    # Whatever was asked: no answer ever holds a password or a hash.
    for reply in server.replies:
        for secret in (PASSWORD, "another password", "$argon2", "argon2id"):
            assert secret.encode() not in reply.raw


# --- the way in --------------------------------------------------------------


async def test_from_an_address_to_a_chat(server: GateServer) -> None:
    """The whole classic path: gate, status, chat server and token, chat."""
    code = await server.code(ANN)
    fields = {"name": "ann", "password": PASSWORD, "email": ANN, "code": code, "nick": "Annie", "icon": "a.png"}
    reply = await server.post("/v1/accounts", **fields)
    assert (reply.status, reply.json) == (201, {"id": 1, "name": "ann"})
    login = await server.ok("/v1/login", email=ANN.lower(), password=PASSWORD)
    host, port = server.assembly.chat.listener.address()
    profile = {"id": 1, "name": "ann", "nick": "Annie", "description": "", "sex": "", "icon": "a.png"}
    placed = {"host": host, "port": port, "server": "chat1", "email": ANN, "websocket": "/ws", "tls": False}
    assert (profile | placed).items() <= login.items()
    assert login.keys() - (profile | placed).keys() == {"token", "expires"}
    client = server.chat()
    assert (await client.ok("login", id=login["id"], token=login["token"]))["nick"] == "Annie"


async def test_login_by_name_id_or_verified_address(server: GateServer) -> None:
    await server.register("Zoë")
    await server.register("bob", "bob@example.org")
    await server.ok("/v1/accounts", name="cat", password=PASSWORD, email="cat@example.org")
    for who in ({"name": "ZOË"}, {"id": 1}):
        login = await server.ok("/v1/login", password=PASSWORD, **who)
        assert (login["id"], login["email"]) == (1, "")
    assert (await server.ok("/v1/login", password=PASSWORD, email="BOB@example.org"))["id"] == 2
    for who in ({"name": "zoe"}, {"id": 9}, {"email": "cat@example.org"}, {"email": "dan@example.org"}):
        reply = await server.post("/v1/login", password=PASSWORD, **who)
        assert (reply.status, reply.error) == (403, "password_invalid")
    for who in ({}, {"id": 1, "name": "Zoë"}):
        assert (await server.post("/v1/login", password=PASSWORD, **who)).error == "bad_request"
    assert (await server.post("/v1/login", password="wrong", id=1)).error == "password_invalid"


async def test_each_login_voids_the_token_before(server: GateServer) -> None:
    uid = await server.register("ann")
    old, new = [(await server.ok("/v1/login", id=uid, password=PASSWORD))["token"] for _ in range(2)]
    client = server.chat()
    assert await client.refused("login", id=uid, token=old) == "token_invalid"
    await client.ok("login", id=uid, token=new)


async def test_a_name_and_a_verified_address_are_taken_once(server: GateServer) -> None:
    await server.register("ann", ANN)
    reply = await server.post("/v1/accounts", name="ANN", password=PASSWORD)
    assert (reply.status, reply.error) == (409, "user_exists")
    # Who asks for a code for this address learns by mail that it is taken, and has no code to use.
    await server.ok("/v1/codes", email=ANN, purpose="register")
    to, subject, text = Mailbox.mails[-1]
    assert (to, subject) == (ANN, "You have an account already")
    assert "account ann" in text
    assert "code" not in text.lower()
    await server.ok("/v1/accounts", name="bob", password=PASSWORD, email=ANN)
    assert (await server.ok("/v1/login", email=ANN, password=PASSWORD))["name"] == "ann"


async def test_passwords_have_the_rules_of_the_chat_port(server: GateServer) -> None:
    assert (await server.ask("GET", "/v1/rules")).json == {
        "code_required": False, "password_min": 8, "codes_sent": True,
    }  # fmt: skip
    for password in ("short", "password1"):
        reply = await server.post("/v1/accounts", name="ann", password=password)
        assert (reply.status, reply.error) == (403, "password_invalid")
    reply = await server.post("/v1/accounts", name="ann", password="\u00e9" * 1000)
    assert (reply.status, reply.error) == (413, "too_large")
    server.reload("limits.password_min=4")
    await server.ok("/v1/accounts", name="ann", password="abcd")


async def test_where_a_code_is_required(server: GateServer) -> None:
    server.reload("gate.require_code=yes")
    assert (await server.ask("GET", "/v1/rules")).json["code_required"] is True
    for fields in ({}, {"email": ANN}):
        reply = await server.post("/v1/accounts", name="ann", password=PASSWORD, **fields)
        assert (reply.status, reply.error) == (400, "bad_request")
    assert await server.register("ann", ANN) == 1
    client = server.chat()
    assert await client.refused("register", name="bob", password=PASSWORD) == "bad_request"


# --- codes -------------------------------------------------------------------


async def test_a_code_is_a_mail(server: GateServer) -> None:
    reply = await server.post("/v1/codes", email=ANN, purpose="register")
    assert reply.status == 202
    import time

    assert abs(reply.json.pop("expires") / 1000 - LIFETIME - time.time()) < 60
    [mail] = Mailbox.mails
    assert len(code_in(mail, ANN)) == 6
    assert "registering an account" in mail[2]
    assert "10 minutes" in mail[2]


@pytest.mark.parametrize("purpose", ["register", "reset"])
async def test_known_and_unknown_addresses_get_the_same_answer(server: GateServer, purpose: str) -> None:
    await server.register("ann", ANN)
    sent = len(Mailbox.mails)
    known, unknown = [await server.post("/v1/codes", email=email, purpose=purpose) for email in (ANN, "bob@x.org")]
    assert known.status == unknown.status == 202
    assert known.json.keys() == unknown.json.keys()
    assert len(known.raw) == len(unknown.raw)
    # One mail each: whoever watches the clock, or the mailer fail, learns nothing either.
    assert len(Mailbox.mails) == sent + 2
    Mailbox.problem = Unavailable("the mail server is away")
    failed = [await server.post("/v1/codes", email=email, purpose=purpose) for email in (ANN, "bob@x.org")]
    assert {(reply.status, reply.raw) for reply in failed} == {(503, failed[0].raw)}
    assert failed[0].error == "unavailable"


async def test_the_answer_waits_for_the_mail(server: GateServer) -> None:
    held: Deferred[None] = Deferred()
    Mailbox.held = held
    asking = Deferred.fromCoroutine(server.post("/v1/codes", email=ANN, purpose="reset"))
    assert (await server.ask("GET", "/v1/rules")).status == 200
    assert not asking.called
    held.callback(None)
    assert (await asking).status == 202


async def test_a_code_for_one_thing_is_none_for_another(server: GateServer) -> None:
    await server.register("ann", ANN)
    code = await server.code(ANN, "reset")
    fields = {"name": "bob", "password": PASSWORD}
    reply = await server.post("/v1/accounts", email=ANN, code=code, **fields)
    assert (reply.status, reply.error) == (403, "code_wrong")
    code = await server.code("bob@example.org")
    reply = await server.post("/v1/password/reset", email="bob@example.org", code=code, password=PASSWORD)
    assert (reply.status, reply.error) == (403, "code_wrong")


@pytest.mark.parametrize("asked", ["register", "reset", "either"])
async def test_trying_codes_does_not_tell_who_has_an_account(server: GateServer, asked: str) -> None:
    """Before one is asked for, until too many were wrong, and after it was used: known and unknown hear the same."""
    server.reload(
        "limits.logins_per_minute=0", "limits.logins_per_minute_address=0", "limits.registrations_per_hour_address=0"
    )
    await server.register("ann", ANN)
    await server.register("cat")
    token = await server.log_in("cat")

    async def ask(email: str) -> str | None:
        """The code, where the e-mail has one."""
        if asked == "either":
            assert (await server.ok("/get_varifycode", email=email))["error"] == 0
        else:
            await server.ok("/v1/codes", email=email, purpose=asked)
        found = re.search(r"^Your code is (\d+)$", Mailbox.mails[-1][2], re.MULTILINE)
        return found and found[1]

    async def hears(email: str) -> list[tuple[int, bytes]]:
        # No guess, but what no code can be.
        body = {"email": email, "code": "x", "password": "another password"}
        user = {"user": "nobody", "email": email, "passwd": "another password", "varifycode": "x"}
        replies = [
            await server.post("/v1/accounts", name="nobody", **body),
            await server.post("/v1/password/reset", **body),
            await server.ask("PATCH", "/v1/profile", {"email": email, "code": "x"}, **token),
            await server.ask("POST", "/user_register", {**user, "confirm": user["passwd"]}),
            await server.ask("POST", "/reset_pwd", user),
        ]
        return [(reply.status, reply.raw) for reply in replies]

    known, unknown = ANN, "bob@x.org"
    assert await hears(known) == await hears(unknown)
    for email in (known, unknown):
        await ask(email)
    first = [await hears(email) for email in (known, unknown)]
    assert first[0] == first[1]
    assert b"code_wrong" in first[0][0][1]
    second = [await hears(email) for email in (known, unknown)]
    assert second[0] == second[1]
    assert b"code_expired" in second[0][0][1]
    if asked == "either":
        for email in (known, unknown):
            code = await ask(email)
            if email == known:
                await server.ok("/v1/password/reset", email=email, code=code, password="another password")
            else:
                await server.ok("/v1/accounts", name="bob", password=PASSWORD, email=email, code=code)
        assert await hears(known) == await hears(unknown)


async def test_guessed_codes(server: GateServer) -> None:
    await server.register("ann", ANN)
    code = await server.code(ANN, "reset")
    guesses = [f"{guess:06}" for guess in range(TRIES + 1) if f"{guess:06}" != code][:TRIES]
    for guess in guesses:
        reply = await server.post("/v1/password/reset", email=ANN, code=guess, password="another password")
        assert (reply.status, reply.error) == (403, "code_wrong")
    assert (await server.post("/v1/password/reset", email=ANN, code=code, password=PASSWORD)).error == "code_expired"
    # Guessing goes on until this address has failed too often, whatever it tries.
    statuses = [
        (await server.post("/v1/password/reset", email=ANN, code="0", password=PASSWORD)).status for _ in range(10)
    ]
    assert statuses[-1] == 429
    assert set(statuses) == {403, 429}


async def test_too_many_codes(server: GateServer) -> None:
    server.reload("limits.codes_per_hour=2")
    for _ in range(2):
        await server.ok("/v1/codes", email=ANN, purpose="register")
    reply = await server.post("/v1/codes", email=ANN.upper(), purpose="reset")
    assert (reply.status, reply.error) == (429, "rate_limited")
    assert 0 < reply.json["retry_after"] <= 3_600_000
    [seconds] = reply.headers.getRawHeaders("Retry-After")
    assert 0 <= int(seconds) * 1000 - reply.json["retry_after"] < 1000
    assert len(Mailbox.mails) == 2


async def test_an_address_that_takes_no_mail(server: GateServer) -> None:
    Mailbox.problem = errors.BadRequest("email: this address takes no mail")
    reply = await server.post("/v1/codes", email=ANN, purpose="register")
    assert (reply.status, reply.error) == (400, "bad_request")


# --- a forgotten password ----------------------------------------------------


async def test_a_reset_ends_the_session_and_voids_the_token(server: GateServer) -> None:
    uid = await server.register("ann", ANN)
    token = (await server.ok("/v1/login", id=uid, password=PASSWORD))["token"]
    session = server.chat()
    await session.ok("login", id=uid, token=token)
    code = await server.code(ANN, "reset")
    assert "account ann" in Mailbox.mails[-1][2]
    assert await server.ok("/v1/password/reset", email=ANN, code=code, password="another password") == {"id": uid}
    assert (await session.ended())[-1] == {"type": "kicked", "reason": "password"}
    assert await server.chat().refused("login", id=uid, token=token) == "token_invalid"
    assert (await server.post("/v1/login", id=uid, password=PASSWORD)).error == "password_invalid"
    await server.ok("/v1/login", id=uid, password="another password")


async def test_who_has_no_verified_address_learns_so_by_mail(server: GateServer) -> None:
    await server.ok("/v1/accounts", name="ann", password=PASSWORD, email=ANN)
    await server.ok("/v1/codes", email=ANN, purpose="reset")
    to, subject, text = Mailbox.mails[-1]
    assert (to, subject) == (ANN, "There is no account with this address")
    assert "Your code" not in text


async def test_a_bad_password_does_not_use_the_code_up(server: GateServer) -> None:
    await server.register("ann", ANN)
    code = await server.code(ANN, "reset")
    for password in ("short", "password1"):
        reply = await server.post("/v1/password/reset", email=ANN, code=code, password=password)
        assert reply.error == "password_invalid"
    await server.ok("/v1/password/reset", email=ANN, code=code, password="another password")


# --- one's own account -------------------------------------------------------


async def test_ones_own_profile(server: GateServer) -> None:
    await server.register("ann", ANN)
    token = await server.log_in("ann")
    whole = {"id": 1, "name": "ann", "nick": "", "description": "", "sex": "", "icon": "", "email": ANN}
    assert (await server.ask("GET", "/v1/profile", **token)).json == whole
    changed = await server.ask("PATCH", "/v1/profile", {"nick": "Annie", "sex": "f"}, **token)
    assert changed.json == whole | {"nick": "Annie", "sex": "f"}
    unseen = await server.ask("PATCH", "/v1/profile", {"nick": "\u3164"}, **token)
    assert (unseen.status, unseen.error) == (400, "bad_request")
    changed = await server.ask("PATCH", "/v1/profile", {"nick": ""}, **token)
    assert changed.json == whole | {"sex": "f"}
    assert (await server.ask("PATCH", "/v1/profile", {}, **token)).json == whole | {"sex": "f"}
    client = server.chat()
    await client.ok("login", name="ann", password=PASSWORD)
    assert (await client.ok("profile.get"))["sex"] == "f"


async def test_an_address_is_verified_later(server: GateServer) -> None:
    await server.register("ann")
    await server.register("bob", "bob@example.org")
    token = await server.log_in("ann")
    code = await server.code(ANN)
    for fields in ({"email": ANN}, {"code": code}):
        assert (await server.ask("PATCH", "/v1/profile", fields, **token)).error == "bad_request"
    wrong = await server.ask("PATCH", "/v1/profile", {"email": ANN, "code": "0", "nick": "x"}, **token)
    assert (wrong.status, wrong.error) == (403, "code_wrong")
    right = await server.ask("PATCH", "/v1/profile", {"email": ANN, "code": code, "nick": "Annie"}, **token)
    assert (right.json["email"], right.json["nick"]) == (ANN, "Annie")
    await server.ok("/v1/login", email=ANN, password=PASSWORD)


async def test_a_token_alone_does_not_replace_an_address(server: GateServer) -> None:
    await server.register("ann", ANN)
    token = await server.log_in("ann")
    code = await server.code("thief@example.org")
    sent = len(Mailbox.mails)
    fields = {"email": "thief@example.org", "code": code}
    for more, status, error in (({}, 400, "bad_request"), ({"password": "a guess"}, 403, "password_invalid")):
        refused = await server.ask("PATCH", "/v1/profile", fields | more, **token)
        assert (refused.status, refused.error) == (status, error)
    assert (await server.ask("GET", "/v1/profile", **token)).json["email"] == ANN
    assert len(Mailbox.mails) == sent
    changed = await server.ask("PATCH", "/v1/profile", fields | {"password": PASSWORD}, **token)
    assert changed.json["email"] == "thief@example.org"
    [(to, subject, text)] = Mailbox.mails[sent:]
    assert (to, subject) == (ANN, "The e-mail address of the account ann was changed")
    assert "thief" not in text


async def test_a_first_address_replaces_none_and_nobody_is_told(server: GateServer) -> None:
    await server.ok("/v1/accounts", name="ann", password=PASSWORD, email="not@verified.org")
    token = await server.log_in("ann")
    code = await server.code(ANN)
    sent = len(Mailbox.mails)
    changed = await server.ask("PATCH", "/v1/profile", {"email": ANN, "code": code}, **token)
    assert changed.json["email"] == ANN
    assert len(Mailbox.mails) == sent


async def test_who_resets_a_password_is_told_so(server: GateServer) -> None:
    await server.register("ann", ANN)
    for path, fields in (
        ("/v1/password/reset", {"email": ANN.upper(), "password": "another password"}),
        ("/reset_pwd", {"email": ANN.upper(), "passwd": PASSWORD, "user": "ann"}),
    ):
        code = await server.code(ANN, "reset")
        await server.ok(path, code=code, varifycode=code, **fields)
        assert Mailbox.mails[-1][:2] == (ANN, "The password of the account ann was reset")


@pytest.mark.parametrize("problem", ["held", "fails"])
async def test_nobody_waits_for_what_the_owner_is_told(server: GateServer, problem: str) -> None:
    await server.register("ann", ANN)
    code = await server.code(ANN, "reset")
    sent = len(Mailbox.mails)
    held: Deferred[None] = Deferred()
    if problem == "held":
        Mailbox.held = held
    else:
        Mailbox.problem = Unavailable("the mail server is away")
    with capturedLogs() as logged:
        await server.ok("/v1/password/reset", email=ANN, code=code, password="another password")
    assert len(Mailbox.mails) == sent
    said = [formatEvent(event) for event in logged]
    assert [line for line in said if "told" in line] == (
        [] if problem == "held" else ["user 1 was not told by e-mail: unavailable: the mail server is away"]
    )
    held.callback(None)
    await server.ok("/v1/login", name="ann", password="another password")
    assert len(Mailbox.mails) == sent + (problem == "held")


@pytest.mark.parametrize("begun", ["before", "while it stops"])
async def test_a_stop_waits_a_moment_for_what_owners_are_told(
    tmp_path: Any, begun: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await GateServer(tmp_path).start()
    await server.register("ann", ANN)
    code = await server.code(ANN, "reset")
    Mailbox.held = held = Deferred()
    replacing: Deferred[None] = Deferred()
    asked: Deferred[None] = Deferred()
    set_password = server.assembly.store.set_password

    async def slowly(*arguments: Any) -> bool:
        asked.callback(None)
        await replacing
        return await set_password(*arguments)

    monkeypatch.setattr(server.assembly.store, "set_password", slowly)
    resetting = Deferred.fromCoroutine(
        server.ok("/v1/password/reset", email=ANN, code=code, password="another password")
    )
    await asked
    if begun == "before":
        replacing.callback(None)
        await resetting
    stopping = Deferred.fromCoroutine(server.stop())
    if begun != "before":
        replacing.callback(None)
        await resetting
    assert not stopping.called
    held.callback(None)
    await stopping
    assert Mailbox.mails[-1][1] == "The password of the account ann was reset"


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer x", "Bearer 1:", "Bearer 1:x", "Bearer :x", "Bearer 0:x", "Bearer -1:x", "Bearer ٣:x",
     "Bearer 99999999999999999999:x", "Basic YTpi", "Bearer 2:{token}", "{token}", "Bearer 1:{token}\u00e9"],
)  # fmt: skip
async def test_without_a_token(server: GateServer, authorization: str) -> None:
    await server.register("ann")
    await server.register("bob")
    token = (await server.log_in("ann"))[BEARER].partition(":")[2]
    for method, body in (("GET", None), ("PATCH", {"nick": "x"})):
        headers = {BEARER: authorization.format(token=token)} if authorization else {}
        reply = await server.ask(method, "/v1/profile", body, **headers)
        assert (reply.status, reply.error) == (401, "token_invalid")
        assert reply.headers.getRawHeaders("WWW-Authenticate") == ["Bearer"]


async def test_a_token_gets_another_server_and_token(server: GateServer) -> None:
    uid = await server.register("ann")
    token = await server.log_in("ann")
    reply = await server.ask("POST", "/v1/server", **token)
    host, port = server.assembly.chat.listener.address()
    assert {"id": uid, "host": host, "port": port, "server": "chat1", "websocket": "/ws"}.items() <= reply.json.items()
    assert (await server.ask("POST", "/v1/server", **token)).error == "token_invalid"
    client = server.chat()
    await client.ok("login", id=uid, token=reply.json["token"])
    await client.ok("logout")
    fresh = {BEARER: f"Bearer {uid}:{reply.json['token']}"}
    assert (await server.ask("POST", "/v1/server", **fresh)).error == "token_invalid"


async def test_a_token_that_was_revoked(server: GateServer) -> None:
    await server.register("ann")
    token = await server.log_in("ann")
    client = server.chat()
    await client.ok("login", name="ann", password=PASSWORD)
    await client.ok("password.change", old=PASSWORD, new="another password")
    assert (await server.ask("GET", "/v1/profile", **token)).error == "token_invalid"


# --- limits and failures -----------------------------------------------------


async def test_failed_logins_are_counted_together_with_those_on_the_chat_port(server: GateServer) -> None:
    await server.register("ann")
    client = server.chat()
    for _ in range(5):
        assert await client.refused("login", name="ann", password="wrong") == "password_invalid"
        assert (await server.post("/v1/login", name="ann", password="wrong")).error == "password_invalid"
    reply = await server.post("/v1/login", name="ann", password=PASSWORD)
    assert (reply.status, reply.error) == (429, "rate_limited")
    assert await client.refused("login", name="ann", password=PASSWORD) == "rate_limited"


async def test_counting_goes_by_the_address_that_a_trusted_proxy_names(server: GateServer) -> None:
    server.reload("gate.proxies=127.0.0.1")
    await server.register("ann")
    for _ in range(10):
        fields = {"name": "ann", "password": "wrong"}
        assert (await server.ask("POST", "/v1/login", fields, X_Forwarded_For="10.0.0.1")).status == 403
    fields = {"name": "ann", "password": PASSWORD}
    assert (await server.ask("POST", "/v1/login", fields, X_Forwarded_For="10.0.0.1")).status == 429
    # What a client claims before the proxy's word counts for nothing.
    assert (await server.ask("POST", "/v1/login", fields, X_Forwarded_For="10.0.0.2, 10.0.0.1")).status == 429
    assert (await server.ask("POST", "/v1/login", fields, X_Forwarded_For="10.0.0.1, 10.0.0.2")).status == 200
    server.reload()
    assert (await server.ask("POST", "/v1/login", fields, X_Forwarded_For="10.0.0.1")).status == 200


async def test_nowhere_to_send_somebody(server: GateServer) -> None:
    await server.register("ann")
    assert server.assembly.status is not None
    await server.assembly.status.drain("chat1", True)
    reply = await server.post("/v1/login", name="ann", password=PASSWORD)
    assert (reply.status, reply.error) == (503, "no_server")


@pytest.mark.parametrize("problem", [Unavailable("the disk is full"), ZeroDivisionError("inside")])
async def test_what_fails_inside(
    server: GateServer, problem: Exception, monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any
) -> None:
    async def fail(*arguments: object) -> None:
        raise problem

    with monkeypatch.context() as broken:
        broken.setattr(server.assembly.store, "create_account", fail)
        reply = await server.post("/v1/accounts", name="ann", password=PASSWORD)
    bug = isinstance(problem, ZeroDivisionError)
    assert (reply.status, reply.error) == ((500, "internal") if bug else (503, "unavailable"))
    assert b"inside" not in reply.raw
    assert len(flush_logged_errors(ZeroDivisionError)) == bug
    await server.register("ann")


async def test_with_the_shared_state_away(server: GateServer, monkeypatch: pytest.MonkeyPatch) -> None:
    await server.register("ann")
    token = await server.log_in("ann")

    async def away(*arguments: object) -> None:
        raise Unavailable("the shared state is away")

    with monkeypatch.context() as broken:
        for name in ("failures", "fail", "assign", "snapshot", "token_digest", "set_code", "try_code"):
            broken.setattr(server.assembly.state, name, away)
        assert (await server.post("/v1/login", name="ann", password=PASSWORD)).error == "unavailable"
        assert (await server.post("/v1/codes", email=ANN, purpose="reset")).error == "unavailable"
        assert (await server.ask("GET", "/v1/profile", **token)).error == "unavailable"
        assert (await server.post("/v1/accounts", name="bob", password=PASSWORD)).status == 201


async def test_a_stop_answers_what_is_under_way(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from flux.gate import gate

    monkeypatch.setattr(gate, "STOP_WITHIN", 0.05)
    server = await GateServer(tmp_path).start()
    Mailbox.held = Deferred()
    asking = Deferred.fromCoroutine(server.post("/v1/codes", email=ANN, purpose="reset"))
    while not server.assembly.gate.gate.tasks:  # type: ignore[union-attr]
        from twisted.internet import reactor
        from twisted.internet.task import deferLater

        await deferLater(reactor, 0.001)
    await server.stop()
    reply = await asking
    assert (reply.status, reply.error) == (503, "unavailable")


def test_every_error_has_a_status() -> None:
    """But those that only a line protocol knows."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FluxError)]
    elsewhere = {"unknown_type", "line_too_long", "not_logged_in", "already_logged_in"}
    assert set(STATUS) == {kind.name for kind in kinds} - elsewhere
    assert all(400 <= status <= 503 for status in STATUS.values())
