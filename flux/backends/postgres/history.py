"""Reading messages: history, what is still to be pushed, the conversation list.

The statement that reads messages also checks membership.
"""

from __future__ import annotations

from flux.backends.postgres.append import LARGEST_ID
from flux.backends.postgres.connection import Prepared, Run
from flux.backends.postgres.cursors import UNREAD
from flux.backends.reading import conversation, message
from flux.errors import Forbidden, NotFound
from flux.model.chats import SMALL_CHAT
from flux.model.messages import Conversation, Message, Page


def _page(order: str, chosen: str) -> Prepared:
    """(the chat, as its member may see it, and a message) for each message; if there is none, one row without.

    Its values: the account; the seqs between which the messages are, both exclusive; those of ``chosen``; how many.
    """
    return Prepared(f"""
        SELECT c.id, c.low, c.high, mine.first, m.*
        FROM (SELECT %s::bigint AS uid, %s::bigint AS after, %s::bigint AS before) asked
        JOIN chats c ON {chosen}
        LEFT JOIN groups g ON g.chat = c.id
        LEFT JOIN members mine ON mine.chat = c.id AND mine.uid = asked.uid
        LEFT JOIN LATERAL (
            SELECT m.seq, m.sender, a.name, m.text, m.at FROM messages m JOIN accounts a ON a.id = m.sender
            WHERE mine.first IS NOT NULL AND m.chat = c.id AND m.seq < asked.before
                AND m.seq > greatest(asked.after, CASE WHEN g.open_history THEN 0 ELSE mine.first - 1 END)
            ORDER BY m.seq {order} LIMIT %s) m ON true
        ORDER BY m.seq {order}""")


CHOICES = {"chat": "c.id = %s", "group": "c.id = %s AND c.low IS NULL", "pair": "c.low = %s AND c.high = %s"}
OLDEST = {what: _page("ASC", chosen) for what, chosen in CHOICES.items()}
NEWEST = {what: _page("DESC", chosen) for what, chosen in CHOICES.items()}

FILL = Prepared("""
    SELECT c.low, c.high, m.seq, m.sender, a.name, m.text, m.at
    FROM members mine
    JOIN chats c ON c.id = mine.chat
    JOIN messages m ON m.chat = mine.chat AND m.seq >= mine.first
    JOIN accounts a ON a.id = m.sender
    WHERE mine.uid = %s AND mine.chat = %s AND m.seq > %s
    ORDER BY m.seq LIMIT %s""")

# Who joins has read everything up to then by definition, and shows nothing until it reads what is at or above first.
READ_BY = f"""coalesce(
    CASE WHEN NOT c.barred
        AND (SELECT count(*) FROM (SELECT FROM members WHERE chat = c.id LIMIT {SMALL_CHAT + 1}) few) <= {SMALL_CHAT}
    THEN (
        SELECT max(o.read) FROM members o
        WHERE o.chat = c.id AND o.uid <> mine.uid AND o.read >= o.first
            AND NOT EXISTS (SELECT FROM blocks b WHERE b.uid = mine.uid AND b.blocked = o.uid))
    END, 0)"""
"""How far another member of a chat ``c`` has read, as far as the account of ``mine`` is shown that
(``Conversation.read_by``). A chat is barred where one of its two members has blocked the other."""

CONVERSATIONS = Prepared(f"""
    SELECT c.id, c.low, c.high, coalesce(mine.name, p.name), l.seq, l.sender, a.name, l.text, l.at, {UNREAD}, mine.read,
        {READ_BY}
    FROM (
        SELECT m.uid, m.chat, m.read, c.head, c.at, g.name
        FROM members m
        JOIN chats c ON c.id = m.chat
        LEFT JOIN groups g ON g.chat = m.chat
        WHERE m.uid = %s AND c.head > 0 AND (c.head >= m.first OR g.open_history)
        ORDER BY c.at DESC, m.chat DESC LIMIT %s) mine
    JOIN messages l ON l.chat = mine.chat AND l.seq = mine.head
    JOIN accounts a ON a.id = l.sender
    JOIN chats c ON c.id = mine.chat
    LEFT JOIN accounts p ON p.id = c.low + c.high - mine.uid
    ORDER BY mine.at DESC, mine.chat DESC""")


async def history(run: Run, uid: int, chat: int, to: int, group: int, before: int, after: int, limit: int) -> Page:
    """See ``IStore``; so for the other functions here."""
    backwards = after < 0
    statements = NEWEST if backwards else OLDEST
    asked = (uid, after, before or LARGEST_ID)
    if to:
        rows = await run(statements["pair"], (*asked, min(uid, to), max(uid, to), limit + 1))
    else:
        rows = await run(statements["group" if group else "chat"], (*asked, group or chat, limit + 1))
    if not rows:
        if to:
            return Page(0, (), False)
        raise NotFound("there is no such group" if group else "there is no such chat")
    chat, low, high, first, seq, *_ = rows[0]
    if first is None:
        raise Forbidden("you are not a member of this chat")
    found = [message(chat, low, high, row[4:]) for row in rows[:limit]] if seq is not None else []
    if backwards:
        found.reverse()
    return Page(chat, tuple(found), len(rows) > limit)


async def fill(run: Run, uid: int, chat: int, after: int, limit: int) -> tuple[Message, ...]:
    rows = await run(FILL, (uid, chat, after, limit))
    return tuple(message(chat, row[0], row[1], row[2:]) for row in rows)


async def conversations(run: Run, uid: int, limit: int) -> tuple[Conversation, ...]:
    return tuple(conversation(uid, row) for row in await run(CONVERSATIONS, (uid, limit)))
