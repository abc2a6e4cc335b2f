"""Events on their way to the application: a bounded queue with acknowledgement.

An entry is *taken* when the application asks for the one after it, so that what it
was doing when it died comes again.  When ``LIMIT`` entries wait, ``choke`` is called
with True and the client stops reading from the server; at half of it, with False.
The application is woken by the reactor, never from within ``put``: what it then does
(closing the client, say) cannot disturb what the client was doing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from flux.client.events import ClientEvent, State

LIMIT = 10_000


class Inbox:
    """An asynchronous iterator over events, for one consumer.

    :param choke: told when the queue is full, and when there is room again.
    """

    def __init__(self, clock: IReactorTime, choke: Callable[[bool], None]) -> None:
        self._clock = clock
        self._choke = choke
        self._queue: deque[tuple[ClientEvent | None, Callable[[], None] | None]] = deque()
        self._in_hand: Callable[[], None] | None = None
        self._waiter: Deferred[None] | None = None
        self._room: list[Deferred[None]] = []
        self._waking = False
        self._closed = False
        self.full = False

    def put(self, event: ClientEvent | None, taken: Callable[[], None] | None = None) -> None:
        """Append an event; ``taken`` is called when the application is through with it.

        None stands for a duplicate: nobody sees it, but it is acknowledged in its turn.
        """
        if self._closed:
            return
        if isinstance(event, State) and self._queue and isinstance(self._queue[-1][0], State):
            # Nobody looked at the last state: only the newest counts, and an idle reader costs no memory.
            self._queue.pop()
        self._queue.append((event, taken))
        if len(self._queue) >= LIMIT and not self.full:
            self.full = True
            self._choke(True)
        self._wake()

    def close(self) -> None:
        """Accept nothing more; the iteration ends after what is queued."""
        self._closed = True
        self._wake()

    async def room(self) -> None:
        """Wait until the queue is not full."""
        if self.full:
            waiter: Deferred[None] = Deferred(self._room.remove)
            self._room.append(waiter)
            await waiter

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> ClientEvent:
        """:raises RuntimeError: somebody else is waiting for the next event already."""
        if self._waiter is not None:
            raise RuntimeError("events have one consumer")
        if self._in_hand is not None:
            taken, self._in_hand = self._in_hand, None
            taken()
        while True:
            while self._queue:
                event, taken_next = self._queue.popleft()
                self._relieve()
                if event is not None:
                    self._in_hand = taken_next
                    return event
                if taken_next is not None:
                    taken_next()
            if self._closed:
                raise StopAsyncIteration
            self._waiter = Deferred()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waking:
            self._waking = True
            self._clock.callLater(0, self._woken)

    def _woken(self) -> None:
        self._waking = False
        if self._waiter is not None:
            self._waiter.callback(None)

    def _relieve(self) -> None:
        if self.full and len(self._queue) <= LIMIT // 2:
            self.full = False
            self._choke(False)
            waiting, self._room = self._room, []
            for waiter in waiting:
                waiter.callback(None)
