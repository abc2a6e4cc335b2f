"""The balancers: the contract, and what each of them promises beyond it."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from balancer_contract import BalancerContract, Users, node, nodes
from hypothesis import given
from hypothesis import strategies as st
from zope.interface import implementer

from flux.balance import BALANCERS, load_balancer
from flux.balance.load import LeastConnections, PowerOfTwo
from flux.balance.ring import ConsistentHash
from flux.balance.rotation import RoundRobin
from flux.interfaces import IBalancer


class TestLeastConnections(BalancerContract):
    def make(self, rng: random.Random) -> IBalancer:
        return LeastConnections(rng)

    def test_it_fills_up_the_emptiest(self) -> None:
        users = Users(LeastConnections(random.Random(1)), [node("a", 10), node("b", 4), node("c", 7)])
        users.arrive(range(9))
        assert [server.load for server in users.nodes] == [10, 10, 10]

    def test_reservations_count_as_load(self) -> None:
        users = Users(LeastConnections(random.Random(1)), [node("a", 2), node("b", 0)])
        users.arrive(range(2))
        assert users.counts() == {"b": 2}

    def test_ties_are_drawn(self) -> None:
        chosen = Counter(LeastConnections(random.Random(seed)).choose(1, nodes(3)).name for seed in range(300))
        assert len(chosen) == 3
        assert min(chosen.values()) > 60


class TestPowerOfTwo(BalancerContract):
    tolerance = 0.02

    def make(self, rng: random.Random) -> IBalancer:
        return PowerOfTwo(rng)

    def test_the_most_loaded_of_all_is_never_chosen(self) -> None:
        balancer = PowerOfTwo(random.Random(1))
        cluster = [node("a", 5), node("b", 6), node("c", 7)]
        chosen = Counter(balancer.choose(uid, cluster).name for uid in range(3000))
        # a wins two pairs of three, b one.
        assert set(chosen) == {"a", "b"}
        assert 1900 < chosen["a"] < 2100


class TestRoundRobin(BalancerContract):
    def make(self, rng: random.Random) -> IBalancer:
        return RoundRobin(rng)

    @given(
        weights=st.lists(st.integers(1, 9), min_size=1, max_size=6),
        seed=st.integers(0, 2**32),
        rounds=st.integers(1, 3),
    )
    def test_each_round_is_exact(self, weights, seed, rounds) -> None:
        cluster = [node(f"chat{number}", weight=weight) for number, weight in enumerate(weights)]
        balancer = RoundRobin(random.Random(seed))
        for _ in range(rounds):
            chosen = Counter(balancer.choose(1, cluster).name for _ in range(sum(weights)))
            assert chosen == {server.name: server.weight for server in cluster}

    def test_heavy_servers_are_spread_over_the_round(self) -> None:
        balancer = RoundRobin(random.Random(1))
        cluster = [node("a", weight=5), node("b"), node("c")]
        turns = "".join(balancer.choose(1, cluster).name for _ in range(70))
        assert "aaaaa" not in turns  # two before a round's end and two after its beginning, at most

    def test_the_turns_go_on_when_a_server_leaves_and_returns(self) -> None:
        balancer = RoundRobin(random.Random(1))
        cluster = nodes(4)
        for _ in range(2):
            balancer.choose(1, cluster)
        assert Counter(balancer.choose(1, cluster[1:]).name for _ in range(30)).most_common()[0][1] <= 12
        assert max(Counter(balancer.choose(1, cluster).name for _ in range(40)).values()) <= 12

    def test_processes_begin_with_different_servers(self) -> None:
        first = Counter(RoundRobin(random.Random(seed)).choose(1, nodes(4)).name for seed in range(200))
        assert len(first) == 4
        assert max(first.values()) < 80


class TestConsistentHash(BalancerContract):
    tolerance = 0.25

    def make(self, rng: random.Random) -> IBalancer:
        return ConsistentHash(rng)


class TestLoading:
    @pytest.mark.parametrize("name", ["least_connections", "consistent_hash", "round_robin", "power_of_two"])
    def test_by_name(self, name) -> None:
        assert load_balancer(name, random.Random(1)).name == name
        assert name in BALANCERS

    def test_by_path(self) -> None:
        balancer = load_balancer("test_balance.Always", random.Random(1))
        assert balancer.choose(1, nodes(3)).name == "chat1"

    @pytest.mark.parametrize(
        ("path", "complaint"),
        [
            ("least_conections", "did you mean least_connections?"),
            ("", "there are least_connections, consistent_hash, round_robin, power_of_two"),
            ("no.such.module", "cannot import 'no.such'"),
            ("test_balance.Missing", "'test_balance' has no 'Missing'"),
            ("test_balance.CONSTANT", "not callable"),
            ("test_balance.Plain", "not an IBalancer"),
            ("test_balance.Forgetful", "choose"),
            ("test_balance.Nameless", "name"),
            ("test_balance.Numbered", "its name is not a string"),
            ("test_balance.Greedy", "takes 1 positional argument"),
        ],
    )
    def test_what_is_wrong_is_said(self, path, complaint) -> None:
        with pytest.raises(ValueError, match=re.escape(complaint)) as raised:
            load_balancer(path, random.Random(1))
        assert path in str(raised.value)
        assert "\n" not in str(raised.value)


CONSTANT = 1


@implementer(IBalancer)
class Always:
    """Somebody's own balancer."""

    name = "always"

    def __init__(self, rng) -> None:
        self.rng = rng

    def choose(self, uid, nodes):
        return nodes[0] if nodes else None


class Plain:
    def __init__(self, rng) -> None:
        pass


@implementer(IBalancer)
class Forgetful:
    name = "forgetful"

    def __init__(self, rng) -> None:
        pass


@implementer(IBalancer)
class Nameless:
    def __init__(self, rng) -> None:
        pass

    def choose(self, uid, nodes):
        return None


class Numbered(Always):
    name = 7


class Greedy(Always):
    def __init__(self) -> None:
        pass
