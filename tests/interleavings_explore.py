"""Going through the states of everything of a scene: all of them, or on one way, chosen by chance."""

from __future__ import annotations

import gc
import random
from collections import defaultdict
from collections.abc import Callable, Iterable

from interleavings import Everything, Fault, World

Judge = Callable[[Everything], None]
"""Looks at a state of everything in which nothing can happen any more, and raises ``AssertionError``."""


class Exploration:
    """Goes through all states of everything, depth first.

    :ivar came: per state one from which a step leads to it.
    :ivar ends: the states in which nothing can happen any more.
    """

    def __init__(self, world: World, judge: Judge) -> None:
        self.world = world
        self.judge = judge
        self.came: dict[Everything, Everything | None] = {world.beginning: None}
        self.ends: set[Everything] = set()

    def run(self) -> None:
        """:raises Fault: something that must never happen does; the text says after which steps."""
        thresholds = gc.get_threshold()
        # Nearly all that is made here is kept: looking for garbage as often as usual is a fifth of the time.
        gc.set_threshold(100 * thresholds[0], *thresholds[1:])
        try:
            open_ends = [self.world.beginning]
            while open_ends:
                self._explore(open_ends)
                open_ends = self.missed()
        finally:
            gc.set_threshold(*thresholds)

    def _explore(self, open_ends: list[Everything]) -> None:
        came = self.came
        while open_ends:
            everything = open_ends.pop()
            for action in self.taken(everything):
                try:
                    following = self.step(everything, action)
                except Fault as fault:
                    raise self.explained(fault, everything, action) from None
                if following not in came:
                    came[following] = everything
                    open_ends.append(following)

    def taken(self, everything: Everything) -> list[int]:
        """The actions with which it goes on from a state."""
        actions = self.world.enabled(everything)
        if not actions and everything not in self.ends:
            self.ends.add(everything)
            try:
                self.judge(everything)
            except AssertionError as error:
                raise self.explained(error, everything) from error
        return actions

    def step(self, everything: Everything, action: int) -> Everything:
        """Take one."""
        return self.world.step(everything, action)[0]

    def missed(self) -> list[Everything]:
        """States from which it has to go on again."""
        return []

    def explained(self, error: Exception, everything: Everything, *last: int) -> Fault:
        """The same, with the steps that led to it."""
        return explained(error, [*self.path(everything), *(self.world.actions[action].label for action in last)])

    def path(self, everything: Everything) -> list[str]:
        """The labels of steps that lead to a state."""
        labels = []
        while (before := self.came[everything]) is not None:
            [label, *_] = [
                self.world.actions[action].label
                for action in self.world.enabled(before)
                if self.world.after(before, action) == everything
            ]
            labels.append(label)
            everything = before
        return labels[::-1]


def walk(world: World, judge: Judge, rng: random.Random) -> list[int]:
    """One way from the beginning to an end, by chance; the actions on it.

    Who is slow, and in what, differs from way to way by up to a hundred times: where all
    actions are equally likely, a wipe that may come at any time nearly always comes first.

    :raises Fault: something that must never happen does; the text says after which steps.
    """
    everything = world.beginning
    way: list[int] = []
    speeds: defaultdict[tuple[int, str], float] = defaultdict(lambda: 10 ** rng.uniform(-2, 0))
    try:
        while actions := world.enabled(everything):
            weights = [speeds[world.actions[action].node, world.actions[action].kind] for action in actions]
            way += rng.choices(actions, weights)
            everything = world.after(everything, way[-1])
        judge(everything)
    except AssertionError as error:
        raise explained(error, (world.actions[action].label for action in way)) from error
    return way


def explained(error: Exception, labels: Iterable[str]) -> Fault:
    """The same, with the labels of the steps that led to it."""
    return Fault("\n  ".join([f"{error}\nafter:", *labels]))
