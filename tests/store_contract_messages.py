"""The promises of ``IStore`` about messages. See ``store_contract.py``."""

from __future__ import annotations

import time

import pytest
from store_contract_groups import group_of
from store_contract_people import people, together

from flux.errors import BadRequest, FluxError, Forbidden, NotFound, UserInvalid
from flux.interfaces import IStore
from flux.model.chats import CursorMove, Membership, Participant
from flux.model.messages import Draft, Message, Page, Receipt


async def send(store: IStore, *drafts: Draft) -> list[Receipt]:
    receipts = await store.append(drafts)
    assert not [outcome for outcome in receipts if isinstance(outcome, FluxError)], receipts
    return receipts


async def chatter(store: IStore, one: int, other: int, count: int) -> int:
    """Messages ``1`` to ``count``, the odd ones from ``one``; returns the chat."""
    receipts = await send(
        store,
        *(Draft(one, other, 0, f"{n}") if n % 2 else Draft(other, one, 0, f"{n}") for n in range(1, count + 1)),
    )
    return receipts[0].chat


def seqs(messages: tuple[Message, ...]) -> list[int]:
    return [message.seq for message in messages]


class AppendContract:
    async def test_seqs_are_gap_free_in_the_order_of_the_drafts(self, store) -> None:
        ann, bob, cat = await people(store, "ann", "bob", "cat")
        began = int(time.time() * 1000)
        receipts = await send(
            store, Draft(ann, bob, 0, "1"), Draft(ann, cat, 0, "a"), Draft(bob, ann, 0, "2"), Draft(ann, bob, 0, "3")
        )
        assert [receipt.seq for receipt in receipts] == [1, 1, 2, 3]
        assert receipts[0].chat == receipts[2].chat == receipts[3].chat != receipts[1].chat
        assert [receipt.seq for receipt in await send(store, Draft(bob, ann, 0, "4"), Draft(cat, ann, 0, "b"))] == [
            4,
            2,
        ]
        assert not any(receipt.duplicate for receipt in receipts)
        assert all(began <= receipt.at <= time.time() * 1000 + 1 for receipt in receipts)
        page = await store.history(ann, receipts[0].chat, 0, 0, 0, -1, 10)
        assert [message.text for message in page.messages] == ["1", "2", "3", "4"]
        assert sorted(message.at for message in page.messages) == [message.at for message in page.messages]

    async def test_the_first_message_makes_the_chat_with_both_members(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        [receipt] = await send(store, Draft(bob, ann, 0, "hello"))
        assert await store.membership(receipt.chat) == Membership(
            receipt.chat, False, receipt.version, 1, (Participant(ann, 1), Participant(bob, 1))
        )

    async def test_one_bad_draft_never_fails_its_neighbours(self, store) -> None:
        ann, bob, cat = await people(store, "ann", "bob", "cat")
        group = await group_of(store, ann)
        await store.block(cat, ann)
        [known] = await send(store, Draft(ann, bob, 0, "first", "k"))
        outcomes = await store.append(
            [
                Draft(ann, ann, 0, "to oneself"),
                Draft(ann, 99, 0, "nobody there"),
                Draft(ann, bob, 0, "good"),
                Draft(bob, 0, group, "not a member"),
                Draft(ann, 0, 99, "no such group"),
                Draft(ann, 0, known.chat, "a chat, but no group"),
                Draft(ann, bob, 0, "another text", "k"),
                Draft(ann, cat, 0, "blocked"),
                Draft(ann, bob, 0, "first", "k"),
                Draft(ann, 0, 0, "to nobody"),
                Draft(ann, 2**63, 0, "beyond all ids"),
                Draft(ann, 0, -1, "below all ids"),
                Draft(99, ann, 0, "from nobody"),
                Draft(ann, 0, group, "good"),
                Draft(bob, ann, 0, "good"),
            ]
        )
        assert [type(outcome) for outcome in outcomes] == [
            BadRequest, UserInvalid, Receipt, Forbidden, NotFound, NotFound, BadRequest, Forbidden, Receipt, NotFound,
            UserInvalid, NotFound, UserInvalid, Receipt, Receipt,
        ]  # fmt: skip
        assert [outcomes[n].seq for n in (2, 8, 13, 14)] == [2, 1, 1, 3]
        assert outcomes[8].duplicate
        assert outcomes[0].detail == "to: this is yourself"

    async def test_a_chat_of_two_is_no_group_to_send_to(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        [known] = await send(store, Draft(ann, bob, 0, "x"))
        for _ in range(2):
            [outcome] = await store.append([Draft(ann, 0, known.chat, "x")])
            assert isinstance(outcome, NotFound)
        assert [receipt.seq for receipt in await send(store, Draft(bob, ann, 0, "y"))] == [2]

    async def test_what_was_refused_left_nothing(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        await store.block(bob, ann)
        outcomes = await store.append([Draft(ann, bob, 0, "x", "k"), Draft(ann, 99, 0, "x"), Draft(ann, ann, 0, "x")])
        assert [type(outcome) for outcome in outcomes] == [Forbidden, UserInvalid, BadRequest]
        for uid in (ann, bob):
            assert (await store.overview(uid)).cursors == ()

    async def test_a_cid_is_taken_once_per_sender_and_chat(self, store) -> None:
        ann, bob, cat = await people(store, "ann", "bob", "cat")
        group = await group_of(store, ann, bob)
        first = await send(
            store,
            Draft(ann, bob, 0, "x", "k"),
            Draft(bob, ann, 0, "x", "k"),
            Draft(ann, cat, 0, "x", "k"),
            Draft(ann, 0, group, "x", "k"),
            Draft(ann, bob, 0, "x", "K"),
            Draft(ann, bob, 0, "x", "k "),
            Draft(ann, bob, 0, "x"),
            Draft(ann, bob, 0, "x"),
        )
        assert [receipt.duplicate for receipt in first] == [False] * 8
        again = await send(store, Draft(ann, bob, 0, "x", "k"), Draft(ann, 0, group, "x", "k"))
        assert [(r.chat, r.seq, r.at, r.duplicate) for r in again] == [
            (r.chat, r.seq, r.at, True) for r in (first[0], first[3])
        ]

    async def test_a_cid_twice_in_one_batch(self, store) -> None:
        ann, bob, cat = await people(store, "ann", "bob", "cat")
        outcomes = await store.append(
            [
                Draft(ann, bob, 0, "x", "k"),
                Draft(ann, cat, 0, "y", "k"),
                Draft(ann, bob, 0, "x", "k"),
                Draft(ann, bob, 0, "other", "k"),
                Draft(ann, bob, 0, "z", "l"),
            ]
        )
        assert [(o.seq, o.duplicate) if isinstance(o, Receipt) else type(o) for o in outcomes] == [
            (1, False),
            (1, False),
            (1, True),
            BadRequest,
            (2, False),
        ]

    async def test_simultaneous_batches_with_one_cid(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        batches = await together([store.append([Draft(ann, bob, 0, "x", "k")]) for _ in range(20)])
        receipts = [receipt for batch in batches for receipt in batch]
        assert [receipt.seq for receipt in receipts] == [1] * 20
        assert [receipt.duplicate for receipt in receipts].count(False) == 1

    async def test_a_cid_is_looked_up_before_membership_and_blocks(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        group = await group_of(store, ann, bob)
        sent = await send(store, Draft(bob, 0, group, "x", "k"), Draft(bob, ann, 0, "x", "k"))
        await store.group_remove(ann, group, bob)
        await store.block(ann, bob)
        again = await store.append(
            [
                Draft(bob, 0, group, "x", "k"),
                Draft(bob, ann, 0, "x", "k"),
                Draft(bob, 0, group, "y", "k"),
                Draft(bob, ann, 0, "y", "k"),
                Draft(bob, 0, group, "x", "l"),
                Draft(bob, ann, 0, "x", "l"),
            ]
        )
        assert [(o.seq, o.duplicate) for o in again[:2]] == [(receipt.seq, True) for receipt in sent]
        assert [type(outcome) for outcome in again[2:]] == [BadRequest, BadRequest, Forbidden, Forbidden]

    async def test_a_block_is_one_way_and_does_not_touch_groups(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        group = await group_of(store, ann, bob)
        await send(store, Draft(bob, ann, 0, "before"))
        await store.block(ann, bob)
        outcomes = await store.append([Draft(bob, ann, 0, "x"), Draft(ann, bob, 0, "x"), Draft(bob, 0, group, "x")])
        assert [type(outcome) for outcome in outcomes] == [Forbidden, Receipt, Receipt]
        await store.unblock(ann, bob)
        assert (await send(store, Draft(bob, ann, 0, "after")))[0].seq == 3

    async def test_a_receipt_carries_the_member_version(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        group = await group_of(store, ann)
        [first] = await send(store, Draft(ann, 0, group, "x", "k"))
        change = await store.group_join(bob, group)
        [again, second] = await send(store, Draft(ann, 0, group, "x", "k"), Draft(bob, 0, group, "y"))
        assert first.version == change.version - 1
        assert again.version == second.version == change.version == (await store.membership(group)).version

    async def test_calls_take_effect_in_the_order_they_were_made(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        group = await group_of(store, ann)
        outcomes = await together(
            [
                store.append([Draft(bob, 0, group, "too early")]),
                store.group_join(bob, group),
                store.append([Draft(bob, 0, group, "now"), Draft(ann, 0, group, "hi")]),
                store.group_leave(bob, group),
                store.append([Draft(bob, 0, group, "too late"), Draft(ann, 0, group, "bye")]),
            ]
        )
        assert isinstance(outcomes[0][0], Forbidden)
        assert isinstance(outcomes[4][0], Forbidden)
        assert [outcomes[2][0].seq, outcomes[2][1].seq, outcomes[4][1].seq] == [1, 2, 3]
        assert outcomes[2][0].version == outcomes[1].version
        assert outcomes[4][1].version == outcomes[3].version == outcomes[1].version + 1

    async def test_both_first_messages_of_a_pair_in_opposite_order(self, store) -> None:
        ids = await people(store, *(f"user{n}" for n in range(60)))
        pairs = [(one, other) for one in ids for other in ids if one < other][:1000]
        batches = await together(
            [
                store.append([Draft(one, other, 0, "there") for one, other in pairs]),
                store.append([Draft(other, one, 0, "back") for one, other in reversed(pairs)]),
            ]
        )
        there, back = batches[0], list(reversed(batches[1]))
        assert [receipt.chat for receipt in there] == [receipt.chat for receipt in back]
        assert len({receipt.chat for receipt in there}) == 1000
        assert {(one.seq, other.seq) for one, other in zip(there, back, strict=True)} <= {(1, 2), (2, 1)}

    async def test_texts_of_all_kinds_come_back_as_they_were(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        texts = [
            "x",
            " ",
            "\n",
            "'; DROP TABLE messages; --",
            "naïve",
            "e\u0301",
            "\u00e9",
            "\U0001f469\u200d\U0001f467",
            "\ufeff",
            "\uffff",
            "\U0010ffff",
            "\u202eright",
            "a" * 8000,
            "漢" * 8000,
            "\x01\x7f",
            "NULL",
            "123",
            "1e5",
            "{}",
            "%s ? :a $1",
        ]
        receipts = await send(store, *(Draft(ann, bob, 0, text, f"{n}") for n, text in enumerate(texts)))
        assert [m.text for m in (await store.history(bob, 0, ann, 0, 0, 0, 100)).messages] == texts
        again = await send(store, *(Draft(ann, bob, 0, text, f"{n}") for n, text in enumerate(texts)))
        assert [(r.seq, r.duplicate) for r in again] == [(r.seq, True) for r in receipts]

    async def test_text_no_client_can_send_harms_nobody(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        outcomes = await store.append(
            [
                Draft(ann, bob, 0, "one"),
                Draft(ann, bob, 0, "\ud800"),
                Draft(ann, bob, 0, "x", "\udfff"),
                Draft(bob, ann, 0, "two"),
            ]
        )
        assert [type(outcome) for outcome in outcomes] == [Receipt, BadRequest, BadRequest, Receipt]
        assert [outcomes[0].seq, outcomes[3].seq] == [1, 2]

    async def test_batches_of_every_size(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        head = 0
        for size in (0, 1, 2, 3, 5, 15, 16, 17, 63, 100, 255, 257, 1023, 1025, 3000):
            receipts = await send(store, *(Draft(ann, bob, 0, f"{n}", f"{head + n}") for n in range(size)))
            assert [receipt.seq for receipt in receipts] == list(range(head + 1, head + size + 1))
            head += size


class ReadingContract:
    async def test_a_message_names_its_sender_and_where_it_went(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        group = await group_of(store, ann, bob)
        mine, reply, open_ = await send(
            store, Draft(ann, bob, 0, "hi"), Draft(bob, ann, 0, "ho"), Draft(bob, 0, group, "all")
        )
        expected = (
            Message(mine.chat, 1, ann, "ann", "hi", mine.at, to=bob),
            Message(mine.chat, 2, bob, "bob", "ho", reply.at, to=ann),
        )
        for uid, peer in ((ann, bob), (bob, ann)):
            assert await store.history(uid, 0, peer, 0, 0, -1, 10) == Page(mine.chat, expected, False)
            assert await store.history(uid, mine.chat, 0, 0, 0, -1, 10) == Page(mine.chat, expected, False)
            assert await store.fill(uid, mine.chat, 0, 10) == expected
        said = (Message(group, 1, bob, "bob", "all", open_.at, group=group),)
        assert await store.history(ann, 0, 0, group, 0, -1, 10) == Page(group, said, False)
        assert await store.history(ann, group, 0, 0, 0, -1, 10) == Page(group, said, False)

    async def test_pages_forward_and_backward(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        chat = await chatter(store, ann, bob, 10)

        async def page(before: int, after: int, limit: int) -> tuple[list[int], bool]:
            found = await store.history(ann, chat, 0, 0, before, after, limit)
            return seqs(found.messages), found.more

        assert await page(0, -1, 4) == ([7, 8, 9, 10], True)
        assert await page(7, -1, 4) == ([3, 4, 5, 6], True)
        assert await page(3, -1, 4) == ([1, 2], False)
        assert await page(5, -1, 4) == ([1, 2, 3, 4], False)
        assert await page(1, -1, 4) == ([], False)
        assert await page(99, -1, 4) == ([7, 8, 9, 10], True)
        assert await page(0, 0, 4) == ([1, 2, 3, 4], True)
        assert await page(3, 0, 4) == ([1, 2], False)
        assert await page(0, 7, 4) == ([8, 9, 10], False)
        assert await page(0, 6, 4) == ([7, 8, 9, 10], False)
        assert await page(0, 2, 4) == ([3, 4, 5, 6], True)
        assert await page(0, 10, 4) == ([], False)
        assert await page(0, 99, 4) == ([], False)
        assert await page(9, 3, 3) == ([4, 5, 6], True)
        assert await page(9, 3, 5) == ([4, 5, 6, 7, 8], False)
        assert await page(4, 8, 5) == ([], False)
        assert await page(0, -1, 10) == (list(range(1, 11)), False)

    async def test_a_chat_without_messages_is_an_empty_page(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        assert await store.history(ann, 0, bob, 0, 0, -1, 10) == Page(0, (), False)
        assert await store.history(ann, 0, ann, 0, 0, -1, 10) == Page(0, (), False)
        group = await group_of(store, ann)
        assert await store.history(ann, 0, 0, group, 0, -1, 10) == Page(group, (), False)

    async def test_history_is_for_members(self, store) -> None:
        ann, bob, cat = await people(store, "ann", "bob", "cat")
        chat = await chatter(store, ann, bob, 2)
        group = await group_of(store, ann)
        for attempt in (store.history(cat, chat, 0, 0, 0, -1, 10), store.history(bob, 0, 0, group, 0, -1, 10)):
            with pytest.raises(Forbidden):
                await attempt
        for attempt in (store.history(ann, 99, 0, 0, 0, -1, 10), store.history(ann, 0, 0, chat, 0, -1, 10)):
            with pytest.raises(NotFound):
                await attempt
        assert await store.fill(cat, chat, 0, 10) == await store.fill(ann, 99, 0, 10) == ()

    async def test_who_joined_late_sees_what_came_after_unless_history_is_open(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        for open_history in (False, True):
            group = await group_of(store, ann, open_history=open_history)
            await send(store, *(Draft(ann, 0, group, f"{n}") for n in (1, 2, 3)))
            await store.group_join(bob, group)
            joined = await store.conversations(bob, 10)
            assert [row.chat for row in joined if row.chat == group] == ([group] if open_history else [])
            await send(store, Draft(ann, 0, group, "4"), Draft(bob, 0, group, "5"))
            page = await store.history(bob, group, 0, 0, 0, -1, 10)
            assert seqs(page.messages) == ([1, 2, 3, 4, 5] if open_history else [4, 5])
            assert page.more is False
            assert seqs((await store.history(bob, group, 0, 0, 5, -1, 10)).messages) == seqs(page.messages)[:-1]
            assert seqs((await store.history(bob, group, 0, 0, 0, 1, 10)).messages) == (
                [2, 3, 4, 5] if open_history else [4, 5]
            )
            assert seqs(await store.fill(bob, group, 0, 10)) == [4, 5]
            assert seqs(await store.fill(ann, group, 0, 10)) == [1, 2, 3, 4, 5]

    async def test_filling_goes_on_where_it_stopped(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        chat = await chatter(store, ann, bob, 10)
        assert seqs(await store.fill(bob, chat, 0, 4)) == [1, 2, 3, 4]
        assert seqs(await store.fill(bob, chat, 4, 4)) == [5, 6, 7, 8]
        assert seqs(await store.fill(bob, chat, 8, 4)) == [9, 10]
        assert await store.fill(bob, chat, 10, 4) == await store.fill(bob, chat, 99, 4) == ()

    async def test_conversations_newest_first(self, store) -> None:
        ann, bob, cat, dan = await people(store, "ann", "bob", "cat", "dan")
        group = await group_of(store, ann, cat)
        await group_of(store, ann)
        await send(store, Draft(bob, ann, 0, "hello"))
        [to_cat] = await send(store, Draft(ann, cat, 0, "hi"))
        await send(store, Draft(cat, 0, group, "all"))
        [from_dan, _] = await send(store, Draft(dan, ann, 0, "first"), Draft(dan, ann, 0, "second"))
        rows = await store.conversations(ann, 10)
        assert sorted((row.last.at for row in rows), reverse=True) == [row.last.at for row in rows]
        by_chat = {row.chat: row for row in rows}
        assert len(by_chat) == len(rows) == 4
        dans, groups_ = by_chat[from_dan.chat], by_chat[group]
        assert (dans.name, dans.to, dans.unread, dans.read, dans.last.text) == ("dan", dan, 2, 0, "second")
        assert (groups_.name, groups_.group, groups_.unread, groups_.last.sender) == ("climbers", group, 1, cat)
        assert (by_chat[to_cat.chat].name, by_chat[to_cat.chat].unread) == ("cat", 0)
        assert by_chat[to_cat.chat].last.to == cat
        assert await store.conversations(ann, 2) == rows[:2]


class PruneContract:
    async def arrived(self, store: IStore, chat: int, upto: int, *uids: int) -> None:
        numbers = {uid: await store.open_session(uid) for uid in uids}
        await store.advance([CursorMove(uid, numbers[uid], chat, upto, 0) for uid in uids])

    async def everything(self, store: IStore, before: int, limit: int = 1000) -> int:
        """What one pass removes."""
        total = 0
        while removed := await store.prune(before, limit):
            total += removed
        return total

    @pytest.mark.prunes
    async def test_only_what_has_arrived_everywhere_goes_and_the_newest_stays(self, store) -> None:
        ann, bob, cat = await people(store, "ann", "bob", "cat")
        later = int(time.time() * 1000) + 60_000
        chats = {bob: 0, cat: 0}
        for _ in range(6):
            for other in chats:
                [receipt] = await send(store, Draft(ann, other, 0, "x"))
                chats[other] = receipt.chat
        assert await self.everything(store, later) == 0
        await self.arrived(store, chats[bob], 4, ann)
        assert await self.everything(store, later) == 0, "bob has nothing of it yet"
        await self.arrived(store, chats[bob], 3, bob)
        await self.arrived(store, chats[cat], 6, ann, cat)
        assert await self.everything(store, later) == 3 + 5
        page = await store.history(ann, chats[bob], 0, 0, 0, -1, 10)
        assert (seqs(page.messages), page.more) == ([4, 5, 6], False)
        assert seqs((await store.history(ann, chats[bob], 0, 0, 0, 0, 2)).messages) == [4, 5]
        assert seqs(await store.fill(bob, chats[bob], 3, 10)) == [4, 5, 6]
        assert seqs((await store.history(cat, chats[cat], 0, 0, 0, -1, 10)).messages) == [6]
        assert [row.last.seq for row in await store.conversations(ann, 10)] == [6, 6]
        assert [cursor.head for cursor in (await store.overview(cat)).cursors] == [6]
        [receipt] = await send(store, Draft(ann, cat, 0, "next"))
        assert receipt.seq == 7
        assert seqs(await store.fill(cat, chats[cat], 6, 10)) == [7]

    @pytest.mark.prunes
    async def test_only_what_is_old_goes(self, store) -> None:
        ann, bob = await people(store, "ann", "bob")
        old = [(await send(store, Draft(ann, bob, 0, "old")))[0] for _ in range(3)]
        while int(time.time() * 1000) <= old[-1].at:
            await store.profile(ann)
        young = [(await send(store, Draft(ann, bob, 0, "young")))[0] for _ in range(2)]
        await self.arrived(store, old[0].chat, 5, ann, bob)
        assert await self.everything(store, old[0].at) == 0
        assert await self.everything(store, young[0].at) == 3
        assert seqs((await store.history(bob, 0, ann, 0, 0, -1, 10)).messages) == [4, 5]

    @pytest.mark.prunes
    async def test_a_portion_is_about_as_large_as_asked_for(self, store) -> None:
        ann, bob, cat = await people(store, "ann", "bob", "cat")
        for other in (bob, cat):
            for _ in range(10):
                [receipt] = await send(store, Draft(ann, other, 0, "x"))
            await self.arrived(store, receipt.chat, 10, ann, other)
        later = int(time.time() * 1000) + 60_000
        portions = []
        while removed := await store.prune(later, 4):
            portions.append(removed)
        assert sum(portions) == 18
        assert max(portions) <= 4
        assert await store.prune(later, 4) == 0

    @pytest.mark.prunes
    async def test_a_group_waits_for_its_slowest_member_and_for_nobody_who_left(self, store) -> None:
        ann, bob, cat = await people(store, "ann", "bob", "cat")
        group = await group_of(store, ann, bob, cat)
        later = int(time.time() * 1000) + 60_000
        for _ in range(5):
            await send(store, Draft(ann, 0, group, "x"))
        await self.arrived(store, group, 5, ann, bob)
        assert await self.everything(store, later) == 0
        await store.group_leave(cat, group)
        assert await self.everything(store, later) == 4
        await store.group_add(ann, group, cat)
        assert seqs(await store.fill(cat, group, 0, 10)) == []
        assert [cursor.unread for cursor in (await store.overview(bob)).cursors] == [1]
