"""Active health checks of the static list: does the server accept a TCP connection, with TLS where it speaks that?

One failure takes a server out and one success brings it back.  More patience would
only give users a dead server for longer; a server that flaps is one that half of its
users cannot reach, and a lost packet is no failure yet, because the timeout leaves
the kernel time to send again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.logger import Logger

from flux.config import ChatServer
from flux.lifecycle import DeadlineExceeded, Spawned, Tasks, every, insulated, within
from flux.tls.client import TlsEndpoint, TlsFailed

JITTER = 0.1
"""Checks are this much early or late, relative to the interval, so that status processes do not keep step."""


class _Visit(Protocol):
    """A connection that is closed as soon as it stands."""

    def connectionMade(self) -> None:
        transport = self.transport
        assert transport is not None
        transport.loseConnection()


class HealthChecks:
    """Checks every server of a list again and again.

    :param reactor: clock, resolver and TCP.
    :param needed: asked by name whether a check would tell anything.
    :param report: called with each result: name, and what is wrong, empty if nothing is.
    :param trust: whose certificates those of servers with TLS must be signed by; None: those the system trusts.
    :ivar interval: seconds between two checks of a server.
    :ivar timeout: seconds after which a check has failed.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        needed: Callable[[str], bool],
        report: Callable[[str, str], None],
        interval: float,
        timeout: float,
        rng: random.Random,
        trust: Any = None,
    ) -> None:
        self.interval = interval
        self.timeout = timeout
        self._reactor = reactor
        self._needed = needed
        self._report = report
        self._rng = rng
        self._trust = trust
        self._tasks = Tasks(self.log, reactor)
        self._watched: frozenset[ChatServer] = frozenset()
        self._checks: dict[ChatServer, Spawned] = {}
        self._unchecked: set[str] = set()
        self._all_checked: Deferred[None] | None = None

    def watch(self, servers: Sequence[ChatServer]) -> None:
        """From now on check these servers, the new ones at once."""
        self._watched = frozenset(servers)
        for server in set(self._checks) - self._watched:
            self._checks.pop(server).cancel()
            self._checked(server.name)
        for server in servers:
            if server not in self._checks:
                self._unchecked.add(server.name)
                what = f"checking {server.name}"
                check = every(self._pause, partial(self._check, server), self._reactor, what, self.log)
                self._checks[server] = self._tasks.spawn(check, what)

    async def checked(self, seconds: float) -> None:
        """Wait until every server has been checked once, but no longer than ``seconds``."""
        if self._unchecked:
            self._all_checked = Deferred()
            await self._all_checked.addTimeout(seconds, self._reactor, onTimeoutCancel=lambda result, seconds: None)

    async def stop(self) -> None:
        """End all checks."""
        self._watched = frozenset()
        await self._tasks.stop()

    def _pause(self) -> float:
        return self.interval * self._rng.uniform(1 - JITTER, 1 + JITTER)

    async def _check(self, server: ChatServer) -> None:
        if self._needed(server.name):
            problem = await self._problem(server)
            # A check that ends because nobody wants it any more has found out nothing.
            if server in self._watched:
                self._report(server.name, problem)
        self._checked(server.name)

    async def _problem(self, server: ChatServer) -> str:
        """What is wrong with ``server``; empty if nothing is."""
        try:
            endpoint: IStreamClientEndpoint = HostnameEndpoint(self._reactor, server.host, server.port, self.timeout)
            if server.tls:
                endpoint = TlsEndpoint(endpoint, server.host, self._trust, self._reactor)
            connecting = insulated(connectProtocol(endpoint, _Visit()))
            await within(self.timeout, connecting, self._reactor, "connecting")
        except CancelledError:
            raise
        except (DeadlineExceeded, ConnectTimeout):
            return f"no answer within {self.timeout:g} s"
        except TlsFailed as error:
            return error.why
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def _checked(self, name: str) -> None:
        self._unchecked.discard(name)
        if not self._unchecked and self._all_checked is not None:
            waiting, self._all_checked = self._all_checked, None
            if not waiting.called:
                waiting.callback(None)
