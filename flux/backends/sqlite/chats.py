"""What the writer remembers of chats: heads, versions and who may send.

This is the truth while it lasts, because there is no other writer.  Chats that a
transaction loaded or changed are dropped when it is rolled back, and chats whose
members or blocks change are dropped when they do; both are read again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from flux.backends.sqlite.rows import all_rows, one_row
from flux.backends.sqlite.runs import newest
from flux.errors import BadRequest, FluxError, Forbidden, NotFound, UserInvalid
from flux.model.messages import Draft

Key = tuple[int, int] | int
"""(sender, receiver) of a one-to-one chat, or the id of a group."""

Senders = frozenset[int] | tuple[int, ...]
"""Who may send: of two accounts a tuple, which is small; of a group a set, which is quick."""

LARGEST_ID = 2**63 - 1
"""Of an SQLite integer. What is above is no identifier of ours."""


class Chat:
    """A chat as the writer sees it.

    :ivar head: ``seq`` of the newest message, 0 without any; of the running
        transaction, so it counts for nobody else before the commit.
    :ivar at: time of the newest message.
    :ivar version: the member version.
    :ivar senders: who may send.
    """

    __slots__ = ("at", "head", "id", "keys", "senders", "version")

    def __init__(self, number: int, head: int, at: int, version: int, senders: Senders, keys: tuple[Key, ...]) -> None:
        self.id = number
        self.head = head
        self.at = at
        self.version = version
        self.senders = senders
        self.keys = keys


class Chats:
    """Recently used chats, by key, in two generations.

    What is found in the older generation moves to the younger; when that is full it
    becomes the older, and what nobody asked for meanwhile is gone.  So this is
    nearly least-recently-used at the price of one dictionary look-up.

    :ivar young: the younger one, for those in a hurry; :meth:`find` knows the rest.
    :param bound: weight of a generation: a chat weighs as much as it has members.
    """

    def __init__(self, db: sqlite3.Connection, bound: int) -> None:
        self._db = db
        self._bound = bound
        self._weight = 0
        self.young: dict[Key, Chat] = {}
        self._old: dict[Key, Chat] = {}
        self._unsettled: list[Chat] = []

    def find(self, draft: Draft, created: dict[int, int]) -> Chat:
        """The chat of a draft; a missing one-to-one chat is created.

        :param created: gets id and member version of a chat that was created.
        :raises FluxError: what is wrong with the draft's addressing. Nothing was written.
        """
        key: Key = (draft.sender, draft.to) if draft.to else draft.group
        if chat := self.young.get(key):
            return chat
        chat = self._old.get(key)
        if chat is None:
            chat = self._pair(draft.sender, draft.to, created) if draft.to else self._group(draft.group)
            self._unsettled.append(chat)
        self._weight += len(chat.senders)
        for key in chat.keys:
            self.young[key] = chat
        return chat

    def drop(self, keys: Iterable[Key]) -> None:
        """Forget what is known under these keys."""
        for key in keys:
            self.young.pop(key, None)
            self._old.pop(key, None)

    def committed(self) -> None:
        """What the transaction loaded is true. Now is the time to forget: never in a transaction what it changed."""
        self._unsettled.clear()
        if self._weight > self._bound:
            self._old, self.young = self.young, {}
            self._weight = 0

    def rolled_back(self, changed: Iterable[Chat]) -> None:
        """Forget what the transaction loaded or ``changed``."""
        for chat in (*changed, *self._unsettled):
            self.drop(chat.keys)
        self._unsettled.clear()

    def _pair(self, sender: int, to: int, created: dict[int, int]) -> Chat:
        if sender == to:
            raise BadRequest("to: this is yourself")
        low, high = (sender, to) if sender < to else (to, sender)
        if low < 1 or high > LARGEST_ID:
            raise UserInvalid("there is no such user")
        barred = {
            blocked
            for (blocked,) in all_rows(
                self._db,
                "SELECT blocked FROM blocks WHERE uid IN (?1, ?2) AND blocked IN (?1, ?2) AND uid <> blocked",
                (low, high),
            )
        }
        row = one_row(
            self._db,
            f"SELECT c.id, m.seq, m.at, c.version FROM chats c LEFT JOIN messages m ON m.id = {newest('c.id')}"
            " WHERE c.low = ? AND c.high = ?",
            (low, high),
        )
        if row is None:
            if len(all_rows(self._db, "SELECT id FROM accounts WHERE id IN (?, ?)", (low, high))) < 2:
                raise UserInvalid("there is no such user")
            if sender in barred:
                raise Forbidden("this user has blocked you")
            row = self._create_pair(low, high)
            created[row[0]] = row[3]
        chat, head, at, version = row
        keys = ((low, high), (high, low))
        return Chat(chat, head or 0, at or 0, version, tuple({low, high} - barred) if barred else keys[0], keys)

    def _create_pair(self, low: int, high: int) -> tuple[int, int, int, int]:
        [(chat,)] = all_rows(self._db, "INSERT INTO chats (low, high) VALUES (?, ?) RETURNING id", (low, high))
        self._db.execute(
            "INSERT INTO members (uid, chat, first, received, read, role)"
            " VALUES (?1, ?3, 1, 0, 0, 'member'), (?2, ?3, 1, 0, 0, 'member')",
            (low, high, chat),
        )
        return chat, 0, 0, 1

    def _group(self, group: int) -> Chat:
        if not 1 <= group <= LARGEST_ID:
            raise NotFound("there is no such group")
        row = one_row(
            self._db,
            "SELECT m.seq, m.at, c.version FROM groups g JOIN chats c ON c.id = g.chat"
            f" LEFT JOIN messages m ON m.id = {newest('g.chat')} WHERE g.chat = ?",
            (group,),
        )
        if row is None:
            raise NotFound("there is no such group")
        head, at, version = row
        members = frozenset(uid for (uid,) in all_rows(self._db, "SELECT uid FROM members WHERE chat = ?", (group,)))
        return Chat(group, head or 0, at or 0, version, members, (group,))


def not_a_sender(draft: Draft) -> FluxError:
    """Why a draft's sender is not among its chat's senders."""
    return Forbidden("this user has blocked you" if draft.to else "you are not a member of this group")
