"""Who is kept out: what is counted, who is banned for it, and what admins have banned."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from chat_server import with_changes
from prometheus_client import CollectorRegistry
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent

from flux.backends.memory import MemoryState
from flux.bans import LOOK_EVERY, MOST_OFFENDERS, Bans
from flux.config import Settings, load
from flux.errors import Forbidden, RateLimited, Unavailable
from flux.metrics import BanMetrics
from flux.model.people import Ban

WALL = 1_700_000_000
ADDRESS = "203.0.113.7"


class Record:
    """A store that knows bans of networks."""

    def __init__(self) -> None:
        self.bans: tuple[Ban, ...] = ()
        self.problem: Exception | None = None

    async def network_bans(self) -> tuple[Ban, ...]:
        if self.problem is not None:
            raise self.problem
        return self.bans


class Away(MemoryState):
    """Can be away."""

    away = False

    async def offend(self, *arguments: Any) -> tuple[str, ...]:
        if self.away:
            raise Unavailable("away")
        return await super().offend(*arguments)

    async def banned(self) -> dict[str, float]:
        if self.away:
            raise Unavailable("away")
        return await super().banned()


class Bench:
    """Bans of one process or several, on a clock."""

    def __init__(self, **changes: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.store: Any = Record()
        self.state = Away(self.clock.seconds)
        self.settings = with_changes(Settings(), **{"limits__ban_after": 5, **changes})
        self.registry = CollectorRegistry()
        self.told: list[bool] = []
        self.bans = self.process(BanMetrics(self.registry))
        self.bans.on_ban(self.tell)

    def process(self, metrics: BanMetrics | None = None) -> Bans:
        return Bans(
            self.settings, self.store, self.state, self.clock, metrics, wall=lambda: WALL + self.clock.seconds() - 1000
        )

    def tell(self, by_admins: bool) -> None:
        self.told.append(by_admins)

    def offend(self, address: str, times: int = 5) -> None:
        for _ in range(times):
            self.bans.offence("password", address)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


# --- what is counted ---------------------------------------------------------


async def test_too_many_offences_are_a_ban_for_a_while() -> None:
    bench = Bench()
    bench.offend(ADDRESS, 4)
    await bench.bans.tell()
    assert bench.bans.refusal(ADDRESS) is None
    bench.offend(ADDRESS, 1)
    await bench.bans.tell()
    refusal = bench.bans.refusal(ADDRESS)
    assert isinstance(refusal, RateLimited)
    assert refusal.retry_after == 600_000
    assert (bench.told, bench.value("flux_addresses_banned_total")) == ([False], 1)
    assert bench.value("flux_offences_total", kind="password") == 5
    assert bench.value("flux_bans", by="automatic") == 1
    assert bench.bans.refusal("203.0.113.8") is None
    # Those who are logged in stay.
    assert bench.bans.refusal(ADDRESS, by_admins=True) is None
    bench.clock.advance(599)
    assert bench.bans.refusal(ADDRESS) is not None
    bench.clock.advance(1)
    assert bench.bans.refusal(ADDRESS) is None
    await bench.bans.refresh()
    assert bench.value("flux_bans", by="automatic") == 0


async def test_all_processes_count_together_and_learn_of_it() -> None:
    bench = Bench()
    other = bench.process()
    bench.offend(ADDRESS, 3)
    for _ in range(2):
        other.offence("bad_lines", ADDRESS)
    await bench.bans.tell()
    await other.tell()
    assert other.refusal(ADDRESS) is not None
    assert bench.bans.refusal(ADDRESS) is None
    await bench.bans.refresh()
    assert bench.bans.refusal(ADDRESS) is not None
    assert bench.told == [False]
    # What is known is no news.
    await bench.bans.refresh()
    assert bench.told == [False]


async def test_an_ipv6_customer_is_one_however_many_addresses_it_uses() -> None:
    bench = Bench()
    for number in range(5):
        bench.bans.offence("password", f"2001:db8:0:1::{number:x}")
    await bench.bans.tell()
    assert bench.bans.refusal("2001:db8:0:1:ffff::1") is not None
    assert bench.bans.refusal("2001:db8:0:2::1") is None


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "local", "10.0.0.9", "192.0.2.5"])
async def test_loopback_proxies_and_who_is_exempt_are_not_banned(address: str) -> None:
    exempt = (*Settings().limits.ban_exempt, ip_network("192.0.2.0/24"))
    bench = Bench(gate__proxies=(ip_network("10.0.0.9"),), limits__ban_exempt=exempt)
    bench.offend(address, 500)
    await bench.bans.tell()
    assert bench.bans.refusal(address) is None
    assert await bench.state.banned() == {}
    assert bench.value("flux_offences_total", kind="password") == 500


async def test_who_becomes_exempt_is_let_in_at_once() -> None:
    bench = Bench()
    bench.offend(ADDRESS)
    await bench.bans.tell()
    bench.bans.reload(with_changes(bench.settings, limits__ban_exempt=(ip_network(ADDRESS),)))
    assert bench.bans.refusal(ADDRESS) is None


async def test_nobody_is_banned_where_it_is_switched_off() -> None:
    bench = Bench(limits__ban_after=0)
    bench.offend(ADDRESS, 10_000)
    await bench.bans.tell()
    assert bench.bans.refusal(ADDRESS) is None
    assert bench.value("flux_offences_total", kind="password") == 10_000


def test_by_default_a_person_is_never_banned_and_a_script_is() -> None:
    """The defaults: 300 within ten minutes; a login that is refused is answered in microseconds, a person types."""
    limits = load().limits
    assert (limits.ban_after, limits.ban_window, limits.ban_for) == (300, 600, 600)
    # Whoever stays below what makes logins wait all the time is banned in the end, too.
    assert limits.logins_per_minute_address * limits.ban_window / 60 > limits.ban_after


async def test_a_flood_from_everywhere_is_bounded() -> None:
    bench = Bench()
    for number in range(MOST_OFFENDERS + 100):
        bench.bans.offence("password", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(bench.bans._offences) == MOST_OFFENDERS
    await bench.bans.tell()
    assert not bench.bans._offences


async def test_while_the_state_is_away_known_bans_stay_and_lapse() -> None:
    bench = Bench()
    bench.offend(ADDRESS)
    await bench.bans.tell()
    bench.state.away = True
    bench.offend("203.0.113.8")
    await bench.bans.tell()
    await bench.bans.refresh()
    assert bench.bans.refusal(ADDRESS) is not None
    assert bench.bans.refusal("203.0.113.8") is None
    bench.clock.advance(600)
    await bench.bans.refresh()
    assert bench.bans.refusal(ADDRESS) is None
    assert bench.value("flux_bans", by="automatic") == 0


# --- bans by admins ----------------------------------------------------------


def network_ban(network: str, reason: str = "", until: int = 0) -> Ban:
    return Ban(0, network, reason, WALL * 1000, until)


async def test_a_network_is_kept_out_and_told_why() -> None:
    bench = Bench()
    bench.store.bans = (
        network_ban("198.51.0.0/16", "spam"),
        network_ban("2001:db8::/32"),
        network_ban("203.0.113.7/32", "rest a little", WALL * 1000 + 90_000),
    )
    await bench.bans.refresh()
    assert bench.told == [True]
    assert bench.value("flux_bans", by="admin") == 3
    refusal = bench.bans.refusal("198.51.200.1")
    assert isinstance(refusal, Forbidden)
    assert refusal.detail == "this address is banned: spam"
    assert bench.bans.refusal("::ffff:198.51.0.1", by_admins=True) is not None
    assert bench.bans.refusal("2001:db8:7::1") is not None
    assert bench.bans.refusal("198.52.0.1") is None
    for_a_while = bench.bans.refusal(ADDRESS)
    assert isinstance(for_a_while, RateLimited)
    assert for_a_while.retry_after == 90_000
    assert for_a_while.detail == "this address is banned until 2023-11-14 22:14 UTC: rest a little"
    bench.clock.advance(90)
    assert bench.bans.refusal(ADDRESS) is None
    bench.store.bans = ()
    await bench.bans.refresh()
    assert bench.bans.refusal("198.51.200.1") is None
    assert bench.told == [True]


async def test_who_is_exempt_is_only_meant_by_a_ban_that_says_so() -> None:
    bench = Bench(limits__ban_exempt=(ip_network("10.0.0.0/24"),))
    bench.store.bans = (network_ban("10.0.0.0/8"),)
    await bench.bans.refresh()
    assert bench.bans.refusal("10.0.0.7") is None
    assert bench.bans.refusal("10.0.1.7") is not None
    bench.store.bans += (network_ban("10.0.0.7/32"),)
    await bench.bans.refresh()
    assert bench.bans.refusal("10.0.0.7") is not None
    assert bench.bans.refusal("10.0.0.8") is None


async def test_while_the_store_is_away_known_bans_stay() -> None:
    bench = Bench()
    bench.store.bans = (network_ban("203.0.113.0/24"),)
    await bench.bans.refresh()
    bench.store.problem = Unavailable("away")
    with capturedLogs() as captured:
        for _ in range(3):
            await bench.bans.refresh()
            bench.clock.advance(2)
        assert bench.bans.refusal(ADDRESS) is not None
        bench.store.problem = None
        await bench.bans.refresh()
    told = [formatEvent(event) for event in captured if event["log_level"] is not LogLevel.debug]
    assert told == [
        "new bans are not known here until this is over: unavailable: away",
        "new bans are known here again, after 6.0 s",
    ]


async def test_both_are_looked_at_again_and_again() -> None:
    bench = Bench()
    await bench.bans.start()
    bench.store.bans = (network_ban("203.0.113.0/24"),)
    bench.offend("198.51.100.1")
    bench.clock.advance(1)
    assert bench.bans.refusal("198.51.100.1") is not None
    bench.clock.advance(LOOK_EVERY)
    assert bench.bans.refusal(ADDRESS) is not None
    await bench.bans.stop()
    assert bench.clock.getDelayedCalls() == []
