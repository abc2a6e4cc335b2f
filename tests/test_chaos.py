"""Faults that overlap: when they come, what they do, and that nothing is forgotten where they go wrong themselves."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from lying_server import HonestServer

from flux.bench import chaos, overlapping, verification
from flux.bench.chaos import Strike, lanes, schedule
from flux.bench.installation import Fault, FluxServer, Installation
from flux.bench.overlapping import Overlapping, resources
from flux.bench.servers import ServerFailed
from flux.bench.verification import Plan, Verdict, Verification
from flux.errors import NotFound, Unavailable
from flux.lifecycle import sleep


async def nothing() -> None:
    """Neither done nor repaired."""


LASTS = {"killed": (0.5, 3.0), "paused": (0.5, 40.0), "emptied": (0.0, 0.0)}
FAULTS = [
    Fault(f"{resource} {verb}", nothing, nothing, LASTS[verb], resource)
    for resource, verbs in {"one": ["killed"], "two": ["killed", "paused"], "three": ["paused", "emptied"]}.items()
    for verb in verbs
]
SEEDS = range(20)


def drawn(seed: int, seconds: float = 300.0) -> list[Strike]:
    return schedule(FAULTS, seconds, random.Random(seed))


def test_the_same_seed_makes_the_same_choices() -> None:
    assert all(drawn(seed) == drawn(seed) for seed in SEEDS)
    assert len({tuple(drawn(seed)) for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_resource_suffers_one_fault_at_a_time_and_all_is_over_in_time(seed: int) -> None:
    strikes = drawn(seed)
    assert strikes == sorted(strikes, key=lambda strike: strike.moment)
    by_resource = lanes(strikes)
    assert sorted(strike.moment for lane in by_resource for strike in lane) == [strike.moment for strike in strikes]
    for lane in by_resource:
        assert len({strike.fault.resource for strike in lane}) == 1
        for earlier, later in pairwise(lane):
            assert earlier.moment + earlier.lasts <= later.moment
    for strike in strikes:
        least, most = strike.fault.lasts
        assert strike.moment + strike.lasts <= 300.0 + 1e-9
        assert strike.lasts <= most
        assert strike.lasts >= least or strike.moment + strike.lasts == pytest.approx(300.0)


def test_everything_happens_and_much_of_it_at_the_same_time() -> None:
    strikes = [strike for seed in SEEDS for strike in drawn(seed)]
    assert Counter(strike.fault.name for strike in strikes).keys() == {fault.name for fault in FAULTS}
    # So long that a node gives up a statement, and its client a request.
    assert max(strike.lasts for strike in strikes) > 30.0
    met = [
        (one.fault.name, other.fault.name)
        for one, other in pairwise(drawn(1))
        if one.moment + one.lasts > other.moment
    ]  # fmt: skip
    assert len(met) > 10


def test_a_short_time_may_pass_in_peace() -> None:
    assert schedule(FAULTS, 0.0, random.Random(1)) == []


def test_each_fault_of_a_cluster_is_known_by_name_and_resource(tmp_path: Path) -> None:
    from twisted.internet import reactor

    cluster = Overlapping(reactor, tmp_path)
    named = [(resource, name) for resource, names in resources().items() for name in names]
    assert [(fault.resource, fault.name) for fault in cluster.faults] == named
    assert len(resources()) == 3 * 4 + 3
    assert [fault.name for fault in Overlapping(reactor, tmp_path, only="emptied").faults] == ["Redis emptied"]
    [patient] = [fault for fault in Overlapping(reactor, tmp_path, lease=60.0).faults if fault.name == "chat1 paused"]
    assert patient.lasts == (0.5, 90.0)


def test_each_fault_does_what_its_name_says(tmp_path: Path) -> None:
    from twisted.internet import reactor

    cluster = Overlapping(reactor, tmp_path)
    done = {fault.name: (fault.inject, fault.repair) for fault in cluster.faults}
    for node in cluster.nodes:
        name, server = node.name, node.server
        assert done[f"{name} paused"] == (server.pause, server.resume)
        for link, here, there in (
            (node.redis, name, "Redis"),
            (node.postgres, name, "PostgreSQL"),
            (node.clients, "clients", name),
        ):
            assert done[f"{here} cut off from {there}"] == (link.cut, link.open)
            assert done[f"{there} swallows {here}"] == (link.swallow, link.open)
    assert done["status paused"] == (cluster.status_server.pause, cluster.status_server.resume)


# a run of them


class Theatre(Installation):
    """An honest server, and faults that are only played: each says when it is on.

    :param broken: the name of a fault that cannot be repaired.
    """

    def __init__(self, address: tuple[str, int], broken: str = "") -> None:
        super().__init__([address])
        self.on: set[str] = set()
        self.disturbed = 0
        self.most = 0
        self._broken = broken

    @property
    def faults(self) -> list[Fault]:
        return [self.fault(f"{resource} {verb}", resource) for resource in "abc" for verb in ("broken", "bent")]

    def disturb(self, rng: random.Random) -> None:
        self.disturbed += 1

    def fault(self, name: str, resource: str) -> Fault:
        async def inject() -> None:
            assert not {each for each in self.on if each[0] == resource}
            self.on.add(name)
            self.most = max(self.most, len(self.on))

        async def repair() -> None:
            if name == self._broken:
                raise ServerFailed(f"{name} for good")
            self.on.remove(name)

        return Fault(name, inject, repair, (0.05, 0.5), resource)


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    from twisted.internet import reactor

    port: Any = reactor.listenTCP(0, HonestServer(), interface="127.0.0.1")
    yield "127.0.0.1", port.getHost().port
    pytest_twisted.blockon(port.stopListening())


PLAN = Plan(clients=4, groups=1, group_size=3, rate=100.0, chaos=1.5, recover_within=15.0, seed=3)


async def play(theatre: Theatre, monkeypatch: pytest.MonkeyPatch, shown: list[str], plan: Plan = PLAN) -> Verdict:
    from twisted.internet import reactor

    monkeypatch.setattr(chaos, "EVERY", 0.05)
    monkeypatch.setattr(verification, "BREAKS_EVERY", 0.1)

    def progress(share: float, what: str) -> None:
        assert 0.0 <= share <= 1.0
        shown.append(what)

    return await Verification(reactor, plan, theatre, progress).run()


async def test_a_run_with_overlapping_faults(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    theatre, shown = Theatre(address), list[str]()
    verdict = await play(theatre, monkeypatch, shown)
    assert verdict.sound
    assert theatre.on == set()
    assert theatre.most > 1
    assert theatre.disturbed > 3
    assert any(what.count(", ") == 1 for what in shown)
    first, *periods = verdict.periods
    assert (first.fault, first.moment) == ("", 0.0)
    assert [period.moment for period in periods] == sorted(period.moment for period in periods)
    assert len(periods) > 5
    assert sum(period.acknowledged for period in verdict.periods) == verdict.acknowledged
    # All is whole again by the end, and after what was repaired last everybody came back.
    last = max(periods, key=lambda period: period.moment + period.duration)
    assert last.moment + last.duration == pytest.approx(PLAN.chaos, abs=0.5)
    assert last.recovery is not None
    planned = schedule(theatre.faults, PLAN.chaos, random.Random(PLAN.seed))
    assert [period.fault for period in periods] == [strike.fault.name for strike in planned]


async def test_what_cannot_be_repaired_ends_the_run(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServerFailed, match="a bent for good"):
        await play(Theatre(address, "a bent"), monkeypatch, [])


async def test_who_comes_back_too_late_is_no_success(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(clients=4, groups=1, group_size=3, rate=100.0, chaos=0.5, recover_within=0.0, seed=3)
    verdict = await play(Theatre(address), monkeypatch, [], plan)
    last = max(verdict.periods, key=lambda period: period.moment + period.duration)
    assert (verdict.anomalies, verdict.late[-1], verdict.sound) == ([], last.fault, False)


async def test_nothing_but_time_passes_where_there_is_no_fault(address: tuple[str, int]) -> None:
    from twisted.internet import reactor

    plan = Plan(clients=4, groups=1, group_size=3, rate=100.0, chaos=0.2, seed=3)
    verdict = await Verification(reactor, plan, Installation([address]), lambda share, what: None).run()
    assert (len(verdict.periods), verdict.sound) == (1, True)
    assert verdict.acknowledged > 0


# a server that does not come back at once


class Reluctant(FluxServer):
    """Ends ``times`` times instead of serving."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.did: list[str] = []

    async def start(self) -> None:
        self.did.append("start")
        if len(self.did) // 2 <= self.times:
            raise ServerFailed("no database")

    async def stop(self) -> None:
        self.did.append("stop")

    async def kill(self) -> None:
        self.did.append("kill")

    def check(self) -> None:
        raise ServerFailed("it ended")


async def test_a_server_that_finds_no_database_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twisted.internet import reactor

    monkeypatch.setattr(overlapping, "TRY_AGAIN_AFTER", 0.01)
    cluster = Overlapping(reactor, tmp_path, only="status killed")
    server = cluster.status_server = Reluctant(2)
    [fault] = cluster.faults
    await fault.inject()
    cluster.check()
    await fault.repair()
    assert server.did == ["kill", *["start", "kill"] * 2, "start"]
    with pytest.raises(ServerFailed, match="it ended"):
        cluster.check()


class Asked:
    """A status service that answers the third time."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def drain(self, name: str) -> None:
        self.asked.append(f"drain {name}")
        if len(self.asked) < 3:
            raise Unavailable("the shared state is away")

    async def resume(self, name: str) -> None:
        self.asked.append(f"resume {name}")
        raise NotFound("no chat server is called so")


async def test_an_admin_drains_a_node_whenever_that_can_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twisted.internet import reactor

    monkeypatch.setattr(overlapping, "TRY_AGAIN_AFTER", 0.01)
    cluster = Overlapping(reactor, tmp_path, only="chat2 drained")
    asked: Any = Asked()
    cluster.status = asked
    server = cluster.nodes[1].server = Reluctant(0)
    [fault] = cluster.faults
    await fault.inject()
    assert asked.asked == ["drain chat2"] * 3
    # It may end by itself now.
    cluster.check()
    await fault.repair()
    assert (asked.asked[3:], server.did) == (["resume chat2"], ["stop", "start"])


async def test_a_server_that_never_comes_back_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from twisted.internet import reactor

    monkeypatch.setattr(overlapping, "TRY_AGAIN_AFTER", 0.01)
    monkeypatch.setattr(overlapping, "PASSES_WITHIN", 0.05)
    cluster = Overlapping(reactor, tmp_path, only="status killed")
    cluster.status_server = Reluctant(1000)
    [fault] = cluster.faults
    await fault.inject()
    with pytest.raises(ServerFailed, match="no database"):
        await fault.repair()
    await sleep(0, reactor)
