"""The promises of ``IState`` as tests that every implementation runs.

A test module subclasses :class:`StateContract` and gives two fixtures: ``state``, a
started ``IState`` that knows nothing yet, and ``elapse``, ``await elapse(seconds)``:
lets that much time pass on the clock by which things lapse there.  An
implementation on a real clock makes ``second`` shorter.
"""

from __future__ import annotations

from zope.interface.verify import verifyObject

from flux.interfaces import IState
from flux.model.placement import Choice, Lease, Renewal, Snapshot
from flux.model.sessions import Claim, Route


class StateContract:
    second = 1.0

    def lease(self, name: str = "a", boot: int = 1, sessions: int = 0, **changes: object) -> Lease:
        values: dict[str, object] = {
            "host": f"{name}.example",
            "port": 8090,
            "capacity": 0,
            "weight": 1,
            "ttl": 10 * self.second,
        }
        return Lease(name=name, boot=boot, sessions=sessions, **(values | changes))

    async def assign(self, state: IState, uid: int, server: str, hold: float = 60, ttl: float = 600) -> Snapshot:
        choice = Choice(uid, server, b"digest of %d" % uid)
        return await state.assign([choice], hold * self.second, ttl * self.second)

    def test_it_provides_the_interface(self, state) -> None:
        assert verifyObject(IState, state)

    # leases

    async def test_a_renewed_lease_is_in_the_snapshot(self, state, elapse) -> None:
        lease = self.lease(sessions=7, capacity=100, weight=3, websocket="wss://a.example/ws", tls=True)
        assert await state.renew(lease, []) == Renewal(lost=(), draining=False, superseded=False)
        (node,) = (await state.snapshot()).nodes
        assert (node.name, node.host, node.port) == ("a", "a.example", 8090)
        assert (node.websocket, node.tls) == ("wss://a.example/ws", True)
        assert (node.sessions, node.reserved, node.capacity, node.weight, node.state) == (7, 0, 100, 3, "up")
        await elapse(4 * self.second)
        (node,) = (await state.snapshot()).nodes
        assert 3.9 * self.second <= node.heartbeat_age < 9 * self.second

    async def test_who_cannot_serve_says_why(self, state, elapse) -> None:
        await state.renew(self.lease(why="its store does not answer"), [])
        (node,) = (await state.snapshot()).nodes
        assert (node.state, node.why) == ("unready", "its store does not answer")
        await state.drain("a", True)
        assert (await state.snapshot()).nodes[0].state == "draining"
        await state.drain("a", False)
        await state.renew(self.lease(), [])
        (node,) = (await state.snapshot()).nodes
        assert (node.state, node.why) == ("up", "")

    async def test_a_lease_lapses_unless_renewed(self, state, elapse) -> None:
        await state.renew(self.lease("a"), [])
        await state.renew(self.lease("b"), [])
        await elapse(6 * self.second)
        await state.renew(self.lease("b", sessions=2), [])
        await elapse(6 * self.second)
        (node,) = (await state.snapshot()).nodes
        assert (node.name, node.sessions) == ("b", 2)

    async def test_the_highest_boot_holds_the_name(self, state, elapse) -> None:
        await state.renew(self.lease(boot=2, sessions=5), [])
        assert (await state.renew(self.lease(boot=1, sessions=9), [(1, 1)])).superseded
        (node,) = (await state.snapshot()).nodes
        assert node.sessions == 5
        assert await state.routes([1]) == {}
        assert not (await state.renew(self.lease(boot=3, sessions=6), [])).superseded
        assert (await state.renew(self.lease(boot=2), [])).superseded

    async def test_a_lower_boot_stays_superseded_after_the_higher_lapsed(self, state, elapse) -> None:
        await state.renew(self.lease(boot=2), [])
        await elapse(11 * self.second)
        assert (await state.renew(self.lease(boot=1), [])).superseded
        assert (await state.snapshot()).nodes == ()

    async def test_nothing_was_lost_as_long_as_the_snapshot_says_so(self, state, elapse) -> None:
        since = (await state.snapshot()).since
        await state.renew(self.lease(), [])
        await state.retire("a", 1)
        await elapse(0.2)
        assert (await state.snapshot()).since == since

    async def test_a_retired_lease_is_gone_with_its_routes(self, state) -> None:
        await state.renew(self.lease(), [(1, 4)])
        await state.retire("a", 1)
        assert (await state.snapshot()).nodes == ()
        assert await state.routes([1]) == {}

    async def test_only_the_boot_that_holds_a_lease_retires_it(self, state) -> None:
        await state.renew(self.lease(boot=2), [(1, 4)])
        await state.retire("a", 1)
        await state.retire("unknown", 1)
        assert len((await state.snapshot()).nodes) == 1
        assert await state.routes([1]) == {1: Route("a", 2, 4)}

    async def test_who_had_a_route_to_a_dead_node_has_departed_and_one_node_is_told_once(self, state, elapse) -> None:
        survivors = [self.lease("b"), self.lease("c")]
        dead = range(1, 1201)
        await state.renew(self.lease("a"), [(uid, 1) for uid in dead])
        await state.renew(survivors[0], [(2001, 1)])
        await state.renew(survivors[1], [])
        for _ in range(2):
            await elapse(6 * self.second)
            told = [await state.renew(lease, []) for lease in survivors]
        # One of them is somewhere else by now.
        await state.claim(7, Route("b", 1, 2), True)
        for _ in range(10):
            told += [await state.renew(lease, []) for lease in survivors]
        departed = [uid for renewal in told for uid in renewal.departed]
        assert len(departed) == len(set(departed))
        assert set(dead) - {7} <= set(departed) <= set(dead)
        assert await state.routes([7, 2001]) == {7: Route("b", 1, 2), 2001: Route("b", 1, 1)}

    async def test_a_node_that_comes_back_says_who_it_still_has_and_judges_nobody(self, state, elapse) -> None:
        await state.renew(self.lease("a"), [(1, 1), (2, 1)])
        await state.renew(self.lease("b"), [(3, 1)])
        await elapse(11 * self.second)
        # Both were away, perhaps because the state was: the first to be back must not judge the other.
        first = await state.renew(self.lease("b"), [(3, 1)])
        assert first.departed == ()
        second = await state.renew(self.lease("b"), [(3, 1)])
        assert sorted(second.departed) == [1, 2]
        back = await state.renew(self.lease("a"), [(1, 1)])
        assert (back.restored, back.departed) == ((1,), ())
        assert set(await state.routes([1, 2, 3])) == {1, 3}

    async def test_where_everything_was_forgotten_nobody_was_taken_for_departed(self, state, elapse) -> None:
        await state.renew(self.lease("b"), [])
        assert (await state.renew(self.lease("a", boot=7), [(1, 1)])).restored == ()
        # Known from now on, so somebody may have been told.
        assert (await state.renew(self.lease("a", boot=7), [(1, 1), (2, 1)])).restored == (2,)

    async def test_nobody_departs_with_a_node_that_has_not_been_heard_of(self, state) -> None:
        """As after everything was forgotten: it lives, and its heartbeat is to come."""
        await state.renew(self.lease("a"), [])
        await state.claim(5, Route("b", 1, 1), True)
        assert [(await state.renew(self.lease("a"), [])).departed for _ in range(3)] == [()] * 3
        assert (await state.renew(self.lease("b"), [(5, 1)])).departed == ()
        assert await state.routes([5]) == {5: Route("b", 1, 1)}

    # draining

    async def test_draining_is_shown_and_told_to_the_node(self, state) -> None:
        await state.renew(self.lease(), [])
        await state.drain("a", True)
        snapshot = await state.snapshot()
        assert snapshot.draining == {"a"}
        assert snapshot.nodes[0].state == "draining"
        assert (await state.renew(self.lease(), [])).draining
        assert (await state.renew(self.lease(boot=0), [])) == Renewal(lost=(), draining=True, superseded=True)
        await state.drain("a", False)
        assert (await state.snapshot()).nodes[0].state == "up"
        assert not (await state.renew(self.lease(), [])).draining

    async def test_a_server_without_a_lease_can_drain(self, state) -> None:
        await state.drain("static", True)
        await state.drain("static", True)
        assert (await state.snapshot()).draining == {"static"}
        await state.drain("static", False)
        await state.drain("static", False)
        assert (await state.snapshot()).draining == frozenset()

    # routes

    async def test_a_claim_makes_the_route(self, state) -> None:
        await state.renew(self.lease(), [])
        route = Route("a", 1, 1)
        assert await state.claim(5, route, True) == Claim(won=True, previous=None)
        assert await state.routes([4, 5, 6]) == {5: route}

    async def test_the_higher_number_wins_in_either_order(self, state) -> None:
        await state.renew(self.lease("a"), [])
        await state.renew(self.lease("b"), [])
        low, high = Route("a", 1, 1), Route("b", 1, 2)
        await state.claim(5, low, True)
        assert await state.claim(5, high, True) == Claim(won=True, previous=low)
        assert await state.claim(5, low, True) == Claim(won=False, previous=high)
        assert await state.routes([5]) == {5: high}

    async def test_a_claim_repeated_is_still_won(self, state) -> None:
        await state.renew(self.lease(), [])
        route = Route("a", 1, 1)
        for takeover in (True, True, False):
            assert await state.claim(5, route, takeover) == Claim(won=True, previous=None)

    async def test_without_takeover_a_live_route_stays(self, state) -> None:
        await state.renew(self.lease("a"), [])
        await state.renew(self.lease("b"), [])
        first = Route("a", 1, 1)
        assert (await state.claim(5, first, False)).won
        assert await state.claim(5, Route("b", 1, 2), False) == Claim(won=False, previous=first)
        assert await state.routes([5]) == {5: first}

    async def test_a_route_without_a_live_lease_is_none(self, state, elapse) -> None:
        await state.renew(self.lease("a"), [])
        await state.renew(self.lease("b"), [])
        await state.claim(5, Route("a", 1, 8), True)
        await elapse(6 * self.second)
        await state.renew(self.lease("b"), [])
        await elapse(6 * self.second)
        assert await state.routes([5]) == {}
        route = Route("b", 1, 7)
        assert await state.claim(5, route, False) == Claim(won=True, previous=None)
        assert await state.routes([5]) == {5: route}

    async def test_a_route_of_an_earlier_boot_is_none(self, state) -> None:
        await state.renew(self.lease(boot=1), [])
        await state.claim(5, Route("a", 1, 1), True)
        await state.renew(self.lease(boot=2), [])
        assert await state.routes([5]) == {}
        assert await state.claim(5, Route("a", 2, 2), False) == Claim(won=True, previous=None)

    async def test_only_its_owner_releases_a_route(self, state) -> None:
        await state.renew(self.lease("a"), [])
        await state.renew(self.lease("b"), [])
        route = Route("a", 1, 2)
        await state.claim(5, route, True)
        for other in (Route("a", 1, 1), Route("b", 1, 2), Route("a", 2, 2)):
            await state.release(5, other)
        assert await state.routes([5]) == {5: route}
        await state.release(5, route)
        await state.release(5, route)
        assert await state.routes([5]) == {}

    async def test_a_heartbeat_restores_routes_and_reports_lost_ones(self, state) -> None:
        await state.renew(self.lease("a"), [])
        await state.renew(self.lease("b"), [])
        newer, older, same = Route("b", 1, 9), Route("b", 1, 3), Route("a", 1, 5)
        await state.claim(1, newer, True)
        await state.claim(2, older, True)
        await state.claim(3, same, True)
        renewal = await state.renew(self.lease("a"), [(1, 5), (2, 5), (3, 5), (4, 5)])
        assert renewal.lost == (1,)
        assert await state.routes([1, 2, 3, 4]) == {1: newer, 2: Route("a", 1, 5), 3: same, 4: Route("a", 1, 5)}

    async def test_a_heartbeat_loses_nothing_to_dead_routes(self, state, elapse) -> None:
        await state.renew(self.lease("a"), [])
        await state.claim(1, Route("a", 1, 9), True)
        await elapse(11 * self.second)
        assert (await state.renew(self.lease("b"), [(1, 5)])).lost == ()
        assert await state.routes([1]) == {1: Route("b", 1, 5)}

    async def test_after_a_lapse_a_heartbeat_brings_the_routes_back(self, state, elapse) -> None:
        await state.renew(self.lease("a"), [(1, 5)])
        await elapse(11 * self.second)
        assert await state.routes([1]) == {}
        assert (await state.renew(self.lease("a"), [(1, 5)])).lost == ()
        assert await state.routes([1]) == {1: Route("a", 1, 5)}

    # reservations

    async def test_an_assignment_counts_at_once(self, state) -> None:
        await state.renew(self.lease("a", sessions=3), [])
        snapshot = await state.assign(
            [Choice(1, "a", b"1"), Choice(2, "a", b"2"), Choice(3, "static", b"3")], 60 * self.second, 60 * self.second
        )
        assert snapshot.reserved == {"a": 2, "static": 1}
        assert (snapshot.nodes[0].sessions, snapshot.nodes[0].reserved, snapshot.nodes[0].load) == (3, 2, 5)
        later = await state.snapshot()
        assert later.reserved == snapshot.reserved

    async def test_one_reservation_per_account(self, state) -> None:
        await self.assign(state, 1, "a")
        assert (await self.assign(state, 1, "a")).reserved == {"a": 1}
        assert (await self.assign(state, 1, "b")).reserved == {"b": 1}

    async def test_the_server_of_a_reservation_is_known_while_it_lives(self, state, elapse) -> None:
        await self.assign(state, 1, "a", hold=5)
        await self.assign(state, 2, "b")
        await self.assign(state, 2, "a")
        assert await state.reserved([1, 2, 3]) == {1: "a", 2: "a"}
        assert await state.reserved([]) == {}
        await elapse(6 * self.second)
        assert await state.reserved([1, 2, 3]) == {2: "a"}

    async def test_a_reservation_that_a_heartbeat_covers_is_none(self, state) -> None:
        await state.renew(self.lease(), [])
        await self.assign(state, 1, "a")
        await state.claim(1, Route("a", 1, 1), True)
        assert await state.reserved([1]) == {1: "a"}
        await state.renew(self.lease(sessions=1), [(1, 1)])
        assert await state.reserved([1]) == {}

    async def test_a_reservation_lapses(self, state, elapse) -> None:
        await self.assign(state, 1, "a", hold=20)
        await self.assign(state, 2, "a", hold=5)
        await elapse(6 * self.second)
        assert (await state.snapshot()).reserved == {"a": 1}
        await elapse(15 * self.second)
        assert (await state.snapshot()).reserved == {}

    async def test_assigning_again_starts_the_hold_again(self, state, elapse) -> None:
        await self.assign(state, 1, "a", hold=10)
        await elapse(6 * self.second)
        await self.assign(state, 1, "a", hold=10)
        await elapse(6 * self.second)
        assert (await state.snapshot()).reserved == {"a": 1}

    async def test_a_login_is_counted_once_between_two_heartbeats(self, state) -> None:
        await state.renew(self.lease("a", sessions=0), [])
        await self.assign(state, 1, "a")
        await self.assign(state, 2, "a")
        await state.claim(1, Route("a", 1, 1), True)
        (node,) = (await state.snapshot()).nodes
        assert (node.sessions, node.reserved) == (0, 2)
        await state.renew(self.lease("a", sessions=1), [(1, 1)])
        (node,) = (await state.snapshot()).nodes
        assert (node.sessions, node.reserved) == (1, 1)

    async def test_a_login_elsewhere_marks_the_reservation_too(self, state) -> None:
        await state.renew(self.lease("a"), [])
        await state.renew(self.lease("b"), [])
        await self.assign(state, 1, "a")
        await state.claim(1, Route("b", 1, 1), True)
        await state.renew(self.lease("b", sessions=1), [(1, 1)])
        assert (await state.snapshot()).reserved == {"a": 1}
        await state.renew(self.lease("a"), [])
        assert (await state.snapshot()).reserved == {}

    async def test_a_lost_claim_marks_nothing(self, state) -> None:
        await state.renew(self.lease("a"), [])
        await state.claim(1, Route("a", 1, 2), True)
        await self.assign(state, 1, "a")
        await state.claim(1, Route("a", 1, 1), True)
        await state.renew(self.lease("a", sessions=1), [(1, 2)])
        assert (await state.snapshot()).reserved == {"a": 1}

    async def test_an_assignment_after_the_login_is_not_marked(self, state) -> None:
        await state.renew(self.lease("a"), [])
        await self.assign(state, 1, "a")
        await state.claim(1, Route("a", 1, 1), True)
        await self.assign(state, 1, "a")
        await state.renew(self.lease("a", sessions=1), [(1, 1)])
        assert (await state.snapshot()).reserved == {"a": 1}

    async def test_a_superseded_heartbeat_settles_nothing(self, state) -> None:
        await state.renew(self.lease(boot=2), [])
        await self.assign(state, 1, "a")
        await state.claim(1, Route("a", 2, 1), True)
        await state.renew(self.lease(boot=1), [])
        assert (await state.snapshot()).reserved == {"a": 1}

    # tokens

    async def test_a_token_digest_lives_its_time(self, state, elapse) -> None:
        assert await state.token_digest(1) is None
        await self.assign(state, 1, "a", ttl=10)
        assert await state.token_digest(1) == b"digest of 1"
        assert await state.token_digest(2) is None
        await elapse(11 * self.second)
        assert await state.token_digest(1) is None

    async def test_a_newer_token_replaces_the_older(self, state, elapse) -> None:
        await state.assign([Choice(1, "a", b"old")], 5 * self.second, 20 * self.second)
        await state.assign([Choice(1, "a", b"new")], 5 * self.second, 8 * self.second)
        assert await state.token_digest(1) == b"new"
        await elapse(9 * self.second)
        assert await state.token_digest(1) is None

    async def test_any_bytes_survive(self, state) -> None:
        digest = bytes(range(256))
        await state.assign([Choice(1, "ä b:c", digest)], 60 * self.second, 60 * self.second)
        assert await state.token_digest(1) == digest
        assert (await state.snapshot()).reserved == {"ä b:c": 1}

    async def test_a_revoked_token_is_gone(self, state) -> None:
        await self.assign(state, 1, "a")
        await self.assign(state, 2, "a")
        await state.revoke(1)
        await state.revoke(1)
        assert await state.token_digest(1) is None
        assert await state.token_digest(2) == b"digest of 2"

    # failures

    async def test_failures_are_counted_per_key(self, state) -> None:
        await state.fail(["x", "y"], 60 * self.second)
        await state.fail(["x"], 60 * self.second)
        counted = await state.failures(["x", "y", "z"])
        assert [count for count, _ in counted] == [2, 1, 0]
        assert 50 * self.second < counted[0][1] <= 60 * self.second
        assert counted[2][1] == 0

    async def test_a_counter_lives_from_its_first_failure(self, state, elapse) -> None:
        await state.fail(["x"], 10 * self.second)
        await elapse(6 * self.second)
        await state.fail(["x"], 10 * self.second)
        ((count, left),) = await state.failures(["x"])
        assert count == 2
        assert 0 < left <= 4.1 * self.second
        await elapse(6 * self.second)
        assert [count for count, _ in await state.failures(["x"])] == [0]
        await state.fail(["x"], 10 * self.second)
        assert [count for count, _ in await state.failures(["x"])] == [1]

    # bans of network addresses

    async def test_offences_are_counted_until_they_are_too_many(self, state) -> None:
        window, ban = 60 * self.second, 30 * self.second
        assert await state.offend({"10.0.0.1": 3, "10.0.0.2": 1}, 5, window, ban) == ()
        assert await state.offend({"10.0.0.1": 1}, 5, window, ban) == ()
        assert await state.banned() == {}
        assert await state.offend({"10.0.0.2": 1, "10.0.0.1": 1}, 5, window, ban) == ("10.0.0.1",)
        banned = await state.banned()
        assert set(banned) == {"10.0.0.1"}
        assert 25 * self.second < banned["10.0.0.1"] <= ban
        assert await state.offend({"10.0.0.2": 99, "2001:db8::/64": 5}, 5, window, ban) == ("10.0.0.2", "2001:db8::/64")
        assert set(await state.banned()) == {"10.0.0.1", "10.0.0.2", "2001:db8::/64"}

    async def test_offences_are_no_failures_of_that_name(self, state) -> None:
        await state.fail(["10.0.0.1"], 60 * self.second)
        assert await state.offend({"10.0.0.1": 1}, 2, 60 * self.second, 60 * self.second) == ()
        assert [count for count, _ in await state.failures(["10.0.0.1"])] == [1]

    async def test_offences_are_forgotten_after_their_window(self, state, elapse) -> None:
        window, ban = 10 * self.second, 60 * self.second
        await state.offend({"10.0.0.1": 4}, 5, window, ban)
        await elapse(6 * self.second)
        assert await state.offend({"10.0.0.1": 0}, 5, window, ban) == ()
        await elapse(6 * self.second)
        assert await state.offend({"10.0.0.1": 4}, 5, window, ban) == ()

    async def test_a_ban_lapses_and_does_not_grow_meanwhile(self, state, elapse) -> None:
        window, ban = 60 * self.second, 10 * self.second
        assert await state.offend({"10.0.0.1": 5}, 5, window, ban) == ("10.0.0.1",)
        await elapse(6 * self.second)
        assert await state.offend({"10.0.0.1": 50}, 5, window, ban) == ()
        assert (await state.banned())["10.0.0.1"] <= 4.1 * self.second
        await elapse(6 * self.second)
        assert await state.banned() == {}
        # It begins anew.
        assert await state.offend({"10.0.0.1": 4}, 5, window, ban) == ()
        assert await state.offend({"10.0.0.1": 1}, 5, window, ban) == ("10.0.0.1",)

    async def test_who_is_pardoned_begins_anew(self, state) -> None:
        window = ban = 60 * self.second
        await state.offend({"10.0.0.1": 5, "10.0.0.2": 4}, 5, window, ban)
        assert await state.pardon("10.0.0.1") is True
        assert await state.pardon("10.0.0.1") is False
        assert await state.pardon("10.0.0.2") is False
        assert await state.banned() == {}
        assert await state.offend({"10.0.0.1": 4, "10.0.0.2": 4}, 5, window, ban) == ()

    # verification codes

    async def test_the_right_code_is_accepted_once(self, state) -> None:
        await state.set_code("a@example", b"1", 60 * self.second)
        assert await state.try_code("b@example", b"1", 3) == "unknown"
        assert await state.try_code("a@example", b"1", 3) == "accepted"
        assert await state.try_code("a@example", b"1", 3) == "unknown"

    async def test_wrong_attempts_use_a_code_up(self, state) -> None:
        await state.set_code("k", b"1", 60 * self.second)
        assert [await state.try_code("k", guess, 3) for guess in (b"2", b"", b"3")] == ["wrong"] * 3
        assert await state.try_code("k", b"1", 3) == "unknown"

    async def test_the_last_attempt_may_be_the_right_one(self, state) -> None:
        await state.set_code("k", b"1", 60 * self.second)
        assert [await state.try_code("k", b"2", 3) for _ in range(2)] == ["wrong"] * 2
        assert await state.try_code("k", b"1", 3) == "accepted"

    async def test_a_new_code_replaces_the_old_and_its_failed_attempts(self, state) -> None:
        await state.set_code("k", b"1", 60 * self.second)
        assert await state.try_code("k", b"0", 2) == "wrong"
        await state.set_code("k", b"2", 60 * self.second)
        assert await state.try_code("k", b"1", 2) == "wrong"
        assert await state.try_code("k", b"2", 2) == "accepted"

    async def test_a_code_lives_its_time_whatever_is_tried(self, state, elapse) -> None:
        await state.set_code("k", b"1", 10 * self.second)
        await elapse(6 * self.second)
        assert await state.try_code("k", b"2", 9) == "wrong"
        await elapse(6 * self.second)
        assert await state.try_code("k", b"1", 9) == "unknown"

    async def test_any_bytes_are_a_code(self, state) -> None:
        digest = bytes(range(256))
        await state.set_code("ä b:c", digest, 60 * self.second)
        assert await state.try_code("ä b:c", digest, 3) == "accepted"
