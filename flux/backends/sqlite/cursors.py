"""Where accounts stand in their chats, and all that a login shows."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from flux.backends.sqlite.accounts import profile
from flux.backends.sqlite.bans import ban_of
from flux.backends.sqlite.friends import blocked, friend_requests, friends
from flux.backends.sqlite.groups import groups
from flux.backends.sqlite.rows import all_rows
from flux.backends.sqlite.runs import UNREAD, head
from flux.backends.sqlite.writer import Writer
from flux.model.chats import Cursor, CursorMove
from flux.model.overview import Overview

# One statement for any number of moves: who may move how far, and then the rows that do move.
ADVANCE = f"""
    WITH asked AS (
        SELECT json_extract(value, '$[0]') AS uid, json_extract(value, '$[1]') AS number,
               json_extract(value, '$[2]') AS chat, json_extract(value, '$[3]') AS received,
               json_extract(value, '$[4]') AS read
        FROM json_each(?)),
    granted AS (
        SELECT a.uid, a.chat, max(a.received) AS received, max(a.read) AS read,
               {head("a.chat")} AS head
        FROM asked a JOIN sessions s ON s.uid = a.uid AND a.number >= s.number
        GROUP BY a.uid, a.chat)
    UPDATE members SET
        received = max(members.received, min(granted.received, granted.head)),
        read = max(members.read, min(granted.read, granted.head))
    FROM granted
    WHERE members.uid = granted.uid AND members.chat = granted.chat
        AND (members.received < min(granted.received, granted.head)
            OR members.read < min(granted.read, granted.head))"""

CURSORS = f"""
    SELECT mine.chat, ifnull(c.low + c.high - mine.uid, 0), mine.received, mine.read,
           {head("mine.chat")}, {UNREAD}
    FROM members mine JOIN chats c ON c.id = mine.chat
    WHERE mine.uid = ? ORDER BY mine.chat"""


def advance(writer: Writer, moves: Sequence[CursorMove]) -> None:
    """See ``IStore``; so for the other functions here."""
    if not moves:
        writer.prove()
        return
    rows = [(move.uid, move.number, move.chat, move.received, move.read) for move in moves]
    writer.db.execute(ADVANCE, (msgspec.json.encode(rows).decode(),))


def overview(db: sqlite3.Connection, uid: int) -> Overview:
    return Overview(
        profile=profile(db, uid),
        friends=friends(db, uid),
        requests=friend_requests(db, uid),
        groups=groups(db, uid),
        cursors=tuple(Cursor(*row) for row in all_rows(db, CURSORS, (uid,))),
        session=all_rows(db, "SELECT number FROM sessions WHERE uid = ?", (uid,))[0][0],
        ban=ban_of(db, uid),
        password_hash=all_rows(db, "SELECT password_hash FROM accounts WHERE id = ?", (uid,))[0][0],
        blocked=blocked(db, uid),
    )
