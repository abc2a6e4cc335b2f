"""Whose password is looked at next: network addresses by turns, and checks before new hashes.

::

    to be checked     10.0.0.1: a b c d      ──> a e b c d ──┐
                      10.0.0.2: e                            ├──> so many at the same time
    to be hashed      10.0.0.3: f            ──> f ──────────┘    (only while nothing is to be checked)

So whoever asks for much waits behind itself, and everybody else for one password of each address that waits.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from functools import partial

from twisted.internet.defer import Deferred

from flux.addresses import counted
from flux.errors import Unavailable


class Turns:
    """So many work at the same time, and the others wait for their turn.

    :param limit: at least 1.
    :param most: who may wait with passwords to be checked, and with new ones to be hashed.
    """

    def __init__(self, limit: int, most: int) -> None:
        self._free = limit
        self._checks = _Line(most, "too many logins at once; try again in a moment")
        self._hashes = _Line(most, "too many new passwords at once; try again in a moment")
        self._admitting = False

    @property
    def waiting(self) -> int:
        """Those who wait for their turn."""
        return len(self._checks) + len(self._hashes)

    async def acquire(self, address: str, last: bool) -> None:
        """Wait for a turn; every one has to be released.

        :param address: the network address that asks.
        :param last: let all go first who do not say so, those who come later too.
        :raises flux.errors.Unavailable: too many wait; of all addresses, this is the one with most of them.
        """
        if self._free > 0:
            self._free -= 1
            return
        await (self._hashes if last else self._checks).wait(counted(address))

    def release(self) -> None:
        """Let somebody else have the turn, who may run inside this call."""
        self._free += 1
        if self._admitting:
            # Somebody had the turn and is through already, inside the loop below, as in flux.lifecycle.Slots.
            return
        self._admitting = True
        try:
            while self._free > 0 and self.waiting:
                self._free -= 1
                (self._checks if len(self._checks) else self._hashes).next().callback(None)
        finally:
            self._admitting = False


class _Line:
    """Who waits: a queue for each address; the addresses take turns.

    :param most: who may wait. Of more, the last one of the longest queue is refused: nobody is kept out by a crowd
        from elsewhere.
    :param refusal: what that one is told.
    """

    def __init__(self, most: int, refusal: str) -> None:
        # In the order of their turns; none is empty.
        self._queues: OrderedDict[str, deque[Deferred[None]]] = OrderedDict()
        self._most = most
        self._refusal = refusal
        self._length = 0

    def __len__(self) -> int:
        return self._length

    async def wait(self, address: str) -> None:
        turn: Deferred[None] = Deferred(partial(self._leave, address))
        self._queues.setdefault(address, deque()).append(turn)
        self._length += 1
        if self._length > self._most:
            longest = max(self._queues, key=lambda each: (len(self._queues[each]), each == address))
            refused = self._queues[longest][-1]
            self._leave(longest, refused)
            refused.errback(Unavailable(self._refusal))
        await turn

    def next(self) -> Deferred[None]:
        """Who has the turn; waits no more."""
        address, queue = self._queues.popitem(last=False)
        self._length -= 1
        turn = queue.popleft()
        if queue:
            self._queues[address] = queue
        return turn

    def _leave(self, address: str, turn: Deferred[None]) -> None:
        queue = self._queues[address]
        queue.remove(turn)
        self._length -= 1
        if not queue:
            del self._queues[address]
