"""Every error a client can be told about, in one tree.

A request fails by raising one of these where the reason is understood; the
session turns it into one ``error`` line (or drops it, in a dialect that has no
errors).  Programs compare ``name``; ``code`` keeps the numbers of the classic
catalogue.  ``detail`` is for people and never holds a secret.

    FluxError
    ├── BadJson 1001              ├── UnknownType 1101
    ├── Unavailable 1002          ├── BadRequest 1102
    ├── CodeExpired 1003          ├── LineTooLong 1103 (fatal)
    ├── CodeWrong 1004            ├── NotLoggedIn 1104
    ├── UserExists 1005           ├── Forbidden 1105
    ├── PasswordMismatch 1006     ├── NotFound 1106
    ├── EmailMismatch 1007        ├── RateLimited 1107 (retry_after, ms)
    ├── PasswordInvalid 1009      ├── NoServer 1108
    ├── TokenInvalid 1010         ├── AlreadyLoggedIn 1109
    └── UserInvalid 1011          ├── TooLarge 1110
                                  └── Internal 1111
"""

from __future__ import annotations

from typing import ClassVar


class FluxError(Exception):
    """Base of all errors that have a place in the protocol.

    :ivar detail: one sentence for people: what is wrong, what to do.
    """

    code: ClassVar[int] = 1111
    name: ClassVar[str] = "internal"
    #: True where the connection cannot go on after this error.
    fatal: ClassVar[bool] = False

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}" if self.detail else self.name


def in_words(error: BaseException) -> str:
    """An error as an admin is told of it: without the name by which programs know it."""
    reason = error.reason if isinstance(error, Unavailable) else ""
    return reason or (error.detail if isinstance(error, FluxError) else str(error)) or type(error).__name__


class BadJson(FluxError):
    """Not JSON, not an object, or not UTF-8."""

    code = 1001
    name = "bad_json"


class Unavailable(FluxError):
    """A backend is away. On ``send`` the outcome is unknown: repeat with the same ``cid``.

    :ivar reason: what admins are told instead of ``detail``, where there is more to say than clients are to read:
        addresses, settings.
    """

    code = 1002
    name = "unavailable"

    def __init__(self, detail: str = "", reason: str = "") -> None:
        super().__init__(detail)
        self.reason = reason


class CodeExpired(FluxError):
    """There is no verification code for this address, or none any more."""

    code = 1003
    name = "code_expired"


class CodeWrong(FluxError):
    """This is not the verification code that was sent."""

    code = 1004
    name = "code_wrong"


class UserExists(FluxError):
    """The name or the verified e-mail address is taken."""

    code = 1005
    name = "user_exists"


class PasswordMismatch(FluxError):
    """A password and its repetition differ."""

    code = 1006
    name = "password_mismatch"


class EmailMismatch(FluxError):
    """Name and e-mail address do not belong together."""

    code = 1007
    name = "email_mismatch"


class PasswordInvalid(FluxError):
    """Account and password do not match, or a new password breaks the rules."""

    code = 1009
    name = "password_invalid"


class TokenInvalid(FluxError):
    """The login token is unknown, expired or revoked."""

    code = 1010
    name = "token_invalid"


class UserInvalid(FluxError):
    """No such user."""

    code = 1011
    name = "user_invalid"


class UnknownType(FluxError):
    """The request names a ``type`` this port does not know."""

    code = 1101
    name = "unknown_type"


class BadRequest(FluxError):
    """A field is missing or wrong; ``detail`` names it."""

    code = 1102
    name = "bad_request"


class LineTooLong(FluxError):
    """The line is over ``max_line``; what follows it cannot be framed."""

    code = 1103
    name = "line_too_long"
    fatal = True


class NotLoggedIn(FluxError):
    """The request needs a login first."""

    code = 1104
    name = "not_logged_in"


class Forbidden(FluxError):
    """Not a member, no right to do this, blocked, or a wrong cluster key."""

    code = 1105
    name = "forbidden"


class NotFound(FluxError):
    """No such chat, group, server or request."""

    code = 1106
    name = "not_found"


class RateLimited(FluxError):
    """Too many of these; ``retry_after`` says in how many milliseconds to try again."""

    code = 1107
    name = "rate_limited"

    def __init__(self, detail: str = "", retry_after: int = 1000) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class NoServer(FluxError):
    """There is no chat server to give, or this one is draining."""

    code = 1108
    name = "no_server"


class AlreadyLoggedIn(FluxError):
    """A second login on one connection, or takeover is off and the account is in use."""

    code = 1109
    name = "already_logged_in"


class TooLarge(FluxError):
    """A field is over its limit."""

    code = 1110
    name = "too_large"


class Internal(FluxError):
    """A bug: logged with the connection's id."""

    code = 1111
    name = "internal"
