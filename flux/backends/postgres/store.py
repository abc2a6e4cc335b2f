"""``IStore`` on PostgreSQL: each method is a call on the pool."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from statistics import median
from typing import Any, TypeVar

from twisted.logger import Logger
from zope.interface import implementer

from flux.backends.postgres import (
    accounts,
    append,
    bans,
    changes,
    cursors,
    friends,
    groups,
    history,
    migrating,
    prune,
    schema,
)
from flux.backends.postgres.connection import Link, Run, bounded, connect
from flux.backends.postgres.dsn import Dsn
from flux.backends.postgres.failures import in_full
from flux.backends.postgres.gathering import Gathering
from flux.backends.postgres.pool import Pool
from flux.errors import FluxError, Unavailable
from flux.interfaces import IStore
from flux.lifecycle import START_WITHIN, DeadlineExceeded, within
from flux.model.chats import CursorMove, Group, Member, MemberChange, Membership, Role
from flux.model.checks import Step
from flux.model.messages import Conversation, Draft, Message, Page, Receipt
from flux.model.overview import Changes, Overview
from flux.model.people import Ban, Credentials, Friend, FriendRequest, FriendStatus, Profile

T = TypeVar("T")

OVERVIEWS_AT_ONCE = 50
"""Overviews read by one statement."""

PROBES = 20
"""Commits that are measured by :meth:`PostgresStore.checks`."""


@implementer(IStore)
class PostgresStore:
    """The record in a database that any number of nodes share.

    :param dsn: a connection string of libpq.
    :param pool: connections.
    :param require_fsync: refuse a server that does not wait for its disk.
    :param now: the clock of messages, in seconds since the epoch; None: the database's.
    :param deadline: seconds until a call fails with ``Unavailable``.
    :param bound: calls that may wait or run.
    :param pairs_bound: chats of pairs kept in memory, twice (see :class:`~flux.backends.postgres.append.Pairs`).
    :raises Unavailable: ``dsn`` is no connection string.
    """

    _log = Logger()

    def __init__(
        self,
        dsn: str,
        reactor: Any,
        *,
        pool: int = 4,
        require_fsync: bool = True,
        now: Callable[[], float] | None = None,
        deadline: float = 10.0,
        bound: int = 10_000,
        pairs_bound: int = 200_000,
        rng: random.Random | None = None,
    ) -> None:
        self._dsn = Dsn(dsn)
        self._reactor = reactor
        self._require_fsync = require_fsync
        # The chat after which pruning goes on.
        self._prune_after = 0
        self._now = now
        self._pairs_bound = pairs_bound
        self._pairs = append.Pairs(pairs_bound)
        self._marks = changes.Marks()
        # Whether the database has refused messages since it was last seen to take some.
        self._failing = False
        self._server: schema.Server | None = None
        self._rng = rng or random.Random()
        self._pool = Pool(self._dsn, reactor, self._prepare, size=pool, bound=bound, deadline=deadline, rng=self._rng)
        self._sessions: Gathering[int, int] = Gathering(
            self._pool, reactor, accounts.open_sessions, most=bound, at_once=1, bound=bound
        )
        self._overviews: Gathering[int, Overview] = Gathering(
            self._pool, reactor, cursors.overviews, most=OVERVIEWS_AT_ONCE, at_once=max(1, pool - 1), bound=bound
        )

    async def start(self) -> None:
        """See ``IStore``; so for the other methods here.

        A migration may take as long as it needs, here or in another process that is waited for, and says so in the
        log; everything else has a deadline.
        """
        await self.with_link(self._bring_up)
        # There was no table then, perhaps.
        self._server = None
        await self._in_time(self._pool.start())

    async def stop(self) -> None:
        await self._pool.stop()

    async def with_link(self, work: Callable[[Link, Run], Awaitable[Any]]) -> Any:
        """Run ``work`` on a connection of its own, which is closed afterwards.

        :param work: gets the connection, and what runs statements on it that have a deadline.
        :raises Unavailable: there is none to be had, or the work failed; says why, beginning with the setting.
        """
        link: Link = await self._in_time(connect(self._dsn, self._reactor, self._prepare, lambda link, reason: None))
        try:
            return await work(link, bounded(link.run, START_WITHIN, self._reactor))
        except Unavailable as error:
            raise Unavailable(f"store.dsn: {in_full(error)}") from error
        finally:
            link.close()

    async def _in_time(self, connecting: Awaitable[T]) -> T:
        try:
            return await within(START_WITHIN, connecting, self._reactor, "connecting")
        except DeadlineExceeded:
            raise Unavailable(f"store.dsn: no connection to the database within {START_WITHIN:g} s") from None

    async def _bring_up(self, link: Link, run: Run) -> list[str]:
        applied = await migrating.migrate(link, run, self._reactor, self._rng)
        await schema.verify(run, len(schema.migrations()))
        await schema.may_use(run)
        if applied:
            self._log.info("the schema was brought up to date: {applied}", applied=", ".join(applied))
        return applied

    async def _prepare(self, run: Run) -> None:
        """Set a new connection up, and see whether the database is still the one it was."""
        server = await schema.inspect(run, self._require_fsync)
        before, self._server = self._server, server
        if before is None:
            return
        if server.history != before.history or not await self._marks.still_there(run):
            self._log.warn("the database is another one, or has gone back to an earlier state: everything is read anew")
            self._pairs = append.Pairs(self._pairs_bound)
            self._marks.forget()

    async def pending(self) -> tuple[int, list[str]]:
        """The schema's version, and the names of the migrations that were not applied. The store is not started.

        :raises Unavailable: the database cannot be reached, or is nothing for this flux; or our role may not apply what
            is missing.
        """

        async def look(link: Link, run: Run) -> tuple[int, list[str]]:
            version = await schema.applied(run)
            await schema.verify(run, version)
            missing = [migration.name for migration in schema.migrations()[version:]]
            await schema.may_migrate(run, missing)
            return version, missing

        found: tuple[int, list[str]] = await self.with_link(look)
        return found

    async def migrate(self) -> list[str]:
        """Apply what is missing, and return its names.

        :raises Unavailable: see ``start``, which does the same.
        """
        applied: list[str] = await self.with_link(self._bring_up)
        return applied

    def checks(self) -> list[Step]:
        """Steps that show whether this store can be used, in order; each returns a sentence or raises.

        The store is opened and closed in them, so that the one who asks needs no more than this. Nothing is changed:
        where migrations are missing that is said, and the rest has to wait for them.
        """
        missing: list[str] = []

        async def connects() -> str:
            async def look(link: Link, run: Run) -> None:
                pass

            await self.with_link(look)
            server = self._server
            assert server is not None
            fsync = "on" if server.fsync else "OFF: a crash of the machine loses messages"
            return f"PostgreSQL {server.version}, database {server.database} as {server.role}, fsync is {fsync}"

        async def migrated() -> str:
            version, missing[:] = await self.pending()
            if missing:
                return f"schema {version}\na start applies {', '.join(missing)}"
            await self.start()
            return f"schema {version}"

        async def commits() -> str:
            if missing:
                return "not tried without the tables that a start makes"
            taken = []
            for _ in range(PROBES):
                started = self._reactor.seconds()
                await self._pool.call(_touch)
                taken.append(self._reactor.seconds() - started)
            return f"a commit takes {median(taken) * 1000:.2f} ms (median of {PROBES})"

        async def close() -> str:
            await self.stop()
            return "closed"

        return [
            Step("connect", connects),
            Step("schema", migrated),
            Step("write and fsync", commits),
            Step("close", close),
        ]

    @property
    def past(self) -> str:
        """See ``IStore``."""
        return self._server.past if self._server is not None and self._marks.told else ""

    @property
    def _clock(self) -> int | None:
        return None if self._now is None else int(self._now() * 1000)

    # boots and accounts

    def next_boot(self, node: str) -> Awaitable[int]:
        return self._pool.call(accounts.next_boot, node)

    def create_account(
        self, name: str, key: str, password_hash: str, nick: str, email: str, icon: str = "", verified: str = ""
    ) -> Awaitable[int]:
        return self._pool.call(accounts.create_account, name, key, password_hash, nick, email, icon, verified)

    def credentials(self, uid: int, key: str, verified: str = "") -> Awaitable[Credentials | None]:
        return self._pool.call(accounts.credentials, uid, key, verified)

    def set_password(self, uid: int, password_hash: str, instead_of: str = "") -> Awaitable[bool]:
        return self._pool.call(accounts.set_password, uid, password_hash, instead_of)

    def set_email(self, uid: int, email: str, verified: str) -> Awaitable[None]:
        return self._pool.call(accounts.set_email, uid, email, verified)

    def profile(self, uid: int) -> Awaitable[Profile]:
        return self._pool.call(accounts.profile, uid)

    def set_profile(
        self, uid: int, nick: str | None, description: str | None, sex: str | None, icon: str | None
    ) -> Awaitable[Profile]:
        return self._pool.call(accounts.set_profile, uid, nick, description, sex, icon)

    def search(self, query: str, limit: int) -> Awaitable[tuple[Profile, ...]]:
        return self._pool.call(accounts.search, query, limit)

    def open_session(self, uid: int) -> Awaitable[int]:
        return self._sessions.call(uid)

    def return_session(self, uid: int, number: int) -> Awaitable[None]:
        return self._pool.call(accounts.return_session, uid, number)

    def overview(self, uid: int) -> Awaitable[Overview]:
        return self._overviews.call(uid)

    # bans

    def ban(self, ban: Ban) -> Awaitable[None]:
        return self._pool.call(bans.ban, ban)

    def unban(self, uid: int, network: str) -> Awaitable[bool]:
        return self._pool.call(bans.unban, uid, network)

    def bans(self, limit: int) -> Awaitable[tuple[Ban, ...]]:
        return self._pool.call(bans.bans, limit)

    def network_bans(self) -> Awaitable[tuple[Ban, ...]]:
        return self._pool.call(bans.network_bans)

    # friends

    def friend_add(self, uid: int, to: int, note: str, remark: str, one_sided: bool) -> Awaitable[FriendStatus]:
        return self._pool.call(friends.friend_add, self._clock, uid, to, note, remark, one_sided)

    def friend_answer(self, uid: int, sender: int, accept: bool, remark: str) -> Awaitable[FriendStatus]:
        return self._pool.call(friends.friend_answer, uid, sender, accept, remark)

    def friend_remove(self, uid: int, other: int) -> Awaitable[None]:
        return self._pool.call(friends.friend_remove, uid, other)

    def block(self, uid: int, other: int) -> Awaitable[None]:
        return self._pool.call(friends.block, uid, other)

    def unblock(self, uid: int, other: int) -> Awaitable[None]:
        return self._pool.call(friends.unblock, uid, other)

    def friends(self, uid: int) -> Awaitable[tuple[Friend, ...]]:
        return self._pool.call(friends.friends, uid)

    def friend_requests(self, uid: int) -> Awaitable[tuple[FriendRequest, ...]]:
        return self._pool.call(friends.friend_requests, uid)

    # groups

    def group_create(
        self, uid: int, name: str, description: str, closed: bool, open_history: bool, most: int = 0
    ) -> Awaitable[Group]:
        return self._pool.call(groups.group_create, uid, name, description, closed, open_history, most)

    def group_join(self, uid: int, group: int, most: int = 0) -> Awaitable[MemberChange]:
        return self._pool.call_in_order(lambda: {group}, groups.group_enter, "join", uid, group, uid, most)

    def group_leave(self, uid: int, group: int) -> Awaitable[MemberChange]:
        return self._pool.call_in_order(lambda: {group}, groups.group_change, "leave", uid, group, uid)

    def group_add(self, actor: int, group: int, uid: int, most: int = 0) -> Awaitable[MemberChange]:
        return self._pool.call_in_order(lambda: {group}, groups.group_enter, "add", actor, group, uid, most)

    def group_remove(self, actor: int, group: int, uid: int) -> Awaitable[MemberChange]:
        return self._pool.call_in_order(lambda: {group}, groups.group_remove, actor, group, uid)

    def group_role(self, actor: int, group: int, uid: int, role: Role) -> Awaitable[MemberChange]:
        return self._pool.call_in_order(lambda: {group}, groups.group_change, "role", actor, group, uid, role)

    def groups(self, uid: int) -> Awaitable[tuple[Group, ...]]:
        return self._pool.call(groups.groups, uid)

    def members(self, uid: int, group: int) -> Awaitable[tuple[Member, ...]]:
        return self._pool.call(groups.members, uid, group)

    def membership(self, chat: int) -> Awaitable[Membership]:
        return self._pool.call(groups.membership, chat)

    # messages

    def append(self, drafts: Sequence[Draft]) -> Awaitable[list[Receipt | FluxError]]:
        return self._pool.call_in_order(lambda: append.chats_of(drafts), self._append, drafts)

    async def _append(self, run: Run, drafts: Sequence[Draft]) -> list[Receipt | FluxError]:
        # Those of now, for the database may have become another one while this call waited.
        generation = self._marks.generation
        try:
            outcomes = await append.append(run, self._pairs, self._marks.saw, self._clock, drafts)
        except Unavailable as error:
            # A connection that was lost says nothing of what the database can do.
            self._failing |= error.__cause__ is not None
            raise
        if generation != self._marks.generation:
            raise Unavailable("the database is another one, or has gone back to an earlier state")
        return outcomes

    def history(self, uid: int, chat: int, to: int, group: int, before: int, after: int, limit: int) -> Awaitable[Page]:
        return self._pool.call(history.history, uid, chat, to, group, before, after, limit)

    def fill(self, uid: int, chat: int, after: int, limit: int) -> Awaitable[tuple[Message, ...]]:
        return self._pool.call(history.fill, uid, chat, after, limit)

    def conversations(self, uid: int, limit: int) -> Awaitable[tuple[Conversation, ...]]:
        return self._pool.call(history.conversations, uid, limit)

    def advance(self, moves: Sequence[CursorMove]) -> Awaitable[None]:
        # What is told while this call waits does not make the moves newer.
        past = self._marks.generation if self._marks.told else -1
        return self._pool.call(self._advance, past, moves)

    async def _advance(self, run: Run, past: int, moves: Sequence[CursorMove]) -> None:
        if moves and past != self._marks.generation:
            raise Unavailable("the database has gone back to an earlier state; cursors have to be read first")
        if moves or not self._failing:
            await cursors.advance(run, moves)
        else:
            # A balancer may send nobody here any more whose messages would show that it works again.
            await append.prove(run)
            self._failing = False

    def changes(self, mark: int) -> Awaitable[Changes]:
        return self._pool.call(changes.changes, self._marks, mark)

    async def prune(self, before: int, limit: int) -> int:
        while True:
            following, removed = await self._pool.call(prune.prune, before, self._prune_after, limit)
            if removed:
                # The same chats may have more.
                return removed
            self._prune_after = following
            if not following:
                return 0


async def _touch(run: Run) -> None:
    """Something to commit that leaves nothing behind."""
    await run("UPDATE flux_migrations SET name = name WHERE number = 1 RETURNING number")
