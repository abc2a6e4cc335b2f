"""What a supervisor hands to a worker, and how a worker finds out that its supervisor is gone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import succeed
from twisted.internet.interfaces import IProtocolFactory, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from flux.lifecycle import Spawned, Tasks, every
from flux.net.listener import Listener

#: Descriptors of a worker. The lifeline ends when the supervisor does, however that happens.
LIFELINE = 0
#: Where a worker says how its start went, as a daemon of twistd does, and until then now and then that it is alive.
STARTED = 3
#: The listening socket of ``chat.listen``, and the one that is this worker's own.
SHARED, OWN = 4, 5

ALIVE = b"."
"""Said of a start that is under way."""

ALIVE_EVERY = 15.0
"""Seconds between two of those."""

GIVE_WAY = 0.1
"""Seconds between two looks at what no other worker has accepted."""

DRAINED = 3
"""Exit status of a worker that an admin has drained, and that is not to be started again."""


class SharedPort(Listener):
    """``chat.listen`` in a worker: all workers accept from one queue."""

    log = Logger()

    def __init__(self, description: str, factory: IProtocolFactory, reactor: Any) -> None:
        super().__init__("chat.listen", description, factory, reactor, SHARED)
        self._tasks = Tasks(self.log, reactor)
        self._looking: Spawned = succeed(None)
        self._clock = reactor

    def give_way(self, way: bool) -> None:
        """Let others accept first, or no longer: who takes no logins is for those whom nobody else accepts."""
        port: Any = self.port
        if way:
            port.stopReading()
            what = "accepting what others leave"
            self._looking = self._tasks.spawn(every(GIVE_WAY, self._accept_one, self._clock, what, self.log), what)
        else:
            self._looking.cancel()
            port.startReading()

    async def _accept_one(self) -> None:
        port: Any = self.port
        port.numberAccepts = 1
        port.doRead()

    async def stop(self) -> None:
        """Accept nothing any more."""
        await self._tasks.stop()
        await super().stop()


@implementer(IReadDescriptor)
class Lifeline:
    """Notices the end of the supervisor.

    :param gone: called when that has happened.
    """

    def __init__(self, reactor: Any, gone: Callable[[], None]) -> None:
        self._reactor = reactor
        self._gone = gone

    def hold(self) -> None:
        """Begin to watch."""
        os.set_blocking(LIFELINE, False)
        self._reactor.addReader(self)

    def release(self) -> None:
        """Watch no more."""
        self._reactor.removeReader(self)

    def fileno(self) -> int:
        return LIFELINE

    def logPrefix(self) -> str:  # noqa: N802 - Twisted's name
        return "the lifeline"

    def doRead(self) -> None:
        """Nothing is ever sent; some reactors come here when the other end is closed."""
        with contextlib.suppress(BlockingIOError):
            if not os.read(LIFELINE, 1):
                self.release()
                self._gone()

    def connectionLost(self, reason: Failure) -> None:
        """Others come here."""
        self._gone()
