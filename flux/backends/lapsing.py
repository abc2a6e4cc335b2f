"""Entries that lapse by themselves, without a timer."""

from __future__ import annotations

from collections.abc import ItemsView
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

K = TypeVar("K", int, str)
V = TypeVar("V")


class Lapsing(Generic[K, V]):
    """A dictionary whose entries lapse: a dict for looking up, a heap for what lapses next.

    Replaced and removed entries stay in the heap until they surface or until they
    outnumber the living; so memory is proportional to the living.
    """

    def __init__(self) -> None:
        self._entries: dict[K, tuple[float, V]] = {}
        self._heap: list[tuple[float, K]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def set(self, key: K, value: V, expires: float) -> None:
        """Store ``value`` until the moment ``expires``."""
        self._entries[key] = (expires, value)
        heappush(self._heap, (expires, key))
        if len(self._heap) > 2 * len(self._entries) + 64:
            self._heap = [(expires, key) for key, (expires, _) in self._entries.items()]
            heapify(self._heap)

    def items(self) -> ItemsView[K, tuple[float, V]]:
        """Each key with (when it lapses, value); call :meth:`purge` first."""
        return self._entries.items()

    def get(self, key: K, now: float) -> tuple[float, V] | None:
        """(when it lapses, value), if it has not lapsed."""
        entry = self._entries.get(key)
        return entry if entry is not None and entry[0] > now else None

    def pop(self, key: K) -> V | None:
        """Remove an entry and return its value, lapsed or not."""
        entry = self._entries.pop(key, None)
        return None if entry is None else entry[1]

    def purge(self, now: float) -> None:
        """Remove what has lapsed."""
        while self._heap and self._heap[0][0] <= now:
            self.pop_first()

    def pop_first(self) -> None:
        """Remove the entry that lapses first (or a leftover of one that is gone already)."""
        expires, key = heappop(self._heap)
        entry = self._entries.get(key)
        if entry is not None and entry[0] == expires:
            self.pop(key)


class Reservations(Lapsing[int, str]):
    """Which server each account has been sent to, and which of those have arrived there."""

    def __init__(self) -> None:
        super().__init__()
        self._accounts: dict[str, set[int]] = {}
        self._marked: dict[str, set[int]] = {}

    def set(self, key: int, value: str, expires: float) -> None:
        """Reserve a place at server ``value`` for account ``key`` instead of where it had one."""
        self.pop(key)
        super().set(key, value, expires)
        self._accounts.setdefault(value, set()).add(key)

    def pop(self, key: int) -> str | None:
        """Drop the account's reservation."""
        server = super().pop(key)
        if server is not None:
            for sets in (self._accounts, self._marked):
                accounts = sets.get(server)
                if accounts is not None:
                    accounts.discard(key)
                    if not accounts:
                        del sets[server]
        return server

    def mark(self, uid: int, now: float) -> None:
        """The account has logged in; its reservation goes when its server reports the next count."""
        entry = self.get(uid, now)
        if entry is not None:
            self._marked.setdefault(entry[1], set()).add(uid)

    def settle(self, server: str) -> None:
        """The server's count covers those marked: drop them."""
        for uid in tuple(self._marked.get(server, ())):
            self.pop(uid)

    def counts(self) -> dict[str, int]:
        """Reservations per server; call :meth:`purge` first."""
        return {server: len(accounts) for server, accounts in self._accounts.items()}
