"""An assembly with an admin port in this process, and a browser's or a program's side of HTTP."""

from __future__ import annotations

import http.client
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from twisted.internet.threads import deferToThread

from flux.assembly import Assembly, assemble
from flux.config import load, with_identity

FREE = "tcp:0:interface=127.0.0.1"
TOKEN = "a token of the admins"
BOTH = frozenset({"status", "chat"})


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@asynccontextmanager
async def running(folder: Path, *settings: str, roles: frozenset[str] = BOTH) -> AsyncIterator[Assembly]:
    """An assembly that is started, and stopped in the end."""
    from twisted.internet import reactor

    listen = [f"{section}.listen={FREE}" for section in ("chat", "status", "admin")]
    given = with_identity(load(None, [f"store.path={folder / 'flux.db'}", *listen, *settings]))
    made = assemble(given, roles, reactor)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def ask(
    assembly: Assembly, path: str, body: Any = None, method: str = "", raw: bytes | None = None, **headers: str
) -> Answer:
    """One request; with ``body`` a POST of JSON. Header names are written with underscores."""
    host, port = assembly.admin_listener.address()
    content = raw if raw is not None else None if body is None else json.dumps(body).encode()
    sent = {"Content-Type": "application/json"} if content is not None else {}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}

    def request() -> Answer:
        connection = http.client.HTTPConnection(host, port, timeout=20)
        try:
            connection.request(method or ("GET" if content is None else "POST"), path, content, sent)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    return await deferToThread(request)


async def login(assembly: Assembly, name: str, **how: Any) -> Any:
    """A client that has registered and is logged in."""
    from twisted.internet import reactor

    from flux.client import Client

    client = Client(reactor, [assembly.chat.listener.address()])
    await client.register(name, "correct horse")
    await client.login(name, password="correct horse", **how)
    return client
