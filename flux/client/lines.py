"""Requests as JSON; a line from the server as a typed reply or event, and its errors as exceptions.

Servers may be newer than this client: an unknown ``type`` is passed over, unknown
fields are not looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, Union

import msgspec

from flux import errors
from flux.errors import BadRequest, FluxError
from flux.model import events
from flux.model.base import Event
from flux.model.messages import Message
from flux.wire import replies, status
from flux.wire.catalogue import ErrorReply, Reply
from flux.wire.fields import Ref

_EVENTS = (
    Message,
    events.ReadUpTo,
    events.Typing,
    events.Presence,
    events.FriendRequested,
    events.FriendAnswered,
    events.GroupChanged,
    events.Kicked,
    events.Moved,
)
_REPLIES = (
    ErrorReply,
    replies.RegisterOk,
    replies.LoginOk,
    replies.LogoutOk,
    replies.SendOk,
    replies.HistoryOk,
    replies.ChatsOk,
    replies.FriendAddOk,
    replies.FriendAnswerOk,
    replies.FriendRemoveOk,
    replies.UserBlockOk,
    replies.UserUnblockOk,
    replies.FriendsOk,
    replies.FriendRequestsOk,
    replies.GroupCreateOk,
    replies.GroupJoinOk,
    replies.GroupLeaveOk,
    replies.GroupAddOk,
    replies.GroupRemoveOk,
    replies.GroupRoleOk,
    replies.GroupsOk,
    replies.GroupMembersOk,
    replies.UserSearchOk,
    replies.ProfileGetOk,
    replies.ProfileSetOk,
    replies.PasswordChangeOk,
    replies.PingOk,
    replies.HelpOk,
)
_STATUS_REPLIES = (
    ErrorReply,
    status.AuthOk,
    status.GetChatServerOk,
    status.VerifyTokenOk,
    status.ServersOk,
    status.DrainOk,
    status.ResumeOk,
    replies.PingOk,
    replies.HelpOk,
)

_ERRORS: dict[str, type[FluxError]] = {
    error.name: error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, FluxError)
}


_encode = msgspec.json.Encoder().encode


def encode(asked: msgspec.Struct) -> bytes:
    """A request, or a body, as JSON; without the line end.

    :raises flux.errors.BadRequest: a string in it has no place in JSON: a lone surrogate is no character.
    :raises TypeError: a field holds what JSON has no form for.
    """
    try:
        return _encode(asked)
    except UnicodeEncodeError as problem:
        names = zip(asked.__struct_encode_fields__, asked.__struct_fields__, strict=True)
        # Never what it holds: it may be a password.
        where = next((told for told, name in names if getattr(asked, name) == problem.object), "request")
        why = "holds half a character, which cannot be sent (a lone surrogate; bytes that are not UTF-8 become one)"
        raise BadRequest(f"{where}: {why}") from None


class NotFlux(Exception):
    """What the server sent is no line of this protocol."""


Decode: TypeAlias = Callable[[bytes], "Reply | Event | None"]


def _decode(types: tuple[type, ...]) -> Decode:
    decoder: msgspec.json.Decoder[Reply | Event] = msgspec.json.Decoder(Union[types])  # noqa: UP007 (of a tuple)

    def decode(line: bytes) -> Reply | Event | None:
        """Turn a line into a reply or event; None for a type this client does not know.

        A reply that makes no sense comes back as the error it means for its request.

        :raises NotFlux: the line is not a JSON object.
        """
        try:
            try:
                return decoder.decode(line)
            except msgspec.ValidationError as problem:
                return _salvage(line, str(problem))
        except (ValueError, RecursionError) as problem:
            raise NotFlux(str(problem)) from None

    return decode


decode = _decode(_REPLIES + _EVENTS)
"""What a chat port says."""

decode_status = _decode(_STATUS_REPLIES)
"""What a status port says; of an assignment of many accounts at once it can make nothing."""


def _salvage(line: bytes, problem: str) -> ErrorReply | None:
    loose: Any = msgspec.json.decode(line)
    if not isinstance(loose, dict):
        raise NotFlux("not an object")
    try:
        ref = msgspec.convert(loose.get("ref"), Ref)
    except msgspec.ValidationError:
        return None
    return ErrorReply(ref=ref, code=1111, name="internal", detail=f"the server's answer makes no sense: {problem}")


def as_exception(reply: ErrorReply) -> FluxError:
    """The exception for an ``error`` line; one with a name this client does not know is a plain ``FluxError``."""
    if reply.name == "rate_limited":
        retry_after = reply.retry_after if isinstance(reply.retry_after, int) else 1000
        return errors.RateLimited(reply.detail, retry_after)
    if reply.name in _ERRORS:
        return _ERRORS[reply.name](reply.detail)
    return FluxError(f"{reply.detail} ({reply.name}, {reply.code})")
