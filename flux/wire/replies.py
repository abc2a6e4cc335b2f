"""The ``.ok`` replies of the chat port, named dialect.

A reply never exceeds ``MAX_REPLY`` bytes: lists in it are cut short and ``more`` is
then true (see :mod:`flux.wire.named`).
"""

from __future__ import annotations

from typing import ClassVar

from msgspec import UNSET, Raw, Struct, UnsetType

from flux.model.chats import Group, Role
from flux.model.messages import Conversation, Message
from flux.model.people import FriendRequest, FriendStatus
from flux.wire.catalogue import Reply, RequestHelp


class FriendView(Struct, gc=False):
    """A friend with what the node knows of presence."""

    id: int
    name: str
    nick: str
    remark: str
    online: bool


class MemberView(Struct, gc=False):
    """A group member with presence."""

    id: int
    name: str
    role: Role
    online: bool


class ProfileView(Struct, gc=False):
    """What everybody may know of an account."""

    id: int
    name: str
    nick: str
    description: str
    sex: str
    icon: str


class Unread(Struct, gc=False, kw_only=True):
    """A chat with messages of others that were not read yet."""

    chat: int
    to: int | UnsetType = UNSET
    group: int | UnsetType = UNSET
    count: int
    head: int


class ListReply(Reply, kw_only=True):
    """Base of the replies that hold lists and may be cut short."""

    more: bool | UnsetType = UNSET
    #: The fields that may be cut.
    lists: ClassVar[tuple[str, ...]] = ()
    #: True where the first entries give way instead of the last.
    keep_end: ClassVar[bool] = False

    def rows(self) -> int:
        """How many entries the lists have together."""
        return sum([len(getattr(self, name)) for name in self.lists])


class RegisterOk(Reply, tag="register.ok"):
    """An account was created."""

    id: int
    name: str


class LoginOk(ListReply, tag="login.ok", kw_only=True):
    """The session has begun."""

    protocol: int = 1
    server: str
    id: int
    name: str
    nick: str
    description: str
    sex: str
    icon: str
    friends: list[FriendView]
    friend_requests: list[FriendRequest]
    groups: list[Group]
    unread: list[Unread]
    lists: ClassVar[tuple[str, ...]] = ("friends", "friend_requests", "groups", "unread")


class LogoutOk(Reply, tag="logout.ok"):
    """The session has ended."""


class SendOk(Reply, tag="send.ok"):
    """The message is durably committed."""

    chat: int
    seq: int
    at: int
    duplicate: bool
    cid: str | UnsetType = UNSET


class HistoryOk(ListReply, tag="history.ok"):
    """A stretch of history, ascending."""

    chat: int
    messages: list[Message]
    more: bool
    lists: ClassVar[tuple[str, ...]] = ("messages",)


class HistoryEndOk(HistoryOk, tag="history.ok"):
    """History read backwards: what does not fit is missing at the beginning."""

    keep_end: ClassVar[bool] = True


class ChatsOk(ListReply, tag="chats.ok"):
    """The conversation list."""

    chats: list[Conversation]
    lists: ClassVar[tuple[str, ...]] = ("chats",)


class FriendAddOk(Reply, tag="friend.add.ok"):
    """The request is on its way, or both are friends now."""

    to: int
    status: FriendStatus


class FriendAnswerOk(Reply, tag="friend.answer.ok", rename={"sender": "from"}):
    """The request was answered."""

    sender: int
    status: FriendStatus


class FriendRemoveOk(Reply, tag="friend.remove.ok"):
    """The friendship has ended."""

    id: int


class UserBlockOk(Reply, tag="user.block.ok"):
    """The user is blocked."""

    id: int


class UserUnblockOk(Reply, tag="user.unblock.ok"):
    """The user is not blocked any more."""

    id: int


class FriendsOk(ListReply, tag="friends.ok"):
    """The friend list."""

    friends: list[FriendView]
    lists: ClassVar[tuple[str, ...]] = ("friends",)


class FriendRequestsOk(ListReply, tag="friend.requests.ok"):
    """The requests that wait for an answer."""

    friend_requests: list[FriendRequest]
    lists: ClassVar[tuple[str, ...]] = ("friend_requests",)


class GroupCreateOk(Reply, tag="group.create.ok"):
    """The group exists."""

    group: int
    chat: int
    name: str


class GroupJoinOk(Reply, tag="group.join.ok"):
    """This user is a member."""

    group: int
    chat: int


class GroupLeaveOk(Reply, tag="group.leave.ok"):
    """This user is no member any more."""

    group: int
    chat: int


class GroupAddOk(Reply, tag="group.add.ok"):
    """The user is a member."""

    group: int
    id: int


class GroupRemoveOk(Reply, tag="group.remove.ok"):
    """The user is no member any more."""

    group: int
    id: int


class GroupRoleOk(Reply, tag="group.role.ok"):
    """The member has the role."""

    group: int
    id: int


class GroupsOk(ListReply, tag="groups.ok"):
    """The groups of this user."""

    groups: list[Group]
    lists: ClassVar[tuple[str, ...]] = ("groups",)


class GroupMembersOk(ListReply, tag="group.members.ok"):
    """The members of a group."""

    members: list[MemberView]
    lists: ClassVar[tuple[str, ...]] = ("members",)


class UserSearchOk(ListReply, tag="user.search.ok"):
    """The users found."""

    users: list[ProfileView]
    lists: ClassVar[tuple[str, ...]] = ("users",)


class ProfileGetOk(Reply, tag="profile.get.ok"):
    """A profile."""

    id: int
    name: str
    nick: str
    description: str
    sex: str
    icon: str


class ProfileSetOk(Reply, tag="profile.set.ok"):
    """The profile as it is now."""

    id: int
    name: str
    nick: str
    description: str
    sex: str
    icon: str


class PasswordChangeOk(Reply, tag="password.change.ok"):
    """The password was changed."""


class PingOk(Reply, tag="ping.ok"):
    """The server's time."""

    at: int


class HelpOk(Reply, tag="help.ok"):
    """The requests of this port."""

    requests: list[RequestHelp]


class EncodedHelpOk(Reply, tag="help.ok"):
    """The same, encoded once for all who ask."""

    requests: Raw
