"""The status service: the parts put together, and what a port or a process asks of them.

::

    StatusService ── Servers        what is known of the chat servers
                  ├─ HealthChecks   tries those of the static list
                  └─ Placement      assigns users (what a chat node or a gate in this process uses directly)
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from twisted.logger import Logger

from flux import tokens
from flux.balance import load_balancer
from flux.config import Settings
from flux.errors import FluxError, TokenInvalid, in_words
from flux.interfaces import IState
from flux.lifecycle import Outage, Tasks, every
from flux.metrics import StatusMetrics
from flux.model.placement import Node
from flux.status.health import HealthChecks
from flux.status.placement import Placement
from flux.status.servers import Servers

HOLD = 30.0
"""Seconds a reservation counts for a user who does not come: longer than a slow login takes."""

FIRST_CHECKS = 1.0
"""Seconds the start waits for the health of the static list; what takes longer is down until it answers."""


class Look(NamedTuple):
    """The chat servers, and how good that is.

    :ivar age: seconds since the shared state was read; -1 if it never was.
    :ivar problem: why it cannot be read now; empty where it can.
    """

    servers: tuple[Node, ...]
    age: float
    problem: str


class StatusService:
    """Which chat servers live, and which one a user gets.

    :param reactor: clock, resolver and TCP.
    :param trust: see :class:`HealthChecks`.
    :raises ValueError: ``status.balancer`` names none.
    :ivar placement: the service's :class:`flux.interfaces.IPlacement`.
    """

    log = Logger()

    def __init__(
        self,
        settings: Settings,
        state: IState,
        reactor: Any,
        rng: random.Random,
        metrics: StatusMetrics | None = None,
        trust: Any = None,
    ) -> None:
        status = settings.status
        self._state = state
        self._rng = rng
        self._reactor = reactor
        self._balancer = status.balancer
        self._heartbeat = status.heartbeat
        self._tasks = Tasks(self.log, reactor)
        self._outage = Outage(self.log, reactor)
        self._static = settings.chatservers
        self._servers = Servers(reactor.seconds, status.heartbeat, status.lease, self._static)
        self._health = HealthChecks(
            reactor, self._is_static, self._servers.checked, status.check_interval, status.check_timeout, rng, trust
        )
        self.placement = Placement(
            state,
            self._servers,
            load_balancer(status.balancer, rng),
            reactor,
            status.token_ttl,
            # A login is covered by the heartbeat after it: until then its reservation must not lapse.
            max(HOLD, 2 * status.heartbeat),
            metrics=metrics,
        )
        self.placement.logs_each = _logs_each(settings)
        if metrics is not None:
            metrics.servers(self.servers)

    async def start(self) -> None:
        """Know the servers and their health. A start that fails or is cancelled leaves nothing running.

        :raises flux.errors.Unavailable: the shared state does not answer.
        """
        try:
            await self.placement.refresh()
            self._health.watch(self._static)
            await self._health.checked(FIRST_CHECKS)
        except BaseException:
            await self.stop()
            raise
        self._tasks.spawn(
            every(self._heartbeat, self._refresh, self._reactor, "reading the loads", self.log), "reading the loads"
        )

    async def stop(self) -> None:
        """Assign nobody any more."""
        await self._tasks.stop()
        await self._health.stop()
        await self.placement.stop()

    def reload(self, settings: Settings) -> None:
        """Go on with other live settings: the static list, the balancer, its checks, the tokens' time to live.

        A balancer that cannot be loaded is logged as an error, and the one before it stays.
        """
        status = settings.status
        self.placement.token_ttl = status.token_ttl
        self.placement.logs_each = _logs_each(settings)
        self._health.interval = status.check_interval
        self._health.timeout = status.check_timeout
        if settings.chatservers != self._static:
            self._static = settings.chatservers
            self._servers.configure(self._static)
            self._health.watch(self._static)
            self.log.info("static chat servers: {names}", names=", ".join(s.name for s in self._static) or "none")
        if status.balancer != self._balancer:
            try:
                self.placement.balancer = load_balancer(status.balancer, self._rng)
            except ValueError as error:
                self.log.error("still balancing by {before}: {error}", before=self._balancer, error=str(error))
            else:
                self.log.info("balancing by {after} instead of {before}", after=status.balancer, before=self._balancer)
                self._balancer = status.balancer

    # --- what is asked ---

    def servers(self) -> tuple[Node, ...]:
        """All servers that are known, those that are down included, as of the last look at the shared state."""
        return self._servers.listed()

    async def look(self) -> Look:
        """The same as they are now, or as they were known last where the shared state does not answer. Never fails."""
        problem = ""
        try:
            await self.placement.refresh()
        except FluxError as error:
            problem = error.detail
        return Look(self.servers(), round(self._servers.age, 3), problem)

    async def drain(self, server: str, draining: bool) -> Node:
        """Give a server no more users, or give it users again; return it as it is then.

        A server whose lease has ended is not drained: whoever starts it again wants it to serve.

        :raises flux.errors.NotFound: no such server.
        :raises flux.errors.Unavailable: the shared state did not answer.
        """
        await self.placement.refresh()
        node = self._servers.find(server)
        if draining and node.state == "down" and self._servers.has_lease(server):
            return node
        await self._state.drain(server, draining)
        await self.placement.refresh()
        return self._servers.find(server)

    async def verify(self, uid: int, token: str) -> None:
        """Check a login token.

        :raises flux.errors.TokenInvalid: it is unknown, expired or revoked.
        :raises flux.errors.Unavailable: the shared state did not answer.
        """
        if not tokens.matches(token, await self._state.token_digest(uid)):
            raise TokenInvalid("unknown, expired or revoked")

    # --- what repeats ---

    async def _refresh(self) -> None:
        try:
            await self.placement.refresh()
        except FluxError as error:
            self._outage.failed("the loads of the chat servers cannot be read: {error}", error=in_words(error))
        else:
            self._outage.over("the loads of the chat servers are read again, after {seconds} s")

    def _is_static(self, name: str) -> bool:
        """Whether only a health check can tell how the server is."""
        return not self._servers.has_lease(name)


def _logs_each(settings: Settings) -> bool:
    """Whether anybody sees that a user was assigned. To make an event and throw it away costs as much as the choice."""
    return settings.log.level in ("debug", "info")
