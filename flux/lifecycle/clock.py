"""A reactor whose clock nobody sets."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, NoReturn

from twisted.internet.task import react as run_reactor


def monotonic(reactor: Any) -> Any:
    """The reactor, with a clock that only goes forward, second by second. Call it before anything is scheduled.

    That of Twisted's reactors is the time of day: when somebody sets that back by an hour, nothing that is due
    happens for an hour, and when it is set forward, all deadlines are over.
    """
    reactor.seconds = _clock()
    return reactor


def _clock() -> Callable[[], float]:
    """Linux' CLOCK_BOOTTIME where there is one: the other one stands still while the machine is suspended.

    A process would not notice then that others have waited for it in vain: that its lease is over.
    """
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return time.monotonic
    clock = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    try:
        clock()
    except OSError:
        # Python knows it, this kernel does not.
        return time.monotonic
    return clock


def react(main: Callable[..., Coroutine[Any, Any, Any]], arguments: Iterable[object] = ()) -> NoReturn:
    """Twisted's ``react`` on a :func:`monotonic` reactor.

    :raise SystemExit: always.
    """
    from twisted.internet import reactor

    monotonic(reactor)
    run_reactor(main, arguments)
