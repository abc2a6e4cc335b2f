"""The promises of ``IBalancer`` as tests that every balancer runs, a user's own included.

A test class subclasses :class:`BalancerContract` and gives ``make(rng)``.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from flux.interfaces import IBalancer
from flux.model.placement import Node


def node(name: str, load: int = 0, weight: int = 1) -> Node:
    return Node(name=name, host="h", port=1, sessions=load, weight=weight)


def nodes(count: int) -> list[Node]:
    return [node(f"chat{number}") for number in range(1, count + 1)]


@dataclass
class Users:
    """Users who arrive one after the other and stay."""

    balancer: IBalancer
    nodes: list[Node]
    given: dict[int, str] = field(default_factory=dict)

    def arrive(self, uids: Sequence[int]) -> None:
        index = {node.name: position for position, node in enumerate(self.nodes)}
        for uid in uids:
            chosen = self.balancer.choose(uid, self.nodes)
            assert chosen is not None
            self.given[uid] = chosen.name
            self.nodes[index[chosen.name]] = msgspec.structs.replace(chosen, reserved=chosen.reserved + 1)

    def counts(self) -> Counter[str]:
        return Counter(self.given.values())


clusters = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.tuples(st.integers(0, 10_000), st.integers(1, 8)),
    min_size=1,
    max_size=12,
).map(lambda servers: [node(name, load, weight) for name, (load, weight) in servers.items()])


class BalancerContract:
    #: How far the shares of servers may be from what their weights say, relative.
    tolerance = 0.0

    def make(self, rng: random.Random) -> IBalancer:
        raise NotImplementedError

    def test_it_provides_the_interface(self) -> None:
        balancer = self.make(random.Random(1))
        assert verifyObject(IBalancer, balancer)
        assert isinstance(balancer.name, str)

    def test_of_no_nodes_it_chooses_none(self) -> None:
        assert self.make(random.Random(1)).choose(7, []) is None

    # The properties are functions inside the tests: pytest-twisted wraps a property once
    # per class that inherits it, one wrapper around the other.

    def test_it_chooses_one_of_the_nodes_whatever_came_before(self) -> None:
        @given(
            seed=st.integers(0, 2**32),
            rounds=st.lists(st.tuples(st.integers(1, 2**63 - 1), clusters), min_size=1, max_size=8),
        )
        def check(seed: int, rounds: list[tuple[int, list[Node]]]) -> None:
            balancer = self.make(random.Random(seed))
            for uid, cluster in rounds:
                before = tuple(cluster)
                chosen = balancer.choose(uid, cluster)
                assert any(chosen is candidate for candidate in before)
                assert tuple(cluster) == before

        check()

    def test_of_one_node_it_chooses_that(self) -> None:
        @given(seed=st.integers(0, 2**32), uid=st.integers(1, 2**63 - 1), load=st.integers(0, 10**6))
        def check(seed: int, uid: int, load: int) -> None:
            only = node("only", load)
            assert self.make(random.Random(seed)).choose(uid, (only,)) is only

        check()

    @pytest.mark.parametrize("weights", [(1, 1, 1, 1), (1, 2, 3, 4), (10, 1)])
    def test_shares_follow_the_weights(self, weights) -> None:
        cluster = [node(f"chat{number}", weight=weight) for number, weight in enumerate(weights)]
        users = Users(self.make(random.Random(3)), cluster)
        per_weight = 1000
        users.arrive(range(1, per_weight * sum(weights) + 1))
        for server in cluster:
            share = users.counts()[server.name] / (per_weight * server.weight)
            assert abs(share - 1) <= self.tolerance + 1 / per_weight
