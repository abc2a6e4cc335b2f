"""The promises of ``IStore`` about cursors and changes. See ``store_contract.py``."""

from __future__ import annotations

from store_contract_groups import group_of
from store_contract_messages import chatter, send
from store_contract_people import people

from flux.interfaces import IStore
from flux.model.chats import SMALL_CHAT, UNREAD_AMONG, UNREAD_CAP, CursorMove
from flux.model.messages import Draft
from flux.model.overview import Changes


class CursorsContract:
    async def cursor(self, store: IStore, uid: int) -> tuple[int, int]:
        [cursor] = (await store.overview(uid)).cursors
        return cursor.received, cursor.read

    async def test_cursors_go_forward_and_stop_at_the_head(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        chat = await chatter(store, ann, bob, 5)
        for move, expected in (
            ((2, 0), (2, 0)),
            ((1, 1), (2, 1)),
            ((0, 3), (2, 3)),
            ((99, 0), (5, 3)),
            ((0, 2**62), (5, 5)),
            ((1, 1), (5, 5)),
            ((-3, -3), (5, 5)),
        ):
            await store.advance([CursorMove(bob, 1, chat, *move)])
            assert await self.cursor(store, bob) == expected
        assert await self.cursor(store, ann) == (0, 0)

    async def test_lower_session_numbers_are_ignored(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        chat = await chatter(store, ann, bob, 5)
        first, second = await store.open_session(bob), await store.open_session(bob)
        await store.advance([CursorMove(bob, first, chat, 5, 5)])
        assert await self.cursor(store, bob) == (0, 0)
        await store.advance([CursorMove(bob, first, chat, 5, 5), CursorMove(bob, second, chat, 3, 2)])
        assert await self.cursor(store, bob) == (3, 2)
        await store.advance([CursorMove(bob, second, chat, 4, 0), CursorMove(bob, first, chat, 0, 5)])
        assert await self.cursor(store, bob) == (4, 2)

    async def test_only_members_have_cursors(self, store) -> None:
        ann, bob, cat = await people(store, "ann", "bob", "cat")
        chat = await chatter(store, ann, bob, 5)
        group = await group_of(store, ann, cat)
        await send(store, Draft(ann, 0, group, "x"))
        await store.group_leave(cat, group)
        await store.advance(
            [
                CursorMove(cat, 9, chat, 5, 5),
                CursorMove(cat, 9, group, 1, 1),
                CursorMove(99, 9, chat, 5, 5),
                CursorMove(bob, 9, 99, 5, 5),
                CursorMove(bob, 9, chat, 4, 4),
            ]
        )
        assert await self.cursor(store, bob) == (4, 4)
        assert (await store.overview(cat)).cursors == ()

    async def test_several_moves_of_one_cursor_and_thousands_at_once(self, store) -> None:
        ids = await people(store, *(f"user{n}" for n in range(50)))
        receipts = await send(store, *(Draft(one, other, 0, "x") for one in ids for other in ids if one < other))
        chats = [receipt.chat for receipt in receipts]
        pairs = [(one, other) for one in ids for other in ids if one < other]
        await store.advance(
            [
                CursorMove(uid, 0, chat, received, read)
                for chat, pair in zip(chats, pairs, strict=True)
                for uid in pair
                for received, read in ((0, 1), (1, 0), (0, 0))
            ]
        )
        for uid in ids:
            cursors = (await store.overview(uid)).cursors
            assert {(cursor.received, cursor.read) for cursor in cursors} == {(1, 1)}
        await store.advance([])

    async def test_unread_counts_what_others_wrote_above_read(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        chat = await chatter(store, ann, bob, 9)
        for read, unread_ann, unread_bob in ((0, 4, 5), (1, 4, 4), (2, 3, 4), (8, 0, 1), (9, 0, 0)):
            await store.advance([CursorMove(ann, 0, chat, 0, read), CursorMove(bob, 0, chat, 0, read)])
            assert (await store.overview(ann)).cursors[0].unread == unread_ann
            assert (await store.overview(bob)).cursors[0].unread == unread_bob
            assert (await store.conversations(bob, 1))[0].unread == unread_bob

    async def test_unread_stops_counting_at_the_cap(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        await send(store, *(Draft(ann, bob, 0, "x") for _ in range(UNREAD_CAP + 5)))
        assert (await store.overview(bob)).cursors[0].unread == UNREAD_CAP
        assert (await store.conversations(bob, 1))[0].unread == UNREAD_CAP
        chat = (await store.overview(bob)).cursors[0].chat
        await store.advance([CursorMove(bob, 0, chat, 0, 7)])
        assert (await store.overview(bob)).cursors[0].unread == UNREAD_CAP - 2

    async def test_unread_counts_among_the_newest_messages(self, store) -> None:
        """Whatever somebody sends who reads nothing, the work is bounded; what others write is counted nevertheless."""
        ann, bob, cat = await people(store, "ann", "bob", "cat")
        group = await group_of(store, ann, bob, cat)
        own = [Draft(ann, 0, group, "own")] * (UNREAD_AMONG - 1)
        await send(store, Draft(bob, 0, group, "1"), Draft(ann, 0, group, "2"), Draft(bob, 0, group, "3"))
        await send(store, *own[3:])

        async def unread(uid: int) -> int:
            [cursor] = (await store.overview(uid)).cursors
            [conversation] = await store.conversations(uid, 1)
            assert conversation.unread == cursor.unread
            return cursor.unread

        assert (await unread(ann), await unread(bob)) == (2, UNREAD_CAP)
        await send(store, own[0])
        assert await unread(ann) == 2
        for left in (1, 1, 0):
            await send(store, own[0])
            assert await unread(ann) == left
        await send(store, *own[:100], Draft(cat, 0, group, "x"), *own[:100], Draft(cat, 0, group, "x"))
        assert (await unread(ann), await unread(bob), await unread(cat)) == (2, UNREAD_CAP, UNREAD_CAP)
        await store.advance([CursorMove(bob, 0, group, 0, UNREAD_AMONG + 10), CursorMove(cat, 0, group, 0, 10**6)])
        assert (await unread(bob), await unread(cat)) == (195, 0)

    async def test_how_far_others_have_read(self, store) -> None:
        ann, bob, cat, dan = await people(store, "ann", "bob", "cat", "dan")
        pair = await chatter(store, ann, bob, 5)
        group = await group_of(store, ann, bob, cat)
        await send(store, *(Draft(ann, 0, group, "x") for _ in range(5)))

        async def read_by(uid: int) -> dict[int, int]:
            return {row.chat: row.read_by for row in await store.conversations(uid, 10)}

        assert await read_by(ann) == {pair: 0, group: 0}
        await store.advance([CursorMove(ann, 0, pair, 0, 5), CursorMove(ann, 0, group, 0, 5)])
        assert await read_by(ann) == {pair: 0, group: 0}
        assert await read_by(bob) == {pair: 5, group: 5}
        await store.advance([CursorMove(bob, 0, pair, 5, 2), CursorMove(bob, 0, group, 5, 3)])
        await store.advance([CursorMove(cat, 0, group, 5, 1)])
        assert await read_by(ann) == {pair: 2, group: 3}
        # Who joins has read nothing of what was there.
        await store.group_join(dan, group)
        assert await read_by(ann) == {pair: 2, group: 3}
        await send(store, Draft(ann, 0, group, "x"))
        assert await read_by(dan) == {group: 5}
        await store.advance([CursorMove(dan, 0, group, 6, 6)])
        assert await read_by(ann) == {pair: 2, group: 6}
        await store.group_leave(dan, group)
        assert await read_by(ann) == {pair: 2, group: 3}

    async def test_what_blocked_people_have_read_is_not_told(self, store) -> None:
        ann, bob, cat = await people(store, "ann", "bob", "cat")
        pair = await chatter(store, ann, bob, 5)
        group = await group_of(store, ann, bob, cat)
        await send(store, *(Draft(ann, 0, group, "x") for _ in range(5)))
        for uid, upto in ((ann, 3), (bob, 2), (cat, 1)):
            await store.advance([CursorMove(uid, 0, pair, 0, upto), CursorMove(uid, 0, group, 0, upto)])

        async def read_by(uid: int) -> dict[int, int]:
            return {row.chat: row.read_by for row in await store.conversations(uid, 10)}

        await store.block(ann, bob)
        assert await read_by(ann) == {pair: 0, group: 1}
        assert await read_by(bob) == {pair: 0, group: 3}
        await store.unblock(ann, bob)
        assert await read_by(ann) == {pair: 2, group: 2}
        assert await read_by(bob) == {pair: 3, group: 3}

    async def test_in_large_chats_nobody_is_told_who_has_read(self, store) -> None:
        ann, bob, *others = await people(store, *(f"user{n}" for n in range(SMALL_CHAT + 1)))
        group = await group_of(store, ann, bob, *others[:-1])
        await send(store, Draft(ann, 0, group, "x"))
        await store.advance([CursorMove(bob, 0, group, 1, 1)])
        assert [row.read_by for row in await store.conversations(ann, 1)] == [1]
        await store.group_join(others[-1], group)
        assert [row.read_by for row in await store.conversations(ann, 1)] == [0]

    async def test_changes_since_a_mark(self, store) -> None:
        ann, bob, cat = await people(store, "ann", "bob", "cat")
        group = await group_of(store, ann)
        pair = await chatter(store, ann, bob, 3)
        start = await store.changes(0)
        assert (start.heads, start.members, start.sessions, start.complete) == ((), (), (), True)
        assert await store.changes(start.mark) == Changes(mark=start.mark, heads=(), sessions=())
        await send(store, Draft(ann, 0, group, "x"), Draft(ann, bob, 0, "x"), Draft(ann, bob, 0, "x"))
        await store.open_session(ann)
        await store.open_session(ann)
        moved = await store.changes(start.mark)
        assert moved.complete
        assert sorted(moved.heads) == sorted([(group, 1), (pair, 5)])
        assert moved.sessions == ((ann, 2),)
        assert moved.members == ()
        [receipt] = await send(store, Draft(cat, ann, 0, "new"))
        change = await store.group_join(bob, group)
        later = await store.changes(moved.mark)
        assert later.heads == ((receipt.chat, 1),)
        assert sorted(later.members) == sorted([(receipt.chat, receipt.version), (group, change.version)])
        assert later.sessions == ()
        assert {chat for chat, _ in (await store.changes(start.mark)).heads} == {group, pair, receipt.chat}
        assert (await store.changes(0)).mark == (await store.changes(later.mark)).mark == later.mark

    async def test_repetitions_and_refusals_are_no_changes(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        await send(store, Draft(ann, bob, 0, "x", "k"))
        mark = (await store.changes(0)).mark
        await store.append([Draft(ann, bob, 0, "x", "k"), Draft(ann, 99, 0, "x"), Draft(ann, bob, 0, "y", "k")])
        changes = await store.changes(mark)
        assert (changes.heads, changes.members, changes.sessions) == ((), (), ())

    async def test_a_mark_that_cannot_be_answered_says_so(self, store) -> None:
        for mark in (1, 2**62):
            changes = await store.changes(mark)
            assert not changes.complete
            assert (await store.changes(changes.mark)).complete
