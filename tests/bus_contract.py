"""The promises of ``IBus`` as tests that every implementation runs.

A test module subclasses :class:`BusContract` and gives three fixtures: ``bus``, a
started ``IBus``; ``other_bus``, another way onto the same bus, or the same object
where a process has only one; and ``settle``, ``await settle()``: returns when
everything published before has arrived or never will.
"""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from zope.interface import implementer
from zope.interface.verify import verifyObject

from flux.interfaces import IBus, IBusSink
from flux.model.bus import BusEvent, FriendsChanged, Hint, Kick, MembersChanged, Notify, Online
from flux.model.chats import MemberChange
from flux.model.events import Presence, ReadUpTo
from flux.model.messages import Message


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
        uids=(4,),
    ),
    Hint(message=Message(chat=9, seq=1, sender=3, name="a", text="b", at=1, group=9), version=7, uids=(1, 2**62)),
    Notify(notice=Presence(id=1, online=True), uids=(2,)),
    Notify(notice=ReadUpTo(chat=1, id=2, seq=3), uids=(2, 5)),
    MembersChanged(change=MemberChange(chat=1, id=2, change="role", version=3, head=4, role="admin")),
    MembersChanged(change=MemberChange(chat=1, id=2, change="leave", version=4, head=4)),
    FriendsChanged(one=1, other=2, friends=False),
    Online(uids=(1, 2), online=False),
    Kick(uid=1, below=2, reason="admin"),
]


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
