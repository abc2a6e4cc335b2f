"""The shared state in Redis: the contract on a real server, and what is left in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import pytest_twisted
from redis_parts import admin, lease, new_prefix, parts, started
from state_contract import StateContract
from twisted.internet.task import deferLater

from flux.backends.redis import state as redis_state
from flux.model.placement import Choice
from flux.model.sessions import Route


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
    second = 0.08


async def test_every_key_is_documented_with_its_type_and_life(redis_server) -> None:
    page = (Path(__file__).parent.parent / "docs" / "operations.md").read_text("utf-8")
    rows = {
        name: (kind, lives) for name, kind, lives in re.findall(r"^\| `flux:(\S+)` \| (.+?) \| (.+?) \|", page, re.M)
    }
    prefix = new_prefix()
    async with started(redis_server.url, prefix) as (state, _), admin(redis_server) as root:
        await state.renew(lease(), [(1, 1)])
        await state.drain("b", True)
        await state.assign([Choice(2, "a", b"d"), Choice(3, "b", b"d")], 60, 60)
        await state.claim(2, Route("a", 1, 1), True)
        await state.fail(["k"], 60)
        await state.offend({"10.0.0.1": 1}, 1, 60, 60)
        await state.set_code("k", b"d", 60)
        await state.try_code("k", b"e", 3)
        found = {}
        for key in await root.command("KEYS", f"{prefix}*"):
            name = re.sub(r"(reserved|arrived):.*", r"\1:NODE", key.decode().removeprefix(prefix))
            name = re.sub(r"^code:.*", "code:DIGEST", re.sub(r"^token:.*", "token:ACCOUNT", name))
            kind = {"zset": "sorted set"}.get(await root.command("TYPE", key), await root.command("TYPE", key))
            found[name] = (kind, await root.command("PTTL", key) > 0)
    # This one is deleted by the script that makes it.
    assert set(rows) - set(found) == {"check"}
    for name, (kind, lapses) in found.items():
        assert kind == rows[name][0], name
        assert lapses == (rows[name][1] not in ("for ever", "until it is taken back")), name


async def test_bans_are_bounded_and_the_longest_stay(redis_server, monkeypatch) -> None:
    monkeypatch.setattr(redis_state, "MOST_BANS", 3)
    async with started(redis_server.url, new_prefix()) as (state, _):
        for number in range(6):
            await state.offend({f"10.0.0.{number}": 1}, 1, 60, 60 + number)
        assert sorted(await state.banned()) == ["10.0.0.3", "10.0.0.4", "10.0.0.5"]
