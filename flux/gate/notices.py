"""Telling the owner of an account by e-mail what was done with it, so that a thief is noticed."""

from __future__ import annotations

from twisted.logger import Logger

from flux.errors import FluxError
from flux.interfaces import IMailer
from flux.lifecycle import Tasks
from flux.model.people import Credentials

ADDRESS_CHANGED = """\
The account {name} has another e-mail address now. This one can neither log in nor reset its password any more.

If it was not you, somebody knows your password: ask those who run this server for help.
"""

PASSWORD_RESET = """\
The account {name} has a new password, set with a code that was sent to this address. Its session has ended.

If it was not you, somebody reads your e-mail: see to that first, then reset the password again.
"""


class Notices:
    """Sends e-mail that nobody waits for.

    Each follows a code that was sent and used up, so there are no more of them than of those, and the mailer bounds
    them as it does all e-mail. One that cannot be sent is logged.

    :param tasks: where they run.
    """

    log = Logger()

    def __init__(self, mailer: IMailer, tasks: Tasks) -> None:
        self._mailer = mailer
        self._tasks = tasks

    def address_changed(self, before: Credentials) -> None:
        """The account ``before`` has another verified address now."""
        self._tell(before, f"The e-mail address of the account {before.name} was changed", ADDRESS_CHANGED)

    def password_reset(self, account: Credentials) -> None:
        """The password of ``account`` was replaced by who has its e-mail."""
        self._tell(account, f"The password of the account {account.name} was reset", PASSWORD_RESET)

    def _tell(self, account: Credentials, subject: str, text: str) -> None:
        self._tasks.spawn(
            self._send(account, subject, text.format(name=account.name)), "telling the owner of an account"
        )

    async def _send(self, account: Credentials, subject: str, text: str) -> None:
        try:
            await self._mailer.send(account.email, subject, text)
        except FluxError as error:
            self.log.warn("user {uid} was not told by e-mail: {error}", uid=account.id, error=error)
