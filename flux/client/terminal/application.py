"""The terminal client as a process: reactor, signals, bugs. Imported once the asyncio reactor is installed."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, globalLogBeginner
from zope.interface import implementer

from flux.client import Client, GateClient, HostPort
from flux.client.terminal.entrance import GateTerminal
from flux.client.terminal.screen import TerminalScreen
from flux.client.terminal.start import Terminal
from flux.client.terminal.text import clean, error
from flux.httpclient import HttpClient
from flux.lifecycle import DeadlineExceeded, monotonic, spawn, within

#: How long a terminated process gets to say goodbye, in seconds.
STOP_WITHIN = 3.0

_log = Logger()


@implementer(ILogObserver)
class _Bugs:
    """Shows logged failures on the screen; everything else in the log is for nobody here."""

    def __init__(self, screen: TerminalScreen) -> None:
        self._screen = screen

    def __call__(self, event: LogEvent) -> None:
        failure = event.get("log_failure")
        if failure is not None and event["log_level"] >= LogLevel.error:
            what = clean(f"{failure.type.__name__}: {failure.getErrorMessage()}")
            self._screen.show(error(f"A bug of flux chat: {what}. Please report it."))


def chat(where: HostPort | str, user: str, password: str | None, tls: bool = False, trust: Any = None) -> None:
    """Run the reactor until the person leaves or the process is told to stop; then the terminal is as it was.

    :param where: a chat server, or the URL of a gate.
    :param tls: see :class:`flux.client.Client`.
    :param trust: whose certificates servers' must be signed by, a gate's too; None: those the system trusts.
    """
    from twisted.internet import reactor as installed

    reactor = monotonic(installed)

    async def run() -> None:
        screen = TerminalScreen()
        globalLogBeginner.beginLoggingTo([_Bugs(screen)], redirectStandardIO=False, discardBuffer=True)
        terminal: Terminal
        if isinstance(where, str):
            gate = GateClient(reactor, where, http=HttpClient(reactor, trust))
            terminal = GateTerminal(reactor, gate, screen, lambda: Client(reactor, tls=tls, trust=trust))
        else:
            address = where
            terminal = Terminal(reactor, address, screen, lambda: Client(reactor, [address], tls=tls, trust=trust))
        running = spawn(terminal.run(user, password), "the chat", _log)

        async def stop() -> None:
            if not running.called:
                await terminal.close()
                with suppress(DeadlineExceeded):
                    await within(STOP_WITHIN, running, reactor, "leaving")

        reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(stop()))
        await running
        screen.flush()
        with suppress(ReactorNotRunning):
            reactor.stop()

    # Not callWhenRunning: that is before the asyncio loop runs.
    reactor.callLater(0, lambda: spawn(run(), "flux chat", _log))
    reactor.run()
