"""The shared state in Redis: the contract on a real server, and what is left in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import pytest_twisted
from redis_parts import admin, lease, new_prefix, parts, started
from state_contract import StateContract
from twisted.internet.task import deferLater

from flux.backends.redis import scripts
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


async def test_every_key_is_documented_with_its_type_life_and_owner(redis_server) -> None:
    page = (Path(__file__).parent.parent / "docs" / "operations.md").read_text("utf-8")
    row = re.compile(r"^\| `flux:(\S+)` \| (.+?) \| (.+?) \| (.+?) \|", re.MULTILINE)
    rows = {name: (kind, lives, owner) for name, kind, lives, owner in row.findall(page)}
    prefix = new_prefix()
    found = {}
    async with started(redis_server.url, prefix) as (state, _), admin(redis_server) as root:
        for owner, call in (
            ("chat servers", lambda: state.renew(lease(), [(1, 1)])),
            ("status service", lambda: state.drain("b", True)),
            ("status service", lambda: state.assign([Choice(2, "a", b"d"), Choice(3, "b", b"d")], 60, 60)),
            ("chat servers", lambda: state.claim(2, Route("a", 1, 1), True)),
            ("chat servers, gates", lambda: state.fail(["k"], 60)),
            ("chat servers, gates", lambda: state.offend({"10.0.0.1": 1}, 1, 60, 60)),
            ("gates", lambda: state.set_code("k", b"d", 60)),
            ("gates", lambda: state.try_code("k", b"e", 3)),
        ):
            await call()
            for key in await root.command("KEYS", f"{prefix}*"):
                name = re.sub(r"(reserved|arrived):.*", r"\1:NODE", key.decode().removeprefix(prefix))
                name = re.sub(r"^code:.*", "code:DIGEST", re.sub(r"^token:.*", "token:ACCOUNT", name))
                kind = (await root.command("TYPE", key)).decode()
                lapses = await root.command("PTTL", key) > 0
                # Whoever makes it owns it, and is named first.
                found.setdefault(name, ({"zset": "sorted set"}.get(kind, kind), lapses, owner))
    # This one is deleted by the script that makes it.
    assert set(rows) - set(found) == {"check"}
    for name, (kind, lapses, owner) in found.items():
        assert kind == rows[name][0], name
        assert rows[name][2].startswith(owner), name
        assert lapses == (rows[name][1] not in ("for ever", "until it is taken back")), name


def test_a_start_tries_every_command_that_scripts_use() -> None:
    """A user who may not use one is told so then, and not by the first call that needs it."""
    # That one has channels for keys, so the bus tries it.
    used, tried = set(), {"PUBLISH"}
    for path in Path(scripts.__file__).parent.glob("*.lua"):
        found = set(re.findall(r"(?:call|each)\('([A-Z]+)'", path.read_text("utf-8")))
        used |= found
        if path.stem in ("check", "common"):
            tried |= found
    assert len(used) > 20
    assert used == tried


async def test_bans_are_bounded_and_the_longest_stay(redis_server, monkeypatch) -> None:
    monkeypatch.setattr(redis_state, "MOST_BANS", 3)
    async with started(redis_server.url, new_prefix()) as (state, _):
        for number in range(6):
            await state.offend({f"10.0.0.{number}": 1}, 1, 60, 60 + number)
        assert sorted(await state.banned()) == ["10.0.0.3", "10.0.0.4", "10.0.0.5"]
