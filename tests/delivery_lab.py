"""Chat nodes without a reactor: everything they wait for is a step, and the test decides which is next.

::

    client ── Link ── LineConnection ── ChatNode ──┬─ Stepped ── SqliteStore in this thread
                                                   ├─ Stepped ── MemoryState
                                                   └─ LabBus     (shuffles, drops, doubles)

What nodes wait for are steps (``delivery_steps``), the answers of their backends among them
(``delivery_backends``).  Time is a ``Clock`` that stands still unless the test moves it.

Nothing here is random by itself: the same choices give the same run.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from typing import Any

from chat_server import with_changes
from delivery_backends import InlineStore, LabBus, NodeBus, NoHashing, Stepped
from delivery_steps import Steps, now
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from flux.backends.memory import MemoryState
from flux.chat import requests_account, requests_message, requests_people  # noqa: F401 - they fill the table
from flux.chat.node import ChatNode
from flux.chat.protocol import LineConnection
from flux.config import Settings
from flux.model.messages import Draft, Receipt
from flux.model.placement import Choice
from flux.tokens import digest

TOKEN = "token"
BIG = 2**40

_numbers = itertools.count(1)
"""Names of accounts, unique in a store that several labs use."""


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
        return self.node_on(name, store, state, NodeBus(self.bus, state))

    def node_on(self, name: str, store: Any, state: Any, bus: Any, metrics: Any = None) -> ChatNode:
        """A node on these backends, with a clock of its own."""
        limits = ("messages_per_second", "requests_per_second", "token_logins_per_minute", "connections_per_address")
        changes = {f"limits__{limit}": 0 for limit in limits} | self._changes
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
