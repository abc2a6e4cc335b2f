"""Mail on its way: a few at a time, tried again where that may help, given up in time.

::

    send ──> waiting (bounded) ──> turn ──> Post.deliver ─┬─> taken: done
                  ^                                       ├─> NotNow: a pause, then again
                  └────────────── backoff <───────────────┘   Rejected, NoSuchAddress: no

Whoever asked waits for the outcome: a code that was not sent is an error, not silence.
"""

from __future__ import annotations

import random
from typing import NamedTuple, Protocol

from twisted.internet.defer import DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from flux.errors import BadRequest, Unavailable
from flux.interfaces import IMailer
from flux.lifecycle import DeadlineExceeded, backoff, sleep, within

AT_ONCE = 4
"""Mails that are being delivered at the same time."""

MOST_WAITING = 200
"""Mails on their way; one more is refused at once."""

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 5.0
"""Seconds between two attempts."""

CHECK_WITHIN = 8.0
"""Seconds :meth:`Outbox.check` may take: less than whoever calls it waits."""


class Mail(NamedTuple):
    """What is to be delivered.

    :ivar ident: the same for all attempts, so that a receiver knows a repetition.
    """

    ident: str
    to: str
    subject: str
    text: str


class NotNow(Exception):
    """It did not work, and may work in a moment. The text is for the log."""


class Rejected(Exception):
    """It did not work, and will not until somebody changes a setting. The text is for the log."""


class NoSuchAddress(Exception):
    """Whoever delivers does not take mail for this address. The text is for the log."""


class Post(Protocol):
    """Something that delivers mail, one attempt at a time; every wait in it may be cancelled."""

    def start(self) -> None:
        """Prepare."""

    async def deliver(self, mail: Mail) -> None:
        """Return when somebody else has taken the mail.

        :raises NotNow: or ``Rejected``, ``NoSuchAddress``.
        """

    async def check(self) -> str:
        """Reach whoever delivers, without delivering anything; a sentence about it.

        :raises NotNow: or ``Rejected``.
        """


@implementer(IMailer)
class Outbox:
    """Delivers through ``post``.

    :param deadline: seconds a mail may take, from ``send`` on.
    """

    log = Logger()

    def __init__(self, post: Post, clock: IReactorTime, deadline: float, rng: random.Random) -> None:
        self._post = post
        self._clock = clock
        self._deadline = deadline
        self._rng = rng
        self._turns = DeferredSemaphore(AT_ONCE)
        self._waiting = 0
        self._stopped = False

    async def start(self) -> None:
        """See :meth:`IMailer.start`."""
        self._post.start()

    async def stop(self) -> None:
        """See :meth:`IMailer.stop`; what is on its way belongs to those who wait for it."""
        self._stopped = True

    async def check(self) -> str:
        """See :meth:`IMailer.check`."""
        try:
            return await within(CHECK_WITHIN, self._post.check(), self._clock, "the mailer")
        except (NotNow, Rejected, DeadlineExceeded) as problem:
            raise Unavailable(str(problem)) from problem

    async def send(self, to: str, subject: str, text: str) -> None:
        """See :meth:`IMailer.send`."""
        if self._stopped or self._waiting >= MOST_WAITING:
            self.log.warn("{count} mails are on their way, and one more was refused", count=self._waiting)
            raise Unavailable("too much e-mail is being sent; try again in a moment")
        mail = Mail(f"{self._rng.getrandbits(128):032x}", to, subject, text)
        self._waiting += 1
        try:
            await self._insist(mail)
        except NoSuchAddress as refused:
            self.log.info("an address was refused: {why}", why=str(refused))
            raise BadRequest("email: this address takes no mail") from refused
        except (Rejected, DeadlineExceeded) as problem:
            self.log.error("e-mail was not sent: {why}", why=str(problem))
            raise Unavailable("the e-mail could not be sent; try again later") from problem
        finally:
            self._waiting -= 1

    async def _insist(self, mail: Mail) -> None:
        """:raises DeadlineExceeded: with what went wrong the last time."""
        ends = self._clock.seconds() + self._deadline
        problem = ""
        pauses = backoff(FIRST_PAUSE, LONGEST_PAUSE, self._rng)
        while (left := ends - self._clock.seconds()) > 0:
            try:
                await within(left, self._attempt(mail), self._clock, "the mailer")
                return
            except DeadlineExceeded as late:
                problem = problem or str(late)
                break
            except NotNow as passing:
                problem = str(passing)
                self.log.debug("e-mail: {why}; trying again", why=problem)
            await sleep(min(next(pauses), max(0.0, ends - self._clock.seconds())), self._clock)
        raise DeadlineExceeded(f"{problem}; given up after {self._deadline:g} s")

    async def _attempt(self, mail: Mail) -> None:
        await self._turns.acquire()
        try:
            await self._post.deliver(mail)
        finally:
            self._turns.release()
