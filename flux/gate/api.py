"""The requests of the API."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from flux.accounts.rules import check_nick
from flux.errors import (
    BadJson,
    BadRequest,
    CodeExpired,
    CodeWrong,
    NoServer,
    PasswordInvalid,
    UserExists,
    UserInvalid,
)
from flux.gate.gate import Gate
from flux.gate.routes import Call, endpoint
from flux.wire.http import (
    Account,
    CodeRequest,
    CodeSent,
    Credentials,
    LoggedIn,
    PasswordReset,
    PasswordWasReset,
    Place,
    ProfileChange,
    Registered,
    Registration,
    Rules,
)


def given(value: str | UnsetType) -> str:
    """A field's value, empty where it was left out."""
    return value if isinstance(value, str) else ""


@endpoint("GET", "/v1/rules")
async def rules(gate: Gate, call: Call) -> Rules:
    """What registering takes.

    For forms: whether to ask for a code, how long a password is at least, and whether an e-mail address is of any use.
    """
    accounts = gate.accounts
    return Rules(
        code_required=accounts.require_code, password_min=accounts.password_min, codes_sent=accounts.codes_sent
    )


@endpoint("POST", "/v1/codes", status=202, errors=(BadJson,))
async def request_code(gate: Gate, call: Call, body: CodeRequest) -> CodeSent:
    """Send a verification code to an e-mail address.

    The answer is the same whether the address has an account or not; what the e-mail says is not. A code works once,
    for one purpose, within ten minutes, and not after five wrong ones. A new code replaces the one before it, whatever
    that was for.
    """
    return CodeSent(expires=await gate.verification.send(body.purpose, body.email, call.address))


@endpoint("POST", "/v1/accounts", status=201, errors=(BadJson, CodeExpired, CodeWrong, PasswordInvalid, UserExists))
async def register(gate: Gate, call: Call, body: Registration) -> Registered:
    """Create an account.

    A wrong or missing field, a taken name and a password that breaks the rules do not use the code up.
    """
    uid = await gate.accounts.register(
        body.name,
        body.password,
        call.address,
        call.conn,
        nick=body.nick,
        icon=body.icon,
        email=given(body.email),
        code=given(body.code),
    )
    return Registered(id=uid, name=body.name)


@endpoint("POST", "/v1/login", errors=(BadJson, PasswordInvalid, NoServer))
async def login(gate: Gate, call: Call, body: Credentials) -> LoggedIn:
    """Check a password, and get a chat server and a token for it.

    Failed logins are counted, together with those on the chat port. Right ones of an account have a limit, too.
    """
    uid = body.id if isinstance(body.id, int) else 0
    known, place = await gate.log_in(
        body.password, call.address, call.conn, uid=uid, name=given(body.name), email=given(body.email)
    )
    return LoggedIn(
        id=known.id, name=known.name, nick=known.nick, description=known.description, sex=known.sex, icon=known.icon,
        email=known.email, host=place.host, port=place.port, server=place.server, token=place.token,
        expires=place.expires, websocket=place.websocket, tls=place.tls,
    )  # fmt: skip


@endpoint("POST", "/v1/server", errors=(NoServer,), token=True)
async def find_server(gate: Gate, call: Call) -> Place:
    """Get another chat server and token, with a token instead of the password.

    For clients whose connection has ended: it costs the server no hash.
    """
    assignment = await gate.place(call.uid)
    return Place(
        id=call.uid, host=assignment.host, port=assignment.port, server=assignment.server, token=assignment.token,
        expires=assignment.expires, websocket=assignment.websocket, tls=assignment.tls,
    )  # fmt: skip


@endpoint("POST", "/v1/password/reset", errors=(BadJson, CodeExpired, CodeWrong, PasswordInvalid, UserInvalid))
async def reset_password(gate: Gate, call: Call, body: PasswordReset) -> PasswordWasReset:
    """Replace a forgotten password.

    With a code for the purpose `reset`. A password that breaks the rules does not use it up. The address is told by
    e-mail.
    """
    uid = await gate.reset_password(body.email, body.code, body.password, call.address, call.conn)
    return PasswordWasReset(id=uid)


@endpoint("GET", "/v1/profile", errors=(UserInvalid,), token=True)
async def get_profile(gate: Gate, call: Call) -> Account:
    """One's own account."""
    return await _account(gate, call.uid)


@endpoint(
    "PATCH",
    "/v1/profile",
    errors=(BadJson, CodeExpired, CodeWrong, PasswordInvalid, UserExists, UserInvalid),
    token=True,
)
async def change_profile(gate: Gate, call: Call, body: ProfileChange) -> Account:
    """Change one's own account; fields that are left out stay as they are.

    To replace a verified address takes the password, which does not use the code up if it is wrong. The address that
    was replaced is told by e-mail.
    """
    if (body.email is UNSET) != (body.code is UNSET):
        raise BadRequest("email, code: an address comes with the code that was sent there")
    if isinstance(body.nick, str):
        check_nick(body.nick)
    if isinstance(body.email, str):
        await gate.set_email(
            call.uid, body.email, given(body.code), call.address, call.conn, password=given(body.password)
        )
    nick, description, sex, icon = (
        value if isinstance(value, str) else None for value in (body.nick, body.description, body.sex, body.icon)
    )
    await gate.store.set_profile(call.uid, nick, description, sex, icon)
    return await _account(gate, call.uid)


async def _account(gate: Gate, uid: int) -> Account:
    known = await gate.store.credentials(uid, "")
    if known is None:
        raise UserInvalid("this account is gone")
    return Account(
        id=known.id, name=known.name, nick=known.nick, description=known.description, sex=known.sex, icon=known.icon,
        email=known.email,
    )  # fmt: skip
