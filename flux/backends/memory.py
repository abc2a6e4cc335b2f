"""Shared state and bus inside one process: what a single server and the tests run on.

:class:`MemoryState` keeps dictionaries, :class:`MemoryBus` a queue per listening
node.  One instance of each serves every node of the process, so several nodes in
one reactor see each other exactly as they would through a server.

Nothing here has a timer.  What lapses lies in a :class:`Lapsing` dictionary, which
drops it when somebody looks; what is counted is the size of a set, never a number
that somebody has to decrement.
"""

from __future__ import annotations

import hmac
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from flux.backends.lapsing import Lapsing, Reservations
from flux.backends.multicast import multicast
from flux.interfaces import IBus, IBusSink, IState
from flux.model.bus import Addressed, BusEvent
from flux.model.people import CodeCheck
from flux.model.placement import Choice, Lease, Node, Renewal, Snapshot, leased_state
from flux.model.sessions import Claim, Route

MOST_COUNTERS = 100_000
"""Failure counters kept at once. One more drops the one that would lapse first: about 30 MB at most."""

MOST_CODES = 100_000
"""Verification codes kept at once. One more drops the one that would lapse first."""

MOST_BANS = 10_000
"""Banned addresses kept at once. One more drops the one that would lapse first."""

MOST_QUEUED = 10_000
"""Events waiting for one node. One more is dropped, and the node is told of a gap."""


class _Held:
    """A lease and the times it was renewed and lapses."""

    __slots__ = ("expires", "lease", "renewed")

    def __init__(self, lease: Lease, now: float) -> None:
        self.lease = lease
        self.renewed = now
        self.expires = now + lease.ttl


@implementer(IState)
class MemoryState:
    """Shared state in memory.

    :param seconds: the clock, which only goes forward.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._leases: dict[str, _Held] = {}
        self._boots: dict[str, int] = {}
        self._draining: set[str] = set()
        self._routes: dict[int, Route] = {}
        # Accounts whose routes went with the lease of their node, until a node is told.
        self._departed: set[int] = set()
        self._reservations = Reservations()
        self._tokens: Lapsing[int, bytes] = Lapsing()
        self._failures: Lapsing[str, int] = Lapsing()
        self._codes: Lapsing[str, tuple[bytes, int]] = Lapsing()
        self._bans: Lapsing[str, None] = Lapsing()

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        """Nothing to disconnect from; other nodes may still be using it."""

    # servers

    async def renew(self, lease: Lease, routes: Sequence[tuple[int, int]]) -> Renewal:
        """See :meth:`IState.renew`."""
        name, boot = lease.name, lease.boot
        if boot < self._boots.get(name, 0):
            return Renewal(lost=(), draining=name in self._draining, superseded=True)
        # After everything stood still, whoever comes back first must not judge the others.
        judges = (held := self._leases.get(name)) is not None and held.expires > self._seconds()
        known = self._boots.get(name) == boot
        if not known:
            judges = False
            self._end_leases([name])
            self._boots[name] = boot
        live = self._live()
        self._leases[name] = _Held(lease, self._seconds())
        live[name] = boot
        self._reservations.settle(name)
        lost, restored = [], []
        for uid, number in routes:
            route = self._routes.get(uid)
            if route is None or route.number < number or live.get(route.node) != route.boot:
                self._routes[uid] = Route(name, boot, number)
                restored.append(uid)
            elif route.number > number:
                lost.append(uid)
        departed: set[int] = set()
        if judges and self._departed:
            departed, self._departed = self._departed.difference(self._routes), set()
        return Renewal(
            lost=tuple(lost),
            draining=name in self._draining,
            superseded=False,
            restored=tuple(restored) if known else (),
            departed=tuple(departed),
        )

    async def retire(self, name: str, boot: int) -> None:
        """See :meth:`IState.retire`."""
        held = self._leases.get(name)
        if held is not None and held.lease.boot == boot:
            self._end_leases([name])

    async def drain(self, name: str, draining: bool) -> None:
        """See :meth:`IState.drain`."""
        if draining:
            self._draining.add(name)
        else:
            self._draining.discard(name)

    async def snapshot(self) -> Snapshot:
        """See :meth:`IState.snapshot`."""
        return self._snapshot(self._seconds())

    async def assign(self, choices: Sequence[Choice], hold: float, token_ttl: float) -> Snapshot:
        """See :meth:`IState.assign`."""
        now = self._seconds()
        self._tokens.purge(now)
        for choice in choices:
            self._reservations.set(choice.uid, choice.server, now + hold)
            self._tokens.set(choice.uid, choice.token_digest, now + token_ttl)
        return self._snapshot(now)

    async def reserved(self, uids: Sequence[int]) -> dict[int, str]:
        """See :meth:`IState.reserved`."""
        now = self._seconds()
        entries = {uid: self._reservations.get(uid, now) for uid in uids}
        return {uid: entry[1] for uid, entry in entries.items() if entry is not None}

    # sessions

    async def claim(self, uid: int, route: Route, takeover: bool) -> Claim:
        """See :meth:`IState.claim`."""
        previous = self._route(uid)
        if previous is not None and previous != route and (previous.number >= route.number or not takeover):
            return Claim(won=False, previous=previous)
        self._routes[uid] = route
        self._reservations.mark(uid, self._seconds())
        return Claim(won=True, previous=None if previous == route else previous)

    async def release(self, uid: int, route: Route) -> None:
        """See :meth:`IState.release`."""
        if self._routes.get(uid) == route:
            del self._routes[uid]

    async def routes(self, uids: Sequence[int]) -> dict[int, Route]:
        """See :meth:`IState.routes`."""
        live = self._live()
        found = {}
        for uid in uids:
            route = self._routes.get(uid)
            if route is not None and live.get(route.node) == route.boot:
                found[uid] = route
        return found

    # tokens and counters

    async def token_digest(self, uid: int) -> bytes | None:
        """See :meth:`IState.token_digest`."""
        entry = self._tokens.get(uid, self._seconds())
        return None if entry is None else entry[1]

    async def revoke(self, uid: int) -> None:
        """See :meth:`IState.revoke`."""
        self._tokens.pop(uid)

    async def fail(self, keys: Sequence[str], window: float) -> None:
        """See :meth:`IState.fail`. At most :data:`MOST_COUNTERS` are kept."""
        for key in keys:
            self._tally(key, 1, window)

    async def failures(self, keys: Sequence[str]) -> list[tuple[int, float]]:
        """See :meth:`IState.failures`."""
        now = self._seconds()
        entries = [self._failures.get(key, now) for key in keys]
        return [(0, 0.0) if entry is None else (entry[1], entry[0] - now) for entry in entries]

    # bans of network addresses

    async def offend(self, offences: Mapping[str, int], most: int, window: float, ban: float) -> tuple[str, ...]:
        """See :meth:`IState.offend`. At most :data:`MOST_BANS` are kept."""
        now = self._seconds()
        self._bans.purge(now)
        banned = []
        for address, count in offences.items():
            if self._bans.get(address, now) is None and self._tally(_offences(address), count, window) >= most:
                self._failures.pop(_offences(address))
                self._bans.set(address, None, now + ban)
                banned.append(address)
        while len(self._bans) > MOST_BANS:
            self._bans.pop_first()
        return tuple(banned)

    async def banned(self) -> dict[str, float]:
        """See :meth:`IState.banned`."""
        now = self._seconds()
        self._bans.purge(now)
        return {address: expires - now for address, (expires, _) in self._bans.items()}

    async def pardon(self, address: str) -> bool:
        """See :meth:`IState.pardon`."""
        self._failures.pop(_offences(address))
        banned = self._bans.get(address, self._seconds()) is not None
        self._bans.pop(address)
        return banned

    # verification codes

    async def set_code(self, key: str, digest: bytes, ttl: float) -> None:
        """See :meth:`IState.set_code`. At most :data:`MOST_CODES` are kept."""
        now = self._seconds()
        self._codes.purge(now)
        self._codes.set(key, (digest, 0), now + ttl)
        while len(self._codes) > MOST_CODES:
            self._codes.pop_first()

    async def try_code(self, key: str, digest: bytes, tries: int) -> CodeCheck:
        """See :meth:`IState.try_code`."""
        entry = self._codes.get(key, self._seconds())
        if entry is None:
            return "unknown"
        expires, (kept, failed) = entry
        if hmac.compare_digest(kept, digest):
            self._codes.pop(key)
            return "accepted"
        if failed + 1 >= tries:
            self._codes.pop(key)
        else:
            self._codes.set(key, (kept, failed + 1), expires)
        return "wrong"

    # inside

    def _tally(self, key: str, by: int, window: float) -> int:
        """Count ``by`` more under ``key``; returns what it has come to."""
        now = self._seconds()
        self._failures.purge(now)
        expires, count = self._failures.get(key, now) or (now + window, 0)
        self._failures.set(key, count + by, expires)
        while len(self._failures) > MOST_COUNTERS:
            self._failures.pop_first()
        return count + by

    def _live(self) -> dict[str, int]:
        """The boot of each live lease; ends those that have lapsed."""
        now = self._seconds()
        lapsed = [name for name, held in self._leases.items() if held.expires <= now]
        if lapsed:
            self._end_leases(lapsed)
        return {name: held.lease.boot for name, held in self._leases.items()}

    def _end_leases(self, names: Iterable[str]) -> None:
        """Forget these leases and every route that has no lease: dead nodes must not pile up."""
        for name in names:
            self._leases.pop(name, None)
        leases, before = self._leases, self._routes
        self._routes = {
            uid: route
            for uid, route in before.items()
            if (held := leases.get(route.node)) is not None and held.lease.boot == route.boot
        }
        # Of a node that has not been heard of since everything was forgotten nobody knows whether it died.
        self._departed.update(uid for uid in before.keys() - self._routes.keys() if before[uid].node in self._boots)

    def _route(self, uid: int) -> Route | None:
        """The account's live route."""
        route = self._routes.get(uid)
        if route is None:
            return None
        held = self._leases.get(route.node)
        live = held is not None and held.lease.boot == route.boot and held.expires > self._seconds()
        return route if live else None

    def _snapshot(self, now: float) -> Snapshot:
        self._live()
        self._reservations.purge(now)
        reserved = self._reservations.counts()
        nodes = tuple(
            Node(
                name=name,
                host=held.lease.host,
                port=held.lease.port,
                sessions=held.lease.sessions,
                reserved=reserved.get(name, 0),
                capacity=held.lease.capacity,
                weight=held.lease.weight,
                state=leased_state(name in self._draining, held.lease.why),
                heartbeat_age=now - held.renewed,
                websocket=held.lease.websocket,
                tls=held.lease.tls,
                why=held.lease.why,
            )
            for name, held in self._leases.items()
        )
        return Snapshot(nodes=nodes, reserved=reserved, draining=frozenset(self._draining))


def _offences(address: str) -> str:
    return f"offences@{address}"


class _Listener:
    """One boot of one node: its queue, and whether it must be told of a gap first."""

    def __init__(self, sink: IBusSink) -> None:
        self.sink = sink
        self.queue: deque[BusEvent] = deque()
        self.gap = True
        self.flush: IDelayedCall | None = None


@implementer(IBus)
class MemoryBus:
    """Events between the nodes of one process.

    Events arrive in a later reactor turn, in order: a receiver that publishes is
    never called back from inside its own call.  Nobody waits for a slow receiver:
    beyond ``limit`` waiting events one is dropped and the receiver's ``gap`` called.

    :param state: has the routes.
    """

    _log = Logger()
    connected = True

    def __init__(self, clock: IReactorTime, state: IState, limit: int = MOST_QUEUED) -> None:
        self._clock = clock
        self._state = state
        self._limit = limit
        self._listeners: dict[tuple[str, int], _Listener] = {}

    @property
    def waiting(self) -> int:
        """See :attr:`IBus.waiting`."""
        return sum(len(listener.queue) for listener in self._listeners.values())

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        """Drop all listeners and what was waiting for them."""
        listeners, self._listeners = self._listeners, {}
        for listener in listeners.values():
            if listener.flush is not None:
                listener.flush.cancel()

    async def publish(self, node: str, boot: int, event: BusEvent) -> None:
        """See :meth:`IBus.publish`."""
        key = (node, boot)
        if key in self._listeners:
            self._queue(key, event)

    async def broadcast(self, event: BusEvent) -> None:
        """See :meth:`IBus.broadcast`. Whoever calls gets it too."""
        for key in self._listeners:
            self._queue(key, event)

    async def multicast(self, events: Sequence[Addressed], but: tuple[str, int] | None = None) -> int:
        """See :meth:`IBus.multicast`."""
        return await multicast(self._state, self, events, but)

    async def listen(self, node: str, boot: int, sink: IBusSink) -> None:
        """See :meth:`IBus.listen`. The sink's ``gap`` is called in the next turn, as after every connection."""
        key = (node, boot)
        self._listeners[key] = listener = _Listener(sink)
        listener.flush = self._clock.callLater(0, self._flush, key, listener)

    def _queue(self, key: tuple[str, int], event: BusEvent) -> None:
        listener = self._listeners[key]
        if len(listener.queue) < self._limit:
            listener.queue.append(event)
        else:
            listener.gap = True
        if listener.flush is None:
            listener.flush = self._clock.callLater(0, self._flush, key, listener)

    def _flush(self, key: tuple[str, int], listener: _Listener) -> None:
        """Hand over what was waiting; what arrives meanwhile waits for the next turn."""
        events, listener.queue, listener.flush = listener.queue, deque(), None
        missed, listener.gap = listener.gap, False
        if missed:
            self._call(key, listener, listener.sink.gap)
        for event in events:
            self._call(key, listener, listener.sink.deliver, event)

    def _call(
        self, key: tuple[str, int], listener: _Listener, function: Callable[..., None], *arguments: object
    ) -> None:
        if self._listeners.get(key) is not listener:
            return
        try:
            function(*arguments)
        except Exception:
            self._log.failure("The bus listener of {node} failed on an event.", node=key[0])
