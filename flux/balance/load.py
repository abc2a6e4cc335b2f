"""Balancers that look at the load: the least loaded of all, or of two.

A server's load counts in relation to its weight: of two equally loaded servers
with weights 1 and 3 the second is a third as busy.  Weights are positive.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from zope.interface import implementer

from flux.interfaces import IBalancer
from flux.model.placement import Node


@implementer(IBalancer)
class LeastConnections:
    """The server with the smallest load ÷ weight; a tie is drawn.

    Drawn, because several processes that see the same loads would otherwise all
    choose the same server.
    """

    name = "least_connections"

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, uid: int, nodes: Sequence[Node]) -> Node | None:
        """See :meth:`IBalancer.choose`."""
        if not nodes:
            return None
        loads = [node.load / node.weight for node in nodes]
        least = min(loads)
        if loads.count(least) == 1:
            return nodes[loads.index(least)]
        return self._rng.choice([node for node, load in zip(nodes, loads, strict=True) if load == least])


@implementer(IBalancer)
class PowerOfTwo:
    """The less loaded of two different servers that are drawn in proportion to their weights.

    M. Mitzenmacher, *The Power of Two Choices in Randomized Load Balancing*, 2001:
    nearly as even as looking at all, and stale loads lead no herd to one server.
    """

    name = "power_of_two"

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, uid: int, nodes: Sequence[Node]) -> Node | None:
        """See :meth:`IBalancer.choose`."""
        if len(nodes) < 2:
            return nodes[0] if nodes else None
        weights = [node.weight for node in nodes]
        indices = range(len(nodes))
        first = self._rng.choices(indices, weights)[0]
        weights[first] = 0
        second = self._rng.choices(indices, weights)[0]
        return min(nodes[first], nodes[second], key=lambda node: node.load / node.weight)
