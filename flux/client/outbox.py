"""Sends until they are answered: a lane per chat, one message of a lane on its way at a time.

One at a time, because only then a message that the server could not take
(``unavailable``, ``rate_limited``) is never overtaken by the one after it.  A message
keeps its ``cid`` through every repetition, so repeating is safe whatever became of the
attempt before.
"""

from __future__ import annotations

import random
from collections import deque
from typing import TypeAlias

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

_Lane: TypeAlias = "deque[tuple[Send, Deferred[SendOk]]]"


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
        self._offline: list[Deferred[None]] = []
        #: What the lanes wait for, other than answers. At the end these are cancelled, not the lanes: one
        #: of them may be running just then, its answer being what made the application end the session.
        self._waits: set[Deferred[None]] = set()
        self._ended: tuple[str, str] | None = None
        self.waiting = 0

    def send(self, request: Send) -> Deferred[SendOk]:
        """Queue ``request``, which names its ``cid``.

        :return: fires once: with the receipt, with the error the server gave, with ``bad_request`` for a text that
            cannot be sent, with ``QueueFull``, or with ``SessionEnded``. Cancelling it takes back what has not left
            yet.
        """
        if self._ended is not None:
            return fail(SessionEnded(*self._ended))
        if self.waiting >= self._limit:
            return fail(QueueFull(f"{self._limit} messages wait to be sent already"))
        answer: Deferred[SendOk] = Deferred()
        chat = (request.to, request.group)
        self.waiting += 1
        if chat in self._lanes:
            self._lanes[chat].append((request, answer))
        else:
            self._lanes[chat] = deque([(request, answer)])
            _ = spawn(self._drain(chat), "sending", self._log)
        return answer

    def online(self, connection: Connection) -> None:
        """Send through ``connection`` from now on."""
        self._connection = connection
        waiters, self._offline = self._offline, []
        for waiter in waiters:
            waiter.callback(None)

    def offline(self) -> None:
        """Keep everything until there is a connection again."""
        self._connection = None

    def end(self, reason: str, detail: str) -> None:
        """Fail everything that waits, and everything that comes, with ``SessionEnded``."""
        self._ended = reason, detail
        for lane in list(self._lanes.values()):
            for _, answer in list(lane):
                if not answer.called:
                    answer.errback(SessionEnded(reason, detail))
        for wait in list(self._waits):
            wait.cancel()

    async def _drain(self, chat: tuple[int, int]) -> None:
        """Send what is in a lane, in order, until it is empty."""
        lane = self._lanes[chat]
        try:
            while lane:
                request, answer = lane[0]
                try:
                    await self._deliver(request, answer)
                except CancelledError:
                    raise
                except Exception:
                    # Nobody behind it waits for ever because of what is wrong with this one.
                    if answer.called:
                        self._log.failure("sending failed")
                    else:
                        answer.errback()
                lane.popleft()
                self.waiting -= 1
        finally:
            self.waiting -= len(lane)
            del self._lanes[chat]

    async def _deliver(self, request: Send, answer: Deferred[SendOk]) -> None:
        """Repeat ``request`` until it is answered for good, or nobody waits for it any more."""
        pauses = backoff(FIRST_PAUSE, self._longest_pause, self._rng)
        while not answer.called:
            connection = self._connection
            if connection is None or not connection.alive:
                online: Deferred[None] = Deferred(self._offline.remove)
                self._offline.append(online)
                await self._wait(online)
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
                await self._wait(deferLater(self._clock, next(pauses)))
            except RateLimited as limited:
                seconds = limited.retry_after / 1000 * self._rng.uniform(1.0, 1.2)
                await self._wait(deferLater(self._clock, seconds))
            except FluxError as refused:
                if not answer.called:
                    answer.errback(refused)
            else:
                if not answer.called:
                    answer.callback(receipt)

    async def _wait(self, wait: Deferred[None]) -> None:
        self._waits.add(wait)
        try:
            await wait
        finally:
            self._waits.discard(wait)
