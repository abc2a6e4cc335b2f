"""Consistent hashing: an account keeps its server while the servers stay the same.

Each server owns points on a ring of 2**64 places; a key belongs to the first point
at or after its own place.  A server that comes or goes moves only the keys between
its points and the ones before them.  Hashes are BLAKE2b, equal in every process.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import ceil

from zope.interface import implementer

from flux.interfaces import IBalancer
from flux.model.placement import Node

POINTS = 100
"""Points per server and unit of weight: the largest of ten equal servers then owns on average 17 % above its share."""


def place(key: str) -> int:
    """Where on the ring ``key`` is."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")


@lru_cache(maxsize=256)
def _points(name: str, weight: int) -> tuple[tuple[int, str], ...]:
    """The places of one server; kept, because servers come and go by reaching their capacity."""
    return tuple((place(f"{name}#{number}"), name) for number in range(POINTS * weight))


class Ring:
    """The points of a set of servers.

    :param servers: (name, weight) of each.
    """

    def __init__(self, servers: Collection[tuple[str, int]]) -> None:
        points = sorted(point for name, weight in servers for point in _points(name, weight))
        self._places = [place for place, _ in points]
        self._names = [name for _, name in points]

    def walk(self, key: str) -> Iterator[str]:
        """Server names in the order of the points from ``key`` once around; names repeat."""
        names = self._names
        start = bisect_left(self._places, place(key))
        for index in range(start, start + len(names)):
            yield names[index % len(names)]


ROUNDING = 1e-9
"""What is above a whole number by less than this is that number."""


@implementer(IBalancer)
class ConsistentHash:
    """Consistent hashing with bounded loads.

    V. Mirrokni, M. Thorup, M. Zadimoghaddam, *Consistent Hashing with Bounded Loads*,
    2016: a server takes at most 1 + ``epsilon`` times its share (by weight) of all
    that there is, rounded up; beyond that the walk around the ring goes on to the next.
    So a small epsilon gives even loads, a large one accounts that rarely move.
    """

    name = "consistent_hash"

    def __init__(self, rng: random.Random | None = None, epsilon: float = 0.25) -> None:
        if epsilon <= 0:
            raise ValueError("epsilon: must be greater than 0")
        self._epsilon = epsilon
        self._servers: list[tuple[str, int]] = []
        self._ring = Ring(())

    def choose(self, uid: int, nodes: Sequence[Node]) -> Node | None:
        """See :meth:`IBalancer.choose`."""
        if not nodes:
            return None
        servers = [(node.name, node.weight) for node in nodes]
        if servers != self._servers:
            # The order is no reason to build the ring again.
            if set(servers) != set(self._servers):
                self._ring = Ring(servers)
            self._servers = servers
        by_name = {node.name: node for node in nodes}
        load = sum(node.load for node in nodes) + 1
        allowed = (1 + self._epsilon) * load / sum(node.weight for node in nodes)
        for name in self._ring.walk(str(uid)):
            node = by_name[name]
            # A bound of exactly 22 must not become 23 by the last bit of a product.
            if node.load < ceil(allowed * node.weight - ROUNDING):
                return node
        raise AssertionError("the bounds add up to more than the load")
