"""What the requests of a gate share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from msgspec.structs import replace
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.accounts.accounts import Accounts
from flux.config import Settings
from flux.errors import FluxError, TokenInvalid
from flux.gate.notices import Notices
from flux.gate.verification import Verification
from flux.interfaces import IMailer, IPlacement, IStore
from flux.lifecycle import DeadlineExceeded, Tasks, every, within
from flux.metrics import GateMetrics
from flux.model.people import Credentials
from flux.model.placement import Assignment

STOP_WITHIN = 3.0
"""Seconds that requests being answered have when the gate stops."""


class Gate:
    """Accounts from outside, and the way to a chat server.

    :param placement: gives a chat server.
    :param websocket: where browsers connect to the chat server of an assignment.
    :ivar tasks: the requests being answered, and the e-mail that some of them leave to be sent.
    :ivar stopping: True once no more are begun.
    """

    log = Logger()

    def __init__(
        self,
        accounts: Accounts,
        store: IStore,
        placement: IPlacement,
        mailer: IMailer,
        clock: IReactorTime,
        websocket: Callable[[Assignment], str],
        metrics: GateMetrics,
    ) -> None:
        self.accounts = accounts
        self.store = store
        self.verification = Verification(accounts, store, mailer, metrics)
        self.tasks = Tasks(self.log, clock)
        self._notices = Notices(mailer, self.tasks)
        self.stopping = False
        self._chores = Tasks(self.log, clock)
        self._clock = clock
        self._placement = placement
        self._websocket = websocket
        self._metrics = metrics

    def reload(self, settings: Settings) -> None:
        """Go on with other limits and rules."""
        self.accounts.reload(settings)

    async def start(self) -> None:
        """Report refused logins once a second, a line per address, however fast somebody guesses."""

        async def report() -> None:
            self.accounts.report()

        self._chores.spawn(every(1.0, report, self._clock, "reporting refused logins", self.log), "reporting")

    async def stop(self) -> None:
        """Begin to answer nothing more, and wait a moment for what is under way; then that is ``unavailable``, too."""
        self.stopping = True
        await self._chores.stop()
        with contextlib.suppress(DeadlineExceeded):
            await within(STOP_WITHIN, self._ended(), self._clock, "answering")
        await self.tasks.stop()

    async def _ended(self) -> None:
        while self.tasks:
            await self.tasks.ended()

    async def log_in(
        self, password: str, address: str, conn: str, *, uid: int = 0, name: str = "", email: str = ""
    ) -> tuple[Credentials, Assignment]:
        """Check who it is, and find a chat server: see :meth:`Accounts.authenticate` and :meth:`IPlacement.assign`."""
        try:
            credentials = await self.accounts.authenticate(password, address, conn, uid=uid, name=name, email=email)
            assignment = await self.place(credentials.id)
            await self.accounts.confirm(credentials)
        except FluxError as error:
            self._metrics.login(error.name)
            raise
        self._metrics.login("ok")
        return credentials, assignment

    async def reset_password(
        self, email: str, code: str, password: str, address: str, conn: str, *, name: str = ""
    ) -> int:
        """See :meth:`Accounts.reset_password`; the address is told. Returns the account's id."""
        account = await self.accounts.reset_password(email, code, password, address, conn, name=name)
        self._notices.password_reset(account)
        return account.id

    async def set_email(self, uid: int, email: str, code: str, address: str, conn: str, *, password: str) -> None:
        """See :meth:`Accounts.set_email`; an address that is replaced is told."""
        before = await self.accounts.set_email(uid, email, code, address, conn, password=password)
        if before.email:
            self._notices.address_changed(before)

    async def place(self, uid: int) -> Assignment:
        """See :meth:`IPlacement.assign`."""
        [assignment] = await self._placement.assign([uid])
        return replace(assignment, websocket=self._websocket(assignment))

    async def owner(self, authorization: str, address: str, conn: str) -> int:
        """The account that ``authorization``, ``Bearer id:token``, speaks for.

        :raises flux.errors.TokenInvalid: none.
        :raises flux.errors.Unavailable: the shared state is away.
        """
        scheme, _, rest = authorization.partition(" ")
        text, _, token = rest.strip().partition(":")
        uid = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
        if scheme.lower() != "bearer" or not uid:
            raise TokenInvalid("expected the header Authorization: Bearer ID:TOKEN, as the login gave them")
        await self.accounts.check_token(uid, token, address, conn)
        return uid
