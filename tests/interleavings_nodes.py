"""Chat nodes as machines: in a state something happens, and there is the next state, and what the node asks and tells.

They are the real ones.  Each is alone here: what it asks others for, and what it tells
them, is an outcome of the step, and what they answer is a later step.  So what it does
depends on nothing but its own state and what happens, and it has to do it only once.

States have numbers.  Whether two ways lead to the same state is told by the node's
portrait, in which is everything from the sessions to the suspended coroutines.

A node cannot be copied: one that has to go on from an earlier state is made anew, by
what led there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from delivery_lab import Client, Lab
from delivery_steps import now
from interleavings_backends import Call
from interleavings_portrait import Painter
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from flux.backends.multicast import multicast
from flux.backends.sqlite import SqliteStore
from flux.bans import Bans
from flux.chat.catchup import CatchUp
from flux.chat.delivery import Delivery
from flux.config import Settings
from flux.config.sections import Limits
from flux.errors import FluxError
from flux.model.bus import Addressed, BusEvent

PARKED = 1000
"""Nodes that are kept because they can go on from the state in which they are."""

TIMERS = 3
"""Of a node: the heartbeat, the second's work, the removal of old messages. Time stands still: they wait for ever."""

PROPER = re.compile(r"((login\.ok(, message \d+)*)?(, )?(kicked takeover)?|error already_logged_in)")
"""What a client of the account may be told, in this order."""


class Shown(NamedTuple):
    """A client's connection.

    :ivar lines: what it was told; of a closed one only the last.
    :ivar live: it is held for the account's session, and gets messages at once.
    """

    lines: tuple[str, ...]
    number: int
    live: bool
    closed: bool


Script = dict[str, list[Any]]
"""The answers to a node's first calls, by their labels."""


class LoneNode(Lab):
    """A node whose calls wait until they are answered from outside.

    :param script: what is answered at once.
    :param people: makes the clients.
    :param account: of whose clients it is looked what they are told.
    :ivar waiting: the calls that wait, by name.
    :ivar calls: those made by what happened last.
    :ivar events: the events published by it, with the nodes that they are for.
    """

    def __init__(self, name: str, script: Script, people: Callable[[Lab], None], account: int, **changes: Any) -> None:
        super().__init__(None, (), **changes)  # type: ignore[arg-type]
        self.name = name
        self.waiting: dict[str, tuple[Call, Deferred[Any]]] = {}
        self.calls: list[Call] = []
        self.events: list[tuple[str, BusEvent]] = []
        self._account = account
        self._script = {label: list(answers) for label, answers in script.items()}
        self.node = self.node_on(name, Port(self, "store"), Port(self, "state"), Outbox(self), Uncounted())
        now(self.node.start())
        now(self.node.take_lease(name, 1))
        self.always = [*self.node.tasks._running]
        people(self)
        left = [label for label, answers in self._script.items() if answers]
        assert not left, left

    def call(self, backend: str, method: str, arguments: tuple[Any, ...]) -> Deferred[Any]:
        if method == "renew":
            # How many sessions a node has is of interest to placement only.
            arguments = (msgspec.structs.replace(arguments[0], sessions=0), *arguments[1:])
        call = Call(self.name, backend, method, arguments, 0)
        if answers := self._script.get(call.label):
            answer = answers.pop(0)
            return fail(answer) if isinstance(answer, FluxError) else succeed(answer)
        while call.name in self.waiting:
            call = call._replace(copy=call.copy + 1)
        deferred: Deferred[Any] = Deferred(lambda _: None)
        self.waiting[call.name] = (call, deferred)
        self.calls.append(call)
        return deferred

    def happen(self, kind: str, call: str = "", value: Any = None) -> None:
        """An answer to a call arrives, an event, or the moment of a heartbeat or a sweep."""
        self.calls, self.events = [], []
        if kind == "answer":
            _, deferred = self.waiting.pop(call)
            deferred.errback(value) if isinstance(value, FluxError) else deferred.callback(value)
        elif kind == "event":
            self.node.deliver(value)
        elif kind == "sweep":
            self.node.tasks.spawn(self.node.sweep.look(), "a sweep")
        else:
            self.node.tasks.spawn(self.node.heartbeat.beat(), "a heartbeat")
        # A connection that was closed is gone at once. Nothing depends on that but the set of connections.
        self._tick()

    def shown(self) -> tuple[Shown, ...]:
        return tuple(map(_shown, self.clients))

    def faults(self) -> list[str]:
        """What is wrong, whatever comes."""
        faults = list(self.broken)
        for client in self.clients:
            lines = ", ".join(_told(client))
            if client.uid == self._account and not PROPER.fullmatch(lines):
                faults.append(f"a client was told: {lines}")
        node = self.node
        if len(self.clocks[self.name].getDelayedCalls()) != TIMERS:
            faults.append("something waits for time to pass")
        if not self.waiting and (len(node.tasks) != TIMERS or len(node.requests) or node.logging_in):
            faults.append("something waits for nothing")
        for chat in node.delivery.chats.values():
            if any(chat not in each.chats or node.sessions.get(each.uid) is not each for each in chat.sessions):
                faults.append("a session that is not there is in a chat")
        return faults

    def portrait(self) -> bytes:
        return PAINTER.portrait(
            {name: deferred for name, (_, deferred) in sorted(self.waiting.items())},
            self.shown(),
            self.broken,
            [client.connection for client in self.clients if not client.link.lost],
            self.node,
            constant=self.always,
        )


class Port:
    """A lone node's way to a backend."""

    past = SqliteStore.past

    def __init__(self, lone: LoneNode, backend: str) -> None:
        self._lone = lone
        self._backend = backend

    def __getattr__(self, method: str) -> Callable[..., Deferred[Any]]:
        if method.startswith("_"):
            raise AttributeError(method)
        return lambda *arguments: self._lone.call(self._backend, method, arguments)


class Outbox:
    """A lone node's bus."""

    connected = True

    def __init__(self, lone: LoneNode) -> None:
        self._lone = lone

    async def listen(self, node: str, boot: int, sink: object) -> None:
        """Events arrive by ``LoneNode.happen``."""

    async def publish(self, node: str, boot: int, event: BusEvent) -> None:
        assert node != self._lone.name, "a node tells itself over the bus"
        self._lone.events.append((node, event))

    async def multicast(self, events: Sequence[Addressed], but: tuple[str, int] | None = None) -> int:
        return await multicast(Port(self._lone, "state"), self, events, but)


class Uncounted:
    """Metrics that count nothing: nothing depends on them."""

    def __getattr__(self, name: str) -> Uncounted:
        return self

    def __call__(self, *arguments: object) -> None:
        """What is counted, or who would be asked."""


PAINTER = Painter(
    Bans, Clock, Settings, Limits, Client, LoneNode, Port, Outbox, Uncounted,
    unseen=[(Delivery, "written"), (CatchUp, "written")],
)  # fmt: skip
"""Clocks stand still, nobody is banned, what is counted does not matter, and of clients it is looked what they were
shown."""


def _shown(client: Client) -> Shown:
    closed = client.link.lost
    session = client.session
    told = _told(client)
    return Shown(
        lines=tuple(line for line in told[-1:] if line.startswith("kicked")) if closed else tuple(told),
        number=session.number if session and not closed else 0,
        live=client.live and session.live,
        closed=closed,
    )


def _told(client: Client) -> list[str]:
    """What it was told, in both dialects."""
    told = []
    for line in client.lines:
        match line:
            case {"type": "message", "text": text} | {"msgid": 6 | 10, "msg": text}:
                told.append(f"message {text}")
            case {"msgid": 2, "errno": 0}:
                told.append("login.ok")
                told += [f"message {json.loads(offline)['msg']}" for offline in line.get("offlinemsg", ())]
            case {"type": "kicked", "reason": detail} | {"type": "error", "name": detail}:
                told.append(f"{line['type']} {detail}")
            case _:
                told.append(str(line.get("type", line)))
    return told


class Done(NamedTuple):
    """What a node did.

    :ivar state: in which it is now; -1 is none that has come up.
    """

    state: int
    calls: tuple[Call, ...]
    events: tuple[tuple[str, BusEvent], ...]


Happening = tuple[Any, ...]
"""The arguments of :meth:`LoneNode.happen`."""


class NodeMachine:
    """All that a node does.

    :param make: makes it as it is in the beginning, state 0.
    :ivar waiting: per state the calls that wait, by name.
    :ivar shown: per state what each client was shown.
    :ivar faults: per state what is wrong with it.
    :ivar ways: per state one that leads to it: from which other, by what.
    """

    def __init__(self, make: Callable[[], LoneNode]) -> None:
        self._make = make
        self._states: dict[bytes, int] = {}
        self._parked: dict[int, LoneNode] = {}
        self.waiting: list[dict[str, Call]] = []
        self.shown: list[tuple[Shown, ...]] = []
        self.faults: list[list[str]] = []
        self.ways: list[tuple[int, Happening]] = []
        self._arrive(make(), (0, ()))

    def step(self, state: int, happening: Happening) -> Done:
        lone = self._parked.pop(state, None) or self.remade(self.history(state))
        return self._go_on(lone, state, happening)

    def remade(self, way: list[Happening]) -> LoneNode:
        """A node that went this way."""
        lone = self._make()
        for happening in way:
            lone.happen(*happening)
        return lone

    def replayed(self, way: list[Happening]) -> Iterator[Done]:
        """What a node does that goes this way from the beginning, step by step, whatever is known of its states."""
        lone = self._make()
        for happening in way:
            lone.happen(*happening)
            yield Done(self._states.get(lone.portrait(), -1), tuple(lone.calls), tuple(lone.events))

    def history(self, state: int) -> list[Happening]:
        """What led to a state."""
        history = []
        while state:
            state, happening = self.ways[state]
            history.append(happening)
        return history[::-1]

    def _go_on(self, lone: LoneNode, state: int, happening: Happening) -> Done:
        lone.happen(*happening)
        calls, events = tuple(lone.calls), tuple(lone.events)
        return Done(self._arrive(lone, (state, happening)), calls, events)

    def _arrive(self, lone: LoneNode, way: tuple[int, Happening]) -> int:
        state = self._states.setdefault(lone.portrait(), len(self._states))
        if state == len(self.ways):
            self.ways.append(way)
            self.waiting.append({name: call for name, (call, _) in lone.waiting.items()})
            self.shown.append(lone.shown())
            self.faults.append(lone.faults())
        self._parked[state] = lone
        if len(self._parked) > PARKED:
            del self._parked[next(iter(self._parked))]
        return state
