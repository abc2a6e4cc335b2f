"""Passwords: argon2id in a few threads of their own, and the rules for new ones.

Parameters are those OWASP recommends (m = 19 MiB, t = 2, p = 1): about 26 ms of CPU.
The threads run at a lower priority than the reactor's, so that a wave of logins does
not delay messages, and their number bounds the memory that hashing takes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from flux.errors import PasswordInvalid, TooLarge, Unavailable

T = TypeVar("T")

MAX_BYTES = 1024
"""Longest password, in UTF-8 bytes."""

MAX_WAITING = 2_000
"""Hashes waiting for a thread; beyond, logins fail with ``unavailable``."""

_COMMON = """
    password password1 password12 password123 passw0rd 12345678 123456789 1234567890 qwertyui qwertyuiop
    qwerty123 11111111 00000000 iloveyou sunshine princess football baseball superman trustno1 starwars
    whatever computer michelle jennifer 1q2w3e4r 1qaz2wsx abcd1234 abc12345 a1b2c3d4 asdfghjk asdfghjkl
    zxcvbnm1 letmein1 welcome1 admin123 administrator changeme 87654321 987654321 88888888 66666666
    12341234 12344321 11223344 asdf1234 qazwsxedc q1w2e3r4 1234qwer qwer1234 internet liverpool
    chocolate
"""

COMMON = frozenset(_COMMON.split())
"""Refused whatever their length: the ones that guessing starts with."""

HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)

_LOWER_PRIORITY = 10


def check_rules(password: str, minimum: int, any_password: bool) -> None:
    """Refuse a new password that breaks the rules.

    :param minimum: least number of characters.
    :param any_password: True for clients that know no rule but the minimum.
    :raises flux.errors.PasswordInvalid: too short, or one of the well-known ones.
    :raises flux.errors.TooLarge: too long.
    """
    if len(password.encode()) > MAX_BYTES:
        raise TooLarge(f"password: at most {MAX_BYTES} bytes")
    if len(password) < minimum:
        raise PasswordInvalid(f"a password has at least {minimum} characters")
    if not any_password and password.casefold() in COMMON:
        raise PasswordInvalid("this password is one of those that everybody tries; take another")


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
        self._turns = DeferredSemaphore(threads)
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
        return len(self._turns.waiting)

    async def hash(self, password: str) -> str:
        """The hash to store for a new password."""
        return await self._turn(lambda: self._hasher.hash(password))

    async def verify(
        self, password: str, stored: str | None, allowed: Callable[[], Any] | None = None
    ) -> tuple[bool, str | None]:
        """Whether ``password`` matches, and a new hash where the stored one's parameters are outdated.

        :param stored: the stored hash; None for an unknown account, which costs the same.
        :param allowed: awaited when this check's turn has come; what it raises ends the check.
        """
        return await self._turn(lambda: self._verify(password, stored), allowed)

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

    async def _turn(self, work: Callable[[], T], allowed: Callable[[], Any] | None = None) -> T:
        if len(self._turns.waiting) >= MAX_WAITING:
            raise Unavailable("too many logins at once; try again in a moment")
        await self._turns.acquire()
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
