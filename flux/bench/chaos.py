"""Which faults happen when, where several are on at the same time: all of it is drawn before anything happens.

::

    chat1                 ──killed─────────────────paused────────────
    chat1 to PostgreSQL   ────────────swallows───────────────────────
    clients to chat2      ─────────────────cut off───────────────────
    Redis                 ────────emptied─────────────────killed─────
                          0                                    seconds

What can suffer faults is a *resource*: a process, a link.  It suffers one at a time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from flux.bench.installation import Fault

#: Seconds from one fault to the next, on average.  Faults last twice as long on average, so two or three are on.
EVERY = 3.0
#: Seconds from one moment when the connection of some client breaks to the next, on average: somebody is always logging
#: in, whatever is broken then.
BREAKS_EVERY = 0.5


class Strike(NamedTuple):
    """A fault that is to happen.

    :ivar moment: when, in seconds since the beginning.
    :ivar lasts: from there to its repair, in seconds.
    """

    moment: float
    fault: Fault
    lasts: float


def schedule(faults: Sequence[Fault], seconds: float, rng: random.Random) -> list[Strike]:
    """What happens within ``seconds``, by moment: at random moments, to resources that suffer nothing just then.

    :param faults: of which each may happen any number of times. A resource is as likely to be struck as any other,
        however many faults it can suffer.
    """
    busy = {fault.resource: 0.0 for fault in faults}
    strikes: list[Strike] = []
    moment = rng.expovariate(1 / EVERY)
    while moment < seconds:
        if idle := [resource for resource, until in busy.items() if until <= moment]:
            resource = rng.choice(idle)
            fault = rng.choice([fault for fault in faults if fault.resource == resource])
            lasts = min(_duration(fault.lasts, rng), seconds - moment)
            busy[resource] = moment + lasts
            strikes.append(Strike(moment, fault, lasts))
        moment += rng.expovariate(1 / EVERY)
    return strikes


def lanes(strikes: Sequence[Strike]) -> list[list[Strike]]:
    """The strikes of each resource, by moment."""
    by_resource: dict[str, list[Strike]] = {}
    for strike in strikes:
        by_resource.setdefault(strike.fault.resource, []).append(strike)
    return list(by_resource.values())


def _duration(between: tuple[float, float], rng: random.Random) -> float:
    """Mostly short, so that much happens, and now and then long."""
    least, most = between
    return least + (most - least) * rng.random() ** 3
