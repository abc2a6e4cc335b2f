"""The client library against real chat nodes, through real sockets, some of which are cut."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_twisted
from chat_server import PASSWORD, ChatServer, RunningNode
from twisted.internet.defer import Deferred, gatherResults
from twisted.protocols.portforward import ProxyFactory

from flux.client import Client, ClientEvent, Ended, GroupChanged, Message, Offline, Online, Presence, ReadUpTo, Typing
from flux.errors import Forbidden, NotFound, PasswordInvalid, TooLarge, UserExists, UserInvalid
from flux.lifecycle import within

T = TypeVar("T")

DEADLINE = 20.0


class User:
    """A client whose events are taken as they come."""

    def __init__(self, client: Client, reactor: Any) -> None:
        self.client = client
        self.events: list[ClientEvent] = []
        self._reactor = reactor
        self._wake: list[Deferred[None]] = []
        self.running = Deferred.fromCoroutine(self._take())

    @property
    def id(self) -> int:
        assert self.client.profile is not None
        return self.client.profile.id

    async def _take(self) -> None:
        async for event in self.client.events:
            self.events.append(event)
            wake, self._wake = self._wake, []
            for waiter in wake:
                # Once this loop has asked for the next event, and so acknowledged this one.
                self._reactor.callLater(0, waiter.callback, None)

    async def until(self, happened: Callable[[], T]) -> T:
        """What ``happened`` returns once it is true; looked at after each event."""
        while not (outcome := happened()):
            event: Deferred[None] = Deferred()
            self._wake.append(event)
            await within(DEADLINE, event, self._reactor, f"after {self.events[-3:]}, more")
        return outcome

    async def told(self, kind: type[T]) -> T:
        """The first event of a type, which is then forgotten."""

        def first() -> list[T]:
            return [event for event in self.events if isinstance(event, kind)][:1]

        [event] = await self.until(first)
        self.events.remove(event)  # type: ignore[arg-type]
        return event

    async def texts(self, count: int) -> list[str]:
        """The texts of all messages, once there are so many."""
        await self.until(lambda: sum(isinstance(event, Message) for event in self.events) >= count)
        return [event.text for event in self.events if isinstance(event, Message)]


class Wire:
    """A way to a node that can be cut."""

    def __init__(self, reactor: Any, running: RunningNode) -> None:
        self.cuts = 0
        self._links: list[Any] = []
        factory = ProxyFactory("127.0.0.1", running.port)
        factory.noisy = False
        build = factory.buildProtocol

        def remember(address: Any) -> Any:
            protocol = build(address)
            self._links.append(protocol)
            return protocol

        factory.buildProtocol = remember
        self.listening = reactor.listenTCP(0, factory, interface="127.0.0.1")

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.listening.getHost().port

    def cut(self) -> None:
        """Reset every connection."""
        self.cuts += 1
        links, self._links = self._links, []
        for link in links:
            if link.transport is not None:
                link.transport.abortConnection()


class World:
    """A server, users, wires."""

    def __init__(self, server: ChatServer) -> None:
        self.server = server
        self.users: list[User] = []
        self.wires: list[Wire] = []

    def wire(self) -> Wire:
        self.wires.append(Wire(self.server.reactor, self.server.nodes[0]))
        return self.wires[-1]

    def new_client(self, address: tuple[str, int] | None = None) -> Client:
        return Client(self.server.reactor, [address or ("127.0.0.1", self.server.nodes[0].port)])

    async def log_in(self, name: str, address: tuple[str, int] | None = None) -> User:
        client = self.new_client(address)
        await client.login(name, password=PASSWORD)
        user = User(client, self.server.reactor)
        self.users.append(user)
        await user.told(Online)
        return user

    async def people(self, *names: str) -> list[User]:
        await self.server.register(*names)
        return [await self.log_in(name) for name in names]

    async def end(self) -> None:
        for user in self.users:
            await user.client.close()
            await user.running
        for wire in self.wires:
            await wire.listening.stopListening()
            wire.cut()

        async def all_gone() -> bool:
            return not any(running.node.sessions for running in self.server.nodes)

        await self.server.eventually(all_gone)


@pytest_twisted.async_yield_fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(await ChatServer(tmp_path).start())
    yield world
    await world.end()
    await world.server.stop()


@pytest_twisted.ensureDeferred
async def test_register_and_log_in(world: World) -> None:
    client = world.new_client()
    registered = await client.register("ann", PASSWORD, nick="Annie")
    with pytest.raises(UserExists):
        await client.register("ANN", PASSWORD)
    with pytest.raises(PasswordInvalid):
        await client.register("bob", "short")
    with pytest.raises(PasswordInvalid):
        await client.login("ann", password="wrong password")
    user = await world.log_in("ann")
    assert user.id == registered.id
    assert user.client.profile is not None
    assert user.client.profile.nick == "Annie"


@pytest_twisted.ensureDeferred
async def test_log_in_by_token(world: World) -> None:
    [uid] = await world.server.register("ann")
    client = world.new_client()
    login = await client.login(uid, token=await world.server.token(uid))
    assert login.name == "ann"
    await client.close()


@pytest_twisted.ensureDeferred
async def test_every_request_has_its_answer(world: World) -> None:
    ann, bob = await world.people("ann", "bob")
    a, b = ann.client, bob.client

    assert (await a.friend_add(bob.id, "hello", "Bobby")).status == "pending"
    assert [request.note for request in (await b.friend_requests()).friend_requests] == ["hello"]
    assert (await b.friend_answer(ann.id, True)).status == "accepted"
    assert [(friend.name, friend.remark) for friend in (await a.friends()).friends] == [("bob", "Bobby")]
    assert (await ann.told(Presence)).id == bob.id

    group = (await a.group_create("readers", "we read", history="open")).group
    assert (await b.group_join(group)).group == group
    assert (await ann.told(GroupChanged)).change == "join"
    assert (await a.group_role(group, bob.id, "admin")).id == bob.id
    members = (await a.group_members(group)).members
    assert [(member.name, member.role) for member in members] == [("ann", "owner"), ("bob", "admin")]
    assert [listed.name for listed in (await b.groups()).groups] == ["readers"]
    await a.group_remove(group, bob.id)
    await a.group_add(group, bob.id)
    assert (await b.group_leave(group)).group == group

    first = await a.send("one", to=bob.id)
    second = await a.send("two", to=bob.id)
    assert (first.seq, second.seq) == (1, 2)
    page = await b.history(to=ann.id, limit=1)
    assert ([message.text for message in page.messages], page.more) == (["two"], True)
    page = await b.history(chat=first.chat, before=2)
    assert [message.text for message in page.messages] == ["one"]
    page = await b.history(chat=first.chat, after=1)
    assert [message.text for message in page.messages] == ["two"]
    assert [(chat.name, chat.last.text) for chat in (await b.chats()).chats] == [("ann", "two")]

    await bob.texts(2)
    b.typing(to=ann.id)
    assert (await ann.told(Typing)).sender == bob.id
    b.read(first.chat, 2)
    await ann.told(ReadUpTo)

    assert [user.name for user in (await a.user_search("bo", limit=5)).users] == ["bob"]
    assert (await b.profile_set(nick="Robert", icon="cat")).icon == "cat"
    assert (await a.profile_get(bob.id)).nick == "Robert"
    assert (await a.profile_get()).name == "ann"
    assert [told.type for told in (await a.help("send")).requests] == ["send"]
    assert (await a.ping()).at > 0

    await b.user_block(ann.id)
    with pytest.raises(Forbidden):
        await a.send("three", to=bob.id)
    await b.user_unblock(ann.id)
    assert (await a.send("three", to=bob.id)).seq == 3
    await a.friend_remove(bob.id)
    assert (await b.friends()).friends == []

    with pytest.raises(UserInvalid):
        await a.send("x", to=999)
    with pytest.raises(NotFound):
        await a.group_join(999)
    with pytest.raises(TooLarge):
        await a.send("x" * 8001, to=bob.id)


@pytest_twisted.ensureDeferred
async def test_what_was_taken_is_acknowledged(world: World) -> None:
    ann, bob = await world.people("ann", "bob")
    receipts = await gatherResults([ann.client.send(f"m{n}", to=bob.id) for n in range(3)])
    assert await bob.texts(3) == ["m0", "m1", "m2"]
    chat = receipts[-1].chat
    bob.client.read(chat, 2)
    await bob.client.close()

    async def moved() -> bool:
        await world.server.advance(1)
        return (await world.server.cursors(bob.id))[chat] == (3, 2)

    await world.server.eventually(moved)


@pytest_twisted.ensureDeferred
async def test_changing_the_password(world: World) -> None:
    [ann] = await world.people("ann")
    await ann.client.password_change(PASSWORD, "battery staple")
    other = world.new_client()
    with pytest.raises(PasswordInvalid):
        await other.login("ann", password=PASSWORD)
    await other.login("ann", password="battery staple")
    assert (await ann.told(Ended)).reason == "takeover"
    await other.close()


@pytest_twisted.ensureDeferred
async def test_a_takeover_is_not_fought(world: World) -> None:
    [first] = await world.people("ann")
    second = await world.log_in("ann")
    ended = await first.told(Ended)
    assert (ended.reason, ended.detail) == ("takeover", "this account has logged in somewhere else")
    await first.running
    await second.client.ping()
    assert [event for event in second.events if isinstance(event, Offline)] == []


@pytest_twisted.ensureDeferred
async def test_nothing_is_lost_doubled_or_reordered_while_links_are_cut(world: World) -> None:
    await world.server.register("ann", "bob")
    wires = world.wire(), world.wire()
    ann = await world.log_in("ann", wires[0].address)
    bob = await world.log_in("bob", wires[1].address)
    count = 150
    there = [ann.client.send(f"a{n}", to=bob.id) for n in range(count)]
    back = [bob.client.send(f"b{n}", to=ann.id) for n in range(count)]
    for number in range(20, count, 20):
        await bob.texts(number)
        wires[number // 20 % 2].cut()
    receipts = await gatherResults(there + back)
    assert await bob.texts(count) == [f"a{n}" for n in range(count)]
    assert await ann.texts(count) == [f"b{n}" for n in range(count)]
    assert sorted(receipt.seq for receipt in receipts) == list(range(1, 2 * count + 1))
    assert sum(wire.cuts for wire in wires) == 7


@pytest_twisted.ensureDeferred
async def test_moved_to_another_node(world: World) -> None:
    ann, bob = await world.people("ann", "bob")
    old = world.server.nodes[0]
    new = await world.server.start_node()
    old.placement.target = new
    stopping = Deferred.fromCoroutine(world.server.stop_node(old))
    sent = [ann.client.send(f"m{n}", to=bob.id) for n in range(20)]
    for user in (ann, bob):
        online = await user.told(Online)
        assert online.port == new.port
    receipts = await gatherResults(sent)
    assert [receipt.seq for receipt in receipts] == list(range(1, 21))
    assert await bob.texts(20) == [f"m{n}" for n in range(20)]
    await world.server.advance(world.server.settings.chat.drain + 1)
    await stopping
    assert (await ann.client.ping()).at > 0
