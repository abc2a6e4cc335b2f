"""One flux process under twistd: started, reloaded, stopped, and its exit status.

twistd calls a service and knows nothing of starts that take time or fail.  This
service fills the gap::

    startService ─> reactor runs ─> assembly.start() ─┬─> banner; a daemon's parent exits with 0
                                                      └─> one line on stderr, exit status 1

    SIGTERM, SIGINT ─> reactor.stop() ─> stopService ─> assembly.stop() ─> exit status 0
    once more       ─> exit at once
    reactor.stop() by a service that cannot go on ─> stopService ─> ... ─> exit status 1
                   by one that has done its work  ─> stopService ─> ... ─> exit status 0
    SIGHUP          ─> the configuration is read again ─> assembly.reload()
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from types import FrameType
from typing import Any, Protocol

from twisted.application.service import IServiceCollection, Service
from twisted.internet.defer import CancelledError, Deferred, DeferredLock, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.threads import deferToThreadPool
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from flux.config import ConfigError, Difference, Mistake, Settings
from flux.errors import FluxError
from flux.lifecycle import CannotStart, Spawned, Tasks, every
from flux.log import Threshold
from flux.workers.handover import ALIVE, ALIVE_EVERY

#: Causes of a failed start that the one line explains; for others the log has a traceback.
EXPLAINED = (OSError, CannotListenError, FluxError)

#: New objects before the cyclic garbage collector looks at them, and so many times before it looks at older ones.
#: A session is some fifty objects that stay: with Python's 700 a rush of logins is looked through again and again for
#: garbage that is not there, which is a tenth of what a login costs. At most 300,000 objects, some 30 MB, wait to be
#: found, and what comes and goes by the thousand (connections, sessions) does without.
GC_THRESHOLD = (10_000, 10, 3)


#: Bytes that a waiting parent reads of why a start failed: that of a daemon, which is twistd, and that of a worker.
TWISTD_READS, SUPERVISOR_READS = 100, 1000

#: Ends what a parent does not read to the end.
SEE_LOG = b" ... (see the log)"


class Assembly(Protocol):
    """The services of one process, put together.

    :ivar exit_status: of a process that an assembly ends by stopping the reactor.
    :ivar reread: reads the configuration again, as SIGHUP does; set before the start.
    """

    exit_status: int
    reread: Callable[[str], Awaitable[Difference]]

    async def start(self) -> None:
        """Up to listening. A failure or cancellation leaves nothing running.

        :raise CannotStart: says in one line why.
        """

    async def stop(self) -> None:
        """Drain and stop, within deadlines of its own."""

    def reload(self, settings: Settings) -> None:
        """Go on with new values of the live keys; all others are as at the start."""

    def banner(self) -> str:
        """Where to connect and what to type, for the person who started it."""


class ExitStatus:
    """The status this process will exit with.

    twistd always ends with 0 (or by a signal), so another status is put in place
    by the last exit function: by then twistd has removed its pid file and closed its log.
    Make it early: exit functions run in reverse order.
    """

    def __init__(self) -> None:
        self.value = 0
        atexit.register(self._apply)

    def _apply(self) -> None:
        if self.value:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(self.value)


class FluxProcess(Service):
    """The service that twistd runs.

    :param assemble: makes the assembly; called when the reactor runs.
    :param reread: the settings as the file has them now, or ``ConfigError``; called in a thread.
    :param observer: where the log goes; None leaves it to twistd.
    :param twistd: twistd's options; a daemon's pipe to its waiting parent is taken out of them.
    :param supervised: a supervisor has started this process, and kills it if it has to. A Ctrl-C in the
        terminal is for the supervisor, and a signal may come twice, from it and from who signals all processes.
    """

    log = Logger()

    def __init__(
        self,
        name: str,
        settings: Settings,
        assemble: Callable[[], Assembly],
        reread: Callable[[], Settings],
        threshold: Threshold,
        observer: ILogObserver | None,
        twistd: MutableMapping[str, Any],
        exit_status: ExitStatus,
        reactor: Any,
        supervised: bool = False,
    ) -> None:
        self.name = name
        self._settings = settings
        self._assemble = assemble
        self._reread = reread
        self._threshold = threshold
        self._observer = observer
        self._twistd = twistd
        self._exit_status = exit_status
        self._reactor = reactor
        self._supervised = supervised
        self._tasks = Tasks(self.log, reactor)
        self._reloading = DeferredLock()
        self._starting: Deferred[None] | None = None
        self._assembly: Assembly | None = None
        self._parent_pipe: int | None = None
        self._signs_of_life: Spawned = succeed(None)
        self._told_to_stop = False
        self._stopping = False

    # --- called by twistd ---

    def setServiceParent(self, parent: IServiceCollection) -> None:
        """Bring our log observer along: twistd asks the application for one before it starts to log.

        Under any other parent the log is what whoever runs it has made it.
        """
        if self._observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)

    def startService(self) -> None:
        super().startService()
        # With the pipe in our hands, the parent of a daemon waits until we listen, and fails if we do.
        self._parent_pipe = self._twistd.pop("statusPipe", None)
        self._reactor.callWhenRunning(self._run)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        if not self._stopping:
            # Neither a signal nor a failed start: a service has stopped the reactor.
            self._stopping = True
            self._exit_status.value = self._assembly.exit_status if self._assembly is not None else 1
        return Deferred.fromCoroutine(self._stop())

    # --- start and stop ---

    def _run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop_signal)
        if self._supervised:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, self._on_reload_signal)
        self._starting = Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        began = self._reactor.seconds()
        self._raise_file_limit()
        gc.set_threshold(*GC_THRESHOLD)
        if self._supervised:
            what = "telling the supervisor of the start"
            signs = every(ALIVE_EVERY, self._say_alive, self._reactor, what, self.log)
            self._signs_of_life = self._tasks.spawn(signs, what)
        try:
            assembly = self._assemble()
            assembly.reread = self.reload
            await assembly.start()
        except (CancelledError, Exception) as error:
            if self._stopping or isinstance(error, CancelledError):
                # Whatever it came to: it was broken off.
                self.log.debug("the start was broken off: {error}", error=error)
                self._tell_parent(b"1 stopped while starting")
            else:
                self._fail(error)
            return
        self._assembly = assembly
        self.log.info(
            "{title} started in {ms} ms, process {pid}",
            title=self.name,
            ms=round((self._reactor.seconds() - began) * 1000),
            pid=os.getpid(),
        )
        banner = assembly.banner()
        with contextlib.suppress(OSError):  # nobody reads our output
            if banner:
                print(banner, file=sys.__stdout__, flush=True)
        self._tell_parent(b"0")

    def _fail(self, error: Exception) -> None:
        cause: BaseException | None = error
        while isinstance(cause, CannotStart):  # a stage says which one it is, and what it starts says why
            cause = cause.__cause__
        explained = cause is not error and isinstance(cause, (*EXPLAINED, type(None)))
        reason = " ".join(str(error).split()) or type(error).__name__
        if explained:
            self.log.critical("cannot start {title}: {reason}", title=self.name, reason=reason)
        else:
            # Of the error itself: that of CannotStart ends where it was wrapped.
            failure = Failure(cause, type(cause), cause.__traceback__) if cause is not None else None
            self.log.failure("cannot start {title}", failure, title=self.name)
        with contextlib.suppress(OSError):
            print(f"cannot start {self.name}: {reason}", file=sys.__stderr__, flush=True)
        self._tell_parent(b"1 " + reason.encode("ascii", "backslashreplace"))
        self._exit_status.value = 1
        self._stop_reactor()

    def _stop_reactor(self) -> None:
        """End the process; the reactor comes back to :meth:`stopService` on its way out."""
        if not self._stopping:
            self._stopping = True
            self._reactor.stop()

    async def _stop(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await self._starting
        await self._tasks.stop()
        if self._assembly is not None:
            try:
                await self._assembly.stop()
            except Exception:
                self.log.failure("stopping {title} failed", title=self.name)
                self._exit_status.value = 1
        self.log.info("{title} stopped", title=self.name)

    async def _say_alive(self) -> None:
        if self._parent_pipe is not None:
            with contextlib.suppress(OSError):  # the supervisor is gone
                os.write(self._parent_pipe, ALIVE)

    def _tell_parent(self, message: bytes) -> None:
        """Tell the parent of a daemon or a worker how the start went: a "0" for success, or why not."""
        self._signs_of_life.cancel()
        if self._parent_pipe is not None:
            with contextlib.suppress(OSError):  # the parent is gone
                os.write(self._parent_pipe, shortened(message, SUPERVISOR_READS if self._supervised else TWISTD_READS))
            os.close(self._parent_pipe)
            self._parent_pipe = None

    def _raise_file_limit(self) -> None:
        """Every connection is a file: take as many as the system lets us."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == hard:
            return
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            self.log.warn("the limit of open files stays {soft}: {reason}", soft=soft, reason=str(error))
        else:
            self.log.info("the limit of open files is {hard} (was {soft})", soft=soft, hard=hard)

    # --- signals ---

    def _on_stop_signal(self, number: int, frame: FrameType | None) -> None:
        if self._told_to_stop:
            if self._supervised:
                return
            os._exit(1)
        self._told_to_stop = True
        self._reactor.callFromThread(self._stop_on_signal, signal.Signals(number).name)

    def _stop_on_signal(self, name: str) -> None:
        self.log.info("{signal}: stopping; once more to exit at once", signal=name)
        self._stop_reactor()

    def _on_reload_signal(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(lambda: self._tasks.spawn(self._hang_up(), "reading the configuration again"))

    async def _hang_up(self) -> None:
        with contextlib.suppress(ConfigError):  # the log has its mistakes
            await self.reload("SIGHUP")

    async def reload(self, by: str) -> Difference:
        """Read the configuration again and go on with the new values of the live keys.

        :param by: who wants it, for the log.
        :return: what has changed, and what would with a restart.
        :raise ConfigError: it is wrong, and nothing has changed; or nothing is read again while starting.
        """
        if self._assembly is None:
            self.log.warn("{by}: nothing is read again while starting", by=by)
            raise ConfigError([Mistake("the process", "is still starting; try again")])
        await self._reloading.acquire()
        try:
            new = await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), self._reread)
        except ConfigError as error:
            for mistake in error.mistakes:
                self.log.error("{by}: {mistake}", by=by, mistake=str(mistake))
            self.log.error("{by}: the settings stay as they are until the configuration is right", by=by)
            raise
        else:
            return self._apply(self._assembly, new, by)
        finally:
            self._reloading.release()

    def _apply(self, assembly: Assembly, new: Settings, by: str) -> Difference:
        changed = self._settings.difference(new)
        settings = self._settings.with_live(new)
        self._threshold.level = settings.log.level
        assembly.reload(settings)
        self._settings = settings
        self.log.info("{by}: changed {keys}", by=by, keys=", ".join(changed.live) or "nothing")
        if changed.restart:
            self.log.warn("{by}: a restart is needed for {keys}", by=by, keys=", ".join(changed.restart))
        return changed


def shortened(message: bytes, most: int) -> bytes:
    """As much of ``message`` as ``most`` bytes hold: a longer one ends at a word and says where the rest is."""
    if len(message) <= most:
        return message
    room = most - len(SEE_LOG)
    # The word that ends at the border is whole.
    words = message[: room + 1].rpartition(b" ")[0]
    return (words if len(words) > room // 2 else message[:room]) + SEE_LOG
