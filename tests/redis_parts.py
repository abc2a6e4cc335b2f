"""A Redis for a test: a prefix of its own, and another way in to look and to disturb."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from flux.backends.redis import RedisBus, RedisState, make_redis
from flux.bench.engines import RedisServer

_numbers = itertools.count(1)


def new_prefix() -> str:
    """A prefix that no other test has."""
    return f"flux-test{next(_numbers)}:"


def parts(url: str, prefix: str = "flux:", ca: Path | None = None) -> tuple[RedisState, RedisBus]:
    """State and bus as a process has them, not started."""
    from twisted.internet import reactor

    return make_redis(url, prefix, ca, reactor)


def url_of(server: RedisServer, **changes: Any) -> str:
    """The URL of a server with other parts: ``user``, ``password``, ``port``, ``database``."""
    user = changes.get("user", "")
    password = changes.get("password", server.password)
    return f"redis://{user}:{password}@127.0.0.1:{changes.get('port', server.port)}/{changes.get('database', 0)}"
