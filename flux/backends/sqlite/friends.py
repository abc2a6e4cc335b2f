"""Friends, requests and blocks.

A friendship is two rows of ``friends``, one in each list; a one-sided entry is one
row that is not ``mutual``.
"""

from __future__ import annotations

import sqlite3

from flux.backends.sqlite.rows import all_rows, one_row
from flux.backends.sqlite.writer import Writer
from flux.errors import BadRequest, Forbidden, NotFound, UserInvalid
from flux.model.people import Friend, FriendRequest, FriendStatus

BARRED = "SELECT 1 FROM blocks WHERE uid IN (?1, ?2) AND blocked IN (?1, ?2) AND uid <> blocked"


def friend_add(writer: Writer, uid: int, to: int, note: str, remark: str, one_sided: bool) -> FriendStatus:
    """See ``IStore``; so for the other functions here."""
    db = writer.db
    if uid == to:
        raise BadRequest("to: this is yourself")
    if not one_row(db, "SELECT 1 FROM accounts WHERE id = ?", (to,)):
        raise UserInvalid("there is no such user")
    if one_row(db, "SELECT 1 FROM blocks WHERE uid = ? AND blocked = ?", (to, uid)):
        raise Forbidden("this user has blocked you")
    if one_row(db, "SELECT 1 FROM friends WHERE uid = ? AND friend = ? AND mutual", (uid, to)):
        if remark:
            db.execute("UPDATE friends SET remark = ? WHERE uid = ? AND friend = ?", (remark, uid, to))
        return "accepted"
    if request := one_row(db, "SELECT remark FROM friend_requests WHERE uid = ? AND sender = ?", (uid, to)):
        _befriend(db, uid, remark, to, request[0])
        return "accepted"
    db.execute(
        "INSERT INTO friend_requests VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (uid, sender) DO UPDATE SET note = excluded.note, remark = excluded.remark",
        (to, uid, note, remark, writer.now()),
    )
    if one_sided:
        db.execute(
            "INSERT INTO friends VALUES (?, ?, ?, 0) ON CONFLICT (uid, friend) DO UPDATE SET remark = excluded.remark",
            (uid, to, remark),
        )
    return "pending"


def friend_answer(writer: Writer, uid: int, sender: int, accept: bool, remark: str) -> FriendStatus:
    db = writer.db
    request = one_row(db, "SELECT remark FROM friend_requests WHERE uid = ? AND sender = ?", (uid, sender))
    if request is None:
        raise NotFound("there is no such request")
    if accept and one_row(db, BARRED, (uid, sender)):
        raise Forbidden("one of you has blocked the other")
    if not accept:
        db.execute("DELETE FROM friend_requests WHERE uid = ? AND sender = ?", (uid, sender))
        return "rejected"
    _befriend(db, uid, remark, sender, request[0])
    return "accepted"


def _befriend(db: sqlite3.Connection, one: int, remark_of_one: str, other: int, remark_of_other: str) -> None:
    _forget_requests(db, one, other)
    db.execute(
        "INSERT INTO friends VALUES (?1, ?3, ?2, 1), (?3, ?1, ?4, 1)"
        " ON CONFLICT (uid, friend) DO UPDATE SET remark = excluded.remark, mutual = 1",
        (one, remark_of_one, other, remark_of_other),
    )


def _forget_requests(db: sqlite3.Connection, one: int, other: int) -> None:
    db.execute("DELETE FROM friend_requests WHERE uid IN (?1, ?2) AND sender IN (?1, ?2)", (one, other))


def friend_remove(writer: Writer, uid: int, other: int) -> None:
    _forget_requests(writer.db, uid, other)
    writer.db.execute("DELETE FROM friends WHERE uid IN (?1, ?2) AND friend IN (?1, ?2)", (uid, other))


def block(writer: Writer, uid: int, other: int) -> None:
    if not one_row(writer.db, "SELECT 1 FROM accounts WHERE id = ?", (other,)):
        raise UserInvalid("there is no such user")
    writer.chats.drop([(uid, other), (other, uid)])
    friend_remove(writer, uid, other)
    writer.db.execute("INSERT OR IGNORE INTO blocks VALUES (?, ?)", (uid, other))


def unblock(writer: Writer, uid: int, other: int) -> None:
    writer.chats.drop([(uid, other), (other, uid)])
    writer.db.execute("DELETE FROM blocks WHERE uid = ? AND blocked = ?", (uid, other))


def friends(db: sqlite3.Connection, uid: int) -> tuple[Friend, ...]:
    rows = all_rows(
        db,
        "SELECT a.id, a.name, a.nick, f.remark, f.mutual FROM friends f JOIN accounts a ON a.id = f.friend"
        " WHERE f.uid = ? ORDER BY a.key",
        (uid,),
    )
    return tuple(Friend(friend, name, nick, remark, bool(mutual)) for friend, name, nick, remark, mutual in rows)


def friend_requests(db: sqlite3.Connection, uid: int) -> tuple[FriendRequest, ...]:
    rows = all_rows(
        db,
        "SELECT r.sender, a.name, r.note, r.at FROM friend_requests r JOIN accounts a ON a.id = r.sender"
        " WHERE r.uid = ? ORDER BY r.at, r.sender",
        (uid,),
    )
    return tuple(FriendRequest(*row) for row in rows)


def blocked(db: sqlite3.Connection, uid: int) -> tuple[int, ...]:
    rows = all_rows(db, "SELECT blocked FROM blocks WHERE uid = ? ORDER BY blocked", (uid,))
    return tuple(other for (other,) in rows)
