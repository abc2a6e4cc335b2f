"""A whole server in this process, chat, status and gate, and what asks the gate over HTTP.

E-mail ends in ``Mailbox.mails``; passwords are hashed at almost no cost.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from chat_server import HASHER, Client, open_client
from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers
from zope.interface import implementer

from flux.assembly import Assembly, assemble
from flux.config import load, with_identity
from flux.errors import Unavailable
from flux.httpclient import HttpClient
from flux.interfaces import IMailer

PASSWORD = "correct horse"


@implementer(IMailer)
class Mailbox:
    """Keeps what is sent, as (to, subject, text); fails where it is told to."""

    mails: list[tuple[str, str, str]] = []  # noqa: RUF012 - shared on purpose
    problem: Exception | None = None
    held: Deferred[None] | None = None

    def __init__(self, settings: Any, reactor: Any) -> None:
        Mailbox.mails = []
        Mailbox.problem = Mailbox.held = None

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def check(self) -> str:
        if Mailbox.problem is not None:
            raise Unavailable("the mailbox is full")
        return "a mailbox for tests"

    async def send(self, to: str, subject: str, text: str) -> None:
        if Mailbox.held is not None:
            await Mailbox.held
        if Mailbox.problem is not None:
            raise Mailbox.problem
        Mailbox.mails.append((to, subject, text))


class Reply(NamedTuple):
    """What the gate answered."""

    status: int
    headers: Headers
    raw: bytes

    @property
    def json(self) -> Any:
        assert self.headers.getRawHeaders("Content-Type") == ["application/json"], self
        return json.loads(self.raw)

    @property
    def error(self) -> str:
        """The name of the error; the numbers must fit."""
        assert self.status >= 400, self
        assert self.json.keys() - {"retry_after"} == {"code", "name", "detail"}
        return str(self.json["name"])


class GateServer:
    """A server with everything.

    :param changes: of the configuration, as ``section.key=value``.
    """

    def __init__(self, folder: Path, *changes: str) -> None:
        from twisted.internet import reactor

        free = "tcp:0:interface=127.0.0.1"
        defaults = [
            *(f"{name}.listen={free}" for name in ("chat", "status", "gate")),
            "admin.listen=",
            f"store.path={folder / 'flux.db'}",
            "mail.kind=gate_server.Mailbox",
            "gate.require_code=no",
            "chat.drain=0",
        ]
        self.overrides = [*defaults, *changes]
        self.assembly: Assembly = assemble(
            with_identity(load(None, self.overrides)), frozenset({"chat", "status", "gate"}), reactor
        )
        self.assembly.passwords._hasher = HASHER
        self.http = HttpClient(reactor)
        self.url = ""
        #: Every answer there was.
        self.replies: list[Reply] = []
        self._clients: list[Client] = []

    async def start(self) -> GateServer:
        await self.assembly.start()
        assert self.assembly.gate is not None
        self.url = self.assembly.gate.url()
        return self

    async def stop(self) -> None:
        for client in self._clients:
            if not client.closed:
                await client.reset()
        await self.assembly.stop()

    @property
    def port(self) -> int:
        """The gate's."""
        assert self.assembly.gate is not None
        return int(self.assembly.gate.listener.address()[1])

    def reload(self, *changes: str) -> None:
        self.assembly.reload(with_identity(load(None, [*self.overrides, *changes])))

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """A request; headers are given with underscores for dashes, a body as what JSON says, or as it is."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes):
            sent.setdefault("Content-Type", "application/json")
            body = json.dumps(body).encode()
        reply = Reply(*await self.http.request(method, self.url + path, sent, body))
        self.replies.append(reply)
        return reply

    async def post(self, path: str, **body: Any) -> Reply:
        """A POST of JSON."""
        return await self.ask("POST", path, body)

    async def ok(self, path: str, **body: Any) -> Any:
        """A POST that succeeds: what it answers."""
        reply = await self.post(path, **body)
        assert 200 <= reply.status < 300, reply
        return reply.json

    async def code(self, email: str, purpose: str = "register") -> str:
        """A code, out of the e-mail it was sent in."""
        await self.ok("/v1/codes", email=email, purpose=purpose)
        return code_in(Mailbox.mails[-1], email)

    async def register(self, name: str, email: str = "") -> int:
        """An account; with a verified address, where one is given."""
        fields = {"email": email, "code": await self.code(email)} if email else {}
        return int((await self.ok("/v1/accounts", name=name, password=PASSWORD, **fields))["id"])

    async def log_in(self, name: str) -> dict[str, str]:
        """The header that a login gives the right to."""
        login = await self.ok("/v1/login", name=name, password=PASSWORD)
        return {"Authorization": f"Bearer {login['id']}:{login['token']}"}

    def chat(self) -> Client:
        """A connection to the chat port."""
        client = open_client(self.assembly.chat.listener.address()[1])
        self._clients.append(client)
        return client


def code_in(mail: tuple[str, str, str], to: str) -> str:
    """The code in an e-mail."""
    assert mail[0] == to
    [code] = re.findall(r"^Your code is (\d{6,})$", mail[2], re.MULTILINE)
    assert mail[1].startswith(code)
    return str(code)
