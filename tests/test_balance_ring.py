"""Consistent hashing: what moves, how even it is, and the bound of the loads."""

from __future__ import annotations

import random
from math import ceil
from statistics import mean

import pytest
from balancer_contract import Users, node, nodes
from hypothesis import given
from hypothesis import strategies as st

from flux.balance import ring
from flux.balance.ring import ConsistentHash, Ring

names = st.text(min_size=1, max_size=12)
servers = st.dictionaries(names, st.integers(1, 5), min_size=1, max_size=10)
keys = st.lists(st.integers(1, 2**63 - 1).map(str), min_size=1, max_size=60)


def owner(ring: Ring, key: str) -> str:
    return next(ring.walk(key))


def owned(ring: Ring) -> dict[str, int]:
    """How many places of the ring each server owns."""
    sizes: dict[str, int] = {}
    before = ring._places[-1] - 2**64
    for place, name in zip(ring._places, ring._names, strict=True):
        sizes[name] = sizes.get(name, 0) + place - before
        before = place
    return sizes


@given(servers=servers, added=names, weight=st.integers(1, 5), keys=keys)
def test_a_server_added_takes_keys_and_moves_no_others(servers, added, weight, keys) -> None:
    servers.pop(added, None)
    before = Ring(list(servers.items()) or [("the first", 1)])
    after = Ring([*(servers.items() or [("the first", 1)]), (added, weight)])
    for key in keys:
        if owner(after, key) != owner(before, key):
            assert owner(after, key) == added


@given(servers=servers, keys=keys, order=st.randoms())
def test_the_order_of_the_servers_does_not_matter(servers, keys, order) -> None:
    shuffled = list(servers.items())
    order.shuffle(shuffled)
    one, other = Ring(list(servers.items())), Ring(shuffled)
    assert [owner(one, key) for key in keys] == [owner(other, key) for key in keys]


@given(servers=servers, key=keys)
def test_a_walk_comes_to_every_server_once_around(servers, key) -> None:
    names = list(Ring(list(servers.items())).walk(key[0]))
    assert {name: names.count(name) for name in set(names)} == {
        name: ring.POINTS * weight for name, weight in servers.items()
    }


def test_ten_servers_share_the_ring_evenly() -> None:
    peaks = []
    for number in range(50):
        sizes = owned(Ring([(f"set{number}-chat{server}", 1) for server in range(10)]))
        assert sum(sizes.values()) == 2**64
        peaks.append(max(sizes.values()) / mean(sizes.values()))
    assert 1.10 <= mean(peaks) <= 1.22


def test_places_are_the_same_in_every_process() -> None:
    # A changed hash would move every account of a running cluster.
    assert ring.place("chat1#0") == 6537387337638579285
    assert [owner(Ring([("a", 1), ("b", 1), ("c", 1)]), str(uid)) for uid in range(1, 13)] == list("bcbacbaabcab")


@given(
    weights=st.lists(st.integers(1, 4), min_size=1, max_size=10),
    epsilon=st.sampled_from([0.01, 0.1, 0.25, 1.0]),
    count=st.integers(1, 400),
    start=st.integers(1, 2**60),
)
def test_no_server_gets_more_than_its_bound(weights, epsilon, count, start) -> None:
    cluster = [node(f"chat{number}", weight=weight) for number, weight in enumerate(weights)]
    users = Users(ConsistentHash(epsilon=epsilon), cluster)
    users.arrive(range(start, start + count))
    for server in cluster:
        share = count * server.weight / sum(weights)
        assert users.counts()[server.name] <= ceil((1 + epsilon) * share)


def test_an_account_keeps_its_server_while_loads_are_even() -> None:
    balancer = ConsistentHash()
    for uid in range(1, 200):
        assert len({balancer.choose(uid, cluster).name for cluster in (nodes(5), nodes(5)[::-1])}) == 1
        assert balancer.choose(uid, nodes(5)).name == owner(Ring([(n.name, 1) for n in nodes(5)]), str(uid))


def test_a_server_above_its_bound_is_passed_over() -> None:
    balancer = ConsistentHash(epsilon=0.25)
    even = nodes(3)
    home = {uid: balancer.choose(uid, even).name for uid in range(1, 300)}
    # 100 of 101 is far above 1.25 thirds; whoever lives elsewhere stays there.
    crowded = [node("chat1", 100), node("chat2"), node("chat3")]
    for uid, name in home.items():
        chosen = balancer.choose(uid, crowded).name
        assert chosen != "chat1"
        assert name in ("chat1", chosen)


def test_the_ring_is_built_only_when_the_servers_change(monkeypatch) -> None:
    built = []

    class Counted(Ring):
        def __init__(self, servers) -> None:
            built.append(list(servers))
            super().__init__(servers)

    balancer = ConsistentHash()
    monkeypatch.setattr(ring, "Ring", Counted)
    users = Users(balancer, nodes(4))
    users.arrive(range(100))
    users.nodes.reverse()
    users.arrive(range(100, 200))
    assert len(built) == 1
    balancer.choose(1, nodes(3))
    balancer.choose(1, [*nodes(3)[:2], node("chat3", weight=2)])
    assert len(built) == 3


@pytest.mark.parametrize("epsilon", [0, -0.5])
def test_without_slack_there_is_no_bound_to_keep(epsilon) -> None:
    with pytest.raises(ValueError, match="epsilon"):
        ConsistentHash(random.Random(1), epsilon)
