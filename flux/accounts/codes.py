"""Verification codes: who shows the one that was sent to an e-mail address has its mail.

::

    issue ──> counted ──> the shared state keeps a digest for 10 minutes ──> the code, to be sent
    check ──> accepted, once                   or code_wrong, 5 times         or code_expired

A code says what it is for, so that one asked for under a pretext (``register``) does not
open an account (``reset``).  An address has one code all the same, whatever that is for:
where a code for another purpose were none at all, trying one would tell which purpose it
was made for, and whether the address has an account may decide that.

Six digits can be tried one after the other; what keeps them safe is that a code is gone
after :data:`TRIES` wrong ones, that new ones are counted, and that failures count as failed
logins.  For the same reason the digest hides a code only from a glance: whoever reads the
shared state can try a million of them.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Literal

from flux.accounts.throttle import HOUR, LoginThrottle, count
from flux.addresses import counted
from flux.bans import Bans
from flux.errors import CodeExpired, CodeWrong, RateLimited
from flux.interfaces import IState
from flux.metrics import AccountMetrics

Purpose = Literal["register", "reset"]

DIGITS = 6
LIFETIME = 600.0
"""Seconds a code may be used."""

TRIES = 5
"""Wrong codes after which the right one is void."""


class Codes:
    """Gives and checks codes.

    :param throttle: where wrong codes count.
    :ivar per_email: codes an hour for one e-mail address; 0 means no limit.
    :ivar per_address: codes an hour asked for from one network address; 0 means no limit.
    """

    def __init__(
        self,
        state: IState,
        throttle: LoginThrottle,
        per_email: int,
        per_address: int,
        metrics: AccountMetrics,
        bans: Bans,
    ) -> None:
        self._state = state
        self._metrics = metrics
        self._bans = bans
        self._throttle = throttle
        self.per_email = per_email
        self.per_address = per_address

    async def issue(self, purpose: Purpose, email: str, address: str) -> str:
        """A new code for ``email`` (folded), in place of an earlier one for any purpose.

        :param address: the network address of whoever asks.
        :raises flux.errors.RateLimited: too many were asked for.
        :raises flux.errors.Unavailable: the shared state is away.
        """
        # The address first: who may not ask any more must not use up what the e-mail address may still get.
        await self._count(f"code@{counted(address)}", self.per_address, address)
        await self._count(f"code:{email}", self.per_email, address)
        code = f"{secrets.randbelow(10**DIGITS):0{DIGITS}}"
        await self._state.set_code(email, _digest(purpose, email, code), LIFETIME)
        return code

    async def check(self, purpose: Purpose, email: str, code: str, address: str) -> None:
        """Return if ``code`` is the one sent to ``email`` (folded) for ``purpose``; it is used up then.

        :raises flux.errors.CodeWrong: it is another, or for another purpose.
        :raises flux.errors.CodeExpired: there is none (any more).
        :raises flux.errors.RateLimited: too many failures lately.
        :raises flux.errors.Unavailable: the shared state is away.
        """
        await self._throttle.check(email, address)
        outcome = await self._state.try_code(email, _digest(purpose, email, code), TRIES)
        if outcome == "accepted":
            return
        await self._throttle.failed(email, address, "code")
        if outcome == "wrong":
            self._metrics.code_wrong.inc()
            raise CodeWrong("this is not the code that was sent to this address, or it is for something else")
        self._metrics.code_expired.inc()
        raise CodeExpired("there is no code for this address, or none any more; ask for a new one")

    async def _count(self, key: str, limit: int, address: str) -> None:
        if not limit:
            return
        wait = await count(self._state, key, HOUR, limit)
        if wait:
            self._metrics.too_many_codes.inc()
            self._bans.offence("codes", address)
            raise RateLimited("too many codes were asked for; wait before asking again", max(1, round(wait * 1000)))


def _digest(purpose: Purpose, email: str, code: str) -> bytes:
    return hashlib.sha256(f"{purpose}:{email}:{code}".encode("utf-8", "surrogatepass")).digest()
