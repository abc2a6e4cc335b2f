"""How fast each account may go on, and each connection without one: a burst, then one more per interval
(GCRA, ITU-T I.371).

::

    due ────────────────────────┐  when all that was let through would have come at the long-term rate
    now ──────┐                 │
              ├─── debt ────────┤  at most a burst: more has to wait until so much of it has passed
              └─────────────────┴──> time

The debt is the account's, whichever connection it comes by: who connects again owes what was owed before.  An account
is remembered while it is in debt, so the table is as large as the number of those who asked for something just now.
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import nlargest
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

MOST = 100_000
"""Accounts remembered at once; of more, those that owe least are forgotten."""


class Pace(Generic[K]):
    """The debts of accounts.

    ``K`` is what stands for an account.
    """

    def __init__(self) -> None:
        self._due: dict[K, float] = {}

    def __len__(self) -> int:
        """Accounts that are remembered."""
        return len(self._due)

    def wait(self, account: K, interval: float, burst: int, now: float) -> float:
        """Seconds until one more of this account is within its pace; 0 or less: it is already."""
        return self._due.get(account, now) - now - (burst - 1) * interval

    def take(self, account: K, interval: float, now: float, count: int = 1) -> None:
        """So many more of this account were let through."""
        self._due[account] = max(self._due.get(account, now), now) + count * interval

    def prune(self, now: float) -> None:
        """Forget who owes nothing any more; to be called now and then."""
        self._due = {account: due for account, due in self._due.items() if due > now}
        if len(self._due) > MOST:
            self._due = dict(nlargest(MOST, self._due.items(), key=lambda owed: owed[1]))
