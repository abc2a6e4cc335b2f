"""One session over as many connections as it takes.

``login`` opens the first connection and reports its errors; from then on one
coroutine, ``_keep_online``, waits for each connection's departure and decides::

    kicked: takeover, admin, password ──> the session ends
    moved ──> log in there with the token; the old connection serves until then
    anything else ──> back off, then the next address, or ask where to go; log in again
                      (an answer that repeating cannot change ends the session)
"""

from __future__ import annotations

import itertools
import random
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

from msgspec import UNSET, UnsetType
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger

from flux.client.calls import Calls
from flux.client.connection import Address, Connection
from flux.client.cursors import Cursors
from flux.client.errors import ClientError, NotConnected, SessionEnded
from flux.client.events import Connecting, Ended, Offline, Online, State
from flux.client.gate import Locator
from flux.client.inbox import Inbox
from flux.client.outbox import Outbox
from flux.client.seen import Seen
from flux.errors import AlreadyLoggedIn, FluxError, Internal, NoServer, RateLimited, TokenInvalid, Unavailable
from flux.lifecycle import DeadlineExceeded, Spawned, backoff, sleep, spawn, within
from flux.model import Assignment, Event, Kicked, Message, Moved, Notice
from flux.tls.client import TlsEndpoint
from flux.wire import replies, requests
from flux.wire.catalogue import Reply, Request
from flux.wire.replies import LoginOk, SendOk

R = TypeVar("R", bound=Reply)

#: Between attempts to reconnect or to send, in seconds.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
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
}
_TERMINAL = ("takeover", "admin", "password")
_KICKED = {"slow": "the server found this connection too slow", "shutdown": "the server is shutting down"}
#: What another attempt may change.
_PASSING = (NotConnected, DeadlineExceeded, Unavailable, NoServer, AlreadyLoggedIn, RateLimited, Internal)

#: Why a connection is no longer the session's: the server's word, or a sentence.
_Departure: TypeAlias = Kicked | Moved | str

Locate: TypeAlias = Callable[[], Awaitable[Assignment]]
"""Asks whoever knows, a gate or the status service, where this account is to log in now, and with which token."""


class Client(Calls):
    """A session with one account. Logs in once; afterwards make another one.

    :param reactor: any Twisted reactor.
    :param addresses: where chat servers listen; tried in order, from the one that last worked. They may be left
        out where :meth:`login_through` asks for them.
    :param tls: every connection begins with TLS, whatever assignments and ``moved`` say of it. Without it those that
        say so do, and none to ``addresses``.
    :param trust: whose certificates a server's must be signed by (:func:`flux.client.trust_from`); None: those the
        system trusts.
    :param endpoint: how an address is reached, if not by TCP; TLS goes on top.
    :param max_pending: most sends that may wait for their receipts.
    :param longest_pause: between attempts to reconnect, and to send what the server could not take, in seconds.
    :ivar events: what happens, in order: an asynchronous iterator for one consumer.
    :ivar state: the last state event; None before the first login.
    :ivar profile: the answer to the last login, profile first; None before.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        addresses: Sequence[tuple[str, int]] = (),
        *,
        tls: bool = False,
        trust: Any = None,
        endpoint: Callable[[str, int], IStreamClientEndpoint] | None = None,
        max_pending: int = 1000,
        longest_pause: float = LONGEST_PAUSE,
        rng: random.Random | None = None,
    ) -> None:
        self._reactor = reactor
        self._addresses = deque(Address(*address) for address in addresses)
        self._endpoint = endpoint or partial(HostnameEndpoint, reactor)
        self._tls = tls
        #: Addresses of which we were told that they speak TLS.
        self._secure: set[Address] = set()
        self._trust = trust
        self._longest_pause = longest_pause
        self._rng = rng or random.Random()
        self.events = Inbox(reactor, self._choke)
        self.state: State | None = None
        self.profile: LoginOk | None = None
        self._outbox = Outbox(reactor, self._rng, max_pending, longest_pause)
        self._cursors = Cursors(reactor)
        self._seen = Seen()
        # A client that starts anew must never use a cid of an earlier one for another text. The time, in ms,
        # comes first because the store's index grows at its end then, which halves what a message costs there.
        self._cids = (
            f"{time.time_ns() // 1_000_000:x}-{prefix}-{number}"
            for prefix in [secrets.token_hex(8)]
            for number in itertools.count(1)
        )
        self._credentials = requests.Login()
        self._locate: Locate | None = None
        self._connection: Connection | None = None
        self._opening: Connection | None = None
        self._kicked_opening: Kicked | None = None
        self._departure: Deferred[_Departure] = Deferred()
        self._serving: Spawned | None = None
        self._watching: Spawned | None = None

    @property
    def unsent(self) -> int:
        """Sends that wait for their receipts."""
        return self._outbox.waiting

    # before and after a session

    async def register(
        self, name: str, password: str, *, email: str = "", code: str = "", nick: str = ""
    ) -> replies.RegisterOk:
        """Create an account, on a connection of its own; ``code`` proves ``email``.

        :raises flux.errors.FluxError: ``user_exists``, ``password_invalid``, ...
        :raises NotConnected: no address could be reached.
        """
        asked = requests.Register(name=name, password=password, email=email, code=code, nick=nick)

        async def register(address: Address) -> replies.RegisterOk:
            connection = self._new_connection()
            await self._connect(connection, address)
            try:
                return await connection.request(asked, replies.RegisterOk)
            finally:
                await connection.close()

        return await self._first_address(register)

    async def login(self, user: str | int, *, password: str | None = None, token: str | None = None) -> LoginOk:
        """Begin the session: with name or id and a password, or with id and a token.

        The first login reports its errors; later ones, after a broken connection, happen by themselves.

        :raises flux.errors.FluxError: ``password_invalid``, ``token_invalid``, ``rate_limited``, ...
        :raises NotConnected: no address could be reached.
        :raises SessionEnded: taken over while logging in.
        """
        self._begin()
        self._credentials = requests.Login(
            id=user if isinstance(user, int) else 0,
            name=user if isinstance(user, str) else "",
            password=UNSET if password is None else password,
            token=UNSET if password is not None or token is None else token,
            acks=True,
        )
        login = await self._first_address(self._open)
        self._serving = spawn(self._serve(), "keeping the session", self._log)
        return login

    async def login_through(self, locate: Locate) -> LoginOk:
        """Begin the session wherever ``locate`` says, and ask it again before every attempt to come back.

        So the session goes on elsewhere when its server is gone, and outlives its token. For users of a
        status service there is :meth:`flux.client.StatusClient.locate`, for those of a gate
        :meth:`flux.client.GateClient.locator`::

            await client.login_through(lambda: status.locate(22))
            await client.login_through(gate.locator("ann", password="correct horse"))

        The first login is one attempt, which reports its errors. Later ones are repeated like those of
        :meth:`login`, a refused token included: the next one is fresh. A session ends when ``locate`` raises
        a :class:`flux.errors.FluxError` that repeating cannot change, ``password_invalid`` for instance; anything
        else it raises, and taking longer than ``LOCATE_WITHIN``, counts as not connected.

        :raises flux.errors.FluxError: from ``locate``, or ``token_invalid``, ``no_server``, ...
        :raises NotConnected: nobody could be asked, or the server named cannot be reached.
        :raises flux.lifecycle.DeadlineExceeded: no answer in time.
        :raises SessionEnded: taken over while logging in.
        """
        self._begin()
        self._credentials = requests.Login(acks=True)
        login = await self._open_located(locate)
        self._locate = locate
        self._serving = spawn(self._serve(), "keeping the session", self._log)
        return login

    async def logout(self) -> None:
        """End the session on the server, then the connection."""
        connection = self._connection
        if connection is not None and connection.alive and not isinstance(self.state, Ended):
            self._cursors.flush()
            self._stop_serving()
            try:
                await connection.request(requests.Logout(), replies.LogoutOk)
            except (FluxError, ClientError, DeadlineExceeded):
                self._log.info("the connection ended before the logout was answered")
        await self._leave("logout")

    async def close(self) -> None:
        """End the connection; what was taken is acknowledged, what waits to be sent fails with ``SessionEnded``."""
        self._cursors.flush()
        await self._leave("closed")

    # during a session

    def send(self, text: str, *, to: int = 0, group: int = 0, cid: str = "") -> Deferred[SendOk]:
        """Send ``text`` to a user or a group.

        It starts at once, awaited or not, and waits through reconnects as long as it takes: cancel the
        Deferred to give up (a message already on its way may still arrive).

        :param cid: makes the send idempotent; normally the client chooses it.
        :return: fires with the receipt once the message is committed; fails with the server's
            :class:`flux.errors.FluxError`, :class:`QueueFull` or :class:`SessionEnded`.
        """
        receipt = self._outbox.send(requests.Send(text=text, to=to, group=group, cid=cid or next(self._cids)))
        return receipt.addCallback(self._sent)

    def read(self, chat: int, seq: int) -> None:
        """Say that everything in ``chat`` up to ``seq`` was read; gathered, and kept while offline."""
        self._cursors.read(chat, seq)

    def typing(self, *, to: int = 0, group: int = 0) -> None:
        """Say that the user is typing; lost while offline."""
        if self._connection is not None:
            self._connection.tell(requests.TypingRequest(to=to, group=group))

    async def request(self, request: Request, reply: type[R]) -> R:
        """See :meth:`Calls.request`."""
        if isinstance(self.state, Ended):
            raise SessionEnded(self.state.reason, self.state.detail)
        if self._connection is None:
            raise NotConnected("not connected")
        answer = await self._connection.request(request, reply)
        if isinstance(answer, replies.HistoryOk):
            # The application has these now: they are not brought as new any more.
            for message in answer.messages:
                self._seen.add(message.chat, message.seq, message.at)
        return answer

    async def password_change(self, old: str, new: str) -> replies.PasswordChangeOk:
        """See :meth:`Calls.password_change`; later logins of this client use the new one."""
        changed = await super().password_change(old, new)
        if self._credentials.password is not UNSET:
            self._credentials.password = new
        if isinstance(self._locate, Locator):
            self._locate.password_changed(new)
        return changed

    def _sent(self, receipt: SendOk) -> SendOk:
        self._seen.add(receipt.chat, receipt.seq, receipt.at)
        return receipt

    # opening connections

    def _new_connection(self) -> Connection:
        return Connection(self._reactor, self._rng, self._pushed, self._lost)

    def _told(self, host: str, port: int, tls: bool) -> Address:
        """Somebody who knows has told of an address."""
        address = Address(host, port)
        (self._secure.add if tls else self._secure.discard)(address)
        return address

    async def _connect(self, connection: Connection, address: Address) -> None:
        """:raises NotConnected: it cannot be reached, or not by TLS."""
        endpoint = self._endpoint(address.host, address.port)
        if self._tls or address in self._secure:
            endpoint = TlsEndpoint(endpoint, address.host, self._trust, self._reactor)
        await connection.connect(endpoint, address)

    async def _first_address(self, attempt: Callable[[Address], Awaitable[R]]) -> R:
        """The outcome of ``attempt`` at the first address that can be reached and serves."""
        problem: Exception = ClientError("no address to connect to")
        for _ in range(len(self._addresses)):
            try:
                return await attempt(self._addresses[0])
            except (NotConnected, DeadlineExceeded, NoServer, Unavailable) as error:
                problem = error
                self._addresses.rotate(-1)
        raise problem

    def _begin(self) -> None:
        if self._serving is not None:
            raise ClientError("a client logs in once")

    async def _open_located(self, locate: Locate) -> LoginOk:
        """Ask where to go, and log in there."""
        try:
            place = await within(LOCATE_WITHIN, locate(), self._reactor, "asking for a server")
        except (FluxError, ClientError, DeadlineExceeded, CancelledError):
            raise
        except Exception as problem:
            self._log.failure("asking for a server failed")
            raise NotConnected(f"asking for a server failed: {problem}") from problem
        address = self._told(place.host, place.port, place.tls)
        if self._serving is not None:
            self._enter(Connecting(*address))
        self._credentials.id, self._credentials.token = place.uid, place.token
        return await self._open(address)

    async def _open(self, address: Address, token: str | None = None) -> LoginOk:
        """Connect, log in, and use that connection from then on."""
        connection = self._opening = self._new_connection()
        self._kicked_opening = None
        credentials = self._credentials
        if token is not None:
            credentials = requests.Login(id=credentials.id, token=token, acks=True)
        try:
            await self._connect(connection, address)
            login = await connection.request(credentials, LoginOk)
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
        if isinstance(self.state, Ended):
            connection.abort("closed meanwhile")
            raise SessionEnded(self.state.reason, self.state.detail)
        self._adopt(connection, login, address)
        return login

    def _adopt(self, connection: Connection, login: LoginOk, address: Address) -> None:
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
        self._cursors.online(connection)
        self._outbox.online(connection)

    # what connections report

    def _pushed(self, connection: Connection, event: Event) -> None:
        if isinstance(event, Kicked) and connection is self._opening:
            self._kicked_opening = event
        if connection is not self._connection:
            return
        if isinstance(event, Message):
            new = self._seen.add(event.chat, event.seq, event.at)
            taken = partial(self._cursors.received, connection, event.chat, event.seq)
            self.events.put(event if new else None, taken)
        elif isinstance(event, Notice):
            self.events.put(event)
        elif isinstance(event, Kicked | Moved):
            self._depart(event)

    def _lost(self, connection: Connection, why: str) -> None:
        if connection is self._connection:
            self._connection = None
            self._outbox.offline()
            self._cursors.offline()
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
            await self._keep_online()
        except SessionEnded as end:
            self._end(end)

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
                try:
                    pause = max(next(pauses), at_least)
                    at_least = 0.0
                    self._enter(Offline(why, pause))
                    await sleep(pause, self._reactor)
                    await self.events.room()
                    if self._locate is not None:
                        await self._open_located(self._locate)
                    else:
                        address = self._addresses[0]
                        self._enter(Connecting(*address))
                        await self._open(address)
                    break
                except RateLimited as limited:
                    why = str(limited)
                    at_least = limited.retry_after / 1000
                except _PASSING as problem:
                    why = str(problem)
                    self._addresses.rotate(-1)
                except FluxError as refused:
                    why = refused.detail or refused.name
                    if self._locate is not None and isinstance(refused, TokenInvalid):
                        continue  # revoked or forgotten meanwhile: the next one is fresh
                    raise SessionEnded(refused.name, f"the server refused to log in again: {why}") from refused

    async def _move(self, moved: Moved) -> bool:
        """Log in where the server says, while the old connection still serves."""
        address = self._told(moved.host, moved.port, moved.tls is True)
        if address in self._addresses:
            self._addresses.remove(address)
        self._addresses.appendleft(address)
        token = None if moved.token is UNSET else moved.token
        if token is not None and self._credentials.password is UNSET:
            # The new token has revoked the one this session came with.
            self._credentials.token = token
        try:
            await self._open(address, token)
        except (FluxError, NotConnected, DeadlineExceeded) as problem:
            self._log.info("moving to {address} failed: {problem}", address=str(address), problem=str(problem))
            self._addresses.rotate(-1)
            return False
        return True

    def _drop(self, why: str) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._outbox.offline()
            self._cursors.offline()
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
        self._cursors.offline()
        self._outbox.end(end.reason, str(end))
        self._drop(str(end))

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
