"""Store, shared state and mailer: ours by name, anybody's by dotted path."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from twisted.python.reflect import namedAny
from zope.interface.exceptions import Invalid
from zope.interface.interface import InterfaceClass
from zope.interface.verify import verifyObject

from flux.backends.mailers import LogMailer, Outbox, SmtpPost, WebhookPost
from flux.backends.memory import MemoryBus, MemoryState
from flux.backends.postgres import PostgresStore
from flux.backends.redis import make_redis
from flux.backends.sqlite import SqliteStore
from flux.backends.sqlite.backup import Backup, back_up
from flux.backends.transfer import Copied, Interruption, PostgresSide, Side, SqliteSide, copy
from flux.config import Settings
from flux.errors import Unavailable
from flux.interfaces import IBus, IMailer, IState, IStore
from flux.lifecycle import CannotStart
from flux.tls.client import trust_from


def make_store(settings: Settings, reactor: Any) -> IStore:
    """The store that ``[store] kind`` names: one of ours, or a callable of (settings, reactor) by dotted path.

    :raises flux.lifecycle.CannotStart: there is none of that name, or it is no store.
    """
    if settings.store.kind == "sqlite":
        return SqliteStore(settings.store.path, reactor)
    if settings.store.kind == "postgres":
        try:
            return PostgresStore(
                settings.store.dsn, reactor, pool=settings.store.pool, require_fsync=settings.store.require_fsync
            )
        except Unavailable as problem:
            raise CannotStart(problem.detail) from None
    store: IStore = _own("store.kind", settings.store.kind, settings, reactor)
    _verify("store.kind", IStore, store)
    return store


def has_migrations(store: object) -> bool:
    """Whether a store is one of ours: those have a schema that changes with the versions of flux."""
    return isinstance(store, (SqliteStore, PostgresStore))


def back_up_store(settings: Settings, target: Path, progress: Callable[[float], None]) -> Backup:
    """Copy the SQLite database of ``[store]``, which may be in use. Waits: no work for a reactor.

    :raises flux.errors.Unavailable: says why not.
    """
    return back_up(settings.store.path, target, progress)


def copy_store(
    source: Settings, target: Settings, progress: Callable[[float, str], None], interruption: Interruption
) -> Copied:
    """Copy one installation, which is not in use, into another one, which is empty. Waits likewise.

    :param interruption: ends it from another thread; whatever is returned was kept nevertheless.
    :raises flux.errors.Unavailable: says why not.
    """

    def told(share: float, what: str) -> None:
        interruption.check()
        progress(share, what)

    with ExitStack() as stack:
        # The target is given up first: when somebody else may write to the source again, it is settled.
        reading = stack.enter_context(closing(_side(source, write=False)))
        interruption.sides.append(reading)
        writing = stack.enter_context(closing(_side(target, write=True)))
        interruption.sides.append(writing)
        return copy(reading, writing, told)


def see_whether_idle(settings: Settings) -> None:
    """See that an installation is not in use. Waits likewise.

    :raises flux.errors.Unavailable: it is, or cannot be opened.
    """
    _side(settings, write=False).close()


def _side(settings: Settings, write: bool) -> Side:
    if settings.store.kind == "postgres":
        return PostgresSide(settings.store.dsn, write)
    return SqliteSide(settings.store.path, write)


def make_state(settings: Settings, reactor: Any) -> tuple[IState, IBus]:
    """The shared state and the bus that belongs to it: ``memory``, ``redis``, or a callable that returns both.

    :raises flux.lifecycle.CannotStart: there are none of that name, or they are something else.
    """
    if settings.state.kind == "memory":
        memory = MemoryState(reactor.seconds)
        return memory, MemoryBus(reactor, memory)
    if settings.state.kind == "redis":
        try:
            return make_redis(settings.state.url, settings.state.prefix, settings.state.ca, reactor)
        except Unavailable as problem:
            raise CannotStart(problem.detail) from None
    state, bus = _own("state.kind", settings.state.kind, settings, reactor)
    _verify("state.kind", IState, state)
    _verify("state.kind", IBus, bus)
    return state, bus


def make_mailer(settings: Settings, reactor: Any) -> IMailer:
    """The mailer that ``[mail] kind`` names: one of ours, or a callable of (settings, reactor) by dotted path.

    :raises flux.lifecycle.CannotStart: there is none of that name, or ``mail.ca`` cannot be read.
    """
    mail = settings.mail
    if mail.kind == "log":
        return LogMailer()
    trust = make_trust("mail.ca", mail.ca)
    if mail.kind == "smtp":
        post: Any = SmtpPost(reactor, mail.host, mail.port, mail.security, mail.sender, mail.user, mail.password, trust)
    elif mail.kind == "webhook":
        post = WebhookPost(reactor, mail.url, mail.secret, trust)
    else:
        mailer: IMailer = _own("mail.kind", mail.kind, settings, reactor)
        _verify("mail.kind", IMailer, mailer)
        return mailer
    return Outbox(post, reactor, mail.deadline, random.Random(secrets.randbits(64)))


def make_trust(key: str, path: Path | None) -> Any:
    """Whose certificates are believed, from a file; None, those the system trusts, where there is none.

    :raises flux.lifecycle.CannotStart: it cannot be read.
    """
    try:
        return trust_from(path) if path is not None else None
    except (OSError, ValueError) as error:
        raise CannotStart(f"{key}: {error}") from error


def _own(key: str, path: str, settings: Settings, reactor: Any) -> Any:
    try:
        return namedAny(path)(settings, reactor)
    except Exception as error:
        raise CannotStart(f"{key}: {path}: {error!r}") from error


def _verify(key: str, interface: InterfaceClass, candidate: object) -> None:
    try:
        verifyObject(interface, candidate)
    except Invalid as problem:
        raise CannotStart(f"{key}: {' '.join(str(problem).split())}") from None
