"""The promises of ``IBus`` as tests that every implementation runs.

A test module subclasses :class:`BusContract` and gives four fixtures: ``bus``, a
started ``IBus``; ``other_bus``, another way onto the same bus, or the same object
where a process has only one; ``state``, the shared state that the bus belongs to,
started too; and ``settle``, ``await settle()``: returns when everything published
before has arrived or never will.
"""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from zope.interface import implementer
from zope.interface.verify import verifyObject

from flux.interfaces import IBus, IBusSink, IState
from flux.model.bus import Addressed, BusEvent, FriendsChanged, Hint, Kick, MembersChanged, Notify, Online
from flux.model.chats import MemberChange
from flux.model.events import Presence, ReadUpTo
from flux.model.messages import Message
from flux.model.placement import Lease
from flux.model.sessions import Route


@implementer(IBusSink)
class Recorder:
    """Keeps what arrives, ``"gap"`` among the events where one was told of."""

    def __init__(self) -> None:
        self.seen: list[BusEvent | str] = []

    def deliver(self, event: BusEvent) -> None:
        self.seen.append(event)

    def gap(self) -> None:
        self.seen.append("gap")

    @property
    def events(self) -> list[BusEvent]:
        return [event for event in self.seen if not isinstance(event, str)]


def kick(uid: int) -> Kick:
    return Kick(uid=uid, below=1, reason="takeover")


EVENTS: list[BusEvent] = [
    Hint(
        message=Message(chat=1, seq=2, sender=3, name="Zoë \u0007 \U0001f600", text='"\\\n', at=2**53 + 1, to=4),
        version=0,
        past="p",
        uids=(4,),
    ),
    Hint(
        message=Message(chat=9, seq=1, sender=3, name="a", text="b", at=1, group=9), version=7, past="", uids=(1, 2**62)
    ),
    Notify(notice=Presence(id=1, online=True), uids=(2,)),
    Notify(notice=ReadUpTo(chat=1, id=2, seq=3), uids=(2, 5)),
    MembersChanged(change=MemberChange(chat=1, id=2, change="role", version=3, head=4, role="admin")),
    MembersChanged(change=MemberChange(chat=1, id=2, change="leave", version=4, head=4)),
    FriendsChanged(one=1, other=2, friends=False),
    FriendsChanged(one=1, other=2, friends=True, uids=(2,)),
    Online(uids=(1, 2), online=False),
    Kick(uid=1, below=2, reason="admin"),
]

ADDRESSED = [event for event in EVENTS if isinstance(event, Addressed) and event.uids]


def note(*uids: int, about: int = 1) -> Notify:
    return Notify(notice=Presence(id=about, online=True), uids=uids)


async def place(state: IState, **nodes: list[int]) -> None:
    """Give accounts routes: at boot 1 of each node."""
    for node, uids in nodes.items():
        lease = Lease(name=node, boot=1, host="h", port=1, sessions=0, capacity=0, weight=1, ttl=600)
        await state.renew(lease, [(uid, 1) for uid in uids])


class BusContract:
    def test_it_provides_the_interface(self, bus) -> None:
        assert verifyObject(IBus, bus)

    @pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
    async def test_an_event_arrives_as_it_was(self, bus, other_bus, settle, event) -> None:
        sink = Recorder()
        await bus.listen("a", 1, sink)
        await other_bus.publish("a", 1, event)
        await settle()
        assert sink.events == [event]

    async def test_a_new_listener_is_told_of_a_gap_first(self, bus, other_bus, settle) -> None:
        sink = Recorder()
        await bus.listen("a", 1, sink)
        await settle()
        assert sink.seen == ["gap"]
        await other_bus.publish("a", 1, kick(1))
        await settle()
        assert sink.seen == ["gap", kick(1)]

    async def test_only_that_boot_of_that_node_gets_it(self, bus, other_bus, settle) -> None:
        sinks = {(node, boot): Recorder() for node in ("a", "b", "a:1") for boot in (1, 2, 12)}
        for (node, boot), sink in sinks.items():
            await bus.listen(node, boot, sink)
        await other_bus.publish("a", 1, kick(1))
        await other_bus.publish("a:1", 2, kick(2))
        await settle()
        got = {key: sink.events for key, sink in sinks.items() if sink.events}
        assert got == {("a", 1): [kick(1)], ("a:1", 2): [kick(2)]}

    async def test_publishing_to_nobody_is_no_error(self, bus, settle) -> None:
        await bus.publish("nobody", 1, kick(1))
        await bus.broadcast(kick(1))
        await settle()

    async def test_a_broadcast_reaches_every_other_node(self, bus, other_bus, settle) -> None:
        a, b = Recorder(), Recorder()
        await bus.listen("a", 1, a)
        await bus.listen("b", 1, b)
        await other_bus.broadcast(kick(1))
        await settle()
        assert (a.events, b.events) == ([kick(1)], [kick(1)])

    async def test_a_broadcast_reaches_whoever_makes_it_too(self, bus, settle) -> None:
        here = Recorder()
        await bus.listen("a", 1, here)
        await bus.broadcast(kick(1))
        await settle()
        assert here.events == [kick(1)]

    async def test_what_is_for_accounts_goes_where_they_are(self, bus, other_bus, state, settle) -> None:
        await place(state, a=[1, 2], b=[3, 2**62])
        # Another boot of b, and a node where nobody is.
        sinks = {key: Recorder() for key in (("a", 1), ("b", 1), ("b", 2), ("c", 1))}
        for (node, boot), sink in sinks.items():
            await bus.listen(node, boot, sink)
        assert await other_bus.multicast([note(2**62, 1, 4, 3, 2), note(4), note(), note(3, about=7)]) == 3
        await settle()
        got = {key: sink.events for key, sink in sinks.items() if sink.events}
        assert got == {("a", 1): [note(1, 2)], ("b", 1): [note(2**62, 3), note(3, about=7)]}

    @pytest.mark.parametrize("event", ADDRESSED, ids=lambda e: type(e).__name__)
    async def test_what_is_for_accounts_arrives_as_it_was(self, bus, other_bus, state, settle, event) -> None:
        await place(state, a=list(event.uids))
        sink = Recorder()
        await bus.listen("a", 1, sink)
        assert await other_bus.multicast([event]) == 1
        await settle()
        assert sink.events == [event]

    async def test_who_says_it_need_not_be_told(self, bus, state, settle) -> None:
        await place(state, a=[1], b=[2])
        sinks = [Recorder(), Recorder()]
        for node, sink in zip("ab", sinks, strict=True):
            await bus.listen(node, 1, sink)
        assert await bus.multicast([note(1, 2)], ("a", 1)) == 1
        assert await bus.multicast([note(1, 2)], ("a", 2)) == 2
        await settle()
        assert [sink.events for sink in sinks] == [[note(1)], [note(2)] * 2]

    async def test_routes_are_those_of_now(self, bus, state, settle) -> None:
        await place(state, a=[1, 2], b=[])
        sinks = [Recorder(), Recorder()]
        for node, sink in zip("ab", sinks, strict=True):
            await bus.listen(node, 1, sink)
        assert await bus.multicast([note(1, 2)]) == 1
        assert (await state.claim(1, Route("b", 1, 2), True)).won
        await state.release(2, Route("a", 1, 1))
        assert await bus.multicast([note(1, 2)]) == 1
        await state.retire("b", 1)
        assert await bus.multicast([note(1, 2)]) == 0
        await settle()
        assert [sink.events for sink in sinks] == [[note(1, 2)], [note(1)]]

    async def test_much_that_is_for_many_keeps_its_order(self, bus, other_bus, state, settle) -> None:
        here = list(range(1, 6_001))
        await place(state, a=here, b=[9_000])
        sinks = [Recorder(), Recorder()]
        for node, sink in zip("ab", sinks, strict=True):
            await bus.listen(node, 1, sink)
        everybody = note(*here, 9_000)
        few = [note(uid, 9_000, about=uid) for uid in here[:500]]
        assert await other_bus.multicast([everybody, *few]) >= 1_002
        await settle()
        told = [uid for event in sinks[0].events if event.notice.id == 1 for uid in event.uids]
        assert sorted(told) == sorted([*here, 1])
        rest = [event for event in sinks[0].events if event.notice.id != 1]
        assert rest == [note(uid, about=uid) for uid in here[1:500]]
        assert sinks[1].events == [note(9_000), *[note(9_000, about=uid) for uid in here[:500]]]

    async def test_undisturbed_events_keep_their_order(self, bus, other_bus, settle) -> None:
        sink = Recorder()
        await bus.listen("a", 1, sink)
        for uid in range(1, 201):
            await other_bus.publish("a", 1, kick(uid))
        await settle()
        assert sink.events == [kick(uid) for uid in range(1, 201)]

    async def test_a_receiver_may_publish_and_is_not_called_inside_its_own_call(self, bus, other_bus, settle) -> None:
        class Replier(Recorder):
            inside = False

            def deliver(self, event: BusEvent) -> None:
                assert not self.inside
                self.inside = True
                super().deliver(event)
                if len(self.events) < 3:
                    published.append(ensureDeferred(bus.publish("a", 1, kick(len(self.events) + 1))))
                self.inside = False

        published: list[Deferred[None]] = []
        sink = Replier()
        await bus.listen("a", 1, sink)
        await other_bus.publish("a", 1, kick(1))
        for _ in range(3):
            await settle()
        await gatherResults(published)
        assert sink.events == [kick(1), kick(2), kick(3)]

    async def test_nothing_arrives_after_stop(self, bus, other_bus, settle) -> None:
        sink = Recorder()
        await bus.listen("a", 1, sink)
        await settle()
        await bus.stop()
        if other_bus is not bus:
            await other_bus.publish("a", 1, kick(1))
        await settle()
        assert sink.events == []
