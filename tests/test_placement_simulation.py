"""Placement under its stated conditions: stale heartbeats, late and abandoned logins, repeated questions."""

from __future__ import annotations

import subprocess
import sys

import pytest
from printed_table import cells
from server_process import environment

from flux.backends.memory import Reservations
from flux.balance import BALANCERS
from flux.bench.placement import Conditions, Simulation

BOUND = 1.05


def users(conditions: Conditions) -> int:
    return int(conditions.rate * conditions.duration)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1_000, 10_000])
@pytest.mark.parametrize("statuses", [1, 4])
def test_least_connections_keeps_the_bound(rate, statuses) -> None:
    conditions = Conditions(rate=rate, statuses=statuses, duration=3.5)
    outcome = Simulation("least_connections", conditions).run()
    assert outcome.worst <= BOUND
    assert outcome.final <= BOUND
    assert outcome.reserved == 0
    assert outcome.refused == 0
    assert outcome.sessions == pytest.approx(users(conditions) * (1 - conditions.abandoned), rel=0.02)
    assert outcome.assigned == pytest.approx(users(conditions) * (1 + 0.95 * conditions.repeated), rel=0.02)


@pytest.mark.slow
def test_the_bound_is_missed_if_a_login_releases_its_reservation_before_a_heartbeat_covers_it(monkeypatch) -> None:
    # What the simulation is for: this mistake, made by most who count connections, must show.
    monkeypatch.setattr(Reservations, "mark", lambda self, uid, now: self.pop(uid))
    outcome = Simulation("least_connections", Conditions(rate=5_000, duration=3.5)).run()
    assert outcome.worst > 1.2
    assert outcome.reserved == 0


@pytest.mark.slow
def test_the_bound_is_missed_without_reservations(monkeypatch) -> None:
    monkeypatch.setattr(Reservations, "counts", lambda self: {})
    assert Simulation("least_connections", Conditions(rate=2_000, duration=3.5)).run().worst > 2


@pytest.mark.parametrize(
    ("balancer", "bound"),
    [("round_robin", BOUND), ("power_of_two", BOUND), ("consistent_hash", 1.27), ("least_connections", BOUND)],
)
def test_each_balancer_spreads_as_evenly_as_it_promises(balancer, bound) -> None:
    assert balancer in BALANCERS
    outcome = Simulation(balancer, Conditions(rate=2_000, duration=2.0)).run()
    assert outcome.worst <= bound
    assert (outcome.reserved, outcome.refused) == (0, 0)


def test_users_who_never_come_count_only_for_a_while() -> None:
    conditions = Conditions(rate=500, duration=1.5, abandoned=1.0)
    outcome = Simulation("least_connections", conditions).run()
    assert (outcome.assigned, outcome.sessions, outcome.reserved) == (750, 0, 0)


def test_the_same_seed_gives_the_same_outcome() -> None:
    conditions = Conditions(rate=500, duration=1.5)
    one, same, other = (Simulation("power_of_two", conditions, seed).run() for seed in (1, 1, 2))
    assert one == same
    assert one != other


# --- flux balance ---


def balance(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "import sys; from flux.cli.main import main; sys.exit(main())", "balance", *arguments],
        env=environment() | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_prints_a_row_per_balancer() -> None:
    done = balance("--rate", "300", "--seconds", "2", "--servers", "5", "--statuses", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "300 users a second for 2 s on 5 chat servers, placed by 2 status processes" in done.stdout
    rows = cells(done.stdout)
    assert [row[0] for row in rows] == list(BALANCERS)
    for _, worst, final, sessions, refused, reserved in rows:
        assert 1 <= float(final) <= float(worst) + 0.1 < 1.5
        assert (int(sessions), refused, reserved) == (pytest.approx(570, abs=30), "0", "0")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["best"], "flux balance: no balancer is called 'best'"),
        (["--servers", "0"], "at least 1"),
        (["--rate", "many"], "argument --rate: 'many' is no whole number"),
    ],
)
def test_wrong_arguments_are_told(arguments, complaint) -> None:
    done = balance(*arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
