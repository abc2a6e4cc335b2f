"""Registering, logging in, resetting a password: the steps in their order, whichever port they come from.

A failure tells no more than it must.  An unknown account takes as long as a wrong
password; whether an e-mail address has an account is only said to who has its mail.
Hashing comes before a code is tried, so that a server that is too busy to hash does
not use codes up.
"""

from __future__ import annotations

from msgspec.structs import replace
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.accounts.codes import Codes
from flux.accounts.passwords import Passwords
from flux.accounts.rules import check_email, check_name, check_nick, check_password
from flux.accounts.throttle import LoginPace, LoginThrottle, RegistrationThrottle
from flux.addresses import counted
from flux.bans import Bans
from flux.config import Settings
from flux.ending import end_session
from flux.errors import (
    BadRequest,
    EmailMismatch,
    FluxError,
    PasswordInvalid,
    TokenInvalid,
    Unavailable,
    UserExists,
    UserInvalid,
)
from flux.interfaces import IBus, IState, IStore
from flux.lifecycle import Outage
from flux.metrics import AccountMetrics
from flux.model.people import Ban, Credentials
from flux.names import fold
from flux.tokens import matches

REPLACED = "the password was replaced meanwhile; try again"
"""Perhaps it is the same one, hashed anew by another login: whoever tries again learns which."""


class Accounts:
    """What every port does with accounts.

    In all methods ``address`` is the network address of whoever asks, and ``conn``
    the name of the connection for the log.

    :param passwords: hashes; shared by the services of a process, because it bounds its memory.
    :param bans: keeps banned accounts out, and is told of failures.
    :ivar codes: verification codes.
    :ivar require_code: whether registering takes one.
    :ivar codes_sent: whether codes reach those who ask for one.
    """

    log = Logger()

    def __init__(
        self,
        settings: Settings,
        store: IStore,
        state: IState,
        bus: IBus,
        passwords: Passwords,
        metrics: AccountMetrics,
        bans: Bans,
        clock: IReactorTime,
    ) -> None:
        limits = settings.limits
        self._clock = clock
        self._store = store
        self._state = state
        self._bus = bus
        self._passwords = passwords
        self._metrics = metrics
        self._bans = bans
        self._throttle = LoginThrottle(state, limits.logins_per_minute, limits.logins_per_minute_address, metrics, bans)
        # Apart: with a token alone nobody keeps the owner of the account from logging in with the password.
        self._by_token = LoginPace(clock, limits.token_logins_per_minute, self._throttle)
        self._by_password = LoginPace(clock, limits.token_logins_per_minute, self._throttle)
        self._registrations = RegistrationThrottle(state, limits.registrations_per_hour_address, metrics, bans, clock)
        self._outage = Outage(self.log, clock)
        self.codes = Codes(state, self._throttle, limits.codes_per_hour, limits.codes_per_hour_address, metrics, bans)
        self.reload(settings)

    def reload(self, settings: Settings) -> None:
        """Go on with other limits and rules."""
        limits = settings.limits
        self._throttle.per_account = limits.logins_per_minute
        self._throttle.per_address = limits.logins_per_minute_address
        self._by_token.per_minute = self._by_password.per_minute = limits.token_logins_per_minute
        self._registrations.per_address = limits.registrations_per_hour_address
        self.codes.per_email = limits.codes_per_hour
        self.codes.per_address = limits.codes_per_hour_address
        self.require_code = settings.require_code
        self.codes_sent = settings.sends_mail
        self.password_min = limits.password_min
        self._password_min_numbered = limits.password_min_numbered

    def report(self) -> None:
        """Log what was refused since the last report, and forget who owes nothing any more; once a second."""
        self._throttle.report()
        self._by_token.prune()
        self._by_password.prune()

    async def register(
        self,
        name: str,
        password: str,
        address: str,
        conn: str,
        *,
        nick: str = "",
        icon: str = "",
        email: str = "",
        code: str = "",
        any_password: bool = False,
    ) -> int:
        """Create an account and return its id.

        :param code: proves ``email``; without one the address is kept as it is given, and leads nowhere.
        :param any_password: for clients that know no rules of passwords but their length.
        :raises flux.errors.UserExists: the name or the verified address is taken.
        :raises flux.errors.PasswordInvalid: the password breaks the rules.
        :raises flux.errors.BadRequest: name or nick break the rules, or a code is required.
        :raises flux.errors.RateLimited: too many were registered from this address.
        :raises flux.errors.CodeWrong: or ``CodeExpired``, ``RateLimited``: see :meth:`Codes.check`.
        """
        key = check_name(name)
        check_nick(nick)
        check_password(password, self._password_min_numbered if any_password else self.password_min, any_password)
        verified = ""
        if code:
            verified = check_email(email)
            # Names are public, and a code that was used up for nothing means another e-mail.
            if await self._store.credentials(0, key) is not None:
                raise UserExists("this name is taken")
        elif self.require_code:
            raise BadRequest("code: missing; the gate sends one to your e-mail address (POST /v1/codes)")
        await self._registrations.check(address)
        hashed = await self._passwords.hash(password, address)
        if code:
            await self.codes.check("register", verified, code, address)
        uid = await self._store.create_account(name, key, hashed, nick, email, icon, verified)
        self.log.info("registered user {uid}", uid=uid, conn=conn)
        return uid

    async def authenticate(
        self, password: str, address: str, conn: str, *, uid: int = 0, name: str = "", email: str = ""
    ) -> Credentials:
        """Check a password; give one of ``uid``, ``name`` and ``email`` (a verified address).

        :raises flux.errors.PasswordInvalid: there is no such account, or it has another password.
        :raises flux.errors.Forbidden: the account is banned; said only to who knows its password.
        :raises flux.errors.RateLimited: too many failures lately, or too many right logins from this address.
        :raises flux.errors.Unavailable: the store is away, or too much waits for hashing.
        """
        if [bool(uid), bool(name), bool(email)].count(True) != 1:
            raise BadRequest("id, name, email: give exactly one of them")
        key, verified = fold(name) if name else "", check_email(email) if email else ""
        credentials = await self._store.credentials(uid, key, verified)
        # Not the account where an address was given: to whom that belongs would show by what is counted together.
        account = verified or (str(credentials.id) if credentials else key or str(uid))
        once = _here(account, address)

        async def allowed() -> None:
            try:
                await self._throttle.check(account, address)
            except Unavailable:
                # With the shared state away password logins go on; the hash itself still slows guessing.
                self._outage.failed("failed logins are not counted: the shared state is away")
            else:
                self._outage.over("failed logins are counted again, after {seconds} s")
            self._by_password.check(once, address)

        stored = credentials.password_hash if credentials else None
        right, renewed = await self._passwords.verify(password, stored, address, allowed)
        if not right or credentials is None:
            self._metrics.wrong_password.inc()
            self.log.info("wrong password for {account} from {address}", account=account, address=address, conn=conn)
            try:
                await self._throttle.failed(account, address, "password")
            except Unavailable as error:
                self.log.debug("a failed login was not counted: {error}", error=error, conn=conn)
            raise PasswordInvalid("account and password do not match")
        self._by_password.take(once)
        self.check_ban(credentials.ban)
        if renewed is not None:
            if not await self._store.set_password(credentials.id, renewed, credentials.password_hash):
                raise Unavailable(REPLACED)
            credentials = replace(credentials, password_hash=renewed)
        return credentials

    @staticmethod
    def check_unchanged(checked: str, current: str) -> None:
        """Look once more at what a password was checked against, which may have taken seconds.

        To be called when what was granted can be found by who replaces the password: either this finds that it
        was replaced, or they find what was granted, and end it.

        :raises flux.errors.Unavailable: it was replaced.
        """
        if checked != current:
            raise Unavailable(REPLACED)

    async def confirm(self, credentials: Credentials) -> None:
        """:meth:`check_unchanged` for who has given out a token, which is revoked then."""
        now = await self._store.credentials(credentials.id, "")
        try:
            self.check_unchanged(credentials.password_hash, now.password_hash if now else "")
        except Unavailable:
            await self._state.revoke(credentials.id)
            raise

    def check_ban(self, ban: Ban | None) -> None:
        """:raises flux.errors.Forbidden: an account with this ban may not log in."""
        refusal = self._bans.account_refusal(ban)
        if refusal is not None:
            self._metrics.banned.inc()
            raise refusal

    async def check_token(self, uid: int, token: str, address: str, conn: str) -> None:
        """Return if ``token`` is the account's.

        :raises flux.errors.TokenInvalid: it is not.
        :raises flux.errors.Unavailable: the shared state is away.
        """
        if not matches(token, await self._state.token_digest(uid)):
            self._metrics.wrong_token.inc()
            self._bans.offence("token", address)
            self.log.info("token refused for user {uid}", uid=uid, conn=conn)
            raise TokenInvalid("the token is unknown, expired or revoked; log in with the password")

    def pace_token(self, uid: int, address: str) -> None:
        """Count a login with a token that was found right: who has none must not use up what the owner may do.

        :raises flux.errors.RateLimited: there were too many lately.
        """
        self._by_token.check(str(uid), address)
        self._by_token.take(str(uid))

    async def _prove(self, credentials: Credentials, password: str, address: str, field: str) -> None:
        """Return if ``password`` is the account's; it counts as a login does.

        :param field: where it was given.
        :raises flux.errors.PasswordInvalid: it is another.
        :raises flux.errors.RateLimited: see :meth:`authenticate`.
        """
        account = str(credentials.id)
        once = _here(account, address)

        async def allowed() -> None:
            await self._throttle.check(account, address)
            self._by_password.check(once, address)

        right, _ = await self._passwords.verify(password, credentials.password_hash, address, allowed)
        if not right:
            await self._throttle.failed(account, address, "password")
            raise PasswordInvalid(f"{field}: this is not the current password")
        self._by_password.take(once)

    async def change_password(self, uid: int, old: str, new: str, address: str, conn: str) -> None:
        """Replace a password by who knows it, and revoke the token.

        :raises flux.errors.PasswordInvalid: ``old`` is another, or ``new`` breaks the rules.
        :raises flux.errors.RateLimited: see :meth:`authenticate`.
        :raises flux.errors.Unavailable: it was replaced meanwhile.
        """
        check_password(new, self.password_min)
        credentials = await self._known(uid)
        await self._prove(credentials, old, address, "old")
        hashed = await self._passwords.hash(new, address)
        if not await self._store.set_password(uid, hashed, credentials.password_hash):
            raise Unavailable(REPLACED)
        await self._state.revoke(uid)
        self.log.info("user {uid} changed the password", uid=uid, conn=conn)

    async def reset_password(
        self, email: str, code: str, password: str, address: str, conn: str, *, name: str = ""
    ) -> Credentials:
        """Replace the password of the account with this verified address, and end its session; returns whose it was.

        :param name: if given, the account must be called so.
        :raises flux.errors.EmailMismatch: it is not.
        :raises flux.errors.PasswordInvalid: the password breaks the rules.
        :raises flux.errors.CodeWrong: or ``CodeExpired``, ``RateLimited``: see :meth:`Codes.check`.
        """
        verified = check_email(email)
        check_password(password, self.password_min)
        hashed = await self._passwords.hash(password, address, lambda: self._throttle.check(verified, address))
        await self.codes.check("reset", verified, code, address)
        credentials = await self._store.credentials(0, "", verified)
        if credentials is None:
            raise UserInvalid("no account has this address any more")
        if name and fold(name) != fold(credentials.name):
            raise EmailMismatch("name and e-mail address do not belong together")
        uid = credentials.id
        await self._store.set_password(uid, hashed)
        self.log.info("user {uid} has reset the password", uid=uid, conn=conn)
        try:
            ended = await end_session(self._store, self._state, self._bus, self._clock, uid, "password")
        except FluxError as error:
            self.log.warn("a session of user {uid} may go on: {error}", uid=uid, error=error, conn=conn)
        else:
            if not ended.token:
                self.log.warn("the token of {uid} lives until it expires: {why}", uid=uid, why=ended.problem, conn=conn)
        return credentials

    async def set_email(
        self, uid: int, email: str, code: str, address: str, conn: str, *, password: str = ""
    ) -> Credentials:
        """Give an account the verified address that ``code`` (purpose ``register``) was sent to; returns what it was.

        :param password: the account's, where this replaces another address: who has that can reset the password,
            and a token alone must not lead so far.
        :raises flux.errors.UserExists: it belongs to another account.
        :raises flux.errors.BadRequest: the password is missing.
        :raises flux.errors.PasswordInvalid: it is another.
        :raises flux.errors.Unavailable: it was replaced meanwhile.
        :raises flux.errors.CodeWrong: or ``CodeExpired``, ``RateLimited``: see :meth:`Codes.check`.
        """
        verified = check_email(email)
        before = await self._known(uid)
        if before.email:
            if not password:
                raise BadRequest("password: missing; it takes one to replace an address")
            await self._prove(before, password, address, "password")
            self.check_unchanged(before.password_hash, (await self._known(uid)).password_hash)
        await self.codes.check("register", verified, code, address)
        await self._store.set_email(uid, email, verified)
        self.log.info("user {uid} has verified an e-mail address", uid=uid, conn=conn)
        return before

    async def _known(self, uid: int) -> Credentials:
        """:raises flux.errors.UserInvalid: there is no such account any more."""
        credentials = await self._store.credentials(uid, "")
        if credentials is None:
            raise UserInvalid("this account is gone")
        return credentials


def _here(account: str, address: str) -> str:
    """What right passwords are counted by.

    The address is in it since who is over the pace is refused before the password is looked at. Elsewhere that would
    show that an account is in use, and keep out its owner, who may want to replace a password that others know.
    """
    return f"{account}@{counted(address)}"
