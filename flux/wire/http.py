"""What travels over the gate's HTTP port: one struct per body, and how a body is read.

The structs are the API's description: the OpenAPI document is made from them, so a
docstring here is what a reader of that document is told.  Times are milliseconds
since the Unix epoch, UTC.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from flux.errors import BadJson, FluxError
from flux.wire import fields
from flux.wire.mistakes import field_error, holds_nul, json_error, look_into, nul_error

T = TypeVar("T")

Email = Annotated[
    str,
    Meta(
        max_length=254,
        pattern=(
            r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}"
            r"@[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$"
        ),
        examples=["ann@example.org"],
        extra={"wrong": "this is no e-mail address"},
    ),
]
Code = Annotated[str, Meta(min_length=1, max_length=20, description="From the e-mail.", examples=["123456"])]
Password = Annotated[str, Meta(min_length=1, max_length=1024, examples=["correct horse"])]
Purpose = Literal["register", "reset"]


class Body(msgspec.Struct, gc=False, kw_only=True, omit_defaults=True):
    """Base of all bodies. Fields that are not known are ignored."""

    #: What a JSON Schema can say of the fields together and their types cannot.
    schema: ClassVar[dict[str, Any]] = {}


class Problem(msgspec.Struct, gc=False, kw_only=True):
    """What went wrong. Compare `name`; `code` has the classic numbers, `detail` is for people."""

    code: int
    name: str
    detail: str
    retry_after: Annotated[int, Meta(description="For `rate_limited`: try again in so many ms.")] | UnsetType = UNSET


class CodeRequest(Body):
    """Where to send a verification code, and what it is for."""

    email: Email
    purpose: Purpose


class CodeSent(msgspec.Struct, gc=False, kw_only=True):
    """An e-mail is on its way. This says nothing about whether the address has an account."""

    expires: int


class Registration(Body):
    """A new account. With `code` the address counts as verified: it can log in, and reset the password."""

    name: fields.Name
    password: Password
    email: Email | UnsetType = UNSET
    code: Code | UnsetType = UNSET
    nick: fields.Nick = ""
    icon: fields.Icon = ""
    schema: ClassVar[dict[str, Any]] = {"dependentRequired": {"code": ["email"]}}


class Registered(msgspec.Struct, gc=False, kw_only=True):
    """The account exists."""

    id: int
    name: str


class Credentials(Body, kw_only=True):
    """Who wants in: one of `name`, `email` (a verified address) and `id`, and the password."""

    name: fields.Name | UnsetType = UNSET
    email: Email | UnsetType = UNSET
    id: fields.Id | UnsetType = UNSET
    password: Password
    schema: ClassVar[dict[str, Any]] = {"oneOf": [{"required": [name]} for name in ("name", "email", "id")]}


class Account(msgspec.Struct, gc=False, kw_only=True):
    """An account as its owner sees it; `email` is the verified address, or empty."""

    id: int
    name: str
    nick: str
    description: str
    sex: str
    icon: str
    email: str


class LoggedIn(Account, kw_only=True):
    """Where to chat now: connect to `host`:`port` and log in there with `id` and `token`, before `expires`.

    The connection begins with TLS if `tls` says so.

    `websocket` is the same server's WebSocket address, relative to this one where browsers reach it through the gate,
    and empty where they cannot. Until it expires the token is also
    the key to `/v1/profile`. An earlier token of the account is void.
    """

    host: str
    port: int
    server: str
    token: str
    expires: int
    websocket: str = ""
    tls: bool = False


class Place(msgspec.Struct, gc=False, kw_only=True):
    """Where to chat now, as in the answer to a login. The token that was shown is void."""

    id: int
    host: str
    port: int
    server: str
    token: str
    expires: int
    websocket: str = ""
    tls: bool = False


class PasswordReset(Body):
    """A new password for the account with this verified address. Its session ends, its token is void."""

    email: Email
    code: Code
    password: Password


class PasswordWasReset(msgspec.Struct, gc=False, kw_only=True):
    """The new password is in force."""

    id: int


class ProfileChange(Body):
    """What is to be different.

    `email` takes a `code` sent there for the purpose `register`, and the `password` if it replaces a verified address.
    """

    nick: fields.Nick | UnsetType = UNSET
    description: fields.Description | UnsetType = UNSET
    sex: fields.Sex | UnsetType = UNSET
    icon: fields.Icon | UnsetType = UNSET
    email: Email | UnsetType = UNSET
    code: Code | UnsetType = UNSET
    password: Password | UnsetType = UNSET
    schema: ClassVar[dict[str, Any]] = {"dependentRequired": {"code": ["email"], "email": ["code"]}}


class Rules(msgspec.Struct, gc=False, kw_only=True):
    """What registering takes here, and what is there for who forgets the password."""

    code_required: bool
    password_min: int
    codes_sent: Annotated[bool, Meta(description="Whether codes go out by e-mail, and not only into the log.")] = True


# --- the classic paths -------------------------------------------------------


class ClassicCodeRequest(Body):
    """As classic front ends ask for a code."""

    email: str


class ClassicRegistration(Body):
    """As classic front ends register."""

    user: fields.Name
    passwd: Password
    confirm: str
    email: str = ""
    icon: fields.Icon = ""
    varifycode: Annotated[str, Meta(max_length=20)] = ""


class ClassicReset(Body):
    """As classic front ends reset a password."""

    user: fields.Name
    email: str
    passwd: Password
    varifycode: Annotated[str, Meta(max_length=20)]


class ClassicLogin(Body, kw_only=True):
    """As classic front ends log in: with a name or, if that is missing, a verified address."""

    user: Annotated[str, Meta(max_length=50)] = ""
    email: str = ""
    passwd: Password


class ClassicAnswer(msgspec.Struct, gc=False, kw_only=True, omit_defaults=True):
    """`error` is 0, or the number of what went wrong; then there are no other fields."""

    error: Annotated[int, Meta(ge=0)]
    email: str = ""
    user: str = ""
    icon: str = ""
    uid: int = 0
    token: str = ""
    host: str = ""
    port: str = ""


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Read a body.

    :raises flux.errors.BadJson: not JSON, not UTF-8, not an object.
    :raises flux.errors.BadRequest: a field is missing or wrong; says which.
    :raises flux.errors.TooLarge: a field is over its limit.
    """
    try:
        if not body.isascii():
            # In a field that is skipped nobody else would notice.
            body.decode()
        if b"\\" in body and holds_nul(body):
            raise nul_error(look_into(body))
        return decoder.decode(body)
    except msgspec.ValidationError as problem:
        # Raises what is worse than a field: it is no JSON further on.
        look_into(body)
        raise field_error(str(problem), decoder.type, "body") from None
    except (msgspec.DecodeError, ValueError, RecursionError) as problem:
        raise BadJson(json_error(problem)) from None


def problem(error: FluxError) -> Problem:
    """What a client is told of ``error``."""
    return Problem(
        code=error.code, name=error.name, detail=error.detail, retry_after=getattr(error, "retry_after", UNSET)
    )


def encode(value: Any) -> bytes:
    """The body that says ``value``."""
    return _encode(value)


_encode = msgspec.json.Encoder().encode
