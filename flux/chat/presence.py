"""Who is online, and telling those who may know.

::

    login, end of a session ──> notify: its friends, on their nodes
    the end of a lease      ──> announce: every node, which goes through its sessions for such friends, bit by bit

The routes are the truth about presence; the pushes to friends are hints that may get
lost, and a login shows the state anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.errors import FluxError
from flux.interfaces import IBus, IState
from flux.lifecycle import Outage, Tasks, turn
from flux.model.bus import Addressed, Notify, Online
from flux.model.events import Notice, ReadUpTo, Typing
from flux.model.events import Presence as PresenceNotice

if TYPE_CHECKING:
    from flux.chat.session import Session

AT_ONCE = 1_000
"""Accounts in one announcement to all nodes."""

LOOKED_AT_ONCE = 100
"""Sessions whose friends are looked through without letting anything else happen: about a millisecond."""


class Presence:
    """Looks up who is where, and passes notices on.

    :param sessions: the node's table of sessions by account.
    """

    log = Logger()

    def __init__(
        self, sessions: dict[int, Session], state: IState, bus: IBus, clock: IReactorTime, tasks: Tasks
    ) -> None:
        self._sessions = sessions
        self._state = state
        self._bus = bus
        self._clock = clock
        self._tasks = tasks
        # Who was announced and is to be shown, and who is being shown.
        self._announced: dict[int, bool] = {}
        self._shown: dict[int, bool] = {}
        self._showing = False
        self._looking = Outage(self.log, clock)
        self._telling = Outage(self.log, clock)

    async def online(self, uids: Sequence[int]) -> set[int]:
        """Those of ``uids`` that have a live session somewhere; only local ones while the state is away."""
        here = {uid for uid in uids if uid in self._sessions}
        away = [uid for uid in uids if uid not in here]
        if away:
            try:
                here.update(await self._state.routes(away))
            except FluxError as error:
                self._looking.failed("presence is incomplete: {error}", error=error)
            else:
                self._looking.over("presence is complete again, after {seconds} s")
        return here

    async def notify(self, uids: Sequence[int], notice: Notice) -> None:
        """Show ``notice`` to the sessions of ``uids``, wherever they are; best effort."""
        away = self.show(uids, notice)
        if away:
            await self.spread(Notify(notice, tuple(away)))

    def show(self, uids: Sequence[int], notice: Notice) -> list[int]:
        """Show ``notice`` to the sessions here, encoded once per dialect; return who is not here.

        Reading and typing of somebody are not shown to who has blocked them, which the session of that one knows.
        """
        away = []
        if isinstance(notice, PresenceNotice):
            # Newer than what was announced.
            self._announced.pop(notice.id, None)
            self._shown.pop(notice.id, None)
        sender = _sender(notice)
        lines: dict[object, bytes] = {}
        for uid in uids:
            session = self._sessions.get(uid)
            if session is None:
                away.append(uid)
                continue
            if sender in session.blocked:
                continue
            line = lines.get(session.dialect)
            if line is None:
                line = lines[session.dialect] = session.dialect.event(notice)
            session.show_line(line)
        return away

    async def announce(self, uids: Sequence[int], online: bool) -> None:
        """Tell the friends of ``uids``, wherever they are, that those are online, or not any more; best effort.

        It is for many at once whose friends are not known here: of a node that died, or came back.
        """
        for start in range(0, len(uids), AT_ONCE):
            part = uids[start : start + AT_ONCE]
            try:
                # Who has logged in elsewhere meanwhile is not offline, and who was taken over not online here.
                there = await self._state.routes(part)
                event = Online(tuple(uid for uid in part if (uid in there) is online), online)
                if event.uids:
                    await self._bus.broadcast(event)
            except FluxError as error:
                self.log.warn("friends were not told who is online: {error}", error=error)
                return

    def show_online(self, event: Online) -> None:
        """Show the sessions here, soon, which of their friends came or went."""
        self._announced.update(dict.fromkeys(event.uids, event.online))
        if not self._showing:
            self._showing = True
            self._tasks.spawn(self._show_announced(), "showing who is online")

    async def _show_announced(self) -> None:
        try:
            while self._announced:
                # What is announced in parts is looked through once.
                await turn(self._clock)
                self._shown, self._announced = self._announced, {}
                sessions = list(self._sessions.values())
                for start in range(0, len(sessions), LOOKED_AT_ONCE):
                    for session in sessions[start : start + LOOKED_AT_ONCE]:
                        self._show_friends(session)
                    await turn(self._clock)
        finally:
            self._showing = False

    def _show_friends(self, session: Session) -> None:
        if session.ended:
            return
        for uid in session.friends:
            online = self._shown.get(uid)
            if online is not None and (online or uid not in self._sessions):
                session.show(PresenceNotice(uid, online))

    async def spread(self, event: Addressed) -> None:
        """Tell the nodes of accounts that are not here; best effort.

        One of them may be logging in here, so this node is told as well.
        """
        try:
            await self._bus.multicast([event])
        except FluxError as error:
            self._telling.failed("other nodes are not told of presence and the like: {error}", error=error)
        else:
            self._telling.over("other nodes are told of presence and the like again, after {seconds} s")


def _sender(notice: Notice) -> int:
    """Whose doing is told, where that can be repeated at will; 0 for other notices."""
    match notice:
        case ReadUpTo(id=uid) | Typing(sender=uid):
            return uid
    return 0
