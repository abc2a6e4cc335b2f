"""What ``flux check`` tries of a Redis: every step of a start by itself, with what it found."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from flux.addresses import HostPort
from flux.backends.redis.bus import RedisBus
from flux.backends.redis.connection import Connection
from flux.backends.redis.dial import Dialer
from flux.backends.redis.link import Link
from flux.backends.redis.state import RedisState
from flux.errors import Unavailable
from flux.interfaces import IBusSink
from flux.lifecycle import within
from flux.model.bus import BusEvent, Kick
from flux.model.checks import Step

PROBES = 20
"""Answers whose times are taken."""

HEARD_WITHIN = 2.0
"""Seconds until what was published has to be heard."""


@implementer(IBusSink)
class _Probe:
    """Hears an event."""

    def __init__(self) -> None:
        self.heard: Deferred[None] = Deferred()

    def deliver(self, event: BusEvent) -> None:
        if not self.heard.called:
            self.heard.callback(None)

    def gap(self) -> None:
        """There is nothing to look for."""


class RedisChecks:
    """The steps, each of which needs those before it."""

    def __init__(self, dialer: Dialer, link: Link, state: RedisState, bus: RedisBus, reactor: Any) -> None:
        self._dialer = dialer
        self._link = link
        self._state = state
        self._bus = bus
        self._reactor = reactor
        self._failed = ""
        self._connection: Connection | None = None

    def steps(self) -> list[Step]:
        """In order; the last one leaves nothing open."""
        return [
            self._unless_failed("connects", self._connects),
            self._unless_failed("authenticates", self._authenticates),
            self._unless_failed("is a primary that drops nothing", self._policy),
            self._unless_failed("runs scripts", self._scripts),
            self._unless_failed("keeps what is written", self._keeps),
            self._unless_failed("publishes and hears", self._hears),
            Step("disconnects", self._close),
        ]

    def _unless_failed(self, name: str, attempt: Callable[[], Awaitable[str]]) -> Step:
        async def attempt_it() -> str:
            if self._failed:
                raise Unavailable(f"not tried, since {self._failed!r} failed")
            try:
                return await attempt()
            except BaseException:
                self._failed = name
                raise

        return Step(name, attempt_it)

    async def _connects(self) -> str:
        host, port = await self._dialer.find()
        self._connection = await self._dialer.open(host, port)
        return str(HostPort(host, port)) + (" through TLS" if self._dialer.address.tls else "")

    async def _authenticates(self) -> str:
        assert self._connection is not None
        await self._dialer.sign_in(self._connection)
        address = self._dialer.address
        who = address.username or ("the default user" if address.password else "nobody in particular")
        return f"as {who}, database {address.database}"

    async def _policy(self) -> str:
        assert self._connection is not None
        server = await self._dialer.examine(self._connection)
        self._link.server = server
        warning = self._state.policy_warning()
        return warning or f"version {server.version}, maxmemory-policy {server.policy}"

    async def _scripts(self) -> str:
        await self._state.start()
        taken = []
        for _ in range(PROBES):
            began = self._reactor.seconds()
            await self._state.snapshot()
            taken.append(self._reactor.seconds() - began)
        return f"a script takes {median(taken) * 1000:.2f} ms there and back (median of {PROBES})"

    async def _keeps(self) -> str:
        # A full Redis lets a script write that begins with removing something, as that of a start does.
        await self._state.set_code("check", b"", 1.0)
        return ""

    async def _hears(self) -> str:
        await self._bus.start()
        probe = _Probe()
        # No node has an empty name.
        await self._bus.listen("", 0, probe)
        began = self._reactor.seconds()
        await self._bus.publish("", 0, Kick(0, 0, "admin"))
        await within(HEARD_WITHIN, probe.heard, self._reactor, "hearing what was published")
        return f"an event takes {(self._reactor.seconds() - began) * 1000:.2f} ms"

    async def _close(self) -> str:
        await self._bus.stop()
        await self._state.stop()
        if self._connection is not None:
            self._connection.close("the check is over")
        return ""
