"""The status port: requests of gates and tools, answered in the order in which they are done.

With a cluster key the first request must be ``auth``; whoever shows a wrong key is
cut, so that guessing takes a connection each.  That is no offence for which an address is
banned: a gate with an old key would be kept out of the chat servers too, with all who come through it.

Requests may be pipelined: reading stops while a connection waits for more accounts
than :data:`MOST_OUTSTANDING`.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from flux.config import Settings
from flux.errors import BadRequest, FluxError, Forbidden, Internal, LineTooLong, Unavailable
from flux.lifecycle import Tasks
from flux.model.placement import Assignment, Node
from flux.net.closing import Closing
from flux.net.connection import FULL, NORMAL, Gather
from flux.net.lines import LineProtocol
from flux.status.service import StatusService
from flux.status.strangers import Strangers
from flux.wire.catalogue import Rejected, Reply, Request
from flux.wire.mistakes import is_blank
from flux.wire.named import NAMED
from flux.wire.replies import EncodedHelpOk, PingOk
from flux.wire.requests import Help
from flux.wire.status import (
    STATUS,
    Auth,
    AuthOk,
    Drain,
    DrainOk,
    GetChatServer,
    GetChatServerOk,
    GetChatServersOk,
    ListServers,
    Resume,
    ResumeOk,
    ServersOk,
    StatusPing,
    VerifyToken,
    VerifyTokenOk,
)

MOST_OUTSTANDING = 2000
"""Accounts one connection may wait for; the answers are at most about half a megabyte."""

AUTH_WITHIN = 10.0
"""Seconds a connection may take to show the cluster key."""


class StatusConnection(LineProtocol):
    """A connection of a gate or a tool."""

    log = Logger()

    #: What gates ask for at once is one batch.
    lines_per_turn: ClassVar[int] = MOST_OUTSTANDING

    def __init__(self, factory: StatusFactory, conn: str) -> None:
        super().__init__(conn, factory.gather, factory.limits.max_line, factory.clock)
        self._factory = factory
        self._service = factory.service
        self._trusted = not factory.cluster_key
        self._overdue: IDelayedCall | None = None
        self._bad_lines = 0
        self._outstanding = 0

    @property
    def address(self) -> str:
        """The peer's, for the log; a proxy tells it only after the connection has been made."""
        return getattr(self.transport.getPeer(), "host", "local") if self.transport is not None else "nowhere"

    # --- the connection ---

    def connectionMade(self) -> None:
        """Wait for the key, where there is one."""
        super().connectionMade()
        self._factory.connections.add(self)
        if not self._trusted:
            self._factory.strangers.add(self)
            self._overdue = self._factory.clock.callLater(AUTH_WITHIN, self._not_authenticated)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Nobody waits for answers any more."""
        super().connectionLost(reason)
        self._factory.connections.discard(self)
        self._factory.closing.end(self)
        self._no_stranger()

    def close(self, code: int = NORMAL) -> None:
        """Write what is left, then close; who does not take it in time is cut."""
        if not self.closed:
            self._forget_overdue()
            self._factory.closing.begin(self)
            super().close(code)

    def line_too_long(self) -> None:
        """Say so, and close: what follows cannot be framed."""
        limit = self._factory.limits.max_line
        self.write(NAMED.error(LineTooLong(f"at most {limit} bytes")))
        self._give_up(f"a line of more than {limit} bytes")

    def _not_authenticated(self) -> None:
        self._overdue = None
        self._give_up(f"no cluster key within {AUTH_WITHIN:g} s")

    def _no_stranger(self) -> None:
        """The key was shown, or will not be."""
        self._factory.strangers.remove(self)
        self._forget_overdue()

    def _forget_overdue(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    def _give_up(self, why: str, detail: str = "") -> None:
        """Close for what the peer did; of strangers it is told by the second, without the detail."""
        if self._trusted:
            self.log.warn(
                "{why} from {address}, closed{detail}", why=why, address=self.address, detail=detail, conn=self.conn
            )
        else:
            self._factory.strangers.ended(self, why)
        self.close()

    # --- requests ---

    def line_received(self, line: bytes) -> None:
        """Answer a request, at once or when it is done."""
        try:
            request = STATUS.decode(line)
        except Rejected as rejected:
            if is_blank(line):
                return
            self.write(NAMED.error(rejected.error, rejected.request, rejected.ref))
            self._bad_line(rejected.error)
            return
        try:
            if not self._trusted and type(request) is not Auth:
                raise Forbidden("the first request must be auth, with the cluster key")
            self._ACTIONS[type(request)](self, request)
        except FluxError as error:
            self._refuse(request, error)
        except Exception:
            self.log.failure("answering {request} failed", request=request.type(), conn=self.conn)
            self._refuse(request, Internal())
        self._bad_lines = 0

    def _bad_line(self, error: FluxError) -> None:
        """Count a line that was no valid request; too many in a row end the connection."""
        self._bad_lines += 1
        limit = self._factory.limits.max_errors
        if limit and self._bad_lines >= limit:
            self._give_up(f"{self._bad_lines} bad lines in a row", f"; the last: {error}")

    def _reply(self, request: Request, reply: Reply) -> None:
        self.write(NAMED.reply(request, reply))

    def _refuse(self, request: Request, error: FluxError) -> None:
        self.write(NAMED.error(error, request.type(), request.ref))

    def _await(self, request: Request, work: Coroutine[Any, Any, Reply]) -> None:
        """Answer ``request`` when ``work`` is done."""
        self._wait_for(1)
        self._factory.tasks.spawn(self._answer(request, work), f"answering {request.type()}")

    async def _answer(self, request: Request, work: Coroutine[Any, Any, Reply]) -> None:
        try:
            self._reply(request, await work)
        except CancelledError:
            self._refuse(request, Unavailable("the status service is stopping"))
            raise
        except FluxError as error:
            self._refuse(request, error)
        except Exception:
            self.log.failure("answering {request} failed", request=request.type(), conn=self.conn)
            self._refuse(request, Internal())
        finally:
            self._done_with(1)

    def _wait_for(self, accounts: int) -> None:
        self._outstanding += accounts
        if self._outstanding >= MOST_OUTSTANDING:
            self.hold(FULL)

    def _done_with(self, accounts: int) -> None:
        before = self._outstanding
        self._outstanding -= accounts
        # Half, so that reading is not switched for every single answer.
        if before > MOST_OUTSTANDING // 2 >= self._outstanding and not self.closed:
            self.release(FULL)

    def _auth(self, request: Auth) -> None:
        key = self._factory.cluster_key
        if key and not hmac.compare_digest(request.key.encode("utf-8", "surrogatepass"), key.encode()):
            self._refuse(request, Forbidden("wrong cluster key"))
            self._give_up("a wrong cluster key")
            return
        self._trusted = True
        self._no_stranger()
        self._reply(request, AuthOk())

    def _get_chat_server(self, request: GetChatServer) -> None:
        uids = request.uids
        if isinstance(uids, list):
            if request.uid:
                raise BadRequest("uid, uids: give one of them")
        elif request.uid:
            uids = [request.uid]
        else:
            raise BadRequest("uid: missing")
        # Callbacks instead of a coroutine: this is the request that comes by the thousands.
        self._wait_for(len(uids))
        _ = (
            self._service.placement.assign(uids, request.leaving if isinstance(request.leaving, str) else "")
            .addCallback(self._assigned, request)
            .addErrback(self._not_assigned, request, len(uids))
        )

    def _assigned(self, assignments: list[Assignment], request: GetChatServer) -> None:
        if request.uid:
            (one,) = assignments
            self._reply(
                request,
                GetChatServerOk(
                    uid=one.uid,
                    host=one.host,
                    port=one.port,
                    server=one.server,
                    token=one.token,
                    expires=one.expires,
                    websocket=one.websocket,
                    tls=one.tls,
                ),
            )
        else:
            self._reply(request, GetChatServersOk(assignments=assignments))
        self._done_with(len(assignments))

    def _not_assigned(self, failure: Failure, request: GetChatServer, accounts: int) -> None:
        error = failure.value
        if not isinstance(error, FluxError):
            self.log.failure("answering {request} failed", failure, request=request.type(), conn=self.conn)
            error = Internal()
        self._refuse(request, error)
        self._done_with(accounts)

    def _login(self, request: VerifyToken) -> None:
        async def verify() -> Reply:
            await self._service.verify(request.uid, request.token)
            return VerifyTokenOk(uid=request.uid)

        self._await(request, verify())

    def _servers(self, request: ListServers) -> None:
        async def look() -> Reply:
            seen = await self._service.look()
            return ServersOk(servers=list(seen.servers), age=seen.age, problem=seen.problem)

        self._await(request, look())

    def _drain(self, request: Drain) -> None:
        async def drain() -> Reply:
            node = await self._admin(request, request.server, True)
            return DrainOk(server=node.name, state=node.state)

        self._await(request, drain())

    def _resume(self, request: Resume) -> None:
        async def resume() -> Reply:
            node = await self._admin(request, request.server, False)
            return ResumeOk(server=node.name, state=node.state)

        self._await(request, resume())

    async def _admin(self, request: Request, server: str, draining: bool) -> Node:
        about = {"request": request.type(), "server": server, "address": self.address, "conn": self.conn}
        try:
            node = await self._service.drain(server, draining)
        except FluxError as error:
            self.log.warn("{request} of {server}, asked by {address}, is not done: {error}", error=error, **about)
            raise
        self.log.info("{request} of {server}, asked by {address}: it is {state}", state=node.state, **about)
        return node

    def _ping(self, request: StatusPing) -> None:
        self._reply(request, PingOk(at=int(self._factory.wall() * 1000)))

    def _help(self, request: Help) -> None:
        self._reply(request, EncodedHelpOk(requests=STATUS.help(request.request)))

    #: What is done for each request of the catalogue.
    _ACTIONS: dict[type[Request], Callable[[StatusConnection, Any], None]] = {  # noqa: RUF012 - never changed
        Auth: _auth,
        GetChatServer: _get_chat_server,
        VerifyToken: _login,
        ListServers: _servers,
        Drain: _drain,
        Resume: _resume,
        StatusPing: _ping,
        Help: _help,
    }


class StatusFactory(Factory):
    """Makes the connections of the status port.

    :param wall: the time of day, in seconds since the epoch.
    :ivar limits: for connections made from now on.
    :ivar connections: those that are open.
    :ivar strangers: those of them that have not shown the cluster key.
    :ivar closing: those that were closed and are not gone yet.
    """

    noisy = False
    log = Logger()

    def __init__(
        self,
        service: StatusService,
        settings: Settings,
        clock: IReactorTime,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.service = service
        self.cluster_key = settings.status.cluster_key
        self.limits = settings.limits
        self.clock = clock
        self.wall = wall
        self.gather = Gather()
        self.tasks = Tasks(self.log, clock)
        self.connections: set[StatusConnection] = set()
        self.strangers = Strangers(clock, settings.limits.connections_per_address)
        self.closing = Closing(clock)
        self._count = 0

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """A connection from ``addr``."""
        self._count += 1
        return StatusConnection(self, f"s{self._count}")

    def reload(self, settings: Settings) -> None:
        """Go on with other limits."""
        self.limits = settings.limits
        self.strangers.most_per_address = settings.limits.connections_per_address

    async def stop(self) -> None:
        """Answer what is left with ``Unavailable`` and close the connections.

        Stop the port and the service before: then nothing new comes, and nobody waits for a server any more.
        """
        await self.tasks.stop()
        for connection in list(self.connections):
            connection.close()
        self.strangers.stop()
