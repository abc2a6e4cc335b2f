"""Which messages a chat has: rows of many at once, and pieces of SQL over the two parts of that index.

A run is what came into a chat within one batch.  Its messages have successive seqs and
successive ids; an entry names those of the last one and how many there are.  So an entry
with ``seq`` s, ``id`` i and ``count`` n stands for the seqs s-n+1 .. s, and the message
with seq x has the id i - s + x.

Entries are made in ``recent_runs`` and moved to ``runs`` some thousand messages at a
time; the schema says why.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from itertools import chain

from flux.model.chats import UNREAD_AMONG, UNREAD_CAP

Run = list[int | str]
"""Values of the rows of messages, :data:`COLUMNS` each, all of one chat."""

COLUMNS = 6
CHAT, SEQ, SENDER = 0, 1, 2

SEVERAL = 0
"""The sender of a run that has several."""

MOVE_EVERY = 4096
"""Messages after which ``recent_runs`` is emptied, which takes up to 10 ms. Twice as many take twice as long
at once; half as many would touch more pages of ``runs`` per message."""

Statements = list[tuple[int, str]]


def _statements(beginning: str, columns: int) -> Statements:
    """(rows, statement) for powers of two, the largest first; SQLite takes 32,766 parameters unless built otherwise.

    One statement takes many rows because each ``sqlite3_step`` lets go of Python's global
    lock, and on a busy core another thread takes it: a row at a time costs a switch per row.
    """
    row = f"({', '.join('?' * columns)})"
    return [(1 << power, f"{beginning} VALUES {', '.join([row] * (1 << power))}") for power in reversed(range(11))]


# OR ROLLBACK: what it stops is rolled back anyway, and without it SQLite keeps a journal
# of its own for each statement that may stop halfway.
MESSAGES = _statements("INSERT OR ROLLBACK INTO messages (chat, seq, sender, at, cid, text)", COLUMNS)
ENTRIES = _statements("INSERT OR ROLLBACK INTO recent_runs (chat, seq, sender, id, count)", 5)


def insert(db: sqlite3.Connection, runs: Collection[Run]) -> None:
    """Insert messages, run by run, and make the entries."""
    if not runs:
        return
    values = list(chain.from_iterable(runs))
    last = _insert(db, MESSAGES, COLUMNS, values)
    first = last - len(values) // COLUMNS
    entries: list[int | str] = []
    end = first
    for run in runs:
        count = len(run) // COLUMNS
        end += count
        sender = run[SENDER]
        if count > 1 and run[SENDER::COLUMNS].count(sender) < count:
            sender = SEVERAL
        entries += (run[CHAT], run[SEQ - COLUMNS], sender, end, count)
    _insert(db, ENTRIES, 5, entries)
    if last // MOVE_EVERY != first // MOVE_EVERY:
        db.execute("INSERT OR ROLLBACK INTO runs SELECT * FROM recent_runs")
        db.execute("DELETE FROM recent_runs")


def _insert(db: sqlite3.Connection, statements: Statements, columns: int, values: list[int | str]) -> int:
    """Insert rows in few statements; returns the id of the last one."""
    done, last = 0, 0
    for rows, statement in statements:
        width = rows * columns
        while len(values) - done >= width:
            last = db.execute(statement, values[done : done + width]).lastrowid or 0
            done += width
    return last


# --- pieces of SQL -----------------------------------------------------------


def head(chat: str) -> str:
    """The highest seq of the chat that the expression ``chat`` names, 0 without messages."""
    return (
        f"coalesce((SELECT max(seq) FROM recent_runs WHERE chat = {chat}),"
        f" (SELECT max(seq) FROM runs WHERE chat = {chat}), 0)"
    )


def newest(chat: str) -> str:
    """The id of the newest message of the chat that the expression ``chat`` names, NULL without messages."""
    return (
        f"coalesce((SELECT id FROM recent_runs WHERE chat = {chat} ORDER BY seq DESC LIMIT 1),"
        f" (SELECT id FROM runs WHERE chat = {chat} ORDER BY seq DESC LIMIT 1))"
    )


# Who joins has read everything up to then, so what is above read is at or above first.
_LEFT_TO_READ = f"""
            SELECT CASE r.sender WHEN {SEVERAL} THEN (
                SELECT count(*) FROM messages
                WHERE id > r.id - min(r.count, r.seq - beneath) AND id <= r.id AND sender <> mine.uid)
            ELSE min(r.count, r.seq - beneath) END AS messages
            FROM counted CROSS JOIN {{part}} r WHERE r.chat = mine.chat AND r.seq > beneath AND r.sender <> mine.uid"""

# Only the run that is cut may have no message of others.
UNREAD = f"""ifnull((
    WITH counted AS (SELECT max(mine.read, {head("mine.chat")} - {UNREAD_AMONG}) AS beneath)
    SELECT min(sum(messages), {UNREAD_CAP}) FROM ({_LEFT_TO_READ.format(part="runs")}
            UNION ALL {_LEFT_TO_READ.format(part="recent_runs")} LIMIT {UNREAD_CAP + 1})), 0)"""
"""How many messages of others a row ``mine`` of members has left to read (``Cursor.unread``)."""


def within(order: str) -> str:
    """Ranges of ids, ``first`` to ``last``, of the messages of chat ?1 between the seqs ?2 and ?3.

    Both are exclusive.  Together the ranges hold the lowest ?4 messages, or with the
    order ``DESC`` the highest, or all if there are fewer.
    """
    # The run that ?3 cuts is the first one that ends at ?3 - 1 or above.
    chosen = """WHERE chat = ?1 AND seq > ?2 AND seq <= coalesce(
                (SELECT min(seq) FROM runs WHERE chat = ?1 AND seq >= ?3 - 1),
                (SELECT min(seq) FROM recent_runs WHERE chat = ?1 AND seq >= ?3 - 1), ?3)"""
    cut = "id - seq AS shift, seq, max(seq - count, ?2) AS low, min(seq, ?3 - 1) AS high"
    first, last = (
        ("low", "min(high, low + ?4 - earlier)") if order == "ASC" else ("max(low, high - ?4 + earlier)", "high")
    )
    return f"""
        SELECT shift + {first} + 1 AS first, shift + {last} AS last FROM (
            SELECT shift, low, high, sum(high - low) OVER (ORDER BY seq {order}) - (high - low) AS earlier FROM (
                SELECT {cut} FROM runs {chosen} UNION ALL SELECT {cut} FROM recent_runs {chosen}
                ORDER BY seq {order} LIMIT ?4))
        WHERE earlier < ?4"""
