"""The heartbeat of a chat node: what it tells the shared state of itself, and what it hears in return.

::

    lease and all routes ──> IState.renew ──> lost        a newer session has the route: ours is kicked
                                              strays      routes of no session: released
                                              departed    of a node that died: their friends are told
                                              restored    their friends may have been told so of them
                                              superseded  another process has the name: this one ends
                                              draining    what an admin wants of this node
    then                     routes that could not be released when their sessions ended

After a gap on the bus it beats at once.  A process that stood still for longer than its lease lasts reads nothing
from its clients until it has; both are followed by a look at what was missed.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.addresses import HostPort
from flux.chat.connections import Connections
from flux.chat.naming import holder
from flux.chat.presence import Presence
from flux.chat.session import Session
from flux.chat.spread import Spread
from flux.chat.sweep import Sweep
from flux.config import Settings
from flux.errors import FluxError, in_words
from flux.interfaces import IState
from flux.lifecycle import Outage, together
from flux.model.placement import Lease
from flux.model.sessions import Route
from flux.net.connection import LAPSED

MAX_UNRELEASED = 20_000
"""Routes of sessions that ended while the shared state was away, to be released later."""


class Heartbeat:
    """Keeps a node's lease and the routes of its sessions.

    :param sessions: the node's table of live sessions by account.
    :param logging_in: accounts of logins that are under way.
    :param connections: the node's; held while others may have its accounts.
    :param sweep: looks what was missed.
    :param presence: tells friends.
    :param draining: called with every answer: whether an admin wants this node to drain.
    :param fatal: called with a reason when this process must go (its name was taken over).
    """

    log = Logger()

    def __init__(
        self,
        settings: Settings,
        state: IState,
        sessions: Mapping[int, Session],
        logging_in: Container[int],
        connections: Connections,
        sweep: Sweep,
        spread: Spread,
        presence: Presence,
        clock: IReactorTime,
        draining: Callable[[bool], None],
        fatal: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._name = settings.chat.name
        self._state = state
        self._sessions = sessions
        self._logging_in = logging_in
        self._connections = connections
        self._sweep = sweep
        self._spread = spread
        self._presence = presence
        self._clock = clock
        self._draining = draining
        self._fatal = fatal
        self._boot = 0
        self._host, self._port, self._websocket, self._tls = "", 0, "", False
        self._beat: float | None = None
        self._renewed: float | None = None
        self._given_up = self._superseded = False
        self._outage = Outage(self.log, clock)
        self._unreleased: set[tuple[int, Route]] = set()
        self._releasing = Outage(self.log, clock)

    async def begin(self, boot: int, host: str, port: int, websocket: str, tls: bool) -> None:
        """Take the lease, from a dead server of this name if need be; :meth:`beat` keeps it.

        :raises flux.errors.Unavailable: the shared state does not answer.
        """
        self._boot = boot
        self._host, self._port, self._websocket, self._tls = host, port, websocket, tls
        await self._renew()
        self._beat = self._clock.seconds()

    async def beat(self) -> None:
        """Renew lease and routes."""
        silent = self._clock.seconds() - (self._beat or 0.0)
        if silent > self._settings.status.lease:
            # This process was stopped and goes on: others may have its accounts by now.
            self.log.warn(
                "this process stood still for {silent:.0f} s, longer than its lease: others may have taken its users",
                silent=silent,
            )
            self._connections.hold(LAPSED)
            try:
                await self._look_again()
            finally:
                self._connections.release(LAPSED)
        else:
            await self._renew_or_warn()
        self._beat = self._clock.seconds()

    async def after_gap(self) -> None:
        """The bus has lost hints, perhaps because the shared state has lost everything."""
        if self._beat is not None:
            await self._look_again()

    async def release(self, uid: int, route: Route) -> None:
        """Release a route, or remember it for the next beat."""
        try:
            await self._state.release(uid, route)
        except FluxError as error:
            if len(self._unreleased) < MAX_UNRELEASED:
                self._unreleased.add((uid, route))
            self._releasing.failed("routes of ended sessions stay until the next heartbeat: {error}", error=error)
        else:
            self._releasing.over("routes of ended sessions are released again, after {seconds} s")

    async def give_up(self, boot: int) -> None:
        """Give the lease up, taken or not, and renew nothing any more."""
        self._given_up = True
        try:
            await self._state.retire(self._name, boot)
            if self._renewed is not None and not self._superseded:
                # An admin may have drained it, perhaps since it last asked. Whoever starts it again wants it to serve.
                await self._state.drain(self._name, False)
        except FluxError as error:
            self.log.warn("the lease could not be given up: {error}", error=error)

    def reload(self, settings: Settings) -> None:
        """Go on with new settings."""
        self._settings = settings

    async def _look_again(self) -> None:
        """Put the routes right, then look what was missed."""
        await self._renew_or_warn()
        await self._sweep.look()

    async def _renew_or_warn(self) -> None:
        if self._given_up:
            return
        try:
            await self._renew()
        except FluxError as error:
            self._spread.degraded = True
            self._outage.failed("the lease cannot be renewed: {error}", error=in_words(error))
        else:
            self._outage.over("the lease is renewed again, after {seconds} s")

    async def _renew(self) -> None:
        chat = self._settings.chat
        lease = Lease(
            self._name, self._boot, self._host, self._port, len(self._sessions), chat.capacity, chat.weight,
            self._settings.status.lease, self._websocket, self._tls, self._sweep.trouble,
        )  # fmt: skip
        routes = {uid: session.number for uid, session in self._sessions.items() if session.placed}
        began = self._clock.seconds()
        renewal = await self._state.renew(lease, list(routes.items()))
        before, self._renewed = self._renewed, began
        lapsed = before is not None and self._clock.seconds() - before > self._settings.status.lease
        if renewal.superseded:
            self._superseded = True
            for session in list(self._sessions.values()):
                session.connection.abort()
            self._fatal(f"another process{await self._successor()} started as {self._name!r} (chat.name)")
            return
        for uid in renewal.lost:
            loser = self._sessions.get(uid)
            # The one that holds the route now may have come here meanwhile.
            if loser is not None and loser.number == routes[uid]:
                loser.kick("takeover")
        for uid, number in renewal.strays:
            # Of a session that ended while nobody could be told, or before an old dump was loaded.
            holder = self._sessions.get(uid)
            if uid not in self._logging_in and (holder is None or holder.number != number):
                self._unreleased.add((uid, Route(self._name, self._boot, number)))
        await self._release_late()
        await self._presence.announce(renewal.departed, False)
        if lapsed:
            await self._presence.announce(renewal.restored, True)
        if not self._given_up:
            self._draining(renewal.draining)

    async def _successor(self) -> str:
        """Where the one is that has the name now, if that is known."""
        try:
            node = await holder(self._state, self._name)
        except FluxError:
            node = None
        return f" at {HostPort(node.host, node.port)}" if node is not None else ""

    async def _release_late(self) -> None:
        """Release the routes that could not be when their sessions ended: all at once, there may be many."""
        unreleased, self._unreleased = self._unreleased, set()
        await together(self.release(uid, route) for uid, route in unreleased)
