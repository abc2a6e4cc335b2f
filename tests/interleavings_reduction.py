"""Fewer states of everything, and the same ends: partial-order reduction.

An action belongs to one machine, and two actions of different machines may change places:
the result is the same.  Of two actions of one machine it depends on what they do.  If in
some state there is an action that may change places with everything that can still come
to its machine before it, it can as well be taken at once, and nothing else needs to be
tried in this state: every way to an end that begins with something else has the same
action later, and there it can be moved to the front.

What can still come is not known before everything has been explored, so it is guessed and
then checked.  First every action is taken for one that can be moved; then it is looked, with
all that was found to come, for which one that was wrong; from there it is explored again;
until nothing is wrong.  Then nothing is missed, by induction over the number of steps to
the end: let ``a`` be the only action that was tried in a state, and let any way to an end
begin with others, ``b1 ... bn a``.  As long as ``a`` changes places with ``b1 ... bi`` there
is also the way ``a b1 ... bi bi+1``, and after ``a`` it is shorter to the end, so what is on
that way was found to come.  So it was checked that ``a`` changes places with ``bi+1`` too.

No action ever prevents another one, which is needed for this: all that is on its way arrives.

So all ends are found, and these are judged.  What must never be on the way to an end (a
``Fault``) is noticed only where it is come by; the full exploration comes by everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator

from interleavings import Effects, Everything, World
from interleavings_explore import Exploration, Judge

Step = tuple[int, int, int]
"""A machine, the state it is in, and an action."""


class Reduced(Exploration):
    """Finds the same ends in fewer states.

    Sets of actions are bits of a number.
    """

    def __init__(self, world: World, judge: Judge) -> None:
        super().__init__(world, judge)
        nodes = range(len(world.nodes))
        #: Where only one action was tried, and which; of these, those that came since the last look.
        self._alone: dict[Everything, Step] = {}
        self._fresh: list[Everything] = []
        #: What was found to come where an action was tried alone, and with what of it it may not change places.
        self._found: dict[Step, int] = {}
        self._against: dict[Step, int] = {}
        #: Per node and side, all that comes from there on: actions of this node, and those that follow from them.
        self._future: list[dict[int, int]] = [{} for _ in nodes]
        #: Per node, the sides of which more was found since the last look.
        self._grown: list[set[int]] = [set() for _ in nodes]
        #: Per node, what leads from one side to another; and per side, from which others something leads to it.
        self._leads: list[dict[tuple[int, int], int]] = [{} for _ in nodes]
        self._before: list[dict[int, list[int]]] = [{} for _ in nodes]
        #: Per machine, its actions; the events among all; and how many of all have been sorted out so.
        self._of = [0] * world.wipes
        self._events = 0
        self._sorted = 0
        self._steps: dict[Step, Step] = {}

    # going on

    def taken(self, everything: Everything) -> list[int]:
        actions = super().taken(everything)
        for action in actions:
            step = self._at(everything, action)
            against = self._against.get(step, 0)
            if not against or not against & self._to_come(everything, action):
                self._alone[everything] = self._steps.setdefault(step, step)
                self._fresh.append(everything)
                return [action]
        self._alone.pop(everything, None)
        return actions

    def _at(self, everything: Everything, action: int) -> Step:
        machine = self.world.actions[action].machine
        state = everything[machine]
        if machine < self.world.store:
            state = self.world.side(machine, state).state
        return machine, state, action

    def step(self, everything: Everything, action: int) -> Everything:
        following, events = self.world.step(everything, action)
        actor = self.world.actions[action].node
        what = 1 << action
        for _, event in events:
            what |= 1 << event
        for node in range(len(self._future)):
            if node == actor:
                self._note(node, everything[node], following[node], what)
            elif everything[node] != following[node]:
                self._note(node, everything[node], following[node], 0)
        return following

    def _note(self, node: int, side: int, following: int, what: int) -> None:
        """Something leads from one side to another: all that comes after the one comes after the other."""
        leads, future = self._leads[node], self._future[node]
        known = leads.get((side, following))
        if known is not None and known | what == known:
            return
        leads[side, following] = (known or 0) | what
        before, grown = self._before[node], self._grown[node]
        if known is None:
            before.setdefault(following, []).append(side)
        news = [(side, what | future.get(following, 0))]
        while news:
            side, what = news.pop()
            known = future.get(side, 0)
            if known | what != known:
                future[side] = what = known | what
                grown.add(side)
                news += [(earlier, what) for earlier in before.get(side, ())]

    # what is still to come

    def _to_come(self, everything: Everything, action: int) -> int:
        """What can still come to the machine of ``action`` before it, as far as is known."""
        world = self.world
        _, machine, node, _, _, _ = world.actions[action]
        if self._sorted < len(world.actions):
            self._sort_out()
        others = own = 0
        for place, future in enumerate(self._future):
            if place == node:
                own = future.get(everything[place], 0)
            else:
                others |= future.get(everything[place], 0)
        if machine == world.store:
            # One node's calls to the store may overtake each other.
            found = others | own
        elif machine == world.shared:
            found = others
            if everything[world.wipes]:
                found |= 1 << world.wipe
        else:
            on_its_way = 0
            for event in world.side(node, everything[node]).events:
                on_its_way |= 1 << event
            found = own & (~self._events | others | on_its_way)
        return found & self._of[machine] & ~(1 << action)

    def _sort_out(self) -> None:
        for number in range(self._sorted, len(self.world.actions)):
            action = self.world.actions[number]
            self._of[action.machine] |= 1 << number
            if action.kind == "event":
                self._events |= 1 << number
        self._sorted = len(self.world.actions)

    # looking what was wrong

    def missed(self) -> list[Everything]:
        more = dict.fromkeys(self._fresh, 0)
        for everything in self._alone:
            for side, grown in zip(everything, self._grown, strict=False):
                if side in grown:
                    more[everything] = 0
                    break
        suspects = set()
        for everything in more:
            if step := self._alone.get(everything):
                more[everything] = to_come = self._to_come(everything, step[2])
                if to_come & ~self._found.get(step, 0):
                    self._found[step] = self._found.get(step, 0) | to_come
                    suspects.add(step)
        changed = {step for step in suspects if self._look(step)}
        self._fresh = []
        for grown in self._grown:
            grown.clear()
        return [
            everything
            for everything, step in self._alone.items()
            if (step in changed and self._against[step] & self._to_come(everything, step[2]))
            or (everything in more and self._against.get(step, 0) & more[everything])
        ]

    def _look(self, step: Step) -> bool:
        """Whether there is more with which it may not change places."""
        known = self._against.get(step, 0)
        self._against[step] = known | self._immovable(step, self._found[step])
        return self._against[step] != known

    def _immovable(self, step: Step, to_come: int) -> int:
        """Of what is to come, that with which the action may not change places, if it comes alone or after others."""
        world = self.world
        machine, state, action = step
        after, _ = world.do(machine, state, action)
        immovable = 0
        pairs = [(state, after, 0)]
        seen = set(pairs)
        while pairs:
            state, after, once = pairs.pop()
            for other in _members(to_come & ~once):
                if immovable >> other & 1 or not self._possible(machine, state, other, action):
                    continue
                if not self._commute(machine, state, after, action, other):
                    immovable |= 1 << other
                    continue
                pair = (world.do(machine, state, other)[0], world.do(machine, after, other)[0])
                # Of an answer it is known whether it is waited for; the same event may well come twice.
                uses_up = pair != (state, after) and world.actions[other].kind not in ("answer", "event")
                following = (*pair, once | (1 << other) if uses_up else once)
                if following not in seen:
                    seen.add(following)
                    pairs.append(following)
        return immovable

    def _possible(self, machine: int, state: int, other: int, action: int) -> bool:
        """Whether another action can come before this one: answers only to calls that wait, not to the same one."""
        call = self.world.actions[other].call
        if machine >= self.world.store or call is None:
            return True
        same = self.world.actions[action].call
        return call.name in self.world.machines[machine].waiting[state] and (same is None or same.name != call.name)

    def _commute(self, machine: int, state: int, after: int, action: int, other: int) -> bool:
        """Whether an action that leads from ``state`` to ``after`` and another one may change places."""
        world = self.world
        if not self._possible(machine, after, other, action):
            return False
        effects = world.do(machine, state, action)[1]
        instead, its_effects = world.do(machine, state, other)
        if not self._possible(machine, instead, action, other):
            return False
        if world.do(machine, after, other) != (world.do(machine, instead, action)[0], its_effects):
            return False
        if world.do(machine, instead, action)[1] != effects:
            return False
        # Calls to the shared state are in order.
        return not (self._asks(machine, effects) and self._asks(machine, its_effects))

    def _asks(self, machine: int, effects: Effects) -> bool:
        """Whether among the effects is a call to the shared state."""
        world = self.world
        return machine < world.store and any(world.actions[call].machine == world.shared for call in effects[0])


def _members(actions: int) -> Iterator[int]:
    while actions:
        lowest = actions & -actions
        actions ^= lowest
        yield lowest.bit_length() - 1
