"""Ending an account's session, wherever it is.

::

    revoke the token ── where is the session? ── tell its node ── the route goes away ──> ended
                          │ nobody knows            │ not told, or not in time
                          └─────────────────────────┴──> a higher session number in the store

The number is the net below the rest: a node whose session has a lower one ends it with its next sweep, whatever
became of route and kick.  It comes last, since the cursors that an ended session leaves are written under its own.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from twisted.internet.interfaces import IReactorTime

from flux.errors import FluxError, in_words
from flux.interfaces import IBus, IState, IStore
from flux.lifecycle import sleep
from flux.model.bus import Kick
from flux.model.events import KickReason

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
            if await _is_gone(state, clock, uid, route.number):
                return Ended("ended", revoked)
    except FluxError as error:
        problem = in_words(error)
    await store.open_session(uid)
    return Ended("ending" if told or problem else "offline", revoked, problem)


async def _is_gone(state: IState, clock: IReactorTime, uid: int, number: int) -> bool:
    """Whether the route of session ``number`` goes away in time; a newer one is of who may be here."""
    late = clock.seconds() + GONE_WITHIN
    while (route := (await state.routes([uid])).get(uid)) is not None and route.number <= number:
        if clock.seconds() > late:
            return False
        await sleep(LOOK_EVERY, clock)
    return True
