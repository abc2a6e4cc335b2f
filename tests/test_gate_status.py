"""The gate's client of status services: real sockets, and a clock that stands still."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from status_parts import lease, settings
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock, deferLater
from twisted.logger import capturedLogs, formatEvent
from twisted.protocols.basic import LineOnlyReceiver
from zope.interface.verify import verifyObject

from flux.addresses import HostPort
from flux.backends.memory import MemoryState
from flux.errors import FluxError, NoServer, Unavailable
from flux.gate import status_client
from flux.gate.status_client import (
    CONNECT_WITHIN,
    DEADLINE,
    LONGEST_PAUSE,
    PING_EVERY,
    WANTED_PAUSE,
    StatusClient,
)
from flux.gate.status_connection import ANSWER_WITHIN, Lost
from flux.interfaces import IPlacement
from flux.model.placement import Assignment
from flux.status.protocol import StatusFactory
from flux.status.service import StatusService
from flux.tokens import matches

KEY = "a key of sixteen characters"


class Line(LineOnlyReceiver):
    delimiter = b"\n"

    def connectionMade(self) -> None:
        self.factory.lines.append(self)

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.lines.remove(self)

    def lineReceived(self, line: bytes) -> None:
        request = json.loads(line)
        self.factory.requests.append(request)
        self.factory.behaviour(self, request)

    def say(self, request: dict[str, Any], **fields: Any) -> None:
        self.sendLine(json.dumps({"type": f"{request['type']}.ok", "ref": request["ref"], **fields}).encode())

    def refuse(self, request: dict[str, Any], name: str) -> None:
        error = {"type": "error", "ref": request["ref"], "code": 1, "name": name, "detail": "so it is"}
        self.sendLine(json.dumps(error).encode())


class Service(Factory):
    """A status service that does as it is told.

    :ivar behaviour: what becomes of a request.
    """

    noisy = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.protocol = Line
        self.lines: list[Line] = []
        self.requests: list[dict[str, Any]] = []
        self.behaviour: Callable[[Line, dict[str, Any]], None] = self.answer
        self.port: Any = None

    def listen(self, port: int = 0) -> Service:
        from twisted.internet import reactor

        self.port = reactor.listenTCP(port, self, interface="127.0.0.1")
        return self

    async def stop_listening(self) -> None:
        port, self.port = self.port, None
        if port is not None:
            await port.stopListening()

    @property
    def address(self) -> HostPort:
        return HostPort("127.0.0.1", self.port.getHost().port)

    def asked(self) -> list[list[int]]:
        """The accounts of each request for servers."""
        return [request["uids"] for request in self.requests if request["type"] == "get_chat_server"]

    def answer(self, line: Line, request: dict[str, Any]) -> None:
        if request["type"] != "get_chat_server":
            line.say(request, at=1)
            return
        given = [
            {"uid": uid, "host": self.name, "port": 1, "server": "chat1", "token": f"t{uid}", "expires": 5}
            for uid in request["uids"]
        ]
        line.say(request, assignments=given)

    def silent(self, line: Line, request: dict[str, Any]) -> None:
        pass

    def refusing(self, name: str) -> Callable[[Line, dict[str, Any]], None]:
        return lambda line, request: line.refuse(request, name)

    def saying(self, words: bytes) -> Callable[[Line, dict[str, Any]], None]:
        return lambda line, request: line.sendLine(words)

    def leaving(self, line: Line, request: dict[str, Any]) -> None:
        line.transport.abortConnection()

    def cut(self) -> None:
        for line in list(self.lines):
            line.transport.abortConnection()


class HangsUp(Line):
    count = 0

    def connectionMade(self) -> None:
        super().connectionMade()
        HangsUp.count += 1
        self.transport.loseConnection()


class Lab:
    """Services, and a client of them on a clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.one = Service("one").listen()
        self.two = Service("two").listen()
        self.client: Any = None

    async def start(self, *services: Service, key: str = "", connected: bool = True) -> StatusClient:
        from twisted.internet import reactor

        used = services or (self.one, self.two)
        self.client = StatusClient(
            self.clock,
            [service.address for service in used],
            key,
            endpoint=lambda host, port: TCP4ClientEndpoint(reactor, host, port),
            rng=random.Random(1),
        )
        await self.client.start()
        if connected:
            await until(lambda: all(each.connection for each in self.client._services))
        return self.client

    def ask(self, *uids: int) -> Deferred[list[Assignment]]:
        return Deferred.fromCoroutine(self.client.assign(uids))

    async def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            self.clock.advance(0.1)
            await turns()

    async def stop(self) -> None:
        if self.client is not None:
            await self.client.stop()
        for service in (self.one, self.two):
            await service.stop_listening()
            service.cut()
            await until(lambda service=service: not service.lines)
        assert self.clock.getDelayedCalls() == []


async def turns(count: int = 3) -> None:
    from twisted.internet import reactor

    for _ in range(count):
        await deferLater(reactor, 0)


async def until(happened: Callable[[], Any]) -> None:
    from twisted.internet import reactor

    ends = reactor.seconds() + 10
    while not happened():
        assert reactor.seconds() < ends, "it did not happen"
        await deferLater(reactor, 0.001)


@pytest_twisted.async_yield_fixture
async def lab():
    lab = Lab()
    yield lab
    await lab.stop()


async def test_an_assignment(lab: Lab) -> None:
    client = await lab.start(lab.one)
    verifyObject(IPlacement, client)
    assert await lab.ask(7, 8) == [Assignment(uid, "one", 1, "chat1", f"t{uid}", 5) for uid in (7, 8)]
    assert lab.one.asked() == [[7, 8]]


async def test_whoever_leaves_a_server_is_not_given_it_again(lab: Lab) -> None:
    await lab.start(lab.one)
    await lab.client.assign([7], "chat3")
    [request] = lab.one.requests
    assert request["leaving"] == "chat3"
    await lab.client.assign([7])
    assert "leaving" not in lab.one.requests[1]


async def test_a_real_status_service_with_a_key() -> None:
    from twisted.internet import reactor

    state = MemoryState(reactor.seconds)
    await state.renew(lease("chat1"), [])
    given = settings(status={"cluster_key": KEY})
    service = StatusService(given, state, reactor, random.Random(1))
    await service.start()
    factory = StatusFactory(service, given, reactor)
    listening = reactor.listenTCP(0, factory, interface="127.0.0.1")
    address = HostPort("127.0.0.1", listening.getHost().port)
    client = StatusClient(reactor, [address], KEY)
    await client.start()
    try:
        uids = list(range(1, 2501))
        assignments = await client.assign(uids)
        assert [each.uid for each in assignments] == uids
        assert matches(assignments[-1].token, await state.token_digest(2500))
        await state.renew(lease("chat2"), [])
        await service.placement.refresh()
        assert {each.server for each in await client.assign([1, 2, 3, 4], "chat1")} == {"chat2"}
        await state.drain("chat2", True)
        await client.check(address)
        with pytest.raises(FluxError, match="wrong cluster key"):
            await StatusClient(reactor, [], KEY + "x").check(address)
        await service.drain("chat1", True)
        with pytest.raises(NoServer):
            await client.assign([1])
    finally:
        await client.stop()
        await listening.stopListening()
        await service.stop()
        await factory.stop()
        await until(lambda: not factory.connections)


async def test_requests_are_pipelined_and_spread(lab: Lab) -> None:
    await lab.start()
    lab.one.behaviour = lab.two.behaviour = lab.one.silent
    asking = [lab.ask(uid) for uid in range(1, 101)]
    await until(lambda: len(lab.one.asked()) + len(lab.two.asked()) == 100)
    # As many to one as to the other, though none has been answered.
    assert len(lab.one.asked()) == len(lab.two.asked()) == 50
    assert len(lab.one.lines) == len(lab.two.lines) == 1
    for service in (lab.one, lab.two):
        for request in list(service.requests):
            service.answer(service.lines[0], request)
    assert [(await each)[0].uid for each in asking] == list(range(1, 101))


async def test_who_waits_at_a_service_that_breaks_is_served_by_another(lab: Lab) -> None:
    await lab.start()
    lab.one.behaviour = lab.two.behaviour = lab.one.silent
    asking = [lab.ask(uid) for uid in range(1, 11)]
    await until(lambda: len(lab.one.asked()) + len(lab.two.asked()) == 10)
    lab.two.behaviour = lab.two.answer
    lab.one.cut()
    await until(lambda: len(lab.two.asked()) == 10)
    for request in [request for request in lab.two.requests if request["type"] == "get_chat_server"][:5]:
        lab.two.answer(lab.two.lines[0], request)
    assert {(await each)[0].host for each in asking} == {"two"}


async def test_a_service_that_does_not_answer_is_cut_and_another_asked(lab: Lab) -> None:
    await lab.start()
    lab.one.behaviour = lab.one.silent
    asking = [lab.ask(uid) for uid in range(1, 5)]
    await until(lambda: len(lab.one.asked()) == len(lab.two.asked()) == 2)
    await lab.pass_time(ANSWER_WITHIN - 0.2)
    assert [each.called for each in asking].count(False) == 2
    await lab.pass_time(0.3)
    assert {(await each)[0].host for each in asking} == {"two"}


@pytest.mark.parametrize(
    "words", [b"hello", b"[]", b'{"type":"what.ok"}', b'{"type":"get_chat_server.ok","ref":2,"assignments":[]}',
              b'{"type":"error","code":1103,"name":"line_too_long","detail":"x"}', b"x" * 1_100_000]
)  # fmt: skip
async def test_a_service_that_makes_no_sense_is_cut_and_another_asked(lab: Lab, words: bytes) -> None:
    await lab.start()
    lab.one.behaviour = lab.one.saying(words)
    asking = [lab.ask(uid) for uid in range(1, 5)]
    assert {(await each)[0].host for each in asking} == {"two"}
    assert lab.one.asked()


async def test_a_service_whose_backend_is_away(lab: Lab) -> None:
    await lab.start()
    lab.one.behaviour = lab.one.refusing("unavailable")
    asking = [lab.ask(uid) for uid in range(1, 5)]
    assert {(await each)[0].host for each in asking} == {"two"}
    lab.two.behaviour = lab.two.refusing("unavailable")
    with pytest.raises(Unavailable, match="so it is"):
        await lab.ask(7)
    # Nobody was cut for that.
    assert len(lab.one.lines) == len(lab.two.lines) == 1


@pytest.mark.parametrize(("name", "error"), [("no_server", NoServer), ("brand_new", Unavailable)])
async def test_what_the_service_says_is_the_answer(lab: Lab, name: str, error: type[FluxError]) -> None:
    await lab.start(lab.one)
    lab.one.behaviour = lab.one.refusing(name)
    with pytest.raises(error):
        await lab.ask(7)


async def test_a_broken_connection_comes_back(lab: Lab) -> None:
    await lab.start(lab.one)
    for _ in range(3):
        lab.one.cut()
        await until(lambda: not lab.client._services[0].connection)
        asking = lab.ask(7)
        await lab.pass_time(LONGEST_PAUSE)
        assert (await asking)[0].host == "one"


async def test_a_service_that_was_away_is_found_again(lab: Lab) -> None:
    await lab.start(lab.one)
    port = lab.one.address.port
    await lab.one.stop_listening()
    lab.one.cut()
    await until(lambda: not lab.client._services[0].connection)
    # Pauses grow, and not beyond what is bearable.
    await lab.pass_time(60)
    lab.one.listen(port)
    asking = lab.ask(7)
    await lab.pass_time(LONGEST_PAUSE)
    assert (await asking)[0].host == "one"


async def test_a_service_that_hangs_up_at_once_is_not_pestered(lab: Lab) -> None:
    lab.one.protocol = HangsUp
    await lab.start(lab.one, connected=False)
    await lab.pass_time(20)
    assert 4 <= HangsUp.count <= 15


async def test_nobody_there(lab: Lab) -> None:
    gone = lab.one.address
    await lab.one.stop_listening()
    lab.client = StatusClient(lab.clock, [gone], endpoint=_endpoint, rng=random.Random(1))
    await lab.client.start()
    with capturedLogs() as logged:
        asking = lab.ask(7)
        await lab.pass_time(DEADLINE - 0.1)
        assert not asking.called
        await lab.pass_time(0.2)
        with pytest.raises(Unavailable, match="no status service answers"):
            await asking
    # The log says why, once; the client is not told who was asked.
    told = [formatEvent(event) for event in logged]
    assert sum(f"status service {gone}: Connection was refused" in text for text in told) == 1
    assert sum(text.startswith("no status service answers") for text in told) == 1


async def test_where_nobody_has_been_for_long_who_comes_waits_for_one_more_attempt(lab: Lab) -> None:
    await lab.start(lab.one, lab.two)
    ports = [service.address.port for service in (lab.one, lab.two)]
    for service in (lab.one, lab.two):
        await service.stop_listening()
        service.cut()
    await until(lambda: not any(each.connection for each in lab.client._services))
    await lab.pass_time(DEADLINE + LONGEST_PAUSE + 0.1)
    began = lab.clock.seconds()
    asking = lab.ask(7)
    assert not asking.called
    await lab.pass_time(WANTED_PAUSE)
    await until(lambda: asking.called)
    with pytest.raises(Unavailable, match="no status service answers"):
        await asking
    assert lab.clock.seconds() - began < 2 * WANTED_PAUSE
    # That attempt finds one that has just come back.
    lab.two.listen(ports[1])
    asking = lab.ask(7)
    await lab.pass_time(WANTED_PAUSE)
    await until(lambda: asking.called)
    assert (await asking)[0].host == "two"


async def test_a_sign_of_life_of_one_is_enough(lab: Lab) -> None:
    client = await lab.start(lab.one, lab.two)
    lab.one.behaviour = lab.one.silent
    await client.answers()
    lab.two.behaviour = lab.two.refusing("internal")
    await client.answers()
    lab.two.behaviour = lab.two.silent
    asking = Deferred.fromCoroutine(client.answers())
    await lab.pass_time(ANSWER_WITHIN - 0.1)
    assert not asking.called
    await lab.pass_time(0.2)
    with pytest.raises(Unavailable) as caught:
        await asking
    assert caught.value.detail == "no status service answers; try again later"
    for service in (lab.one, lab.two):
        await service.stop_listening()
        service.cut()
    await until(lambda: not any(each.connection for each in client._services))
    with pytest.raises(Unavailable) as caught:
        await client.answers()
    assert all(f"127.0.0.1:{each.address.port}: " in caught.value.reason for each in client._services)


def _endpoint(host: str, port: int) -> TCP4ClientEndpoint:
    from twisted.internet import reactor

    return TCP4ClientEndpoint(reactor, host, port)


async def test_the_key_comes_first(lab: Lab) -> None:
    await lab.start(lab.one, key=KEY)
    assert lab.one.requests == [{"type": "auth", "ref": 1, "key": KEY}]
    assert (await lab.ask(7))[0].uid == 7


async def test_a_wrong_key_is_told_to_the_admin_and_tried_again(lab: Lab) -> None:
    lab.one.behaviour = lab.one.refusing("forbidden")
    with capturedLogs() as logged:
        await lab.start(lab.one, key=KEY, connected=False)
        asking = lab.ask(7)
        await lab.pass_time(DEADLINE + 0.1)
        with pytest.raises(Unavailable):
            await asking
    assert any("forbidden: so it is" in formatEvent(event) for event in logged)
    assert KEY not in str(logged)
    lab.one.behaviour = lab.one.answer
    await lab.pass_time(LONGEST_PAUSE)
    assert (await lab.ask(7))[0].uid == 7


async def test_a_service_that_takes_the_connection_and_says_nothing(lab: Lab) -> None:
    lab.one.behaviour = lab.one.silent
    await lab.start(lab.one, lab.two, key=KEY, connected=False)
    await until(lambda: lab.client._services[1].connection)
    assert (await lab.ask(7))[0].host == "two"
    await lab.pass_time(CONNECT_WITHIN + ANSWER_WITHIN)
    assert lab.client._services[0].problem.startswith("the status service: nothing after")


async def test_an_idle_connection_is_looked_after(lab: Lab) -> None:
    await lab.start(lab.one)
    await lab.pass_time(PING_EVERY + 0.2)
    assert [request["type"] for request in lab.one.requests] == ["ping"]
    lab.one.behaviour = lab.one.silent
    [line] = lab.one.lines
    await lab.pass_time(PING_EVERY + ANSWER_WITHIN + 0.5)
    await until(lambda: line not in lab.one.lines)


async def test_no_more_wait_than_may(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_client, "MOST_WAITING", 5)
    await lab.start(lab.one)
    lab.one.behaviour = lab.one.silent
    asking = lab.ask(1, 2, 3)
    with pytest.raises(Unavailable, match="too many"):
        await lab.ask(4, 5, 6)
    await until(lambda: lab.one.asked())
    lab.one.answer(lab.one.lines[0], lab.one.requests[0])
    assert len(await asking) == 3
    lab.one.behaviour = lab.one.answer
    assert len(await lab.ask(4, 5, 6)) == 3


async def test_a_stop_answers_those_who_wait(lab: Lab) -> None:
    await lab.start(lab.one)
    lab.one.behaviour = lab.one.silent
    asking = lab.ask(7)
    await until(lambda: lab.one.asked())
    await lab.client.stop()
    with pytest.raises(Unavailable):
        await asking
    with pytest.raises(Unavailable):
        await lab.ask(8)


async def test_whoever_gives_up_leaves_nothing(lab: Lab) -> None:
    await lab.start(lab.one)
    lab.one.behaviour = lab.one.silent
    asking = lab.ask(7)
    await until(lambda: lab.one.asked())
    asking.cancel()
    asking.addErrback(lambda failure: None)
    assert lab.client._accounts == 0
    # A late answer finds nobody, and harms nobody.
    lab.one.answer(lab.one.lines[0], lab.one.requests[0])
    lab.one.behaviour = lab.one.answer
    assert (await lab.ask(8))[0].uid == 8


async def test_checking_an_address_where_nobody_is(lab: Lab) -> None:
    gone = lab.one.address
    await lab.one.stop_listening()
    with pytest.raises(Lost, match="refused"):
        await StatusClient(lab.clock, [], endpoint=_endpoint).check(gone)
