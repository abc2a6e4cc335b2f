"""Which session gets which message, without a gap and without a repetition.

Every session has a *position* in each of its chats: everything up to it was pushed on
this connection or is the account's own.  Most of the time that is the chat's head, so
the head is kept once per chat (``Chat.head``) and a session remembers only the chats
where it differs (``Session.apart``).

::

    committed here, or a hint from another node
        │  seq ≤ position       dropped
        │  seq = position + 1   written (or skipped: one's own), position moves
        ▼  anything else        the session is filled from the store
    catch-up:  read past the position, write, repeat until nothing is behind ──> live

A session is *live* when it may be written to at once.  Right after login, after
overload, after a lost hint it is not: messages then only leave it behind, and one
mechanism, the catch-up, brings it back.  Nothing here trusts that hints arrive.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.errors import FluxError, NotFound
from flux.interfaces import IStore
from flux.lifecycle import Outage, Slots, Tasks, backoff, sleep
from flux.model import Changes, Cursor, MemberChange, Membership, Message

if TYPE_CHECKING:
    from flux.chat.session import Session

PAGE = 200
"""Messages read from the store at once while catching up."""

WRITE_AT = 64 * 1024
"""Bytes gathered before a catch-up writes and looks whether the peer keeps up."""

NO_LIMIT = 1_000_000
"""Sessions that are filled at the same time, where there is no limit."""

MAX_WAITING = 1_000
"""Messages of a chat held back while its members are read; what is beyond is found in the store."""


class Chat:
    """What this node knows of a chat that has a session here.

    :ivar head: position of the sessions that are not ``apart``.
    :ivar version: member version of ``members``; 0 while they are not known.
    :ivar newest: the highest member version heard of: above ``version``, the members
        have to be read before the next message goes out.
    :ivar members: account ids, empty while not known.
    :ivar sessions: the sessions here whose accounts are members.
    :ivar waiting: messages held back while the members are being read.
    """

    __slots__ = ("group", "head", "id", "members", "newest", "sessions", "version", "waiting")

    def __init__(self, chat: int, group: bool, head: int, version: int = 0, members: tuple[int, ...] = ()) -> None:
        self.id = chat
        self.group = group
        self.head = head
        self.version = version
        self.newest = max(version, 1)
        self.members = members
        self.sessions: list[Session] = []
        self.waiting: list[tuple[Message, bool]] | None = None


class Delivery:
    """The chats of this node, and the sessions' positions in them.

    :param sessions: the node's table of live sessions by account.
    :param catchups: how many sessions are filled from the store at the same time.
    :param spread: takes what is in ``outgoing`` away; called after messages that had to wait.
    :ivar delivered: messages written to sessions so far.
    :ivar outgoing: (message, member version, accounts that are not here) of messages
        committed here, for the node to look up where they are.
    """

    log = Logger()

    def __init__(
        self,
        store: IStore,
        sessions: dict[int, Session],
        clock: IReactorTime,
        tasks: Tasks,
        rng: random.Random,
        catchups: int,
        spread: Callable[[], None],
    ) -> None:
        self.chats: dict[int, Chat] = {}
        self.outgoing: list[tuple[Message, int, list[int]]] = []
        self.delivered = 0
        self._store = store
        self._sessions = sessions
        self._clock = clock
        self._tasks = tasks
        self._rng = rng
        self._outage = Outage(self.log, clock)
        self._slots = Slots(catchups or NO_LIMIT)
        self._forgotten: set[Session] = set()
        self.spread = spread

    @property
    def catchups_waiting(self) -> int:
        """Sessions that wait for their turn to be filled."""
        return self._slots.waiting

    def reload(self, catchups: int) -> None:
        """Fill so many sessions at the same time from now on; 0: all that need it."""
        self._slots.resize(catchups or NO_LIMIT)

    # --- which chats a session is in ---

    def enter(self, session: Session, cursors: Iterable[Cursor]) -> None:
        """Place a session that just logged in: its positions start at its cursors."""
        for cursor in cursors:
            chat = self.chats.get(cursor.chat)
            if chat is None and cursor.peer:
                chat = self._pair(cursor.chat, session.uid, cursor.peer, cursor.head)
            elif chat is None:
                chat = self.chats[cursor.chat] = Chat(cursor.chat, True, cursor.head)
            else:
                self.raise_head(chat, cursor.head)
                if chat.version == chat.newest and session.uid not in chat.members:
                    # The cursors or the members are out of date: look before the next message.
                    chat.newest += 1
            self._attach(session, chat, cursor.received)

    def start(self, session: Session) -> None:
        """Everything before the messages was written: from now on this session gets them."""
        session.placed = True
        if session.apart or session.stalled:
            self.fall_behind(session)
        else:
            session.live = True

    def leave(self, session: Session) -> None:
        """Forget a session that ended."""
        self._forgotten.discard(session)
        for chat in session.chats:
            chat.sessions.remove(session)
            self._drop_if_unused(chat)
        session.chats = []
        session.apart = None

    def position(self, session: Session, chat: Chat) -> int:
        """Everything up to here needs no more pushing on this connection."""
        return session.apart.get(chat.id, chat.head) if session.apart else chat.head

    def reached(self, session: Session, chat: Chat, seq: int) -> None:
        """Everything up to ``seq`` was written on another path: inside a login's answer."""
        self._place(session, chat, seq)

    def _attach(self, session: Session, chat: Chat, position: int) -> None:
        if session not in chat.sessions:
            chat.sessions.append(session)
            session.chats.append(chat)
        if session.left:
            # Whatever made it leave and come back: nothing is pushed twice on one connection.
            position = max(position, session.left.pop(chat.id, 0))
        self._place(session, chat, position)

    def _detach(self, session: Session, chat: Chat) -> None:
        if session in chat.sessions:
            if session.left is None:
                session.left = {}
            session.left[chat.id] = self.position(session, chat)
            chat.sessions.remove(session)
            session.chats.remove(chat)
            if session.apart:
                session.apart.pop(chat.id, None)
        self._drop_if_unused(chat)

    def _place(self, session: Session, chat: Chat, position: int) -> None:
        """Record a position; sessions behind their chat's head get filled."""
        if position == chat.head:
            if session.apart:
                session.apart.pop(chat.id, None)
            return
        if session.apart is None:
            session.apart = {}
        session.apart[chat.id] = position
        if position < chat.head:
            self.fall_behind(session)

    # --- when the store is another one ---

    def forget(self) -> None:
        """The store has gone back to an earlier state: drop heads, positions and members.

        The sessions are in no chat, and get nothing, until :meth:`enter_anew`.
        """
        for session in self._sessions.values():
            session.live = False
            session.chats = []
            session.apart = session.left = session.unacked = session.received = session.read = None
            if session.placed:
                self._forgotten.add(session)
        for chat in self.chats.values():
            chat.sessions = []
        self.chats.clear()

    def forgotten(self) -> list[Session]:
        """The sessions whose cursors have to be read."""
        return list(self._forgotten)

    def enter_anew(self, session: Session, cursors: Iterable[Cursor]) -> None:
        """The session goes on from its cursors; what it has seen above them may be shown again."""
        self._forgotten.discard(session)
        self.enter(session, cursors)
        self.start(session)

    def _here(self, uid: int) -> Session | None:
        """The session of an account that is in its chats."""
        session = self._sessions.get(uid)
        return None if session in self._forgotten else session

    # --- messages ---

    def announce(self, message: Message, version: int, spread: bool) -> None:
        """A message was committed under member ``version``.

        :param spread: True where it was committed here: the nodes of the members who
            are not here then get a hint, by way of ``outgoing``.
        """
        chat = self.chats.get(message.chat)
        if chat is None:
            chat = self._discover(message)
            if chat is None:
                if spread and isinstance(message.to, int):
                    self.outgoing.append((message, version, [message.to]))
                return
        if version > chat.newest:
            chat.newest = version
        if chat.version == chat.newest and chat.waiting is None:
            self._deliver(chat, message, spread)
        else:
            self._hold(chat, message, spread)

    def _discover(self, message: Message) -> Chat | None:
        """A chat that no session here was in: is somebody in it now?

        The members of a group have to be looked up.
        """
        if not isinstance(message.to, int):
            chat = self.chats[message.chat] = Chat(message.chat, True, message.seq - 1)
            return chat
        if self._here(message.sender) is None and self._here(message.to) is None:
            return None
        return self._pair(message.chat, message.sender, message.to, 0)

    def _pair(self, number: int, one: int, other: int, head: int) -> Chat:
        """A one-to-one chat that no session here was in.

        It is as old as its first message: who is here already has nothing of it yet.
        """
        chat = self.chats[number] = Chat(number, False, head, 1, tuple(sorted((one, other))))
        for uid in chat.members:
            if session := self._here(uid):
                self._attach(session, chat, 0)
        return chat

    def _deliver(self, chat: Chat, message: Message, spread: bool) -> None:
        """The heart: write to whom it is next, leave the others behind."""
        if spread and len(chat.sessions) < len(chat.members):
            here = self._sessions
            self.outgoing.append((message, chat.version, [uid for uid in chat.members if uid not in here]))
        seq = message.seq
        old = chat.head
        if seq <= old:
            # Everybody is past it, or behind and being filled.
            return
        chat.head = seq
        number = chat.id
        line = b""
        encoded: object = None
        written = 0
        for session in tuple(chat.sessions):
            apart = session.apart
            position = apart.get(number, old) if apart else old
            if position == seq - 1 and session.live:
                if session.uid == message.sender:
                    session.sent(number, seq)
                else:
                    if session.dialect is not encoded:
                        encoded = session.dialect
                        line = session.dialect.event(message)
                    session.push(number, seq, line)
                    written += 1
                if apart:
                    apart.pop(number, None)
            else:
                self._place(session, chat, position)
        self.delivered += written

    def raise_head(self, chat: Chat, head: int) -> None:
        """The chat is known to reach up to ``head``, though nobody brought the messages."""
        old = chat.head
        if head <= old:
            return
        chat.head = head
        for session in tuple(chat.sessions):
            self._place(session, chat, session.apart.get(chat.id, old) if session.apart else old)

    # --- members ---

    def members_changed(self, change: MemberChange) -> None:
        """A member joined or left, here or elsewhere; heard in any order, and more than once.

        The members are read again before the next message, so an event only has to
        be acted on where it is about a session here, and may be wrong.
        """
        session = self._here(change.id)
        joins = change.change in ("join", "add")
        chat = self.chats.get(change.chat)
        if chat is None:
            if session is None or not joins:
                return
            chat = self.chats[change.chat] = Chat(change.chat, True, change.head)
        elif change.version <= chat.version:
            # Late, or heard before: what is known is newer.
            return
        chat.newest = max(chat.newest, change.version)
        if session is None:
            return
        if joins and session not in chat.sessions:
            self._attach(session, chat, change.head)
        elif change.change in ("leave", "remove") and session in chat.sessions:
            # It may have joined again since: then the store says so.
            self._hold(chat)
            self._detach(session, chat)

    def _hold(self, chat: Chat, message: Message | None = None, spread: bool = False) -> None:
        """Hold ``message`` back until the members have been read; begin to read them."""
        reading = chat.waiting is not None
        if chat.waiting is None:
            chat.waiting = []
        if message is not None and len(chat.waiting) < MAX_WAITING:
            chat.waiting.append((message, spread))
        if not reading:
            self._tasks.spawn(self._read_members(chat), f"reading the members of chat {chat.id}")

    async def members(self, chat: Chat) -> tuple[int, ...]:
        """The chat's members, read if they are not known."""
        if chat.version == chat.newest:
            return chat.members
        return tuple(participant.id for participant in (await self._refresh(chat.id)).participants)

    async def _read_members(self, chat: Chat) -> None:
        """Bring the members up to date, then let the waiting messages through."""
        for delay in backoff(0.1, 5.0, self._rng):
            try:
                await self._refresh(chat.id)
            except NotFound:
                # Whoever announced it has another store.
                chat.waiting = []
            except FluxError as error:
                self._outage.failed(
                    "the members of chat {chat} cannot be read: {error}", chat=chat.id, error=error.detail
                )
                await sleep(delay, self._clock)
                continue
            break
        waiting, chat.waiting = chat.waiting or [], None
        for message, spread in waiting:
            self._deliver(chat, message, spread)
        self.spread()
        self._drop_if_unused(chat)

    def _drop_if_unused(self, chat: Chat) -> None:
        if not chat.sessions and chat.waiting is None and self.chats.get(chat.id) is chat:
            del self.chats[chat.id]

    async def _refresh(self, number: int) -> Membership:
        """Read the members of a chat and make the sessions here agree with them."""
        while True:
            chat = self.chats.get(number)
            newest, sessions = (chat.newest, tuple(chat.sessions)) if chat else (0, ())
            membership = await self._store.membership(number)
            self._outage.over("messages and members are read again, after {seconds} s")
            if self._adopt(membership, newest, sessions):
                return membership

    def _adopt(self, membership: Membership, newest: int, sessions: tuple[Session, ...]) -> bool:
        """Make the sessions here agree with the members, unless something changed while they were read.

        A session found among them that was not in this chat joined since it logged in
        and the event was lost: nothing since its ``first`` was pushed here.

        :param newest: the chat's ``newest`` when the read began; 0 where the chat was not known.
        :param sessions: those in the chat when the read began. Who came since is not
            sent away on its word.
        :return: whether the members are known now.
        """
        here = [(each, session) for each in membership.participants if (session := self._here(each.id))]
        chat = self.chats.get(membership.chat)
        if chat is None:
            if not here:
                return True
            chat = self.chats[membership.chat] = Chat(membership.chat, membership.group, membership.head)
        elif membership.version < chat.newest != newest:
            return False
        elif not chat.sessions:
            chat.head = membership.head
        chat.version = chat.newest = membership.version
        chat.members = tuple(participant.id for participant in membership.participants)
        # First who is in: a chat that nobody here is in would be dropped.
        for participant, session in here:
            if session not in chat.sessions:
                self._attach(session, chat, participant.first - 1)
            elif self.position(session, chat) < participant.first - 1:
                # It has left and joined again, and nobody told.
                self._place(session, chat, participant.first - 1)
        members = set(chat.members)
        for session in [session for session in chat.sessions if session.uid not in members]:
            if session in sessions:
                self._detach(session, chat)
            else:
                chat.newest = chat.version + 1
        self._drop_if_unused(chat)
        return chat.version == chat.newest

    # --- catching up ---

    def fall_behind(self, session: Session) -> None:
        """Stop writing messages to this session at once; fill it from the store."""
        session.live = False
        if session.placed and not session.catching_up and not session.stalled:
            session.catching_up = True
            self._tasks.spawn(self._catch_up(session), f"filling session {session.uid}")

    async def _catch_up(self, session: Session) -> None:
        try:
            await self._slots.acquire()
            try:
                for delay in backoff(0.1, 5.0, self._rng):
                    try:
                        await self._fill_all(session)
                        break
                    except FluxError as error:
                        self._outage.failed(
                            "messages for user {uid} cannot be read: {error}", uid=session.uid, error=error.detail
                        )
                        await sleep(delay, self._clock)
            finally:
                # First, because the next one in the queue runs inside release().
                session.catching_up = False
                self._slots.release()
        except Exception:
            # Without its missing messages a session must not go on: a new login starts from the cursor.
            session.connection.abort()
            raise

    async def _fill_all(self, session: Session) -> None:
        """Fill chat by chat until a look finds nothing behind: then the session is live."""
        while session.placed and not session.stalled:
            apart = session.apart
            behind = [chat for chat in session.chats if apart and apart.get(chat.id, chat.head) < chat.head]
            if not behind:
                session.live = True
                return
            for chat in behind:
                await self._fill(session, chat)

    def _is_in(self, session: Session, chat: Chat) -> bool:
        return session.placed and session in chat.sessions

    async def _fill(self, session: Session, chat: Chat) -> None:
        while self._is_in(session, chat) and not session.stalled:
            position = self.position(session, chat)
            if position >= chat.head:
                return
            messages = await self._store.fill(session.uid, chat.id, position, PAGE)
            self._outage.over("messages and members are read again, after {seconds} s")
            if not self._is_in(session, chat):
                return
            if not messages:
                await self._correct(chat)
                return
            self._write_page(session, chat, messages)

    def _write_page(self, session: Session, chat: Chat, messages: Iterable[Message]) -> None:
        """Write what the peer takes; the position says where to go on."""
        position = self.position(session, chat)
        gathered: list[bytes] = []
        size = 0
        for message in messages:
            if message.seq <= position:
                continue
            position = message.seq
            if message.sender == session.uid:
                session.sent(chat.id, position)
                continue
            line = session.dialect.event(message)
            session.pushed(chat.id, position)
            gathered.append(line)
            self.delivered += 1
            size += len(line)
            if size >= WRITE_AT:
                session.write(b"".join(gathered))
                gathered, size = [], 0
                if session.stalled:
                    break
        if gathered:
            session.write(b"".join(gathered))
        self._place(session, chat, position)

    async def _correct(self, chat: Chat) -> None:
        """The store has nothing past the position though the head is higher: believe the store.

        Either the session is no member any more, or it joined again meanwhile, or a
        hint promised too much.
        """
        head = chat.head
        membership = await self._refresh(chat.id)
        if membership.head < chat.head == head:
            positions = [(each, self.position(each, chat)) for each in chat.sessions]
            chat.head = membership.head
            for each, position in positions:
                self._place(each, chat, min(position, chat.head))
            # What was announced below the false head was taken for known.
            self.raise_head(chat, (await self._refresh(chat.id)).head)

    # --- the sweep ---

    def compare(self, session: Session, cursors: Iterable[Cursor]) -> None:
        """Everything was read anew for a session that is in the middle of things."""
        for cursor in cursors:
            chat = self.chats.get(cursor.chat)
            if chat is None or session not in chat.sessions:
                self.enter(session, [cursor])
            else:
                self.raise_head(chat, cursor.head)

    async def sweep(self, changes: Changes) -> None:
        """Compare with what moved in the store; whoever is behind gets filled."""
        for number, version in changes.members:
            chat = self.chats.get(number)
            if chat is None or chat.version < version:
                with suppress(NotFound):
                    await self._refresh(number)
        for number, head in changes.heads:
            chat = self.chats.get(number)
            if chat is not None and head > chat.head:
                self.raise_head(chat, head)
