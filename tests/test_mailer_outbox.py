"""Mail on its way: how often it is tried, how many at a time, and for how long; and the mailer for development."""

from __future__ import annotations

import random
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from zope.interface.verify import verifyObject

from flux.backends.mailers import LogMailer, Outbox
from flux.backends.mailers import outbox as outbox_module
from flux.backends.mailers.outbox import Mail, NoSuchAddress, NotNow, Rejected
from flux.errors import BadRequest, Unavailable
from flux.interfaces import IMailer


class Script:
    """A post that does as it is told, one word per attempt; the last word counts from then on."""

    def __init__(self, *words: Exception | None) -> None:
        self.words = list(words)
        self.mails: list[Mail] = []
        self.hanging: list[Deferred[None]] = []

    def start(self) -> None:
        pass

    async def deliver(self, mail: Mail) -> None:
        self.mails.append(mail)
        word = self.words.pop(0) if len(self.words) > 1 else self.words[0]
        if isinstance(word, HangsError):
            self.hanging.append(Deferred())
            await self.hanging[-1]
        elif word is not None:
            raise word

    async def check(self) -> str:
        await self.deliver(Mail("", "", "", ""))
        return "there"


class HangsError(Exception):
    pass


def outbox(*words: Exception | None, deadline: float = 20.0) -> tuple[Outbox, Script, Clock]:
    clock, script = Clock(), Script(*words)
    return Outbox(script, clock, deadline, random.Random(1)), script, clock


def sending(mailer: Outbox, to: str = "ann@example.org") -> Deferred[None]:
    return Deferred.fromCoroutine(mailer.send(to, "subject", "text"))


def advance(clock: Clock, seconds: float) -> None:
    for _ in range(round(seconds * 10)):
        clock.advance(0.1)


@pytest.mark.parametrize("mailer", [LogMailer(), outbox(None)[0]])
def test_mailers_are_mailers(mailer: Any) -> None:
    verifyObject(IMailer, mailer)


async def test_what_does_not_work_now_is_tried_again_under_the_same_name() -> None:
    mailer, script, clock = outbox(NotNow("busy"), NotNow("busy"), None)
    sent = sending(mailer)
    assert (len(script.mails), sent.called) == (1, False)
    advance(clock, 3)
    await sent
    assert len(script.mails) == 3
    assert len({mail.ident for mail in script.mails}) == 1


async def test_mails_have_different_names() -> None:
    mailer, script, _ = outbox(None)
    for _ in range(2):
        await sending(mailer)
    assert len({mail.ident for mail in script.mails}) == 2


async def test_what_does_not_work_in_time_is_an_error(flush_logged_errors: Any) -> None:
    mailer, script, clock = outbox(NotNow("server a: busy"), deadline=10.0)
    sent = sending(mailer)
    advance(clock, 9.9)
    assert not sent.called
    advance(clock, 0.2)
    with pytest.raises(Unavailable) as told:
        await sent
    assert 4 <= len(script.mails) <= 12
    # What went wrong is for the log and not for everybody.
    assert "server a" not in str(told.value)
    [event] = flush_logged_errors()
    assert "server a: busy; given up after 10 s" in event["why"]
    assert clock.getDelayedCalls() == []


async def test_an_attempt_that_hangs_is_cancelled_at_the_deadline(flush_logged_errors: Any) -> None:
    mailer, script, clock = outbox(NotNow("busy"), HangsError(), deadline=5.0)
    sent = sending(mailer)
    advance(clock, 5.1)
    with pytest.raises(Unavailable):
        await sent
    assert script.hanging[0].called
    assert "busy" in flush_logged_errors()[0]["why"]


@pytest.mark.parametrize(
    ("word", "error", "logged"), [(Rejected("login refused"), Unavailable, 1), (NoSuchAddress("550"), BadRequest, 0)]
)
async def test_what_cannot_work_is_not_repeated(
    word: Exception, error: type[Exception], logged: int, flush_logged_errors: Any
) -> None:
    mailer, script, _ = outbox(word)
    with pytest.raises(error):
        await sending(mailer)
    assert len(script.mails) == 1
    assert len(flush_logged_errors()) == logged


async def test_a_few_at_a_time_and_no_more_than_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "MOST_WAITING", 20)
    mailer, script, _ = outbox(HangsError())
    sent = [sending(mailer) for _ in range(outbox_module.MOST_WAITING)]
    assert len(script.mails) == outbox_module.AT_ONCE
    with pytest.raises(Unavailable, match="too much"):
        await sending(mailer)
    script.words = [None]
    for hanging in list(script.hanging):
        hanging.callback(None)
    for each in sent:
        await each
    await sending(mailer)


async def test_who_waits_between_attempts_takes_nobodys_turn() -> None:
    mailer, script, clock = outbox(*[NotNow("busy")] * outbox_module.AT_ONCE, None)
    refused = [sending(mailer) for _ in range(outbox_module.AT_ONCE)]
    await sending(mailer, "bob@example.org")
    assert script.mails[-1].to == "bob@example.org"
    advance(clock, 2)
    for each in refused:
        await each


async def test_giving_up_leaves_nothing() -> None:
    mailer, script, clock = outbox(NotNow("busy"), HangsError())
    for seconds in (0, 2):
        sent = sending(mailer)
        advance(clock, seconds)
        sent.cancel()
        with pytest.raises(CancelledError):
            await sent
    assert script.hanging[0].called
    assert clock.getDelayedCalls() == []


async def test_after_the_stop_nothing_is_sent() -> None:
    mailer, script, _ = outbox(None)
    await mailer.stop()
    with pytest.raises(Unavailable):
        await sending(mailer)
    assert script.mails == []


@pytest.mark.parametrize("word", [NotNow("dead"), Rejected("no")])
async def test_checking_once(word: Exception) -> None:
    mailer, script, _ = outbox(word)
    with pytest.raises(Unavailable, match=str(word)):
        await mailer.check()
    assert len(script.mails) == 1


async def test_the_log_mailer() -> None:
    with capturedLogs() as logged:
        await LogMailer().send("ann@example.org", "Code", "It is {123456}")
    [event] = logged
    assert (event["to"], event["text"]) == ("ann@example.org", "It is {123456}")
    assert "codes included" in await LogMailer().check()
