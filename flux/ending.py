"""Ending an account's session, wherever it is.

::

    revoke the token ── where is the session? ── tell its node ── it gives the route up ──> ended
                          │ nobody knows            │ not told, not in time, or its lease is over
                          └─────────────────────────┴──> a higher session number in the store

A route that is not to be seen says nothing by itself: those of a node without a lease are hidden, while the node may
live, cut off from the shared state and with its sessions.

The number is the net below the rest: a node whose session has a lower one ends it with its next sweep, whatever became
of route and kick.  It comes last, since the cursors that an ended session leaves are written under its own, and only
where it has to: it ends the session of whoever has logged in meanwhile as well.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from twisted.internet.interfaces import IReactorTime

from flux.errors import FluxError, in_words
from flux.interfaces import IBus, IState, IStore
from flux.lifecycle import sleep
from flux.model.bus import Kick
from flux.model.events import KickReason
from flux.model.sessions import Route

GONE_WITHIN = 3.0
"""Seconds a session that was told to end has for it, before it is superseded."""

LOOK_EVERY = 0.05

Became = Literal["ended", "ending", "offline"]


class Ended(NamedTuple):
    """What became of an account's session.

    :ivar session: ``ended``; ``ending``: with its node's next sweep, within some seconds; ``offline``: none was known.
    :ivar token: whether the login token is revoked.
    :ivar problem: why something could not be done at once, for people; empty if everything was.
    """

    session: Became
    token: bool
    problem: str = ""


async def end_session(
    store: IStore, state: IState, bus: IBus, clock: IReactorTime, uid: int, reason: KickReason, detail: str = ""
) -> Ended:
    """End the session of ``uid`` and revoke its token; takes up to :data:`GONE_WITHIN` seconds.

    Who logs in meanwhile with what was valid before is the caller's matter: it has to be invalid by now.

    :param detail: what the client shows.
    :raises flux.errors.FluxError: the store is away; a session that could not be told goes on.
    """
    revoked = told = False
    problem = ""
    try:
        await state.revoke(uid)
        revoked = True
        route = (await state.routes([uid])).get(uid)
        if route is not None:
            told = True
            await bus.publish(route.node, route.boot, Kick(uid, route.number + 1, reason, detail))
            if await _is_gone(state, clock, uid, route):
                return Ended("ended", revoked)
    except FluxError as error:
        problem = in_words(error)
    await store.open_session(uid)
    return Ended("ending" if told or problem else "offline", revoked, problem)


async def _is_gone(state: IState, clock: IReactorTime, uid: int, told: Route) -> bool:
    """Whether the session of route ``told`` ends in time; a newer one is of who may be here."""

    async def held() -> Route | None:
        return (await state.routes([uid])).get(uid)

    late = clock.seconds() + GONE_WITHIN
    while True:
        route = await held()
        if route is None:
            if all(node.name != told.node for node in (await state.snapshot()).nodes):
                return False
            # Looked at again: a lease that was over until just now brings its routes back.
            route = await held()
            if route is None:
                return True
        if route.number > told.number:
            return True
        if clock.seconds() > late:
            return False
        await sleep(LOOK_EVERY, clock)
