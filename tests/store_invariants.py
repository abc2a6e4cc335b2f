"""What is true of a store after anything that can happen to it.

Each invariant is a query for the rows that break it.  The tables are named as in the
migrations, and the SQL is what SQLite and PostgreSQL have in common.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2

SEQS = "per chat the seqs are without gaps from 1 to the head"

INVARIANTS = {
    SEQS: (
        "SELECT chat, count(*), min(seq), max(seq) FROM messages GROUP BY chat"
        " HAVING min(seq) <> 1 OR max(seq) <> count(*) OR count(DISTINCT seq) <> count(*)"
    ),
    "time never goes back within a chat": (
        "SELECT chat, seq FROM (SELECT chat, seq, at, lag(at) OVER (PARTITION BY chat ORDER BY seq) AS earlier"
        " FROM messages) timed WHERE at < earlier"
    ),
    "(chat, sender, cid) is unique": (
        "SELECT chat, sender, cid FROM messages WHERE cid <> '' GROUP BY chat, sender, cid HAVING count(*) > 1"
    ),
    "every message is in a chat, from an account": (
        "SELECT m.chat, m.seq FROM messages m LEFT JOIN chats c ON c.id = m.chat"
        " LEFT JOIN accounts a ON a.id = m.sender WHERE c.id IS NULL OR a.id IS NULL"
    ),
    "a one-to-one message is from one of the two": (
        "SELECT m.chat, m.seq FROM messages m JOIN chats c ON c.id = m.chat"
        " WHERE c.low IS NOT NULL AND m.sender NOT IN (c.low, c.high)"
    ),
    "cursors are between first - 1 and the head": (
        "SELECT m.uid, m.chat, m.received, m.read, m.first, h.head FROM members m"
        " LEFT JOIN (SELECT chat, max(seq) AS head FROM messages GROUP BY chat) h ON h.chat = m.chat"
        " WHERE m.received < m.first - 1 OR m.read < m.first - 1 OR m.first < 1"
        " OR m.received > coalesce(h.head, 0) OR m.read > coalesce(h.head, 0)"
    ),
    "a pair is two different accounts in order, and has one chat": (
        "SELECT low, high FROM chats WHERE low IS NOT NULL GROUP BY low, high HAVING count(*) > 1 OR low >= high"
    ),
    "the members of a one-to-one chat are its two accounts, from the first message on": (
        "SELECT c.id FROM chats c LEFT JOIN members m ON m.chat = c.id WHERE c.low IS NOT NULL GROUP BY c.id"
        " HAVING count(m.uid) <> 2 OR min(m.uid) <> min(c.low) OR max(m.uid) <> min(c.high) OR max(m.first) <> 1"
    ),
    "a chat is a pair or a group": (
        "SELECT c.id FROM chats c LEFT JOIN groups g ON g.chat = c.id WHERE (c.low IS NULL) <> (g.chat IS NOT NULL)"
    ),
    "a group that has members has one owner": (
        "SELECT m.chat FROM members m JOIN groups g ON g.chat = m.chat GROUP BY m.chat"
        " HAVING sum(CASE WHEN m.role = 'owner' THEN 1 ELSE 0 END) <> 1"
    ),
    "a friendship is mutual in both lists": (
        "SELECT f.uid, f.friend FROM friends f LEFT JOIN friends b ON b.uid = f.friend AND b.friend = f.uid"
        " WHERE f.uid = f.friend OR (f.mutual AND (b.mutual IS NULL OR NOT b.mutual))"
    ),
    "friends have no request open": (
        "SELECT r.uid, r.sender FROM friend_requests r JOIN friends f ON f.uid = r.uid AND f.friend = r.sender"
        " WHERE f.mutual"
    ),
    "friends have not blocked each other": (
        "SELECT f.uid, f.friend FROM friends f JOIN blocks b"
        " ON (b.uid = f.uid AND b.blocked = f.friend) OR (b.uid = f.friend AND b.blocked = f.uid) WHERE f.mutual"
    ),
    "who was removed from a group is no member": (
        "SELECT r.uid, r.chat FROM removals r JOIN members m ON m.uid = r.uid AND m.chat = r.chat"
    ),
    "every account has a session number": (
        "SELECT a.id FROM accounts a LEFT JOIN sessions s ON s.uid = a.id WHERE s.uid IS NULL OR s.number < 0"
    ),
}

PRUNED = {
    SEQS: (
        "SELECT chat, count(*), min(seq), max(seq) FROM messages m GROUP BY chat"
        " HAVING min(seq) < 1 OR max(seq) - min(seq) + 1 <> count(*) OR count(DISTINCT seq) <> count(*)"
        " OR min(seq) - 1 > (SELECT coalesce(min(received), max(m.seq)) FROM members WHERE members.chat = m.chat)"
    ),
}
"""Instead, where old messages were removed: the first ones may be missing, if they have arrived everywhere."""

RUNS = "(SELECT * FROM runs UNION ALL SELECT * FROM recent_runs)"

INDEX = {
    "the messages of a run follow each other": (
        f"SELECT r.chat, r.seq, m.chat, m.seq, m.sender FROM {RUNS} r"
        " JOIN messages m ON m.id BETWEEN r.id - r.count + 1 AND r.id"
        " WHERE m.chat <> r.chat OR (r.sender <> 0 AND m.sender <> r.sender) OR m.seq - m.id <> r.seq - r.id"
    ),
    "every message is in one run": (
        "SELECT * FROM (SELECT count(*) AS messages FROM messages) t, (SELECT count(DISTINCT m.id) AS inside,"
        f" count(*) AS times FROM {RUNS} r LEFT JOIN messages m ON m.id BETWEEN r.id - r.count + 1 AND r.id) c"
        " WHERE messages > 0 AND (inside <> messages OR times <> messages)"
    ),
    "recent runs follow the others": (
        "SELECT r.chat, r.seq FROM recent_runs r JOIN runs o ON o.chat = r.chat AND o.seq > r.seq - r.count"
    ),
}
"""The same for what is SQLite's own: which messages a chat has stands in two tables."""


HEADS = {
    "a chat's head is its newest message": (
        "SELECT c.id, c.head, c.at, m.seq, m.at FROM chats c LEFT JOIN messages m ON m.chat = c.id AND m.seq = c.head"
        " LEFT JOIN (SELECT chat, max(seq) AS seq FROM messages GROUP BY chat) h ON h.chat = c.id"
        " WHERE c.head <> coalesce(h.seq, 0) OR c.at <> coalesce(m.at, 0)"
    ),
    "a chat is barred where one has blocked the other": (
        "SELECT c.id FROM chats c WHERE c.barred <> EXISTS (SELECT FROM blocks b"
        " WHERE (b.uid = c.low AND b.blocked = c.high) OR (b.uid = c.high AND b.blocked = c.low))"
    ),
}
"""The same for what is PostgreSQL's own: what stands at a chat."""


def violations(
    invariants: dict[str, str], query: Callable[[str], list[tuple[Any, ...]]]
) -> dict[str, list[tuple[Any, ...]]]:
    """The broken invariants, each with the rows that break it."""
    return {name: rows for name, statement in invariants.items() if (rows := query(statement))}


def check_file(path: Path, pruned: bool = False) -> None:
    """Check an SQLite file: the invariants, and that the file itself is whole. It may be in use.

    :param pruned: old messages may have been removed.
    """
    invariants = INVARIANTS | INDEX | (PRUNED if pruned else {})
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        broken = violations(invariants, lambda statement: db.execute(statement).fetchall())
    # pytest does not explain what is asserted here.
    assert not broken, broken


def check_invariants(store: Any, pruned: bool = False) -> None:
    """Check a ``SqliteStore``, running or stopped."""
    check_file(store.path, pruned)


def check_database(cursor: Any, pruned: bool = False) -> None:
    """Check a PostgreSQL database."""

    def query(statement: str) -> list[tuple[Any, ...]]:
        cursor.execute(statement)
        return cursor.fetchall()

    broken = violations(INVARIANTS | HEADS | (PRUNED if pruned else {}), query)
    assert not broken, broken


def check_dsn(dsn: str, perhaps_empty: bool = False) -> None:
    """The same, found by its connection string. It may be in use.

    :param perhaps_empty: no server need have made its tables.
    """
    with closing(psycopg2.connect(dsn)) as db:
        # All statements look at one moment.
        db.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with db.cursor() as cursor:
            if perhaps_empty:
                cursor.execute("SELECT to_regclass('flux_migrations') IS NULL")
                if cursor.fetchone() == (True,):
                    return
            check_database(cursor)
