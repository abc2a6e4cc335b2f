"""Who is kept out: what ports ask before they take somebody in, and what they report of whoever misbehaves.

::

    ports ── offence ──> counted here ── once a second ──> shared state ── too many ──> banned for a while
    ports <── refusal ── what is known here <── every 3 s ─┬─ shared state: bans that made themselves
                                                           └─ store: bans by admins

A ban that makes itself keeps the address from connecting and from logging in; whoever is logged in stays, for
behind one address may be many, and those have done nothing.  An admin's ban ends sessions, too.

Nothing here waits for anybody: a port asks what is known at the moment.  Accounts are banned as well; that is kept
with the account and read by every login, so that no other process need know.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_network

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.addresses import Address, Network, counted, holds, parse
from flux.config import Settings
from flux.errors import FluxError, Forbidden, RateLimited
from flux.interfaces import IState, IStore
from flux.lifecycle import Outage, Tasks, every
from flux.metrics import BanMetrics
from flux.model.people import Ban

TELL_EVERY = 1.0
"""Seconds between two reports to the shared state."""

LOOK_EVERY = 3.0
"""Seconds between two looks at what others have banned."""

MOST_OFFENDERS = 10_000
"""Addresses whose offences wait for the next report; of more, nothing is counted until then."""


class Bans:
    """What a process knows of bans.

    :param store: where the bans of admins are; None in a process without one.
    :param wall: the time of day, in seconds since the epoch.
    """

    log = Logger()

    def __init__(
        self,
        settings: Settings,
        store: IStore | None,
        state: IState,
        clock: IReactorTime,
        metrics: BanMetrics | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._state = state
        self._clock = clock
        self._wall = wall
        self._metrics = metrics = metrics or BanMetrics()
        self._tasks = Tasks(self.log, clock)
        self._offences: Counter[str] = Counter()
        # By address, with the moment when it is over.
        self._automatic: dict[str, float] = {}
        # By version and length of the prefix, then by the prefix: there are few lengths.
        self._by_admins: dict[tuple[int, int], dict[int, Ban]] = {}
        self._listeners: list[Callable[[bool], None]] = []
        self._outage = Outage(self.log, clock)
        metrics.held(lambda: {"automatic": len(self._automatic), "admin": sum(map(len, self._by_admins.values()))})
        self.reload(settings)

    def reload(self, settings: Settings) -> None:
        """Go on with other limits."""
        self._limits = settings.limits
        self._exempt = (*settings.limits.ban_exempt, *settings.gate.proxies)

    def on_ban(self, listener: Callable[[bool], None]) -> None:
        """Call ``listener`` whenever somebody is banned who was not before, to look at who is connected.

        It is told whether there are bans by admins among the new ones; without any, those who are logged in stay.
        """
        self._listeners.append(listener)

    async def start(self) -> None:
        """Learn what bans there are, and go on so. What is away is not waited for."""
        await self.refresh()
        self._tasks.spawn(every(TELL_EVERY, self.tell, self._clock, "reporting offences", self.log), "offences")
        self._tasks.spawn(every(LOOK_EVERY, self.refresh, self._clock, "looking for bans", self.log), "bans")

    async def stop(self) -> None:
        """Look no more."""
        await self._tasks.stop()

    # what ports ask

    @property
    def any(self) -> bool:
        """Whether any address is banned: nearly always none is, and then nobody need be looked at."""
        return bool(self._automatic or self._by_admins)

    def refusal(self, address: str, by_admins: bool = False) -> FluxError | None:
        """What somebody at ``address`` is told who is not let in; None for who is.

        :param by_admins: ask for bans by admins only.
        """
        over = 0.0 if by_admins else self._automatic.get(counted(address), 0.0)
        if not over and not self._by_admins:
            return None
        parsed = parse(address)
        if parsed is None:
            return None
        ban = self._ban_of(parsed) if self._by_admins else None
        if ban is not None:
            text = _in_words(ban, "address")
            return RateLimited(text, max(1, ban.until - self._now())) if ban.until else Forbidden(text)
        left = over - self._clock.seconds()
        # What exempts an address may have been set after it was banned.
        if left <= 0 or self._is_exempt(parsed):
            return None
        return RateLimited(
            "too much from this address had to be refused, so nothing is taken from it for a while",
            max(1, round(left * 1000)),
        )

    def account_refusal(self, ban: Ban | None) -> Forbidden | None:
        """What an account with this ban is told at a login; None where it is over, or there is none."""
        if ban is None or is_over(ban, self._now()):
            return None
        return Forbidden(account_in_words(ban))

    # what ports report

    def offence(self, kind: str, address: str) -> None:
        """Somebody at ``address`` did what people and their clients rarely do; ``docs/operations.md`` has the kinds."""
        self._metrics.offence(kind)
        if not self._limits.ban_after:
            return
        key = counted(address)
        if key in self._offences or (len(self._offences) < MOST_OFFENDERS and self._is_liable(address)):
            self._offences[key] += 1

    async def tell(self) -> None:
        """Report to the shared state what was counted, and learn who is banned for it."""
        if not self._offences:
            return
        offences, self._offences = self._offences, Counter()
        limits = self._limits
        try:
            banned = await self._state.offend(offences, limits.ban_after, limits.ban_window, limits.ban_for)
        except FluxError as error:
            self.log.debug("offences were not counted: {error}", error=error)
            return
        for address in banned:
            self.log.warn(
                "{address} is banned for {seconds:.0f} s: {count} offences within {window:.0f} s",
                address=address, seconds=limits.ban_for, count=limits.ban_after, window=limits.ban_window,
            )  # fmt: skip
            self._automatic[address] = self._clock.seconds() + limits.ban_for
        if banned:
            self._metrics.banned.inc(len(banned))
            self._tell_listeners(by_admins=False)

    async def refresh(self) -> None:
        """Learn what bans there are. Where that cannot be asked, those that were known stay."""
        problem = ""
        news = by_admins = False
        try:
            now = self._clock.seconds()
            found = {address: now + left for address, left in (await self._state.banned()).items()}
            news = not found.keys() <= self._automatic.keys()
            self._automatic = found
        except FluxError as error:
            problem = str(error)
            now = self._clock.seconds()
            self._automatic = {address: over for address, over in self._automatic.items() if over > now}
        try:
            if self._store is not None:
                by_admins = self._take(await self._store.network_bans())
        except FluxError as error:
            problem = str(error)
        if problem:
            self._outage.failed("new bans are not known here until this is over: {problem}", problem=problem)
        else:
            self._outage.over("new bans are known here again, after {seconds} s")
        if news or by_admins:
            self._tell_listeners(by_admins)

    def _take(self, bans: tuple[Ban, ...]) -> bool:
        """Go on with these bans of networks; whether there are new ones among them."""
        before = self._by_admins
        lists: dict[tuple[int, int], dict[int, Ban]] = {}
        for ban in bans:
            if not is_over(ban, self._now()):
                network = ip_network(ban.network)
                lists.setdefault((network.version, network.prefixlen), {})[
                    _prefix(network.network_address, network.prefixlen)
                ] = ban
        self._by_admins = lists
        return any(prefix not in before.get(kind, {}) for kind, each in lists.items() for prefix in each)

    def _tell_listeners(self, by_admins: bool) -> None:
        for listener in self._listeners:
            listener(by_admins)

    # inside

    def _now(self) -> int:
        return round(self._wall() * 1000)

    def _ban_of(self, address: Address) -> Ban | None:
        """The ban by an admin that keeps an address out."""
        for (version, length), bans in self._by_admins.items():
            if version == address.version:
                ban = bans.get(_prefix(address, length))
                if (
                    ban is not None
                    and not is_over(ban, self._now())
                    and self._is_meant(address, ip_network(ban.network))
                ):
                    return ban
        return None

    def _is_meant(self, address: Address, network: Network) -> bool:
        """Whether a ban of ``network`` holds for ``address``: for who is exempt only one that says so precisely."""
        return not any(address in exempt and not holds(exempt, network) for exempt in self._exempt)

    def _is_exempt(self, address: Address) -> bool:
        return any(address in network for network in self._exempt)

    def _is_liable(self, address: str) -> bool:
        parsed = parse(address)
        return parsed is not None and not self._is_exempt(parsed)


def _prefix(address: Address, length: int) -> int:
    """The first ``length`` bits."""
    return int(address) >> (address.max_prefixlen - length)


def is_over(ban: Ban, now: int) -> bool:
    """Whether a ban has ended by ``now`` (ms)."""
    return 0 < ban.until <= now


def account_in_words(ban: Ban) -> str:
    """What the owner of a banned account is told."""
    return _in_words(ban, "account")


def _in_words(ban: Ban, what: str) -> str:
    text = f"this {what} is banned"
    if ban.until:
        text += f" until {datetime.fromtimestamp(ban.until / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    return f"{text}: {ban.reason}" if ban.reason else text
