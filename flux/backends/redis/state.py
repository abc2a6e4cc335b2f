"""The shared state in Redis: every method is one script or one command, so every method is atomic.

Where it is about many accounts it is one script for each part of them.

::

    claim, release, token_digest ── Gather ──┐
    renew, routes, reserved ── parts ────────┼── Link ── one connection ── Redis
    assign, snapshot, ... ───────────────────┘

Time is Redis' own in everything that lapses, so the clocks of the machines do not matter.
The table of keys is in ``docs/operations.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import cast

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from flux.backends.redis import scripts
from flux.backends.redis.connection import Refused
from flux.backends.redis.gather import Gather
from flux.backends.redis.link import Link
from flux.backends.redis.scripts import PART, Script, run
from flux.errors import Unavailable, in_words
from flux.interfaces import IState
from flux.lifecycle import together
from flux.model.people import CodeCheck
from flux.model.placement import Choice, Lease, Node, Renewal, Snapshot, leased_state
from flux.model.sessions import Claim, Route

MOST_COUNTERS = 100_000
"""Failure counters kept at once. One more drops the one that would lapse first."""


MOST_BANS = 10_000
"""Banned addresses kept at once; every process reads them every few seconds. One more drops the first to lapse."""


class _About(msgspec.Struct, frozen=True):
    """What a lease says, as it is stored."""

    host: str
    port: int
    sessions: int
    capacity: int
    weight: int
    websocket: str = ""
    tls: bool = False
    why: str = ""


_strings = msgspec.msgpack.Decoder(list[str]).decode
_renewal = msgspec.msgpack.Decoder(tuple[bool, bool, list[str], list[str], list[str], list[str], bool]).decode
_snapshot = msgspec.msgpack.Decoder(tuple[float, list[tuple[str, str]], list[tuple[str, int]], list[str], str]).decode
_counts = msgspec.msgpack.Decoder(list[tuple[int, float]]).decode
_lapsing = msgspec.msgpack.Decoder(list[tuple[str, float]]).decode
_about = msgspec.json.Decoder(_About).decode


@implementer(IState)
class RedisState:
    """Shared state in Redis.

    :param prefix: what all keys begin with.
    """

    log = Logger()

    def __init__(self, link: Link, prefix: str, clock: IReactorTime) -> None:
        self._link = link
        self._prefix = prefix
        self._started = False
        self._sessions: Gather[tuple[str | bool, ...], str] = Gather(self._ask_sessions, "the shared state", clock)

    async def start(self) -> None:
        """Connect, and look whether Redis is as it should be.

        :raises flux.errors.Unavailable: a sentence that names the setting.
        """
        await self._link.start()
        try:
            await self.check_rights()
        except BaseException:
            await self._link.stop()
            raise
        self._started = True
        warning = self.policy_warning()
        if warning:
            self.log.warn("{warning}", warning=warning)

    async def stop(self) -> None:
        """Disconnect."""
        await self._sessions.stop()
        if self._started:
            self._started = False
            await self._link.stop()

    def policy_warning(self) -> str:
        """What is wrong with what Redis does when it is full; empty where nothing is."""
        policy = self._link.server.policy
        if not policy:
            return (
                "Redis does not tell its maxmemory-policy to this user (no right to INFO): make sure it is noeviction, "
                "or leases and routes may vanish when it is full"
            )
        if policy != "noeviction":
            return (
                f"Redis has maxmemory-policy {policy}: when it is full it drops leases and routes; set it to noeviction"
            )
        return ""

    async def check_rights(self) -> None:
        """Whether our user may run scripts that read and write our keys.

        :raises flux.errors.Unavailable: it may not.
        """
        try:
            await self._run(scripts.CHECK, ())
        except Refused as refused:
            rights = f"~{self._prefix}* and +@all -@admin -@dangerous"
            raise Unavailable(f"state.url: {in_words(refused)}; it needs {rights}") from None

    # servers

    async def renew(self, lease: Lease, routes: Sequence[tuple[int, int]]) -> Renewal:
        """See :meth:`IState.renew`. Many routes are renewed in parts, the first of which sets the lease."""
        about = _About(
            lease.host, lease.port, lease.sessions, lease.capacity, lease.weight, lease.websocket, lease.tls, lease.why
        )
        says = msgspec.json.encode(about).decode()
        parts = []
        for start in range(0, max(1, len(routes)), PART):
            part = routes[start : start + PART]
            parts.append(
                self._run(
                    scripts.RENEW,
                    (
                        lease.name,
                        str(lease.boot),
                        _milliseconds(lease.ttl),
                        says if start == 0 else "",
                        [str(uid) for uid, _ in part],
                        [str(number) for _, number in part],
                    ),
                )
            )
        answers = [_renewal(answer) for answer in await together(parts)]
        here = answers[0][3]
        named = dict(routes) if here else {}
        recorded = ((int(uid), int(number)) for uid, number in zip(here[::2], here[1::2], strict=True))
        return Renewal(
            lost=tuple(int(uid) for answer in answers for uid in answer[2]),
            draining=answers[0][1],
            superseded=any(answer[0] for answer in answers),
            strays=tuple((uid, number) for uid, number in recorded if named.get(uid) != number),
            # Where Redis had been emptied nobody was told anything: of that the first part knows.
            restored=tuple(int(uid) for answer in answers for uid in answer[4]) if answers[0][6] else (),
            departed=tuple(int(uid) for uid in answers[0][5]),
        )

    async def retire(self, name: str, boot: int) -> None:
        """See :meth:`IState.retire`."""
        await self._run(scripts.RETIRE, (name, str(boot)))

    async def drain(self, name: str, draining: bool) -> None:
        """See :meth:`IState.drain`."""
        await self._link.command("SADD" if draining else "SREM", f"{self._prefix}draining", name)

    async def snapshot(self) -> Snapshot:
        """See :meth:`IState.snapshot`."""
        return await self.assign((), 0, 0)

    async def assign(self, choices: Sequence[Choice], hold: float, token_ttl: float) -> Snapshot:
        """See :meth:`IState.assign`."""
        answer = await self._run(
            scripts.ASSIGN,
            (
                _milliseconds(hold),
                _milliseconds(token_ttl),
                [str(choice.uid) for choice in choices],
                [choice.server for choice in choices],
                [choice.token_digest.hex() for choice in choices],
            ),
        )
        now, leases, reservations, draining, since = _snapshot(answer)
        reserved = dict(reservations)
        nodes = []
        for name, says in leases:
            renewed, _, about = says.partition(" ")
            lease = _about(about)
            nodes.append(
                Node(
                    name=name,
                    host=lease.host,
                    port=lease.port,
                    sessions=lease.sessions,
                    reserved=reserved.get(name, 0),
                    capacity=lease.capacity,
                    weight=lease.weight,
                    state=leased_state(name in draining, lease.why),
                    heartbeat_age=(now - int(renewed)) / 1000,
                    websocket=lease.websocket,
                    tls=lease.tls,
                    why=lease.why,
                )
            )
        return Snapshot(nodes=tuple(nodes), reserved=reserved, draining=frozenset(draining), since=since)

    async def reserved(self, uids: Sequence[int]) -> dict[int, str]:
        """See :meth:`IState.reserved`."""
        return dict(await self._look_up(scripts.RESERVED, uids))

    # sessions

    async def claim(self, uid: int, route: Route, takeover: bool) -> Claim:
        """See :meth:`IState.claim`."""
        won, _, previous = (await self._sessions(("claim", str(uid), _stored(route), takeover))).partition(" ")
        return Claim(won=won == "1", previous=_route(previous) if previous else None)

    async def release(self, uid: int, route: Route) -> None:
        """See :meth:`IState.release`."""
        await self._sessions(("release", str(uid), _stored(route)))

    async def routes(self, uids: Sequence[int]) -> dict[int, Route]:
        """See :meth:`IState.routes`."""
        return {uid: _route(route) for uid, route in await self._look_up(scripts.ROUTES, uids)}

    # tokens and counters

    async def token_digest(self, uid: int) -> bytes | None:
        """See :meth:`IState.token_digest`."""
        digest = await self._sessions(("token", str(uid)))
        return bytes.fromhex(digest) if digest else None

    async def revoke(self, uid: int) -> None:
        """See :meth:`IState.revoke`."""
        await self._link.command("DEL", f"{self._prefix}token:{uid}")

    async def fail(self, keys: Sequence[str], window: float) -> None:
        """See :meth:`IState.fail`. At most :data:`MOST_COUNTERS` are kept."""
        await self._run(scripts.FAIL, (_milliseconds(window), MOST_COUNTERS, [_hidden(key) for key in keys]))

    async def failures(self, keys: Sequence[str]) -> list[tuple[int, float]]:
        """See :meth:`IState.failures`."""
        counted = _counts(await self._run(scripts.FAILURES, [_hidden(key) for key in keys]))
        return [(count, left / 1000) for count, left in counted]

    # bans of network addresses

    async def offend(self, offences: Mapping[str, int], most: int, window: float, ban: float) -> tuple[str, ...]:
        """See :meth:`IState.offend`. At most :data:`MOST_BANS` are kept."""
        answer = await self._run(
            scripts.OFFEND,
            (
                most,
                _milliseconds(window),
                _milliseconds(ban),
                MOST_COUNTERS,
                MOST_BANS,
                list(offences),
                [_hidden(_offences(address)) for address in offences],
                list(offences.values()),
            ),
        )
        return tuple(_strings(answer))

    async def banned(self) -> dict[str, float]:
        """See :meth:`IState.banned`."""
        return {address: left / 1000 for address, left in _lapsing(await self._run(scripts.BANNED, ()))}

    async def pardon(self, address: str) -> bool:
        """See :meth:`IState.pardon`."""
        return bool(await self._run(scripts.PARDON, (address, _hidden(_offences(address)))))

    # verification codes

    async def set_code(self, key: str, digest: bytes, ttl: float) -> None:
        """See :meth:`IState.set_code`."""
        code = f"0 {digest.hex()}"
        await self._link.command("SET", f"{self._prefix}code:{_hidden(key)}", code, "PX", _milliseconds(ttl))

    async def try_code(self, key: str, digest: bytes, tries: int) -> CodeCheck:
        """See :meth:`IState.try_code`."""
        answer = await self._run(scripts.TRY_CODE, (_hidden(key), digest.hex(), tries))
        return cast(CodeCheck, answer.decode())

    # inside

    async def _look_up(self, script: Script, uids: Sequence[int]) -> list[tuple[int, str]]:
        """What is found of many accounts, part by part, so that Redis serves others between."""
        found: list[tuple[int, str]] = []
        for start in range(0, len(uids), PART):
            answer = _strings(await self._run(script, [str(uid) for uid in uids[start : start + PART]]))
            found += zip(map(int, answer[::2]), answer[1::2], strict=True)
        return found

    async def _ask_sessions(self, questions: Sequence[tuple[str | bool, ...]]) -> list[str]:
        return _strings(await self._run(scripts.SESSIONS, questions))

    def _run(self, script: Script, arguments: object) -> Deferred[bytes]:
        return run(self._link, script, self._prefix, arguments)


def _offences(address: str) -> str:
    return f"offences@{address}"


def _stored(route: Route) -> str:
    return f"{route.number} {route.boot} {route.node}"


def _route(stored: str) -> Route:
    number, boot, node = stored.split(" ", 2)
    return Route(node, int(boot), int(number))


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _hidden(key: str) -> str:
    """A key of people's names, addresses and slips of the keyboard as a digest: short, and no help to who reads it."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
