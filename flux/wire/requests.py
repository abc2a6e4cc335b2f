"""The requests of the chat port, named dialect: one class per row of the protocol's table.

A docstring is what ``help`` tells a person about the request, ``answer`` the fields
of its ``.ok`` reply.  0 and the empty string stand for a field that was not given.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from msgspec import UNSET, UnsetType

from flux.model.chats import Role
from flux.wire import fields
from flux.wire.catalogue import Catalogue, Request


class Register(Request, tag="register"):
    """Create an account; then log in."""

    name: fields.Name
    password: fields.Secret
    email: fields.Email = ""
    code: fields.Note = ""
    nick: fields.Nick = ""
    answer: ClassVar[str] = "id, name"


class Login(Request, tag="login"):
    """Log in with id or name and password, or with id and token. With acks the cursor moves by received only."""

    id: fields.Id = 0
    name: fields.Name = ""
    password: fields.Secret | UnsetType = UNSET
    token: fields.Secret | UnsetType = UNSET
    acks: bool = False
    answer: ClassVar[str] = "protocol, server, the profile, friends, friend_requests, groups, unread"


class Logout(Request, tag="logout"):
    """End the session; the server closes after all outstanding replies."""


class Send(Request, tag="send"):
    """Send a text to a user (to) or a group; a cid makes it safe to repeat."""

    text: fields.Text
    to: fields.UserId = 0
    group: fields.GroupId = 0
    cid: fields.Cid = ""
    answer: ClassVar[str] = "chat, seq, at, cid, duplicate"


class Received(Request, tag="received"):
    """Everything in the chat up to seq has arrived."""

    chat: fields.ChatId
    seq: fields.Seq
    no_reply: ClassVar[bool] = True


class Read(Request, tag="read"):
    """Everything in the chat up to seq has been read."""

    chat: fields.ChatId
    seq: fields.Seq
    no_reply: ClassVar[bool] = True


class History(Request, tag="history"):
    """Messages of a chat, before or after a seq, or the newest; at most 200 at a time."""

    chat: fields.ChatId = 0
    to: fields.UserId = 0
    group: fields.GroupId = 0
    before: fields.Seq | UnsetType = UNSET
    after: fields.Seq | UnsetType = UNSET
    limit: fields.Count = 50
    answer: ClassVar[str] = "chat, messages, more"


class Chats(Request, tag="chats"):
    """The conversation list, newest first."""

    answer: ClassVar[str] = "chats: [chat, to or group, name, last, unread, read]"


class TypingRequest(Request, tag="typing"):
    """Tell the others that this user is typing."""

    to: fields.UserId = 0
    group: fields.GroupId = 0
    no_reply: ClassVar[bool] = True


class FriendAdd(Request, tag="friend.add"):
    """Ask somebody to be a friend."""

    to: fields.UserId
    note: fields.Note = ""
    remark: fields.Nick = ""
    answer: ClassVar[str] = "to, status (pending or accepted)"


class FriendAnswer(Request, tag="friend.answer", rename={"sender": "from"}):
    """Accept or refuse a friend request."""

    sender: fields.UserId
    accept: bool
    remark: fields.Nick = ""
    answer: ClassVar[str] = "from, status"


class FriendRemove(Request, tag="friend.remove"):
    """End a friendship."""

    id: fields.UserId
    answer: ClassVar[str] = "id"


class UserBlock(Request, tag="user.block"):
    """Block somebody: no more messages or friend requests from them."""

    id: fields.UserId
    answer: ClassVar[str] = "id"


class UserUnblock(Request, tag="user.unblock"):
    """Undo user.block."""

    id: fields.UserId
    answer: ClassVar[str] = "id"


class Friends(Request, tag="friends"):
    """The friend list."""

    answer: ClassVar[str] = "friends: [id, name, nick, remark, online]"


class FriendRequests(Request, tag="friend.requests"):
    """Friend requests that wait for an answer."""

    answer: ClassVar[str] = "friend_requests: [from, name, note, at]"


class GroupCreate(Request, tag="group.create"):
    """Create a group. Closed: nobody joins by themselves. History: open, or joined (what came after joining)."""

    name: fields.Name
    description: fields.Description = ""
    closed: bool = False
    history: Literal["open", "joined"] = "joined"
    answer: ClassVar[str] = "group, chat, name"


class GroupJoin(Request, tag="group.join"):
    """Join an open group."""

    group: fields.GroupId
    answer: ClassVar[str] = "group, chat"


class GroupLeave(Request, tag="group.leave"):
    """Leave a group; an owner hands over first."""

    group: fields.GroupId
    answer: ClassVar[str] = "group, chat"


class GroupAdd(Request, tag="group.add"):
    """Add somebody to a group; for its owner and admins."""

    group: fields.GroupId
    id: fields.UserId
    answer: ClassVar[str] = "group, id"


class GroupRemove(Request, tag="group.remove"):
    """Remove somebody from a group; for its owner and admins."""

    group: fields.GroupId
    id: fields.UserId
    answer: ClassVar[str] = "group, id"


class GroupRole(Request, tag="group.role"):
    """Change a member's role; giving owner hands the group over."""

    group: fields.GroupId
    id: fields.UserId
    role: Role
    answer: ClassVar[str] = "group, id"


class Groups(Request, tag="groups"):
    """The groups this user is in."""

    answer: ClassVar[str] = "groups: [group, chat, name, description, role]"


class GroupMembers(Request, tag="group.members"):
    """The members of a group."""

    group: fields.GroupId
    answer: ClassVar[str] = "members: [id, name, role, online]"


class UserSearch(Request, tag="user.search"):
    """Find users by id or by the beginning of their name."""

    query: fields.Name
    limit: fields.Count = 20
    answer: ClassVar[str] = "users: [profile]"


class ProfileGet(Request, tag="profile.get"):
    """A user's profile; without id one's own."""

    id: fields.UserId = 0
    answer: ClassVar[str] = "id, name, nick, description, sex, icon"


class ProfileSet(Request, tag="profile.set"):
    """Change the given fields of one's own profile."""

    nick: fields.Nick | UnsetType = UNSET
    description: fields.Description | UnsetType = UNSET
    sex: fields.Sex | UnsetType = UNSET
    icon: fields.Icon | UnsetType = UNSET
    answer: ClassVar[str] = "id, name, nick, description, sex, icon"


class PasswordChange(Request, tag="password.change"):
    """Change one's own password."""

    old: fields.Secret
    new: fields.Secret


class Ping(Request, tag="ping"):
    """Ask for a sign of life; from then on the server expects one every heartbeat_timeout."""

    answer: ClassVar[str] = "at"


class Help(Request, tag="help"):
    """List the requests of this port, or explain one."""

    request: fields.Nick = ""
    answer: ClassVar[str] = "requests: [type, about, fields, answer]"


CHAT = Catalogue(
    [
        Register, Login, Logout, Send, Received, Read, History, Chats, TypingRequest,
        FriendAdd, FriendAnswer, FriendRemove, UserBlock, UserUnblock, Friends, FriendRequests,
        GroupCreate, GroupJoin, GroupLeave, GroupAdd, GroupRemove, GroupRole, Groups, GroupMembers,
        UserSearch, ProfileGet, ProfileSet, PasswordChange, Ping, Help,
    ]
)  # fmt: skip
"""Everything the chat port understands."""
