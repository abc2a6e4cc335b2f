"""Placement by status services elsewhere: a pipelined connection to each, kept open for as long as the gate runs.

::

    assign ──> the connection with the fewest answers outstanding ──> get_chat_server ──> assignments
                   │ lost, unavailable, or no answer in time
                   └─> the next one, and so on; none connected: wait for one; in all DEADLINE

    per address:  connecting ──> auth ──> up ──> lost ──(backoff with jitter, less when somebody waits)──> connecting

Where all have been away for DEADLINE, who comes waits for one more attempt each, and no longer.

Asking twice does no harm: the second assignment replaces the first one and its token.  A
connection on which an answer fails to come is cut: what is behind it may be a process
that was stopped, and everybody else would wait for it too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from msgspec import UNSET, UnsetType
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger
from zope.interface import implementer

from flux.addresses import HostPort
from flux.errors import FluxError, Unavailable
from flux.gate.status_connection import Lost, StatusConnection
from flux.interfaces import IPlacement
from flux.lifecycle import DeadlineExceeded, Tasks, backoff, insulated, sleep, within
from flux.model.placement import Assignment
from flux.wire.status import MOST_UIDS, Auth, GetChatServer, GetChatServersOk, StatusPing

DEADLINE = 5.0
"""Seconds until :meth:`StatusClient.assign` gives up."""

CONNECT_WITHIN = 3.0
"""Seconds until the next attempt to connect."""

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
"""Seconds between two attempts to connect."""

WANTED_PAUSE = 0.5
"""The same where somebody waits for a connection."""

PING_EVERY = 10.0
"""Seconds between two looks whether an idle connection is still one."""

NOBODY = "no status service answers; try again later"

MOST_WAITING = 20_000
"""Accounts that may wait for a server; more are refused at once."""


class _Service:
    """One address: the connection to it, as long as there is one.

    :ivar problem: why there is none.
    :ivar away_since: since when there is none.
    :ivar failures: attempts that have failed.
    :ivar pause: while the next attempt may be made sooner, if somebody wants that.
    """

    def __init__(self, address: HostPort) -> None:
        self.address = address
        self.connection: StatusConnection | None = None
        self.problem = "not connected yet"
        self.away_since = 0.0
        self.failures = 0
        self.pause: Deferred[None] | None = None


@implementer(IPlacement)
class StatusClient:
    """Assigns through status services.

    :param addresses: where they listen.
    :param key: ``status.cluster_key``; empty where there is none.
    :param endpoint: how an address is reached, if not by plain TCP.
    """

    log = Logger()

    def __init__(
        self,
        clock: Any,
        addresses: Sequence[HostPort],
        key: str = "",
        *,
        endpoint: Callable[[str, int], IStreamClientEndpoint] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._clock = clock
        self._key = key
        self._endpoint = endpoint or (lambda host, port: HostnameEndpoint(clock, host, port))
        self._rng = rng or random.Random()
        self._services = [_Service(address) for address in addresses]
        self._tasks = Tasks(self.log, clock)
        self._accounts = 0
        self._stopped = False
        #: Of those who wait for a connection to come up.
        self._hopes: set[Deferred[None]] = set()

    async def start(self) -> None:
        """Begin to connect. Does not wait for it: a gate without a status service answers ``unavailable``."""
        for service in self._services:
            service.away_since = self._clock.seconds()
            self._tasks.spawn(self._keep_connected(service), f"the connection to the status service {service.address}")

    async def stop(self) -> None:
        """End the connections; who waits gets ``Unavailable``."""
        self._stopped = True
        await self._tasks.stop()
        self._wake()

    async def check(self, address: HostPort) -> None:
        """Connect to one of the addresses, and be let in.

        :raises Lost: it cannot be reached.
        :raises flux.errors.FluxError: it does not let us in.
        """
        service = _Service(address)
        connection = await self._open(service)
        try:
            await connection.ask(StatusPing())
        finally:
            connection.end("checked")
            await connection.gone

    async def answers(self) -> None:
        """Return when a status service has given a sign of life.

        :raises flux.errors.Unavailable: none does.
        """
        there = [each.connection for each in self._services if each.connection is not None]
        asked = [Deferred.fromCoroutine(connection.sign_of_life()) for connection in there]
        # The pair of a result and its place, or a list where all have failed; of none it would wait for ever.
        first: Any = await DeferredList(asked, fireOnOneCallback=True, consumeErrors=True) if asked else []
        if isinstance(first, list):
            raise Unavailable(NOBODY, f"no status service answers: {self._whys()}")

    async def assign(self, uids: Sequence[int], leaving: str = "") -> list[Assignment]:
        """See :meth:`IPlacement.assign`.

        :raises flux.errors.Unavailable: no status service answered in time.
        """
        if self._stopped or self._accounts + len(uids) > MOST_WAITING:
            raise Unavailable("too many requests are waiting for a chat server; try again")
        self._accounts += len(uids)
        try:
            assignments: list[Assignment] = []
            for start in range(0, len(uids), MOST_UIDS):
                assignments += await self._assign(list(uids[start : start + MOST_UIDS]), leaving or UNSET)
            return assignments
        finally:
            self._accounts -= len(uids)

    async def _assign(self, uids: list[int], leaving: str | UnsetType) -> list[Assignment]:
        ends = self._clock.seconds() + DEADLINE
        failures = [each.failures for each in self._services]
        asked: set[_Service] = set()
        problem: FluxError | None = None
        while (left := ends - self._clock.seconds()) > 0 and not self._stopped:
            service = self._choose(asked)
            if service is None:
                if problem is not None:
                    # Everybody who is there has been asked.
                    raise problem
                if self._all_long_away(failures):
                    break
                await self._wait_for_a_connection(left)
                continue
            asked.add(service)
            try:
                return await within(left, self._ask(service, uids, leaving), self._clock, "a status service")
            except Unavailable as error:
                problem = error
            except (Lost, DeadlineExceeded):
                # It may come back, and until then there may be others.
                asked.discard(service)
        if problem is not None:
            raise problem
        self.log.warn("no status service answers: {whys}", whys=self._whys())
        raise Unavailable(NOBODY)

    async def _ask(self, service: _Service, uids: list[int], leaving: str | UnsetType) -> list[Assignment]:
        connection = service.connection
        assert connection is not None
        connection.outstanding += len(uids)
        try:
            reply = await connection.ask(GetChatServer(uids=uids, leaving=leaving))
        finally:
            connection.outstanding -= len(uids)
        if not isinstance(reply, GetChatServersOk) or [each.uid for each in reply.assignments] != uids:
            connection.end("it answers something else than was asked")
            raise Lost("it answers something else than was asked")
        return reply.assignments

    def _choose(self, asked: set[_Service]) -> _Service | None:
        """The connected service with the least to do, ties at random; those already asked only where they lost it."""
        there = [
            each
            for each in self._services
            if each.connection is not None and not each.connection.closed and each not in asked
        ]
        if not there:
            return None
        least = min(each.connection.outstanding for each in there if each.connection is not None)
        return self._rng.choice(
            [each for each in there if each.connection is not None and each.connection.outstanding == least]
        )

    def _all_long_away(self, failures: Sequence[int]) -> bool:
        """Whether all have been away for :data:`DEADLINE`, and have failed since they had so many ``failures``."""
        since = self._clock.seconds() - DEADLINE
        return all(
            each.connection is None and each.away_since <= since and each.failures > before
            for each, before in zip(self._services, failures, strict=True)
        )

    def _whys(self) -> str:
        return "; ".join(f"{each.address}: {each.problem or 'no answer'}" for each in self._services)

    # --- connections ---

    async def _wait_for_a_connection(self, seconds: float) -> None:
        hope: Deferred[None] = Deferred()
        self._hopes.add(hope)
        for service in self._services:
            if service.pause is not None and not service.pause.called:
                service.pause.callback(None)
        try:
            await within(seconds, hope, self._clock, "a status service")
        except DeadlineExceeded:
            return
        finally:
            self._hopes.discard(hope)

    def _wake(self) -> None:
        for hope in list(self._hopes):
            if not hope.called:
                hope.callback(None)

    async def _keep_connected(self, service: _Service) -> None:
        told = ""
        pauses = backoff(FIRST_PAUSE, LONGEST_PAUSE, self._rng)
        while True:
            try:
                connection = await self._open(service)
            except (Lost, FluxError) as problem:
                service.problem = str(problem)
                service.failures += 1
                self._wake()
            else:
                told = ""
                self.log.info("status service {address} is connected", address=service.address)
                began = self._clock.seconds()
                service.problem = await self._serve(service, connection)
                service.away_since = self._clock.seconds()
                if self._clock.seconds() - began > LONGEST_PAUSE:
                    pauses = backoff(FIRST_PAUSE, LONGEST_PAUSE, self._rng)
            if told != service.problem:
                told = service.problem
                self.log.warn("status service {address}: {why}", address=service.address, why=told)
            await self._pause(service, next(pauses))

    async def _pause(self, service: _Service, seconds: float) -> None:
        """Pause before the next attempt: less where somebody waits for it, who comes meanwhile among them."""
        await sleep(min(seconds, WANTED_PAUSE), self._clock)
        if seconds > WANTED_PAUSE and not self._hopes:
            service.pause = Deferred()
            with suppress(DeadlineExceeded):
                await within(seconds - WANTED_PAUSE, service.pause, self._clock, "nobody")
            service.pause = None

    async def _serve(self, service: _Service, connection: StatusConnection) -> str:
        """Use a connection until it ends; why it did."""
        service.connection, service.problem = connection, ""
        pinging = self._tasks.spawn(self._ping(connection), f"pinging the status service {service.address}")
        self._wake()
        try:
            return await connection.gone
        finally:
            service.connection = None
            pinging.cancel()
            connection.end("the gate is stopping")

    async def _ping(self, connection: StatusConnection) -> None:
        """Notice when what is behind the connection has gone without a word."""
        while True:
            await sleep(PING_EVERY, self._clock)
            try:
                await connection.sign_of_life()
            except Lost:
                return

    async def _open(self, service: _Service) -> StatusConnection:
        """:raises Lost: it cannot be reached. :raises flux.errors.FluxError: it does not let us in."""
        connection = StatusConnection(f"status {service.address}", self._clock)
        connecting = connectProtocol(self._endpoint(*service.address), connection)
        try:
            await within(CONNECT_WITHIN, insulated(connecting), self._clock, "connecting")
        except CancelledError:
            raise
        except Exception as problem:
            raise Lost(str(problem).rstrip(".") or type(problem).__name__) from problem
        if self._key:
            try:
                await connection.ask(Auth(key=self._key))
            except BaseException:
                connection.end("not let in")
                raise
        return connection
