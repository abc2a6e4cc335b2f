"""Right passwords, too many of them: they are refused after a while, and nobody else waits for them."""

from __future__ import annotations

import threading

import pytest
import pytest_twisted
from accounts_parts import GOOD, HOME, MAIL, accounts_of, verified
from argon2 import PasswordHasher
from chat_server import ChatServer
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from flux.accounts.accounts import Accounts
from flux.errors import PasswordInvalid, RateLimited


@pytest_twisted.async_yield_fixture
async def server(tmp_path):
    server = await ChatServer(tmp_path).start()
    yield server
    await server.stop()


@pytest.fixture
def accounts(server: ChatServer) -> Accounts:
    return accounts_of(server)


class Hashing:
    """Counts passwords that are looked at, and has a clock of its own."""

    def __init__(self, server: ChatServer, monkeypatch: pytest.MonkeyPatch, per_minute: int) -> None:
        self.clock = Clock()
        monkeypatch.setattr(server, "reactor", self.clock)
        self.accounts = accounts_of(server, limits__token_logins_per_minute=per_minute)
        self.count = 0

        class Counting(PasswordHasher):
            def verify(hasher, stored, password):  # noqa: N805 - self is the one around
                self.count += 1
                return super().verify(stored, password)

        monkeypatch.setattr(server.passwords, "_hasher", Counting(time_cost=1, memory_cost=8, parallelism=1))


async def test_right_passwords_have_a_pace_and_cost_no_hash_beyond_it(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashing = Hashing(server, monkeypatch, 3)
    accounts = hashing.accounts
    ann = await verified(accounts, "ann", MAIL)
    await accounts.register("bob", GOOD, HOME, "c1")
    for who in ({"name": "ann"}, {"uid": ann}, {"name": "ANN"}):
        with pytest.raises(PasswordInvalid):
            await accounts.authenticate("another", HOME, "c1", **who)
        await accounts.authenticate(GOOD, HOME, "c1", **who)
    hashing.count = 0
    for _ in range(5):
        with pytest.raises(RateLimited, match="too many logins of this account") as refused:
            await accounts.authenticate(GOOD, HOME, "c1", name="ann")
        assert refused.value.retry_after == 20_000
        with pytest.raises(RateLimited):
            await accounts.change_password(ann, GOOD, GOOD, HOME, "c1")
    assert hashing.count == 0
    # Not its owner elsewhere, nor others here; nor does it show whose an e-mail address is.
    await accounts.authenticate(GOOD, "10.0.0.2", "c2", name="ann")
    await accounts.authenticate(GOOD, HOME, "c1", name="bob")
    await accounts.authenticate(GOOD, HOME, "c1", email=MAIL)
    hashing.clock.advance(20)
    await accounts.authenticate(GOOD, HOME, "c1", name="ann")
    with pytest.raises(RateLimited):
        await accounts.authenticate(GOOD, HOME, "c1", name="ann")
    accounts.report()
    hashing.clock.advance(60)
    accounts.report()
    assert len(accounts._by_password._pace) == 0
    accounts.reload(server.settings)
    for _ in range(5):
        await accounts.authenticate(GOOD, HOME, "c1", name="ann")


async def test_changes_of_the_password_count_as_logins_do(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = Hashing(server, monkeypatch, 3).accounts
    ann = await accounts.register("ann", GOOD, HOME, "c1")
    for _ in range(3):
        await accounts.change_password(ann, GOOD, GOOD, HOME, "c1")
    for asked in (
        accounts.change_password(ann, GOOD, GOOD, HOME, "c1"),
        accounts.authenticate(GOOD, HOME, "c1", name="ann"),
    ):
        with pytest.raises(RateLimited):
            await asked


async def test_who_has_a_token_keeps_nobody_with_the_password_out(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = Hashing(server, monkeypatch, 3).accounts
    ann = await accounts.register("ann", GOOD, HOME, "c1")
    for _ in range(3):
        accounts.pace_token(ann, HOME)
    with pytest.raises(RateLimited):
        accounts.pace_token(ann, HOME)
    assert (await accounts.authenticate(GOOD, HOME, "c1", name="ann")).id == ann


async def test_right_passwords_over_the_pace_are_no_offences(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = Hashing(server, monkeypatch, 1).accounts
    offences: list[str] = []
    monkeypatch.setattr(accounts._throttle._bans, "offence", lambda kind, address: offences.append(kind))
    await accounts.register("ann", GOOD, HOME, "c1")
    await accounts.authenticate(GOOD, HOME, "c1", name="ann")
    for _ in range(3):
        with pytest.raises(RateLimited):
            await accounts.authenticate(GOOD, HOME, "c1", name="ann")
    assert offences == []
    with capturedLogs() as logged:
        accounts.report()
    assert [formatEvent(event) for event in logged] == [f"3 logins refused from {HOME}: too many"]


async def test_one_address_that_logs_in_a_lot_does_not_make_others_wait(
    server: ChatServer, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[str] = []
    begin = threading.Event()

    class Waiting(PasswordHasher):
        def verify(self, stored, password):
            assert begin.wait(10)
            looked_at.append(password)
            return True

    for name in ("ann", "bob"):
        await accounts.register(name, GOOD, HOME, "c1")
    monkeypatch.setattr(server.passwords, "_hasher", Waiting(time_cost=1, memory_cost=8, parallelism=1))
    try:
        asked = [accounts.authenticate("ann's", "10.9.9.9", "c2", name="ann") for _ in range(30)]
        crowd = [Deferred.fromCoroutine(each) for each in asked]
        await server.until(lambda: server.passwords.waiting == 28)
        victim = Deferred.fromCoroutine(accounts.authenticate("bob's", "10.0.0.2", "c3", name="bob"))
        await server.until(lambda: server.passwords.waiting == 29)
        begin.set()
        await victim
        # After the two that are at work and one more; which of two threads comes first is open.
        assert looked_at.index("bob's") < 6
    finally:
        begin.set()
        await DeferredList(crowd)
