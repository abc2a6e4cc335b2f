"""What the admin port needs of the process around it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from flux.bans import Bans
from flux.config import Difference
from flux.interfaces import IBus, IState, IStore
from flux.model.placement import Node
from flux.model.sessions import SessionSeen


class Directory(Protocol):
    """The chat servers: a status service, or what a chat server knows without one."""

    async def look(self) -> tuple[Node, ...]:
        """All that are known, as they are now.

        :raises flux.errors.Unavailable: the shared state did not answer; what is known is as it was.
        """

    def servers(self) -> tuple[Node, ...]:
        """All that are known, as they were at the last look."""

    async def drain(self, server: str, draining: bool) -> Node:
        """Give a server no more users, or users again.

        :raises flux.errors.NotFound: no such server.
        """


@dataclass(frozen=True)
class Sources:
    """The parts of a process.

    :ivar roles: the services that run here.
    :ivar name: of its chat server; empty without one.
    :ivar store: None where none is open.
    :ivar status: returns when one of the status services that a gate here asks has answered; None where none is asked.
    :ivar bans: what is known of bans here; None without a store.
    :ivar listening: whether everything listens.
    :ivar draining: whether its chat server takes no logins.
    :ivar sessions: those here, by a query, so many at most; None without a chat server.
    :ivar hash_password: checks a new password by the rules and hashes it.
    :ivar reread: reads the configuration again, see :meth:`flux.process.FluxProcess.reload`.
    """

    roles: Sequence[str]
    name: str
    state: IState
    bus: IBus
    directory: Directory
    listening: Callable[[], bool]
    reread: Callable[[str], Awaitable[Difference]]
    store: IStore | None = None
    status: Callable[[], Awaitable[object]] | None = None
    bans: Bans | None = None
    draining: Callable[[], bool] = lambda: False
    sessions: Callable[[str, int], list[SessionSeen]] | None = None
    hash_password: Callable[[str], Awaitable[str]] | None = None
