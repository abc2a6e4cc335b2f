"""Which session gets which message, without a gap and without a repetition.

::

    committed here, or a hint from another node
        │  newer than the members that are known   waits until they have been read    (members)
        │  seq ≤ position       dropped                                               (positions)
        │  seq = position + 1   written (or skipped: one's own), position moves
        ▼  anything else        the session is filled from the store                  (catchup)

Nothing here trusts that hints arrive: the sweep says what moved in the store, and
whoever is behind that is filled.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.chat.catchup import CatchUp
from flux.chat.members import Members
from flux.chat.positions import Chat, Positions
from flux.errors import NotFound
from flux.interfaces import IStore
from flux.lifecycle import Outage, Tasks
from flux.model.bus import Hint
from flux.model.messages import Message
from flux.model.overview import Changes

if TYPE_CHECKING:
    from flux.chat.session import Session


class Delivery:
    """Brings messages to the sessions of this node.

    :param sessions: the node's table of live sessions by account.
    :param catchups: how many sessions are filled from the store at the same time; 0: all that need it.
    :param spread: takes what is in ``outgoing`` away; called after messages that had to wait.
    :ivar positions: how far each session is.
    :ivar chats: those of ``positions``.
    :ivar members: who is in the chats.
    :ivar catchup: fills who is behind.
    :ivar written: messages written to sessions so far, except for those that ``catchup`` wrote.
    :ivar outgoing: hints of messages committed here to the accounts that are not here, for the
        node to have them published.
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
        self.positions = positions = Positions(sessions, lambda session: self.catchup.fall_behind(session))
        self.chats = positions.chats
        self.outgoing: list[Hint] = []
        self.written = 0
        self._store = store
        self._sessions = sessions
        outage = Outage(self.log, clock)
        self.members = Members(store, positions, clock, tasks, rng, outage, self._deliver, spread)
        self.catchup = CatchUp(store, positions, self.members, clock, tasks, rng, outage, catchups)

    def start(self, session: Session) -> None:
        """Everything before the messages was written: from now on this session gets them."""
        session.placed = True
        if session.apart or session.stalled:
            self.catchup.fall_behind(session)
        else:
            session.live = True

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
                    self.outgoing.append(Hint(message, version, self._store.past, (message.to,)))
                return
        if version > chat.newest:
            chat.newest = version
        if chat.version == chat.newest and chat.waiting is None:
            self._deliver(chat, message, spread)
        else:
            self.members.hold(chat, message, spread)

    def _discover(self, message: Message) -> Chat | None:
        """A chat that no session here was in: is somebody in it now?

        The members of a group have to be looked up.
        """
        if not isinstance(message.to, int):
            chat = self.chats[message.chat] = Chat(message.chat, True, message.seq - 1)
            return chat
        if self.positions.here(message.sender) is None and self.positions.here(message.to) is None:
            return None
        return self.positions.pair(message.chat, message.sender, message.to, 0)

    def _deliver(self, chat: Chat, message: Message, spread: bool) -> None:
        """The heart: write to whom it is next, leave the others behind."""
        if spread and len(chat.sessions) < len(chat.members):
            here = self._sessions
            away = tuple(uid for uid in chat.members if uid not in here)
            self.outgoing.append(Hint(message, chat.version, self._store.past, away))
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
                self.positions.place(session, chat, position)
        self.written += written

    async def sweep(self, changes: Changes) -> None:
        """Compare with what moved in the store; whoever is behind gets filled."""
        for number, version in changes.members:
            chat = self.chats.get(number)
            if chat is None or chat.version < version:
                with suppress(NotFound):
                    await self.members.refresh(number)
        for number, head in changes.heads:
            chat = self.chats.get(number)
            if chat is not None and head > chat.head:
                self.positions.raise_head(chat, head)
