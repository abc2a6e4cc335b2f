"""Fills a database with accounts before a server starts on it.

Registering thousands of accounts through the protocol would take minutes of password
hashing.  These have no password at all: the load logs in by token.

Run as ``python -m flux.bench.population ACCOUNTS GROUP_SIZE [SECTION.KEY=VALUE ...]``: accounts get the
ids 1, 2, ...; the first ``GROUP_SIZE`` of them, if it is not 0, share a group, whose id is printed.
A process of its own, because a reactor runs only once in each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from flux.assembly import make_store
from flux.config import load
from flux.interfaces import IStore
from flux.lifecycle import react

#: Calls on the store that wait at the same time: they share transactions.
AT_ONCE = 500


async def populate(store: IStore, accounts: int, group_size: int) -> int:
    """Create ``accounts`` in an empty ``store``, and a group of the first of them.

    :return: the group's id; 0 where ``group_size`` is 0.
    """

    async def create(number: int) -> None:
        await store.create_account(f"bench-{number}", f"bench-{number}", "", f"Bench {number}", "")

    await _each(create, range(1, accounts + 1))
    if not group_size:
        return 0
    group = (await store.group_create(1, "bench", "", False, False)).group

    async def join(uid: int) -> None:
        await store.group_join(uid, group)

    await _each(join, range(2, group_size + 1))
    return group


async def _each(call: Callable[[int], Coroutine[Any, Any, None]], numbers: Sequence[int]) -> None:
    for start in range(0, len(numbers), AT_ONCE):
        calls = [Deferred.fromCoroutine(call(number)) for number in numbers[start : start + AT_ONCE]]
        await gatherResults(calls, consumeErrors=True)


def main(accounts: int, group_size: int, settings: Sequence[str]) -> None:
    """Populate the store that ``settings`` name."""

    async def run(reactor: Any) -> None:
        store = make_store(load(None, settings), reactor)
        await store.start()
        try:
            group = await populate(store, accounts, group_size)
        finally:
            await store.stop()
        sys.stdout.write(f"{group}\n")

    react(run)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
