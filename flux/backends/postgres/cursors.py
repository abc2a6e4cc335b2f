"""Where accounts stand in their chats, and all that a login shows."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from flux.backends.postgres.arrays import integers
from flux.backends.postgres.connection import Prepared, Run
from flux.errors import FluxError, UserInvalid
from flux.model.chats import UNREAD_AMONG, UNREAD_CAP, CursorMove
from flux.model.overview import Overview

# Who joins has read everything up to then, so what is above read is at or above first.
UNREAD = f"""(
    SELECT count(*) FROM (
        SELECT FROM messages u
        WHERE u.chat = mine.chat AND u.seq > greatest(mine.read, c.head - {UNREAD_AMONG}) AND u.sender <> mine.uid
        LIMIT {UNREAD_CAP}) unread)"""
"""How many messages of others a row ``mine`` of members, with its chat ``c``, has left to read (``Cursor.unread``)."""


def _list(statement: str) -> str:
    return f"(SELECT coalesce(json_agg(item), '[]') FROM ({statement}) item)"


# The text of each is an Overview in JSON. What is read of groups and chats is fenced off (OFFSET 0), or it is read
# before members where the statistics know of somebody who is in very many: then each login goes through all groups.
OVERVIEWS = Prepared(f"""
    SELECT a.id, json_build_object(
        'profile', json_build_object('id', a.id, 'name', a.name, 'nick', a.nick, 'description', a.description,
            'sex', a.sex, 'icon', a.icon),
        'friends', {
    _list('''
            SELECT o.id, o.name, o.nick, f.remark, f.mutual FROM friends f JOIN accounts o ON o.id = f.friend
            WHERE f.uid = a.id ORDER BY o.key''')
},
        'requests', {
    _list('''
            SELECT r.sender AS "from", o.name, r.note, r.at FROM friend_requests r JOIN accounts o ON o.id = r.sender
            WHERE r.uid = a.id ORDER BY r.at, r.sender''')
},
        'groups', {
    _list('''
            SELECT g.chat AS "group", g.chat, g.name, g.description, m.role
            FROM members m CROSS JOIN LATERAL (SELECT * FROM groups WHERE groups.chat = m.chat OFFSET 0) g
            WHERE m.uid = a.id ORDER BY g.chat''')
},
        'cursors', {
    _list(f'''
            SELECT mine.chat, coalesce(c.low + c.high - mine.uid, 0) AS peer, mine.received, mine.read, c.head,
                {UNREAD} AS unread
            FROM members mine CROSS JOIN LATERAL (SELECT * FROM chats WHERE chats.id = mine.chat OFFSET 0) c
            WHERE mine.uid = a.id ORDER BY mine.chat''')
},
        'session', s.number, 'password_hash', a.password_hash,
        'ban', (SELECT json_build_object('uid', b.uid, 'reason', b.reason, 'at', b.at, 'until', b.until, 'name', a.name)
            FROM bans b WHERE b.network = '' AND b.uid = a.id),
        'blocked', ARRAY(SELECT o.blocked FROM blocks o WHERE o.uid = a.id ORDER BY o.blocked))::text
    FROM accounts a JOIN sessions s ON s.uid = a.id WHERE a.id = ANY (%s::bigint[])""")

_decode = msgspec.json.Decoder(Overview).decode


ADVANCE = Prepared("SELECT advance(%s, %s, %s, %s, %s)")


async def advance(run: Run, moves: Sequence[CursorMove]) -> None:
    """See ``IStore``; so for the other functions here."""
    await run(
        ADVANCE,
        (
            integers([move.uid for move in moves]),
            integers([move.number for move in moves]),
            integers([move.chat for move in moves]),
            integers([move.received for move in moves]),
            integers([move.read for move in moves]),
        ),
    )


async def overviews(run: Run, uids: Sequence[int]) -> list[Overview | FluxError]:
    """Those of several accounts, in one snapshot."""
    found: dict[int, str] = dict(await run(OVERVIEWS, (integers(uids),)))
    return [_decode(found[uid]) if uid in found else UserInvalid("there is no such user") for uid in uids]
