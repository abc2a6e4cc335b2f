"""Assigning users to servers: gathered, chosen, recorded, told.

::

    assign(uids) ──> waiting ──(next turn)──> balancer's choice per account ──> IState.assign ──> answers
                                                     ^                              │
                                                     └── loads for the next batch <─┘ snapshot

Requests of one turn are one batch: one call of the shared state records reservation
and token of every choice in it and returns the loads that include them.  Until that
answer is here, a batch's choices are added to the loads that later batches see.  So
the loads a choice is based on lack only what other status processes are just doing.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from copy import copy

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from flux.errors import FluxError, Internal, NoServer, Unavailable
from flux.interfaces import IBalancer, IPlacement, IState
from flux.lifecycle import DeadlineExceeded, Tasks, within
from flux.metrics import StatusMetrics
from flux.model.placement import Assignment, Node
from flux.status.batch import Batch, Candidates, Request
from flux.status.servers import Servers

DEADLINE = 2.0
"""Seconds the shared state may take to answer; then the requests of the batch are ``Unavailable``."""

MOST_WAITING = 20_000
"""Accounts waiting at once for a server; more are refused at once instead of after the deadline."""

BATCH = 1000
"""Accounts after which a batch is closed: the shared state is busy with one for a few milliseconds at most."""

LOOK_AGAIN = 0.1
"""Seconds after which it is worth looking again whether there is really no server."""


@implementer(IPlacement)
class Placement:
    """Assigns accounts to servers.

    :param servers: the servers; this object keeps their snapshot fresh.
    :param hold: seconds a reservation counts for a user who does not come.
    :param wall: the time of day in seconds since the epoch.
    :ivar balancer: chooses the server; may be replaced at any time.
    :ivar token_ttl: seconds a login token may be used; may be changed at any time.
    :ivar logs_each: whether every assignment is logged; may be changed at any time.
    """

    log = Logger()

    def __init__(
        self,
        state: IState,
        servers: Servers,
        balancer: IBalancer,
        clock: IReactorTime,
        token_ttl: float,
        hold: float,
        wall: Callable[[], float] = time.time,
        metrics: StatusMetrics | None = None,
    ) -> None:
        self.balancer = balancer
        self.token_ttl = token_ttl
        self.logs_each = True
        self._state = state
        self._servers = servers
        self._clock = clock
        self._hold = hold
        self._wall = wall
        self._tasks = Tasks(self.log, clock)
        self._waiting: deque[Request] = deque()
        self._accounts = 0
        self._unanswered: Counter[str] = Counter()
        self._turn: IDelayedCall | None = None
        self._refreshed = float("-inf")
        self._stopped = False
        self._metrics = metrics = metrics or StatusMetrics()
        metrics.waiting(lambda: self._accounts)

    def assign(self, uids: Sequence[int], leaving: str = "") -> Deferred[list[Assignment]]:
        """See :meth:`IPlacement.assign`. All of ``uids`` get a server, or none does.

        :raises flux.errors.Unavailable: too much is waiting, or the shared state did not answer in time.
        """
        if self._stopped:
            return fail(Unavailable("the status service is stopping"))
        if self._accounts + len(uids) > MOST_WAITING:
            return fail(Unavailable("too many requests are waiting for a chat server; try again"))
        request = Request(uids, leaving)
        self._accounts += len(uids)
        self._waiting.append(request)
        if self._turn is None:
            self._turn = self._clock.callLater(0, self._serve)
        return request.answer

    async def refresh(self) -> None:
        """Take a fresh snapshot.

        :raises flux.errors.Unavailable: the shared state did not answer in time.
        """
        try:
            snapshot = await within(DEADLINE, self._state.snapshot(), self._clock, "the shared state")
        except DeadlineExceeded as late:
            raise Unavailable(str(late)) from None
        self._servers.adopt(snapshot)
        self._refreshed = self._clock.seconds()

    async def stop(self) -> None:
        """Answer what waits with ``Unavailable`` and end."""
        self._stopped = True
        if self._turn is not None and self._turn.active():
            self._turn.cancel()
        await self._tasks.stop()
        self._fail(self._take(self._accounts), Unavailable("the status service is stopping"))

    # --- batches ---

    def _serve(self) -> None:
        """Begin a batch with what is waiting."""
        candidates = self._candidates()
        if self._servers.stale or (not candidates.nodes and self._may_look_again()):
            # ``_turn`` stays set: what arrives meanwhile waits too.
            self._tasks.spawn(self._refresh_first(), "reading the loads")
            return
        requests = self._take(BATCH)
        self._turn = self._clock.callLater(0, self._serve) if self._waiting else None
        batch = self._choose(requests, candidates)
        if batch.choices:
            self._unanswered.update(batch.per_server)
            self._tasks.spawn(self._record(batch, self.balancer.name), "recording assignments")
        if batch.turned_away:
            self._tasks.spawn(self._let_back(batch.turned_away), "looking who has a place")

    def _may_look_again(self) -> bool:
        return not 0 <= self._clock.seconds() - self._refreshed < LOOK_AGAIN

    async def _refresh_first(self) -> None:
        try:
            await self.refresh()
        except CancelledError:
            raise
        except FluxError as error:
            self._turn = None
            self._fail(self._take(self._accounts), error)
        except Exception:
            self._turn = None
            self._fail(self._take(self._accounts), Internal("the loads could not be read"))
            raise
        else:
            self._serve()

    def _take(self, accounts: int) -> list[Request]:
        """Requests from the front of the queue, until they hold ``accounts`` or there are no more."""
        taken: list[Request] = []
        while self._waiting and accounts > 0:
            request = self._waiting.popleft()
            accounts -= len(request.uids)
            taken.append(request)
        return taken

    def _candidates(self, leaving: Collection[str] = ()) -> Candidates:
        return Candidates(self._servers.nodes, self._unanswered, leaving)

    def _choose(self, requests: list[Request], candidates: Candidates) -> Batch:
        """Choose for all; those for whom there is no server are answered at once."""
        batch = Batch()
        # A server that sends its users away is none for others either, though this snapshot may not know yet.
        leaving = {request.leaving for request in requests if request.leaving}
        if leaving:
            candidates = self._candidates(leaving)
        expires = self._expires()
        failed = False
        for request in requests:
            before = len(batch.choices)
            problem: FluxError
            try:
                assignments = [self._assignment(uid, batch, candidates, expires) for uid in request.uids]
            except NoServer:
                problem = NoServer(self._why_none(leaving))
            except Exception:
                problem = Internal("the balancer failed")
                if not failed:
                    failed = True
                    self.log.failure("the balancer {balancer} failed", balancer=self.balancer.name)
            else:
                batch.requests.append((request, assignments))
                continue
            if batch.undo(before):
                candidates = Candidates(self._servers.nodes, self._unanswered + batch.per_server, leaving)
            if isinstance(problem, NoServer) and not request.leaving and self._up():
                batch.turned_away.append(request)
            else:
                self._fail([request], problem)
        return batch

    def _expires(self) -> int:
        return int((self._wall() + self.token_ttl) * 1000)

    def _up(self) -> dict[str, Node]:
        return {node.name: node for node in self._servers.nodes if node.state == "up" and node.weight > 0}

    def _assignment(self, uid: int, batch: Batch, candidates: Candidates, expires: int) -> Assignment:
        """The assignment of one account; who asks twice in one batch gets the same answer twice."""
        known = batch.chosen.get(uid)
        if known is not None:
            return known[0]
        node = self.balancer.choose(uid, candidates.nodes)
        if node is None:
            raise NoServer
        if node not in candidates:
            raise LookupError(f"it chose {node.name!r}, which is not among the servers it was given")
        assignment = batch.add(uid, node, dict(candidates.loads), expires)
        candidates.take(node)
        return assignment

    def _why_none(self, leaving: Collection[str] = ()) -> str:
        states = Counter(
            "full" if node.state == "up" else node.state for node in self._servers.nodes if node.name not in leaving
        )
        if not states:
            return "no other chat server is up" if leaving else "no chat server is known"
        return "no chat server can take a user: " + ", ".join(f"{count} {state}" for state, count in states.items())

    async def _let_back(self, requests: list[Request]) -> None:
        """Give those who have a place on a full server that place again: its load has them in it already."""
        uids = list({uid for request in requests for uid in request.uids})
        try:
            places = await within(DEADLINE, self._places(uids), self._clock, "the shared state")
        except CancelledError:
            self._fail(requests, Unavailable("the status service is stopping"))
            raise
        except DeadlineExceeded as late:
            self._fail(requests, Unavailable(str(late)))
            return
        except FluxError as error:
            self._fail(requests, error)
            return
        except Exception:
            self._fail(requests, Internal("looking who has a place failed"))
            raise
        batch, up, expires = Batch(), self._up(), self._expires()
        for request in requests:
            nodes = [up.get(places.get(uid, "")) for uid in request.uids]
            if None in nodes:
                self._fail([request], NoServer(self._why_none()))
                continue
            assignments = [
                batch.chosen[uid][0] if uid in batch.chosen else batch.add(uid, node, {node.name: node.load}, expires)
                for uid, node in zip(request.uids, nodes, strict=True)
                if node is not None
            ]
            batch.requests.append((request, assignments))
        if batch.choices:
            self._unanswered.update(batch.per_server)
            await self._record(batch, "the place it had")

    async def _places(self, uids: Sequence[int]) -> dict[int, str]:
        """The server each account is on its way to, or is logged in at."""
        routes = await self._state.routes(uids)
        return {uid: route.node for uid, route in routes.items()} | await self._state.reserved(uids)

    async def _record(self, batch: Batch, by: str) -> None:
        """Let the shared state have a batch, then tell those who wait."""
        requests = [request for request, _ in batch.requests]
        try:
            recorded = self._state.assign(batch.choices, self._hold, self.token_ttl)
            snapshot = await within(DEADLINE, recorded, self._clock, "the shared state")
        except CancelledError:
            self._fail(requests, Unavailable("the status service is stopping"))
            raise
        except DeadlineExceeded as late:
            self._fail(requests, Unavailable(str(late)))
        except FluxError as error:
            self._fail(requests, error)
        except Exception:
            self._fail(requests, Internal("recording the assignment failed"))
            raise
        else:
            self._servers.adopt(snapshot)
            self._answer(batch, by)
        finally:
            self._unanswered -= batch.per_server

    def _answer(self, batch: Batch, by: str) -> None:
        up = self._up()
        if not up.keys() >= batch.per_server.keys():
            # What recorded the choices says that a server has ended, or begun to drain, since it was chosen.
            batch, again = batch.divided(up)
            self._waiting.extendleft(reversed(again))
            if self._turn is None:
                self._turn = self._clock.callLater(0, self._serve)
        self._metrics.assigned(batch.per_server)
        if self.logs_each:
            for assignment, loads in batch.chosen.values():
                self.log.info(
                    "user {uid} is assigned to {server} by {balancer}, loads {loads}; token issued until {expires}",
                    uid=assignment.uid, server=assignment.server, expires=assignment.expires, balancer=by, loads=loads,
                )  # fmt: skip
        for request, assignments in batch.requests:
            self._accounts -= len(request.uids)
            request.answer.callback(assignments)

    def _fail(self, requests: Sequence[Request], error: FluxError) -> None:
        for request in requests:
            self._metrics.failed(error.name, len(request.uids))
            self._accounts -= len(request.uids)
            # One each: an error that is raised in many places collects all their tracebacks.
            request.answer.errback(copy(error))
