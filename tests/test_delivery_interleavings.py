"""Every interleaving of claim, reply, kick, commit, look-up, hint, read, wipe and restore, for two and three logins.

``interleavings`` says how all orders of a scene are gone through, ``interleavings_judge``
what has to be true in the end of each.  What is gone through here:

=====================  ==========================  ===========================================
logins                 what else                   how
=====================  ==========================  ===========================================
AA, AB                 nothing                     every state; the reduction loses no end
AA, AB                 wipe, heartbeats            every state; the reduction loses no end
ABB, ABC               nothing                     every state; the reduction loses no end
AAA, AAB, ABA          nothing                     by chance; all ends with ``-m long``
all of three           wipe, heartbeats            by chance; all ends with ``-m long``
A                      wipe, heartbeats, sweeps    all ends
AB                     wipe, sweeps                all ends with ``-m long``
AB                     groups, earlier messages,   all ends
                       the numbered dialect, the
                       sender on a login's node
AA, ABC                takeover is off             all ends
=====================  ==========================  ===========================================

A letter is the node of a login, and they are in the order of their session numbers.
Heartbeats, one of each node that has a login, and sweeps are in the middle of all that;
when everything has arrived there are others.  "Every state" is without the reduction, "all
ends" with it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from delivery_steps import now
from interleavings import World
from interleavings_backends import ask
from interleavings_explore import walk
from interleavings_judge import Judge, explored
from interleavings_reduction import Reduced
from interleavings_scene import Scene

Worlds = Callable[[Scene], World]

THREE = ("AAA", "AAB", "ABA", "ABB", "ABC")
"""At which nodes three logins may be, from the first to the last session number."""


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Worlds]:
    made: list[World] = []

    def make(scene: Scene) -> World:
        made.append(World(scene, tmp_path / str(len(made))))
        return made[-1]

    yield make
    for world in made:
        world.close()


def wiped(logins: str) -> Scene:
    """The shared state is wiped, and each node renews its routes once."""
    return Scene(logins, wipe=True, heartbeats="".join(sorted(set(logins))))


# --- everything --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("scene", [*map(Scene, ("AA", "AB", "ABB", "ABC")), wiped("AA"), wiped("AB")], ids=str)
def test_every_interleaving_and_what_is_not_tried_is_no_loss(worlds: Worlds, scene: Scene) -> None:
    world = worlds(scene)
    everything = explored(world)
    reduced = explored(world, Reduced)
    assert reduced.ends == everything.ends
    assert len(reduced.came) < len(everything.came) / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "scene",
    [
        Scene("A", wipe=True, heartbeats="A", sweeps="A", earlier=1, received=1),
        Scene("AB", sender="A"),
        Scene("AB", sender="B", wipe=True, heartbeats="B"),
        Scene("AB", group=True),
        Scene("AB", group=True, numbered=True, earlier=2, received=1),
        Scene("AB", earlier=2, received=1),
        Scene("AB", wipe=True, heartbeats="A", attentive=True),
        Scene("AA", takeover=False),
        Scene("ABC", takeover=False),
    ],
    ids=str,
)
def test_every_interleaving_with_something_else(worlds: Worlds, scene: Scene) -> None:
    # What is to come in a group is too much to be guessed: the members may be read at any moment.
    explored(worlds(scene), *(() if scene.group else (Reduced,)))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "scene",
    [
        *map(Scene, ("AAA", "AAB", "ABA")),
        *map(wiped, THREE),
        Scene("AB", wipe=True, sweeps="AB"),
        Scene("AB", wipe=True, sweeps="AB", earlier=1, received=1),
    ],
    ids=str,
)
def test_every_interleaving_of_large_scenes(worlds: Worlds, scene: Scene) -> None:
    explored(worlds(scene), Reduced)


# --- by chance ---------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("scene", [*map(Scene, ("AAA", "AAB", "ABA")), *map(wiped, THREE)], ids=str)
def test_three_logins_in_orders_chosen_by_chance(worlds: Worlds, scene: Scene) -> None:
    world = worlds(scene)
    rng = random.Random(scene.logins)
    for _ in range(25):
        walk(world, Judge(world), rng)


@pytest.mark.slow
def test_what_looks_the_same_does_the_same(worlds: Worlds) -> None:
    """Machines that go a way from the beginning do what was computed once, for states in which others were, too."""
    world = worlds(Scene("AA", wipe=True, heartbeats="A", sweeps="A"))
    rng = random.Random(1)
    ways = [walk(world, Judge(world), rng) for _ in range(20)]
    for way in ways:
        for place, machine in enumerate(world.machines):
            own = [action for action in way if world.actions[action].machine == place]
            replayed = machine.replayed([world.happening(world.actions[action]) for action in own])
            state = 0
            for action, done in zip(own, replayed, strict=True):
                expected = world.do(place, state, action)
                assert world.outcome(place, done) == expected
                state = expected[0]
        store, state = world.stage().store, 0
        for action in way:
            if world.actions[action].machine == world.store:
                state, [answer] = world.do(world.store, state, action)
                assert ask(store, world.actions[action].call) == world.actions[answer].value
        now(store.stop())
