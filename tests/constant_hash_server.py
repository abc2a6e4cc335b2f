"""A whole server whose password hash costs nothing, in a process of its own: what is left is everything else.

Run as ``python constant_hash_server.py FOLDER WHERE``; prints the gate's URL when it listens.
There is one account, ``ann``, and any password is hers. ``WHERE`` is ``here``, or ``thread``
for a constant that comes from the threads that hash: then the way there and back counts, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import globalLogBeginner

from flux.assembly import assemble
from flux.config import load
from flux.log import Threshold, observer_for_twistd

FREE = "tcp:0:interface=127.0.0.1:backlog=4096"


class ConstantHash:
    """Takes a turn in the threads that hash, and none of their time."""

    def hash(self, password: str) -> str:
        return "hash"

    def verify(self, stored: str, password: str) -> bool:
        return True

    def check_needs_rehash(self, stored: str) -> bool:
        return False


async def verify(
    password: str, stored: str | None, address: str, allowed: Callable[[], Any] | None = None
) -> tuple[bool, str | None]:
    """Instead of :meth:`Passwords.verify`."""
    if allowed is not None:
        await allowed()
    return True, None


def main(folder: str, where: str) -> None:
    from twisted.internet import reactor as installed

    reactor: Any = installed
    # As twistd logs by default, to a file.
    observer = observer_for_twistd({"logfile": f"{folder}/log", "nodaemon": False}, "text", Threshold("info"), reactor)
    assert observer is not None
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    listen = [f"{name}.listen={FREE}" for name in ("chat", "status", "gate")]
    limits = ("connections_per_address", "token_logins_per_minute")
    settings = load(
        None, [*listen, f"store.path={folder}/flux.db", *(f"limits.{limit}=0" for limit in limits), "admin.listen="]
    )
    assembly = assemble(settings, frozenset({"chat", "status", "gate"}), reactor)
    if where == "thread":
        assembly.passwords._hasher = ConstantHash()  # type: ignore[assignment]
    else:
        assembly.passwords.verify = verify  # type: ignore[method-assign]

    async def start() -> None:
        await assembly.start()
        await assembly.store.create_account("ann", "ann", "hash", "", "")
        assert assembly.gate is not None
        print(assembly.gate.url(), flush=True)

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(start()))
    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(assembly.stop()))
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
