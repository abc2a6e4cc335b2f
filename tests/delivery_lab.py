"""Chat nodes without a reactor: everything they wait for is a step, and the test decides which is next.

::

    client ── Link ── LineConnection ── ChatNode ──┬─ Stepped ── SqliteStore in this thread
                                                   ├─ Stepped ── MemoryState
                                                   └─ LabBus     (shuffles, drops, doubles)

A call to a backend makes two steps: it takes effect, and its answer arrives.  Anything
may happen before, between and after; calls of one node to one backend take effect in
the order they were made where the backend promises that, and their answers arrive in
any order.  Time is a ``Clock`` that stands still unless the test moves it.

Nothing here is random by itself: the same choices give the same run.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chat_server import with_changes
from store_invariants import check_invariants
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from flux.backends.memory import MemoryState
from flux.backends.sqlite import SqliteStore
from flux.backends.sqlite.lanes import Call
from flux.chat import requests_account, requests_message, requests_people  # noqa: F401 - they fill the table
from flux.chat.node import ChatNode
from flux.chat.protocol import LineConnection
from flux.config import Settings
from flux.errors import Unavailable
from flux.interfaces import IBusSink
from flux.model.bus import BusEvent
from flux.model.messages import Draft, Receipt
from flux.model.placement import Choice
from flux.tokens import digest

TOKEN = "token"
BIG = 2**40

_numbers = itertools.count(1)
"""Names of accounts, unique in a store that several labs use."""


def now(awaitable: Awaitable[Any]) -> Any:
    """The result of something that does not wait."""

    async def wait() -> Any:
        return await awaitable

    results: list[Any] = []
    Deferred.fromCoroutine(wait()).addBoth(results.append)
    [result] = results
    if isinstance(result, Failure):
        result.raiseException()
    return result


# --- steps -------------------------------------------------------------------


class Step:
    """Something that can happen now.

    :ivar label: what it is, for people and for :meth:`Steps.fingerprint`.
    :ivar lane: of the steps with the same lane only the first can happen.
    """

    __slots__ = ("label", "lane", "run")

    def __init__(self, label: str, lane: object, run: Callable[[], None]) -> None:
        self.label = label
        self.lane = lane
        self.run = run


class Steps:
    """What can happen next, oldest first."""

    def __init__(self) -> None:
        self.pending: list[Step] = []
        self.taken = 0

    def add(self, label: str, run: Callable[[], None], lane: object = None) -> None:
        self.pending.append(Step(label, lane, run))

    def ready(self) -> list[Step]:
        """The steps one may take now."""
        seen = set()
        found = []
        for step in self.pending:
            if step.lane is None or step.lane not in seen:
                found.append(step)
                seen.add(step.lane)
        return found

    def take(self, step: Step) -> None:
        self.pending.remove(step)
        self.taken += 1
        step.run()

    def find(self, *texts: str) -> Step:
        """The first of the steps whose label has all these texts in it."""
        for step in self.pending:
            if all(text in step.label for text in texts):
                return step
        raise AssertionError(f"no {texts} among {[step.label for step in self.pending]}")

    def happen(self, *texts: str) -> None:
        """Take the step that :meth:`find` finds."""
        self.take(self.find(*texts))

    def until(self, *texts: str) -> Step:
        """Let things happen in order until there is such a step; it waits still."""
        while not any(all(text in step.label for text in texts) for step in self.pending):
            self.take(self.pending[0])
        return self.find(*texts)

    def hold(self, *texts: str) -> Step:
        """What :meth:`find` finds does not happen, unless the test runs it later."""
        step = self.find(*texts)
        self.pending.remove(step)
        return step

    def settle(self, limit: int = 100_000) -> None:
        """Let everything happen, in order."""
        while self.pending:
            self.take(self.pending[0])
            limit -= 1
            assert limit, "it does not end"


class Choices:
    """Which of several ready steps to take: first those given, then always the first one."""

    def __init__(self, given: Sequence[int]) -> None:
        self._given = given
        self.made: list[tuple[int, int]] = []

    def __call__(self, count: int) -> int:
        choice = self._given[len(self.made)] if len(self.made) < len(self._given) else 0
        self.made.append((choice, count))
        return choice


def every_order(run: Callable[[Choices], None], limit: int) -> Iterator[None]:
    """Run with every sequence of choices there is, depth first, at most ``limit`` of them."""
    given: list[int] = []
    for _ in range(limit):
        choices = Choices(given)
        run(choices)
        yield
        made = choices.made
        while made and made[-1][0] + 1 == made[-1][1]:
            made.pop()
        if not made:
            return
        given = [choice for choice, _ in made]
        given[-1] += 1


# --- backends ----------------------------------------------------------------


class InlineLane:
    """A lane of the store without threads: a call is run where it is made."""

    def __init__(self, runner: Callable[[], Any]) -> None:
        self._make = runner
        self.runner: Any = None

    async def start(self) -> None:
        self.runner = self._make()

    async def stop(self) -> None:
        self.runner.close()

    def call(self, work: Callable[[Any], Any]) -> Deferred[Any]:
        call: Call[Any, Any] = Call(work, 0.0)
        deferred = call.deferred
        assert deferred is not None
        self.runner.run([call])
        call.fire()
        return deferred


class InlineStore(SqliteStore):
    """The SQLite store, every statement of it, answering at once."""

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(path, Clock(), **options)  # type: ignore[arg-type]
        self._writer = InlineLane(self._open_writer)  # type: ignore[assignment]
        self._readers = InlineLane(self._open_reader)  # type: ignore[assignment]

    def open(self) -> InlineStore:
        now(self.start())
        # No computer is switched off in these tests.
        self._writer.runner.db.execute("PRAGMA synchronous = OFF")  # type: ignore[attr-defined]
        return self

    def contents(self, every_mark: bool = False) -> str:
        """Everything in it: the rows of all tables, and what it says has moved.

        :param every_mark: since any mark that was ever given, not only since it was opened.
        """
        writer = self._writer.runner  # type: ignore[attr-defined]
        changes = writer.changes
        tables = [
            name for (name,) in writer.db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1")
        ]
        rows = {table: sorted(map(repr, writer.db.execute(f'SELECT * FROM "{table}"'))) for table in tables}
        marks = range(changes._start, changes._number + 1) if every_mark else (changes._start,)
        moved = [[sorted(kind) for kind in (it.heads, it.members, it.sessions)] for it in map(changes.since, marks)]
        return f"{rows} {moved} {changes._number}"


class Stepped:
    """One node's way to a backend.

    :param steps: where calls become steps; None makes every answer immediate.
    :param ordered: calls take effect in the order they were made.
    :ivar target: the backend.
    :ivar fault: asked with the method's name before each call: "" to let it work, "before" to
        fail it without effect, "after" to lose its answer.
    """

    def __init__(self, node: str, name: str, target: Any, steps: Steps | None, ordered: bool) -> None:
        self._label = f"{node}.{name}"
        self.target = target
        self.steps = steps
        self._ordered = ordered
        self.fault: Callable[[str], str] = lambda method: ""

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        if method.startswith("_"):
            raise AttributeError(method)

        def call(*arguments: Any) -> Awaitable[Any]:
            fault = self.fault(method)
            if self.steps is None:
                return _faulty(fault, lambda: getattr(self.target, method)(*arguments))
            deferred: Deferred[Any] = Deferred(lambda _: None)
            label = f"{self._label}.{method}{arguments}"

            def take_effect() -> None:
                answer = _faulty(fault, lambda: getattr(self.target, method)(*arguments))
                self.steps.add(f"{label} = {_plain(answer)}", lambda: answer.chainDeferred(deferred))  # type: ignore[union-attr]

            self.steps.add(label, take_effect, self._label if self._ordered else None)
            return deferred

        return call


def _faulty(fault: str, work: Callable[[], Awaitable[Any]]) -> Deferred[Any]:
    if fault == "before":
        return fail(Unavailable("nothing was done"))
    try:
        result = now(work())
    except Exception as error:
        return fail(error)
    return fail(Unavailable("the answer was lost")) if fault else succeed(result)


def _plain(answer: Deferred[Any]) -> str:
    result = answer.result
    return result.type.__name__ if isinstance(result, Failure) else repr(result)


class LabBus:
    """A bus whose every delivery is a step of its own, in any order.

    :ivar copies: asked for each event and receiver how often it arrives; 0 loses it.
    """

    connected = True

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._sinks: dict[tuple[str, int], IBusSink] = {}
        self.copies: Callable[[BusEvent], int] = lambda event: 1

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        """Nothing to disconnect from."""

    async def listen(self, node: str, boot: int, sink: IBusSink) -> None:
        self._sinks[node, boot] = sink

    async def publish(self, node: str, boot: int, event: BusEvent) -> None:
        sink = self._sinks.get((node, boot))
        if sink is not None:
            for _ in range(self.copies(event)):
                self._steps.add(f"bus.{node}.{event}", lambda: sink.deliver(event))

    async def broadcast(self, event: BusEvent) -> None:
        for node, boot in list(self._sinks):
            await self.publish(node, boot, event)

    def gap(self, node: ChatNode) -> None:
        """The node's connection to the bus was lost and is back."""
        self._sinks[node.name, node.boot].gap()


class NoHashing:
    """Every password is right."""

    async def verify(self, password: str, stored: str | None, allowed: Callable[[], Any]) -> tuple[bool, None]:
        await allowed()
        return stored is not None, None


# --- clients -----------------------------------------------------------------


class Link:
    """The transport of a connection, and the way to the client behind it.

    :ivar dataBuffer: what has not left the server yet (Twisted's name for it).
    :ivar stuck: the peer's window is closed: everything stays in the buffer.
    :ivar swallows: bytes leave the server and never arrive; nobody is told.
    """

    _tempDataLen = 0  # noqa: N815 - Twisted's name

    def __init__(self, client: Client, clock: Clock, high_water: int) -> None:
        self.dataBuffer = b""
        self.stuck = False
        self.swallows = False
        self._client = client
        self._clock = clock
        self._high_water = high_water
        self._producer: Any = None
        self._paused = False
        self._closing = False
        self.lost = False

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None

    def pauseProducing(self) -> None:
        """Reading goes on: what arrives waits in the connection's backlog."""

    resumeProducing = pauseProducing

    def write(self, data: bytes) -> None:
        if self.lost or self._closing:
            return
        if not self.stuck:
            self._arrive(data)
            return
        self.dataBuffer += data
        if len(self.dataBuffer) > self._high_water and self._producer is not None and not self._paused:
            self._paused = True
            self._producer.pauseProducing()

    def unstick(self) -> None:
        """The peer reads again and takes everything."""
        self.stuck = False
        if self.lost:
            return
        data, self.dataBuffer = self.dataBuffer, b""
        self._arrive(data)
        if self._closing:
            self.loseConnection()
        elif self._paused and self._producer is not None:
            self._paused = False
            self._producer.resumeProducing()

    def _arrive(self, data: bytes) -> None:
        if not self.swallows:
            self._client.arrived(data)

    def loseConnection(self) -> None:
        self._closing = True
        if not self.dataBuffer:
            self._clock.callLater(0, self.lose, ConnectionDone())

    def abortConnection(self) -> None:
        self._closing = True
        self._clock.callLater(0, self.lose, ConnectionAborted())

    def lose(self, reason: Exception | None = None) -> None:
        """The connection is gone: closed by the peer, or for another ``reason``."""
        if not self.lost:
            self.lost = True
            self._client.ended = self._client.connection.session
            self._client.connection.connectionLost(Failure(reason or ConnectionDone()))

    def reset(self) -> None:
        """The peer is gone; what was in the buffer is dropped."""
        self.lose(ConnectionLost())


class Client:
    """A client's connection, and what arrived on it.

    Every push is checked when it arrives: within a chat they ascend strictly, and none
    is the account's own.

    :ivar pushed: per chat the seqs pushed, in order.
    :ivar ended: the session that a connection had that was lost.
    """

    ended: Any = None

    def __init__(self, lab: Lab, node: ChatNode, uid: int, numbered: bool = False, buffer: int = BIG) -> None:
        self.uid = uid
        self.numbered = numbered
        self.lines: list[dict[str, Any]] = []
        self.pushed: dict[int, list[int]] = {}
        self.node = node
        self._lab = lab
        self._partial = b""
        self.link = Link(self, lab.clocks[node.name], buffer)
        self.connection = LineConnection(node, f"c{len(lab.clients)}", "198.51.100.1")
        self.connection.makeConnection(self.link)
        lab.clients.append(self)

    def tell(self, **fields: Any) -> None:
        """Send a line, unless there is nothing to send it on."""
        if not self.link.lost:
            self.connection.dataReceived(json.dumps(fields).encode() + b"\n")

    def login(self, acks: bool = False, token: bool = False) -> Client:
        """Ask for a session."""
        if self.numbered:
            self.tell(msgid=1, id=self.uid, password="x")
        elif token:
            self.tell(type="login", id=self.uid, token=TOKEN, acks=acks)
        else:
            self.tell(type="login", id=self.uid, password="x", acks=acks)
        return self

    def arrived(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self.lines.append(value := json.loads(line))
            if value.get("type") == "message":
                self._check(value)
            else:
                self._lab.line(self, value)

    def _check(self, message: dict[str, Any]) -> None:
        chat, seq = message["chat"], message["seq"]
        seqs = self.pushed.setdefault(chat, [])
        self._lab.require(message["from"] != self.uid, f"{self.uid} got its own message {chat}/{seq}")
        self._lab.require(not seqs or seq > seqs[-1], f"{self.uid} got {chat}/{seq} after {seqs[-3:]}")
        seqs.append(seq)
        self._lab.arrived(self, chat, seq)

    def got(self, kind: str) -> list[dict[str, Any]]:
        """The lines of a type."""
        return [line for line in self.lines if line.get("type") == kind]

    @property
    def session(self) -> Any:
        return self.connection.session or self.ended

    @property
    def live(self) -> bool:
        """Whether the server holds this connection for the account's session."""
        return self.session is not None and self.session.placed and not self.link.lost


# --- nodes -------------------------------------------------------------------


class Lab:
    """Some nodes and what they share.

    :param store: may be shared by labs, one after the other.
    :param stepped: False makes the store and the state answer at once, inside the call.
    :param changes: settings that differ from the default, as ``section__key``.
    :ivar clock: what time it is; the nodes have clocks of their own that follow it.
    :ivar stopped: nodes whose process stands still.
    :ivar broken: what should never have happened, in words.
    """

    def __init__(self, store: InlineStore, names: Sequence[str] = ("A",), stepped: bool = True, **changes: Any) -> None:
        self.store = store
        self.steps = Steps()
        self.clock = Clock()
        self.clock.advance(1_000_000.0)
        self.clocks: dict[str, Clock] = {}
        self.stopped: set[str] = set()
        self.state = MemoryState(self.clock.seconds)
        self.bus = LabBus(self.steps)
        self.clients: list[Client] = []
        self.broken: list[str] = []
        self.nodes: dict[str, ChatNode] = {}
        self.backends: dict[str, tuple[Stepped, Stepped]] = {}
        self.fatal: list[str] = []
        self._stepped = stepped
        self._changes = changes
        for name in names:
            self.add_node(name)

    def add_node(self, name: str) -> ChatNode:
        """Start a node; its answers become steps once it is up."""
        node = self.new_node(name)
        now(node.start())
        now(node.take_lease(name, 1))
        if self._stepped:
            for backend in self.backends[name]:
                backend.steps = self.steps
        return node

    def new_node(self, name: str) -> ChatNode:
        """A node that is not started yet."""
        store = Stepped(name, "store", self.store, None, ordered=False)
        state = Stepped(name, "state", self.state, None, ordered=True)
        self.backends[name] = (store, state)
        return self.node_on(name, store, state, self.bus)

    def node_on(self, name: str, store: Any, state: Any, bus: Any, metrics: Any = None) -> ChatNode:
        """A node on these backends, with a clock of its own."""
        changes = {"limits__messages_per_second": 0, "limits__connections_per_address": 0} | self._changes
        settings = with_changes(Settings(), chat__name=name, **changes)
        clock = self.clocks[name] = Clock()
        clock.advance(self.clock.seconds())
        node = self.nodes[name] = ChatNode(
            settings, store, state, bus, clock, NoHashing(),  # type: ignore[arg-type]
            rng=random.Random(0), fatal=self.fatal.append, wall_clock=clock.seconds, metrics=metrics,
        )  # fmt: skip
        return node

    def require(self, truth: bool, otherwise: str) -> None:
        if not truth:
            self.broken.append(otherwise)

    def arrived(self, client: Client, chat: int, seq: int) -> None:
        """A message was pushed; for subclasses that know more."""

    def line(self, client: Client, value: dict[str, Any]) -> None:
        """Something else arrived; likewise."""

    def accounts(self, count: int) -> list[int]:
        """New accounts, each with a token."""
        names = [f"u{next(_numbers)}" for _ in range(count)]
        accounts = [now(self.store.create_account(name, name, "hash", "", "")) for name in names]
        now(self.state.assign([Choice(uid, "", digest(TOKEN)) for uid in accounts], 1.0, BIG))
        return accounts

    def client(self, node: str, uid: int, **options: Any) -> Client:
        return Client(self, self.nodes[node], uid, **options)

    def commit(self, sender: int, to: int = 0, group: int = 0, text: str = "x") -> Receipt:
        """A message that no node here knows of: committed by one that is gone."""
        [receipt] = now(self.store.append([Draft(sender, to, group, text)]))
        return receipt

    def settle(self) -> None:
        """Let everything happen that needs no time."""
        while True:
            self.steps.settle()
            self._tick()
            if not self.steps.pending and not any(
                call.getTime() <= clock.seconds() for clock in self._going() for call in clock.getDelayedCalls()
            ):
                return

    def _tick(self) -> None:
        """Bring the nodes' clocks to the time it is, except for those that are stopped."""
        for clock in self._going():
            clock.advance(self.clock.seconds() - clock.seconds())

    def _going(self) -> list[Clock]:
        return [clock for name, clock in self.clocks.items() if name not in self.stopped]

    def advance(self, seconds: float) -> None:
        """Let time pass, second by second, everything that happens in it included."""
        self.settle()
        while seconds > 0:
            self.clock.advance(min(1.0, seconds))
            seconds -= 1.0
            self._tick()
            self.settle()

    def stop(self) -> None:
        """Stop the nodes. Nothing may be left: no task, no session, no chat, no login."""
        for node in self.nodes.values():
            if not node.draining:
                stopped = Deferred.fromCoroutine(node.stop(1.0))
                self.advance(2.0)
                assert stopped.called
            assert not len(node.tasks)
            assert not node.sessions
            assert not node.delivery.chats
            assert not node.logging_in
        assert not self.broken, self.broken


@contextmanager
def opened_store(folder: Path) -> Iterator[InlineStore]:
    """A store for a lab, or for many one after the other; in the end the invariants are checked."""
    store = InlineStore(folder / "flux.db").open()
    yield store
    check_invariants(store)
    now(store.stop())
