"""Telling nodes what is for accounts, by looking up where those are and publishing it there.

For a bus and a shared state that know nothing of each other; those of one engine can do better.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from flux.interfaces import IBus, IState
from flux.model.bus import Addressed


async def multicast(state: IState, bus: IBus, events: Sequence[Addressed], but: tuple[str, int] | None = None) -> int:
    """See :meth:`flux.interfaces.IBus.multicast`.

    :raises flux.errors.Unavailable: not all were published.
    """
    routes = await state.routes(list({uid for event in events for uid in event.uids}))
    published = 0
    for event in events if routes else ():
        there: dict[tuple[str, int], list[int]] = {}
        for uid in event.uids:
            route = routes.get(uid)
            if route is not None and (route.node, route.boot) != but:
                there.setdefault((route.node, route.boot), []).append(uid)
        for (node, boot), uids in there.items():
            await bus.publish(node, boot, msgspec.structs.replace(event, uids=tuple(uids)))
        published += len(there)
    return published
