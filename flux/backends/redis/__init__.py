"""Shared state and bus in Redis, for servers of several processes.

::

    RedisState ──┬── Link ── Connection          commands, publishing
    RedisBus ────┤
                 └── Link ── Connection          subscriptions

    Dialer      makes connections: Sentinel, TLS, password, database
    Link        keeps one, and makes it again when it is lost
    Connection  one: commands at once, with a deadline
    scripts/    what happens inside Redis, atomically
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flux.backends.redis.bus import RedisBus
from flux.backends.redis.checks import RedisChecks
from flux.backends.redis.dial import Dialer
from flux.backends.redis.link import Link
from flux.backends.redis.state import RedisState
from flux.backends.redis.url import parse_url
from flux.model.checks import Step

__all__ = ["RedisBus", "RedisState", "check_redis", "make_redis"]


def make_redis(url: str, prefix: str, ca: Path | None, reactor: Any) -> tuple[RedisState, RedisBus]:
    """A state and a bus on one server, not started.

    :param url: see :mod:`flux.backends.redis.url`.
    :param prefix: what all keys and channels begin with.
    :param ca: a file of certificates to trust instead of the system's.
    :raises flux.errors.Unavailable: the URL is wrong.
    """
    state, bus, _, _ = _parts(url, prefix, ca, reactor)
    return state, bus


def check_redis(url: str, prefix: str, ca: Path | None, reactor: Any) -> list[Step]:
    """The steps by which ``flux check`` tries them; parameters and errors of :func:`make_redis`."""
    state, bus, dialer, link = _parts(url, prefix, ca, reactor)
    return RedisChecks(dialer, link, state, bus, reactor).steps()


def _parts(url: str, prefix: str, ca: Path | None, reactor: Any) -> tuple[RedisState, RedisBus, Dialer, Link]:
    address = parse_url(url)
    dialer = Dialer(address, ca, reactor)
    link = Link(dialer, reactor, "commands")
    # Channels belong to no database, so the database is in their names.
    bus = RedisBus(link, dialer, prefix, f"{prefix}bus:{address.database}:", reactor)
    return RedisState(link, prefix, reactor), bus, dialer, link
