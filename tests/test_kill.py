"""Killed at random moments under load, the server loses nothing, doubles nothing, mixes up nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux.bench.verification import Plan, Verdict, Verification, Victim


async def survive(kills: int, directory: Path) -> Verdict:
    from twisted.internet import reactor

    victim = Victim(reactor, directory)
    plan = Plan(kills=kills, seed=kills)
    try:
        await victim.start()
        await victim.listening()
        verdict = await Verification(reactor, plan, ("127.0.0.1", victim.port), victim, lambda share, what: None).run()
    finally:
        await victim.kill()
    assert len(verdict.kills) == kills
    assert verdict.settled
    # Every participant is in a pair, so it has been heard, and the kills have hit a talking server.
    assert verdict.acknowledged > 100 * kills
    assert verdict.chats == plan.clients // 2 + plan.groups
    assert verdict.kills[-1].recovery is not None
    return verdict


@pytest.mark.slow
async def test_four_kills(tmp_path: Path) -> None:
    assert (await survive(4, tmp_path)).anomalies == []


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_twenty_kills(tmp_path: Path) -> None:
    assert (await survive(20, tmp_path)).anomalies == []
