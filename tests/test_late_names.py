"""Whoever connects to a name that is still being looked up: what it hears of its cancellation, and that its owner ends.

Twisted fails such a connection with ``DNSLookupError``, as if the name did not exist: loops would go on after that.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from late_names import LateNames
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.testing import MemoryReactorClock

from flux.addresses import HostPort
from flux.backends.mailers.outbox import Mail
from flux.backends.mailers.smtp import SmtpPost
from flux.backends.redis.dial import Dialer, Server
from flux.backends.redis.link import LONGEST_WAIT, Link
from flux.backends.redis.url import parse_url
from flux.cli.check import answers
from flux.config import ChatServer, Settings
from flux.gate.status_client import LONGEST_PAUSE, StatusClient
from flux.httpclient import HttpClient
from flux.lifecycle import DeadlineExceeded, within
from flux.net.relay import Relays, Target
from flux.status.health import HealthChecks

NAME = "name.test"
WHERE = HostPort(NAME, 1)
SERVER = ChatServer("a", host=NAME, port=1)
MAIL = Mail("1", "ann@example.net", "hello", "hello")


def relays(reactor: Any) -> Relays:
    return Relays(1000, 5.0, False, reactor)


CONNECTING: dict[str, Callable[[Any], Awaitable[object]]] = {
    "Redis": lambda reactor: Dialer(parse_url(f"redis://{NAME}"), None, reactor).connect(),
    "a Sentinel": lambda reactor: Dialer(parse_url(f"redis+sentinel://{NAME}/main"), None, reactor).connect(),
    "a mail server": lambda reactor: SmtpPost(reactor, NAME, 25, "none", "a@b.test", "", "", None).deliver(MAIL),
    "a web service": lambda reactor: HttpClient(reactor).request("GET", f"http://{NAME}/", {}),
    "a status service": lambda reactor: StatusClient(reactor, [WHERE]).check(WHERE),
    # Which client it is for is of no interest before there is a connection.
    "a chat server": lambda reactor: relays(reactor).connect(Target(*WHERE), None, ""),  # type: ignore[arg-type]
    "a chat server of a list": lambda reactor: answers(SERVER, Settings(), reactor),
}


@pytest.mark.parametrize("what", CONNECTING)
async def test_who_gives_up_hears_that(what: str) -> None:
    names = LateNames()
    reactor = names.reactor()
    connecting = Deferred.fromCoroutine(within(1, CONNECTING[what](reactor), reactor, what))
    assert names.asked == [NAME]
    connecting.cancel()
    with pytest.raises(CancelledError):
        await connecting
    names.fail()
    assert reactor.getDelayedCalls() == []


@pytest.mark.parametrize("what", CONNECTING)
async def test_a_deadline_is_a_deadline(what: str) -> None:
    names = LateNames()
    reactor = names.reactor()
    connecting = Deferred.fromCoroutine(within(1, CONNECTING[what](reactor), reactor, what))
    reactor.advance(1)
    with pytest.raises(DeadlineExceeded):
        await connecting


async def test_a_check_says_that_there_was_no_answer_in_time() -> None:
    reactor = LateNames().reactor()
    seen: list[tuple[str, str]] = []
    checks = HealthChecks(
        reactor, lambda name: True, lambda *seen_now: seen.append(seen_now), 5.0, 2.0, random.Random(1)
    )
    checks.watch([SERVER])
    reactor.advance(2)
    assert seen == [("a", "no answer within 2 s")]
    await checks.stop()


# --- those who try again for as long as they live ---


async def status_client(reactor: MemoryReactorClock) -> StatusClient:
    client = StatusClient(reactor, [WHERE])
    await client.start()
    return client


class OnceUp(Dialer):
    """Has been connected once, to a server that is gone by now."""

    async def connect(self) -> Any:
        self.connect = super().connect  # type: ignore[method-assign] - from now on
        gone = SimpleNamespace(
            alive=False, lost=succeed(None), where="here", reason="it is gone", close=lambda why: None
        )
        return gone, Server()


async def link(reactor: MemoryReactorClock) -> Link:
    link = Link(OnceUp(parse_url(f"redis://{NAME}"), None, reactor), reactor, "commands")
    await link.start()
    reactor.advance(LONGEST_WAIT)
    return link


@pytest.mark.parametrize("owner", [status_client, link])
async def test_a_stop_waits_for_no_name_server(owner: Callable[[Any], Awaitable[Any]]) -> None:
    names = LateNames()
    reactor = names.reactor()
    one = await owner(reactor)
    assert names.asked == [NAME]
    stopped = Deferred.fromCoroutine(one.stop())
    assert stopped.called
    await stopped
    names.fail()
    reactor.advance(LONGEST_PAUSE)
    assert (names.asked, reactor.getDelayedCalls()) == ([NAME], [])
