"""Friends, blocking and groups."""

from __future__ import annotations

from flux.accounts.rules import is_blank
from flux.accounts.throttle import count
from flux.chat.dispatch import answers
from flux.chat.session import Session
from flux.errors import BadRequest, FluxError, Unavailable
from flux.model.chats import MemberChange
from flux.model.events import FriendAnswered, FriendRequested, GroupChanged, Presence
from flux.wire import replies, requests
from flux.wire.numbered import OneSidedFriendAdd

TOLD_EVERY = 60.0
"""Seconds in which one account is told of one friend request of another, whatever its note."""


@answers(requests.FriendAdd)
async def friend_add(session: Session, request: requests.FriendAdd) -> replies.FriendAddOk:
    """Ask for friendship; two who ask each other are friends."""
    node = session.node
    one_sided = isinstance(request, OneSidedFriendAdd)
    were = request.to in session.friends
    status = await node.store.friend_add(session.uid, request.to, request.note, request.remark, one_sided)
    if status == "accepted" and not were:
        await _befriended(session, request.to)
    elif status == "pending" and await _may_tell(session, request.to):
        await node.presence.notify([request.to], FriendRequested(session.uid, session.name, request.note))
    return replies.FriendAddOk(to=request.to, status=status)


answers(OneSidedFriendAdd)(friend_add)


async def _may_tell(session: Session, other: int) -> bool:
    """Whether ``other`` is told of a request now: who asks again and again is heard once in a while.

    Not only new ones are told, since one that was taken back would be new again.
    """
    try:
        return not await count(session.node.state, f"friend:{session.uid}>{other}", TOLD_EVERY, 1)
    except Unavailable:
        # As with logins, it goes on, at the pace of all requests.
        return True


@answers(requests.FriendAnswer)
async def friend_answer(session: Session, request: requests.FriendAnswer) -> replies.FriendAnswerOk:
    """Accept or refuse."""
    node = session.node
    status = await node.store.friend_answer(session.uid, request.sender, request.accept, request.remark)
    if status == "accepted":
        await _befriended(session, request.sender)
    else:
        await node.presence.notify([request.sender], FriendAnswered(session.uid, status))
    return replies.FriendAnswerOk(sender=request.sender, status=status)


async def _befriended(session: Session, other: int) -> None:
    """Both see each other from now on."""
    node = session.node
    await node.friends_changed(session.uid, other, True)
    await node.presence.notify([other], FriendAnswered(session.uid, "accepted"))
    await node.presence.notify([other], Presence(session.uid, True))
    if await node.presence.online([other]):
        session.show(Presence(other, True))


@answers(requests.FriendRemove)
async def friend_remove(session: Session, request: requests.FriendRemove) -> replies.FriendRemoveOk:
    """End a friendship on both sides; the other one sees this user go offline."""
    node = session.node
    were = request.id in session.friends
    await node.store.friend_remove(session.uid, request.id)
    await _unfriended(session, request.id, were)
    return replies.FriendRemoveOk(id=request.id)


async def _unfriended(session: Session, other: int, were: bool) -> None:
    """Neither sees the other come and go from now on; who was a friend sees this user go offline."""
    await session.node.friends_changed(session.uid, other, False)
    if were:
        await session.node.presence.notify([other], Presence(session.uid, False))


@answers(requests.UserBlock)
async def user_block(session: Session, request: requests.UserBlock) -> replies.UserBlockOk:
    """Hear nothing more from somebody, who is no friend any more."""
    if request.id == session.uid:
        raise BadRequest("id: this is yourself")
    were = request.id in session.friends
    await session.node.store.block(session.uid, request.id)
    for each in _sessions(session):
        each.blocked |= {request.id}
    await _unfriended(session, request.id, were)
    return replies.UserBlockOk(id=request.id)


@answers(requests.UserUnblock)
async def user_unblock(session: Session, request: requests.UserUnblock) -> replies.UserUnblockOk:
    """Undo a block."""
    await session.node.store.unblock(session.uid, request.id)
    for each in _sessions(session):
        each.blocked -= {request.id}
    return replies.UserUnblockOk(id=request.id)


def _sessions(session: Session) -> set[Session]:
    """This session, and one that took it over meanwhile, which may have read the blocks before they changed."""
    return {session, session.node.sessions.get(session.uid, session)}


@answers(requests.Friends, counts=False)
async def friends(session: Session, request: requests.Friends) -> replies.FriendsOk:
    """The friend list with presence."""
    found = await session.node.store.friends(session.uid)
    online = await session.node.presence.online([friend.id for friend in found if friend.mutual])
    return replies.FriendsOk(
        friends=[replies.FriendView(f.id, f.name, f.nick, f.remark, f.mutual and f.id in online) for f in found]
    )


@answers(requests.FriendRequests, counts=False)
async def friend_requests(session: Session, request: requests.FriendRequests) -> replies.FriendRequestsOk:
    """Requests that wait for an answer."""
    return replies.FriendRequestsOk(friend_requests=list(await session.node.store.friend_requests(session.uid)))


# --- groups ------------------------------------------------------------------


@answers(requests.GroupCreate)
async def group_create(session: Session, request: requests.GroupCreate) -> replies.GroupCreateOk:
    """Create a group, owned by this user."""
    name = request.name.strip()
    if is_blank(name):
        raise BadRequest("name: empty, or nothing of it can be seen")
    group = await session.node.store.group_create(
        session.uid, name, request.description, request.closed, request.history == "open", session.node.limits.groups
    )
    await session.node.members_changed(MemberChange(group.chat, session.uid, "join", 1, 0))
    return replies.GroupCreateOk(group=group.group, chat=group.chat, name=group.name)


@answers(requests.GroupJoin)
async def group_join(session: Session, request: requests.GroupJoin) -> replies.GroupJoinOk:
    """Join an open group."""
    change = await session.node.store.group_join(session.uid, request.group, session.node.limits.groups)
    await _changed(session, change)
    return replies.GroupJoinOk(group=request.group, chat=change.chat)


@answers(requests.GroupLeave)
async def group_leave(session: Session, request: requests.GroupLeave) -> replies.GroupLeaveOk:
    """Leave a group."""
    change = await session.node.store.group_leave(session.uid, request.group)
    await _changed(session, change)
    return replies.GroupLeaveOk(group=request.group, chat=change.chat)


@answers(requests.GroupAdd)
async def group_add(session: Session, request: requests.GroupAdd) -> replies.GroupAddOk:
    """Add somebody."""
    node = session.node
    change = await node.store.group_add(session.uid, request.group, request.id, node.limits.groups)
    await _changed(session, change)
    return replies.GroupAddOk(group=request.group, id=request.id)


@answers(requests.GroupRemove)
async def group_remove(session: Session, request: requests.GroupRemove) -> replies.GroupRemoveOk:
    """Remove somebody."""
    change = await session.node.store.group_remove(session.uid, request.group, request.id)
    await _changed(session, change)
    return replies.GroupRemoveOk(group=request.group, id=request.id)


@answers(requests.GroupRole)
async def group_role(session: Session, request: requests.GroupRole) -> replies.GroupRoleOk:
    """Change somebody's role."""
    change = await session.node.store.group_role(session.uid, request.group, request.id, request.role)
    await _changed(session, change)
    return replies.GroupRoleOk(group=request.group, id=request.id)


async def _changed(session: Session, change: MemberChange) -> None:
    """Act on a committed change and show it to the members, and to the one it is about."""
    node = session.node
    await node.members_changed(change)
    if change.again:
        return
    try:
        members = {participant.id for participant in (await node.store.membership(change.chat)).participants}
    except FluxError as error:
        # It is done, and a repetition would be refused.
        what = "members are not shown who joins and leaves, such as in {chat}: {error}"
        node.changes_shown.failed(what, chat=change.chat, error=error)
        members = set()
    else:
        node.changes_shown.over("members are shown again who joins and leaves, after {seconds} s")
    members.add(change.id)
    members.discard(session.uid)
    notice = GroupChanged(change.chat, change.change, change.id, change.role)
    await node.presence.notify(sorted(members), notice)


@answers(requests.Groups, counts=False)
async def groups(session: Session, request: requests.Groups) -> replies.GroupsOk:
    """The groups of this user."""
    return replies.GroupsOk(groups=list(await session.node.store.groups(session.uid)))


@answers(requests.GroupMembers)
async def group_members(session: Session, request: requests.GroupMembers) -> replies.GroupMembersOk:
    """The members of a group with presence."""
    members = await session.node.store.members(session.uid, request.group)
    online = await session.node.presence.online([member.id for member in members if not member.barred])
    return replies.GroupMembersOk(
        members=[replies.MemberView(m.id, m.name, m.role, m.id in online) for m in members]
    )  # fmt: skip
