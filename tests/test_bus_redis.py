"""The bus in Redis: the contract on a real server."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import pytest_twisted
from bus_contract import BusContract, Recorder, kick
from redis_parts import new_prefix, parts
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater


@pytest.fixture
def prefix() -> str:
    return new_prefix()


@pytest_twisted.async_yield_fixture
async def bus(redis_server, prefix):
    _, bus = parts(redis_server.url, prefix)
    await bus.start()
    yield bus
    await bus.stop()


@pytest_twisted.async_yield_fixture
async def other_bus(redis_server, prefix):
    _, bus = parts(redis_server.url, prefix)
    await bus.start()
    yield bus
    await bus.stop()


@pytest.fixture
def settle(bus, other_bus):
    """A mark goes through each publisher to each subscriber: what was published before it has arrived before it."""
    numbers = itertools.count(1)

    async def settle() -> None:
        from twisted.internet import reactor

        for listening in (bus, other_bus):
            for publishing in (bus, other_bus):
                if not (listening.connected and publishing.connected):
                    continue
                mark, number = Recorder(), next(numbers)
                await listening.listen("mark", number, mark)
                await publishing.publish("mark", number, kick(1))
                while not mark.events:
                    await deferLater(reactor, 0.001)

    return settle


class TestRedisBus(BusContract):
    pass


# --- gaps --------------------------------------------------------------------


async def test_a_gap_is_told_of_when_a_new_subscription_is_confirmed(bus, monkeypatch) -> None:
    """Whoever looks for what was missed before that may miss what comes in between."""
    await bus.listen("a", 1, Recorder())
    asked: Deferred[None] = Deferred()
    confirmed: Deferred[None] = Deferred()
    true = bus._subscriptions.command

    async def late(*words: Any) -> None:
        await true(*words)
        asked.callback(None)
        await confirmed

    monkeypatch.setattr(bus._subscriptions, "command", late)
    sink = Recorder()
    listening = Deferred.fromCoroutine(bus.listen("b", 1, sink))
    await asked
    assert sink.seen == []
    confirmed.callback(None)
    await listening
    assert sink.seen == ["gap"]


async def test_a_gap_is_told_of_when_a_new_connection_has_all_subscriptions(bus) -> None:
    sinks = [Recorder(), Recorder()]
    for number, sink in enumerate(sinks):
        await bus.listen("a", number, sink)
        assert sink.seen == ["gap"]
    confirmations: list[Deferred[None]] = []

    class NewConnection:
        def on_push(self, arrived: Any) -> None:
            pass

        def command(self, word: str, channel: bytes) -> Deferred[None]:
            assert word == "SUBSCRIBE"
            confirmations.append(Deferred())
            return confirmations[-1]

    subscribing = Deferred.fromCoroutine(bus._subscribe(NewConnection()))
    assert len(confirmations) == 3
    for confirmation in confirmations:
        assert [sink.seen for sink in sinks] == [["gap"]] * 2
        confirmation.callback(None)
    await subscribing
    assert [sink.seen for sink in sinks] == [["gap", "gap"]] * 2
