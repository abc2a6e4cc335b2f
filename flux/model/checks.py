"""What ``flux check`` tries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple


class Step(NamedTuple):
    """One thing that is tried.

    :ivar name: in a few words.
    :ivar attempt: tries it: a text that it returns is shown, an error is what is wrong and what to do.
    :ivar longer: seconds that it may take beyond those that every step may.
    """

    name: str
    attempt: Callable[[], Awaitable[object]]
    longer: float = 0.0

    def of(self, what: str) -> Step:
        """The same, named as one of ``what``: "store: opens"."""
        return self._replace(name=f"{what}: {self.name}")
