"""A mailer for development: what would be sent appears in the log."""

from __future__ import annotations

from twisted.logger import Logger
from zope.interface import implementer

from flux.interfaces import IMailer


@implementer(IMailer)
class LogMailer:
    """Sends nothing. Whoever can read the log can use the codes in it."""

    log = Logger()

    async def start(self) -> None:
        """Nothing to prepare."""

    async def stop(self) -> None:
        """Nothing is on its way."""

    async def check(self) -> str:
        """See :meth:`IMailer.check`."""
        return "nothing is sent: e-mail appears in the log, codes included (mail.kind = log)"

    async def send(self, to: str, subject: str, text: str) -> None:
        """See :meth:`IMailer.send`."""
        self.log.info("e-mail to {to}, not sent: {subject}\n{text}", to=to, subject=subject, text=text)
