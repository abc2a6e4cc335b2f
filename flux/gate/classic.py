"""The paths of classic gates, with their field names, so that existing front ends work.

Every answer is a 200 with an ``error``: 0, or one of the numbers of the catalogue.  Fields
that a request echoes come back, except those that hold a password or a code.
"""

from __future__ import annotations

from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from flux.errors import BadRequest, PasswordMismatch
from flux.gate.channel import GateRequest
from flux.gate.gate import Gate
from flux.gate.routes import Call, endpoint
from flux.wire.http import ClassicAnswer, ClassicCodeRequest, ClassicLogin, ClassicRegistration, ClassicReset


@endpoint("POST", "/get_varifycode", classic=True)
async def get_varifycode(gate: Gate, call: Call, body: ClassicCodeRequest) -> ClassicAnswer:
    """Send a code: to reset the password where the address has an account, to register where not."""
    await gate.verification.send("either", body.email, call.address)
    return ClassicAnswer(error=0, email=body.email)


@endpoint("POST", "/user_register", classic=True)
async def user_register(gate: Gate, call: Call, body: ClassicRegistration) -> ClassicAnswer:
    """Create an account."""
    if body.confirm != body.passwd:
        raise PasswordMismatch("passwd and confirm differ")
    uid = await gate.accounts.register(
        body.user, body.passwd, call.address, call.conn, icon=body.icon, email=body.email, code=body.varifycode
    )
    return ClassicAnswer(error=0, uid=uid, user=body.user, email=body.email, icon=body.icon)


@endpoint("POST", "/reset_pwd", classic=True)
async def reset_pwd(gate: Gate, call: Call, body: ClassicReset) -> ClassicAnswer:
    """Replace the password of an account that is called `user` and has the verified address `email`."""
    uid = await gate.reset_password(body.email, body.varifycode, body.passwd, call.address, call.conn, name=body.user)
    return ClassicAnswer(error=0, uid=uid, user=body.user, email=body.email)


@endpoint("POST", "/user_login", classic=True)
async def user_login(gate: Gate, call: Call, body: ClassicLogin) -> ClassicAnswer:
    """Check a password, and get a chat server and a token for it; the port is a string."""
    if not body.user and not body.email:
        raise BadRequest("user, email: give one of them")
    known, assignment = await gate.log_in(
        body.passwd, call.address, call.conn, name=body.user, email="" if body.user else body.email
    )
    return ClassicAnswer(
        error=0, uid=known.id, user=known.name, email=known.email, token=assignment.token, host=assignment.host,
        port=str(assignment.port),
    )  # fmt: skip


class GetTest(Resource):
    """``GET /get_test``: shows that somebody is there, and what they were asked."""

    isLeaf = True

    def render(self, request: GateRequest) -> int:
        """The parameters, one a line."""
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader(b"Allow", b"GET, HEAD")
            request.fail(BadRequest("this path takes GET"), 405)
            return NOT_DONE_YET
        lines = [b"receive get_test req"]
        for name, values in request.args.items():
            for value in values:
                lines.append(b"param%d key is %b,  value is %b" % (len(lines), name, value))
        request.answer(200, b"\n".join(lines) + b"\n", b"text/plain; charset=utf-8")
        return NOT_DONE_YET
