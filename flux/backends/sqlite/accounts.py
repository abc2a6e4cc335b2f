"""Accounts, session numbers and boots."""

from __future__ import annotations

import sqlite3

from msgspec.structs import replace

from flux.backends.sqlite.chats import LARGEST_ID
from flux.backends.sqlite.rows import all_rows, one_row
from flux.backends.sqlite.writer import Writer
from flux.errors import UserExists, UserInvalid
from flux.model.people import Ban, Credentials, Profile
from flux.names import fold

LAST = "\U0010ffff"
"""Sorts after every character of a name: no Unicode character, and the highest code point there is."""

PROFILE = "id, name, nick, description, sex, icon"

CREDENTIALS = """
    SELECT a.id, a.name, a.password_hash, CASE WHEN a.verified IS NULL THEN '' ELSE a.email END, a.nick, a.description,
        a.sex, a.icon, b.reason, b.at, b.until
    FROM accounts a LEFT JOIN bans b ON b.network = '' AND b.uid = a.id"""

TAKEN = "this e-mail address belongs to another account"


def next_boot(writer: Writer, node: str) -> int:
    """See ``IStore``; so for the other functions here."""
    [(boot,)] = all_rows(
        writer.db,
        "INSERT INTO boots VALUES (?, 1) ON CONFLICT (node) DO UPDATE SET boot = boot + 1 RETURNING boot",
        (node,),
    )
    return int(boot)


def create_account(
    writer: Writer, name: str, key: str, password_hash: str, nick: str, email: str, icon: str, verified: str
) -> int:
    row = one_row(
        writer.db,
        "INSERT INTO accounts (name, key, password_hash, nick, email, icon, verified)"
        " VALUES (?, ?, ?, ?, ?, ?, nullif(?, '')) ON CONFLICT DO NOTHING RETURNING id",
        (name, key, password_hash, nick, email, icon, verified),
    )
    if row is None:
        if one_row(writer.db, "SELECT 1 FROM accounts WHERE key = ?", (key,)):
            raise UserExists("this name is taken")
        raise UserExists(TAKEN)
    writer.db.execute("INSERT INTO sessions VALUES (?, 0)", row)
    return int(row[0])


def credentials(db: sqlite3.Connection, uid: int, key: str, verified: str) -> Credentials | None:
    column, value = ("id", uid) if uid else ("key", key) if key else ("verified", verified)
    row = one_row(db, f"{CREDENTIALS} WHERE a.{column} = ?", (value,))
    if row is None:
        return None
    *_, reason, at, until = row
    known = Credentials(*row[:-3])
    return known if at is None else replace(known, ban=Ban(known.id, "", reason, at, until, known.name))


def set_email(writer: Writer, uid: int, email: str, verified: str) -> None:
    profile(writer.db, uid)
    if one_row(writer.db, "SELECT 1 FROM accounts WHERE verified = ? AND id <> ?", (verified, uid)):
        raise UserExists(TAKEN)
    writer.db.execute("UPDATE accounts SET email = ?, verified = ? WHERE id = ?", (email, verified, uid))


def set_password(writer: Writer, uid: int, password_hash: str, instead_of: str) -> bool:
    statement = "UPDATE accounts SET password_hash = ? WHERE id = ? AND ? IN ('', password_hash)"
    return writer.db.execute(statement, (password_hash, uid, instead_of)).rowcount > 0


def profile(db: sqlite3.Connection, uid: int) -> Profile:
    row = one_row(db, f"SELECT {PROFILE} FROM accounts WHERE id = ?", (uid,))
    if row is None:
        raise UserInvalid("there is no such user")
    return Profile(*row)


def set_profile(
    writer: Writer, uid: int, nick: str | None, description: str | None, sex: str | None, icon: str | None
) -> Profile:
    row = one_row(
        writer.db,
        "UPDATE accounts SET nick = ifnull(?, nick), description = ifnull(?, description),"
        f" sex = ifnull(?, sex), icon = ifnull(?, icon) WHERE id = ? RETURNING {PROFILE}",
        (nick, description, sex, icon, uid),
    )
    if row is None:
        raise UserInvalid("there is no such user")
    return Profile(*row)


def search(db: sqlite3.Connection, query: str, limit: int) -> tuple[Profile, ...]:
    prefix = fold(query)
    uid = int(query) if query.isascii() and query.isdecimal() and len(query) < 20 else 0
    rows = all_rows(
        db,
        f"SELECT {PROFILE}, key FROM accounts WHERE id = ?1"
        f" UNION SELECT * FROM (SELECT {PROFILE}, key FROM accounts WHERE key BETWEEN ?2 AND ?3 ORDER BY key LIMIT ?4)"
        " ORDER BY key LIMIT ?4",
        (min(uid, LARGEST_ID), prefix, prefix + LAST, limit),
    )
    return tuple(Profile(*row[:-1]) for row in rows)


def open_session(writer: Writer, uid: int) -> int:
    row = one_row(writer.db, "UPDATE sessions SET number = number + 1 WHERE uid = ? RETURNING number", (uid,))
    if row is None:
        raise UserInvalid("there is no such user")
    writer.sessions[uid] = number = int(row[0])
    return number


def return_session(writer: Writer, uid: int, number: int) -> None:
    row = one_row(
        writer.db,
        "UPDATE sessions SET number = number - 1 WHERE uid = ? AND number = ? RETURNING number",
        (uid, number),
    )
    if row is not None:
        writer.sessions[uid] = int(row[0])
