"""The bus in Redis: the contract on a real server."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import pytest_twisted
from bus_contract import BusContract, Recorder, kick, note, place
from redis_parts import new_prefix, parts, started
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from flux.backends.redis import bus as bus_module
from flux.errors import Unavailable
from flux.model.bus import Hint
from flux.model.messages import Message


@pytest.fixture
def prefix() -> str:
    return new_prefix()


@pytest_twisted.async_yield_fixture
async def shared(redis_server, prefix):
    async with started(redis_server.url, prefix) as both:
        yield both


@pytest.fixture
def state(shared):
    return shared[0]


@pytest.fixture
def bus(shared):
    return shared[1]


@pytest_twisted.async_yield_fixture
async def other_bus(redis_server, prefix):
    _, bus = parts(redis_server.url, prefix)
    await bus.start()
    yield bus
    await bus.stop()


@pytest.fixture
def settle(bus, other_bus):
    """A mark goes through each publisher to each subscriber: what was published before it has arrived before it."""
    numbers = itertools.count(1)

    async def settle() -> None:
        from twisted.internet import reactor

        for listening in (bus, other_bus):
            for publishing in (bus, other_bus):
                if not (listening.connected and publishing.connected):
                    continue
                mark, number = Recorder(), next(numbers)
                await listening.listen("mark", number, mark)
                await publishing.publish("mark", number, kick(1))
                while not mark.events:
                    await deferLater(reactor, 0.001)

    return settle


class TestRedisBus(BusContract):
    pass


async def test_what_comes_after_something_large_stays_behind_it(bus, other_bus, state, settle, monkeypatch) -> None:
    """It takes several scripts, and Redis serves others between them."""
    monkeypatch.setattr(bus_module, "MOST_IN_SCRIPT", 1)
    await place(state, a=[1, 2])
    sink = Recorder()
    await bus.listen("a", 1, sink)
    sizes = (3, 1, 1, 2, 1)
    seqs = iter(range(1, sum(sizes) + 1))
    batches = [[Hint(message(next(seqs)), 1, "p", (1 + place % 2,)) for place in range(size)] for size in sizes]
    under_way = [Deferred.fromCoroutine(other_bus.multicast(batch)) for batch in batches]
    assert other_bus.waiting == sum(sizes)
    assert [await published for published in under_way] == list(sizes)
    await settle()
    # Those of one batch are grouped by the accounts that they are for.
    arrived = [event.message.seq for event in sink.events]
    batch_of = {hint.message.seq: number for number, batch in enumerate(batches) for hint in batch}
    assert [batch_of[seq] for seq in arrived] == [0, 0, 0, 1, 2, 3, 3, 4]
    assert other_bus.waiting == 0


def message(seq: int) -> Message:
    return Message(chat=1, seq=seq, sender=9, name="ann", text="hello", at=1, to=1)


@pytest.mark.parametrize(
    "bounds",
    [
        {"PART": 1, "MOST_IN_SCRIPT": 1, "MOST_BYTES_IN_SCRIPT": 1, "MOST_IN_MESSAGE": 1, "MOST_BYTES_IN_MESSAGE": 1},
        {"PART": 3, "MOST_IN_MESSAGE": 2},
        {"PART": 4, "MOST_BYTES_IN_SCRIPT": 5_000, "MOST_IN_MESSAGE": 3, "MOST_BYTES_IN_MESSAGE": 5_000},
        {"MOST_BYTES_IN_MESSAGE": 5_000},
        {"MOST_BYTES_IN_SCRIPT": 5_000},
        {"MOST_IN_SCRIPT": 10},
    ],
    ids=lambda bounds: " ".join(bounds),
)
async def test_no_message_and_no_script_is_too_large(bus, other_bus, state, settle, bounds, monkeypatch) -> None:
    """Where bounds cut, nothing is lost, and what is for the same accounts does not change places."""
    for bound, value in bounds.items():
        monkeypatch.setattr(bus_module, bound, value)
    await place(state, a=[1, 2, 3, 4, 5], b=[6, 7])
    sinks = [Recorder(), Recorder()]
    messages, scripts = [], []
    decode, run = bus._decode, bus_module.run

    def decoded(message: bytes) -> list[Any]:
        messages.append((len(decode(message)), len(message)))
        return decode(message)

    async def ran(link: Any, script: Any, prefix: str, arguments: Any, hurried: bool) -> Any:
        _, _, _, groups, _, _ = arguments
        # Of two nodes.
        text = sum(len(head) * min(len(uids), 2) + len(uids) for uids, heads in groups for head in heads)
        published = await run(link, script, prefix, arguments, hurried)
        events = sum(len(heads) for _, heads in groups)
        scripts.append((sum(len(uids) for uids, _ in groups), events, int(published), text))
        return published

    monkeypatch.setattr(bus, "_decode", decoded)
    monkeypatch.setattr(bus_module, "run", ran)
    for node, sink in zip("ab", sinks, strict=True):
        await bus.listen(node, 1, sink)
    sent = [
        Message(chat=1, seq=seq, sender=9, name="é", text='"uids":[7]}' * seq, at=1, group=1) for seq in range(1, 101)
    ]
    hints = [Hint(message, message.seq, "p", (3,) if message.seq % 7 == 0 else tuple(range(1, 8))) for message in sent]
    await other_bus.multicast(hints)
    await settle()
    # What is one event may be larger.
    assert all(
        count <= bus_module.MOST_IN_MESSAGE and (count == 1 or length <= bus_module.MOST_BYTES_IN_MESSAGE + 200)
        for count, length in messages
    )
    assert all(
        accounts <= bus_module.PART
        and (events == 1 or (published <= bus_module.MOST_IN_SCRIPT and text <= bus_module.MOST_BYTES_IN_SCRIPT))
        for accounts, events, published, text in scripts
    )
    for sink, uids in zip(sinks, (range(1, 6), range(6, 8)), strict=True):
        for uid in uids:
            told = [event.message for event in sink.events if uid in event.uids]
            alone = [message for message in sent if message.seq % 7 == 0 and uid == 3]
            rest = [message for message in sent if message.seq % 7]
            assert [message for message in told if message in rest] == rest
            assert [message for message in told if message not in rest] == alone


async def test_what_waits_is_counted_and_bounded(bus, state, settle, monkeypatch) -> None:
    monkeypatch.setattr(bus_module, "MOST_WAITING", 3)
    await place(state, a=[1])
    sink = Recorder()
    await bus.listen("a", 1, sink)
    under_way = Deferred.fromCoroutine(bus.multicast([note(1), note(1)]))
    assert bus.waiting == 2
    with pytest.raises(Unavailable, match="2 events are waiting"):
        await bus.multicast([note(1), note(1)])
    assert (await bus.multicast([note(1)]), await under_way, bus.waiting) == (1, 2, 0)
    await settle()
    assert sink.events == [note(1)] * 3


# --- gaps --------------------------------------------------------------------


async def test_a_gap_is_told_of_when_a_new_subscription_is_confirmed(bus, monkeypatch) -> None:
    """Whoever looks for what was missed before that may miss what comes in between."""
    await bus.listen("a", 1, Recorder())
    asked: Deferred[None] = Deferred()
    confirmed: Deferred[None] = Deferred()
    true = bus._subscriptions.command

    async def late(*words: Any) -> None:
        await true(*words)
        asked.callback(None)
        await confirmed

    monkeypatch.setattr(bus._subscriptions, "command", late)
    sink = Recorder()
    listening = Deferred.fromCoroutine(bus.listen("b", 1, sink))
    await asked
    assert sink.seen == []
    confirmed.callback(None)
    await listening
    assert sink.seen == ["gap"]


async def test_a_gap_is_told_of_when_a_new_connection_has_all_subscriptions(bus) -> None:
    sinks = [Recorder(), Recorder()]
    for number, sink in enumerate(sinks):
        await bus.listen("a", number, sink)
        assert sink.seen == ["gap"]
    confirmations: list[Deferred[None]] = []

    class NewConnection:
        def on_push(self, arrived: Any) -> None:
            pass

        def command(self, word: str, channel: bytes) -> Deferred[None]:
            assert word == "SUBSCRIBE"
            confirmations.append(Deferred())
            return confirmations[-1]

    subscribing = Deferred.fromCoroutine(bus._subscribe(NewConnection()))
    assert len(confirmations) == 3
    for confirmation in confirmations:
        assert [sink.seen for sink in sinks] == [["gap"]] * 2
        confirmation.callback(None)
    await subscribing
    assert [sink.seen for sink in sinks] == [["gap", "gap"]] * 2
