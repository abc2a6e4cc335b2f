"""Which messages a chat has: pieces of SQL over the two parts of that index.

An entry (chat, seq, sender, id of the message) is made in ``recent`` and moved to
``places`` some thousand at a time; the schema says why.  The entries of one chat in
``recent`` follow those in ``places``.
"""

from __future__ import annotations

import sqlite3

from flux.model import UNREAD_CAP

MOVE_EVERY = 4096
"""Messages after which ``recent`` is emptied. That takes some ms, half a microsecond per message; twice
as many take twice as long at once, and half as many would touch more pages of ``places`` per message."""


def head(chat: str) -> str:
    """The highest seq of the chat that the expression ``chat`` names, 0 without messages."""
    return (
        f"coalesce((SELECT max(seq) FROM recent WHERE chat = {chat}),"
        f" (SELECT max(seq) FROM places WHERE chat = {chat}), 0)"
    )


def newest(chat: str) -> str:
    """The id of the newest message of the chat that the expression ``chat`` names, NULL without messages."""
    return (
        f"coalesce((SELECT id FROM recent WHERE chat = {chat} ORDER BY seq DESC LIMIT 1),"
        f" (SELECT id FROM places WHERE chat = {chat} ORDER BY seq DESC LIMIT 1))"
    )


# Who joins has read everything up to then, so what is above read is at or above first.
LEFT_TO_READ = "chat = mine.chat AND seq > mine.read AND sender <> mine.uid"

UNREAD = f"""(
    SELECT count(*) FROM (
        SELECT 1 FROM places WHERE {LEFT_TO_READ} UNION ALL SELECT 1 FROM recent WHERE {LEFT_TO_READ}
        LIMIT {UNREAD_CAP}))"""
"""How many messages of others a row ``mine`` of members has left to read."""


def within(order: str) -> str:
    """The ids of at most ?4 messages of chat ?1 between the seqs ?2 and ?3, both exclusive."""
    chosen = "WHERE chat = ?1 AND seq > ?2 AND seq < ?3"
    return (
        f"SELECT id, seq FROM places {chosen} UNION ALL SELECT id, seq FROM recent {chosen}"
        f" ORDER BY seq {order} LIMIT ?4"
    )


def enter(db: sqlite3.Connection, count: int, last: int) -> None:
    """Make the entries of the ``count`` messages that were inserted up to the id ``last``."""
    db.execute(
        "INSERT OR ROLLBACK INTO recent SELECT chat, seq, sender, id FROM messages WHERE id > ?", (last - count,)
    )
    if last // MOVE_EVERY != (last - count) // MOVE_EVERY:
        db.execute("INSERT OR ROLLBACK INTO places SELECT * FROM recent")
        db.execute("DELETE FROM recent")
