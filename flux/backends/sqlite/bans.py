"""Who is kept out."""

from __future__ import annotations

import sqlite3

from flux.backends.sqlite.accounts import profile
from flux.backends.sqlite.rows import all_rows
from flux.backends.sqlite.writer import Writer
from flux.model.people import Ban

NAMED = (
    "SELECT b.uid, b.network, b.reason, b.at, b.until, ifnull(a.name, '')"
    " FROM bans b LEFT JOIN accounts a ON a.id = b.uid"
)


def ban(writer: Writer, new: Ban) -> None:
    """See ``IStore``; so for the other functions here."""
    if new.uid:
        profile(writer.db, new.uid)
    writer.db.execute("DELETE FROM bans WHERE until > 0 AND until <= ?", (new.at,))
    writer.db.execute(
        "INSERT INTO bans (network, uid, reason, at, until) VALUES (?, ?, ?, ?, ?) ON CONFLICT (network, uid)"
        " DO UPDATE SET reason = excluded.reason, at = excluded.at, until = excluded.until",
        (new.network, new.uid, new.reason, new.at, new.until),
    )


def unban(writer: Writer, uid: int, network: str) -> bool:
    gone = writer.db.execute("DELETE FROM bans WHERE network = ? AND uid = ?", (network, uid))
    return gone.rowcount > 0


def bans(db: sqlite3.Connection, limit: int) -> tuple[Ban, ...]:
    rows = all_rows(db, f"{NAMED} WHERE b.at >= 0 ORDER BY b.at DESC, b.network, b.uid LIMIT ?", (limit,))
    return tuple(Ban(*row) for row in rows)


def network_bans(db: sqlite3.Connection) -> tuple[Ban, ...]:
    return tuple(Ban(*row) for row in all_rows(db, f"{NAMED} WHERE b.network > '' ORDER BY b.network", ()))


def ban_of(db: sqlite3.Connection, uid: int) -> Ban | None:
    """The ban of an account."""
    rows = all_rows(db, f"{NAMED} WHERE b.network = '' AND b.uid = ?", (uid,))
    return Ban(*rows[0]) if rows else None
