"""What a running program looks like, as bytes: everything its future depends on.

A portrait is drawn by walking from some objects to all that they lead to: attributes,
containers, closures, and the variables of coroutines that wait, with the place where
they wait.  Two programs with the same portrait differ in nothing but addresses, so
they do the same from here on, whatever comes.  What is left out has to be named;
something that the walk cannot look into is an error, never left out.

Values that cannot change are told apart by what they are, other objects also by their
identity: one list in two places is not two equal lists.  A set has no order.
"""

from __future__ import annotations

import enum
import functools
import gc
import operator
import random
import types
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context
from hashlib import blake2b
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

ATOMS = frozenset((int, float, str, bytes, bool, type(None)))

PLAIN = (Logger, Context, type, types.ModuleType, types.CodeType)
"""Types whose objects do not change: their names say enough. (No context variable is used here.)"""

UNSEEN = ((Deferred, "_debugInfo"),)
"""Attributes that matter to the log only."""

Look = Callable[["_Walk", Any], None]


class Painter:
    """Draws portraits, to be compared with each other.

    :param opaque: types whose objects are not looked into: they do not change, nothing
        depends on them, or somebody else looks after them.
    :param unseen: such attributes, with the classes that have them.
    """

    def __init__(self, *opaque: type, unseen: Iterable[tuple[type, str]] = ()) -> None:
        self._opaque = (*opaque, *PLAIN)
        self._unseen = (*unseen, *UNSEEN)
        #: How to look into objects of a type.
        self.looks: dict[type, Look] = {}
        #: What can be said of what follows, and what stands for it.
        self.words: dict[tuple[object, ...], tuple[int]] = {}

    def portrait(self, *roots: object, constant: Iterable[object] = ()) -> bytes:
        """What ``roots`` and all they lead to look like.

        :param constant: objects that are not looked into, always the same ones in the same order.
        :raises TypeError: there is something that cannot be looked into.
        """
        walk = _Walk(self, {id(thing): number for number, thing in enumerate(constant)})
        for root in roots:
            walk.write(root)
        walk.write_sets()
        return blake2b(repr(walk.out).encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def look(self, kind: type) -> Look:
        """How to look into objects of a type that comes up for the first time."""
        look = self.looks[kind] = _name if issubclass(kind, self._opaque) else self._choose(kind)
        return look

    def _choose(self, kind: type) -> Look:
        for base, look in LOOKS.items():
            if issubclass(kind, base):
                return look
        return _object(kind, {attribute for owner, attribute in self._unseen if issubclass(kind, owner)})


class _Walk:
    """One walk: what it has written, and what it has seen."""

    def __init__(self, painter: Painter, seen: dict[int, int]) -> None:
        #: Values as they are; of all else what follows (below 0), or its number if it was seen before.
        self.out: list[object] = []
        #: What was made for the walk must outlive it, because an address stands for it.
        self.kept: list[object] = []
        self.sets: list[Any] = []
        self._painter = painter
        self._looks = painter.looks
        self._words = painter.words
        self._seen = seen

    def write(self, thing: Any) -> None:
        kind = type(thing)
        if kind in ATOMS:
            self.out.append(thing)
        elif kind is tuple:
            self.write_all(("tuple", len(thing)), thing)
        elif (number := self._seen.get(id(thing))) is not None:
            self.out.append((number,))
        else:
            self._seen[id(thing)] = len(self._seen)
            self.kept.append(thing)
            (self._looks.get(kind) or self._painter.look(kind))(self, thing)

    def say(self, *what: object) -> None:
        """Say what follows, or all there is to say."""
        word = self._words.get(what)
        if word is None:
            word = self._words[what] = (-1 - len(self._words),)
        self.out.append(word)

    def write_all(self, what: tuple[object, ...], things: Iterable[object]) -> None:
        """Say what follows, and write it."""
        out = self.out
        self.say(*what)
        for thing in things:
            if type(thing) in ATOMS:
                out.append(thing)
            else:
                self.write(thing)

    def write_sets(self) -> None:
        """Look into the sets, now that most of what is in them has been seen elsewhere."""
        while self.sets:
            members = self.sets.pop(0)
            ordered = sorted(members, key=self._place) if len(members) > 1 else members
            self.write_all(("set", len(members)), ordered)

    def _place(self, member: object) -> tuple[int, str]:
        """Where a member of a set comes: when it was seen, or by what it looks like."""
        if (number := self._seen.get(id(member))) is not None:
            return number, ""
        walk = _Walk(self._painter, dict(self._seen))
        walk.write(member)
        walk.write_sets()
        self.kept.append(walk)
        return -1, repr(walk.out)


def _name(walk: _Walk, thing: Any) -> None:
    name = thing.__qualname__ if isinstance(thing, type) else ""
    walk.say(type(thing).__qualname__, name)


def _value(walk: _Walk, thing: Any) -> None:
    walk.say("value", repr(thing))


def _dict(walk: _Walk, thing: Any) -> None:
    walk.write_all((type(thing).__qualname__, len(thing)), thing)
    if thing:
        walk.write_all((), thing.values())


def _list(walk: _Walk, thing: Any) -> None:
    walk.write_all((type(thing).__qualname__, len(thing)), thing)


def _set(walk: _Walk, thing: Any) -> None:
    walk.say("set")
    walk.sets.append(thing)


def _function(walk: _Walk, thing: Any) -> None:
    parts = (thing.__closure__, thing.__defaults__, thing.__kwdefaults__)
    has = [bool(part) for part in parts]
    where = (thing.__module__, thing.__qualname__, thing.__code__.co_firstlineno)
    walk.write_all((*where, *has), filter(None, parts))


def _cell(walk: _Walk, thing: Any) -> None:
    try:
        walk.write_all(("cell",), (thing.cell_contents,))
    except ValueError:
        walk.say("empty cell")


def _method(walk: _Walk, thing: Any) -> None:
    walk.write_all(("method", thing.__name__), (thing.__self__,))


def _partial(walk: _Walk, thing: Any) -> None:
    walk.write_all(("partial",), (thing.func, thing.args, thing.keywords))


def _error(walk: _Walk, thing: Any) -> None:
    walk.write_all((type(thing).__qualname__,), thing.args)


def _random(walk: _Walk, thing: Any) -> None:
    walk.say("random", thing.getstate())


def _suspended(walk: _Walk, thing: Any) -> None:
    """Where it waits, which variables have a value, and all it refers to: these values, and those it works on."""
    frame = thing.cr_frame if isinstance(thing, types.CoroutineType) else thing.gi_frame
    if frame is None:
        walk.say(thing.__qualname__, "ended")
        return
    values = frame.f_locals
    leave_out = (values, frame, frame.f_code)
    parts = [part for part in gc.get_referents(thing) if not any(part is each for each in leave_out)]
    walk.kept.append(values)
    walk.write_all((thing.__qualname__, frame.f_lasti, *values), parts)


LOOKS: dict[type, Look] = {
    dict: _dict,
    types.MappingProxyType: _dict,
    list: _list,
    tuple: _list,
    deque: _list,
    set: _set,
    frozenset: _set,
    enum.Enum: _value,
    msgspec.UnsetType: _value,
    types.FunctionType: _function,
    types.CellType: _cell,
    types.MethodType: _method,
    types.BuiltinMethodType: _method,
    functools.partial: _partial,
    types.CoroutineType: _suspended,
    types.GeneratorType: _suspended,
    BaseException: _error,
    random.Random: _random,
}


def _object(kind: type, unseen: set[str]) -> Look:
    """How to look into objects of a class written in Python, or at the place of an iterator."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    slots = [slot for base in kind.__mro__ for slot in _slots(base) if slot not in unseen]
    has_dictionary = kind.__dictoffset__ != 0
    if not slots and not has_dictionary and kind is not object:
        if kind.__reduce__ is object.__reduce__:
            raise TypeError(f"no portrait of {name}")
        return lambda walk, thing: walk.write_all((name,), thing.__reduce__()[1:])
    values_of = operator.attrgetter(*slots) if len(slots) > 1 and not has_dictionary else None

    def look(walk: _Walk, thing: Any) -> None:
        if values_of is not None:
            try:
                values = values_of(thing)
            except AttributeError:
                # Some are not set.
                pass
            else:
                walk.write_all((name,), values)
                return
        found = {slot: getattr(thing, slot) for slot in slots if hasattr(thing, slot)}
        if has_dictionary:
            found |= thing.__dict__
        for attribute in unseen & found.keys():
            del found[attribute]
        walk.write_all((name, *found), found.values())

    return look


def _slots(base: type) -> Iterable[str]:
    if issubclass(base, msgspec.Struct):
        return base.__struct_fields__
    slots = base.__dict__.get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else slots
    return [
        f"_{base.__name__.lstrip('_')}{name}" if name.startswith("__") and not name.endswith("__") else name
        for name in names
        if name not in ("__dict__", "__weakref__")
    ]
