"""Accounts as every port has them: codes, verified addresses, resetting a password."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from accounts_parts import GOOD, HOME, MAIL, accounts_of, verified
from argon2 import PasswordHasher
from chat_server import HASH, ChatServer
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from flux import ending
from flux.accounts.accounts import Accounts
from flux.accounts.codes import LIFETIME, TRIES, Codes
from flux.accounts.rules import check_email
from flux.accounts.throttle import HOUR, LoginThrottle
from flux.backends.memory import MemoryState
from flux.bans import Bans
from flux.chat.node import SWEEP
from flux.config import Settings
from flux.errors import (
    BadRequest,
    CodeExpired,
    CodeWrong,
    EmailMismatch,
    PasswordInvalid,
    RateLimited,
    Unavailable,
    UserExists,
    UserInvalid,
)
from flux.metrics import AccountMetrics


@pytest_twisted.async_yield_fixture
async def server(tmp_path):
    server = await ChatServer(tmp_path).start()
    yield server
    await server.stop()


@pytest.fixture
def accounts(server: ChatServer) -> Accounts:
    return accounts_of(server)


# --- codes -------------------------------------------------------------------


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(time: Time, per_email: int = 5, per_address: int = 30, failures: int = 10) -> Codes:
    return made_on(MemoryState(time), per_email, per_address, failures)


def made_on(state: MemoryState, per_email: int, per_address: int, failures: int) -> Codes:
    metrics, bans = AccountMetrics(), Bans(Settings(), None, state, Clock())
    throttle = LoginThrottle(state, failures, 60, metrics, bans)
    return Codes(state, throttle, per_email, per_address, metrics, bans)


async def test_a_code_is_six_digits_and_works_once() -> None:
    codes = made(Time())
    code = await codes.issue("register", "a@x", HOME)
    assert len(code) == 6
    assert code.isascii()
    assert code.isdigit()
    await codes.check("register", "a@x", code, HOME)
    with pytest.raises(CodeExpired):
        await codes.check("register", "a@x", code, HOME)


async def test_a_code_is_for_one_address_and_one_purpose() -> None:
    codes = made(Time())
    code = await codes.issue("register", "a@x", HOME)
    for purpose, email, error in (("reset", "a@x", CodeWrong), ("register", "b@x", CodeExpired)):
        with pytest.raises(error):
            await codes.check(purpose, email, code, HOME)
    await codes.check("register", "a@x", code, HOME)


async def test_a_code_lapses() -> None:
    codes = made(time := Time())
    code = await codes.issue("reset", "a@x", HOME)
    time.now += LIFETIME - 1
    with pytest.raises(CodeWrong):
        await codes.check("reset", "a@x", "", HOME)
    time.now += 2
    with pytest.raises(CodeExpired):
        await codes.check("reset", "a@x", code, HOME)


async def test_a_new_code_replaces_the_old() -> None:
    codes = made(Time())
    old, new = await codes.issue("reset", "a@x", HOME), await codes.issue("reset", "a@x", HOME)
    if old != new:
        with pytest.raises(CodeWrong):
            await codes.check("reset", "a@x", old, HOME)
    await codes.check("reset", "a@x", new, HOME)


async def test_a_new_code_replaces_one_for_another_purpose() -> None:
    codes = made(Time())
    old = await codes.issue("reset", "a@x", HOME)
    new = await codes.issue("register", "a@x", HOME)
    with pytest.raises(CodeWrong):
        await codes.check("reset", "a@x", old, HOME)
    await codes.check("register", "a@x", new, HOME)
    with pytest.raises(CodeExpired):
        await codes.check("reset", "a@x", old, HOME)


async def test_wrong_codes_use_it_up() -> None:
    codes = made(Time())
    code = await codes.issue("reset", "a@x", HOME)
    for guess in range(TRIES):
        with pytest.raises(CodeWrong):
            await codes.check("reset", "a@x", f"guess {guess}", HOME)
    with pytest.raises(CodeExpired):
        await codes.check("reset", "a@x", code, HOME)


async def test_wrong_codes_count_as_failed_logins() -> None:
    codes = made(Time(), failures=3)
    code = await codes.issue("reset", "a@x", HOME)
    for _ in range(3):
        with pytest.raises(CodeWrong):
            await codes.check("reset", "a@x", "\ud800", HOME)
    with pytest.raises(RateLimited):
        await codes.check("reset", "a@x", code, HOME)
    # Not for its owner elsewhere.
    await codes.check("reset", "a@x", code, "10.0.0.2")


async def test_codes_for_an_address_are_counted_wherever_they_are_asked_for() -> None:
    codes = made(time := Time(), per_email=3)
    for number in range(3):
        await codes.issue("reset", "a@x", f"10.0.0.{number}")
    with pytest.raises(RateLimited) as refused:
        await codes.issue("register", "a@x", "10.0.0.9")
    assert 0 < refused.value.retry_after <= HOUR * 1000
    await codes.issue("reset", "b@x", "10.0.0.9")
    time.now += HOUR + 1
    await codes.issue("reset", "a@x", HOME)


async def test_who_asks_too_much_does_not_use_up_what_others_may_get() -> None:
    codes = made(Time(), per_email=3, per_address=2)
    for email in ("b@x", "c@x"):
        await codes.issue("reset", email, HOME)
    for _ in range(10):
        with pytest.raises(RateLimited):
            await codes.issue("reset", "a@x", HOME)
    await codes.issue("reset", "a@x", "10.0.0.2")


async def test_many_at_once_do_not_all_find_room() -> None:
    codes = made(Time(), per_email=3)
    asked = [Deferred.fromCoroutine(codes.issue("reset", "a@x", HOME)) for _ in range(10)]
    outcomes = [await asking.addErrback(lambda failure: failure.type) for asking in asked]
    assert outcomes.count(RateLimited) == 7


async def test_zero_means_no_limit() -> None:
    codes = made(Time(), per_email=0, per_address=0)
    for _ in range(100):
        await codes.issue("reset", "a@x", HOME)


async def test_only_digests_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    class State(MemoryState):
        async def set_code(self, key: str, digest: bytes, ttl: float) -> None:
            kept.append((key, digest))

    state = State(Time())
    code = await made_on(state, 0, 0, 0).issue("reset", "a@x", HOME)
    [(key, digest)] = kept
    assert code not in key
    assert code.encode() not in digest


# --- rules -------------------------------------------------------------------


@pytest.mark.parametrize("address", ["a@b", "A.b+c@Ex-ample.co.uk", "o'neill@x.org", "1@2.3"])
def test_addresses(address: str) -> None:
    assert check_email(address) == address.lower()


@pytest.mark.parametrize(
    "address",
    ["", "a", "@b", "a@", "a@b@c", "a b@c", "a@b.", "a@.b", "a@-b", "a@b\r\nBcc: c@d", "a\n@b", "a@b\n", "é@b", "a@é",
     "<a@b>", '"a b"@c', "a@b,c@d", "a" * 65 + "@b", "a@" + "b" * 64, "a@" + ".".join(["b" * 63] * 4), "a@[1.2.3.4]"],
)  # fmt: skip
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(BadRequest, match="email"):
        check_email(address)


# --- registering -------------------------------------------------------------


async def test_an_address_with_a_code_logs_in_and_one_without_does_not(accounts: Accounts) -> None:
    ann = await verified(accounts, "ann", MAIL)
    await accounts.register("bob", GOOD, HOME, "c1", email="bob@example.org")
    assert (await accounts.authenticate(GOOD, HOME, "c1", email="ANN@example.ORG")).id == ann
    for unknown in ("bob@example.org", "nobody@example.org"):
        with pytest.raises(PasswordInvalid):
            await accounts.authenticate(GOOD, HOME, "c1", email=unknown)
    with pytest.raises(BadRequest):
        await accounts.authenticate(GOOD, HOME, "c1", email=MAIL, name="ann")
    for wrong in ({}, {"email": "ann"}, {"uid": ann, "name": "ann"}):
        with pytest.raises(BadRequest):
            await accounts.authenticate(GOOD, HOME, "c1", **wrong)


async def test_a_name_that_folds_to_nothing_is_nobody(accounts: Accounts) -> None:
    await accounts.register("ann", GOOD, HOME, "c1")
    with pytest.raises(PasswordInvalid):
        await accounts.authenticate(GOOD, HOME, "c1", name="\u200b")


async def test_the_log_tells_from_where_a_wrong_password_came(accounts: Accounts) -> None:
    """Also of somebody who never gets in."""
    ann = await accounts.register("ann", GOOD, HOME, "c1")
    with capturedLogs() as logged, pytest.raises(PasswordInvalid):
        await accounts.authenticate("another password", "192.0.2.2", "c9", name="ann")
    assert [formatEvent(event) for event in logged] == [f"wrong password for {ann} from 192.0.2.2"]


async def test_a_verified_address_is_taken_once(accounts: Accounts) -> None:
    await verified(accounts, "ann", MAIL)
    with pytest.raises(UserExists, match="address"):
        await verified(accounts, "bob", MAIL.lower())


async def test_a_taken_name_or_a_bad_password_does_not_use_the_code_up(accounts: Accounts) -> None:
    await accounts.register("ann", GOOD, HOME, "c1")
    code = await accounts.codes.issue("register", MAIL.lower(), HOME)
    for name, password, error in (
        ("Ann", GOOD, UserExists),
        ("bob", "short", PasswordInvalid),
        ("\n", GOOD, BadRequest),
    ):
        with pytest.raises(error):
            await accounts.register(name, password, HOME, "c1", email=MAIL, code=code)
    assert await accounts.register("bob", GOOD, HOME, "c1", email=MAIL, code=code) == 2


async def test_a_code_may_be_required(server: ChatServer) -> None:
    accounts = accounts_of(server, gate__require_code="yes")
    with pytest.raises(BadRequest, match="code: missing"):
        await accounts.register("ann", GOOD, HOME, "c1", email=MAIL)
    with pytest.raises(BadRequest, match="code: missing"):
        await accounts.register("ann", GOOD, HOME, "c1", any_password=True)
    accounts.reload(server.settings)
    assert await accounts.register("ann", GOOD, HOME, "c1") == 1


# --- resetting and changing --------------------------------------------------


async def test_a_reset_replaces_the_password_and_revokes_the_token(server: ChatServer, accounts: Accounts) -> None:
    ann = await verified(accounts, "ann", MAIL)
    token = await server.token(ann)
    code = await accounts.codes.issue("reset", MAIL.lower(), HOME)
    reset = await accounts.reset_password(MAIL.upper(), code, "another password", HOME, "c1", name="ANN")
    assert (reset.id, reset.email) == (ann, MAIL)
    assert (await accounts.authenticate("another password", HOME, "c1", name="ann")).id == ann
    with pytest.raises(PasswordInvalid):
        await accounts.authenticate(GOOD, HOME, "c1", name="ann")
    client = await server.connect()
    assert await client.refused("login", id=ann, token=token) == "token_invalid"
    with pytest.raises(CodeExpired):
        await accounts.reset_password(MAIL, code, "a third password", HOME, "c1")


@pytest.mark.parametrize("where", ["the first node", "another node"])
async def test_a_reset_ends_the_session_and_not_the_next_one(
    server: ChatServer, accounts: Accounts, where: str
) -> None:
    running = server.nodes[0] if where == "the first node" else await server.start_node()
    ann = await verified(accounts, "ann", MAIL)
    client = await server.connect(running)
    await client.ok("login", name="ann", password=GOOD)
    code = await accounts.codes.issue("reset", MAIL.lower(), HOME)
    await accounts.reset_password(MAIL, code, "another password", HOME, "c1")
    assert (await client.ended())[-1] == {"type": "kicked", "reason": "password"}
    again = await server.connect(running)
    assert (await again.ok("login", id=ann, password="another password"))["id"] == ann
    assert await again.settled() == []


@pytest.mark.parametrize("lost", ["the route", "the kick"])
async def test_a_reset_ends_a_session_that_could_not_be_told(
    server: ChatServer, accounts: Accounts, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = await verified(accounts, "ann", MAIL)
    client = await server.connect()
    await client.ok("login", name="ann", password=GOOD)
    code = await accounts.codes.issue("reset", MAIL.lower(), HOME)
    if lost == "the route":
        # As after a restart of Redis, until the next heartbeat.
        server.state._routes.clear()  # type: ignore[attr-defined]
    else:
        monkeypatch.setattr(ending, "GONE_WITHIN", 0.05)
        monkeypatch.setattr(server.bus, "publish", lambda node, boot, event: succeed(None))
    await accounts.reset_password(MAIL, code, "another password", HOME, "c1")
    await server.advance(SWEEP)
    assert (await client.ended())[-1]["type"] == "kicked"
    again = await server.connect()
    assert (await again.ok("login", id=ann, password="another password"))["id"] == ann


async def test_a_reset_does_not_end_the_session_of_who_logs_in_meanwhile(
    server: ChatServer, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = await verified(accounts, "ann", MAIL)
    older = await server.connect()
    await older.ok("login", name="ann", password=GOOD)
    code = await accounts.codes.issue("reset", MAIL.lower(), HOME)
    newer = await server.connect()
    publish = server.bus.publish

    async def logged_in_first(*arguments: Any) -> None:
        await newer.ok("login", id=ann, password="another password")
        await publish(*arguments)

    monkeypatch.setattr(server.bus, "publish", logged_in_first)
    await accounts.reset_password(MAIL, code, "another password", HOME, "c1")
    await server.advance(SWEEP)
    assert await newer.settled() == []
    assert (await older.ended())[-1]["type"] == "kicked"


async def test_a_name_that_does_not_belong_to_the_address(accounts: Accounts) -> None:
    await verified(accounts, "ann", MAIL)
    code = await accounts.codes.issue("reset", MAIL.lower(), HOME)
    with pytest.raises(EmailMismatch):
        await accounts.reset_password(MAIL, code, "another password", HOME, "c1", name="bob")
    assert await accounts.authenticate(GOOD, HOME, "c1", name="ann")


@pytest.mark.parametrize("email", ["bob@example.org", "nobody@example.org"])
async def test_who_has_no_verified_address_gets_no_reset(accounts: Accounts, email: str) -> None:
    await accounts.register("bob", GOOD, HOME, "c1", email="bob@example.org")
    code = await accounts.codes.issue("reset", email, HOME)
    with pytest.raises(CodeExpired):
        await accounts.reset_password(MAIL, code, "another password", HOME, "c1")
    # The code itself would be of no use: it is never sent.
    with pytest.raises(UserInvalid):
        await accounts.reset_password(email, code, "another password", HOME, "c1")


async def test_guesses_at_codes_cost_no_hashes_beyond_the_limit(
    server: ChatServer, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    class Counting(PasswordHasher):
        def hash(self, password, **options):
            hashed.append(password)
            return HASH

    monkeypatch.setattr(server.passwords, "_hasher", Counting())
    for _ in range(10):
        with pytest.raises(CodeExpired):
            await accounts.reset_password(MAIL, "000000", GOOD, HOME, "c1")
    assert len(hashed) == 10
    with pytest.raises(RateLimited):
        await accounts.reset_password(MAIL, "000000", GOOD, HOME, "c1")
    assert len(hashed) == 10


async def test_a_bad_password_does_not_use_the_code_up(accounts: Accounts) -> None:
    await verified(accounts, "ann", MAIL)
    code = await accounts.codes.issue("reset", MAIL.lower(), HOME)
    with pytest.raises(PasswordInvalid):
        await accounts.reset_password(MAIL, code, "password1", HOME, "c1")
    await accounts.reset_password(MAIL, code, "another password", HOME, "c1")


async def test_a_reset_counts_though_the_session_cannot_be_ended(server: ChatServer, accounts: Accounts) -> None:
    await verified(accounts, "ann", MAIL)
    code = await accounts.codes.issue("reset", MAIL.lower(), HOME)

    async def away(uid: int) -> None:
        raise Unavailable("away")

    server.state.revoke = away  # type: ignore[method-assign]
    await accounts.reset_password(MAIL, code, "another password", HOME, "c1")
    assert await accounts.authenticate("another password", HOME, "c1", name="ann")


async def test_an_account_gets_an_address_later(server: ChatServer, accounts: Accounts) -> None:
    ann = await accounts.register("ann", GOOD, HOME, "c1")
    await verified(accounts, "bob", "bob@example.org")
    code = await accounts.codes.issue("register", MAIL.lower(), HOME)
    with pytest.raises(CodeWrong):
        await accounts.set_email(ann, MAIL, "0", HOME, "c1")
    await accounts.set_email(ann, MAIL, code, HOME, "c1")
    assert (await accounts.authenticate(GOOD, HOME, "c1", email=MAIL)).email == MAIL
    code = await accounts.codes.issue("register", "bob@example.org", HOME)
    with pytest.raises(UserExists):
        await accounts.set_email(ann, "Bob@example.org", code, HOME, "c1", password=GOOD)


async def test_another_address_takes_the_password(server: ChatServer, accounts: Accounts) -> None:
    ann = await verified(accounts, "ann", MAIL)
    code = await accounts.codes.issue("register", "new@x.org", HOME)
    for password, error in (("", BadRequest), ("another", PasswordInvalid)):
        with pytest.raises(error, match="password: "):
            await accounts.set_email(ann, "new@x.org", code, HOME, "c1", password=password)
    assert (await server.store.credentials(ann, "")).email == MAIL
    # None of that has used the code up.
    assert (await accounts.set_email(ann, "new@x.org", code, HOME, "c1", password=GOOD)).email == MAIL
    assert (await server.store.credentials(ann, "")).email == "new@x.org"


async def test_guesses_at_the_password_for_another_address_are_failed_logins(accounts: Accounts) -> None:
    ann = await verified(accounts, "ann", MAIL)
    for _ in range(10):
        with pytest.raises(PasswordInvalid):
            await accounts.set_email(ann, "new@x.org", "0", HOME, "c1", password="a guess")
    with pytest.raises(RateLimited):
        await accounts.set_email(ann, "new@x.org", "0", HOME, "c1", password=GOOD)
    with pytest.raises(RateLimited):
        await accounts.authenticate(GOOD, HOME, "c1", name="ann")


# --- on the chat port --------------------------------------------------------


async def test_register_with_a_code_on_the_chat_port(server: ChatServer, accounts: Accounts) -> None:
    code = await accounts.codes.issue("register", MAIL.lower(), HOME)
    client = await server.connect()
    fields = {"name": "ann", "password": GOOD, "email": MAIL}
    assert await client.refused("register", **fields, code="no") == "code_wrong"
    assert await client.refused("register", **{**fields, "email": "b@x.org"}, code=code) == "code_expired"
    assert await client.refused("register", **{**fields, "email": ""}, code=code) == "bad_request"
    assert await client.ok("register", **fields, code=code) == {"id": 1, "name": "ann"}
    assert (await server.store.credentials(0, "", MAIL.lower())).id == 1


async def test_the_chat_port_asks_for_codes_too(server: ChatServer) -> None:
    server.reload(gate__require_code="yes")
    client = await server.connect()
    error = await client.fails("register", name="ann", password=GOOD)
    assert error["name"] == "bad_request"
    assert "/v1/codes" in error["detail"]
    numbered = await server.connect()
    numbered.number(4, name="ann", password=GOOD)
    assert (await numbered.numbered(5))["errno"] == 1


# --- a password that is replaced while a login with it is under way ----------


def replace_while_checked(server: ChatServer, uid: int, renewed: str | None = None) -> None:
    """The next password that is right is replaced before anybody is told so."""
    verify = server.passwords.verify

    async def replaced(*arguments: Any) -> tuple[bool, str | None]:
        right, _ = await verify(*arguments)
        server.passwords.verify = verify  # type: ignore[method-assign]
        await server.store.set_password(uid, "the owner's")
        return right, renewed

    server.passwords.verify = replaced  # type: ignore[method-assign]


async def test_a_login_with_the_old_password_is_refused(server: ChatServer, accounts: Accounts) -> None:
    ann = await accounts.register("ann", GOOD, HOME, "c1")
    replace_while_checked(server, ann)
    client = await server.connect()
    # Perhaps by another login that only hashed it anew: whoever tries again learns which.
    assert await client.refused("login", name="ann", password=GOOD) == "unavailable"
    assert await server.state.routes([ann]) == {}
    assert await client.refused("login", name="ann", password=GOOD) == "password_invalid"


async def test_a_renewed_hash_of_the_old_password_does_not_undo_it(server: ChatServer, accounts: Accounts) -> None:
    ann = await accounts.register("ann", GOOD, HOME, "c1")
    replace_while_checked(server, ann, renewed="the thief's")
    with pytest.raises(Unavailable, match="try again"):
        await accounts.authenticate(GOOD, HOME, "c1", name="ann")
    assert (await server.store.credentials(ann, "")).password_hash == "the owner's"


async def test_of_two_changes_with_the_old_password_one_counts(server: ChatServer, accounts: Accounts) -> None:
    ann = await accounts.register("ann", GOOD, HOME, "c1")
    replace_while_checked(server, ann)
    with pytest.raises(Unavailable, match="try again"):
        await accounts.change_password(ann, GOOD, "another password", HOME, "c1")
    assert (await server.store.credentials(ann, "")).password_hash == "the owner's"


async def test_an_address_is_not_replaced_with_the_old_password(server: ChatServer, accounts: Accounts) -> None:
    ann = await verified(accounts, "ann", MAIL)
    code = await accounts.codes.issue("register", "thief@x.org", HOME)
    replace_while_checked(server, ann)
    with pytest.raises(Unavailable, match="try again"):
        await accounts.set_email(ann, "thief@x.org", code, HOME, "c1", password=GOOD)
    assert (await server.store.credentials(ann, "")).email == MAIL


async def test_a_token_for_the_old_password_is_revoked(server: ChatServer, accounts: Accounts) -> None:
    ann = await accounts.register("ann", GOOD, HOME, "c1")
    replace_while_checked(server, ann)
    credentials = await accounts.authenticate(GOOD, HOME, "c1", name="ann")
    token = await server.token(ann)
    with pytest.raises(Unavailable, match="try again"):
        await accounts.confirm(credentials)
    client = await server.connect()
    assert await client.refused("login", id=ann, token=token) == "token_invalid"


@pytest.mark.parametrize("step", ["open_session", "claim"])
async def test_a_token_that_is_revoked_while_a_login_with_it_is_under_way_is_refused(
    server: ChatServer, accounts: Accounts, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = await accounts.register("ann", GOOD, HOME, "c1")
    token = await server.token(ann)
    backend: Any = server.store if step == "open_session" else server.state
    original = getattr(backend, step)

    async def revoked_before(*arguments: Any) -> Any:
        await server.state.revoke(ann)
        assert await server.state.routes([ann]) == {}
        return await original(*arguments)

    monkeypatch.setattr(backend, step, revoked_before)
    client = await server.connect()
    assert await client.refused("login", id=ann, token=token) == "token_invalid"
    await server.until(lambda: not server.node.tasks or not server.node.sessions)
    assert await server.state.routes([ann]) == {}


async def test_a_crowd_that_is_refused_leaves_the_turns_to_others(server: ChatServer, accounts: Accounts) -> None:
    await accounts.register("ann", GOOD, HOME, "c1")
    outcomes: list[str] = []
    crowd = [
        Deferred.fromCoroutine(accounts.authenticate("a guess", "10.9.9.9", "c2", name="ann")) for _ in range(1_000)
    ]
    for each in crowd:
        each.addErrback(lambda failure: outcomes.append(failure.type.__name__))
    await server.until(lambda: len(outcomes) == len(crowd))
    assert set(outcomes) == {"PasswordInvalid", "RateLimited"}
    assert (await accounts.authenticate(GOOD, HOME, "c1", name="ann")).id == 1


async def test_guessing_does_not_tell_whose_an_address_is(accounts: Accounts) -> None:
    await verified(accounts, "ann", MAIL)
    for _ in range(10):
        with pytest.raises(PasswordInvalid):
            await accounts.authenticate("a guess", HOME, "c1", name="ann")
    with pytest.raises(RateLimited):
        await accounts.authenticate("a guess", HOME, "c1", name="ann")
    for email in (MAIL, "somebody@else.example.org"):
        with pytest.raises(PasswordInvalid):
            await accounts.authenticate("a guess", HOME, "c1", email=email)
