"""Round robin: servers take turns, without a look at their load."""

from __future__ import annotations

import random
from collections.abc import Sequence

from zope.interface import implementer

from flux.interfaces import IBalancer
from flux.model.placement import Node


@implementer(IBalancer)
class RoundRobin:
    """Smooth weighted round robin, as in nginx (``ngx_http_upstream_get_peer``).

    Each turn every server gains its weight in credit, and the one with the most
    credit is chosen and pays what all have gained.  With weights 5, 1, 1 that gives
    a a b a c a a instead of a a a a a b c.  Credit begins at a random fraction below
    1: it decides ties only, so that several processes begin with different servers.
    """

    name = "round_robin"

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._credit: dict[str, float] = {}

    def choose(self, uid: int, nodes: Sequence[Node]) -> Node | None:
        """See :meth:`IBalancer.choose`."""
        if not nodes:
            return None
        before = self._credit
        self._credit = credit = {}
        gained = 0
        for node in nodes:
            held = before.get(node.name)
            credit[node.name] = (self._rng.random() if held is None else held) + node.weight
            gained += node.weight
        chosen = max(nodes, key=lambda node: credit[node.name])
        credit[chosen.name] -= gained
        return chosen
