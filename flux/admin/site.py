"""The admin port: a table of paths, and who may ask for what.

======================  ==========================================================================
``GET /healthz``        anybody: the reactor runs
``GET /readyz``         anybody: 200, or 503 with a list of what is wrong
``GET /``, its files    anybody: the dashboard, which holds nothing before it has asked
``GET /metrics``        with the token, where one is set: Prometheus' text format
``/api/...``            with the token, where one is set: JSON
======================  ==========================================================================

Without a token only programs of this machine may ask, and a browser is one of them: it must not be used by a page from
elsewhere.  So the Host must then be one of this machine's names (a name that was made to lead here has another),
and a POST has to have a type that no form can send, and to come from our own page if it comes from a page.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from flux.addresses import counted
from flux.admin.actions import Actions
from flux.admin.banning import Banned, Banning
from flux.admin.health import Health
from flux.admin.overview import Overviews
from flux.config import ConfigError
from flux.errors import BadJson, BadRequest, FluxError, Forbidden, Internal, NotFound, TokenInvalid, TooLarge
from flux.lifecycle import Tasks
from flux.net.http import header
from flux.net.web import MAX_BODY, BoundedRequest, answer, answer_json, refuse, static_files

Body = TypeVar("Body")

MOST_LISTED = 10_000
"""Sessions or users in one answer."""


class ServerBody(msgspec.Struct):
    """Which chat server."""

    server: str


class UserBody(msgspec.Struct):
    """Which account: by id, or by name."""

    user: int | str


class PasswordBody(msgspec.Struct):
    """A new password for an account."""

    user: int | str
    password: str


class BanBody(msgspec.Struct):
    """Whom to ban, and for how long: an account, or a network; 0 seconds is for ever."""

    user: int | str | None = None
    network: str | None = None
    reason: str = ""
    seconds: float = 0.0


class UnbanBody(msgspec.Struct):
    """Whose ban to lift."""

    user: int | str | None = None
    network: str | None = None


class AdminRoot(Resource):
    """Everything the admin port answers.

    :ivar token: what must be shown; empty: nothing.
    """

    isLeaf = True
    log = Logger()

    def __init__(
        self,
        token: str,
        registry: CollectorRegistry,
        health: Health,
        overviews: Overviews,
        actions: Actions,
        banning: Banning,
        tasks: Tasks,
    ) -> None:
        super().__init__()
        self.token = token
        self._registry = registry
        self._health = health
        self._overviews = overviews
        self._actions = actions
        self._banning = banning
        self._tasks = tasks
        self._files = static_files("flux.admin")

    def render(self, request: Request) -> int:
        """Begin to answer."""
        try:
            self._route(request)
        except FluxError as error:
            refuse(request, error)
        return NOT_DONE_YET

    def _route(self, request: Request) -> None:
        method, path = request.method, request.path
        gets, posts = self._GET, self._POST
        if method in (b"GET", b"HEAD"):
            if path == b"/healthz":
                answer(request, 200, b"ok\n", "text/plain; charset=utf-8")
            elif path == b"/readyz":
                self._start(request, self._ready(request))
            elif path in self._files:
                self._files[path].send(request)
            elif path in gets:
                self._allow(request)
                self._start(request, gets[path](self, request))
            elif path in posts:
                self._wrong_method(request, b"POST")
            else:
                raise NotFound("there is nothing here; see / and docs/operations.md")
        elif method == b"POST" and path in posts:
            self._allow(request)
            self._same_site(request)
            self._start(request, posts[path](self, request))
        elif path in posts:
            self._wrong_method(request, b"POST")
        else:
            self._wrong_method(request, b"GET, HEAD")

    @staticmethod
    def _wrong_method(request: Request, allowed: bytes) -> None:
        request.setHeader(b"Allow", allowed)
        refuse(request, BadRequest(f"this path takes {allowed.decode()}"), 405)

    # --- who may ask ---

    def _allow(self, request: Request) -> None:
        """:raises flux.errors.FluxError: whoever asks may not."""
        if self.token:
            scheme, _, shown = (request.getHeader(b"authorization") or b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(shown.strip(), self.token.encode()):
                if shown:
                    site: Any = request.site
                    site.tally.count("a wrong admin token from {address}: {count}", address=counted(_peer(request)))
                raise TokenInvalid("admin.token: missing or wrong; Authorization: Bearer TOKEN")
        elif not _is_this_machine(header(request, b"host") or ""):
            raise Forbidden(
                "without an admin.token this port answers only to localhost and addresses of this machine (Host header)"
            )

    @staticmethod
    def _same_site(request: Request) -> None:
        """:raises flux.errors.Forbidden: a page from elsewhere may have sent this."""
        kind = (header(request, b"content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise BadRequest("Content-Type: expected application/json")
        origin = header(request, b"origin")
        if origin is not None and _host(origin) != header(request, b"host"):
            raise Forbidden("this comes from a page of another site")
        if header(request, b"sec-fetch-site") not in (None, "same-origin", "none"):
            raise Forbidden("this comes from a page of another site")

    # --- how it is answered ---

    def _start(self, request: Request, answering: Awaitable[Any]) -> None:
        gone: list[object] = []
        _ = request.notifyFinish().addErrback(gone.append)

        async def run() -> None:
            error: FluxError
            try:
                value = await answering
            except CancelledError:
                raise
            except FluxError as problem:
                error = problem
            except ConfigError as problem:
                if not gone:
                    mistakes = [str(mistake) for mistake in problem.mistakes]
                    answer_json(request, {"error": "bad_config", "detail": str(problem), "mistakes": mistakes}, 422)
                return
            except Exception:
                self.log.failure("answering {path} failed", path=request.path)
                error = Internal("a bug in the server; it has been logged")
            else:
                if not gone and value is not None:
                    answer_json(request, value)
                return
            if not gone:
                refuse(request, error)

        self._tasks.spawn(run(), "answering an admin")

    async def _ready(self, request: Request) -> None:
        problems = await self._health.problems(for_anybody=True)
        answer_json(request, {"ready": not problems, "problems": problems}, 503 if problems else 200)

    async def _metrics(self, request: Request) -> None:
        answer(request, 200, generate_latest(self._registry), CONTENT_TYPE_LATEST)

    async def _overview(self, request: Request) -> Any:
        return await self._overviews.take(_number(request, "samples", 0, 720))

    async def _sessions(self, request: Request) -> Any:
        return self._actions.sessions(_text(request, "query"), _number(request, "limit", 100, MOST_LISTED))

    async def _users(self, request: Request) -> Any:
        return await self._actions.users(_text(request, "query"), _number(request, "limit", 100, MOST_LISTED))

    async def _kick(self, request: Request) -> Any:
        return await self._actions.kick(_body(request, UserBody).user, _by(request))

    async def _password(self, request: Request) -> Any:
        body = _body(request, PasswordBody)
        return await self._actions.set_password(body.user, body.password, _by(request))

    async def _bans(self, request: Request) -> Any:
        return await self._banning.bans(_number(request, "limit", 100, MOST_LISTED))

    async def _ban(self, request: Request) -> Any:
        body, by = _body(request, BanBody), _by(request)
        user, network = _one_of(body)
        if network is None:
            return await self._banning.ban_user(user, body.reason, body.seconds, by)
        return Banned(await self._banning.ban_network(network, body.reason, body.seconds, by))

    async def _unban(self, request: Request) -> Any:
        user, network = _one_of(_body(request, UnbanBody))
        if network is None:
            return await self._banning.lift_user(user, _by(request))
        return await self._banning.lift_network(network, _by(request))

    async def _drain(self, request: Request) -> Any:
        return await self._actions.drain(_body(request, ServerBody).server, True, _by(request))

    async def _resume(self, request: Request) -> Any:
        return await self._actions.drain(_body(request, ServerBody).server, False, _by(request))

    async def _reload(self, request: Request) -> Any:
        return await self._actions.reload(_by(request))

    _GET: ClassVar[dict[bytes, Callable[[AdminRoot, Request], Awaitable[Any]]]] = {
        b"/metrics": _metrics,
        b"/api/overview": _overview,
        b"/api/sessions": _sessions,
        b"/api/users": _users,
        b"/api/bans": _bans,
    }
    _POST: ClassVar[dict[bytes, Callable[[AdminRoot, Request], Awaitable[Any]]]] = {
        b"/api/kick": _kick,
        b"/api/password": _password,
        b"/api/ban": _ban,
        b"/api/unban": _unban,
        b"/api/drain": _drain,
        b"/api/resume": _resume,
        b"/api/reload": _reload,
    }


def _peer(request: Request) -> str:
    address: Any = request.getClientAddress()
    return str(getattr(address, "host", "local"))


def _by(request: Request) -> str:
    return f"admin at {_peer(request)}"


def _host(origin: str) -> str:
    """Host and port of an origin; empty where it is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _is_this_machine(host: str) -> bool:
    """Whether a Host header names this machine in a way that no other site's name can."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _text(request: Request, name: str) -> str:
    given: dict[bytes, list[bytes]] = request.args or {}
    [*_, value] = given.get(name.encode()) or [b""]
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadRequest(f"{name}: not UTF-8") from None


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = _text(request, name)
    if not text:
        return default
    if not (text.isascii() and text.isdecimal()) or len(text) > 9 or int(text) > most:
        raise BadRequest(f"{name}: expected a whole number from 0 to {most}")
    return int(text)


def _one_of(body: BanBody | UnbanBody) -> tuple[int | str, str | None]:
    """The account, or the network, which is None where it is the account."""
    if (body.user is None) == (body.network is None):
        raise BadRequest("user, network: give one of them")
    return body.user if body.user is not None else 0, body.network


def _body(request: Request, kind: type[Body]) -> Body:
    if isinstance(request, BoundedRequest) and request.too_large:
        raise TooLarge(f"a body has at most {MAX_BODY} bytes")
    assert request.content is not None
    try:
        return msgspec.json.decode(request.content.read(), type=kind)
    except msgspec.ValidationError as error:
        raise BadRequest(str(error)) from None
    except (ValueError, RecursionError):
        raise BadJson("the body is not JSON") from None
