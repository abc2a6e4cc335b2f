"""The promises of ``IStore`` about groups and their members. See ``store_contract.py``."""

from __future__ import annotations

import contextlib

import pytest
from store_contract_people import people, together

from flux.errors import Forbidden, NotFound, UserInvalid
from flux.interfaces import IStore
from flux.model.chats import Group, Member, MemberChange, Participant
from flux.model.messages import Draft


async def group_of(store: IStore, owner: int, *members: int, closed: bool = False, open_history: bool = False) -> int:
    group = (await store.group_create(owner, "climbers", "", closed, open_history)).group
    for member in members:
        await store.group_add(owner, group, member)
    return group


async def roles(store: IStore, uid: int, group: int) -> list[tuple[int, str]]:
    return [(member.id, member.role) for member in await store.members(uid, group)]


class GroupsContract:
    async def test_who_creates_a_group_owns_it(self, store) -> None:
        [ann] = await people(store, "ann")
        group = await store.group_create(ann, "climbers", "up", False, False)
        assert group == Group(group.chat, group.chat, "climbers", "up", "owner")
        assert await store.groups(ann) == (group,)
        assert await store.members(ann, group.group) == (Member(ann, "ann", "owner"),)
        membership = await store.membership(group.chat)
        assert (membership.group, membership.head) == (True, 0)
        assert membership.participants == (Participant(ann, 1),)

    async def test_groups_are_listed_by_id_with_ones_role(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        made = [await group_of(store, ann), await group_of(store, bob, ann), await group_of(store, bob)]
        assert [(group.group, group.role) for group in await store.groups(ann)] == [
            (made[0], "owner"),
            (made[1], "member"),
        ]

    async def test_joining_starts_at_the_head(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        group = await group_of(store, ann)
        await store.append([Draft(ann, 0, group, "one"), Draft(ann, 0, group, "two")])
        before = await store.membership(group)
        change = await store.group_join(bob, group)
        assert change == MemberChange(group, bob, "join", before.version + 1, 2)
        after = await store.membership(group)
        assert after.participants == (Participant(ann, 1), Participant(bob, 3))
        assert after.version == change.version
        [cursor] = (await store.overview(bob)).cursors
        assert (cursor.received, cursor.read, cursor.head, cursor.unread) == (2, 2, 2, 0)

    async def test_joining_again_changes_nothing(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        group = await group_of(store, ann, bob)
        await store.append([Draft(ann, 0, group, "one")])
        await store.group_leave(bob, group)
        await store.group_join(bob, group)
        await store.append([Draft(ann, 0, group, "two")])
        before = await store.membership(group)
        assert await store.group_join(bob, group) == MemberChange(group, bob, "join", before.version, 1, again=True)
        assert await store.group_add(ann, group, bob) == MemberChange(group, bob, "add", before.version, 1, again=True)
        assert await store.group_join(ann, group) == MemberChange(group, ann, "join", before.version, 0, again=True)
        assert await store.membership(group) == before
        assert await roles(store, ann, group) == [(ann, "owner"), (bob, "member")]

    async def test_coming_back_is_a_new_membership(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        group = await group_of(store, ann, bob)
        await store.append([Draft(ann, 0, group, "for bob")])
        await store.group_leave(bob, group)
        await store.append([Draft(ann, 0, group, "not for bob")])
        await store.group_join(bob, group)
        assert (await store.membership(group)).participants == (Participant(ann, 1), Participant(bob, 3))
        assert await store.fill(bob, group, 0, 10) == ()
        assert (await store.history(bob, group, 0, 0, 0, -1, 10)).messages == ()

    async def test_every_change_raises_the_version_by_one_and_simultaneous_ones_differ(self, store) -> None:
        ann, *others = await people(store, *(f"user{n}" for n in range(20)))
        group = await group_of(store, ann)
        version = (await store.membership(group)).version
        changes = await together([store.group_join(uid, group) for uid in others])
        assert [change.version for change in changes] == list(range(version + 1, version + 20))
        change = await store.group_role(ann, group, others[0], "admin")
        assert change == MemberChange(group, others[0], "role", version + 20, 0, "admin")
        change = await store.group_remove(ann, group, others[1])
        assert change == MemberChange(group, others[1], "remove", version + 21, 0)
        change = await store.group_leave(others[2], group)
        assert change == MemberChange(group, others[2], "leave", version + 22, 0)

    async def test_a_closed_group_is_entered_by_being_added(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        group = await group_of(store, ann, closed=True)
        with pytest.raises(Forbidden):
            await store.group_join(bob, group)
        change = await store.group_add(ann, group, bob)
        assert (change.change, change.id) == ("add", bob)
        assert (await store.group_join(bob, group)).version == change.version

    async def test_owner_and_admins_add(self, store) -> None:
        ann, bob, cat, dan = await people(store, "ann", "bob", "cat", "dan")
        group = await group_of(store, ann, bob)
        for stranger in (bob, cat, 99):
            with pytest.raises(Forbidden):
                await store.group_add(stranger, group, cat)
        await store.group_role(ann, group, bob, "admin")
        await store.group_add(bob, group, cat)
        with pytest.raises(UserInvalid):
            await store.group_add(bob, group, 99)
        await store.block(dan, bob)
        with pytest.raises(Forbidden):
            await store.group_add(bob, group, dan)
        await store.group_add(ann, group, dan)
        assert (await store.group_add(bob, group, dan)).change == "add"
        assert await roles(store, dan, group) == [(ann, "owner"), (bob, "admin"), (cat, "member"), (dan, "member")]

    async def test_an_account_is_in_so_many_groups_at_most(self, store) -> None:
        ann, bob, cat = await people(store, "ann", "bob", "cat")
        there = [await group_of(store, bob), await group_of(store, bob, closed=True), await group_of(store, bob)]
        # One-to-one chats do not count.
        await store.append([Draft(ann, uid, 0, "x") for uid in (bob, cat)])
        await store.group_create(ann, "climbers", "", False, False, 2)
        assert (await store.group_join(ann, there[0], 2)).change == "join"
        before = await store.membership(there[2])
        for attempt in (
            store.group_create(ann, "climbers", "", False, False, 2),
            store.group_join(ann, there[2], 2),
            store.group_add(bob, there[2], ann, 2),
        ):
            with pytest.raises(Forbidden, match="as many groups"):
                await attempt
        assert await store.membership(there[2]) == before
        assert len(await store.groups(ann)) == 2
        # Who is in stays what it is, and whatever else stands in the way is told first.
        assert (await store.group_join(ann, there[0], 2)).version == (await store.membership(there[0])).version
        assert (await store.group_add(bob, there[0], ann, 1)).change == "add"
        with pytest.raises(Forbidden, match="closed"):
            await store.group_join(ann, there[1], 2)
        with pytest.raises(Forbidden, match="owner and admins"):
            await store.group_add(cat, there[2], ann, 2)
        with pytest.raises(NotFound):
            await store.group_join(ann, 99, 2)
        # With another limit, without one, and once a group was left, there is room.
        await store.group_join(ann, there[2], 3)
        await store.group_add(bob, there[1], ann)
        for group in there[:2]:
            await store.group_leave(ann, group)
        await store.group_join(ann, there[0], 3)

    async def test_of_many_groups_entered_at_once_some_are_refused(self, store) -> None:
        ann, *owners = await people(store, *(f"user{n}" for n in range(13)))
        groups = [await group_of(store, owner) for owner in owners]
        calls = [store.group_join(ann, group, 5) for group in groups[:4]]
        calls += [store.group_create(ann, "x", "", False, False, 5) for _ in range(4)]
        calls += [store.group_add(owner, group, ann, 5) for owner, group in zip(owners[4:], groups[4:], strict=True)]
        outcomes = []

        async def outcome(call) -> None:
            try:
                await call
                outcomes.append(True)
            except Forbidden:
                outcomes.append(False)

        await together([outcome(call) for call in calls])
        assert outcomes.count(True) == len(await store.groups(ann)) == 5

    async def test_who_removes_whom(self, store) -> None:
        owner, admin, second, member, other = await people(store, *"abcde")
        group = await group_of(store, owner, admin, second, member, other)
        for uid in (admin, second):
            await store.group_role(owner, group, uid, "admin")
        for actor, uid in ((member, other), (admin, second), (admin, admin), (admin, owner), (owner, owner)):
            with pytest.raises(Forbidden):
                await store.group_remove(actor, group, uid)
        with pytest.raises(NotFound):
            await store.group_remove(admin, group, 99)
        await store.group_remove(admin, group, member)
        await store.group_remove(owner, group, second)
        assert await roles(store, owner, group) == [(owner, "owner"), (admin, "admin"), (other, "member")]

    async def test_who_was_removed_comes_back_when_added(self, store) -> None:
        ann, bob, cat, dan = await people(store, "ann", "bob", "cat", "dan")
        group = await group_of(store, ann, bob, cat, dan)
        other = await group_of(store, ann)
        await store.group_role(ann, group, bob, "admin")
        await store.group_remove(bob, group, cat)
        before = await store.membership(group)
        for _ in range(2):
            with pytest.raises(Forbidden, match="removed"):
                await store.group_join(cat, group)
        # It is about this account and this group, and said before a limit is.
        await store.group_join(cat, other)
        with pytest.raises(Forbidden, match="removed"):
            await store.group_join(cat, group, 1)
        assert await store.membership(group) == before
        await store.group_leave(dan, group)
        await store.group_join(dan, group)
        # An add that is refused changes nothing.
        with pytest.raises(Forbidden, match="as many groups"):
            await store.group_add(ann, group, cat, 1)
        with pytest.raises(Forbidden, match="removed"):
            await store.group_join(cat, group)
        assert (await store.group_add(ann, group, cat)).change == "add"
        await store.group_leave(cat, group)
        assert (await store.group_join(cat, group)).change == "join"
        for _ in range(2):
            await store.group_remove(ann, group, cat)
            await store.group_add(bob, group, cat)
        await store.group_remove(ann, group, cat)
        with pytest.raises(Forbidden, match="removed"):
            await store.group_join(cat, group)

    async def test_who_joins_while_being_removed_is_out(self, store) -> None:
        ann, *others = await people(store, *(f"user{n}" for n in range(6)))
        group = await group_of(store, ann, *others)

        async def join(uid: int) -> None:
            with contextlib.suppress(Forbidden):
                await store.group_join(uid, group)

        await together([call for uid in others for call in (join(uid), store.group_remove(ann, group, uid), join(uid))])
        assert await roles(store, ann, group) == [(ann, "owner")]

    async def test_members_know_with_whom_there_is_a_block(self, store) -> None:
        ann, bob, cat = await people(store, "ann", "bob", "cat")
        group = await group_of(store, ann, bob, cat)
        await store.block(ann, bob)

        async def barred(uid: int) -> list[int]:
            return [member.id for member in await store.members(uid, group) if member.barred]

        assert [await barred(uid) for uid in (ann, bob, cat)] == [[bob], [ann], []]
        await store.block(bob, ann)
        await store.unblock(ann, bob)
        assert [await barred(uid) for uid in (ann, bob, cat)] == [[bob], [ann], []]
        await store.unblock(bob, ann)
        assert [await barred(uid) for uid in (ann, bob, cat)] == [[], [], []]

    async def test_who_was_removed_or_left_is_out_at_once(self, store) -> None:
        ann, bob, cat = await people(store, "ann", "bob", "cat")
        group = await group_of(store, ann, bob, cat)
        await store.append([Draft(bob, 0, group, "x"), Draft(cat, 0, group, "y")])
        await store.group_remove(ann, group, bob)
        await store.group_leave(cat, group)
        for uid in (bob, cat):
            assert isinstance((await store.append([Draft(uid, 0, group, "z")]))[0], Forbidden)
            assert await store.groups(uid) == ()
            assert await store.fill(uid, group, 0, 10) == ()
            assert await store.conversations(uid, 10) == ()
            for attempt in (
                store.members(uid, group),
                store.history(uid, 0, 0, group, 0, -1, 10),
                store.history(uid, group, 0, 0, 0, -1, 10),
                store.group_leave(uid, group),
            ):
                with pytest.raises(Forbidden):
                    await attempt

    async def test_roles_are_the_owners_to_give(self, store) -> None:
        ann, bob, cat = await people(store, "ann", "bob", "cat")
        group = await group_of(store, ann, bob, cat)
        await store.group_role(ann, group, bob, "admin")
        for actor, uid in ((bob, cat), (cat, bob), (99, bob), (ann, ann)):
            with pytest.raises(Forbidden):
                await store.group_role(actor, group, uid, "admin")
        with pytest.raises(NotFound):
            await store.group_role(ann, group, 99, "admin")
        await store.group_role(ann, group, bob, "member")
        assert await roles(store, ann, group) == [(ann, "owner"), (bob, "member"), (cat, "member")]

    async def test_handing_over_makes_the_old_owner_an_admin(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        group = await group_of(store, ann, bob)
        change = await store.group_role(ann, group, bob, "owner")
        assert (change.id, change.change, change.role) == (bob, "role", "owner")
        assert await roles(store, ann, group) == [(bob, "owner"), (ann, "admin")]
        assert change.version == (await store.membership(group)).version
        with pytest.raises(Forbidden):
            await store.group_role(ann, group, bob, "member")
        await store.group_leave(ann, group)

    async def test_an_owner_leaves_last(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        group = await group_of(store, ann, bob)
        with pytest.raises(Forbidden, match=r"group\.role"):
            await store.group_leave(ann, group)
        await store.group_leave(bob, group)
        await store.append([Draft(ann, 0, group, "alone")])
        await store.group_leave(ann, group)
        with pytest.raises(NotFound):
            await store.group_join(bob, group)
        for attempt in (
            store.history(ann, 0, 0, group, 0, -1, 10),
            store.members(ann, group),
            store.group_leave(ann, group),
            store.group_add(ann, group, bob),
            store.group_remove(ann, group, bob),
            store.group_role(ann, group, bob, "admin"),
        ):
            with pytest.raises(Forbidden):
                await attempt
        assert isinstance((await store.append([Draft(ann, 0, group, "?")]))[0], Forbidden)
        membership = await store.membership(group)
        assert (membership.participants, membership.head) == ((), 1)

    async def test_what_is_no_group(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        [receipt] = await store.append([Draft(ann, bob, 0, "x")])
        for number in (0, receipt.chat, 99):
            for attempt in (
                store.group_join(ann, number),
                store.group_leave(ann, number),
                store.group_add(ann, number, bob),
                store.group_remove(ann, number, bob),
                store.group_role(ann, number, bob, "admin"),
                store.members(ann, number),
            ):
                with pytest.raises(NotFound):
                    await attempt
        with pytest.raises(NotFound):
            await store.membership(99)
        assert await store.groups(ann) == ()

    async def test_members_are_owner_admins_members_each_by_id(self, store) -> None:
        ids = await people(store, *(f"user{n}" for n in range(9)))
        group = await group_of(store, ids[4], *(uid for uid in reversed(ids) if uid != ids[4]))
        for uid in (ids[7], ids[2]):
            await store.group_role(ids[4], group, uid, "admin")
        rest = [uid for uid in ids if uid not in (ids[4], ids[2], ids[7])]
        assert [member.id for member in await store.members(ids[0], group)] == [ids[4], ids[2], ids[7], *rest]
        assert [p.id for p in (await store.membership(group)).participants] == ids
