"""The bus in Redis: the contract on a real server."""

from __future__ import annotations

import itertools

import pytest
import pytest_twisted
from bus_contract import BusContract, Recorder, kick
from redis_parts import new_prefix, parts
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
