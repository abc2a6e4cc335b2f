"""Groups, their members, and who may change them.

A group without members has ended: nobody can join it, read it or send to it, though
its messages stay.  Every change of members raises the chat's version and drops the
chat from the writer's memory.
"""

from __future__ import annotations

import sqlite3

from flux.backends.sqlite.rows import all_rows, one_row
from flux.backends.sqlite.runs import head
from flux.backends.sqlite.writer import Writer
from flux.errors import Forbidden, NotFound, UserInvalid
from flux.model.chats import Group, GroupChangeKind, Member, MemberChange, Membership, Participant, Role

HEAD = head("chats.id")


FULL = "you are in as many groups as one may be: leave one first"
OTHER_FULL = "this user is in as many groups as one may be"


def group_create(
    writer: Writer, uid: int, name: str, description: str, closed: bool, open_history: bool, most: int
) -> Group:
    """See ``IStore``; so for the other functions here."""
    _must_have_room(writer.db, uid, most, FULL)
    [(chat,)] = all_rows(writer.db, "INSERT INTO chats (low, high) VALUES (NULL, NULL) RETURNING id", ())
    writer.db.execute("INSERT INTO groups VALUES (?, ?, ?, ?, ?)", (chat, name, description, closed, open_history))
    writer.db.execute("INSERT INTO members VALUES (?, ?, 1, 0, 0, 'owner')", (uid, chat))
    writer.members[chat] = 1
    return Group(chat, chat, name, description, "owner")


def group_join(writer: Writer, uid: int, group: int, most: int) -> MemberChange:
    closed = _closed(writer.db, group)
    if _role(writer.db, group, uid):
        return _unchanged(writer.db, group, uid, "join")
    if not one_row(writer.db, "SELECT 1 FROM members WHERE chat = ? LIMIT 1", (group,)):
        raise NotFound("this group has ended")
    if closed:
        raise Forbidden("this group is closed: its owner or an admin adds members")
    if one_row(writer.db, "SELECT 1 FROM removals WHERE uid = ? AND chat = ?", (uid, group)):
        raise Forbidden("you were removed from this group: its owner or an admin adds you again")
    _must_have_room(writer.db, uid, most, FULL)
    return _enter(writer, group, uid, "join")


def group_leave(writer: Writer, uid: int, group: int) -> MemberChange:
    _closed(writer.db, group)
    role = _role(writer.db, group, uid)
    if role is None:
        raise Forbidden("you are not a member of this group")
    if role == "owner" and one_row(
        writer.db, "SELECT 1 FROM members WHERE chat = ? AND uid <> ? LIMIT 1", (group, uid)
    ):
        raise Forbidden("the owner hands the group over before leaving (group.role)")
    return _exit(writer, group, uid, "leave")


def group_add(writer: Writer, actor: int, group: int, uid: int, most: int) -> MemberChange:
    _closed(writer.db, group)
    _must_lead(writer.db, group, actor)
    if _role(writer.db, group, uid):
        return _unchanged(writer.db, group, uid, "add")
    if not one_row(writer.db, "SELECT 1 FROM accounts WHERE id = ?", (uid,)):
        raise UserInvalid("there is no such user")
    if one_row(writer.db, "SELECT 1 FROM blocks WHERE uid = ? AND blocked = ?", (uid, actor)):
        raise Forbidden("this user has blocked you")
    _must_have_room(writer.db, uid, most, OTHER_FULL)
    writer.db.execute("DELETE FROM removals WHERE uid = ? AND chat = ?", (uid, group))
    return _enter(writer, group, uid, "add")


def group_remove(writer: Writer, actor: int, group: int, uid: int) -> MemberChange:
    _closed(writer.db, group)
    right = _must_lead(writer.db, group, actor)
    role = _role(writer.db, group, uid)
    if role is None:
        raise NotFound("this user is not a member of the group")
    if role == "owner" or (role == "admin" and right != "owner"):
        raise Forbidden("only the owner removes an admin, and nobody the owner")
    writer.db.execute("INSERT INTO removals VALUES (?, ?)", (uid, group))
    return _exit(writer, group, uid, "remove")


def group_role(writer: Writer, actor: int, group: int, uid: int, role: Role) -> MemberChange:
    db = writer.db
    _closed(db, group)
    if _role(db, group, actor) != "owner":
        raise Forbidden("only the owner gives roles")
    if actor == uid:
        raise Forbidden("the owner hands over by giving somebody else the role of owner")
    if _role(db, group, uid) is None:
        raise NotFound("this user is not a member of the group")
    change = "UPDATE members SET role = ? WHERE uid = ? AND chat = ?"
    if role == "owner":
        db.execute(change, ("admin", actor, group))
    db.execute(change, (role, uid, group))
    return _changed(writer, group, uid, "role", role)


def groups(db: sqlite3.Connection, uid: int) -> tuple[Group, ...]:
    rows = all_rows(
        db,
        "SELECT g.chat, g.chat, g.name, g.description, m.role FROM members m JOIN groups g ON g.chat = m.chat"
        " WHERE m.uid = ? ORDER BY g.chat",
        (uid,),
    )
    return tuple(Group(*row) for row in rows)


def members(db: sqlite3.Connection, uid: int, group: int) -> tuple[Member, ...]:
    _closed(db, group)
    if _role(db, group, uid) is None:
        raise Forbidden("you are not a member of this group")
    rows = all_rows(
        db,
        "SELECT a.id, a.name, m.role,"
        " EXISTS (SELECT 1 FROM blocks b WHERE b.uid = a.id AND b.blocked = ?1)"
        " OR EXISTS (SELECT 1 FROM blocks b WHERE b.uid = ?1 AND b.blocked = a.id)"
        " FROM members m JOIN accounts a ON a.id = m.uid WHERE m.chat = ?2"
        " ORDER BY CASE m.role WHEN 'owner' THEN 0 WHEN 'admin' THEN 1 ELSE 2 END, a.id",
        (uid, group),
    )
    return tuple(Member(member, name, role, bool(barred)) for member, name, role, barred in rows)


def membership(db: sqlite3.Connection, chat: int) -> Membership:
    row = one_row(db, f"SELECT low IS NULL, version, {HEAD} FROM chats WHERE id = ?", (chat,))
    if row is None:
        raise NotFound("there is no such chat")
    group, version, head = row
    participants = all_rows(db, "SELECT uid, first FROM members WHERE chat = ? ORDER BY uid", (chat,))
    return Membership(chat, bool(group), version, head, tuple(Participant(*row) for row in participants))


def _closed(db: sqlite3.Connection, group: int) -> bool:
    """Whether a group is closed. Raises NotFound where there is no such group."""
    row = one_row(db, "SELECT closed FROM groups WHERE chat = ?", (group,))
    if row is None:
        raise NotFound("there is no such group")
    return bool(row[0])


def _role(db: sqlite3.Connection, group: int, uid: int) -> Role | None:
    row = one_row(db, "SELECT role FROM members WHERE uid = ? AND chat = ?", (uid, group))
    return row[0] if row else None


def _must_lead(db: sqlite3.Connection, group: int, actor: int) -> Role:
    role = _role(db, group, actor)
    if role is None or role == "member":
        raise Forbidden("only the owner and admins of the group may do this")
    return role


def _must_have_room(db: sqlite3.Connection, uid: int, most: int, otherwise: str) -> None:
    """Raises Forbidden where an account is in as many groups as it may be."""
    count = "SELECT count(*) FROM members m JOIN groups g ON g.chat = m.chat WHERE m.uid = ?"
    if most and all_rows(db, count, (uid,))[0][0] >= most:
        raise Forbidden(otherwise)


def _enter(writer: Writer, group: int, uid: int, kind: GroupChangeKind) -> MemberChange:
    change = _changed(writer, group, uid, kind)
    writer.db.execute("INSERT INTO members VALUES (?1, ?2, ?3 + 1, ?3, ?3, 'member')", (uid, group, change.head))
    return change


def _exit(writer: Writer, group: int, uid: int, kind: GroupChangeKind) -> MemberChange:
    writer.db.execute("DELETE FROM members WHERE uid = ? AND chat = ?", (uid, group))
    return _changed(writer, group, uid, kind)


def _changed(writer: Writer, group: int, uid: int, kind: GroupChangeKind, role: Role | None = None) -> MemberChange:
    """Raise the version."""
    writer.chats.drop([group])
    [(version, head)] = all_rows(
        writer.db,
        f"UPDATE chats SET version = version + 1 WHERE id = ? RETURNING version, {HEAD}",
        (group,),
    )
    writer.members[group] = version
    change = MemberChange(group, uid, kind, version, head)
    return change if role is None else MemberChange(group, uid, kind, version, head, role)


def _unchanged(db: sqlite3.Connection, group: int, uid: int, kind: GroupChangeKind) -> MemberChange:
    [(version, first)] = all_rows(
        db,
        "SELECT c.version, m.first FROM chats c JOIN members m ON m.chat = c.id WHERE c.id = ? AND m.uid = ?",
        (group, uid),
    )
    return MemberChange(group, uid, kind, version, first - 1, again=True)
