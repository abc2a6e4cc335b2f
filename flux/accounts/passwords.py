"""Passwords: argon2id in a few threads of their own.

Parameters are those OWASP recommends (m = 19 MiB, t = 2, p = 1): about 26 ms of CPU.
The threads run at a lower priority than the reactor's, so that a wave of logins does
not delay messages, and their number bounds the memory that hashing takes.

Who logs in has its turn before who wants a new password: anybody may register, and must
not make all others wait by that. Nor must one address with many logins: they wait for
their turns by address (``turns``).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from flux.accounts.turns import Turns

T = TypeVar("T")

MAX_WAITING = 2_000
"""Passwords to be checked that wait for a thread, and new ones to be hashed; beyond, ``unavailable``."""

HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)

_LOWER_PRIORITY = 10


class _DaemonThread(threading.Thread):
    """Does not keep the process alive."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, daemon=True)


class Passwords:
    """Hashes and checks passwords off the reactor.

    :param hasher: replaceable for tests and benchmarks.
    """

    def __init__(self, reactor: IReactorFromThreads, threads: int, hasher: PasswordHasher = HASHER) -> None:
        self._reactor = reactor
        self._hasher = hasher
        self._pool = ThreadPool(0, threads, name="passwords")
        # A process that ends without having stopped this must not wait for its threads for ever.
        self._pool.threadFactory = _DaemonThread
        self._turns = Turns(threads, MAX_WAITING)
        # A wrong password and an unknown account must take the same time.
        self._decoy: str | None = None

    def start(self) -> None:
        """Let the threads come up as they are needed."""
        self._pool.start()

    def stop(self) -> None:
        """End the threads; a hash being computed is finished first."""
        self._pool.stop()

    @property
    def waiting(self) -> int:
        """Passwords that wait for a thread."""
        return self._turns.waiting

    async def hash(self, password: str, address: str, allowed: Callable[[], Any] | None = None) -> str:
        """The hash to store for a new password, once no others wait to be checked.

        :param address: see :meth:`verify`.
        :param allowed: see :meth:`verify`.
        :raises flux.errors.Unavailable: too many new ones wait.
        """
        return await self._turn(lambda: self._hasher.hash(password), address, allowed, last=True)

    async def verify(
        self, password: str, stored: str | None, address: str, allowed: Callable[[], Any] | None = None
    ) -> tuple[bool, str | None]:
        """Whether ``password`` matches, and a new hash where the stored one's parameters are outdated.

        :param stored: the stored hash; None for an unknown account, which costs the same.
        :param address: the network address that asks; empty for an admin.
        :param allowed: awaited when this check's turn has come; what it raises ends the check.
        :raises flux.errors.Unavailable: too many checks wait.
        """
        return await self._turn(lambda: self._verify(password, stored), address, allowed, last=False)

    def _verify(self, password: str, stored: str | None) -> tuple[bool, str | None]:
        if stored is None:
            if self._decoy is None:
                self._decoy = self._hasher.hash("decoy")
            stored, known = self._decoy, False
        else:
            known = True
        try:
            self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False, None
        if not known:
            return False, None
        return True, self._hasher.hash(password) if self._hasher.check_needs_rehash(stored) else None

    async def _turn(self, work: Callable[[], T], address: str, allowed: Callable[[], Any] | None, last: bool) -> T:
        await self._turns.acquire(address, last)
        try:
            if allowed is not None:
                await allowed()
            result: Deferred[T] = deferToThreadPool(self._reactor, self._pool, _nicely, work)
            return await result
        finally:
            self._turns.release()


_niced = threading.local()


def _nicely(work: Callable[[], T]) -> T:
    """Run ``work`` in a thread that gives way to the reactor's."""
    if not getattr(_niced, "done", False):
        _niced.done = True
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWER_PRIORITY)
    return work()
