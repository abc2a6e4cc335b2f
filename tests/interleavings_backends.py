"""The store and the shared state as machines: in a state something is asked, and there is an answer and the next state.

They are the real ones, and states have numbers.  Whether two ways lead to the same state
is told by

- of the store: the rows of all its tables, and what it says has moved;
- of the shared state: its portrait.

The shared state can be copied; a store that has to go on from an earlier state is made
anew, by the calls that led there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
from delivery_backends import InlineStore
from delivery_steps import now
from interleavings_portrait import Painter

from flux.backends.memory import MemoryState
from flux.errors import FluxError
from flux.model.placement import Lease, Renewal

PAINTER = Painter()

READS = frozenset(("changes", "credentials", "fill", "members", "membership", "overview"))
"""Calls that change nothing in a store."""


class Call(NamedTuple):
    """What a node asks a backend.

    :ivar copy: tells it from the same question that waits already.
    """

    node: str
    backend: str
    method: str
    arguments: tuple[Any, ...]
    copy: int

    @property
    def label(self) -> str:
        return f"{self.node}.{self.backend}.{self.method}{self.arguments}"

    @property
    def name(self) -> str:
        """Unique among the calls that wait."""
        return f"{self.label} #{self.copy}"


def outcome(awaitable: Any) -> Any:
    """The result or the error of something that does not wait."""
    try:
        return now(awaitable)
    except FluxError as error:
        return error


def stands_still() -> float:
    """The time."""
    return 1_000_000.0


class StoreMachine:
    """All that a store does.

    :param make: makes it as it is in the beginning, state 0.
    :param every_mark: it may be asked what moved since any mark, not only since the beginning.
    :ivar history: per state the calls that led to it.
    """

    def __init__(self, make: Callable[[], InlineStore], every_mark: bool) -> None:
        self._make = make
        self._every_mark = every_mark
        self._states: dict[str, int] = {}
        self._stores: list[InlineStore] = []
        self.history: list[tuple[Call, ...]] = []
        self._arrive(make(), ())

    def step(self, state: int, call: Call) -> tuple[int, Any]:
        """The next state, and the answer."""
        if call.method in READS:
            return state, ask(self._stores[state], call)
        store = self._make()
        for earlier in self.history[state]:
            ask(store, earlier)
        answer = ask(store, call)
        return self._arrive(store, (*self.history[state], call)), answer

    def _arrive(self, store: InlineStore, history: tuple[Call, ...]) -> int:
        state = self._states.setdefault(store.contents(self._every_mark), len(self._states))
        if state == len(self.history):
            self.history.append(history)
            self._stores.append(store)
        else:
            now(store.stop())
        return state

    def __iter__(self) -> Iterator[InlineStore]:
        return iter(self._stores)


class StateMachine:
    """All that a shared state does.

    :param state: as it is in the beginning, state 0.
    :ivar states: what is in each.
    """

    def __init__(self, state: MemoryState) -> None:
        self._states: dict[bytes, int] = {}
        self.states: list[MemoryState] = []
        state._seconds = stands_still
        self._arrive(state)

    def step(self, state: int, call: Call) -> tuple[int, Any]:
        """The next state, and the answer."""
        after = copy.deepcopy(self.states[state])
        answer = ask(after, call)
        return self._arrive(after), answer

    def wipe(self, state: int) -> int:
        """Forget everything."""
        return self._arrive(type(self.states[state])(stands_still))

    def _arrive(self, state: MemoryState) -> int:
        # No answer to a node depends on the order in which leases were taken.
        state._leases = dict(sorted(state._leases.items()))
        state._boots = dict(sorted(state._boots.items()))
        number = self._states.setdefault(PAINTER.portrait(state), len(self._states))
        if number == len(self.states):
            self.states.append(state)
        return number


def ask(backend: Any, call: Call) -> Any:
    """The answer or the error."""
    return outcome(getattr(backend, call.method)(*call.arguments))


class AttentiveState(MemoryState):
    """Tells a node with its heartbeat which routes it has here that it did not name, as Redis does."""

    async def renew(self, lease: Lease, routes: Any) -> Renewal:
        renewal = await super().renew(lease, routes)
        named = dict(routes)
        here = [(uid, route.number) for uid, route in self._routes.items() if route.node == lease.name]
        strays = tuple((uid, number) for uid, number in here if named.get(uid) != number)
        return msgspec.structs.replace(renewal, strays=strays)
