"""``IStore`` on one SQLite file: each method is a call on the writer's lane or on the readers'."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import Deferred
from zope.interface import implementer

from flux.backends.sqlite import accounts, bans, cursors, friends, groups, history, prune
from flux.backends.sqlite.append import append
from flux.backends.sqlite.lanes import IReactor, Lane
from flux.backends.sqlite.quiet import Quiet
from flux.backends.sqlite.reader import Reader
from flux.backends.sqlite.schema import Connect, migrations, open_reader, open_writer, own, version_of
from flux.backends.sqlite.writer import AfterCommit, Writer
from flux.errors import FluxError
from flux.interfaces import IStore
from flux.model.chats import CursorMove, Group, Member, MemberChange, Membership, Role
from flux.model.messages import Conversation, Draft, Message, Page, Receipt
from flux.model.overview import Changes, Overview
from flux.model.people import Ban, Credentials, Friend, FriendRequest, FriendStatus, Profile

T = TypeVar("T")

READERS = 2
"""Threads that read: a long read holds up half of the others, no more."""

READS_AT_ONCE = 50
"""Calls in one snapshot: what waits is shared among the readers."""


@implementer(IStore)
class SqliteStore:
    """The record in one file, owned by this process.

    :param path: the database; its directory is made where it is missing.
    :param now: the clock of messages, in seconds since the epoch.
    :param deadline: seconds until a call fails with ``Unavailable``.
    :param bound: calls that may wait for the writer, and for the readers.
    :param chats_bound: members of chats kept in memory, twice (see :class:`~flux.backends.sqlite.chats.Chats`).
    :param changes_bound: chats and accounts that :meth:`changes` remembers.
    :param connect: makes connections.
    """

    #: Nobody can put another file in the place of one that is open.
    past = "sqlite"

    def __init__(
        self,
        path: str | Path,
        reactor: IReactor,
        *,
        now: Callable[[], float] = time.time,
        deadline: float = 10.0,
        bound: int = 10_000,
        chats_bound: int = 100_000,
        changes_bound: int = 200_000,
        connect: Connect = sqlite3.connect,
    ) -> None:
        self.path = Path(path).absolute()
        self._reactor = reactor
        self._now = now
        self._chats_bound = chats_bound
        self._changes_bound = changes_bound
        self._connect = connect
        self._quiet = Quiet()
        # The chat at which pruning goes on.
        self._prune_from = 0
        self._writer: Lane[Writer] = Lane(
            reactor, "writer", self._open_writer, bound=bound, deadline=deadline, most=bound
        )
        self._readers: Lane[sqlite3.Connection] = Lane(
            reactor,
            "reader",
            self._open_reader,
            bound=bound,
            deadline=deadline,
            threads=READERS,
            most=READS_AT_ONCE,
        )

    async def start(self) -> None:
        """See ``IStore``; so for the other methods here."""
        await self._writer.start()
        try:
            await self._readers.start()
        except BaseException:
            await self._writer.stop()
            raise

    async def stop(self) -> None:
        await self._readers.stop()
        await self._writer.stop()

    async def pending(self) -> tuple[int, list[str]]:
        """The schema's version, and the names of the migrations that were not applied. The store is not started.

        :raises Unavailable: the file is nothing for this flux.
        """
        found = version_of(self.path)
        return found, [migration.name for migration in migrations()[found:]]

    async def migrate(self) -> list[str]:
        """Apply what is missing, and return its names.

        :raises Unavailable: see ``start``, which does the same.
        """
        _, names = await self.pending()
        await self.start()
        await self.stop()
        return names

    # in the threads of the lanes

    def _open_writer(self) -> Writer:
        lock = own(self.path)
        try:
            db = open_writer(self.path, self._connect)
        except BaseException:
            lock.release()
            raise
        return Writer(
            db, self.path, lock.release, self._quiet, self._chats_bound, self._changes_bound, self._now, self._reactor
        )  # fmt: skip

    def _open_reader(self) -> Reader:
        return Reader(open_reader(self.path, self._connect), self._quiet)

    # what every method is

    def _write(self, work: Callable[..., T], *arguments: object) -> Deferred[T]:
        return self._writer.call(lambda writer: work(writer, *arguments))

    def _read(self, work: Callable[..., T], *arguments: object) -> Deferred[T]:
        return self._readers.call(lambda db: work(db, *arguments))

    # boots and accounts

    def next_boot(self, node: str) -> Awaitable[int]:
        return self._write(accounts.next_boot, node)

    def create_account(
        self, name: str, key: str, password_hash: str, nick: str, email: str, icon: str = "", verified: str = ""
    ) -> Awaitable[int]:
        return self._write(accounts.create_account, name, key, password_hash, nick, email, icon, verified)

    def credentials(self, uid: int, key: str, verified: str = "") -> Awaitable[Credentials | None]:
        return self._read(accounts.credentials, uid, key, verified)

    def set_password(self, uid: int, password_hash: str, instead_of: str = "") -> Awaitable[bool]:
        return self._write(accounts.set_password, uid, password_hash, instead_of)

    def set_email(self, uid: int, email: str, verified: str) -> Awaitable[None]:
        return self._write(accounts.set_email, uid, email, verified)

    def profile(self, uid: int) -> Awaitable[Profile]:
        return self._read(accounts.profile, uid)

    def set_profile(
        self, uid: int, nick: str | None, description: str | None, sex: str | None, icon: str | None
    ) -> Awaitable[Profile]:
        return self._write(accounts.set_profile, uid, nick, description, sex, icon)

    def search(self, query: str, limit: int) -> Awaitable[tuple[Profile, ...]]:
        return self._read(accounts.search, query, limit)

    def open_session(self, uid: int) -> Awaitable[int]:
        return self._write(accounts.open_session, uid)

    def return_session(self, uid: int, number: int) -> Awaitable[None]:
        return self._write(accounts.return_session, uid, number)

    def overview(self, uid: int) -> Awaitable[Overview]:
        return self._read(cursors.overview, uid)

    # bans

    def ban(self, ban: Ban) -> Awaitable[None]:
        return self._write(bans.ban, ban)

    def unban(self, uid: int, network: str) -> Awaitable[bool]:
        return self._write(bans.unban, uid, network)

    def bans(self, limit: int) -> Awaitable[tuple[Ban, ...]]:
        return self._read(bans.bans, limit)

    def network_bans(self) -> Awaitable[tuple[Ban, ...]]:
        return self._read(bans.network_bans)

    # friends

    def friend_add(self, uid: int, to: int, note: str, remark: str, one_sided: bool) -> Awaitable[FriendStatus]:
        return self._write(friends.friend_add, uid, to, note, remark, one_sided)

    def friend_answer(self, uid: int, sender: int, accept: bool, remark: str) -> Awaitable[FriendStatus]:
        return self._write(friends.friend_answer, uid, sender, accept, remark)

    def friend_remove(self, uid: int, other: int) -> Awaitable[None]:
        return self._write(friends.friend_remove, uid, other)

    def block(self, uid: int, other: int) -> Awaitable[None]:
        return self._write(friends.block, uid, other)

    def unblock(self, uid: int, other: int) -> Awaitable[None]:
        return self._write(friends.unblock, uid, other)

    def friends(self, uid: int) -> Awaitable[tuple[Friend, ...]]:
        return self._read(friends.friends, uid)

    def friend_requests(self, uid: int) -> Awaitable[tuple[FriendRequest, ...]]:
        return self._read(friends.friend_requests, uid)

    # groups

    def group_create(
        self, uid: int, name: str, description: str, closed: bool, open_history: bool, most: int = 0
    ) -> Awaitable[Group]:
        return self._write(groups.group_create, uid, name, description, closed, open_history, most)

    def group_join(self, uid: int, group: int, most: int = 0) -> Awaitable[MemberChange]:
        return self._write(groups.group_join, uid, group, most)

    def group_leave(self, uid: int, group: int) -> Awaitable[MemberChange]:
        return self._write(groups.group_leave, uid, group)

    def group_add(self, actor: int, group: int, uid: int, most: int = 0) -> Awaitable[MemberChange]:
        return self._write(groups.group_add, actor, group, uid, most)

    def group_remove(self, actor: int, group: int, uid: int) -> Awaitable[MemberChange]:
        return self._write(groups.group_remove, actor, group, uid)

    def group_role(self, actor: int, group: int, uid: int, role: Role) -> Awaitable[MemberChange]:
        return self._write(groups.group_role, actor, group, uid, role)

    def groups(self, uid: int) -> Awaitable[tuple[Group, ...]]:
        return self._read(groups.groups, uid)

    def members(self, uid: int, group: int) -> Awaitable[tuple[Member, ...]]:
        return self._read(groups.members, uid, group)

    def membership(self, chat: int) -> Awaitable[Membership]:
        return self._read(groups.membership, chat)

    # messages

    def append(self, drafts: Sequence[Draft]) -> Awaitable[list[Receipt | FluxError]]:
        return self._write(append, drafts)

    def history(self, uid: int, chat: int, to: int, group: int, before: int, after: int, limit: int) -> Awaitable[Page]:
        return self._read(history.history, uid, chat, to, group, before, after, limit)

    def fill(self, uid: int, chat: int, after: int, limit: int) -> Awaitable[tuple[Message, ...]]:
        return self._read(history.fill, uid, chat, after, limit)

    def conversations(self, uid: int, limit: int) -> Awaitable[tuple[Conversation, ...]]:
        return self._read(history.conversations, uid, limit)

    def advance(self, moves: Sequence[CursorMove]) -> Awaitable[None]:
        return self._write(cursors.advance, moves)

    def changes(self, mark: int) -> Awaitable[Changes]:
        return self._writer.call(AfterCommit(lambda writer: writer.changes.since(mark)))

    async def prune(self, before: int, limit: int) -> int:
        start = self._prune_from
        while True:
            runs, following = await self._read(prune.find, before, start, limit)
            if runs:
                self._prune_from = runs[-1].chat
                return await self._write(prune.remove, runs)
            if not following:
                self._prune_from = 0
                return 0
            start = following
