"""Groups, their members, and who may change them.

A group without members has ended: nobody can join it, read it or send to it, though
its messages stay.
"""

from __future__ import annotations

from flux.backends.postgres.arrays import list_of
from flux.backends.postgres.connection import Prepared, Run
from flux.errors import FluxError, Forbidden, NotFound, UserInvalid
from flux.model.chats import Group, GroupChangeKind, Member, MemberChange, Membership, Participant, Role

REFUSALS: dict[str, tuple[type[FluxError], str]] = {
    "no group": (NotFound, "there is no such group"),
    "ended": (NotFound, "this group has ended"),
    "closed": (Forbidden, "this group is closed: its owner or an admin adds members"),
    "removed": (Forbidden, "you were removed from this group: its owner or an admin adds you again"),
    "no member": (Forbidden, "you are not a member of this group"),
    "owner leaves": (Forbidden, "the owner hands the group over before leaving (group.role)"),
    "no leader": (Forbidden, "only the owner and admins of the group may do this"),
    "nobody": (UserInvalid, "there is no such user"),
    "blocked": (Forbidden, "this user has blocked you"),
    "no target": (NotFound, "this user is not a member of the group"),
    "above": (Forbidden, "only the owner removes an admin, and nobody the owner"),
    "no owner": (Forbidden, "only the owner gives roles"),
    "full": (Forbidden, "this user is in as many groups as one may be"),
    "oneself": (Forbidden, "the owner hands over by giving somebody else the role of owner"),
}
"""By the outcome of ``group_change``, ``group_remove`` and ``group_enter``."""

FULL = "you are in as many groups as one may be: leave one first"

NO_LIMIT = 2**62

MEMBERSHIP = Prepared("""
    SELECT low IS NULL, version, head,
        ARRAY(SELECT uid FROM members WHERE chat = chats.id ORDER BY uid)::text,
        ARRAY(SELECT first FROM members WHERE chat = chats.id ORDER BY uid)::text
    FROM chats WHERE id = %s""")


async def group_create(
    run: Run, uid: int, name: str, description: str, closed: bool, open_history: bool, most: int
) -> Group:
    """See ``IStore``; so for the other functions here."""
    [[chat]] = await run(
        "SELECT group_create_within(%s, %s, %s, %s, %s, %s)",
        (uid, name, description, closed, open_history, most or NO_LIMIT),
    )
    if chat is None:
        raise Forbidden(FULL)
    return Group(chat, chat, name, description, "owner")


async def group_change(
    run: Run, kind: GroupChangeKind, actor: int, group: int, uid: int, role: Role | None = None
) -> MemberChange:
    """``actor`` changes what ``uid`` is in the group."""
    [(outcome, version, head)] = await run(
        "SELECT outcome, version, head FROM group_change(%s, %s, %s, %s, %s)", (kind, actor, group, uid, role)
    )
    _refuse(outcome)
    if role is None:
        return MemberChange(group, uid, kind, version, head)
    return MemberChange(group, uid, kind, version, head, role)


async def group_remove(run: Run, actor: int, group: int, uid: int) -> MemberChange:
    [(outcome, version, head)] = await run(
        "SELECT outcome, version, head FROM group_remove(%s, %s, %s)", (actor, group, uid)
    )
    _refuse(outcome)
    return MemberChange(group, uid, "remove", version, head)


async def group_enter(run: Run, kind: GroupChangeKind, actor: int, group: int, uid: int, most: int) -> MemberChange:
    """``uid`` becomes a member."""
    [(outcome, version, head)] = await run(
        "SELECT outcome, version, head FROM group_enter(%s, %s, %s, %s, %s)",
        (kind, actor, group, uid, most or NO_LIMIT),
    )
    if outcome == "full" and actor == uid:
        raise Forbidden(FULL)
    _refuse(outcome)
    return MemberChange(group, uid, kind, version, head, again=outcome == "unchanged")


def _refuse(outcome: str) -> None:
    if outcome in REFUSALS:
        error, detail = REFUSALS[outcome]
        raise error(detail)


async def groups(run: Run, uid: int) -> tuple[Group, ...]:
    rows = await run(
        "SELECT g.chat, g.chat, g.name, g.description, m.role FROM members m JOIN groups g ON g.chat = m.chat"
        " WHERE m.uid = %s ORDER BY g.chat",
        (uid,),
    )
    return tuple(Group(*row) for row in rows)


async def members(run: Run, uid: int, group: int) -> tuple[Member, ...]:
    rows = await run(
        "SELECT mine.uid, a.id, a.name, m.role, b.uid IS NOT NULL OR c.uid IS NOT NULL FROM groups g"
        " LEFT JOIN members mine ON mine.chat = g.chat AND mine.uid = %s"
        " LEFT JOIN members m ON m.chat = mine.chat LEFT JOIN accounts a ON a.id = m.uid"
        " LEFT JOIN blocks b ON b.uid = m.uid AND b.blocked = mine.uid"
        " LEFT JOIN blocks c ON c.uid = mine.uid AND c.blocked = m.uid WHERE g.chat = %s"
        " ORDER BY CASE m.role WHEN 'owner' THEN 0 WHEN 'admin' THEN 1 ELSE 2 END, a.id",
        (uid, group),
    )
    if not rows:
        raise NotFound("there is no such group")
    if rows[0][0] is None:
        raise Forbidden("you are not a member of this group")
    return tuple(Member(*row[1:]) for row in rows)


async def membership(run: Run, chat: int) -> Membership:
    rows = await run(MEMBERSHIP, (chat,))
    if not rows:
        raise NotFound("there is no such chat")
    [(group, version, head, uids, firsts)] = rows
    participants = map(Participant, list_of(uids), list_of(firsts))
    return Membership(chat, group, version, head, tuple(participants))
