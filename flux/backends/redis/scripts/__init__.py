"""The Lua scripts: each file is one atomic step in Redis, ``common.lua`` stands in front of all of them.

A script gets the prefix of the keys and its arguments as one msgpack string, and answers
with one string, mostly msgpack: long lists are slow to take apart in Python.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

_FOLDER = Path(__file__).parent


class Script(NamedTuple):
    """A script as Redis knows it: by its text, or by its digest."""

    source: bytes
    sha: str


def _load(name: str) -> Script:
    source = (_FOLDER / "common.lua").read_bytes() + b"\n" + (_FOLDER / f"{name}.lua").read_bytes()
    return Script(source, hashlib.sha1(source, usedforsecurity=False).hexdigest())


ASSIGN = _load("assign")
BANNED = _load("banned")
CHECK = _load("check")
FAIL = _load("fail")
FAILURES = _load("failures")
OFFEND = _load("offend")
PARDON = _load("pardon")
RENEW = _load("renew")
RESERVED = _load("reserved")
RETIRE = _load("retire")
ROUTES = _load("routes")
SESSIONS = _load("sessions")
TRY_CODE = _load("try_code")
