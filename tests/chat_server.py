"""Chat nodes in this process, and clients that speak to them through real sockets.

``ChatServer`` holds what nodes share (an SQLite store in a folder of the test, state
and bus in memory) and any number of nodes, each with a port of its own.  Everything
that has to do with time runs on its ``clock``, which stands still until ``advance``;
the store, the sockets and the bus run on the reactor.

A ``Client`` sends what it is told to and sorts what comes: replies by their ``ref``,
pushes by their type.  Waiting is always for a line, never for time; ``settled`` is a
``ping``, and everything that was pushed before its reply has arrived with it.
"""

from __future__ import annotations

import gc
import itertools
import json
import random
import socket
import time
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from store_invariants import check_dsn, check_invariants
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater

from flux.accounts.passwords import Passwords
from flux.backends.memory import MemoryBus, MemoryState
from flux.backends.postgres import PostgresStore
from flux.backends.sqlite import SqliteStore
from flux.chat import requests_account, requests_message, requests_people  # noqa: F401 - they fill the table
from flux.chat.cursors import EVERY
from flux.chat.node import ChatNode
from flux.chat.protocol import ChatFactory
from flux.config import Settings
from flux.errors import NoServer
from flux.interfaces import IBus, IState
from flux.lifecycle import within
from flux.model.placement import Assignment, Choice
from flux.names import fold
from flux.net.eager import make_eager
from flux.tokens import digest, new_token

DEADLINE = 10.0
"""Seconds until a line that does not come fails the test."""

PASSWORD = "correct horse"
HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
HASH = HASHER.hash(PASSWORD)


class Client(Protocol):
    """One connection.

    :ivar lines: every object that came, in order.
    :ivar waiting: those of them that no test has asked for yet.
    :ivar id: of the account that is logged in here.
    """

    def __init__(self, terminator: bytes = b"\n") -> None:
        self.terminator = terminator
        self.lines: list[dict[str, Any]] = []
        self.waiting: list[dict[str, Any]] = []
        self.closed: str = ""
        self.id = 0
        self._partial = b""
        self._refs = itertools.count(1)
        self._wake: list[Deferred[None]] = []

    # Twisted's side

    def dataReceived(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(self.terminator[-1:])
        for line in lines:
            self.lines.append(json.loads(line))
            self.waiting.append(dict(self.lines[-1]))
        self._notify()

    def connectionLost(self, reason: Any = None) -> None:
        self.closed = reason.type.__name__
        self._notify()

    def _notify(self) -> None:
        wake, self._wake = self._wake, []
        for waiter in wake:
            waiter.callback(None)

    async def until(self, happened: Callable[[], Any]) -> Any:
        """What ``happened`` returns, once that is true; looked at whenever something arrives."""
        from twisted.internet import reactor

        while not (result := happened()):
            arrived: Deferred[None] = Deferred()
            self._wake.append(arrived)
            await within(DEADLINE, arrived, reactor, f"{self.waiting[-5:]} is all that came; more")
        return result

    async def take(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first object that is ``wanted`` and was not taken yet."""

        def first() -> dict[str, Any] | None:
            for line in self.waiting:
                if wanted(line):
                    self.waiting.remove(line)
                    return line
            if self.closed:
                raise AssertionError(f"closed ({self.closed}) before it came; waiting: {self.waiting[-5:]}")
            return None

        found: dict[str, Any] = await self.until(first)
        return found

    # the named dialect

    def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        self.transport.write(data)

    def tell(self, type: str, /, **fields: Any) -> None:  # noqa: A002 - the protocol's word
        """Send a request without a ``ref``."""
        self.raw(json.dumps({"type": type, **fields}).encode() + self.terminator)

    async def ask(self, type: str, /, **fields: Any) -> dict[str, Any]:  # noqa: A002
        """Send a request and wait for its reply, whatever that is."""
        ref = fields.pop("ref", f"r{next(self._refs)}")
        self.tell(type, ref=ref, **fields)
        return await self.reply(ref)

    async def reply(self, ref: str | int) -> dict[str, Any]:
        """The reply that carries ``ref``."""
        return await self.take(lambda line: line.get("ref") == ref)

    async def ok(self, type: str, /, **fields: Any) -> dict[str, Any]:  # noqa: A002
        """Send a request; the fields of its ``.ok``, those that every reply has left out."""
        reply = await self.ask(type, **fields)
        assert reply.pop("type") == f"{type}.ok", reply
        del reply["ref"]
        return reply

    async def fails(self, type: str, /, **fields: Any) -> dict[str, Any]:  # noqa: A002
        """Send a request; the error it is answered with."""
        reply = await self.ask(type, **fields)
        assert (reply["type"], reply["request"]) == ("error", type), reply
        return reply

    async def refused(self, type: str, /, **fields: Any) -> str:  # noqa: A002
        """Send a request; the name of the error it is answered with."""
        return str((await self.fails(type, **fields))["name"])

    async def told(self, type: str) -> dict[str, Any]:  # noqa: A002
        """The next push (or unasked error) of a type; the other fields of it."""
        push = await self.take(lambda line: line["type"] == type)
        return {name: value for name, value in push.items() if name != "type"}

    async def settled(self) -> list[dict[str, Any]]:
        """All that came before the reply to a ``ping`` sent now, and was not taken: now it is."""
        await self.ok("ping")
        waiting, self.waiting = self.waiting, []
        return waiting

    async def ended(self) -> list[dict[str, Any]]:
        """All that came before the server closed, and was not taken."""
        await self.until(lambda: self.closed)
        return self.waiting

    # the numbered dialect

    def number(self, msgid: int, /, **fields: Any) -> None:
        """Send a request of the numbered dialect."""
        self.raw(json.dumps({"msgid": msgid, **fields}).encode() + self.terminator)

    async def numbered(self, msgid: int) -> dict[str, Any]:
        """The next object of a number."""
        return await self.take(lambda line: line["msgid"] == msgid)

    # the socket

    def stop_reading(self) -> None:
        self.transport.pauseProducing()

    def go_on_reading(self) -> None:
        self.transport.resumeProducing()

    async def close(self) -> None:
        """Close as an application does that has read all it wants."""
        self.transport.loseConnection()
        await self.until(lambda: self.closed)

    async def reset(self) -> None:
        """Close with a reset, as a computer does that lost its memory."""
        self.transport.abortConnection()
        await self.until(lambda: self.closed)


def open_client(
    port: int,
    *,
    address: str = "127.0.0.1",
    terminator: bytes = b"\n",
    receive_buffer: int = 0,
    client: Client | None = None,
) -> Client:
    """Connect to a port of this machine.

    :param client: what is connected, if not one of the line protocol.
    :param address: the client's own; every address in 127/8 is this machine.
    :param receive_buffer: bytes the kernel keeps for this client while it does not read.
    """
    from twisted.internet import reactor

    sock = socket.socket()
    try:
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        # What is written small must not wait for the acknowledgement of what was before.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((address, 0))
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        connected = client or Client(terminator)
        factory = Factory()
        factory.noisy = False
        # Not forProtocol: one in a layer of its own keeps the factory it has.
        factory.buildProtocol = lambda addr: connected  # type: ignore[method-assign]
        reactor.adoptStreamConnection(sock.fileno(), socket.AF_INET, factory)
    finally:
        sock.close()
    return connected


class NodeClock(Clock):
    """A clock that knows which of its calls are the pauses between the repeated work of nodes.

    What takes no time does not wait for the clock to be advanced.
    """

    def __init__(self, reactor: Any, *pauses: float) -> None:
        super().__init__()
        self._reactor = reactor
        self._pauses = pauses
        self._calls: list[Any] = []

    def callLater(self, when: float, what: Callable[..., object], *args: Any, **kwargs: Any) -> Any:  # noqa: N802
        if not when:
            return self._reactor.callLater(0, what, *args, **kwargs)
        call = super().callLater(when, what, *args, **kwargs)
        if when in self._pauses:
            self._calls.append(call)
        return call

    def pauses(self) -> int:
        """How many pauses there are now."""
        self._calls = [call for call in self._calls if call.active()]
        return len(self._calls)


class OtherServer:
    """A placement that always names one server, if it has been told of one.

    :ivar places: how many more that server takes.
    :ivar asked: the accounts of each call.
    """

    def __init__(self, server: ChatServer) -> None:
        self._server = server
        self.target: RunningNode | None = None
        self.places = 1_000_000
        self.asked: list[list[int]] = []

    async def assign(self, uids: list[int], leaving: str = "") -> list[Assignment]:
        self.asked.append(uids)
        if self.target is None or self.target.node.name == leaving or len(uids) > self.places:
            raise NoServer("there is no other server")
        self.places -= len(uids)
        return [
            Assignment(
                uid, "127.0.0.1", self.target.port, self.target.node.name,
                await self._server.token(uid, self.target), 0, f"ws://{self.target.node.name}/ws",
            )
            for uid in uids
        ]  # fmt: skip


class RunningNode:
    """A node that listens."""

    def __init__(self, node: ChatNode, listening: Any, placement: OtherServer) -> None:
        self.node = node
        self.listening = listening
        self.placement = placement
        self.fatal: list[str] = []
        self.drained = 0

    def has_drained(self) -> None:
        self.drained += 1

    @property
    def port(self) -> int:
        return int(self.listening.getHost().port)


class ChatServer:
    """Some chat nodes and what they share.

    :param folder: where the store's file goes.
    :param changes: settings that differ from the default, as ``section__key``; requests,
        logins by token and registrations are not counted unless this says so, because time stands still.
    """

    def __init__(self, folder: Path, **changes: Any) -> None:
        from twisted.internet import reactor

        limits = (
            "messages_per_second",
            "requests_per_second",
            "token_logins_per_minute",
            "registrations_per_hour_address",
        )
        lifted = {f"limits__{limit}": 0 for limit in limits}
        self.settings = with_changes(Settings(), **lifted | changes)
        self.reactor = reactor
        self.clock = NodeClock(self.reactor, EVERY, self.settings.status.heartbeat)
        self.clock.advance(1_000_000.0)
        # No two commits in the same millisecond: what is sorted by time is then in the order of the commits.
        ticks = itertools.count(int(time.time() * 1000))
        self.store = SqliteStore(folder / "flux.db", reactor, now=lambda: next(ticks) / 1000)
        self.state: IState = MemoryState(self.clock.seconds)
        self.bus: IBus = MemoryBus(reactor, self.state)
        self.passwords = Passwords(reactor, 2, HASHER)
        self.nodes: list[RunningNode] = []
        self.clients: list[Client] = []
        self._names = itertools.count(1)

    # start and stop

    async def start(self) -> ChatServer:
        """Start the store and one node."""
        await self.store.start()
        self.passwords.start()
        await self.start_node()
        return self

    async def start_node(self, **changes: Any) -> RunningNode:
        """Start one more node; it has a name of its own unless ``chat__name`` says otherwise."""
        changes.setdefault("chat__name", f"chat{next(self._names)}")
        settings = with_changes(self.settings, **changes)
        placement = OtherServer(self)
        fatal: list[str] = []
        state, bus = await self.shared()
        node = ChatNode(
            settings, self.store, state, bus, self.clock, self.passwords,
            placement=placement, rng=random.Random(1), fatal=fatal.append, drained=lambda: running.has_drained(),
        )  # fmt: skip
        await node.start()
        listening = self.reactor.listenTCP(0, ChatFactory(node), backlog=1024, interface="127.0.0.1")
        make_eager(listening, settings.chat.buffer)
        running = RunningNode(node, listening, placement)
        running.fatal = fatal
        self.nodes.append(running)
        await node.take_lease("127.0.0.1", running.port)
        await self.until(self._idle)
        return running

    async def shared(self) -> tuple[IState, IBus]:
        """State and bus of a new node; here the same for all."""
        return self.state, self.bus

    async def stop_node(self, running: RunningNode) -> None:
        """Stop a node as a signal does; time passes while it waits for its clients."""
        self.nodes.remove(running)
        await running.listening.stopListening()
        stopping = Deferred.fromCoroutine(running.node.stop(self.settings.chat.drain))
        while not stopping.called:
            await deferLater(self.reactor, 0.001)
            self.clock.advance(0.1)
        await stopping

    async def stop(self) -> None:
        """Cut all clients, stop all nodes, and look whether the store is in order."""
        try:
            for client in self.clients:
                if not client.closed:
                    await client.reset()
            for running in list(self.nodes):
                await self.stop_node(running)
            self.check()
        finally:
            await self.bus.stop()
            self.passwords.stop()
            await self.store.stop()

    def check(self) -> None:
        """Look whether the store is in order."""
        check_invariants(self.store)

    @property
    def node(self) -> ChatNode:
        """The first node."""
        return self.nodes[0].node

    def reload(self, **changes: Any) -> None:
        """Change settings of all nodes while they run."""
        for running in self.nodes:
            running.node.reload(with_changes(running.node.settings, **changes))

    # accounts and clients

    async def register(self, *names: str) -> list[int]:
        """Accounts, with :data:`PASSWORD`."""
        return [await self.store.create_account(name, fold(name), HASH, "", "") for name in names]

    async def token(self, uid: int, running: RunningNode | None = None, ttl: float = 3600.0) -> str:
        """A login token, as the status service gives them."""
        token = new_token()
        name = (running or self.nodes[0]).node.name
        await self.state.assign([Choice(uid, name, digest(token))], 30.0, ttl)
        return token

    async def connect(
        self,
        running: RunningNode | None = None,
        *,
        address: str = "127.0.0.1",
        terminator: bytes = b"\n",
        receive_buffer: int = 0,
    ) -> Client:
        """A connection on which nothing has been said; see :func:`open_client`."""
        port = (running or self.nodes[0]).port
        client = open_client(port, address=address, terminator=terminator, receive_buffer=receive_buffer)
        self.clients.append(client)
        return client

    async def log_in(self, who: str | int, running: RunningNode | None = None, **options: Any) -> Client:
        """A client that is logged in, by name or id; of the options, ``acks`` goes into the login.

        Its reply can be taken as any other: its ``ref`` is ``login``.
        """
        fields = {"acks": options.pop("acks")} if "acks" in options else {}
        client = await self.connect(running, **options)
        identity = {"id": who} if isinstance(who, int) else {"name": who}
        client.tell("login", ref="login", password=PASSWORD, **identity, **fields)
        await client.until(lambda: client.lines or client.closed)
        assert client.lines, client.closed
        assert client.lines[0]["type"] == "login.ok", client.lines[0]
        client.id = client.lines[0]["id"]
        client.waiting.remove(client.lines[0])
        return client

    async def people(self, *names: str, **options: Any) -> list[Client]:
        """Register and log in."""
        await self.register(*names)
        return [await self.log_in(name, **options) for name in names]

    # time

    async def advance(self, seconds: float) -> None:
        """Let time pass, a second at most at once, waiting each time until the nodes have done what was due."""
        while seconds > 0:
            step = min(EVERY, seconds)
            seconds -= step
            self.clock.advance(step)
            await self.until(self._idle)

    def _idle(self) -> bool:
        """Whether the two things that every node repeats, heartbeat and second's work, are done and pause."""
        return self.clock.pauses() == 2 * len(self.nodes)

    async def until(self, happened: Callable[[], bool]) -> None:
        """Wait for what happens on this side of the sockets."""
        late = self.reactor.seconds() + DEADLINE
        while not happened():
            assert self.reactor.seconds() < late, "it did not happen"
            await deferLater(self.reactor, 0.001)

    async def eventually(self, happened: Callable[[], Awaitable[Any]]) -> Any:
        """What ``happened`` returns, once that is true."""
        late = self.reactor.seconds() + DEADLINE
        while not (result := await happened()):
            assert self.reactor.seconds() < late, "it did not happen"
            await deferLater(self.reactor, 0.001)
        return result

    # looking inside

    async def cursors(self, uid: int) -> dict[int, tuple[int, int]]:
        """(received, read) of an account in each of its chats, as the store has them."""
        overview = await self.store.overview(uid)
        return {cursor.chat: (cursor.received, cursor.read) for cursor in overview.cursors}


class PostgresChatServer(ChatServer):
    """The same on a PostgreSQL database."""

    store: PostgresStore  # type: ignore[assignment] - its base has another kind

    def __init__(self, folder: Path, dsn: str, **changes: Any) -> None:
        super().__init__(folder, **changes)
        self.dsn = dsn
        self.store = PostgresStore(dsn, self.reactor, pool=2, require_fsync=False)

    def check(self) -> None:
        check_dsn(self.dsn)


def with_changes(settings: Settings, **changes: Any) -> Settings:
    """``settings`` with other values, given as ``section__key``."""
    for name, value in changes.items():
        section, key = name.split("__")
        settings = replace(settings, **{section: replace(getattr(settings, section), **{key: value})})
    return settings


async def befriend(one: Client, other: Client) -> None:
    """Make friends, and take the pushes that belong to it."""
    await one.ok("friend.add", to=other.id)
    await other.ok("friend.answer", **{"from": one.id}, accept=True)
    await one.told("friend.answered")
    await other.told("friend.requested")
    for client in (one, other):
        await client.told("presence")


async def leaves_nothing(server: ChatServer, client: Client) -> None:
    """Cut a client's connection, and wait until it and its session are forgotten without the garbage collector."""
    connection = weakref.ref(server.node.sessions[client.id].connection)
    gc.disable()
    try:
        await client.reset()
        await server.until(lambda: connection() is None)
    finally:
        gc.enable()


async def group_of(owner: Client, *members: Client, **fields: Any) -> int:
    """Create a group, let the others join, and take the pushes that belong to it."""
    group: int = (await owner.ok("group.create", name="group", **fields))["group"]
    there = [owner]
    for member in members:
        await member.ok("group.join", group=group)
        for other in there:
            await other.told("group.changed")
        there.append(member)
    return group
