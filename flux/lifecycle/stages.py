"""Ordered start, and stop in reverse order.

::

    start:  store ──> state ──> bus ──> lease ──> ports      (a failure stops what was started)
    stop:   store <── state <── bus <── lease <── ports      (each within its own deadline)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.errors import in_words
from flux.lifecycle.waiting import DeadlineExceeded, at_most, within

#: A stage that takes longer than this to start counts as failed, in seconds.
START_WITHIN = 30.0
#: A stage that takes longer than this to stop is left behind, in seconds.
STOP_WITHIN = 5.0


class CannotStart(Exception):
    """A start failed for a reason to be told in one line; ``__cause__`` is the error itself, if there is one."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a start, and how to undo it.

    A start that fails cleans up after itself: its own ``stop`` is not called.
    """

    #: Reads after "cannot start": "the store".
    name: str
    start: Callable[[], Awaitable[object]]
    stop: Callable[[], Awaitable[object]]
    #: Deadlines in seconds; None: what is started has deadlines of its own, and may have reasons to take long.
    start_within: float | None = START_WITHIN
    stop_within: float = STOP_WITHIN


class Stages:
    """Starts stages in order and stops those that started in reverse order."""

    def __init__(self, stages: list[Stage], clock: IReactorTime, log: Logger) -> None:
        self._stages = stages
        self._clock = clock
        self._log = log
        self._started: list[Stage] = []

    async def start(self) -> None:
        """Start all; on failure or cancellation stop those started before raising.

        :raise CannotStart: names the stage and the reason.
        """
        for stage in self._stages:
            try:
                if stage.start_within is None:
                    await stage.start()
                else:
                    await within(stage.start_within, stage.start(), self._clock, "starting")
            except CancelledError:
                await self.stop()
                raise
            except Exception as error:
                await self.stop()
                raise CannotStart(f"{stage.name}: {in_words(error)}") from error
            self._started.append(stage)

    async def stop(self) -> None:
        """Stop what is started, last first. Never raises: a stage that fails or takes too long is logged and left."""
        while self._started:
            stage = self._started.pop()
            try:
                await at_most(stage.stop_within, stage.stop(), self._clock, "stopping")
            except DeadlineExceeded as late:
                self._log.error("{stage}: {late}, going on without it", stage=stage.name, late=str(late))
            except Exception:
                self._log.failure("{stage}: stopping failed", stage=stage.name)
