"""The shared state in Redis: the contract on a real server."""

from __future__ import annotations

import pytest
import pytest_twisted
from redis_parts import new_prefix, parts
from state_contract import StateContract
from twisted.internet.task import deferLater


@pytest_twisted.async_yield_fixture
async def state(redis_server):
    state, _ = parts(redis_server.url, new_prefix())
    await state.start()
    yield state
    await state.stop()


@pytest.fixture
def elapse():
    async def elapse(seconds: float) -> None:
        from twisted.internet import reactor

        await deferLater(reactor, seconds)

    return elapse


class TestRedisState(StateContract):
    second = 0.05
