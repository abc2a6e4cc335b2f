"""A placement on a simulated clock, for the tests of assigning users."""

from __future__ import annotations

import random
from collections import Counter

from status_parts import HeldState, lease, settled
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from flux.balance import load_balancer
from flux.interfaces import IBalancer
from flux.status.placement import Placement
from flux.status.servers import Servers

HEARTBEAT = 3.0
LEASE = 10.0
NOW = 1_700_000_000.0


class Setup:
    """A placement, its servers, and the shared state that answers when told to."""

    def __init__(self, balancer: IBalancer | None = None) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.state = HeldState(self.clock.seconds)
        self.servers = Servers(self.clock.seconds, HEARTBEAT, LEASE)
        self.placement = Placement(
            self.state,
            self.servers,
            balancer or load_balancer("least_connections", random.Random(1)),
            self.clock,
            token_ttl=600,
            hold=30,
            wall=lambda: NOW + self.clock.seconds() - 1000,
        )

    async def lease(self, *names: str, **changes: object) -> None:
        for name in names:
            await self.state.renew(lease(name, **changes), [])

    async def assign(self, *uids: int) -> list:
        answer = self.placement.assign(uids)
        settled(self.clock)
        return await answer

    def answers(self, answer: Deferred) -> Counter[str]:
        return Counter(assignment.server for assignment in answer.result)
