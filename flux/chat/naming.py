"""Whether the name of a chat server is to be had: two live ones of the same name end each other.

A server that was killed has left its lease, and whoever starts it again has the same name and address: what tells
it apart from one that lives is that nobody renews its lease.

::

    no lease ─────────────────────────────────> the name is free
    a lease ──> looked at again and again ──┬─> renewed: somebody lives, whatever its address
                                            ├─> over, or given up: free
                                            └─> not renewed when it should have been, from this address: free

One at another address lives for as long as its lease: its heartbeats may be late, where Redis fails over, and whoever
took its name then would end it with all its users.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.addresses import HostPort
from flux.errors import Unavailable
from flux.interfaces import IState
from flux.lifecycle import sleep
from flux.model.placement import Node

MISSED = 1.5
"""Heartbeats after which one is missing: they are not sent on the dot."""

TELL_EVERY = 30.0
"""Seconds after which the log says again what is waited for: a supervisor gives up workers that say nothing."""

LOOKS = 10
"""Looks at a lease within the time of a heartbeat."""

log = Logger()


async def holder(state: IState, name: str) -> Node | None:
    """The chat server that has a lease under ``name``.

    :raises flux.errors.Unavailable: the shared state does not answer.
    """
    return next((node for node in (await state.snapshot()).nodes if node.name == name), None)


async def find_free(state: IState, name: str, own: HostPort | None, heartbeat: float, clock: IReactorTime) -> None:
    """Return when no live chat server is called ``name``.

    That is at once without a lease; with one when that is over, or :data:`MISSED` heartbeats after its last renewal
    where it is of the starter's own address.

    :param own: what clients will be told of the starter; None where it is not known yet.
    :param heartbeat: seconds between two renewals.
    :raises flux.errors.Unavailable: the lease was renewed; or the shared state does not answer.
    """
    age: float | None = None
    told = float("-inf")
    while (node := await holder(state, name)) is not None:
        where = HostPort(node.host, node.port)
        if age is not None and node.heartbeat_age < age:
            raise Unavailable(
                f"another live chat server at {where} has the [chat] name {name!r}; "
                "give this one another, or stop that one first"
            )
        if where == own and node.heartbeat_age >= MISSED * heartbeat:
            return
        if clock.seconds() - told >= TELL_EVERY:
            told = clock.seconds()
            log.info(
                "{name} at {where} has reported {age:.1f} s ago: waiting whether it does so again, or {dies}",
                name=name, where=str(where), age=node.heartbeat_age,
                dies="has died" if where == own else "its lease ends (it has another address)",
            )  # fmt: skip
        age = node.heartbeat_age
        await sleep(heartbeat / LOOKS, clock)
