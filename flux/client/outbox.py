"""Sends until they are answered: a lane per chat, one message of a lane on its way at a time.

One at a time, because only then a message that the server could not take
(``unavailable``, ``rate_limited``) is never overtaken by the one after it.  A message
keeps its ``cid`` through every repetition, so repeating is safe whatever became of the
attempt before.
"""

from __future__ import annotations

import random
from collections import deque
from functools import partial

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from flux.client.connection import Connection
from flux.client.errors import NotConnected, QueueFull, SessionEnded
from flux.errors import FluxError, RateLimited, Unavailable
from flux.lifecycle import DeadlineExceeded, backoff, spawn
from flux.wire.replies import SendOk
from flux.wire.requests import Send

#: Between the first repetitions after ``unavailable``, in seconds.
FIRST_PAUSE = 0.1


class _Lane:
    """What is to be sent to one chat, in order; the first is being sent.

    :ivar pause: what that one waits for, other than its answer. It is cancelled where nobody waits for the first any
        more, not the lane: that may be running just then, its answer being what made the application end the session.
    """

    def __init__(self) -> None:
        self.entries: deque[tuple[Send, Deferred[SendOk]]] = deque()
        self.pause: Deferred[None] | None = None


class Outbox:
    """Keeps the sends of one session, at most ``limit``.

    :param longest_pause: between repetitions after ``unavailable``, in seconds.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, rng: random.Random, limit: int, longest_pause: float) -> None:
        self._clock = clock
        self._rng = rng
        self._limit = limit
        self._longest_pause = longest_pause
        self._lanes: dict[tuple[int, int], _Lane] = {}
        self._connection: Connection | None = None
        #: Lanes that wait for a connection, in order.
        self._offline: dict[Deferred[None], None] = {}
        self._ended: tuple[str, str] | None = None
        self.waiting = 0

    def send(self, request: Send) -> Deferred[SendOk]:
        """Queue ``request``, which names its ``cid``.

        :return: fires once: with the receipt, with the error the server gave, with ``bad_request`` for a text that
            cannot be sent, with ``QueueFull``, or with ``SessionEnded``. Cancelling it takes the message back and
            frees its place, unless it is on its way: then it is not repeated, and keeps its place until the server
            has answered or the connection has ended.
        """
        if self._ended is not None:
            return fail(SessionEnded(*self._ended))
        if self.waiting >= self._limit:
            return fail(QueueFull(f"{self._limit} messages wait to be sent already"))
        chat = (request.to, request.group)
        answer: Deferred[SendOk] = Deferred(partial(self._take_back, chat))
        self.waiting += 1
        lane = self._lanes.get(chat)
        if lane is not None:
            lane.entries.append((request, answer))
        else:
            lane = self._lanes[chat] = _Lane()
            lane.entries.append((request, answer))
            _ = spawn(self._drain(chat), "sending", self._log)
        return answer

    def online(self, connection: Connection) -> None:
        """Send through ``connection`` from now on."""
        self._connection = connection
        waiters, self._offline = self._offline, {}
        for waiter in waiters:
            # What one of them sends may make the application take back another.
            if not waiter.called:
                waiter.callback(None)

    def offline(self) -> None:
        """Keep everything until there is a connection again."""
        self._connection = None

    def end(self, reason: str, detail: str) -> None:
        """Fail everything that waits, and everything that comes, with ``SessionEnded``."""
        self._ended = reason, detail
        lanes = list(self._lanes.values())
        for lane in lanes:
            for _, answer in list(lane.entries):
                if not answer.called:
                    answer.errback(SessionEnded(reason, detail))
        for lane in lanes:
            if lane.pause is not None:
                lane.pause.cancel()

    def _take_back(self, chat: tuple[int, int], answer: Deferred[SendOk]) -> None:
        """Nobody waits for this one any more."""
        if self._ended is not None:
            return
        lane = self._lanes[chat]
        place = next(place for place, entry in enumerate(lane.entries) if entry[1] is answer)
        if place:
            del lane.entries[place]
            self.waiting -= 1
        elif lane.pause is not None:
            lane.pause.cancel()

    async def _drain(self, chat: tuple[int, int]) -> None:
        """Send what is in a lane, in order, until it is empty."""
        lane = self._lanes[chat]
        while lane.entries:
            request, answer = lane.entries[0]
            try:
                await self._deliver(lane, request, answer)
            except CancelledError:
                pass  # taken back
            except Exception:
                # Nobody behind it waits for ever because of what is wrong with this one.
                if answer.called:
                    self._log.failure("sending failed")
                else:
                    answer.errback()
            lane.entries.popleft()
            self.waiting -= 1
        del self._lanes[chat]

    async def _deliver(self, lane: _Lane, request: Send, answer: Deferred[SendOk]) -> None:
        """Repeat ``request`` until it is answered for good, or nobody waits for it any more.

        :raises CancelledError: it was taken back, or the session has ended, while it was not on its way.
        """
        pauses = backoff(FIRST_PAUSE, self._longest_pause, self._rng)
        while not answer.called:
            connection = self._connection
            if connection is None or not connection.alive:
                online: Deferred[None] = Deferred(lambda online: self._offline.pop(online, None))
                self._offline[online] = None
                await self._wait(lane, online)
                continue
            try:
                receipt = await connection.request(request, SendOk)
            except NotConnected:
                pass
            except DeadlineExceeded:
                # While paused the answer may lie unread.
                if not connection.paused:
                    connection.abort("the server does not answer")
            except (Unavailable, QueueFull):
                await self._wait(lane, deferLater(self._clock, next(pauses)))
            except RateLimited as limited:
                seconds = limited.retry_after / 1000 * self._rng.uniform(1.0, 1.2)
                await self._wait(lane, deferLater(self._clock, seconds))
            except FluxError as refused:
                if not answer.called:
                    answer.errback(refused)
            else:
                if not answer.called:
                    answer.callback(receipt)

    @staticmethod
    async def _wait(lane: _Lane, pause: Deferred[None]) -> None:
        lane.pause = pause
        try:
            await pause
        finally:
            lane.pause = None
