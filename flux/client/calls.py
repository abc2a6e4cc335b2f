"""One method per request of the protocol, on top of a generic ``request``.

Users and groups are ids.  Every method raises what :meth:`Calls.request` raises.
"""

from __future__ import annotations

from typing import Literal, TypeVar

from msgspec import UNSET, UnsetType

from flux.model.chats import Role
from flux.wire import replies, requests
from flux.wire.catalogue import Reply, Request

R = TypeVar("R", bound=Reply)


class Calls:
    """The requests that ask once and are answered once."""

    async def request(self, request: Request, reply: type[R]) -> R:
        """Ask, and wait for the answer of type ``reply``.

        :raises flux.errors.FluxError: what the server answered instead; ``bad_request`` for a string that cannot be
            sent, which the server is not asked about.
        :raises flux.client.NotConnected: offline, or the connection broke before the answer.
        :raises flux.client.QueueFull: too many requests wait already.
        :raises flux.lifecycle.DeadlineExceeded: no answer within 30 s.
        """
        raise NotImplementedError

    async def history(
        self,
        *,
        chat: int = 0,
        to: int = 0,
        group: int = 0,
        before: int | UnsetType = UNSET,
        after: int | UnsetType = UNSET,
        limit: int = 50,
    ) -> replies.HistoryOk:
        """Messages of one chat, given by one of ``chat``, ``to``, ``group``; neither bound: the newest.

        The application has what this returns: of messages that ``events`` has not brought yet, it brings none of these
        any more, and they are acknowledged.
        """
        asked = requests.History(chat=chat, to=to, group=group, before=before, after=after, limit=limit)
        return await self.request(asked, replies.HistoryOk)

    async def chats(self) -> replies.ChatsOk:
        """The conversation list, newest first."""
        return await self.request(requests.Chats(), replies.ChatsOk)

    async def friend_add(self, to: int, note: str = "", remark: str = "") -> replies.FriendAddOk:
        """Ask ``to`` to be a friend."""
        return await self.request(requests.FriendAdd(to=to, note=note, remark=remark), replies.FriendAddOk)

    async def friend_answer(self, sender: int, accept: bool, remark: str = "") -> replies.FriendAnswerOk:
        """Accept or refuse the friend request of ``sender``."""
        asked = requests.FriendAnswer(sender=sender, accept=accept, remark=remark)
        return await self.request(asked, replies.FriendAnswerOk)

    async def friend_remove(self, id: int) -> replies.FriendRemoveOk:  # noqa: A002 (as on the wire)
        """End a friendship."""
        return await self.request(requests.FriendRemove(id=id), replies.FriendRemoveOk)

    async def user_block(self, id: int) -> replies.UserBlockOk:  # noqa: A002
        """Take no more messages and friend requests from somebody."""
        return await self.request(requests.UserBlock(id=id), replies.UserBlockOk)

    async def user_unblock(self, id: int) -> replies.UserUnblockOk:  # noqa: A002
        """Undo :meth:`user_block`."""
        return await self.request(requests.UserUnblock(id=id), replies.UserUnblockOk)

    async def friends(self) -> replies.FriendsOk:
        """The friend list."""
        return await self.request(requests.Friends(), replies.FriendsOk)

    async def friend_requests(self) -> replies.FriendRequestsOk:
        """Friend requests that wait for an answer."""
        return await self.request(requests.FriendRequests(), replies.FriendRequestsOk)

    async def group_create(
        self, name: str, description: str = "", closed: bool = False, history: Literal["open", "joined"] = "joined"
    ) -> replies.GroupCreateOk:
        """Create a group and own it."""
        asked = requests.GroupCreate(name=name, description=description, closed=closed, history=history)
        return await self.request(asked, replies.GroupCreateOk)

    async def group_join(self, group: int) -> replies.GroupJoinOk:
        """Join an open group."""
        return await self.request(requests.GroupJoin(group=group), replies.GroupJoinOk)

    async def group_leave(self, group: int) -> replies.GroupLeaveOk:
        """Leave a group; an owner hands over first."""
        return await self.request(requests.GroupLeave(group=group), replies.GroupLeaveOk)

    async def group_add(self, group: int, id: int) -> replies.GroupAddOk:  # noqa: A002
        """Add somebody; for owner and admins."""
        return await self.request(requests.GroupAdd(group=group, id=id), replies.GroupAddOk)

    async def group_remove(self, group: int, id: int) -> replies.GroupRemoveOk:  # noqa: A002
        """Remove somebody; for owner and admins."""
        return await self.request(requests.GroupRemove(group=group, id=id), replies.GroupRemoveOk)

    async def group_role(self, group: int, id: int, role: Role) -> replies.GroupRoleOk:  # noqa: A002
        """Change a role; giving ``owner`` hands the group over."""
        return await self.request(requests.GroupRole(group=group, id=id, role=role), replies.GroupRoleOk)

    async def groups(self) -> replies.GroupsOk:
        """The groups this account is in."""
        return await self.request(requests.Groups(), replies.GroupsOk)

    async def group_members(self, group: int) -> replies.GroupMembersOk:
        """The members of a group."""
        return await self.request(requests.GroupMembers(group=group), replies.GroupMembersOk)

    async def user_search(self, query: str, limit: int = 20) -> replies.UserSearchOk:
        """Users by id or by the beginning of their name."""
        return await self.request(requests.UserSearch(query=query, limit=limit), replies.UserSearchOk)

    async def profile_get(self, id: int = 0) -> replies.ProfileGetOk:  # noqa: A002
        """A user's profile; without ``id`` one's own."""
        return await self.request(requests.ProfileGet(id=id), replies.ProfileGetOk)

    async def profile_set(
        self,
        *,
        nick: str | UnsetType = UNSET,
        description: str | UnsetType = UNSET,
        sex: str | UnsetType = UNSET,
        icon: str | UnsetType = UNSET,
    ) -> replies.ProfileSetOk:
        """Change the given fields of one's own profile."""
        asked = requests.ProfileSet(nick=nick, description=description, sex=sex, icon=icon)
        return await self.request(asked, replies.ProfileSetOk)

    async def password_change(self, old: str, new: str) -> replies.PasswordChangeOk:
        """Change one's own password."""
        return await self.request(requests.PasswordChange(old=old, new=new), replies.PasswordChangeOk)

    async def ping(self) -> replies.PingOk:
        """Ask for a sign of life; its answer comes after those to earlier requests."""
        return await self.request(requests.Ping(), replies.PingOk)

    async def help(self, request: str = "") -> replies.HelpOk:
        """The requests the server knows, or one of them, explained."""
        return await self.request(requests.Help(request=request), replies.HelpOk)
