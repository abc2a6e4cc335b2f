"""Read receipts: in small chats the others are shown how far somebody has read.

::

    read ── above what was read before ──┬─> noted for the store (cursors)
                                         └─> told ── pause ── has it risen meanwhile? told again
                                               ^________________________________|

So a receipt comes at once, or with the next one after it, and the last one comes, unless the store is away for long
or has gone back to an earlier state; however fast somebody reads, the others are told a few times a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.chat.members import Members
from flux.chat.positions import Chat, Positions
from flux.chat.presence import Presence
from flux.errors import FluxError, Unavailable
from flux.lifecycle import Outage, Tasks, sleep
from flux.model.chats import SMALL_CHAT
from flux.model.events import ReadUpTo

if TYPE_CHECKING:
    from flux.chat.session import Session

PAUSE = 0.25
"""Seconds between two receipts of one account in one chat."""

AGAIN = 5.0
"""Seconds until a receipt is tried again that could not be told because the members could not be read."""

TRIES = 6
"""Times that a receipt is tried: who is shown none learns from the next one as much."""


class Reading:
    """Tells who has read how far."""

    log = Logger()

    def __init__(
        self, positions: Positions, members: Members, presence: Presence, clock: IReactorTime, tasks: Tasks
    ) -> None:
        self._positions = positions
        self._members = members
        self._presence = presence
        self._clock = clock
        self._tasks = tasks
        # By account and chat, of those told a moment ago: what is to be told after the pause, or 0.
        self._risen: dict[tuple[int, int], int] = {}
        self._forgotten = 0

    def risen(self, session: Session, chat: Chat, seq: int) -> None:
        """The session's account has read more of this chat than before: up to ``seq``."""
        if chat.version == chat.newest and len(chat.members) > SMALL_CHAT:
            return
        if session.bars(chat):
            return
        key = session.uid, chat.id
        if key in self._risen:
            self._risen[key] = seq
            return
        self._risen[key] = seq
        self._tasks.spawn(self._go_on(key), f"telling what {session.uid} has read")

    async def flush(self) -> None:
        """Tell what waits for the end of a pause."""
        outage = Outage(self.log, self._clock)
        for key, seq in list(self._risen.items()):
            if seq:
                self._risen[key] = 0
                try:
                    await self._tell(key, seq)
                except FluxError as error:
                    outage.failed("read receipts were not told: {error}", error=error)

    def forget(self) -> None:
        """The store has gone back to an earlier state: what waits may be of messages to come."""
        self._risen.update(dict.fromkeys(self._risen, 0))
        self._forgotten += 1

    async def _go_on(self, key: tuple[int, int]) -> None:
        tries = 0
        try:
            while seq := self._risen[key]:
                self._risen[key] = 0
                pause, forgotten = PAUSE, self._forgotten
                try:
                    await self._tell(key, seq)
                except Unavailable as error:
                    tries += 1
                    if tries == TRIES:
                        self.log.debug("a read receipt was not told: {error}", error=error)
                        return
                    self.log.debug("a read receipt waits: {error}", error=error)
                    if forgotten == self._forgotten:
                        self._risen[key] = self._risen[key] or seq
                    pause = AGAIN
                except FluxError as error:
                    # The chat is there no more, or not as it was.
                    self.log.debug("a read receipt was not told: {error}", error=error)
                else:
                    tries = 0
                await sleep(pause, self._clock)
        finally:
            del self._risen[key]

    async def _tell(self, key: tuple[int, int], seq: int) -> None:
        uid, number = key
        forgotten = self._forgotten
        chat = self._positions.chats.get(number)
        members: Sequence[int]
        if chat is not None:
            members = await self._members.of(chat)
        else:
            # Its last session here has ended.
            members = [participant.id for participant in (await self._members.refresh(number)).participants]
        if forgotten == self._forgotten and uid in members and len(members) <= SMALL_CHAT:
            await self._presence.notify([member for member in members if member != uid], ReadUpTo(number, uid, seq))
