"""Two chat servers are drained and started again, one after the other, while clients talk: nobody loses anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from store_invariants import check_dsn

from flux.bench.cluster import Cluster
from flux.bench.verification import Plan, Verification
from flux.client import ClientEvent, Offline
from flux.client.inbox import Inbox


@pytest.mark.slow
async def test_a_rolling_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from twisted.internet import reactor

    offline: list[Offline] = []
    put = Inbox.put

    def noticing(inbox: Inbox, event: ClientEvent, taken: Callable[[], None] | None = None) -> None:
        if isinstance(event, Offline):
            offline.append(event)
        put(inbox, event, taken)

    monkeypatch.setattr(Inbox, "put", noticing)
    cluster = Cluster(reactor, tmp_path, nodes=2, lease=3.0, only="drained")
    plan = Plan(clients=20, groups=3, rate=20.0, calm=(0.2, 0.5), patient=True, seed=1)
    try:
        await cluster.start()
        verdict = await Verification(reactor, plan, cluster, lambda share, what: None).run()
        check_dsn(cluster.postgres.dsn)
    finally:
        await cluster.close()
    assert [period.fault for period in verdict.periods] == ["", "chat1 drained", "chat2 drained"]
    assert (verdict.anomalies, verdict.late, verdict.settled) == ([], [], True)
    # They went on talking while they moved, and none of them was ever without a server.
    assert all(period.acknowledged > plan.clients for period in verdict.periods)
    assert offline == []
    for node in cluster.nodes:
        printed = (tmp_path / node.name / "output").read_text()
        assert printed.count("drained: this process ends") == 1
        assert "Traceback" not in printed
