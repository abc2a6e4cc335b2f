"""A program's way to the status service: which chat server an account gets, and with which token.

One connection for everybody who asks, opened when it is needed; requests are pipelined.  When it breaks, those who
wait get :class:`NotConnected`, and the next one to ask opens another, at the next address where there are several.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger

from flux.addresses import HostPort
from flux.client.connection import Connection
from flux.client.errors import NotConnected
from flux.client.lines import decode_status
from flux.errors import FluxError
from flux.lifecycle import DeadlineExceeded, Tasks
from flux.model.placement import Assignment, Node
from flux.tls.client import TlsEndpoint
from flux.wire.catalogue import Reply, Request
from flux.wire.status import (
    Auth,
    AuthOk,
    Drain,
    DrainOk,
    GetChatServer,
    GetChatServerOk,
    ListServers,
    Resume,
    ResumeOk,
    ServersOk,
)

R = TypeVar("R", bound=Reply)

#: The service answers within a few seconds, be it that it has no answer.
ANSWER_WITHIN = 10.0


class StatusClient:
    """Asks the status services of a cluster.

    :param addresses: where they listen; one that cannot be reached makes room for the next.
    :param key: ``status.cluster_key``, where there is one.
    :param tls: connections begin with TLS.
    :param trust: whose certificates a service's must be signed by (:func:`flux.client.trust_from`); None: those the
        system trusts.
    :param endpoint: how an address is reached, if not by TCP; TLS goes on top.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        addresses: Sequence[tuple[str, int]],
        *,
        key: str = "",
        tls: bool = False,
        trust: Any = None,
        endpoint: Callable[[str, int], IStreamClientEndpoint] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._reactor = reactor
        self._addresses = deque(HostPort(*address) for address in addresses)
        self._key = key
        self._endpoint = endpoint or partial(HostnameEndpoint, reactor)
        self._tls = tls
        self._trust = trust
        self._rng = rng or random.Random()
        self._connection: Connection | None = None
        self._connecting = False
        self._waiting: list[Deferred[Connection]] = []
        self._closed = False
        self._tasks = Tasks(self._log, reactor)

    async def locate(self, uid: int) -> Assignment:
        """A chat server for the account, and a token to log in there; an earlier token is void from now on.

        :raises: as :meth:`request`; ``no_server`` where there is none to give.
        """
        answer = await self.request(GetChatServer(uid=uid), GetChatServerOk)
        return Assignment(
            answer.uid,
            answer.host,
            answer.port,
            answer.server,
            answer.token,
            answer.expires,
            answer.websocket,
            answer.tls,
        )

    async def servers(self) -> list[Node]:
        """The chat servers with their loads; raises as :meth:`request`."""
        return (await self.look()).servers

    async def look(self) -> ServersOk:
        """The same, and how old that is; raises as :meth:`request`."""
        return await self.request(ListServers(), ServersOk)

    async def drain(self, server: str) -> DrainOk:
        """Give a server no more users, and let it ask those it has to move.

        :raises: as :meth:`request`; ``not_found`` where no server has this name.
        """
        return await self.request(Drain(server=server), DrainOk)

    async def resume(self, server: str) -> ResumeOk:
        """Undo :meth:`drain`; raises as that does."""
        return await self.request(Resume(server=server), ResumeOk)

    async def request(self, request: Request, reply: type[R]) -> R:
        """Ask, and wait for the answer of type ``reply``.

        :raises flux.errors.FluxError: what the service answered instead; ``forbidden`` for a wrong key.
        :raises flux.client.NotConnected: it cannot be reached, or the connection broke before the answer.
        :raises flux.client.QueueFull: too many requests wait already.
        :raises flux.lifecycle.DeadlineExceeded: no answer within ``ANSWER_WITHIN``.
        """
        connection = await self._connected()
        try:
            return await connection.request(request, reply, ANSWER_WITHIN)
        except DeadlineExceeded:
            # Perhaps a dead link: the next one to ask finds out with another.
            connection.abort("the status service does not answer")
            raise

    async def close(self) -> None:
        """End the connection; asks nothing any more."""
        self._closed = True
        await self._tasks.stop()
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _connected(self) -> Connection:
        if self._closed:
            raise NotConnected("closed")
        if self._connection is not None and self._connection.alive:
            return self._connection
        connected: Deferred[Connection] = Deferred()
        self._waiting.append(connected)
        if not self._connecting:
            self._connecting = True
            self._tasks.spawn(self._connect(), "connecting to the status service")
        return await connected

    async def _connect(self) -> None:
        """Open a connection for all who wait, or tell them why there is none."""
        failure: Exception = NotConnected("no address of a status service")
        connection = None
        try:
            for _ in range(len(self._addresses)):
                try:
                    connection = await self._open(self._addresses[0])
                    break
                except (NotConnected, DeadlineExceeded) as problem:
                    failure = problem
                    self._addresses.rotate(-1)
        except FluxError as refused:
            failure = refused
        except CancelledError:
            failure = NotConnected("closed")
            raise
        finally:
            self._connection, self._connecting = connection, False
            waiting, self._waiting = self._waiting, []
            for waiter in waiting:
                # What one of them does next may be to cancel another.
                if waiter.called:
                    continue
                if connection is not None:
                    waiter.callback(connection)
                else:
                    waiter.errback(failure)

    async def _open(self, address: HostPort) -> Connection:
        connection = Connection(self._reactor, self._rng, lambda _, event: None, self._lost, decode_status)
        endpoint = self._endpoint(address.host, address.port)
        if self._tls:
            endpoint = TlsEndpoint(endpoint, address.host, self._trust, self._reactor)
        await connection.connect(endpoint, address)
        if self._key:
            try:
                await connection.request(Auth(key=self._key), AuthOk, ANSWER_WITHIN)
            except BaseException:
                connection.abort("not let in")
                raise
        return connection

    def _lost(self, connection: Connection, why: str) -> None:
        if connection is self._connection:
            self._connection = None
