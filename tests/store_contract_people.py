"""The promises of ``IStore`` about accounts, sessions, friends and blocks. See ``store_contract.py``."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Iterable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults

from flux.errors import BadRequest, Forbidden, NotFound, UserExists, UserInvalid
from flux.interfaces import IStore
from flux.model.chats import Cursor, Group
from flux.model.messages import Draft
from flux.model.overview import Overview
from flux.model.people import Ban, Credentials, Friend, FriendRequest, Profile
from flux.names import fold


async def account(store: IStore, name: str) -> int:
    return await store.create_account(name, fold(name), f"hash of {name}", name.title(), "")


async def people(store: IStore, *names: str) -> list[int]:
    return [await account(store, name) for name in names]


async def befriend(store: IStore, one: int, other: int) -> None:
    assert await store.friend_add(one, other, "", "", False) == "pending"
    assert await store.friend_answer(other, one, True, "") == "accepted"


async def together(calls: Iterable[Awaitable[Any]]) -> list[Any]:
    """Wait for several calls that were made at once; their results in order."""
    return await gatherResults([Deferred.fromCoroutine(_wait(call)) for call in calls])


async def _wait(call: Awaitable[Any]) -> Any:
    return await call


class AccountsContract:
    async def test_boots_ascend_per_node_from_1(self, store) -> None:
        assert [await store.next_boot("a"), await store.next_boot("a"), await store.next_boot("b")] == [1, 2, 1]
        assert sorted(await together([store.next_boot("a") for _ in range(20)])) == list(range(3, 23))

    async def test_account_ids_ascend_from_1(self, store) -> None:
        assert await people(store, "ann", "bob", "cat") == [1, 2, 3]

    async def test_a_name_is_taken_once_after_folding(self, store) -> None:
        await account(store, "Zoë")
        for name in ("ZOË", "Ｚoë", "zoë"):
            with pytest.raises(UserExists):
                await account(store, name)
        assert await account(store, "zoe") == 2

    async def test_of_simultaneous_registrations_one_succeeds(self, store) -> None:
        attempts = [store.create_account("ann", "ann", f"h{n}", "", "") for n in range(20)]
        ids, refused = [], 0
        for number, attempt in enumerate(attempts):
            try:
                ids.append((number, await attempt))
            except UserExists:
                refused += 1
        [(winner, uid)] = ids
        assert refused == 19
        assert await store.credentials(uid, "") == Credentials(uid, "ann", f"h{winner}")

    async def test_one_address_may_belong_to_several(self, store) -> None:
        assert await store.create_account("ann", "ann", "h", "", "post@example.org") == 1
        assert await store.create_account("bob", "bob", "h", "", "post@example.org") == 2

    async def test_a_verified_address_leads_to_its_account_and_another_does_not(self, store) -> None:
        await store.create_account("ann", "ann", "h1", "", "Ann@Example.org", "icon", "ann@example.org")
        await store.create_account("bob", "bob", "h2", "", "bob@example.org")
        ann = Credentials(1, "ann", "h1", "Ann@Example.org", icon="icon")
        assert await store.credentials(0, "", "ann@example.org") == ann
        assert await store.credentials(1, "") == ann
        assert await store.credentials(0, "ann", "bob@example.org") == ann
        assert (await store.profile(1)).icon == "icon"
        await store.set_profile(1, "Annie", "climbs", "f", "other")
        ann = Credentials(1, "ann", "h1", "Ann@Example.org", "Annie", "climbs", "f", "other")
        assert await store.credentials(0, "ann") == ann
        # Given, but not proved; written differently; none at all.
        for address in ("bob@example.org", "Ann@Example.org", ""):
            assert await store.credentials(0, "", address) is None
        assert await store.credentials(2, "") == Credentials(2, "bob", "h2")

    async def test_a_verified_address_belongs_to_one_account(self, store) -> None:
        await store.create_account("ann", "ann", "h", "", "post@example.org")
        await store.create_account("bob", "bob", "h", "", "post@example.org", "", "post@example.org")
        with pytest.raises(UserExists, match="address"):
            await store.create_account("cat", "cat", "h", "", "post@example.org", "", "post@example.org")
        with pytest.raises(UserExists, match="name"):
            await store.create_account("Bob", "bob", "h", "", "post@example.org", "", "post@example.org")
        with pytest.raises(UserExists, match="address"):
            await store.set_email(1, "post@example.org", "post@example.org")
        # Who failed has left nothing behind.
        assert await store.credentials(0, "cat") is None
        assert (await store.credentials(1, "")).email == ""
        assert await store.create_account("cat", "cat", "h", "", "post@example.org") == 3

    async def test_of_simultaneous_claims_of_an_address_one_succeeds(self, store) -> None:
        for name in ("ann", "bob"):
            await store.create_account(name, name, "h", "", "")
        attempts: list[Awaitable[Any]] = [store.set_email(uid, "p@x.org", "p@x.org") for uid in (1, 2)]
        attempts += [store.create_account(f"n{n}", f"n{n}", "h", "", "p@x.org", "", "p@x.org") for n in range(10)]
        refused = 0
        for attempt in attempts:
            try:
                await attempt
            except UserExists:
                refused += 1
        assert refused == 11
        assert await store.credentials(0, "", "p@x.org") is not None

    async def test_an_address_is_replaced(self, store) -> None:
        await store.create_account("ann", "ann", "h", "", "old@x.org", "", "old@x.org")
        await store.create_account("bob", "bob", "h", "", "bob@x.org")
        await store.set_email(1, "New@x.org", "new@x.org")
        await store.set_email(1, "NEW@x.org", "new@x.org")
        assert await store.credentials(0, "", "new@x.org") == Credentials(1, "ann", "h", "NEW@x.org")
        assert await store.credentials(0, "", "old@x.org") is None
        await store.set_email(2, "old@x.org", "old@x.org")
        assert (await store.credentials(0, "", "old@x.org")).id == 2
        with pytest.raises(UserInvalid):
            await store.set_email(3, "new@x.org", "new@x.org")  # nobody, whoever has the address

    async def test_credentials_by_id_or_by_folded_name(self, store) -> None:
        await store.create_account("Ann", "ann", "secret", "", "")
        assert await store.credentials(1, "") == Credentials(1, "Ann", "secret")
        assert await store.credentials(0, "ann") == Credentials(1, "Ann", "secret")
        assert await store.credentials(1, "bob") == Credentials(1, "Ann", "secret")
        assert await store.credentials(2, "ann") is None
        assert await store.credentials(0, "Ann") is None

    async def test_a_password_is_replaced_if_it_is_the_one_that_is_meant(self, store) -> None:
        await people(store, "ann", "bob")
        assert await store.set_password(1, "new") is True
        assert await store.set_password(99, "new") is False
        assert await store.set_password(1, "newer", "hash of ann") is False
        assert (await store.credentials(1, "")).password_hash == "new"
        assert await store.set_password(1, "newer", "new") is True
        assert (await store.credentials(1, "")).password_hash == (await store.overview(1)).password_hash == "newer"
        assert (await store.credentials(2, "")).password_hash == "hash of bob"

    async def test_profiles_change_field_by_field(self, store) -> None:
        await store.create_account("ann", "ann", "h", "Ann", "ann@example.org")
        assert await store.profile(1) == Profile(1, "ann", "Ann", "", "", "")
        assert await store.set_profile(1, None, "climbs", None, "🧗") == Profile(1, "ann", "Ann", "climbs", "", "🧗")
        assert await store.set_profile(1, "", None, "f", None) == Profile(1, "ann", "", "climbs", "f", "🧗")
        assert await store.profile(1) == Profile(1, "ann", "", "climbs", "f", "🧗")

    async def test_an_unknown_account_has_no_profile(self, store) -> None:
        for attempt in (store.profile(1), store.set_profile(1, "x", None, None, None), store.overview(1)):
            with pytest.raises(UserInvalid):
                await attempt

    async def test_search_is_by_prefix_of_the_folded_name_or_by_id_and_sorted_by_name(self, store) -> None:
        await people(store, "Anna", "bert", "ANDREW", "an_ton", "an%x", "3 men", "Ａnne")

        async def found(query: str, limit: int = 50) -> list[str]:
            return [profile.name for profile in await store.search(query, limit)]

        assert await found("an") == ["an%x", "an_ton", "ANDREW", "Anna", "Ａnne"]
        assert await found("ＡNN") == ["Anna", "Ａnne"]
        assert await found("an_") == ["an_ton"]
        assert await found("an%") == ["an%x"]
        assert await found("an", limit=2) == ["an%x", "an_ton"]
        assert await found("3") == ["3 men", "ANDREW"]
        assert await found("7") == ["Ａnne"]
        assert await found("٣") == []
        assert await found("9" * 30) == []
        assert await found("anna ") == []
        assert await found("'; DROP TABLE accounts; --") == []
        assert len(await found("", limit=4)) == 4

    async def test_session_numbers_ascend_per_account(self, store) -> None:
        await people(store, "ann", "bob")
        assert [await store.open_session(1), await store.open_session(1), await store.open_session(2)] == [1, 2, 1]
        assert sorted(await together([store.open_session(1) for _ in range(50)])) == list(range(3, 53))
        with pytest.raises(UserInvalid):
            await store.open_session(3)

    async def test_a_session_number_that_came_to_nothing_is_given_back(self, store) -> None:
        await people(store, "ann", "bob")
        numbers = [await store.open_session(1) for _ in range(3)]
        await store.return_session(1, numbers[1])
        await store.return_session(2, 1)
        assert (await store.overview(1)).session == 3
        await store.return_session(1, 3)
        assert (await store.overview(1)).session == 2
        assert await store.open_session(1) == 3
        assert await store.open_session(2) == 1

    async def test_an_overview_is_all_that_a_login_shows(self, store) -> None:
        ann, bob, cat, dan = await people(store, "ann", "bob", "cat", "dan")
        await store.block(ann, dan)
        await store.block(cat, bob)
        await store.block(ann, bob)
        await store.unblock(ann, bob)
        await befriend(store, ann, bob)
        await store.friend_add(cat, ann, "it is me", "", False)
        group = await store.group_create(ann, "climbers", "up", False, False)
        await store.append([Draft(bob, ann, 0, "hello"), Draft(ann, bob, 0, "hi"), Draft(bob, ann, 0, "still there?")])
        assert await store.open_session(ann) == 1
        seen = await store.overview(ann)
        [request] = seen.requests
        pair = next(cursor.chat for cursor in seen.cursors if cursor.peer)
        assert seen == Overview(
            profile=Profile(ann, "ann", "Ann"),
            friends=(Friend(bob, "bob", "Bob", "", True),),
            requests=(FriendRequest(cat, "cat", "it is me", request.at),),
            groups=(Group(group.chat, group.chat, "climbers", "up", "owner"),),
            cursors=tuple(
                sorted([Cursor(group.chat, 0, 0, 0, 0, 0), Cursor(pair, bob, 0, 0, 3, 2)], key=lambda c: c.chat)
            ),
            session=1,
            password_hash="hash of ann",
            blocked=(dan,),
        )
        await store.block(ann, bob)
        assert (await store.overview(ann)).blocked == (bob, dan)
        bare = await store.overview(cat)
        assert (bare.friends, bare.requests, bare.groups, bare.cursors, bare.session) == ((), (), (), (), 0)

    async def test_an_overview_knows_what_was_committed_before_it(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        for head in range(1, 30):
            await store.append([Draft(ann, bob, 0, "x")])
            overview, [cursor] = await store.overview(bob), (await store.overview(ann)).cursors
            assert (overview.cursors[0].head, cursor.head) == (head, head)


class BansContract:
    async def test_a_ban_is_where_a_login_looks_and_in_the_list(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        ban = Ban(ann, "", "spam \U0001f4a9", 1000, 5000, "ann")
        await store.ban(ban)
        assert (await store.credentials(ann, "")).ban == (await store.overview(ann)).ban == ban
        assert (await store.credentials(0, "ann")).ban == ban
        assert (await store.credentials(bob, "")).ban is None
        assert (await store.overview(bob)).ban is None
        assert await store.bans(10) == (ban,)
        assert await store.network_bans() == ()

    async def test_networks_are_told_from_accounts(self, store) -> None:
        await people(store, "ann")
        four, six = Ban(0, "10.0.0.0/8", "", 1, 0), Ban(0, "2001:db8::/32", "", 2, 0)
        account = Ban(1, "", "", 3, 0, "ann")
        for ban in (six, account, four):
            await store.ban(ban)
        assert set(await store.network_bans()) == {four, six}
        assert await store.bans(10) == (account, six, four)
        assert await store.bans(2) == (account, six)

    async def test_a_ban_replaces_an_earlier_one_of_the_same(self, store) -> None:
        await people(store, "ann")
        for ban in (Ban(1, "", "a", 1, 0, "ann"), Ban(1, "", "b", 2, 9, "ann"), Ban(0, "10.0.0.1/32", "c", 3, 0)):
            await store.ban(ban)
        await store.ban(again := Ban(0, "10.0.0.1/32", "d", 4, 0))
        assert await store.bans(10) == (again, Ban(1, "", "b", 2, 9, "ann"))

    async def test_what_is_over_goes_with_the_next_one_and_not_before(self, store) -> None:
        await people(store, "ann", "bob")
        await store.ban(Ban(1, "", "", 10, 20, "ann"))
        await store.ban(Ban(0, "10.0.0.1/32", "", 11, 20))
        await store.ban(ever := Ban(0, "10.0.0.2/32", "", 12, 0))
        assert len(await store.bans(10)) == 3
        # Its own earlier one, which is over, is no obstacle.
        await store.ban(anew := Ban(1, "", "again", 20, 30, "ann"))
        assert await store.bans(10) == (anew, ever)

    async def test_a_ban_is_lifted_once(self, store) -> None:
        await people(store, "ann", "bob")
        await store.ban(Ban(1, "", "", 1, 0, "ann"))
        await store.ban(Ban(0, "10.0.0.0/8", "", 1, 0))
        for uid, network, there in ((2, "", False), (0, "10.0.0.1/32", False), (1, "", True), (0, "10.0.0.0/8", True)):
            assert await store.unban(uid, network) is there
            assert await store.unban(uid, network) is False
        assert await store.bans(10) == ()
        assert (await store.credentials(1, "")).ban is None

    async def test_nobody_cannot_be_banned(self, store) -> None:
        with pytest.raises(UserInvalid):
            await store.ban(Ban(7, "", "", 1, 0))
        assert await store.bans(10) == ()


class FriendsContract:
    async def test_a_request_and_its_answer(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        assert await store.friend_add(ann, bob, "please", "Bobby", False) == "pending"
        [request] = await store.friend_requests(bob)
        assert request == FriendRequest(ann, "ann", "please", request.at)
        assert (await store.friend_requests(ann), await store.friends(ann), await store.friends(bob)) == ((), (), ())
        assert await store.friend_answer(bob, ann, True, "Annie") == "accepted"
        assert await store.friends(ann) == (Friend(bob, "bob", "Bob", "Bobby", True),)
        assert await store.friends(bob) == (Friend(ann, "ann", "Ann", "Annie", True),)
        assert await store.friend_requests(bob) == ()

    async def test_a_refusal_leaves_nothing_and_may_be_asked_again(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        await store.friend_add(ann, bob, "", "", False)
        assert await store.friend_answer(bob, ann, False, "") == "rejected"
        assert (await store.friends(ann), await store.friends(bob), await store.friend_requests(bob)) == ((), (), ())
        assert await store.friend_add(ann, bob, "", "", False) == "pending"

    async def test_asking_again_refreshes_note_and_remark(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        await store.friend_add(ann, bob, "first", "one", False)
        assert await store.friend_add(ann, bob, "second", "two", False) == "pending"
        [request] = await store.friend_requests(bob)
        assert request.note == "second"
        await store.friend_answer(bob, ann, True, "")
        assert (await store.friends(ann))[0].remark == "two"

    async def test_asking_who_has_asked_accepts(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        await store.friend_add(ann, bob, "", "Bobby", False)
        assert await store.friend_add(bob, ann, "", "Annie", False) == "accepted"
        assert (await store.friends(ann))[0] == Friend(bob, "bob", "Bob", "Bobby", True)
        assert (await store.friends(bob))[0] == Friend(ann, "ann", "Ann", "Annie", True)
        assert (await store.friend_requests(ann), await store.friend_requests(bob)) == ((), ())
        assert await store.friend_add(ann, bob, "", "", False) == "accepted"
        assert await store.friend_requests(bob) == ()

    async def test_both_ask_at_once(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        answers = await together([store.friend_add(ann, bob, "", "", False), store.friend_add(bob, ann, "", "", False)])
        assert sorted(answers) == ["accepted", "pending"]
        assert len(await store.friends(ann)) == len(await store.friends(bob)) == 1

    async def test_a_one_sided_entry_becomes_mutual_when_accepted(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        assert await store.friend_add(ann, bob, "", "Bobby", True) == "pending"
        assert await store.friends(ann) == (Friend(bob, "bob", "Bob", "Bobby", False),)
        assert await store.friends(bob) == ()
        assert len(await store.friend_requests(bob)) == 1
        assert await store.friend_answer(bob, ann, True, "") == "accepted"
        assert await store.friends(ann) == (Friend(bob, "bob", "Bob", "Bobby", True),)
        assert (await store.friends(bob))[0].mutual

    async def test_a_one_sided_entry_outlives_a_refusal(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        await store.friend_add(ann, bob, "", "", True)
        await store.friend_answer(bob, ann, False, "")
        assert [friend.mutual for friend in await store.friends(ann)] == [False]

    async def test_an_answer_needs_a_request(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        await store.friend_add(ann, bob, "", "", False)
        for uid, sender in ((ann, bob), (bob, bob), (bob, 99)):
            with pytest.raises(NotFound):
                await store.friend_answer(uid, sender, True, "")

    async def test_nobody_befriends_oneself_or_nobody(self, store) -> None:
        [ann] = await people(store, "ann")
        with pytest.raises(BadRequest, match="to: this is yourself"):
            await store.friend_add(ann, ann, "", "", False)
        with pytest.raises(UserInvalid):
            await store.friend_add(ann, 99, "", "", False)

    async def test_removing_ends_it_on_both_sides_requests_included(self, store) -> None:
        ann, bob, cat = await people(store, "ann", "bob", "cat")
        await befriend(store, ann, bob)
        await store.friend_add(cat, ann, "", "", True)
        await store.friend_remove(bob, ann)
        await store.friend_remove(ann, cat)
        await store.friend_add(bob, cat, "", "", True)
        await store.friend_remove(bob, cat)
        await store.friend_remove(ann, 99)
        for uid in (ann, bob, cat):
            assert (await store.friends(uid), await store.friend_requests(uid)) == ((), ())

    async def test_friends_are_listed_by_folded_name_and_requests_by_age(self, store) -> None:
        ann, *others = await people(store, "ann", "cat", "Bob", "ART")
        for other in others:
            await befriend(store, other, ann)
        assert [friend.name for friend in await store.friends(ann)] == ["ART", "Bob", "cat"]
        for other in (others[2], others[0], others[1]):
            await store.friend_remove(ann, other)
            await store.friend_add(other, ann, "", "", False)
        requests = await store.friend_requests(ann)
        assert sorted(requests, key=lambda request: (request.at, request.sender)) == list(requests)
        assert len(requests) == 3

    async def test_who_is_blocked_cannot_ask(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        await store.block(ann, bob)
        await store.block(ann, bob)
        with pytest.raises(Forbidden):
            await store.friend_add(bob, ann, "", "", True)
        assert (await store.friends(bob), await store.friend_requests(ann)) == ((), ())
        assert await store.friend_add(ann, bob, "", "", False) == "pending"
        await store.unblock(ann, bob)
        await store.unblock(ann, 99)
        assert await store.friend_add(bob, ann, "", "", False) == "accepted"

    async def test_blocking_ends_a_friendship_and_requests_of_both(self, store) -> None:
        ann, bob, cat, dan = await people(store, "ann", "bob", "cat", "dan")
        for other in (bob, dan):
            await befriend(store, ann, other)
        await store.friend_add(cat, ann, "", "", True)
        await store.friend_add(bob, cat, "", "", False)
        await store.block(ann, bob)
        await store.block(ann, cat)
        await store.block(bob, cat)
        for uid in (bob, cat):
            assert (await store.friends(uid), await store.friend_requests(uid)) == ((), ())
        for sender in (bob, cat):
            with pytest.raises(NotFound):
                await store.friend_answer(ann, sender, True, "")
        # Others stay, and what was ended stays so.
        await store.unblock(ann, bob)
        assert [friend.id for friend in await store.friends(ann)] == [dan]
        await befriend(store, bob, ann)

    async def test_who_has_blocked_the_other_is_not_accepted(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        await store.block(ann, bob)
        await store.friend_add(ann, bob, "", "Bobby", False)
        with pytest.raises(Forbidden):
            await store.friend_answer(bob, ann, True, "")
        assert (await store.friends(ann), await store.friends(bob)) == ((), ())
        # The request stays, to be refused, or accepted later.
        assert len(await store.friend_requests(bob)) == 1
        assert await store.friend_answer(bob, ann, False, "") == "rejected"
        await store.friend_add(ann, bob, "", "Bobby", False)
        await store.unblock(ann, bob)
        assert await store.friend_answer(bob, ann, True, "") == "accepted"

    async def test_a_block_and_an_answer_at_once_leave_no_friends(self, store) -> None:
        ann, *others = await people(store, *(f"user{n}" for n in range(6)))
        for other in others:
            await store.friend_add(ann, other, "", "", False)

        async def accept(other: int) -> None:
            with contextlib.suppress(NotFound):
                await store.friend_answer(other, ann, True, "")

        await together([call for other in others for call in (store.block(ann, other), accept(other))])
        assert (await store.friends(ann), [await store.friends(other) for other in others]) == ((), [()] * 5)

    async def test_only_accounts_can_be_blocked(self, store) -> None:
        [ann] = await people(store, "ann")
        with pytest.raises(UserInvalid):
            await store.block(ann, 99)
