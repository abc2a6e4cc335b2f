"""How asynchronous work starts, repeats, waits and ends.

``owned``    a coroutine that nobody awaits, with its errors logged and an owner who can end it; repetition
``waiting``  deadlines, several waits at once, a wait that tells somebody else's cancellation from its own,
             turns where only so many may work at once, retries
``outage``   what fails again and again is told once
``stages``   ordered start, and stop in reverse order
``clock``    a reactor whose clock nobody sets

Clocks are arguments, so tests run all of this on ``twisted.internet.task.Clock``.
"""

from flux.lifecycle.clock import monotonic, react
from flux.lifecycle.outage import Outage
from flux.lifecycle.owned import Spawned, Tasks, every, spawn
from flux.lifecycle.stages import START_WITHIN, STOP_WITHIN, CannotStart, Stage, Stages
from flux.lifecycle.waiting import (
    Abandoned,
    DeadlineExceeded,
    Deadlines,
    Slots,
    at_most,
    backoff,
    insulated,
    sleep,
    together,
    turn,
    within,
)

__all__ = [
    "START_WITHIN",
    "STOP_WITHIN",
    "Abandoned",
    "CannotStart",
    "DeadlineExceeded",
    "Deadlines",
    "Outage",
    "Slots",
    "Spawned",
    "Stage",
    "Stages",
    "Tasks",
    "at_most",
    "backoff",
    "every",
    "insulated",
    "monotonic",
    "react",
    "sleep",
    "spawn",
    "together",
    "turn",
    "within",
]
