"""One worker process as its supervisor sees it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from flux.lifecycle import CannotStart
from flux.workers.handover import ALIVE, LIFELINE, OWN, SHARED, STARTED

LONGEST_LINE = 1_000_000
"""Bytes of output without an end of line that are kept; a line of the log is shorter."""


class Child(ProcessProtocol):
    """A worker from its start to its end.

    :param name: of its chat node.
    :param say: called with each line that it prints.
    :param alive: called when it tells of its start.
    :ivar code: its exit status, once it has ended; minus a signal's number if that killed it.
    """

    def __init__(self, name: str, say: Callable[[str], None], alive: Callable[[], None]) -> None:
        self.name = name
        self.code: int | None = None
        self._say = say
        self._alive = alive
        self._told = b""
        self._starting: list[Deferred[None]] = []
        self._ending: list[Deferred[int]] = []
        self._printed = {1: b"", 2: b""}

    def spawn(self, reactor: Any, command: Sequence[str], shared: int, own: int) -> None:
        """Start ``command`` with the listening sockets ``shared`` and ``own``."""
        descriptors = {LIFELINE: "w", 1: "r", 2: "r", STARTED: "r", SHARED: shared, OWN: own}
        reactor.spawnProcess(self, command[0], command, env=None, childFDs=descriptors)

    @property
    def pid(self) -> int:
        """The process id."""
        return int(self.transport.pid or 0)  # type: ignore[union-attr]

    def started(self) -> Deferred[None]:
        """Fires when it listens; fails with ``CannotStart`` if it ends before."""
        waiting: Deferred[None] = Deferred()
        self._starting.append(waiting)
        return waiting

    def ended(self) -> Deferred[int]:
        """Fires with :attr:`code` when it has ended."""
        waiting: Deferred[int] = Deferred()
        if self.code is None:
            self._ending.append(waiting)
        else:
            waiting.callback(self.code)
        return waiting

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if it has ended."""
        with contextlib.suppress(ProcessExitedAlready):
            self.transport.signalProcess(number.value)  # type: ignore[union-attr]

    # --- Twisted's side ---

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N802, N803 - Twisted's names
        if childFD == STARTED:
            self._told = (self._told + data).lstrip(ALIVE)
            self._alive()
        else:
            *lines, self._printed[childFD] = (self._printed[childFD] + data).split(b"\n")
            for line in lines:
                self._print(line)
            if len(self._printed[childFD]) > LONGEST_LINE:
                self._print(self._printed[childFD])
                self._printed[childFD] = b""

    def childConnectionLost(self, childFD: int) -> None:  # noqa: N802, N803
        if childFD == STARTED and self._told == b"0":
            starting, self._starting = self._starting, []
            for waiting in starting:
                waiting.callback(None)

    def processEnded(self, reason: Failure) -> None:  # noqa: N802
        for rest in self._printed.values():
            if rest:
                self._print(rest)
        status: Any = reason.value
        self.code = code = -status.signal if status.signal is not None else status.exitCode
        said = self._told.removeprefix(b"1 ").decode("utf-8", "replace")
        for starting in self._starting:
            starting.errback(CannotStart(f"worker {self.name}: {said or how_it_ended(code)}"))
        for ending in self._ending:
            ending.callback(code)

    def _print(self, line: bytes) -> None:
        self._say(line.decode("utf-8", "replace"))


def how_it_ended(code: int) -> str:
    """An exit status in words."""
    if code >= 0:
        return f"ended with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
