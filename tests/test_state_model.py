"""Any calls in any order: the shared state in Redis answers as the one in memory does."""

from __future__ import annotations

import random
from typing import Any

import pytest
from msgspec.structs import replace
from redis_parts import new_prefix, started
from twisted.internet.task import Clock

from flux.backends.memory import MemoryState
from flux.model.placement import Choice, Lease, Renewal, Snapshot
from flux.model.sessions import Route

CALLS = 800
NODES = ("a", "b", "c d")
LONG = 3600.0
"""Seconds: nothing lapses by itself here."""


class Calls:
    """Draws calls: a method's name and its arguments.

    A boot that has lost its lease does not get one again, as that of a process that has ended: whether routes
    without a lease are kept until then is nobody's concern.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        #: The highest boot of each node that had a lease, and whether it was retired.
        self._boots: dict[str, tuple[int, bool]] = dict.fromkeys(NODES, (0, True))

    def draw(self) -> tuple[str, tuple[Any, ...]]:
        rng = self._rng
        name = rng.choice(
            ["renew"] * 4 + ["claim"] * 6 + ["release"] * 3 + ["assign"] * 3 + ["routes"] * 3 + ["snapshot", "retire"]
            + ["offend"] * 3 + ["banned", "pardon", "drain"]
            + ["token_digest", "revoke", "fail", "failures", "set_code", "try_code", "try_code"]
        )  # fmt: skip
        return name, getattr(self, f"_{name}")()

    def _uid(self) -> int:
        return self._rng.choice((1, 2, 3, 4, 5, 2**63 - 1))

    def _uids(self) -> list[int]:
        return self._rng.sample((1, 2, 3, 4, 5, 2**63 - 1), self._rng.randrange(1, 5))

    def _place(self) -> tuple[str, int]:
        """A node and a boot of it that has or had a lease."""
        node = self._rng.choice(NODES)
        boot, _ = self._boots[node]
        return node, boot - (self._rng.random() < 0.2 and boot > 0)

    def _route(self) -> Route:
        return Route(*self._place(), self._rng.randrange(5))

    def _renew(self) -> tuple[Any, ...]:
        rng = self._rng
        node = rng.choice(NODES)
        boot, retired = self._boots[node]
        if boot > 1 and rng.random() < 0.1:
            boot -= 1
        else:
            boot += retired or rng.random() < 0.1
            self._boots[node] = boot, False
        lease = Lease(node, boot, "h", 1, rng.randrange(9), rng.randrange(3), 1, LONG)
        return lease, [(uid, rng.randrange(1, 6)) for uid in self._uids()]

    def _retire(self) -> tuple[Any, ...]:
        node, boot = self._place()
        if self._boots[node][0] == boot:
            self._boots[node] = boot, True
        return node, boot

    def _drain(self) -> tuple[Any, ...]:
        return self._rng.choice(NODES), self._rng.random() < 0.5

    def _snapshot(self) -> tuple[Any, ...]:
        return ()

    def _assign(self) -> tuple[Any, ...]:
        rng = self._rng
        choices = [Choice(self._uid(), rng.choice(NODES), rng.randbytes(4)) for _ in range(rng.randrange(1, 5))]
        return choices, LONG, LONG

    def _claim(self) -> tuple[Any, ...]:
        return self._uid(), self._route(), self._rng.random() < 0.7

    def _release(self) -> tuple[Any, ...]:
        return self._uid(), self._route()

    def _routes(self) -> tuple[Any, ...]:
        return (self._uids(),)

    def _token_digest(self) -> tuple[Any, ...]:
        return (self._uid(),)

    _revoke = _token_digest

    def _fail(self) -> tuple[Any, ...]:
        return [self._rng.choice("xyz")], LONG

    def _failures(self) -> tuple[Any, ...]:
        return (["x", "y", "z"],)

    def _offend(self) -> tuple[Any, ...]:
        return {address: self._rng.randrange(1, 4) for address in self._rng.sample("xyz", 2)}, 9, LONG, LONG

    def _banned(self) -> tuple[Any, ...]:
        return ()

    def _pardon(self) -> tuple[Any, ...]:
        return (self._rng.choice("xyz"),)

    def _set_code(self) -> tuple[Any, ...]:
        return self._rng.choice("xy"), self._rng.choice((b"1", b"2", b"3")), LONG

    def _try_code(self) -> tuple[Any, ...]:
        return self._rng.choice("xy"), self._rng.choice((b"1", b"2", b"3")), 3


def comparable(answer: Any) -> Any:
    """An answer without what depends on a clock or is not promised."""
    if isinstance(answer, Snapshot):
        nodes = sorted((replace(node, heartbeat_age=0.0) for node in answer.nodes), key=lambda node: node.name)
        return replace(answer, nodes=tuple(nodes), since="")
    if isinstance(answer, Renewal):
        lost, restored = tuple(sorted(answer.lost)), tuple(sorted(answer.restored))
        # Who is told of the departed, and when, is the state's matter.
        return replace(answer, lost=lost, restored=restored, strays=(), departed=())
    if isinstance(answer, dict):
        return {key: None if isinstance(value, float) else value for key, value in answer.items()}
    if isinstance(answer, list):
        return [count for count, _ in answer]
    return answer


@pytest.mark.parametrize("seed", range(3))
async def test_redis_answers_as_memory_does(redis_server, seed: int) -> None:
    calls = Calls(seed)
    memory = MemoryState(Clock().seconds)
    async with started(redis_server.url, new_prefix()) as (redis, _):
        for number in range(CALLS):
            name, arguments = calls.draw()
            expected = comparable(await getattr(memory, name)(*arguments))
            assert comparable(await getattr(redis, name)(*arguments)) == expected, (number, name, arguments)
