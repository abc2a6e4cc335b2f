"""Long answers take turns: of those that are ready at the same time, each turn of the reactor writes one.

A store may bring what many have asked for at once, and a long answer takes milliseconds to encode and to write.
"""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

LONG = 64 * 1024
"""Bytes from which on an answer is a long one."""


class Turns:
    """Who may write an answer that may be long."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._used = False
        # At most one for each connection: the next request waits until this one is answered.
        self._waiting: deque[Deferred[None]] = deque()

    async def free(self) -> None:
        """Return once this turn had no long answer yet; in the order of the calls."""
        if self._used or self._waiting:
            turn: Deferred[None] = Deferred()
            self._waiting.append(turn)
            await turn

    def use(self) -> None:
        """This turn had a long answer."""
        if not self._used:
            self._used = True
            self._clock.callLater(0, self._next)

    def _next(self) -> None:
        self._used = False
        while self._waiting and not self._used:
            self._waiting.popleft().callback(None)
