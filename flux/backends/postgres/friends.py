"""Friends, requests and blocks.

A friendship is two rows of ``friends``, one in each list; a one-sided entry is one
row that is not ``mutual``.
"""

from __future__ import annotations

from flux.backends.postgres.connection import Run
from flux.errors import BadRequest, Forbidden, NotFound, UserInvalid
from flux.model.people import Friend, FriendRequest, FriendStatus


async def friend_add(
    run: Run, clock: int | None, uid: int, to: int, note: str, remark: str, one_sided: bool
) -> FriendStatus:
    """See ``IStore``; so for the other functions here."""
    if uid == to:
        raise BadRequest("to: this is yourself")
    [[outcome]] = await run("SELECT friend_add(%s, %s, %s, %s, %s, %s)", (uid, to, note, remark, one_sided, clock))
    if outcome == "nobody":
        raise UserInvalid("there is no such user")
    if outcome == "blocked":
        raise Forbidden("this user has blocked you")
    return "accepted" if outcome == "accepted" else "pending"


async def friend_answer(run: Run, uid: int, sender: int, accept: bool, remark: str) -> FriendStatus:
    [[outcome]] = await run("SELECT friend_answer(%s, %s, %s, %s)", (uid, sender, accept, remark))
    if outcome is None:
        raise NotFound("there is no such request")
    if outcome == "blocked":
        raise Forbidden("one of you has blocked the other")
    return "accepted" if outcome == "accepted" else "rejected"


async def friend_remove(run: Run, uid: int, other: int) -> None:
    await run("SELECT friend_remove(%s, %s)", (uid, other))


async def block(run: Run, uid: int, other: int) -> None:
    [[known]] = await run("SELECT set_block(%s, %s, true)", (uid, other))
    if not known:
        raise UserInvalid("there is no such user")


async def unblock(run: Run, uid: int, other: int) -> None:
    await run("SELECT set_block(%s, %s, false)", (uid, other))


async def friends(run: Run, uid: int) -> tuple[Friend, ...]:
    rows = await run(
        "SELECT a.id, a.name, a.nick, f.remark, f.mutual FROM friends f JOIN accounts a ON a.id = f.friend"
        " WHERE f.uid = %s ORDER BY a.key",
        (uid,),
    )
    return tuple(Friend(*row) for row in rows)


async def friend_requests(run: Run, uid: int) -> tuple[FriendRequest, ...]:
    rows = await run(
        "SELECT r.sender, a.name, r.note, r.at FROM friend_requests r JOIN accounts a ON a.id = r.sender"
        " WHERE r.uid = %s ORDER BY r.at, r.sender",
        (uid,),
    )
    return tuple(FriendRequest(*row) for row in rows)
