"""What an application calls: register, log in, send, ask.

The session behind it, with all that happens by itself, is :mod:`flux.client.session`.
"""

from __future__ import annotations

import itertools
import random
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from msgspec import UNSET
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint

from flux.addresses import HostPort
from flux.client.calls import Calls
from flux.client.events import State
from flux.client.inbox import Inbox
from flux.client.servers import Servers
from flux.client.session import Locate, Session
from flux.wire import replies, requests
from flux.wire.catalogue import Reply, Request
from flux.wire.replies import LoginOk, SendOk

R = TypeVar("R", bound=Reply)

#: Between attempts to reconnect or to send, in seconds.
LONGEST_PAUSE = 10.0


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
    """

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
        rng = rng or random.Random()
        self._servers = Servers(reactor, addresses, tls, trust, endpoint)
        self._session = Session(reactor, rng, self._servers, max_pending, longest_pause)
        # A client that starts anew must never use a cid of an earlier one for another text. The time, in ms,
        # comes first because the store's index grows at its end then, which halves what a message costs there.
        self._cids = (
            f"{time.time_ns() // 1_000_000:x}-{prefix}-{number}"
            for prefix in [secrets.token_hex(8)]
            for number in itertools.count(1)
        )

    @property
    def events(self) -> Inbox:
        """What happens, in order: an asynchronous iterator for one consumer."""
        return self._session.events

    @property
    def state(self) -> State | None:
        """The last state event; None before the first login."""
        return self._session.state

    @property
    def profile(self) -> LoginOk | None:
        """The answer to the last login, profile first; None before."""
        return self._session.profile

    @property
    def unsent(self) -> int:
        """Sends that wait for their receipts."""
        return self._session.outbox.waiting

    # before and after a session

    async def register(
        self, name: str, password: str, *, email: str = "", code: str = "", nick: str = ""
    ) -> replies.RegisterOk:
        """Create an account, on a connection of its own; ``code`` proves ``email``.

        :raises flux.errors.FluxError: ``user_exists``, ``password_invalid``, ...
        :raises NotConnected: no address could be reached.
        """
        asked = requests.Register(name=name, password=password, email=email, code=code, nick=nick)

        async def register(address: HostPort) -> replies.RegisterOk:
            connection = self._session.connection()
            await self._servers.connect(connection, address)
            try:
                return await connection.request(asked, replies.RegisterOk)
            finally:
                await connection.close()

        return await self._servers.first(register)

    async def login(self, user: str | int, *, password: str | None = None, token: str | None = None) -> LoginOk:
        """Begin the session: with name or id and a password, or with id and a token.

        The first login reports its errors; later ones, after a broken connection, happen by themselves.

        :raises flux.errors.FluxError: ``password_invalid``, ``token_invalid``, ``rate_limited``, ...
        :raises NotConnected: no address could be reached.
        :raises SessionEnded: taken over while logging in.
        """
        login = requests.Login(
            id=user if isinstance(user, int) else 0,
            name=user if isinstance(user, str) else "",
            password=UNSET if password is None else password,
            token=UNSET if password is not None or token is None else token,
            acks=True,
        )
        return await self._session.begin(login)

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
        else it raises, and taking longer than ``flux.client.session.LOCATE_WITHIN``, counts as not connected.

        :raises flux.errors.FluxError: from ``locate``, or ``token_invalid``, ``no_server``, ...
        :raises NotConnected: nobody could be asked, or the server named cannot be reached.
        :raises flux.lifecycle.DeadlineExceeded: no answer in time.
        :raises SessionEnded: taken over while logging in.
        """
        return await self._session.begin_through(locate)

    async def logout(self) -> None:
        """End the session on the server, then the connection."""
        await self._session.logout()

    async def close(self) -> None:
        """End the connection; what was taken is acknowledged, what waits to be sent fails with ``SessionEnded``."""
        await self._session.close()

    # during a session

    def send(self, text: str, *, to: int = 0, group: int = 0, cid: str = "") -> Deferred[SendOk]:
        """Send ``text`` to a user or a group.

        It starts at once, awaited or not, and waits through reconnects as long as it takes: cancel the
        Deferred to give up. A message that is on its way by then may still arrive, and counts as unsent until
        the server has answered or the connection has ended; any other is taken back, and its place is free.

        :param cid: makes the send idempotent; normally the client chooses it.
        :return: fires with the receipt once the message is committed; fails with the server's
            :class:`flux.errors.FluxError`, with ``bad_request`` for a text that cannot be sent (one with a lone
            surrogate), with :class:`QueueFull` or :class:`SessionEnded`.
        """
        return self._session.send(requests.Send(text=text, to=to, group=group, cid=cid or next(self._cids)))

    def read(self, chat: int, seq: int) -> None:
        """Say that everything in ``chat`` up to ``seq`` was read; gathered, and kept while offline.

        There is no receipt: what was said just before a connection broke may be lost, until the next time.
        """
        self._session.cursors.read(chat, seq)

    def typing(self, *, to: int = 0, group: int = 0) -> None:
        """Say that the user is typing; lost while offline."""
        self._session.tell(requests.TypingRequest(to=to, group=group))

    async def request(self, request: Request, reply: type[R]) -> R:
        """See :meth:`Calls.request`."""
        return await self._session.request(request, reply)

    async def password_change(self, old: str, new: str) -> replies.PasswordChangeOk:
        """See :meth:`Calls.password_change`; later logins of this client use the new one."""
        changed = await super().password_change(old, new)
        self._session.password_changed(new)
        return changed
