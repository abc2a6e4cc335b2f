"""Reading messages: history, what is still to be pushed, the conversation list."""

from __future__ import annotations

import sqlite3

from flux.backends.reading import conversation, message
from flux.backends.sqlite.chats import LARGEST_ID
from flux.backends.sqlite.rows import all_rows, one_row
from flux.backends.sqlite.runs import UNREAD, newest, within
from flux.errors import Forbidden, NotFound
from flux.model.chats import SMALL_CHAT
from flux.model.messages import Conversation, Message, Page


def _messages(order: str) -> str:
    return (
        f"SELECT m.seq, m.sender, a.name, m.text, m.at FROM ({within(order)}) chosen"
        " JOIN messages m ON m.id BETWEEN chosen.first AND chosen.last"
        f" JOIN accounts a ON a.id = m.sender ORDER BY m.seq {order}"
    )


OLDEST = _messages("ASC")
NEWEST = _messages("DESC")

# Who joins has read everything up to then by definition, and shows nothing until it reads what is at or above first.
READ_BY = f"""ifnull(
    CASE WHEN (SELECT count(*) FROM (SELECT 1 FROM members WHERE chat = c.id LIMIT {SMALL_CHAT + 1})) <= {SMALL_CHAT}
    THEN (
        SELECT max(o.read) FROM members o
        WHERE o.chat = c.id AND o.uid <> ?1 AND o.read >= o.first
            AND o.uid NOT IN (SELECT blocked FROM blocks WHERE uid = ?1)
            AND (c.low IS NULL OR NOT EXISTS (SELECT 1 FROM blocks WHERE uid = o.uid AND blocked = ?1)))
    END, 0)"""
"""How far another member of a chat ``c`` has read, as far as ?1 is shown that (``Conversation.read_by``)."""

CONVERSATIONS = f"""
    WITH mine AS (
        SELECT m.uid, m.chat, m.first, m.read, l.id AS last
        FROM members m
        JOIN messages l ON l.id = {newest("m.chat")}
        LEFT JOIN groups g ON g.chat = m.chat
        WHERE m.uid = ?1 AND (l.seq >= m.first OR g.open_history)
        ORDER BY l.at DESC, m.chat DESC LIMIT ?2)
    SELECT c.id, c.low, c.high, ifnull(g.name, p.name), l.seq, l.sender, a.name, l.text, l.at, {UNREAD}, mine.read,
        {READ_BY}
    FROM mine
    JOIN messages l ON l.id = mine.last
    JOIN accounts a ON a.id = l.sender
    JOIN chats c ON c.id = mine.chat
    LEFT JOIN groups g ON g.chat = c.id
    LEFT JOIN accounts p ON p.id = c.low + c.high - ?1
    ORDER BY l.at DESC, c.id DESC"""


def history(
    db: sqlite3.Connection, uid: int, chat: int, to: int, group: int, before: int, after: int, limit: int
) -> Page:
    """See ``IStore``; so for the other functions here."""
    if to:
        found = one_row(db, "SELECT id FROM chats WHERE low = ? AND high = ?", (min(uid, to), max(uid, to)))
        if found is None:
            return Page(0, (), False)
        chat = found[0]
    row = one_row(
        db,
        "SELECT c.low, c.high, m.first, g.open_history FROM chats c"
        " LEFT JOIN groups g ON g.chat = c.id LEFT JOIN members m ON m.chat = c.id AND m.uid = ?"
        " WHERE c.id = ? AND (g.chat IS NOT NULL OR NOT ?)",
        (uid, chat or group, bool(group)),
    )
    if row is None:
        raise NotFound("there is no such group" if group else "there is no such chat")
    low, high, first, open_history = row
    chat = chat or group
    if first is None:
        raise Forbidden("you are not a member of this chat")
    floor = 0 if open_history else first - 1
    rows = all_rows(
        db,
        NEWEST if after < 0 else OLDEST,
        (chat, max(after, floor), before or LARGEST_ID, limit + 1),
    )
    messages = [message(chat, low, high, row) for row in rows[:limit]]
    if after < 0:
        messages.reverse()
    return Page(chat, tuple(messages), len(rows) > limit)


def fill(db: sqlite3.Connection, uid: int, chat: int, after: int, limit: int) -> tuple[Message, ...]:
    row = one_row(
        db,
        "SELECT c.low, c.high, m.first FROM members m JOIN chats c ON c.id = m.chat WHERE m.uid = ? AND m.chat = ?",
        (uid, chat),
    )
    if row is None:
        return ()
    low, high, first = row
    rows = all_rows(db, OLDEST, (chat, max(after, first - 1), LARGEST_ID, limit))
    return tuple(message(chat, low, high, row) for row in rows)


def conversations(db: sqlite3.Connection, uid: int, limit: int) -> tuple[Conversation, ...]:
    return tuple(conversation(uid, row) for row in all_rows(db, CONVERSATIONS, (uid, limit)))
