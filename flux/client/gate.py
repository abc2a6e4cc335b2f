"""A program's way to a gate: accounts over HTTP, and where to chat.

::

    gate = GateClient(reactor, "https://chat.example.net")
    await gate.register("ann", "correct horse")
    client = Client(reactor)
    await client.login_through(gate.locator("ann", password="correct horse"))

The locator asks with the password once; when the session comes back later, it asks with the
token it was given then, which costs the gate no hash, and falls back to the password.
"""

from __future__ import annotations

from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET

from flux.client.errors import NotConnected
from flux.client.lines import as_exception, encode
from flux.errors import TokenInvalid
from flux.httpclient import HttpClient, NoAnswer, NoTls
from flux.lifecycle import within
from flux.model.placement import Assignment
from flux.wire.catalogue import ErrorReply
from flux.wire.http import (
    Account,
    Body,
    CodeRequest,
    CodeSent,
    Credentials,
    LoggedIn,
    PasswordReset,
    PasswordWasReset,
    Place,
    Problem,
    ProfileChange,
    Purpose,
    Registered,
    Registration,
    Rules,
)

T = TypeVar("T")

ANSWER_WITHIN = 30.0
"""Seconds a gate may take to answer: some of its answers wait until an e-mail was sent."""


def parse_url(text: str) -> str:
    """The address of a gate, from what people write: ``http://`` may be left out.

    :raises ValueError: with a sentence.
    """
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or not url.isascii() or " " in url:
        raise ValueError(f"{text!r} is not the address of a gate: write https://HOST or http://HOST:PORT")
    return url.rstrip("/")


class GateClient:
    """Asks one gate. Every method raises what :meth:`request` raises.

    :param url: where it is, as :func:`parse_url` reads it.
    :param http: makes the requests; one that trusts other certificates, for instance.
    """

    def __init__(self, reactor: Any, url: str, *, http: HttpClient | None = None) -> None:
        self.url = parse_url(url)
        self._clock = reactor
        self._http = http or HttpClient(reactor)

    async def rules(self) -> Rules:
        """What registering takes there."""
        return await self.request("GET", "/v1/rules", Rules)

    async def request_code(self, email: str, purpose: Purpose) -> CodeSent:
        """Have a code sent to an e-mail address; returns once it is on its way."""
        return await self.request("POST", "/v1/codes", CodeSent, CodeRequest(email=email, purpose=purpose))

    async def register(
        self, name: str, password: str, *, email: str = "", code: str = "", nick: str = "", icon: str = ""
    ) -> Registered:
        """Create an account; ``code`` proves that ``email`` is one's own."""
        body = Registration(
            name=name, password=password, email=email or UNSET, code=code or UNSET, nick=nick, icon=icon
        )
        return await self.request("POST", "/v1/accounts", Registered, body)

    async def login(self, user: str | int = "", *, password: str, email: str = "") -> LoggedIn:
        """Check a password, and get a chat server and a token; by name, id, or verified address."""
        body = Credentials(
            id=user if isinstance(user, int) else UNSET,
            name=user if isinstance(user, str) and user else UNSET,
            email=email or UNSET,
            password=password,
        )
        return await self.request("POST", "/v1/login", LoggedIn, body)

    async def find_server(self, uid: int, token: str) -> Place:
        """Another chat server and token for who has one; this one is void then."""
        return await self.request("POST", "/v1/server", Place, token=f"{uid}:{token}")

    async def reset_password(self, email: str, code: str, password: str) -> PasswordWasReset:
        """Replace a forgotten password, with a code for the purpose ``reset``."""
        body = PasswordReset(email=email, code=code, password=password)
        return await self.request("POST", "/v1/password/reset", PasswordWasReset, body)

    async def profile(self, uid: int, token: str) -> Account:
        """The account that the token is for."""
        return await self.request("GET", "/v1/profile", Account, token=f"{uid}:{token}")

    async def change_profile(self, uid: int, token: str, change: ProfileChange) -> Account:
        """Change the account that the token is for."""
        return await self.request("PATCH", "/v1/profile", Account, change, token=f"{uid}:{token}")

    def locator(self, user: str | int = "", *, password: str, email: str = "") -> Locator:
        """What :meth:`flux.client.Client.login_through` asks: this gate, with these credentials."""
        return Locator(self, user, password, email)

    async def request(self, method: str, path: str, reply: type[T], body: Body | None = None, token: str = "") -> T:
        """Ask, and wait for the answer of type ``reply``.

        :raises flux.errors.FluxError: what the gate answered instead; ``bad_request`` for a string that cannot be sent,
            which the gate is not asked about.
        :raises flux.client.NotConnected: nobody answers there, or not as a gate does.
        :raises flux.lifecycle.DeadlineExceeded: no answer within ``ANSWER_WITHIN``.
        """
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        asking = self._http.request(method, self.url + path, headers, None if body is None else encode(body))
        try:
            answer = await within(ANSWER_WITHIN, asking, self._clock, f"the gate at {self.url}")
        except NoAnswer as problem:
            instead = f"; write http{self.url[len('https') :]}" if isinstance(problem, NoTls) else ""
            raise NotConnected(f"cannot reach the gate at {self.url}: {problem}{instead}") from problem
        try:
            if 200 <= answer.status < 300:
                return msgspec.json.decode(answer.body, type=reply)
            problem_told = msgspec.json.decode(answer.body, type=Problem)
        except (ValueError, RecursionError) as problem:
            # Whatever the status: a proxy before the gate may be what answers, until somebody has set it right.
            raise NotConnected(f"what answers at {self.url} ({answer.status}) is not a gate of flux") from problem
        raise as_exception(
            ErrorReply(
                code=problem_told.code,
                name=problem_told.name,
                detail=problem_told.detail,
                retry_after=problem_told.retry_after,
            )
        )


class Locator:
    """Where one account is to log in, according to a gate; see :meth:`GateClient.locator`.

    :ivar account: the account as the gate told it last; None before.
    """

    def __init__(self, gate: GateClient, user: str | int, password: str, email: str) -> None:
        self._gate = gate
        self._user = user
        self._password = password
        self._email = email
        self._token = ""
        self.account: Account | None = None

    async def __call__(self) -> Assignment:
        """Ask; raises what :meth:`GateClient.request` raises."""
        place: Place | LoggedIn
        if self._token and self.account is not None:
            try:
                place = await self._gate.find_server(self.account.id, self._token)
            except TokenInvalid:
                self._token = ""
                return await self()
        else:
            self.account = place = await self._gate.login(self._user, password=self._password, email=self._email)
        self._token = place.token
        return Assignment(
            place.id, place.host, place.port, place.server, place.token, place.expires, place.websocket, place.tls
        )

    def password_changed(self, new: str) -> None:
        """From now on the password is another, and the token void."""
        self._password, self._token = new, ""
