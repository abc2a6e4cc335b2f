"""The process that has workers: opens the ports, starts a worker for each, and keeps that so.

It speaks with no client itself.  A worker that ends is started again, after a pause that
grows while it keeps ending; one that an admin has drained is not.
"""

from __future__ import annotations

import errno
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, gatherResults
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from flux.addresses import HostPort
from flux.config import Difference, Settings, reachable_at, with_port
from flux.lifecycle import CannotStart, DeadlineExceeded, Tasks, backoff, sleep, within
from flux.net.listener import Listener
from flux.workers.child import Child, how_it_ended
from flux.workers.handover import DRAINED

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0
"""Seconds until a worker that has ended is started again."""

STABLE_AFTER = 10.0
"""Seconds after which a worker that ends has not failed to start."""

SILENT_FOR = 120.0
"""Seconds without a sign of life from workers that neither listen nor end until they have failed to start.

What they wait for themselves has limits of its own; a migration may take as long as it needs."""

STOP_WITHIN = 10.0
"""Seconds on top of ``chat.drain`` after which a worker that does not end is killed."""

MOST_TRIED = 1000
"""Ports tried for a worker."""

Command = Callable[[int], Sequence[str]]
"""Program and arguments of the worker with a number."""


class Inner(Protocol):
    """The services that a supervisor has in its own process."""

    async def start(self) -> None:
        """Up to listening."""

    async def stop(self) -> None:
        """Drain and stop."""

    def reload(self, settings: Settings) -> None:
        """Go on with other settings."""

    def banner(self) -> str:
        """What to tell the person who started it."""


def worker_settings(settings: Settings, number: int) -> Settings:
    """What holds for a worker: its name is its own, and so are its admin port and manhole, counted up."""

    def own(endpoint: str) -> str:
        where = reachable_at(endpoint) if endpoint not in ("", "auto") else None
        return endpoint if endpoint in ("", "auto") else with_port(endpoint, where.port + number) if where else ""

    admin = settings.admin
    return replace(
        settings,
        chat=replace(settings.chat, name=f"{settings.chat.name}-{number}"),
        admin=replace(admin, listen=own(admin.listen), manhole=own(admin.manhole)),
    )


def worker_admin_ports(settings: Settings) -> list[tuple[str, HostPort]]:
    """The name of each worker, and where on this machine its admin port is; empty where there are none."""
    workers = settings.chat.workers
    each = [worker_settings(settings, number) for number in range(1, workers + 1)] if workers > 1 else []
    found = [(its.chat.name, reachable_at(its.admin.listen)) for its in each if its.admin.listen not in ("", "auto")]
    return [(name, where) for name, where in found if where is not None]


class _Place:
    """What is a worker's for as long as the supervisor lives, whichever process it is."""

    def __init__(self, number: int, name: str, port: Listener) -> None:
        self.number = number
        self.name = name
        self.port = port
        self.child: Child | None = None
        self.drained = False


class Supervisor:
    """``chat.workers`` chat servers, each in a process of its own.

    See :class:`flux.process.Assembly`, which this is.

    :param inner: services in this process beside them; without any it ends when all workers are drained.
    """

    log = Logger()
    reread: Callable[[str], Awaitable[Difference]]

    def __init__(
        self, settings: Settings, command: Command, inner: Inner | None, reactor: Any, rng: random.Random
    ) -> None:
        self._settings = settings
        self._command = command
        self._inner = inner
        self._reactor = reactor
        self._rng = rng
        self._tasks = Tasks(self.log, reactor)
        self._shared = self._listener(settings.chat.listen)
        self._places: list[_Place] = []
        self._silence: IDelayedCall | None = None
        self.exit_status = 1

    # --- start ---

    async def start(self) -> None:
        """Open the ports and start the workers, up to listening.

        :raises flux.lifecycle.CannotStart: a port is taken, or a worker does not start.
        """
        try:
            await self._open(self._shared)
            await self._find_ports()
            for place in self._places:
                self._spawn(place)
            children = [place.child for place in self._places if place.child is not None]
            await self._all_started(children)
            if self._inner is not None:
                await self._inner.start()
        except BaseException:
            await self.stop()
            raise
        for place in self._places:
            self._tasks.spawn(self._keep(place), f"keeping worker {place.name}")

    async def _all_started(self, children: Sequence[Child]) -> None:
        """Wait until all listen. :raises CannotStart: one has ended, or none has shown a sign of life for too long."""
        started = gatherResults([child.started() for child in children], consumeErrors=True)
        silence = self._silence = self._reactor.callLater(SILENT_FOR, started.cancel)
        try:
            await started.addErrback(_first)
        except CancelledError:
            if silence.active():
                raise
            raise CannotStart(
                f"the workers: they do not listen, and have shown no sign of life for {SILENT_FOR:g} s"
            ) from None
        finally:
            if silence.active():
                silence.cancel()

    def _listener(self, description: str) -> Listener:
        factory = Factory()
        factory.noisy = False
        return Listener("chat.listen", description, factory, self._reactor)

    async def _open(self, listener: Listener) -> None:
        await listener.start()
        # It is for others to accept.
        listener.port.stopReading()  # type: ignore[union-attr]

    async def _find_ports(self) -> None:
        """A port for each worker: the first free ones after the shared one."""
        port = self._shared.address().port
        for number in range(1, self._settings.chat.workers + 1):
            listener, port = await self._free_port(port + 1)
            self._places.append(_Place(number, worker_settings(self._settings, number).chat.name, listener))

    async def _free_port(self, first: int) -> tuple[Listener, int]:
        for port in range(first, min(first + MOST_TRIED, 65536)):
            listener = self._listener(with_port(self._settings.chat.listen, port))
            try:
                await self._open(listener)
            except CannotStart as error:
                cause = getattr(error.__cause__, "socketError", None)
                if getattr(cause, "errno", None) != errno.EADDRINUSE:
                    raise
            else:
                return listener, port
        raise CannotStart(f"chat.workers: no port from {first} on is free for a worker")

    def _spawn(self, place: _Place) -> None:
        place.child = child = Child(place.name, self._say, self._alive)
        child.spawn(self._reactor, self._command(place.number), _descriptor(self._shared), _descriptor(place.port))
        self.log.info("worker {name} is process {pid}", name=place.name, pid=child.pid)

    def _alive(self) -> None:
        if self._silence is not None and self._silence.active():
            self._silence.reset(SILENT_FOR)

    def _say(self, line: str) -> None:
        self.log.info("{log_line}", log_line=line)

    # --- as long as it runs ---

    async def _keep(self, place: _Place) -> None:
        """Start a worker again when it has ended, until it is drained."""
        pauses = backoff(FIRST_PAUSE, LONGEST_PAUSE, self._rng)
        while True:
            assert place.child is not None
            began = self._reactor.seconds()
            code = await place.child.ended()
            if code == DRAINED:
                await self._leave_out(place)
                return
            if self._reactor.seconds() - began >= STABLE_AFTER:
                pauses = backoff(FIRST_PAUSE, LONGEST_PAUSE, self._rng)
            how = how_it_ended(code)
            while how:
                pause = next(pauses)
                self.log.error(
                    "worker {name} {how}; it is started again in {pause:.1f} s", name=place.name, how=how, pause=pause
                )
                await sleep(pause, self._reactor)
                try:
                    self._spawn(place)
                except OSError as error:
                    how = f"cannot be started: {error}"
                else:
                    how = ""

    async def _leave_out(self, place: _Place) -> None:
        """A worker is drained: nobody is to come to its port any more."""
        self.log.info("worker {name} is drained, and not started again", name=place.name)
        place.drained = True
        await place.port.stop()
        if not all(place.drained for place in self._places):
            return
        if self._inner is not None:
            self.log.info("all workers are drained; this process goes on, because the status service is in it too")
            return
        self.log.info("all workers are drained: this process ends")
        self.exit_status = 0
        self._reactor.stop()

    def reload(self, settings: Settings) -> None:
        """The workers read the configuration again themselves."""
        self._settings = settings
        if self._inner is not None:
            self._inner.reload(settings)
        self._signal(signal.SIGHUP)

    def _signal(self, number: signal.Signals) -> list[Child]:
        """Send a signal to all that run."""
        running = [place.child for place in self._places if place.child is not None and place.child.code is None]
        for child in running:
            child.signal(number)
        return running

    # --- stop ---

    async def stop(self) -> None:
        """Let the workers drain and end, and kill those that do not."""
        await self._tasks.stop()
        # What waits in the queues is reset when the last worker closes them: it is not left hanging.
        await self._shared.stop()
        for place in self._places:
            await place.port.stop()
        running = self._signal(signal.SIGTERM)
        try:
            await within(self._settings.chat.drain + STOP_WITHIN, _ended(running), self._reactor, "the workers")
        except DeadlineExceeded as late:
            self.log.error("{late}: those that have not ended are killed", late=str(late))
            await _ended(self._signal(signal.SIGKILL))
        if self._inner is not None:
            await self._inner.stop()

    # --- for people ---

    def banner(self) -> str:
        """Who listens where."""
        name, count = self._settings.chat.name, len(self._places)
        lines = [f"flux chat server {name!r} listens on {self._shared.address()} and has {count} workers:", ""]
        for place in self._places:
            lines.append(f"  {place.name:<20} {place.port.address()}")
        dashboards = worker_admin_ports(self._settings)
        if dashboards:
            scheme = "https" if self._settings.secure("admin") else "http"
            lines += ["", "dashboards and metrics of the workers:", ""]
            lines += [f"  {name:<20} {scheme}://{where}/" for name, where in dashboards]
        if self._inner is not None:
            lines.append(self._inner.banner())
        return "\n".join(lines)


def _descriptor(listener: Listener) -> int:
    port: Any = listener.port
    return int(port.fileno())


async def _ended(children: Sequence[Child]) -> None:
    for child in children:
        await child.ended()


def _first(failure: Failure) -> Failure:
    """Out of ``gatherResults``' FirstError the error itself."""
    inner: Failure = getattr(failure.value, "subFailure", failure)
    return inner
