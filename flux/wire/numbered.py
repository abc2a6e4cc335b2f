"""The numbered dialect: the one of the classic cluster chat servers, told apart by ``msgid``.

Requests become the same structs as in the named dialect, so everything behind the
wire is shared; this module knows the other field names, the JSON texts inside
JSON strings, and what this dialect has no word for (then nothing is written).

    1 login -> 2     3 logout          4 register -> 5   6 one-to-one chat
    7 add friend     8 create group    9 join group      10 group chat
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from flux.errors import AlreadyLoggedIn, BadJson, BadRequest, FluxError, PasswordInvalid
from flux.model.base import Event
from flux.model.chats import Group
from flux.model.messages import Message, Receipt
from flux.model.people import Profile
from flux.wire import fields
from flux.wire.catalogue import Rejected, Reply, Request
from flux.wire.fields import Ref
from flux.wire.mistakes import holds_nul
from flux.wire.replies import FriendView, MemberView, RegisterOk
from flux.wire.requests import FriendAdd, GroupCreate, GroupJoin, Login, Logout, Register, Send

MAX_LOGIN_ANSWER = 1000
"""Offline messages ride in answer 2 only while it stays within this many bytes:
the classic client reads at most 1,024."""

_encode = msgspec.json.Encoder().encode
_GroupText = Annotated[str, Meta(max_length=500)]


class OneSidedFriendAdd(FriendAdd, tag="friend.add"):
    """Enters the sender's list without waiting for the other side."""


class _Line(msgspec.Struct, tag_field="msgid", gc=False):
    """Base of the requests as they are written."""


class _Login(_Line, tag=1):
    id: fields.Id
    password: fields.Secret

    def request(self) -> Request:
        return Login(id=self.id, password=self.password)


class _Logout(_Line, tag=3):
    id: fields.Id

    def request(self) -> Request:
        return Logout()


class _Register(_Line, tag=4):
    name: fields.Name
    password: fields.Secret

    def request(self) -> Request:
        return Register(name=self.name, password=self.password)


class _Chat(_Line, tag=6):
    id: fields.Id
    toid: fields.Id
    msg: fields.Text

    def request(self) -> Request:
        return Send(text=self.msg, to=self.toid)


class _AddFriend(_Line, tag=7):
    id: fields.Id
    friendid: fields.Id

    def request(self) -> Request:
        return OneSidedFriendAdd(to=self.friendid)


class _CreateGroup(_Line, tag=8):
    id: fields.Id
    groupname: fields.Name
    groupdesc: _GroupText = ""

    def request(self) -> Request:
        return GroupCreate(name=self.groupname, description=self.groupdesc)


class _JoinGroup(_Line, tag=9):
    id: fields.Id
    groupid: fields.Id

    def request(self) -> Request:
        return GroupJoin(group=self.groupid)


class _GroupChat(_Line, tag=10):
    id: fields.Id
    groupid: fields.Id
    msg: fields.Text

    def request(self) -> Request:
        return Send(text=self.msg, group=self.groupid)


_AnyLine = _Login | _Logout | _Register | _Chat | _AddFriend | _CreateGroup | _JoinGroup | _GroupChat
_decoder = msgspec.json.Decoder(_AnyLine)


class NumberedDialect:
    """One instance per line end.

    :param terminator: what ends a line, both ways: a newline or NUL.
    """

    name: ClassVar[str] = "numbered"
    any_password: ClassVar[bool] = True
    has_acks: ClassVar[bool] = False

    def __init__(self, terminator: bytes) -> None:
        self.terminator = terminator

    def decode(self, line: bytes, uid: int) -> Request:
        """Turn a line into a request of the account ``uid`` (0 before login).

        :raises flux.wire.catalogue.Rejected: malformed, or in the name of another account.
        """
        if holds_nul(line):
            raise Rejected(BadRequest("U+0000 is not allowed in a string"))
        try:
            decoded = _decoder.decode(line)
        except msgspec.ValidationError as problem:
            raise Rejected(BadRequest(str(problem))) from None
        except (msgspec.DecodeError, ValueError, RecursionError) as problem:
            raise Rejected(BadJson(str(problem))) from None
        claimed = getattr(decoded, "id", uid)
        if not isinstance(decoded, _Login) and claimed != uid:
            raise Rejected(BadRequest("id: not this connection's account"))
        request: Request = decoded.request()
        return request

    def event(self, event: Event) -> bytes:
        """The line for an event: messages have one, nothing else does."""
        if isinstance(event, Message):
            return _encode(chat_object(event)) + self.terminator
        return b""

    def reply(self, request: Request, reply: Reply) -> bytes:
        """The answer to a registration; a login's is made by :meth:`login_answer`, others have none."""
        if isinstance(reply, RegisterOk):
            return _encode({"msgid": 5, "errno": 0, "id": reply.id}) + self.terminator
        return b""

    def send_ok(self, request: Send, receipt: Receipt) -> bytes:
        """This dialect does not acknowledge."""
        return b""

    def error(self, error: FluxError, request: str | UnsetType = UNSET, ref: Ref | UnsetType = UNSET) -> bytes:
        """A failed login or registration says so; everything else is dropped."""
        if request == Login.type():
            in_use = isinstance(error, AlreadyLoggedIn)
            text = "id or password is invalid" if isinstance(error, PasswordInvalid) else error.detail or error.name
            return _encode({"msgid": 2, "errno": 2 if in_use else 1, "errmsg": text}) + self.terminator
        if request == Register.type():
            return _encode({"msgid": 5, "errno": 1}) + self.terminator
        return b""

    def login_answer(
        self,
        profile: Profile,
        friends: Sequence[FriendView],
        groups: Sequence[tuple[Group, Sequence[MemberView]]],
        offline: Sequence[Message],
    ) -> tuple[bytes, int]:
        """Answer 2, and how many of the ``offline`` messages it holds (the first ones)."""
        answer: dict[str, Any] = {"msgid": 2, "errno": 0, "id": profile.id, "name": profile.name}
        if friends:
            answer["friends"] = [
                _text({"id": friend.id, "name": friend.name, "state": _state(friend.online)}) for friend in friends
            ]
        if groups:
            answer["groups"] = [_group_text(group, members) for group, members in groups]
        line = _encode(answer)
        packed: list[str] = []
        for message in offline:
            attempt = _encode({**answer, "offlinemsg": [*packed, _text(chat_object(message))]})
            if len(attempt) + len(self.terminator) > MAX_LOGIN_ANSWER:
                break
            packed.append(_text(chat_object(message)))
            line = attempt
        return line + self.terminator, len(packed)


NUMBERED = {b"\n": NumberedDialect(b"\n"), b"\0": NumberedDialect(b"\0")}
"""The dialect by line end."""


def chat_object(message: Message) -> dict[str, Any]:
    """A message as object 6 (one-to-one) or 10 (group)."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(message.at / 1000))
    common = {"id": message.sender, "name": message.name}
    if message.group is UNSET:
        return {"msgid": 6, **common, "toid": message.to, "msg": message.text, "time": at}
    return {"msgid": 10, **common, "groupid": message.group, "msg": message.text, "time": at}


def _text(value: dict[str, Any]) -> str:
    return _encode(value).decode()


def _state(online: bool) -> str:
    return "online" if online else "offline"


def _group_text(group: Group, members: Sequence[MemberView]) -> str:
    users = [
        _text(
            {
                "id": member.id,
                "name": member.name,
                "state": _state(member.online),
                "role": "creator" if member.role == "owner" else "normal",
            }
        )
        for member in members
    ]
    return _text({"id": group.group, "groupname": group.name, "groupdesc": group.description, "users": users})
