"""Guessing passwords is slow: failed logins are counted per account and address.

Counting per account alone would let anybody lock an account's owner out; counting
per address alone would let one address try many accounts.  So there are two counters,
and a login is refused when either is full.  Whoever goes on all the same will be
banned (:mod:`flux.bans`).  Registrations are counted per address, for there is no account yet.

Right logins have a pace (``pace``), which every process keeps for itself: they cost a hash or a session.
"""

from __future__ import annotations

from collections import Counter

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.accounts.pace import Pace
from flux.addresses import counted
from flux.bans import Bans
from flux.errors import RateLimited, Unavailable
from flux.interfaces import IState
from flux.lifecycle import Outage
from flux.metrics import AccountMetrics

WINDOW = 60.0
"""Seconds a counter of failed logins lives, from its first one."""

HOUR = 3600.0
"""Seconds a counter of what is limited by the hour lives."""


async def count(state: IState, key: str, window: float, most: int) -> float:
    """Count one more; seconds until one more is let through, 0 where it is."""
    # Counted before it is looked at, so that many at once do not all find room.
    await state.fail([key], window)
    [(counted_so_far, left)] = await state.failures([key])
    return left if counted_so_far > most else 0.0


class RegistrationThrottle:
    """Counts registrations in the shared state: anybody may cause the hash that each one costs, and the account.

    :ivar per_address: registrations an hour from one address; 0 means no limit.
    """

    log = Logger()

    def __init__(
        self, state: IState, per_address: int, metrics: AccountMetrics, bans: Bans, clock: IReactorTime
    ) -> None:
        self._state = state
        self._bans = bans
        self._metrics = metrics
        self.per_address = per_address
        self._outage = Outage(self.log, clock)

    async def check(self, address: str) -> None:
        """Count one.

        :raises flux.errors.RateLimited: there were too many lately.
        """
        if not self.per_address:
            return
        try:
            wait = await count(self._state, f"register@{counted(address)}", HOUR, self.per_address)
        except Unavailable:
            # As for logins: they go on, and hashing itself is slow.
            self._outage.failed("registrations are not counted: the shared state is away")
            return
        self._outage.over("registrations are counted again, after {seconds} s")
        if wait:
            self._metrics.too_many_registrations.inc()
            self._bans.offence("registrations", address)
            raise RateLimited(
                "too many accounts were registered from this address; wait before the next one",
                max(1, round(wait * 1000)),
            )


class LoginThrottle:
    """Counts failed password logins in the shared state.

    :ivar per_account: failures a minute for one account from one address; 0 means no limit.
    :ivar per_address: failures a minute from one address; 0 means no limit.
    """

    log = Logger()

    def __init__(self, state: IState, per_account: int, per_address: int, metrics: AccountMetrics, bans: Bans) -> None:
        self._state = state
        self._bans = bans
        self._metrics = metrics
        self._refused: Counter[str] = Counter()
        self.per_account = per_account
        self.per_address = per_address

    async def check(self, account: str, address: str) -> None:
        """:raises flux.errors.RateLimited: there were too many failures lately."""
        if not self.per_account and not self.per_address:
            return
        counts = await self._state.failures(self._keys(account, address))
        for (count, left), limit in zip(counts, (self.per_account, self.per_address), strict=True):
            if limit and count >= limit:
                self.refused(address)
                self._bans.offence("throttled", address)
                raise RateLimited("too many failed logins; wait before trying again", max(1, round(left * 1000)))

    def refused(self, address: str) -> None:
        """Count a login that is refused because there were too many, wrong or not."""
        self._refused[address] += 1
        self._metrics.throttled.inc()

    async def failed(self, account: str, address: str, kind: str) -> None:
        """Count a wrong ``password`` or ``code``."""
        self._bans.offence(kind, address)
        await self._state.fail(self._keys(account, address), WINDOW)

    def report(self) -> None:
        """Log what was refused since the last report: a line per address, however fast somebody guesses."""
        for address, count in self._refused.items():
            self.log.warn("{count} logins refused from {address}: too many", count=count, address=address)
        self._refused.clear()

    @staticmethod
    def _keys(account: str, address: str) -> list[str]:
        where = counted(address)
        return [f"login:{account}@{where}", f"login@{where}"]


class LoginPace:
    """Lets a few right logins of an account through at once, then one per interval.

    :param throttle: where refusals are reported. They are no offences: one client must not have everybody behind
        its address banned.
    :ivar per_minute: how many in the long run, and after a pause at once; 0 means no limit.
    """

    def __init__(self, clock: IReactorTime, per_minute: int, throttle: LoginThrottle) -> None:
        self._clock = clock
        self._pace: Pace[str] = Pace()
        self._throttle = throttle
        self.per_minute = per_minute

    def check(self, account: str, address: str) -> None:
        """:raises flux.errors.RateLimited: there were too many lately."""
        if not self.per_minute:
            return
        wait = self._pace.wait(account, 60.0 / self.per_minute, self.per_minute, self._clock.seconds())
        if wait > 0:
            self._throttle.refused(address)
            raise RateLimited("too many logins of this account; wait before trying again", max(1, round(wait * 1000)))

    def take(self, account: str) -> None:
        """Count one that was right."""
        if self.per_minute:
            self._pace.take(account, 60.0 / self.per_minute, self._clock.seconds())

    def prune(self) -> None:
        """Forget who may go on at once; to be called now and then."""
        self._pace.prune(self._clock.seconds())
