"""Portraits: what goes on alike looks alike, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from interleavings_portrait import Painter
from twisted.internet.defer import Deferred

PAINTER = Painter()


class Thing:
    def __init__(self, value: object) -> None:
        self.value = value


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: object = None) -> None:
        if value is not None:
            self.value = value


def waits(*values: object, first: bool = True) -> Coroutine[Any, Any, None]:
    """A coroutine that waits, with these values in a variable."""

    async def run() -> None:
        kept = values
        if first:
            await Deferred()
        else:
            await Deferred()
        del kept

    coroutine = run()
    coroutine.send(None)
    return coroutine


def closure(value: object) -> Callable[[], object]:
    return lambda: value


SHARED = [1]

UNLIKE = {
    "values": (lambda: Thing(1), lambda: Thing(2)),
    "types of values": (lambda: Thing(1), lambda: Thing(True)),
    "slots": (lambda: Slotted(1), lambda: Slotted(2)),
    "a slot without a value": (lambda: Slotted(1), lambda: Slotted()),
    "orders": (lambda: [1, 2], lambda: [2, 1]),
    "orders of keys": (lambda: {1: 0, 2: 0}, lambda: {2: 0, 1: 0}),
    "one list twice, and two lists": (lambda: [SHARED, SHARED], lambda: [[1], [1]]),
    "nesting": (lambda: [[1], 2], lambda: [[1, 2]]),
    "members of sets": (lambda: {1, 2}, lambda: {1, 3}),
    "variables of coroutines": (lambda: waits(1), lambda: waits(2)),
    "where coroutines wait": (lambda: waits(1), lambda: waits(1, first=False)),
    "closures": (lambda: closure(1), lambda: closure(2)),
    "whose method it is": (lambda: Thing(1).__init__, lambda: Thing(2).__init__),  # type: ignore[misc]
    "errors": (lambda: ValueError(1), lambda: ValueError(2)),
}


@pytest.mark.parametrize(("one", "other"), UNLIKE.values(), ids=list(UNLIKE))
def test_portraits_tell_apart(one: Callable[[], object], other: Callable[[], object]) -> None:
    assert PAINTER.portrait(one()) == PAINTER.portrait(one())
    assert PAINTER.portrait(other()) == PAINTER.portrait(other())
    assert PAINTER.portrait(one()) != PAINTER.portrait(other())


def test_sets_have_no_order() -> None:
    """Though objects lie in them by their addresses."""
    values = range(50)
    things = [Thing(value) for value in values]
    assert PAINTER.portrait(set(things)) == PAINTER.portrait({Thing(value) for value in reversed(values)})


def test_what_cannot_be_looked_into_is_an_error() -> None:
    with pytest.raises(TypeError, match="no portrait"):
        PAINTER.portrait([memoryview(b"x")])


def test_what_is_left_out_is_named() -> None:
    assert Painter(Thing).portrait(Thing(1)) == Painter(Thing).portrait(Thing(2))
    painter = Painter(unseen=[(Thing, "value")])
    assert painter.portrait(Thing(1)) == painter.portrait(Thing(2))
