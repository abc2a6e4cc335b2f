"""The table from a request to the function that answers it.

The functions live in the ``requests_*`` modules.  A plain function answers at once;
a coroutine function makes the connection's next request wait until it has answered,
so the requests of one connection take effect in order.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from flux.wire.catalogue import Reply, Request

if TYPE_CHECKING:
    from flux.chat.session import Session

Function = Callable[["Session", Any], Reply | Awaitable[Reply | None] | None]
AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


class Entry(NamedTuple):
    """How a request is answered.

    :ivar waits: True for a coroutine function.
    :ivar login: True where a session must be logged in.
    :ivar counts: True where the request counts against ``messages_per_second``, False where it counts against
        ``requests_per_second``, None where it is free.
    """

    function: Callable[[Session, Any], Reply | Awaitable[Reply | None] | None]
    waits: bool
    login: bool
    counts: bool | None


TABLE: dict[type[Request], Entry] = {}
"""Every request the chat port answers."""


def answers(
    request: type[Request], login: bool = True, counts: bool | None = True
) -> Callable[[AnyFunction], AnyFunction]:
    """Enter the decorated function as the one that answers ``request``."""

    def enter(function: AnyFunction) -> AnyFunction:
        TABLE[request] = Entry(function, inspect.iscoroutinefunction(function), login, counts)
        return function

    return enter
