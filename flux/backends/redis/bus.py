"""The bus on Redis' publish/subscribe.

::

    publish ──> waiting, per channel ──(one round under way)──> PUBLISH channel [event, event, ...]
    multicast ──> a script, which looks the routes up and publishes

    subscriptions: a connection of its own ──> SUBSCRIBE, confirmed ──> gap() ──> deliver(event) ...
                          ^                                                           │
                          └────────────────────  lost  <──────────────────────────────┘

There is one channel for each boot of each node and one for all.  What is published goes
out in the order in which it was, several events to a message where there are many; what is for
accounts goes out at once, and keeps the order of what is for the same ones (but for a moment after
somebody has made Redis forget its scripts).
Nothing waits for a receiver, and what was on its way when the connection broke is lost:
the sweeps of the receivers find it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from flux.backends.redis.connection import Connection, Refused
from flux.backends.redis.dial import Dialer
from flux.backends.redis.link import Link
from flux.backends.redis.scripts import MULTICAST, PART, run
from flux.errors import Unavailable, in_words
from flux.interfaces import IBus, IBusSink
from flux.lifecycle import Tasks, together
from flux.model.bus import Addressed, BusEvent, FriendsChanged, Hint, Kick, MembersChanged, Notify, Online

MOST_WAITING = 10_000
"""Events waiting to be published; more are refused. Those for accounts count by themselves."""

MOST_BYTES_WAITING = 16 * 2**20
"""The same in bytes."""

MOST_IN_MESSAGE = 200
MOST_BYTES_IN_MESSAGE = 65536
"""Events, and bytes unless it is one event, in one message of Redis."""

MOST_IN_SCRIPT = 1_000
MOST_BYTES_IN_SCRIPT = 2**20
"""Events, and bytes, unless it is one event, that one script publishes: they take it some 6 ms."""

NODES = 32
"""Nodes on which the accounts of an event are taken to be, at most: only the script finds out."""

_Group = tuple[list[str], list[str]]
"""Accounts, and the events for them as JSON up to where those belong."""

_encode = msgspec.json.Encoder().encode
_Event = Hint | Notify | MembersChanged | FriendsChanged | Online | Kick
_events = msgspec.json.Decoder(list[_Event]).decode
_event = msgspec.json.Decoder(_Event).decode
_pieces = msgspec.json.Decoder(list[msgspec.Raw]).decode


class _Listener:
    """A boot of a node that listens here."""

    def __init__(self, node: str, sink: IBusSink) -> None:
        self.node = node
        self.sink = sink
        #: Whether it has been told of the gap before the events that come now.
        self.ready = False


@implementer(IBus)
class RedisBus:
    """Events between nodes through Redis.

    :param link: carries what is published; the state uses it too.
    :param dialer: makes the connection for what is subscribed to, which can carry nothing else.
    :param prefix: what the keys of the state begin with.
    :param channels: what the names of channels begin with; they belong to no database of Redis.
    """

    log = Logger()

    def __init__(self, link: Link, dialer: Dialer, prefix: str, channels: str, clock: IReactorTime) -> None:
        self._link = link
        self._clock = clock
        self._prefix = prefix
        self._channels = channels
        self._everybody = f"{channels}all".encode()
        self._subscriptions = Link(dialer, clock, "the bus", self._subscribe)
        self._started = False
        self._subscribing = False
        self._lock = DeferredLock()
        #: Held while one script after the other says the parts of something large: what comes after it waits.
        self._parts = DeferredLock()
        self._listeners: dict[bytes, _Listener] = {}
        self._tasks = Tasks(self.log, self._clock)
        self._waiting: dict[bytes, list[bytes]] = {}
        self._count = self._bytes = 0
        self._publishing = False
        self._multicasting = 0
        self._malformed = False
        link.on_connected(self._connected)

    @property
    def connected(self) -> bool:
        """See :attr:`IBus.connected`."""
        return self._link.connected and (not self._subscribing or self._subscriptions.connected)

    @property
    def waiting(self) -> int:
        """See :attr:`IBus.waiting`."""
        return self._count + self._multicasting

    async def start(self) -> None:
        """Connect for publishing.

        :raises flux.errors.Unavailable: a sentence that names the setting.
        """
        await self._link.start()
        try:
            # Nobody listens there: it shows whether our user may publish.
            await self._link.command("PUBLISH", f"{self._channels}check", "[]")
        except BaseException as error:
            await self._link.stop()
            if isinstance(error, Refused):
                raise Unavailable(f"state.url: {in_words(error)}; it needs the channels {self._channels}*") from None
            raise
        self._started = True

    async def stop(self) -> None:
        """Disconnect; what waits to be published is dropped."""
        self._listeners.clear()
        await self._tasks.stop()
        self._tasks = Tasks(self.log, self._clock)
        self._waiting, self._count, self._bytes, self._publishing = {}, 0, 0, False
        if self._subscribing:
            self._subscribing = False
            await self._subscriptions.stop()
        if self._started:
            self._started = False
            await self._link.stop()

    # publishing

    async def publish(self, node: str, boot: int, event: BusEvent) -> None:
        """See :meth:`IBus.publish`.

        :raises flux.errors.Unavailable: there is no connection, or too much waits.
        """
        self._send(self._channel(node, boot), event)

    async def broadcast(self, event: BusEvent) -> None:
        """See :meth:`IBus.broadcast`. Whoever calls gets it too. Raises as :meth:`publish` does."""
        self._send(self._everybody, event)

    async def multicast(self, events: Sequence[Addressed], but: tuple[str, int] | None = None) -> int:
        """See :meth:`IBus.multicast`: one script looks up and publishes, or several where it is much.

        :raises flux.errors.Unavailable: not all were published, or perhaps not.
        """
        if self._multicasting + len(events) > MOST_WAITING:
            raise Unavailable(f"nothing can be published: {self._multicasting} events are waiting for Redis")
        self._multicasting += len(events)
        try:
            scripts = list(_scripts(events))
            if not scripts:
                return 0
            if len(scripts) == 1 and not self._parts.locked:
                return int(await self._tell(scripts[0], but, hurried=False))
            await self._parts.acquire()
            try:
                published = 0
                for script in scripts[:-1]:
                    published += int(await self._tell(script, but, hurried=True))
                last = self._tell(scripts[-1], but, hurried=False)
            finally:
                self._parts.release()
            return published + int(await last)
        finally:
            self._multicasting -= len(events)

    def _tell(self, script: list[_Group], but: tuple[str, int] | None, hurried: bool) -> Deferred[bytes]:
        node, boot = but or ("", 0)
        arguments = (self._channels, node, str(boot), script, MOST_IN_MESSAGE, MOST_BYTES_IN_MESSAGE)
        return run(self._link, MULTICAST, self._prefix, arguments, hurried)

    def _send(self, channel: bytes, event: BusEvent) -> None:
        if not self._link.connected:
            raise Unavailable("nothing can be published: the connection to Redis is lost")
        if self._count >= MOST_WAITING or self._bytes >= MOST_BYTES_WAITING:
            raise Unavailable(f"nothing can be published: {self._count} events are waiting for Redis")
        encoded = _encode(event)
        self._waiting.setdefault(channel, []).append(encoded)
        self._count += 1
        self._bytes += len(encoded)
        if not self._publishing:
            self._publishing = True
            self._tasks.spawn(self._publish(), "publishing")

    async def _publish(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, {}
                count, size = self._count, self._bytes
                messages = [
                    self._link.command("PUBLISH", channel, message)
                    for channel, events in waiting.items()
                    for message in _messages(events)
                ]
                try:
                    await together(messages)
                except Unavailable as problem:
                    self.log.warn("up to {count} events are lost: {why}", count=count, why=in_words(problem))
                finally:
                    self._count -= count
                    self._bytes -= size
        finally:
            self._publishing = False

    # listening

    async def listen(self, node: str, boot: int, sink: IBusSink) -> None:
        """See :meth:`IBus.listen`. Returns when Redis has confirmed the subscription.

        :raises flux.errors.Unavailable: it has not.
        """
        channel = self._channel(node, boot)
        self._listeners[channel] = listener = _Listener(node, sink)
        try:
            await self._lock.acquire()
            try:
                if self._subscribing:
                    await self._subscriptions.command("SUBSCRIBE", channel)
                    self._ready(listener)
                else:
                    # Subscribes to what is in the table.
                    await self._subscriptions.start()
                    self._subscribing = True
            finally:
                self._lock.release()
        except BaseException:
            if self._listeners.get(channel) is listener:
                del self._listeners[channel]
            raise

    async def _subscribe(self, connection: Connection) -> None:
        """Set a new connection up: subscribe to everything, wait for the confirmations, tell of the gap."""
        for listener in self._listeners.values():
            listener.ready = False
        connection.on_push(self._arrived)
        listeners = dict(self._listeners)
        channels = [self._everybody, *listeners]
        await together(connection.command("SUBSCRIBE", channel) for channel in channels)
        for listener in listeners.values():
            self._ready(listener)

    def _ready(self, listener: _Listener) -> None:
        listener.ready = True
        self._tell_of_gap(listener)

    def _connected(self, again: bool) -> None:
        """Commands work again: what was published meanwhile is lost, and Redis may have been another or empty."""
        if again:
            for listener in list(self._listeners.values()):
                if listener.ready:
                    self._tell_of_gap(listener)

    def _tell_of_gap(self, listener: _Listener) -> None:
        try:
            listener.sink.gap()
        except Exception:
            self.log.failure("The bus listener of {node} failed on a gap.", node=listener.node)

    def _arrived(self, channel: bytes, message: bytes) -> None:
        events = self._decode(message)
        if channel == self._everybody:
            listeners = list(self._listeners.values())
        else:
            listener = self._listeners.get(channel)
            listeners = [listener] if listener is not None else []
        for listener in listeners:
            # Before the gap was told of: whoever is told then looks at everything anyway.
            if listener.ready:
                self._deliver(listener, events)

    def _deliver(self, listener: _Listener, events: list[BusEvent]) -> None:
        for event in events:
            try:
                listener.sink.deliver(event)
            except Exception:
                self.log.failure("The bus listener of {node} failed on an event.", node=listener.node)

    def _decode(self, message: bytes) -> list[BusEvent]:
        try:
            return list(_events(message))
        except (ValueError, RecursionError) as error:
            if not self._malformed:
                self._malformed = True
                self.log.warn(
                    "an event on the bus is not understood, and others like it are ignored: {why}", why=str(error)
                )
        # Another version of flux may know more kinds of events; those that are known are delivered.
        known: list[BusEvent] = []
        try:
            pieces = _pieces(message)
        except (ValueError, RecursionError):
            return known
        for piece in pieces:
            try:
                known.append(_event(piece))
            except (ValueError, RecursionError):
                continue
        return known

    def _channel(self, node: str, boot: int) -> bytes:
        # The boot first: it has no colon, a node may.
        return f"{self._channels}{boot}:{node}".encode()


def _messages(events: Sequence[bytes]) -> Iterator[bytes]:
    """Encoded events as messages of Redis, in order."""
    part: list[bytes] = []
    size = 0
    for event in events:
        if part and (len(part) == MOST_IN_MESSAGE or size + len(event) > MOST_BYTES_IN_MESSAGE):
            yield b"[" + b",".join(part) + b"]"
            part, size = [], 0
        part.append(event)
        size += len(event)
    yield b"[" + b",".join(part) + b"]"


def _scripts(events: Iterable[Addressed]) -> Iterator[list[_Group]]:
    """What is said to whom, in so many parts that Redis serves others between. The same accounts go there once."""
    said: dict[tuple[int, ...], list[str]] = {}
    for event in events:
        if event.uids:
            encoded = _encode(event).decode()
            # Its accounts are its last field.
            said.setdefault(event.uids, []).append(encoded[: encoded.rindex("[")])
    script: list[_Group] = []
    accounts = count = size = 0
    for uids, heads in said.items():
        for start in range(0, len(uids), PART):
            part = [str(uid) for uid in uids[start : start + PART]]
            nodes, naming = min(len(part), NODES), sum(map(len, part)) + len(part)
            group: _Group | None = None
            for head in heads:
                more, text = 0 if group else len(part), nodes * len(head) + naming
                if script and (
                    accounts + more > PART or count + nodes > MOST_IN_SCRIPT or size + text > MOST_BYTES_IN_SCRIPT
                ):
                    yield script
                    script, accounts, count, size, group = [], 0, 0, 0, None
                if group is None:
                    group = (part, [])
                    script.append(group)
                    accounts += len(part)
                group[1].append(head)
                count += nodes
                size += text
    if script:
        yield script
