"""The Lua scripts: each file is one atomic step in Redis, ``common.lua`` stands in front of all of them.

A script gets the prefix of the keys and its arguments as one msgpack string, and answers
with one string, mostly msgpack: long lists are slow to take apart in Python.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from twisted.internet.defer import Deferred

from flux.backends.redis.connection import Refused

if TYPE_CHECKING:
    from flux.backends.redis.link import Link

PART = 4000
"""Accounts that one call is about, at most: to look them up takes 3 ms, for which Redis serves nobody else."""

_FOLDER = Path(__file__).parent
_pack = msgspec.msgpack.Encoder().encode


class Script(NamedTuple):
    """A script as Redis knows it: by its text, or by its digest."""

    source: bytes
    sha: str


def run(link: Link, script: Script, prefix: str, arguments: object, hurried: bool = True) -> Deferred[bytes]:
    """Run a script; one that Redis does not have (any more) is sent along.

    :param prefix: of the keys.
    :param hurried: whether its answer is wanted as soon as it is there.
    :raises flux.errors.Unavailable: as :meth:`Link.command` does.
    """
    payload = _pack(arguments)

    def perhaps_unknown(failure: Any) -> Any:
        if failure.check(Refused) and failure.value.kind == "NOSCRIPT":
            return link.command("EVAL", script.source, 0, prefix, payload)
        return failure

    return link.command("EVALSHA", script.sha, 0, prefix, payload, hurried=hurried).addErrback(perhaps_unknown)


def _load(name: str) -> Script:
    source = (_FOLDER / "common.lua").read_bytes() + b"\n" + (_FOLDER / f"{name}.lua").read_bytes()
    return Script(source, hashlib.sha1(source, usedforsecurity=False).hexdigest())


ASSIGN = _load("assign")
BANNED = _load("banned")
CHECK = _load("check")
FAIL = _load("fail")
FAILURES = _load("failures")
MULTICAST = _load("multicast")
OFFEND = _load("offend")
PARDON = _load("pardon")
RENEW = _load("renew")
RESERVED = _load("reserved")
RETIRE = _load("retire")
ROUTES = _load("routes")
SESSIONS = _load("sessions")
TRY_CODE = _load("try_code")
