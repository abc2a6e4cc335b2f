"""An assembly without services, for tests of the process around it; run as a script it is twistd on this assembly.

``chat.name`` says how it behaves: ``fails``, ``fails-at-length``, ``breaks``, ``breaks-below`` (in a stage),
``hangs`` or ``hangs-and-fails`` (when it is cancelled) at the start, ``dies`` later, ``breaks-at-stop`` or
``hangs-at-stop``.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import ILogObserver, LogEvent, Logger, formatEvent
from zope.interface import implementer

from flux.config import Settings
from flux.lifecycle import CannotStart
from flux.model.checks import Step

log = Logger(namespace="fake")


class FakeAssembly:
    def __init__(self, settings: Settings, roles: frozenset[str], reactor: Any) -> None:
        self.reactor = reactor
        self.settings = settings
        self.roles = roles
        self.behaviour = settings.chat.name
        self.exit_status = 1

    async def start(self) -> None:
        log.info("starting {roles}", roles=" ".join(sorted(self.roles)))
        log.debug("a detail")
        if self.behaviour == "fails":
            raise CannotStart("the store: it is used\nby process 7") from OSError()
        if self.behaviour == "fails-at-length":
            raise CannotStart("the store: it is used by process 7 " + 20 * "and by another one ") from OSError()
        if self.behaviour == "breaks":
            raise ZeroDivisionError("a bug")
        if self.behaviour == "breaks-below":
            try:
                raise ZeroDivisionError("a bug")
            except ZeroDivisionError as error:
                raise CannotStart(f"the store: {error}") from error
        if self.behaviour == "hangs":
            await Deferred()
        if self.behaviour == "hangs-and-fails":
            try:
                await Deferred()
            except CancelledError:
                raise CannotStart("the store: the statement was cancelled") from OSError()
        if self.behaviour in ("dies", "is-done"):
            self.exit_status = int(self.behaviour == "dies")
            self.reactor.callLater(0, self.reactor.stop)

    async def stop(self) -> None:
        log.info("draining")
        if self.behaviour == "hangs-at-stop":
            await Deferred()
        if self.behaviour == "breaks-at-stop":
            raise ZeroDivisionError("a bug")

    def reload(self, settings: Settings) -> None:
        log.info("reloaded: name={name} takeover={takeover}", name=settings.chat.name, takeover=settings.chat.takeover)

    def banner(self) -> str:
        return "ready: type\n  telnet 127.0.0.1 8090"


def assemble(settings: Settings, roles: frozenset[str], reactor: Any, worker: bool = False) -> FakeAssembly:
    assembly = FakeAssembly(settings, roles, reactor)
    if worker:
        # Its name has its number.
        assembly.behaviour = assembly.behaviour.rpartition("-")[0]
    return assembly


def checks(settings: Settings, reactor: Any, roles: frozenset[str]) -> list[Any]:
    if "." in settings.store.kind:
        raise CannotStart(f"store.kind: {settings.store.kind}: there is none")
    return [Step("store: opens", lambda: succeed(f"at {settings.store.path}"))]


def mail_check(settings: Settings, reactor: Any, to: str) -> Any:
    return Step(f"e-mail to {to}", lambda: succeed("sent"))


def tls_checks(settings: Settings) -> list[Any]:
    return []


def own_observer() -> ILogObserver:
    """A log observer of the user's own, for ``--logger``."""

    @implementer(ILogObserver)
    class Own:
        def __call__(self, event: LogEvent) -> None:
            print(f"own: {formatEvent(event)}", file=sys.__stdout__)

    return Own()


if __name__ == "__main__":
    sys.modules["flux.assembly"] = sys.modules[__name__]
    from twisted.scripts.twistd import run

    run()
