"""Who is online, and telling those who may know.

The routes are the truth about presence; the pushes to friends are hints that may get
lost, and a login shows the state anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from twisted.logger import Logger

from flux.errors import FluxError
from flux.interfaces import IBus, IState
from flux.model.bus import BusEvent, Notify
from flux.model.events import Notice

if TYPE_CHECKING:
    from flux.chat.session import Session


class Presence:
    """Looks up who is where, and passes notices on.

    :param sessions: the node's table of sessions by account.
    """

    log = Logger()

    def __init__(self, sessions: dict[int, Session], state: IState, bus: IBus) -> None:
        self._sessions = sessions
        self._state = state
        self._bus = bus

    async def online(self, uids: Sequence[int]) -> set[int]:
        """Those of ``uids`` that have a live session somewhere; only local ones while the state is away."""
        here = {uid for uid in uids if uid in self._sessions}
        away = [uid for uid in uids if uid not in here]
        if away:
            try:
                here.update(await self._state.routes(away))
            except FluxError as error:
                self.log.warn("presence is incomplete: {error}", error=error)
        return here

    async def notify(self, uids: Sequence[int], notice: Notice) -> None:
        """Show ``notice`` to the sessions of ``uids``, wherever they are; best effort."""
        away = self.show(uids, notice)
        if away:
            await self.spread(away, lambda here: Notify(notice, tuple(here)))

    def show(self, uids: Sequence[int], notice: Notice) -> list[int]:
        """Show ``notice`` to the sessions here, encoded once per dialect; return who is not here."""
        away = []
        lines: dict[object, bytes] = {}
        for uid in uids:
            session = self._sessions.get(uid)
            if session is None:
                away.append(uid)
                continue
            line = lines.get(session.dialect)
            if line is None:
                line = lines[session.dialect] = session.dialect.event(notice)
            session.show_line(line)
        return away

    async def spread(self, uids: Sequence[int], event: Callable[[list[int]], BusEvent]) -> None:
        """Publish ``event`` to each node that has some of ``uids``, naming those."""
        try:
            routes = await self._state.routes(uids)
            nodes: dict[tuple[str, int], list[int]] = {}
            for uid, route in routes.items():
                nodes.setdefault((route.node, route.boot), []).append(uid)
            for (node, boot), here in nodes.items():
                published: Awaitable[None] = self._bus.publish(node, boot, event(here))
                await published
        except FluxError as error:
            self.log.warn("other nodes were not told: {error}", error=error)
