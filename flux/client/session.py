"""One session over as many connections as it takes.

The first connection is opened by ``begin`` or ``begin_through``, which report its errors; from then on one
coroutine, ``_keep_online``, waits for each connection's departure and decides::

    kicked: takeover, admin, password ──> the session ends
    moved ──> log in there with the token; the old connection serves until then
    anything else ──> back off, then the next address, or ask where to go; log in again
                      (an answer that repeating cannot change ends the session; so does a mistake in here)

What outlives a connection is told of each new one, and of its end: ``Outbox`` and ``Cursors``; ``Inbox`` and
``Seen`` get what it brings.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias, TypeVar

from msgspec import UNSET, UnsetType
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.addresses import HostPort
from flux.client.connection import Connection
from flux.client.cursors import Cursors
from flux.client.errors import ClientError, NotConnected, SessionEnded
from flux.client.events import Connecting, Ended, Offline, Online, State
from flux.client.gate import Locator
from flux.client.inbox import Inbox
from flux.client.outbox import Outbox
from flux.client.seen import Seen
from flux.client.servers import Servers
from flux.errors import AlreadyLoggedIn, FluxError, Internal, NoServer, RateLimited, TokenInvalid, Unavailable
from flux.lifecycle import DeadlineExceeded, Spawned, backoff, insulated, sleep, spawn, within
from flux.model.base import Event
from flux.model.events import Kicked, Moved, Notice
from flux.model.messages import Message
from flux.model.placement import Assignment
from flux.wire import replies, requests
from flux.wire.catalogue import Reply, Request
from flux.wire.replies import LoginOk, SendOk

R = TypeVar("R", bound=Reply)

#: The pause before the first attempt to reconnect, in seconds.
FIRST_PAUSE = 0.1
#: A session shorter than this does not reset the pauses, in seconds.
STABLE_AFTER = 2.0
#: Whoever is asked for a server has so long to answer, in seconds.
LOCATE_WITHIN = 30.0

#: Why a session ends for good, in words.
_REASONS = {
    "takeover": "this account has logged in somewhere else",
    "admin": "an administrator has ended this session",
    "password": "the password of this account was changed",
    "logout": "logged out",
    "closed": "closed",
    "internal": "a mistake in the client, which the log tells of, has ended this session",
}
_TERMINAL = ("takeover", "admin", "password")
_KICKED = {"slow": "the server found this connection too slow", "shutdown": "the server is shutting down"}
#: What another attempt may change; of the client's own errors, all but the end of the session.
_PASSING = (ClientError, DeadlineExceeded, Unavailable, NoServer, AlreadyLoggedIn, RateLimited, Internal)

#: Why a connection is no longer the session's: the server's word, or a sentence.
_Departure: TypeAlias = Kicked | Moved | str

Locate: TypeAlias = Callable[[], Awaitable[Assignment]]
"""Asks whoever knows, a gate or the status service, where this account is to log in now, and with which token."""


class Session:
    """What a client keeps for one account, from its login to its end.

    :param servers: where it may be.
    :param max_pending: most sends that may wait for their receipts.
    :param longest_pause: between attempts to reconnect, and to send what the server could not take, in seconds.
    :ivar events: what happens, in order.
    :ivar state: the last state event; None before the first login.
    :ivar profile: the answer to the last login; None before.
    :ivar outbox: the sends that wait for their receipts.
    :ivar cursors: what was received and read, and is to be said.
    """

    _log = Logger()

    def __init__(
        self, reactor: IReactorTime, rng: random.Random, servers: Servers, max_pending: int, longest_pause: float
    ) -> None:
        self._reactor = reactor
        self._rng = rng
        self._servers = servers
        self._longest_pause = longest_pause
        self.events = Inbox(reactor, self._choke)
        self.state: State | None = None
        self.profile: LoginOk | None = None
        self.outbox = Outbox(reactor, rng, max_pending, longest_pause)
        self.cursors = Cursors(reactor)
        self._seen = Seen()
        self._credentials = requests.Login()
        self._locate: Locate | None = None
        self._connection: Connection | None = None
        self._opening: Connection | None = None
        self._kicked_opening: Kicked | None = None
        self._departure: Deferred[_Departure] = Deferred()
        self._serving: Spawned | None = None
        self._watching: Spawned | None = None

    # before and after a session

    async def begin(self, login: requests.Login) -> LoginOk:
        """Log in at the first address that can be reached; later logins are repeated with the same credentials."""
        self._only_once()
        self._credentials = login
        answer = await self._servers.first(self._open)
        self._serving = spawn(self._serve(), "keeping the session", self._log)
        return answer

    async def begin_through(self, locate: Locate) -> LoginOk:
        """Log in where ``locate`` says; later logins ask it again."""
        self._only_once()
        self._credentials = requests.Login(acks=True)
        login = await self._open_located(locate)
        self._locate = locate
        self._serving = spawn(self._serve(), "keeping the session", self._log)
        return login

    async def logout(self) -> None:
        """End the session on the server, then the connection."""
        connection = self._connection
        if connection is not None and connection.alive and not isinstance(self.state, Ended):
            self.cursors.flush()
            self._stop_serving()
            try:
                await connection.request(requests.Logout(), replies.LogoutOk)
            except (FluxError, ClientError, DeadlineExceeded):
                self._log.info("the connection ended before the logout was answered")
        await self._leave("logout")

    async def close(self) -> None:
        """End the connection; what was taken is acknowledged, what waits to be sent fails with ``SessionEnded``."""
        self.cursors.flush()
        await self._leave("closed")

    # during a session

    def send(self, request: requests.Send) -> Deferred[SendOk]:
        """Queue a message, as :meth:`flux.client.outbox.Outbox.send`."""
        return self.outbox.send(request).addCallback(self._sent)

    def tell(self, request: Request) -> None:
        """Send a request that has no reply; lost while offline."""
        if self._connection is not None:
            self._connection.tell(request)

    async def request(self, request: Request, reply: type[R]) -> R:
        """Ask, as :meth:`flux.client.connection.Connection.request`.

        :raises SessionEnded: the session is over.
        """
        self._raise_if_ended()
        if self._connection is None:
            raise NotConnected("not connected")
        answer = await self._connection.request(request, reply)
        if isinstance(answer, replies.HistoryOk):
            # The application has these now: they are not brought as new any more.
            for message in answer.messages:
                self._seen.add(message.chat, message.seq, message.at)
        return answer

    def password_changed(self, new: str) -> None:
        """Later logins use the new one."""
        if self._credentials.password is not UNSET:
            self._credentials.password = new
        if isinstance(self._locate, Locator):
            self._locate.password_changed(new)

    def _sent(self, receipt: SendOk) -> SendOk:
        self._seen.add(receipt.chat, receipt.seq, receipt.at)
        return receipt

    # opening connections

    def connection(self) -> Connection:
        """A new one, which is not the session's yet."""
        return Connection(self._reactor, self._rng, self._pushed, self._lost)

    def _only_once(self) -> None:
        if self._serving is not None:
            raise ClientError("a client logs in once")

    async def _open_located(self, locate: Locate) -> LoginOk:
        """Ask where to go, and log in there."""

        async def ask() -> Assignment:
            return await locate()

        try:
            place = await within(LOCATE_WITHIN, insulated(ask()), self._reactor, "asking for a server")
        except (FluxError, ClientError, DeadlineExceeded, CancelledError):
            raise
        except Exception as problem:
            self._log.failure("asking for a server failed")
            raise NotConnected(f"asking for a server failed: {problem}") from problem
        address = self._servers.told(place.host, place.port, place.tls)
        if self._serving is not None:
            self._enter(Connecting(*address))
        self._credentials.id, self._credentials.token = place.uid, place.token
        return await self._open(address)

    async def _open(self, address: HostPort, token: str | None = None) -> LoginOk:
        """Connect, log in, and use that connection from then on."""
        connection = self._opening = self.connection()
        self._kicked_opening = None
        credentials = self._credentials
        if token is not None:
            credentials = requests.Login(id=credentials.id, token=token, acks=True)
        try:
            await self._servers.connect(connection, address)
            # A login would take the account away from where it is used by now.
            self._raise_if_ended()
            login = await connection.request(credentials, LoginOk)
            self._raise_if_ended()
        except NotConnected:
            kicked: Kicked | None = self._kicked_opening
            if kicked is not None and kicked.reason in _TERMINAL:
                raise _ended(kicked.reason, kicked.detail) from None
            raise
        except BaseException:
            connection.abort("not logged in")
            raise
        finally:
            self._opening = None
        self._adopt(connection, login, address)
        return login

    def _adopt(self, connection: Connection, login: LoginOk, address: HostPort) -> None:
        old, self._connection = self._connection, connection
        if old is not None:
            old.abort("moved")
        self._stop_watching()
        self._watching = spawn(connection.watch(), "watching the connection", self._log)
        self._departure = Deferred()
        self._credentials.id, self._credentials.name = login.id, ""
        self.profile = login
        connection.pause(self.events.full)
        self._enter(Online(login, address.host, address.port))
        self.cursors.online(connection)
        self.outbox.online(connection)

    # what connections report

    def _pushed(self, connection: Connection, event: Event) -> None:
        if isinstance(event, Kicked) and connection is self._opening:
            self._kicked_opening = event
        if connection is not self._connection:
            return
        if isinstance(event, Message):
            new = self._seen.add(event.chat, event.seq, event.at)
            taken = partial(self.cursors.received, connection, event.chat, event.seq)
            self.events.put(event if new else None, taken)
        elif isinstance(event, Notice):
            self.events.put(event)
        elif isinstance(event, Kicked | Moved):
            self._depart(event)

    def _lost(self, connection: Connection, why: str) -> None:
        if connection is self._connection:
            self._connection = None
            self.outbox.offline()
            self.cursors.offline()
            self._stop_watching()
            self._depart(why)

    def _depart(self, departure: _Departure) -> None:
        # Only the first counts: after moved, the old connection's kicked and its end mean nothing.
        if not self._departure.called:
            self._departure.callback(departure)

    def _choke(self, full: bool) -> None:
        if self._connection is not None:
            self._connection.pause(full)

    # keeping the session

    async def _serve(self) -> None:
        try:
            await insulated(self._keep_online())
        except SessionEnded as end:
            self._end(end)
        except CancelledError:
            raise
        except Exception:
            self._log.failure("keeping the session failed")
            self._end(_ended("internal"))

    async def _keep_online(self) -> None:
        """:raises SessionEnded: always, at last."""
        pauses = backoff(FIRST_PAUSE, self._longest_pause, self._rng)
        while True:
            online_since = self._reactor.seconds()
            departure = await self._departure
            if self._reactor.seconds() - online_since >= STABLE_AFTER:
                pauses = backoff(FIRST_PAUSE, self._longest_pause, self._rng)
            if isinstance(departure, Moved):
                if await self._move(departure):
                    continue
                why = "moving to another server did not work"
            elif isinstance(departure, Kicked):
                if departure.reason in _TERMINAL:
                    raise _ended(departure.reason, departure.detail)
                why = _KICKED.get(departure.reason, departure.reason)
            else:
                why = departure
            self._drop(why)
            at_least = 0.0
            while True:
                self._raise_if_ended()
                try:
                    pause = max(next(pauses), at_least)
                    at_least = 0.0
                    self._enter(Offline(why, pause))
                    await sleep(pause, self._reactor)
                    await self.events.room()
                    if self._locate is not None:
                        await self._open_located(self._locate)
                    else:
                        address = self._servers.next
                        self._enter(Connecting(*address))
                        await self._open(address)
                    break
                except SessionEnded:
                    raise
                except RateLimited as limited:
                    why = str(limited)
                    at_least = limited.retry_after / 1000
                except _PASSING as problem:
                    why = str(problem)
                    self._servers.failed()
                except FluxError as refused:
                    why = refused.detail or refused.name
                    if self._locate is not None and isinstance(refused, TokenInvalid):
                        continue  # revoked or forgotten meanwhile: the next one is fresh
                    raise SessionEnded(refused.name, f"the server refused to log in again: {why}") from refused

    async def _move(self, moved: Moved) -> bool:
        """Log in where the server says, while the old connection still serves."""
        address = self._servers.told(moved.host, moved.port, moved.tls is True)
        self._servers.prefer(address)
        token = None if moved.token is UNSET else moved.token
        if token is not None and self._credentials.password is UNSET:
            # The new token has revoked the one this session came with.
            self._credentials.token = token
        try:
            await self._open(address, token)
        except (FluxError, NotConnected, DeadlineExceeded) as problem:
            self._log.info("moving to {address} failed: {problem}", address=str(address), problem=str(problem))
            self._servers.failed()
            return False
        return True

    def _drop(self, why: str) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self.outbox.offline()
            self.cursors.offline()
            self._stop_watching()
            connection.abort(why)

    # the end

    async def _leave(self, reason: str) -> None:
        connection = self._connection
        self._stop_serving()
        self._connection = None
        self._end(_ended(reason))
        if connection is not None:
            await connection.close()

    def _end(self, end: SessionEnded) -> None:
        if isinstance(self.state, Ended):
            return
        self._enter(Ended(end.reason, str(end)))
        self.events.close()
        self._stop_watching()
        self.cursors.offline()
        self.outbox.end(end.reason, str(end))
        self._drop(str(end))

    def _raise_if_ended(self) -> None:
        if isinstance(self.state, Ended):
            raise SessionEnded(self.state.reason, self.state.detail)

    def _stop_serving(self) -> None:
        if self._serving is not None:
            self._serving.cancel()

    def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    def _enter(self, state: State) -> None:
        self.state = state
        self.events.put(state)


def _ended(reason: str, detail: str | UnsetType = UNSET) -> SessionEnded:
    said = _REASONS[reason]
    return SessionEnded(reason, f"{said}: {detail}" if isinstance(detail, str) else said)
