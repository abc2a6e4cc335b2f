"""Two chat servers are drained and started again, one after the other, while clients talk: nobody loses anything."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from flux.bench.cluster import Cluster, Node
from flux.bench.installation import Fault
from flux.bench.verification import Plan, Verification
from flux.client import ClientEvent, Offline
from flux.client.inbox import Inbox

DRAIN = 1.5
"""Of the servers, in seconds."""


class Rolling(Cluster):
    """Nothing goes wrong but that servers are restarted."""

    def __init__(self, reactor: object, directory: Path) -> None:
        super().__init__(reactor, directory, nodes=2, lease=3.0)
        self.statuses: list[int] = []
        for node in self.nodes:
            file = directory / node.name / "flux.ini"
            file.write_text(file.read_text().replace("[chat]\n", f"[chat]\ndrain = {DRAIN}\n", 1))

    @property
    def faults(self) -> list[Fault]:
        """Each of them once."""
        return [
            Fault(f"{node.name} drained", partial(self._drain, node), node.server.start, (0, 0)) for node in self.nodes
        ]

    async def _drain(self, node: Node) -> None:
        assert self.status is not None
        assert (await self.status.drain(node.name)).state == "draining"
        self.statuses.append(await node.server.ended())


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
    cluster = Rolling(reactor, tmp_path)
    plan = Plan(clients=20, groups=3, rate=20.0, calm=(0.2, 0.5), patient=True, seed=1)
    try:
        await cluster.start()
        verdict = await Verification(reactor, plan, cluster, lambda share, what: None).run()
    finally:
        await cluster.close()
    assert cluster.statuses == [0, 0]
    assert (verdict.anomalies, verdict.late, verdict.settled) == ([], [], True)
    # They went on talking while they moved, and none of them was ever without a server.
    assert all(period.acknowledged > plan.clients for period in verdict.periods)
    assert offline == []
    for node in cluster.nodes:
        printed = (tmp_path / node.name / "output").read_text()
        assert printed.count("drained: this process ends") == 1
        assert "Traceback" not in printed
