"""Removing old messages, a few chats at a time."""

from __future__ import annotations

from flux.backends.postgres.connection import Run

CHATS = 500
"""Chats looked at by one statement."""

# Nothing is looked at while another node does the same. Of a chat whose oldest message is young no other is read.
PRUNE = f"""
    WITH looked AS (
        SELECT id, head FROM chats
        WHERE id > %(after)s AND (SELECT pg_try_advisory_xact_lock('messages'::regclass::bigint))
        ORDER BY id LIMIT {CHATS}),
    old AS (
        SELECT l.id AS chat, m.seq FROM looked l
        CROSS JOIN LATERAL (
            SELECT least(l.head - 1, coalesce(min(received), l.head)) AS upto FROM members WHERE chat = l.id) r
        CROSS JOIN LATERAL (
            SELECT seq, at FROM messages WHERE chat = l.id AND seq <= r.upto
                AND (SELECT o.at FROM messages o WHERE o.chat = l.id ORDER BY o.seq LIMIT 1) < %(before)s
            ORDER BY seq LIMIT %(limit)s) m
        WHERE m.at < %(before)s ORDER BY l.id, m.seq LIMIT %(limit)s),
    removed AS (
        DELETE FROM messages m USING old WHERE m.chat = old.chat AND m.seq = old.seq RETURNING 1)
    SELECT coalesce((SELECT CASE WHEN count(*) = {CHATS} THEN max(id) ELSE 0 END FROM looked), 0),
        (SELECT count(*) FROM removed)"""


async def prune(run: Run, before: int, after: int, limit: int) -> tuple[int, int]:
    """Remove messages of the next chats after the chat ``after``.

    :return: the chat after which to go on, 0 if that were the last ones; and how many messages were removed.
    """
    [(upto, removed)] = await run(PRUNE, {"before": before, "after": after, "limit": limit})
    return upto, removed
