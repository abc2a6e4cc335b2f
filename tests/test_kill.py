"""Killed at random moments under load, the server loses nothing, doubles nothing, mixes up nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_invariants import check_file

from flux.bench.installation import SingleServer
from flux.bench.verification import Plan, Verdict, Verification


async def survive(kills: int, directory: Path) -> Verdict:
    from twisted.internet import reactor

    server = SingleServer(reactor, directory, kills)
    plan = Plan(seed=kills)
    try:
        await server.start()
        verdict = await Verification(reactor, plan, server, lambda share, what: None).run()
    finally:
        await server.close()
    check_file(directory / "flux.db")
    assert [period.fault for period in verdict.periods] == ["", *["killed"] * kills]
    assert verdict.settled
    # Every participant is in a pair, so it has been heard, and the kills have hit a talking server.
    assert verdict.acknowledged > 100 * kills
    assert verdict.acknowledged == sum(period.acknowledged for period in verdict.periods)
    assert verdict.chats == plan.clients // 2 + plan.groups
    assert verdict.periods[-1].recovery is not None
    return verdict


@pytest.mark.slow
async def test_four_kills(tmp_path: Path) -> None:
    assert (await survive(4, tmp_path)).anomalies == []


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_twenty_kills(tmp_path: Path) -> None:
    assert (await survive(20, tmp_path)).anomalies == []
