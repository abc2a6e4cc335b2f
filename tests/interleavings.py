"""Some logins of one account, a message for it, a wipe of the shared state and heartbeats, in every order.

::

    login      number taken │ told │ route claimed │ told │ pending read │ told │ filled │ told
    message    committed │ told │ routes looked up │ told │ a hint arrives
    takeover   a kick arrives │ route released │ told
    heartbeat  begins │ lease and routes renewed │ told
    sweep      begins │ what moved is read │ told
    wipe       the shared state is empty

Each of these is a step; any of them may come next, except that one node's calls to the
shared state take effect in the order in which they were made.

The program is taken apart into machines: each chat node is one, the store is one, the
shared state is one.  A machine is in a state; something happens to it, an *action*; then
it is in another state, and has put something on its way to other machines::

         calls                     answers, events
    ┌─────────────> on its way ───────────────┐
    │                                         v
    node A, 17 ──── an action happens ────> node A, 18        (the store: 3, the shared state: 5)

All these states together, with what is on its way, are a *state of everything*: a tuple of
a few small numbers.  ``World`` says which actions are possible in one, and to which other
one each leads.  ``interleavings_explore`` goes through all there are.  Where two orders
lead to the same state of everything, the future is the same, so it is explored once.

An action happens to one machine.  So what it does is computed once for all states of
everything in which this machine is in the same state, and a million of these take less
than half a minute.  Only that computation runs the real thing.

::

    interleavings_scene      what happens at the same time, and how it begins
    interleavings_nodes      chat nodes as machines
    interleavings_backends   the store and the shared state as machines
    interleavings_portrait   tells whether two nodes are in the same state
    interleavings            states of everything, and the steps between them
    interleavings_explore    all of them, or one way through them at random
    interleavings_reduction  fewer of them, and the same ends
    interleavings_judge      what has to be true in the end

What is left out, and why that loses nothing:

- The session numbers are taken in the order in which the scene names the nodes.  Any
  other order is another scene, or the same one with other names: for three logins there
  are AAA, AAB, ABA, ABB and ABC.
- Time stands still.  What it brings, heartbeats and sweeps, are steps.
- A closed connection is gone at once: its session has ended with the closing.
- Before the beginning passwords have been compared, and the sender has logged in.
  (After a wipe no token would be right.)
- Backends always answer, and every event arrives once.  What fails and gets lost is the
  matter of ``test_delivery_faults`` and ``test_delivery_random``; here a wipe stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from delivery_steps import now
from interleavings_backends import Call, StateMachine, StoreMachine
from interleavings_nodes import LoneNode, NodeMachine, Shown
from interleavings_scene import ANN, Scene, Stage, open_store
from store_invariants import check_invariants

from flux.errors import FluxError
from flux.model.sessions import Route


class Action(NamedTuple):
    """Something that happens to a machine. Actions, too, have numbers.

    :ivar label: as in ``Steps``.
    :ivar machine: its place in a state of everything.
    :ivar node: the place of the node that asked, or that is told.
    :ivar kind: "call" (it takes effect), "answer", "event", "heartbeat", "sweep", "wipe".
    :ivar value: the answer or the event.
    """

    label: str
    machine: int
    node: int
    kind: str
    call: Call | None = None
    value: Any = None


class Side(NamedTuple):
    """A node, and what is on its way to and from it: numbers of actions that are still to come.

    :ivar state: of its machine.
    :ivar ordered: its calls to the shared state, in order.
    :ivar calls: those to the store, in any order like the rest.
    :ivar answers: to its calls.
    :ivar events: from other nodes.
    :ivar moments: its heartbeat and its sweep.
    """

    state: int
    ordered: tuple[int, ...]
    calls: tuple[int, ...]
    answers: tuple[int, ...]
    events: tuple[int, ...]
    moments: tuple[int, ...]


Everything = tuple[int, ...]
"""Per node the number of its ``Side``, then the states of store and shared state, and the wipes to come."""

Effects = tuple[Any, ...]
"""What an action puts on its way. For a node: calls, and (node, event) pairs; for a backend: the answer."""


class Fault(AssertionError):
    """Something that must never happen."""


@dataclass
class Numbers:
    """Numbers for things, in the order in which they come up."""

    numbers: dict[Any, int] = field(default_factory=dict)
    things: list[Any] = field(default_factory=list)

    def __call__(self, key: Any, thing: Any = None) -> int:
        number = self.numbers.get(key)
        if number is None:
            number = self.numbers[key] = len(self.things)
            self.things.append(key if thing is None else thing)
        return number


class World:
    """A scene taken apart into machines: what can happen in a state of everything, and where it leads.

    :param folder: for the files of the store.
    :ivar nodes: their names, by place.
    :ivar store, shared, wipes: places in a state of everything.
    :ivar beginning: the state of everything in which the scene begins.
    :ivar actions: those that have come up, by number.
    :ivar wipe: the number of this one.
    :ivar done: per machine what actions did in its states, and put on their way.
    """

    def __init__(self, scene: Scene, folder: Path) -> None:
        self.scene = scene
        self.nodes = scene.nodes
        self.store, self.shared, self.wipes = (len(self.nodes) + place for place in range(3))
        self._folder = folder
        self._files = 0
        self._actions = Numbers()
        self.actions: list[Action] = self._actions.things
        self.done: list[dict[tuple[int, int], tuple[int, Effects]]] = [{} for _ in range(self.wipes)]
        self._sides = [Numbers() for _ in self.nodes]
        self._moves: list[dict[tuple[int, int, int], tuple[int, Effects]]] = [{} for _ in self.nodes]
        self._arrivals: list[dict[tuple[int, int], int]] = [{} for _ in self.nodes]
        self._enabled: list[dict[tuple[int, int], tuple[int, ...]]] = [{} for _ in self.nodes]
        self._opened: dict[int, int] = {}

        stage = self.stage()
        scripts, settings = stage.scripts, scene.settings

        def lone(name: str) -> Callable[[], LoneNode]:
            return lambda: LoneNode(name, scripts[name], lambda lab: scene.people(lab, name), ANN, **settings)

        self.machines = [NodeMachine(lone(name)) for name in self.nodes]
        self.stores = StoreMachine(lambda: self.stage().store, every_mark=bool(scene.sweeps))
        self.states = StateMachine(stage.state)
        now(stage.store.stop())
        self.wipe = self._actions("wipe", Action("wipe", self.shared, -1, "wipe"))
        self._heartbeats, self._sweeps = (
            [self._number(place, place, kind, f"{kind} {name}") for place, name in enumerate(self.nodes)]
            for kind in ("heartbeat", "sweep")
        )
        self.beginning = (*map(self._first_side, range(len(self.nodes))), 0, 0, int(scene.wipe))

    def stage(self) -> Stage:
        """The scene as a whole, on a store of its own."""
        self._folder.mkdir(exist_ok=True)
        self._files += 1
        return Stage(self.scene, open_store(self._folder / f"{self._files}.db"))

    def close(self) -> None:
        """Close the stores; all that the messages in them promise is true."""
        for store in self.stores:
            check_invariants(store)
            now(store.stop())

    # numbers

    def _number(
        self, machine: int, node: int, kind: str, label: str, call: Call | None = None, value: Any = None
    ) -> int:
        key = (label, machine, call.copy if call else 0)
        return self._actions(key, Action(label, machine, node, kind, call, value))

    def _call(self, node: int, call: Call) -> int:
        machine = self.store if call.backend == "store" else self.shared
        return self._number(machine, node, "call", call.label, call)

    def _first_side(self, node: int) -> int:
        calls = [self._call(node, call) for call in self.machines[node].waiting[0].values()]
        kinds = [(self.scene.heartbeats, self._heartbeats), (self.scene.sweeps, self._sweeps)]
        moments = tuple(actions[node] for names, actions in kinds if self.nodes[node] in names)
        return self._side(node, Side(0, *self._sorted_out(calls), (), (), moments))

    def _sorted_out(self, calls: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        ordered = tuple(call for call in calls if self.actions[call].machine == self.shared)
        return ordered, tuple(sorted(call for call in calls if self.actions[call].machine == self.store))

    def _side(self, node: int, side: Side) -> int:
        return self._sides[node](side)

    def side(self, node: int, number: int) -> Side:
        """What the number of a side stands for."""
        side: Side = self._sides[node].things[number]
        return side

    # what can happen

    def enabled(self, everything: Everything) -> list[int]:
        """The actions that may come next."""
        opened = self.opened(everything[self.store])
        found: list[int] = []
        for node, enabled in enumerate(self._enabled):
            actions = enabled.get((everything[node], opened))
            if actions is None:
                actions = enabled[everything[node], opened] = tuple(self._enabled_at(node, everything[node], opened))
            found += actions
        if everything[self.wipes]:
            found.append(self.wipe)
        return found

    def opened(self, store: int) -> int:
        """How many session numbers have been taken in a state of the store."""
        opened = self._opened.get(store)
        if opened is None:
            opened = sum(call.method == "open_session" for call in self.stores.history[store])
            self._opened[store] = opened
        return opened

    def _enabled_at(self, node: int, number: int, opened: int) -> Iterator[int]:
        side = self.side(node, number)
        yield from side.answers
        yield from sorted(set(side.events))
        yield from side.ordered[:1]
        opening = False
        for action in side.calls:
            if self.actions[action].call.method != "open_session" or not self.scene.takeover:  # type: ignore[union-attr]
                yield action
            elif not opening and self.scene.logins[opened] == self.nodes[node]:
                # Of the logins at one node the first one to take a number is called the first.
                opening = True
                yield action
        yield from side.moments

    # where it leads

    def do(self, machine: int, state: int, action: int) -> tuple[int, Effects]:
        """What an action does to a machine in a state, whether that comes up in the scene or not."""
        done = self.done[machine].get((state, action))
        if done is None:
            done = self.done[machine][state, action] = self._do(machine, state, self.actions[action])
        return done

    def _do(self, machine: int, state: int, action: Action) -> tuple[int, Effects]:
        call = action.call
        if machine < len(self.nodes):
            return self.outcome(machine, self.machines[machine].step(state, self.happening(action)))
        if call is None:
            return self.states.wipe(state), ()
        after, answer = (self.stores if machine == self.store else self.states).step(state, call)
        plain = type(answer).__name__ if isinstance(answer, FluxError) else repr(answer)
        return after, (self._number(action.node, action.node, "answer", f"{call.label} = {plain}", call, answer),)

    def happening(self, action: Action) -> tuple[str, str, Any]:
        """What happens to a node."""
        return action.kind, action.call.name if action.call else "", action.value

    def outcome(self, node: int, done: Any) -> tuple[int, Effects]:
        """What it did, in numbers."""
        events = []
        for name, event in done.events:
            place = self.nodes.index(name)
            events.append((place, self._number(place, place, "event", f"bus.{name}.{event}", value=event)))
        return done.state, (tuple(self._call(node, call) for call in done.calls), tuple(events))

    def after(self, everything: Everything, action: int) -> Everything:
        """The state of everything after an action.

        :raises Fault: a node is in a state in which it must never be.
        """
        return self.step(everything, action)[0]

    def step(self, everything: Everything, action: int) -> tuple[Everything, Effects]:
        """The same, and the events that are on their way to nodes since: (place, action) pairs."""
        _, machine, node, _, _, _ = self.actions[action]
        following = list(everything)
        events: Effects = ()
        if machine < len(self.nodes):
            following[node], events = self._moved(node, everything[node], action, -1)
            for place, event in events:
                following[place] = self._arrived(place, following[place], event)
        else:
            following[machine], effects = self.do(machine, everything[machine], action)
            if node < 0:
                following[self.wipes] -= 1
            else:
                following[node], _ = self._moved(node, everything[node], action, effects[0])
        return tuple(following), events

    def _moved(self, node: int, number: int, action: int, answer: int) -> tuple[int, Effects]:
        """The side after one of its actions, and the events that are for others."""
        moved = self._moves[node].get((number, action, answer))
        if moved is None:
            moved = self._move(node, self.side(node, number), action, answer)
            self._moves[node][number, action, answer] = moved
        return moved

    def _move(self, node: int, side: Side, action: int, answer: int) -> tuple[int, Effects]:
        kind = self.actions[action].kind
        if kind == "call":
            ordered, calls = (tuple(a for a in waiting if a != action) for waiting in (side.ordered, side.calls))
            side = side._replace(ordered=ordered, calls=calls, answers=tuple(sorted((*side.answers, answer))))
            return self._side(node, side), ()
        if kind == "answer":
            side = side._replace(answers=tuple(a for a in side.answers if a != action))
        elif kind == "event":
            at = side.events.index(action)
            side = side._replace(events=side.events[:at] + side.events[at + 1 :])
        else:
            side = side._replace(moments=tuple(a for a in side.moments if a != action))
        state, (calls, events) = self.do(node, side.state, action)
        if faults := self.machines[node].faults[state]:
            raise Fault(f"{self.nodes[node]}: {'; '.join(faults)}")
        ordered, others = self._sorted_out([*side.ordered, *side.calls, *calls])
        return self._side(node, side._replace(state=state, ordered=ordered, calls=others)), events

    def _arrived(self, node: int, number: int, event: int) -> int:
        """The side with one more event on its way to it."""
        arrived = self._arrivals[node].get((number, event))
        if arrived is None:
            side = self.side(node, number)
            side = side._replace(events=tuple(sorted((*side.events, event))))
            arrived = self._arrivals[node][number, event] = self._side(node, side)
        return arrived

    # the end

    def shown(self, everything: Everything) -> list[Shown]:
        """The connections of the account."""
        found: list[Shown] = []
        for place, name in enumerate(self.nodes):
            shown = self.machines[place].shown[self.side(place, everything[place]).state]
            found += shown[1:] if name == self.scene.sender else shown
        return found

    def route(self, everything: Everything) -> Route | None:
        """Where the shared state says that the account is."""
        return self.states.states[everything[self.shared]]._routes.get(ANN)

    def settled(self, everything: Everything) -> Everything:
        """After all that can happen has happened, in some order."""
        while actions := self.enabled(everything):
            everything = self.after(everything, actions[0])
        return everything

    def after_heartbeats(self, everything: Everything) -> Everything:
        """After each node has renewed its routes, one after the other."""
        for heartbeat in self._heartbeats:
            everything = self.settled(self.after(everything, heartbeat))
        return everything

    def after_sweeps(self, everything: Everything) -> Everything:
        """After each node has looked what moved in the store."""
        for sweep in self._sweeps:
            everything = self.settled(self.after(everything, sweep))
        return everything
