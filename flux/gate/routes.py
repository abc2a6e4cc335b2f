"""The API as a table: which function answers which method on which path, with what it takes and what it gives.

::

    @endpoint("POST", "/v1/login", errors=(PasswordInvalid, ...))
    async def login(gate: Gate, call: Call, body: Credentials) -> LoggedIn: ...

The types of body and answer come from the annotations.  The table is all there is:
what is served, and what the OpenAPI document describes, is made from it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple, get_type_hints

import msgspec
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from flux.errors import BadRequest, FluxError, Forbidden, Internal, RateLimited, TokenInvalid, TooLarge, Unavailable
from flux.gate.channel import GateRequest
from flux.gate.gate import Gate
from flux.net.http import header
from flux.wire.http import ClassicAnswer, decode, encode


class Call(NamedTuple):
    """Who asks.

    :ivar address: from where, without the port.
    :ivar conn: on which connection, for the log.
    :ivar uid: the owner of the token, where the endpoint takes one.
    """

    address: str
    conn: str
    uid: int = 0


Action = Callable[..., Coroutine[Any, Any, Any]]


@dataclass(frozen=True)
class Endpoint:
    """One method on one path.

    :ivar body: the struct its body is; None where there is none.
    :ivar reply: the struct it answers with.
    :ivar status: the HTTP status of that answer.
    :ivar errors: what it may answer instead, besides what everything may.
    :ivar token: whether it needs one.
    :ivar classic: whether it is for classic front ends: every answer is a 200 with an ``error``.
    """

    method: str
    path: str
    action: Action
    body: type[Any] | None
    reply: type[Any]
    status: int
    errors: tuple[type[FluxError], ...]
    token: bool
    classic: bool

    @property
    def about(self) -> str:
        """What it does."""
        return inspect.getdoc(self.action) or ""


TABLE: list[Endpoint] = []
"""All endpoints; ``api`` and ``classic`` fill it."""


def endpoint(
    method: str,
    path: str,
    *,
    status: int = 200,
    errors: tuple[type[FluxError], ...] = (),
    token: bool = False,
    classic: bool = False,
) -> Callable[[Action], Action]:
    """Enter a function into the table."""

    def enter(action: Action) -> Action:
        types = get_type_hints(action)
        body, reply = types.get("body"), types["return"]
        TABLE.append(Endpoint(method, path, action, body, reply, status, errors, token, classic))
        return action

    return enter


class Route(Resource):
    """One path of the API."""

    isLeaf = True
    log = Logger()

    def __init__(self, gate: Gate, endpoints: list[Endpoint]) -> None:
        super().__init__()
        self._gate = gate
        self._endpoints = {endpoint.method.encode(): endpoint for endpoint in endpoints}
        self._decoders = {
            endpoint.method: msgspec.json.Decoder(endpoint.body) for endpoint in endpoints if endpoint.body is not None
        }
        if b"GET" in self._endpoints:
            self._endpoints[b"HEAD"] = self._endpoints[b"GET"]

    def render(self, request: GateRequest) -> int:
        """Begin to answer."""
        endpoint = self._endpoints.get(request.method)
        if endpoint is None:
            allowed = b", ".join(self._endpoints)
            request.setHeader(b"Allow", allowed)
            request.fail(BadRequest(f"this path takes {allowed.decode()}"), 405)
            return NOT_DONE_YET
        if self._gate.stopping:
            self._fail(endpoint, request, Unavailable("the gate is stopping"))
            return NOT_DONE_YET
        answering = self._answer(endpoint, request)
        self._gate.tasks.spawn(answering, f"answering {endpoint.method} {endpoint.path}")
        return NOT_DONE_YET

    def refuse(self, request: GateRequest, error: FluxError) -> None:
        """Answer with ``error``, in the way of this path."""
        endpoint = self._endpoints.get(request.method)
        if endpoint is None:
            request.fail(error)
        else:
            self._fail(endpoint, request, error)

    async def _answer(self, endpoint: Endpoint, request: GateRequest) -> None:
        gone: list[object] = []
        # Whoever has left is not answered; what they asked for is done all the same.
        _ = request.notifyFinish().addErrback(gone.append)
        error: FluxError
        try:
            answer = await self._act(endpoint, request)
        except CancelledError:
            if not gone:
                self._fail(endpoint, request, Unavailable("the gate is stopping"))
            raise
        except FluxError as problem:
            error = problem
        except Exception:
            self.log.failure("answering {method} {path} failed", method=endpoint.method, path=endpoint.path)
            error = Internal("a bug; it was logged")
        else:
            if not gone:
                request.answer(endpoint.status, encode(answer))
            return
        if not gone:
            self._fail(endpoint, request, error)

    async def _act(self, endpoint: Endpoint, request: GateRequest) -> Any:
        call = Call(request.address, request.channel.conn)
        if endpoint.token:
            authorization = header(request, b"Authorization") or ""
            call = call._replace(uid=await self._gate.owner(authorization, call.address, call.conn))
        if endpoint.body is None:
            return await endpoint.action(self._gate, call)
        if not endpoint.classic:
            kind = (request.getHeader(b"Content-Type") or b"").partition(b";")[0].strip().lower()
            if kind != b"application/json":
                raise WrongContentType("Content-Type: expected application/json")
        assert request.content is not None
        body = decode(request.content.read(), self._decoders[endpoint.method])
        return await endpoint.action(self._gate, call, body)

    @staticmethod
    def _fail(endpoint: Endpoint, request: GateRequest, error: FluxError) -> None:
        if endpoint.classic:
            request.failed(error)
            request.answer(200, encode(ClassicAnswer(error=error.code)))
        else:
            request.fail(error, 415 if isinstance(error, WrongContentType) else 0)


class WrongContentType(BadRequest):
    """The body is of a kind that this path does not take."""


#: What every endpoint may answer.
ALWAYS: tuple[type[FluxError], ...] = (BadRequest, Forbidden, RateLimited, TooLarge, Unavailable, Internal)
#: What every endpoint with a token may answer.
WITH_TOKEN: tuple[type[FluxError], ...] = (TokenInvalid,)


def routes(gate: Gate) -> dict[bytes, Resource]:
    """The resources of the API by path."""
    by_path: dict[str, list[Endpoint]] = {}
    for each in TABLE:
        by_path.setdefault(each.path, []).append(each)
    return {path.encode(): Route(gate, endpoints) for path, endpoints in by_path.items()}
