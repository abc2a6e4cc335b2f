"""A connection to Redis that is made again whenever it is lost.

::

    dial ──> set up (subscribe) ──> in use ──> lost ──┐
      ^                                               │
      └──── wait 0.1 to 2 s, with jitter  <───────────┘

Nothing waits for it: while there is no connection every command fails at once.  What commands fail with, clients may
read: addresses and what Redis says are in the error's ``reason`` and in the log.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from flux.backends.redis.connection import Connection, Refused
from flux.backends.redis.dial import Dialer, Server
from flux.errors import Unavailable, in_words
from flux.lifecycle import Tasks, backoff, sleep

FIRST_WAIT = 0.1
LONGEST_WAIT = 2.0
"""Seconds between attempts to connect."""

AWAY = "the shared state is away"
REFUSES = "the shared state could not do it"
"""All that clients are told."""

SAME = 60.0
"""Seconds within which the log does not repeat why Redis refuses commands."""

#: Called with a new connection before anybody else may use it.
SetUp = Callable[[Connection], Awaitable[None]]
#: Called when a connection can be used; with True if it is not the first.
Connected = Callable[[bool], None]


class Link:
    """Keeps one connection.

    :param what: what it is for, for the log: "commands".
    :param set_up: a connection for which it fails is given up and made again.
    :ivar server: what the server last connected to says of itself.
    """

    log = Logger()

    def __init__(
        self,
        dialer: Dialer,
        clock: IReactorTime,
        what: str,
        set_up: SetUp | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.server = Server()
        self._dialer = dialer
        self._clock = clock
        self._what = what
        self._set_up = set_up
        self._rng = rng or random.Random()
        self._tasks = Tasks(self.log, self._clock)
        self._connection: Connection | None = None
        self._problem = "the connection is not started"
        self._told: list[Connected] = []
        self._users = 0
        self._refused = ("", float("-inf"))

    @property
    def connected(self) -> bool:
        """Whether commands can be sent now."""
        return self._connection is not None and self._connection.alive

    def on_connected(self, told: Connected) -> None:
        """Call ``told`` whenever a connection can be used, with True if it is not the first."""
        self._told.append(told)

    async def start(self) -> None:
        """Connect, unless another user of the link has; keep connected until all of them have stopped.

        :raises flux.errors.Unavailable: there is no connection, in a sentence for the admin.
        """
        self._users += 1
        if self._users > 1:
            return
        try:
            await self._connect()
        except BaseException:
            self._users = 0
            raise
        self._tasks.spawn(self._keep(), f"keeping the connection to Redis for {self._what}")

    async def stop(self) -> None:
        """Disconnect, once as often as it was started."""
        self._users -= 1
        if self._users == 0:
            await self._tasks.stop()
            self._tasks = Tasks(self.log, self._clock)
            self._problem = "the connection is stopped"
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close(self._problem)

    def command(self, *arguments: str | bytes | int, hurried: bool = True) -> Deferred[Any]:
        """See :meth:`Connection.command`; fails at once while there is no connection.

        :raises flux.errors.Unavailable: its ``detail`` is for clients, its ``reason`` for admins.
        """
        if self._connection is None:
            return fail(Unavailable(AWAY, f"{AWAY}: {self._problem}"))
        return self._connection.command(*arguments, hurried=hurried).addErrback(self._for_clients)

    def _for_clients(self, failure: Failure) -> Failure:
        error = failure.value
        if isinstance(error, Refused):
            error.reason, error.detail = error.detail, REFUSES
            kind, told = self._refused
            now = self._clock.seconds()
            if error.kind != "NOSCRIPT" and (error.kind != kind or now - told > SAME):
                self._refused = error.kind, now
                self.log.warn("commands are refused: {why}", why=error.reason)
        elif isinstance(error, Unavailable):
            error.reason, error.detail = error.detail, AWAY
        return failure

    async def _connect(self) -> None:
        connection, server = await self._dialer.connect()
        try:
            if self._set_up is not None:
                await self._set_up(connection)
        except BaseException:
            connection.close("it could not be set up")
            raise
        self._connection, self.server = connection, server

    async def _keep(self) -> None:
        again = False
        while True:
            for told in self._told:
                told(again)
            assert self._connection is not None
            await self._connection.lost
            again = True
            self._problem = f"Redis at {self._connection.where}: {self._connection.reason}"
            self._connection = None
            self.log.warn("the connection to Redis for {what} is lost: {why}", what=self._what, why=self._problem)
            for wait in backoff(FIRST_WAIT, LONGEST_WAIT, self._rng):
                await sleep(wait, self._clock)
                try:
                    await self._connect()
                    break
                except CancelledError:
                    raise
                except Exception as error:
                    problem = in_words(error)
                    if self._problem != problem:
                        self._problem = problem
                        self.log.warn("still no connection to Redis for {what}: {why}", what=self._what, why=problem)
            self.log.info("connected to Redis for {what} again", what=self._what)
