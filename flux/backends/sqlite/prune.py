"""Removing old messages: readers find what may go, a few chats at a time, and the writer removes it.

Whole runs go. Between finding one and removing it nothing can happen that would make it stay: cursors only move
forward, and who joins a chat begins at its head.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from flux.backends.sqlite.chats import LARGEST_ID
from flux.backends.sqlite.rows import all_rows
from flux.backends.sqlite.runs import head
from flux.backends.sqlite.writer import Writer

CHATS = 500
"""Chats looked at in one snapshot."""

RUNS = 32
"""Runs of a chat looked at in one statement."""

# A chat that nobody is in any more has no cursor to wait for. Its newest run says how far it has come, and stays.
UPTO = f"""
    SELECT c.id, min({head("c.id")} - 1,
                     ifnull((SELECT min(received) FROM members WHERE chat = c.id), {LARGEST_ID}))
    FROM chats c WHERE c.id >= ? ORDER BY c.id LIMIT {CHATS}"""


def _part(name: str) -> str:
    return (
        f"SELECT seq, id, count, (SELECT at FROM messages m WHERE m.id = r.id) FROM {name} r"
        " WHERE chat = ?1 AND seq > ?2 AND seq <= ?3"
    )


OLDEST = f"{_part('runs')} UNION ALL {_part('recent_runs')} ORDER BY seq LIMIT {RUNS}"


class Old(NamedTuple):
    """A run that may go; see ``runs.py`` for what its values mean."""

    chat: int
    seq: int
    id: int
    messages: int


def find(db: sqlite3.Connection, before: int, start: int, limit: int) -> tuple[list[Old], int]:
    """Runs older than ``before`` that have arrived everywhere, of the next chats from ``start`` on.

    :param limit: messages after which it is enough.
    :return: also the chat to go on with, 0 after the last.
    """
    found: list[Old] = []
    chats = all_rows(db, UPTO, (start,))
    for chat, upto in chats:
        after = 0
        while after < upto:
            runs = all_rows(db, OLDEST, (chat, after, upto))
            old = [Old(chat, seq, number, count) for seq, number, count, at in runs if at < before]
            for run in old:
                found.append(run)
                limit -= run.messages
                if limit <= 0:
                    return found, chat
            if len(old) < RUNS:
                break
            after = old[-1].seq
    return found, chats[-1][0] + 1 if len(chats) == CHATS else 0


def remove(writer: Writer, runs: Sequence[Old]) -> int:
    """Remove runs that were found; returns how many messages they had."""
    removed = 0
    for chat, seq, last, count in runs:
        removed += writer.db.execute("DELETE FROM messages WHERE id BETWEEN ? AND ?", (last - count + 1, last)).rowcount
        for part in ("runs", "recent_runs"):
            writer.db.execute(f"DELETE FROM {part} WHERE chat = ? AND seq = ?", (chat, seq))
    return removed
