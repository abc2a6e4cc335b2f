"""Which server a user gets, as pure functions of the servers' loads.

A balancer is chosen by name, or by the dotted path of somebody's own: a callable
that takes a ``random.Random`` and returns an :class:`flux.interfaces.IBalancer`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module

from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyObject

from flux.balance.load import LeastConnections, PowerOfTwo
from flux.balance.ring import ConsistentHash
from flux.balance.rotation import RoundRobin
from flux.interfaces import IBalancer

BALANCERS: dict[str, Callable[[random.Random], IBalancer]] = {
    LeastConnections.name: LeastConnections,
    ConsistentHash.name: ConsistentHash,
    RoundRobin.name: RoundRobin,
    PowerOfTwo.name: PowerOfTwo,
}
"""The balancers that have a name."""


def load_balancer(name_or_path: str, rng: random.Random) -> IBalancer:
    """The balancer of that name, or the one at that dotted path.

    :param rng: what it draws ties from.
    :raises ValueError: there is none, or it is no balancer; the text says what is wrong.
    """
    factory = BALANCERS.get(name_or_path) or _at_path(name_or_path)
    try:
        balancer = factory(rng)
    except Exception as error:
        raise ValueError(f"{name_or_path}: calling it with a random.Random failed: {error!r}") from error
    try:
        verifyObject(IBalancer, balancer)
    except Invalid as problem:
        raise ValueError(f"{name_or_path}: not an IBalancer: {' '.join(str(problem).split())}") from problem
    if not isinstance(balancer.name, str):
        raise ValueError(f"{name_or_path}: its name is not a string")
    return balancer


def _at_path(path: str) -> Callable[[random.Random], IBalancer]:
    module_name, dot, attribute = path.rpartition(".")
    if not dot:
        near = get_close_matches(path, BALANCERS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(BALANCERS)}"
        raise ValueError(f"no balancer is called {path!r}: {hint} (or the dotted path of your own)")
    try:
        module = import_module(module_name)
    except Exception as error:
        raise ValueError(f"{path}: cannot import {module_name!r}: {error}") from error
    factory = getattr(module, attribute, None)
    if factory is None:
        raise ValueError(f"{path}: {module_name!r} has no {attribute!r}")
    if not callable(factory):
        raise ValueError(f"{path}: not callable")
    return factory  # type: ignore[no-any-return]
