"""Sending verification codes without telling who has an account.

Whoever asks gets the same answer after the same time, whether the address has an
account or not: in all cases a code is made and one e-mail is sent, and the answer
waits for it.  What differs is what the e-mail says, which only the owner of the
address reads: a code, that there is an account already, or that there is none.
So a mailer that fails is an error for everybody alike, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from flux.accounts.accounts import Accounts
from flux.accounts.codes import LIFETIME, Purpose
from flux.accounts.rules import check_email
from flux.interfaces import IMailer, IStore
from flux.metrics import GateMetrics
from flux.model.people import Credentials

MINUTES = round(LIFETIME / 60)

CODE = """\
Your code is {code}

It is for {purpose}, and can be used once within {minutes} minutes. Somebody, \
probably you, asked for it; if it was not you, do nothing, and give the code to nobody.
"""

TAKEN = """\
Somebody, probably you, wants to register with this e-mail address. It belongs to the account {name} already.

Log in as {name}, or reset its password if you have forgotten it. If it was not you, do nothing.
"""

UNKNOWN = """\
Somebody, probably you, wants to reset the password of the account with this e-mail address. There is none.

You may have registered with another address, or without having it verified. If it was not you, do nothing.
"""


class Verification:
    """Makes codes and sends them.

    :param wall: the time of day in seconds since the epoch.
    """

    def __init__(
        self,
        accounts: Accounts,
        store: IStore,
        mailer: IMailer,
        metrics: GateMetrics,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._accounts = accounts
        self._store = store
        self._mailer = mailer
        self._metrics = metrics
        self._wall = wall

    async def send(self, purpose: Purpose | Literal["either"], email: str, address: str) -> int:
        """Send a code for ``purpose`` to ``email``, and return when it expires, in ms since the epoch.

        ``either`` is for front ends that do not say: registering where the address has no account, else resetting.

        :param address: the network address of whoever asks.
        :raises flux.errors.RateLimited: too many codes for this e-mail address, or from this network address.
        :raises flux.errors.Unavailable: the e-mail was not sent.
        :raises flux.errors.BadRequest: it is no e-mail address, or takes no mail.
        """
        verified = check_email(email)
        owner = await self._store.credentials(0, "", verified)
        if purpose == "either":
            purpose = "reset" if owner else "register"
        expires = int((self._wall() + LIFETIME) * 1000)
        # Where it is of no use it is made all the same, and never told.
        code = await self._accounts.codes.issue(purpose, verified, address)
        subject, text = _letter(purpose, code, owner)
        await self._mailer.send(email, subject, text)
        self._metrics.code_sent(purpose)
        return expires


def _letter(purpose: Purpose, code: str, owner: Credentials | None) -> tuple[str, str]:
    if purpose == "register":
        if owner:
            return "You have an account already", TAKEN.format(name=owner.name)
        return f"{code} is your code", CODE.format(code=code, purpose="registering an account", minutes=MINUTES)
    if owner:
        purpose_words = f"a new password for the account {owner.name}"
        return f"{code} is your code", CODE.format(code=code, purpose=purpose_words, minutes=MINUTES)
    return "There is no account with this address", UNKNOWN
