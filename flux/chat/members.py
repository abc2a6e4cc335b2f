"""Who is in a chat: the lists of members, each known as of a *member version*.

::

    an append's receipt, a hint, or a change says: version v ──> v is above what is known
        └── hold: messages wait ── refresh: read, and adopt ── the messages go through
                                             ├─ who is here and among them enters the chat
                                             └─ who is here and not among them leaves it

So a message goes to those of a list that is at least as new as it is: who left before it gets it no more.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IReactorTime

from flux.chat.positions import Chat, Positions
from flux.errors import FluxError, NotFound
from flux.interfaces import IStore
from flux.lifecycle import Outage, Tasks, backoff, sleep
from flux.model.chats import MemberChange, Membership
from flux.model.messages import Message

if TYPE_CHECKING:
    from flux.chat.session import Session

MAX_WAITING = 1_000
"""Messages of a chat held back while its members are read; what is beyond is found in the store."""


class Members:
    """Keeps the members of the chats here known, and the sessions in the chats that they are members of.

    :param outage: told whether members can be read.
    :param deliver: takes a message that had to wait, with whether it was committed here.
    :param spread: called after such messages.
    """

    def __init__(
        self,
        store: IStore,
        positions: Positions,
        clock: IReactorTime,
        tasks: Tasks,
        rng: random.Random,
        outage: Outage,
        deliver: Callable[[Chat, Message, bool], None],
        spread: Callable[[], None],
    ) -> None:
        self._store = store
        self._positions = positions
        self._clock = clock
        self._tasks = tasks
        self._rng = rng
        self._outage = outage
        self._deliver = deliver
        self._spread = spread

    async def of(self, chat: Chat) -> tuple[int, ...]:
        """The chat's members, read if they are not known."""
        if chat.version == chat.newest:
            return chat.members
        return tuple(participant.id for participant in (await self.refresh(chat.id)).participants)

    def changed(self, change: MemberChange) -> None:
        """A member joined or left, here or elsewhere; heard in any order, and more than once.

        The members are read again before the next message, so an event only has to
        be acted on where it is about a session here, and may be wrong.
        """
        session = self._positions.here(change.id)
        joins = change.change in ("join", "add")
        chat = self._positions.chats.get(change.chat)
        if chat is None:
            if session is None or not joins:
                return
            chat = self._positions.chats[change.chat] = Chat(change.chat, True, change.head)
        elif change.version <= chat.version:
            # Late, or heard before: what is known is newer.
            return
        chat.newest = max(chat.newest, change.version)
        if session is None:
            return
        if joins and session not in chat.sessions:
            session.joined(chat.id, change.head)
            self._positions.attach(session, chat, change.head)
        elif change.change in ("leave", "remove") and session in chat.sessions:
            # It may have joined again since: then the store says so.
            self.hold(chat)
            self._positions.detach(session, chat)

    def hold(self, chat: Chat, message: Message | None = None, spread: bool = False) -> None:
        """Hold ``message`` back until the members have been read; begin to read them."""
        reading = chat.waiting is not None
        if chat.waiting is None:
            chat.waiting = []
        if message is not None and len(chat.waiting) < MAX_WAITING:
            chat.waiting.append((message, spread))
        if not reading:
            self._tasks.spawn(self._read(chat), f"reading the members of chat {chat.id}")

    async def refresh(self, number: int) -> Membership:
        """Read the members of a chat and make the sessions here agree with them."""
        while True:
            chat = self._positions.chats.get(number)
            newest, sessions = (chat.newest, tuple(chat.sessions)) if chat else (0, ())
            membership = await self._store.membership(number)
            self._outage.over("messages and members are read again, after {seconds} s")
            if self._adopt(membership, newest, sessions):
                return membership

    async def _read(self, chat: Chat) -> None:
        """Bring the members up to date, then let the waiting messages through."""
        for delay in backoff(0.1, 5.0, self._rng):
            try:
                await self.refresh(chat.id)
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
        self._spread()
        self._positions.drop_if_unused(chat)

    def _adopt(self, membership: Membership, newest: int, sessions: tuple[Session, ...]) -> bool:
        """Make the sessions here agree with the members, unless something changed while they were read.

        A session found among them that was not in this chat joined since it logged in
        and the event was lost: nothing since its ``first`` was pushed here.

        :param newest: the chat's ``newest`` when the read began; 0 where the chat was not known.
        :param sessions: those in the chat when the read began. Who came since is not
            sent away on its word.
        :return: whether the members are known now.
        """
        here = [(each, session) for each in membership.participants if (session := self._positions.here(each.id))]
        chat = self._positions.chats.get(membership.chat)
        if chat is None:
            if not here:
                return True
            chat = self._positions.chats[membership.chat] = Chat(membership.chat, membership.group, membership.head)
        elif membership.version < chat.newest != newest:
            return False
        elif not chat.sessions:
            chat.head = membership.head
        chat.version = chat.newest = membership.version
        chat.members = tuple(participant.id for participant in membership.participants)
        # First who is in: a chat that nobody here is in would be dropped.
        for participant, session in here:
            if session not in chat.sessions:
                session.joined(chat.id, participant.first - 1)
                self._positions.attach(session, chat, participant.first - 1)
            elif self._positions.position(session, chat) < participant.first - 1:
                # It has left and joined again, and nobody told.
                session.joined(chat.id, participant.first - 1)
                self._positions.place(session, chat, participant.first - 1)
        members = set(chat.members)
        for session in [session for session in chat.sessions if session.uid not in members]:
            if session in sessions:
                self._positions.detach(session, chat)
            else:
                chat.newest = chat.version + 1
        self._positions.drop_if_unused(chat)
        return chat.version == chat.newest
