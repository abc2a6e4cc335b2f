"""A chat node: the sessions of one process, and what keeps them right.

::

    every heartbeat   the lease and all routes are renewed (heartbeat)
    every second      cursor writes, idle and stuck connections
    every sweep       what moved in the store against the positions here (the guarantee
                      behind all hints): 5 s, or 1 s while hints are known to get lost
    from other nodes  hints, notices, kicks: told to delivery, presence, sessions
    draining          no logins; clients are sent elsewhere (departure)

A node is told apart from an earlier one of the same name by its *boot* number.
"""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from collections.abc import Callable

from msgspec import UNSET
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from flux.accounts.accounts import Accounts
from flux.accounts.pace import Pace
from flux.accounts.passwords import Passwords
from flux.bans import Bans
from flux.chat.connections import Connections
from flux.chat.cursors import EVERY, Cursors
from flux.chat.delivery import Delivery
from flux.chat.departure import Departure
from flux.chat.heartbeat import Heartbeat
from flux.chat.insight import watch
from flux.chat.journal import Entry, Journal
from flux.chat.presence import Presence
from flux.chat.protocol import ChatConnection
from flux.chat.pruning import Pruning
from flux.chat.reading import Reading
from flux.chat.session import Session
from flux.chat.spread import Spread
from flux.chat.sweep import Sweep
from flux.chat.turns import Turns
from flux.config import Settings
from flux.errors import FluxError, Unavailable
from flux.interfaces import IBus, IBusSink, IPlacement, IState, IStore
from flux.lifecycle import DeadlineExceeded, Outage, Spawned, Tasks, every, within
from flux.metrics import ChatMetrics
from flux.model.bus import BusEvent, FriendsChanged, Hint, Kick, MembersChanged, Notify, Online
from flux.model.chats import MemberChange
from flux.model.events import Presence as PresenceNotice
from flux.model.messages import Message, Receipt
from flux.model.sessions import Route
from flux.net.connection import STOPPING, Gather

SWEEP = 5.0
"""Seconds between sweeps."""

SWEEP_DEGRADED = 1.0
"""Seconds between sweeps while hints are known to get lost."""

RELEASED_AT_ONCE = 100
"""Ended sessions whose routes are released, and whose friends are told, at the same time."""


@implementer(IBusSink)
class ChatNode:
    """Everything the sessions of one process share.

    :param reactor: clock only; connections come through the protocol's factory.
    :param placement: gives moved clients another server; None where there is none to ask.
    :param fatal: called with a reason when this process must go (its name was taken over).
    :param draining: called when an admin drains this node (True), and when that is taken back.
    :param drained: called when an admin has drained this node and nobody is left.
    :param bans: those that the process knows; they are started and stopped elsewhere.
    :ivar metrics: what it counts.
    :ivar now: the clock as of the last second, cheap to read.
    :ivar pace: how fast each account sends, over all its connections.
    :ivar asking: how fast each account, or connection without one, asks for anything else.
    :ivar turns: which answer is written when many that are long are ready.
    :ivar draining: True while no logins are taken.
    :ivar changes_shown: whether members are shown who joins and leaves.
    :ivar tasks: what runs as long as the node does.
    :ivar requests: the requests being answered.
    """

    log = Logger()

    def __init__(
        self,
        settings: Settings,
        store: IStore,
        state: IState,
        bus: IBus,
        clock: IReactorTime,
        passwords: Passwords,
        placement: IPlacement | None = None,
        rng: random.Random | None = None,
        fatal: Callable[[str], None] | None = None,
        draining: Callable[[bool], None] | None = None,
        drained: Callable[[], None] | None = None,
        wall_clock: Callable[[], float] = time.time,
        metrics: ChatMetrics | None = None,
        bans: Bans | None = None,
    ) -> None:
        self.metrics = metrics = metrics or ChatMetrics()
        self.settings = settings
        self.limits = settings.limits
        self.name = settings.chat.name
        self.boot = 0
        self.store = store
        self.state = state
        self.bus = bus
        self.clock = clock
        self.draining = False
        self.now = clock.seconds()
        self.wall_clock = wall_clock
        self.sessions: dict[int, Session] = {}
        self.logging_in: Counter[int] = Counter()
        self.pace: Pace[int] = Pace()
        self.asking: Pace[int | str] = Pace()
        self.turns = Turns(clock)
        self.tasks = Tasks(self.log, clock)
        self.requests = Tasks(self.log, clock)
        self.gather = Gather()
        self.connections = Connections(settings, metrics)
        self.bans = bans = bans or Bans(settings, store, state, clock, wall=wall_clock)
        bans.on_ban(lambda by_admins: self.connections.keep_out(bans, by_admins))
        self.accounts = Accounts(settings, store, state, bus, passwords, metrics.accounts, bans, clock)
        self.cursors = Cursors(store, metrics, clock)
        self.presence = Presence(self.sessions, state, bus, clock, self.tasks)
        self.spread = Spread(bus, self.tasks, lambda: (self.name, self.boot), metrics)
        self._rng = rng or random.Random()
        self.delivery = Delivery(
            store, self.sessions, clock, self.tasks, self._rng, self.limits.catchups, self._spread
        )  # fmt: skip
        self.reading = Reading(
            self.delivery.positions, self.delivery.members, self.presence, clock, self.tasks
        )  # fmt: skip
        self.sweep = Sweep(
            store, self.sessions, self.logging_in, self.delivery, self.cursors, self.reading, self.spread, metrics,
            clock,
        )  # fmt: skip
        self._telling = Outage(self.log, clock)
        self.changes_shown = Outage(self.log, clock)
        self.journal = Journal(store, self._settle, self.tasks, clock, metrics)
        self.heartbeat = Heartbeat(
            settings, state, self.sessions, self.logging_in, self.connections, self.sweep, self.spread, self.presence,
            clock, self._told_to_drain, fatal or (lambda reason: None),
        )  # fmt: skip
        self._departure = Departure(
            self.name, self.sessions, lambda: len(self.logging_in), placement, clock, self._rng
        )  # fmt: skip
        self._departing: Spawned = succeed(None)
        self._tell_draining = draining or (lambda draining: None)
        self._drained = drained or (lambda: None)
        self._swept = 0.0
        self._emptied: Deferred[None] | None = None
        self._left: deque[tuple[int, Route, tuple[int, ...]]] = deque()
        self._releasing = 0
        watch(self)

    # --- start and stop ---

    async def start(self) -> None:
        """Take a boot number and listen on the bus."""
        self.boot = await self.store.next_boot(self.name)
        await self.sweep.begin()
        self._swept = self.clock.seconds()
        await self.bus.listen(self.name, self.boot, self)

    async def take_lease(self, host: str, port: int, websocket: str = "", tls: bool = False) -> None:
        """Announce this node as reachable at ``host:port``, by browsers at ``websocket``, and keep doing so.

        :param tls: clients have to begin with TLS there.

        :raises flux.errors.Unavailable: the shared state does not answer.
        """
        await self.heartbeat.begin(self.boot, host, port, websocket, tls)
        beats = every(self.settings.status.heartbeat, self.heartbeat.beat, self.clock, "the heartbeat", self.log)
        self.tasks.spawn(beats, "the heartbeat")
        pruning = Pruning(
            self.store, lambda: self.settings.store.keep_days, self.wall_clock, self.clock, self.metrics
        )  # fmt: skip
        self.tasks.spawn(pruning.run(), "removing old messages")
        self.tasks.spawn(every(EVERY, self._second, self.clock, "the second's work", self.log), "the second's work")

    async def stop(self, deadline: float) -> None:
        """Drain: take nothing new, bring out what was accepted, close, give the lease up.

        :param deadline: seconds after which connections are cut whatever they still hold.
        """
        self.draining = True
        self._departing.cancel()
        await self.heartbeat.give_up(self.boot)
        await self._departure.leave()
        late = self.clock.seconds() + deadline
        self.connections.hold(STOPPING)
        try:
            await within(deadline, self._bring_out(), self.clock, "bringing out what was accepted")
        except DeadlineExceeded as error:
            self.log.warn("{error}, going on", error=error)
        sessions = list(self.sessions.values())
        if sessions:
            self.log.info("sessions that end because this server stops: {count}", count=len(sessions))
        for session in sessions:
            session.kick("shutdown")
        self.connections.close()
        if self.connections:
            self._emptied = Deferred()
            left = max(0.0, late - self.clock.seconds())
            await self._emptied.addTimeout(left, self.clock, onTimeoutCancel=lambda result, seconds: None)
            self.connections.abort()
        await self.cursors.write()
        await self.requests.stop()
        await self.tasks.stop()

    async def _bring_out(self) -> None:
        """What was read is answered, stored, and written to those it is for."""
        await self.requests.ended()
        await self.journal.flushed()
        await self.reading.flush()

    def reload(self, settings: Settings) -> None:
        """Go on with new settings."""
        self.settings = settings
        self.limits = settings.limits
        self.connections.reload(settings)
        self.accounts.reload(settings)
        self.delivery.catchup.reload(self.limits.catchups)
        self.heartbeat.reload(settings)

    # --- connections and sessions ---

    def disconnected(self, connection: ChatConnection) -> None:
        """A connection is gone."""
        self.connections.remove(connection)
        if self._emptied is not None and not self.connections and not self._emptied.called:
            self._emptied.callback(None)

    def end(self, session: Session) -> None:
        """A session ended, for whatever reason; does nothing the second time."""
        if session.ended:
            return
        session.ended = True
        session.live = session.placed = False
        self.delivery.positions.leave(session)
        self.cursors.collect(session)
        if session.uid:
            if self.sessions.get(session.uid) is session:
                del self.sessions[session.uid]
            self._left.append((session.uid, session.route, session.friends))
            if self._releasing < RELEASED_AT_ONCE:
                self.tasks.spawn(self._release(), "releasing the routes of ended sessions")

    async def _release(self) -> None:
        """Release routes until none is left.

        Thousands may leave at once, and most of them wait as three values: a coroutine each takes more memory than the
        session had, which Python does not give back.
        """
        self._releasing += 1
        try:
            while self._left:
                uid, route, friends = self._left.popleft()
                try:
                    await self._gone(uid, route, friends)
                except CancelledError:
                    raise
                except Exception:
                    self.log.failure("releasing the route of {uid} failed", uid=uid)
        finally:
            self._releasing -= 1

    async def _gone(self, uid: int, route: Route, friends: tuple[int, ...]) -> None:
        await self.heartbeat.release(uid, route)
        if friends and not await self.presence.online([uid]):
            await self.presence.notify(friends, PresenceNotice(uid, False))

    # --- messages ---

    def _settle(self, entries: list[Entry], outcomes: list[Receipt | FluxError]) -> None:
        """A batch was committed: tell the senders, then everybody."""
        self.gather.begin()
        duplicates = failed = 0
        try:
            announce = self.delivery.announce
            # Where it has gone back, the numbers that are known here are of another past: the next look finds all.
            in_doubt = not self.store.past
            self.spread.degraded |= in_doubt
            for (session, request, draft), outcome in zip(entries, outcomes, strict=True):
                try:
                    session.settled(request, outcome)
                    if isinstance(outcome, Receipt):
                        duplicates += outcome.duplicate
                        message = Message(
                            outcome.chat, outcome.seq, draft.sender, session.name, draft.text, outcome.at,
                            draft.to or UNSET, draft.group or UNSET,
                        )  # fmt: skip
                        if not in_doubt:
                            announce(message, outcome.version, True)
                        continue
                    failed += 1
                    if isinstance(outcome, Unavailable):
                        # Perhaps committed, and then nobody was told: the next second's work looks.
                        self.spread.degraded = True
                except Exception:
                    self.log.failure("delivering a message of {uid} failed", uid=draft.sender)
            self._spread()
        finally:
            self.gather.end()
        self.metrics.committed.inc(len(entries) - duplicates - failed)
        if duplicates:
            self.metrics.duplicates.inc(duplicates)
        if failed:
            self.metrics.failed.inc(failed)

    def _spread(self) -> None:
        if self.delivery.outgoing:
            outgoing, self.delivery.outgoing = self.delivery.outgoing, []
            self.spread.hint(outgoing)

    async def members_changed(self, change: MemberChange) -> None:
        """A member joined or left through this node: act on it here and tell the other nodes."""
        self.delivery.members.changed(change)
        try:
            await self.bus.broadcast(MembersChanged(change))
        except FluxError as error:
            self.spread.degraded = True
            self._telling.failed(
                "other nodes are not told who joins and leaves, such as in {chat}: {error}",
                chat=change.chat,
                error=error,
            )
        else:
            self._telling.over("other nodes are told who joins and leaves again, after {seconds} s")

    async def friends_changed(self, one: int, other: int, friends: bool) -> None:
        """Two accounts became friends through this node, or ended it: their sessions learn it, wherever they are."""
        away = self._note_friends(FriendsChanged(one, other, friends))
        if away:
            await self.presence.spread(FriendsChanged(one, other, friends, away))

    def _note_friends(self, event: FriendsChanged) -> tuple[int, ...]:
        """Let the sessions here know whom to tell of their coming and going; return who is not here."""
        away = []
        for uid, friend in ((event.one, event.other), (event.other, event.one)):
            session = self.sessions.get(uid)
            if session is None:
                away.append(uid)
                continue
            others = tuple(each for each in session.friends if each != friend)
            session.friends = (*others, friend) if event.friends else others
        return tuple(away)

    # --- the bus ---

    def deliver(self, event: BusEvent) -> None:
        """What another node has to say."""
        match event:
            case Hint(message, version, past, uids):
                if not past or past != self.store.past:
                    # One of us has not seen yet that the store has gone back: the next look finds the message.
                    self.spread.degraded = True
                elif message.chat in self.delivery.chats or any(uid in self.sessions for uid in uids):
                    self.delivery.announce(message, version, False)
            case Notify(notice, uids):
                self.presence.show(uids, notice)
            case MembersChanged(change):
                self.delivery.members.changed(change)
            case FriendsChanged():
                self._note_friends(event)
            case Online():
                self.presence.show_online(event)
            case Kick(uid, below, reason, detail):
                session = self.sessions.get(uid)
                if session is not None and session.number < below:
                    session.kick(reason, detail)

    def gap(self) -> None:
        """Hints may be missing: put the routes right, then look what they were."""
        self.tasks.spawn(self.heartbeat.after_gap(), "catching up after a gap on the bus")

    # --- draining ---

    def _told_to_drain(self, draining: bool) -> None:
        """What an admin wants, as every heartbeat hears it."""
        if draining != self.draining:
            self.draining = draining
            self.log.info("{what}", what="draining: no new logins" if draining else "taking logins again")
            if draining:
                self._departing = self.tasks.spawn(self._drain(), "moving clients to other servers")
            else:
                self._departing.cancel()
            self._tell_draining(draining)

    async def _drain(self) -> None:
        """Bring the clients to other servers."""
        await self._departure.drain(self.settings.chat.drain)
        self._drained()

    # --- what repeats ---

    async def _second(self) -> None:
        self.now = self.clock.seconds()
        self.connections.check(self.now)
        self.accounts.report()
        self.pace.prune(self.now)
        self.asking.prune(self.now)
        await self.cursors.write()
        degraded = self.spread.degraded or not self.bus.connected
        if self.now - self._swept >= (SWEEP_DEGRADED if degraded else SWEEP):
            self._swept = self.now
            self.spread.degraded = False
            trouble = self.sweep.trouble
            await self.sweep.look()
            if trouble and not self.sweep.trouble:
                # Users are given to this node again from now on, not from the next heartbeat.
                await self.heartbeat.beat()
