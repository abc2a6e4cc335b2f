"""What an admin can do about bans: of accounts, and of network addresses."""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import IPv6Network, ip_network
from typing import Literal

import msgspec
from twisted.logger import Logger

from flux.addresses import Network, counted, holds, parse
from flux.admin.actions import Actions, Ending
from flux.admin.sources import Sources
from flux.bans import Bans, account_in_words, is_over
from flux.errors import BadRequest, FluxError, NotFound, TooLarge, Unavailable, in_words
from flux.interfaces import IStore
from flux.model.people import Ban

MOST_REASON = 200
"""Characters of a reason."""

LONGEST = 100 * 366 * 86400.0
"""Seconds of a ban that is over some time."""


class BanSeen(msgspec.Struct, frozen=True):
    """A ban as an admin sees it.

    :ivar id: of the account, with its ``name``; 0 where ``network`` is banned.
    :ivar by: ``automatic`` for one that made itself.
    :ivar at: since when, in ms since the epoch; None where nobody remembers.
    :ivar until: when it is over; 0: never.
    """

    id: int
    name: str
    network: str
    by: Literal["admin", "automatic"]
    reason: str
    at: int | None
    until: int


class Banned(msgspec.Struct, frozen=True):
    """A new ban, and what became of the account's session."""

    ban: BanSeen
    ending: Ending | None = None


class Lifted(msgspec.Struct, frozen=True):
    """A ban that is no more."""

    id: int
    name: str
    network: str


class Banning:
    """Bans and lifts bans; each says in the log who has asked for it.

    :param actions: finds accounts and ends sessions.
    :param wall: the time of day, in seconds since the epoch.
    """

    log = Logger()

    def __init__(self, sources: Sources, actions: Actions, wall: Callable[[], float] = time.time) -> None:
        self._sources = sources
        self._actions = actions
        self._wall = wall

    def _parts(self) -> tuple[IStore, Bans]:
        if self._sources.store is None or self._sources.bans is None:
            raise NotFound(
                "bans are not known here; ask the admin address of a `twistd flux`, `flux-chat` or `flux-gate`"
            )
        return self._sources.store, self._sources.bans

    async def bans(self, limit: int) -> list[BanSeen]:
        """Bans that hold, the newest first; those that made themselves before the others."""
        store, _ = self._parts()
        now = self._now()
        found = []
        try:
            automatic = await self._sources.state.banned()
        except FluxError as error:
            self.log.warn("bans that made themselves are not listed: {error}", error=error)
            automatic = {}
        for address, left in sorted(automatic.items(), key=lambda item: -item[1]):
            found.append(BanSeen(0, "", address, "automatic", "", None, now + round(left * 1000)))
        found += [_seen(ban) for ban in await store.bans(limit) if not is_over(ban, now)]
        return found[:limit]

    async def ban_user(self, user: int | str, reason: str, seconds: float, by: str) -> Banned:
        """Let an account log in no more, for ``seconds`` or if that is 0 for ever, and end its session."""
        store, _ = self._parts()
        uid, name = await self._actions.find(user)
        ban = self._new(uid, name, "", reason, seconds)
        await store.ban(ban)
        self.log.info("{by}: user {uid} is banned", by=by, uid=uid)
        return Banned(_seen(ban), await self._actions.end(uid, name, "admin", account_in_words(ban)))

    async def ban_network(self, text: str, reason: str, seconds: float, by: str) -> BanSeen:
        """Let nobody connect from an address, or a network, and end the sessions of those who have.

        :raises flux.errors.BadRequest: it is neither, or everybody's.
        """
        store, bans = self._parts()
        network = _network(text)
        if not network.prefixlen:
            raise BadRequest(f"{network}: this is everybody; drain the servers instead")
        ban = self._new(0, "", str(network), reason, seconds)
        await store.ban(ban)
        self.log.info("{by}: {network} is banned", by=by, network=ban.network)
        await bans.refresh()
        return _seen(ban)

    async def lift_user(self, user: int | str, by: str) -> Lifted:
        """Let an account log in again.

        :raises flux.errors.NotFound: it was not banned.
        """
        store, _ = self._parts()
        uid, name = await self._actions.find(user)
        if not await store.unban(uid, ""):
            raise NotFound(f"{name} ({uid}) is not banned")
        self.log.info("{by}: the ban of user {uid} is lifted", by=by, uid=uid)
        return Lifted(uid, name, "")

    async def lift_network(self, text: str, by: str) -> Lifted:
        """Let an address, or a network, connect again, whoever has banned it.

        :raises flux.errors.NotFound: it was not banned.
        """
        store, bans = self._parts()
        network = _network(text)
        single = network.prefixlen == network.max_prefixlen
        # What makes itself is of one address, or of what counts as one.
        automatic = counted(str(network.network_address)) if single else str(network)
        lifted = await store.unban(0, str(network))
        try:
            lifted |= await self._sources.state.pardon(automatic)
        except Unavailable as away:
            if not lifted:
                raise
            self.log.warn("a ban of {network} for offences may stay: {away}", network=str(network), away=in_words(away))
        await bans.refresh()
        if not lifted:
            around = [
                ban.network
                for ban in await store.network_bans()
                if not is_over(ban, self._now()) and holds(ip_network(ban.network), network)
            ]
            raise NotFound(f"{network} is not banned" + (f", but {', '.join(around)} is" if around else ""))
        self.log.info("{by}: the ban of {network} is lifted", by=by, network=str(network))
        return Lifted(0, "", str(network))

    def _new(self, uid: int, name: str, network: str, reason: str, seconds: float) -> Ban:
        reason = reason.strip()
        if len(reason) > MOST_REASON:
            raise TooLarge(f"reason: at most {MOST_REASON} characters")
        if not reason.isprintable():
            raise BadRequest("reason: one line without control characters")
        if not 0 <= seconds <= LONGEST:
            raise BadRequest(f"seconds: expected a number from 0 (for ever) to {LONGEST:.0f}")
        now = self._now()
        return Ban(uid, network, reason, now, now + max(1, round(seconds * 1000)) if seconds else 0, name)

    def _now(self) -> int:
        return round(self._wall() * 1000)


def _seen(ban: Ban) -> BanSeen:
    return BanSeen(ban.uid, ban.name, ban.network, "admin", ban.reason, ban.at, ban.until)


def _network(text: str) -> Network:
    """:raises flux.errors.BadRequest: ``text`` is neither an address nor a network."""
    address = parse(text)
    try:
        network = ip_network(text if address is None else address)
    except ValueError as error:
        raise BadRequest(f"network: {error}{_meant(text)}") from None
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    # Whoever comes by IPv4 is known by that, also where the port listens on IPv6.
    return network if mapped is None else ip_network((int(mapped), network.prefixlen - 96))


def _meant(text: str) -> str:
    """A question to add: the network that an address of one was written for, perhaps."""
    try:
        return f"; did you mean {ip_network(text, strict=False)}?"
    except ValueError:
        return ""
