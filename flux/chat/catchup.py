"""Catching up: sessions that are behind are filled from the store until nothing is missing.

::

    fall_behind ── a slot is free ──┬─> read a page past the position ── write what the peer takes ─┐
                                    └── something is missing in some chat <─────────────────────────┤
                                                                         nothing is missing: live <─┘

Where the peer does not keep up this ends, and begins again when it has drained.

A session is *live* when it may be written to at once.  Right after login, after overload, after a lost hint it is not:
messages then only leave it behind, and this one mechanism brings it back.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IReactorTime

from flux.chat.members import Members
from flux.chat.positions import Chat, Positions
from flux.errors import FluxError
from flux.interfaces import IStore
from flux.lifecycle import Outage, Slots, Tasks, backoff, sleep
from flux.model.messages import Message

if TYPE_CHECKING:
    from flux.chat.session import Session

PAGE = 200
"""Messages read from the store at once while catching up."""

WRITE_AT = 64 * 1024
"""Bytes gathered before a catch-up writes and looks whether the peer keeps up."""

NO_LIMIT = 1_000_000
"""Sessions that are filled at the same time, where there is no limit."""


class CatchUp:
    """Fills sessions, so many at the same time.

    :param outage: told whether messages can be read.
    :param at_once: how many; 0: all that need it.
    :ivar written: messages written so far.
    """

    def __init__(
        self,
        store: IStore,
        positions: Positions,
        members: Members,
        clock: IReactorTime,
        tasks: Tasks,
        rng: random.Random,
        outage: Outage,
        at_once: int,
    ) -> None:
        self.written = 0
        self._store = store
        self._positions = positions
        self._members = members
        self._clock = clock
        self._tasks = tasks
        self._rng = rng
        self._outage = outage
        self._slots = Slots(at_once or NO_LIMIT)

    @property
    def waiting(self) -> int:
        """Sessions that wait for their turn to be filled."""
        return self._slots.waiting

    def reload(self, at_once: int) -> None:
        """Fill so many sessions at the same time from now on; 0: all that need it."""
        self._slots.resize(at_once or NO_LIMIT)

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
            position = self._positions.position(session, chat)
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
        position = self._positions.position(session, chat)
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
            self.written += 1
            size += len(line)
            if size >= WRITE_AT:
                session.write(b"".join(gathered))
                gathered, size = [], 0
                if session.stalled:
                    break
        if gathered:
            session.write(b"".join(gathered))
        self._positions.place(session, chat, position)

    async def _correct(self, chat: Chat) -> None:
        """The store has nothing past the position though the head is higher: believe the store.

        Either the session is no member any more, or it joined again meanwhile, or a
        hint promised too much.
        """
        head = chat.head
        membership = await self._members.refresh(chat.id)
        if membership.head < chat.head == head:
            positions = [(each, self._positions.position(each, chat)) for each in chat.sessions]
            chat.head = membership.head
            for each, position in positions:
                self._positions.place(each, chat, min(position, chat.head))
            # What was announced below the false head was taken for known.
            self._positions.raise_head(chat, (await self._members.refresh(chat.id)).head)
