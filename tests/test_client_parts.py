"""The client's parts that need no connection: what was seen, addresses, lines, the inbox."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import result, start, waiting
from twisted.internet.task import Clock

from flux.client import HostPort, parse_address
from flux.client import inbox as inbox_module
from flux.client import seen as seen_module
from flux.client.events import Connecting, Offline
from flux.client.inbox import Inbox
from flux.client.lines import NotFlux, as_exception, decode
from flux.client.seen import Seen
from flux.errors import FluxError, Forbidden, RateLimited
from flux.model.events import Presence
from flux.model.messages import Message
from flux.wire.catalogue import ErrorReply
from flux.wire.replies import SendOk

DEFAULT = HostPort("127.0.0.1", 8090)


# --- seen --------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 40)), max_size=200))
def test_seen_is_a_set(messages: list[tuple[int, int]]) -> None:
    seen, model = Seen(), set()
    for chat, seq in messages:
        assert seen.add(chat, seq, 1000 + seq) == ((chat, seq) not in model)
        model.add((chat, seq))


def test_seen_same_seq_with_another_time_is_another_message() -> None:
    seen = Seen()
    assert seen.add(1, 5, 100)
    assert seen.add(1, 5, 200)
    assert not seen.add(1, 5, 200)


def test_seen_forgets_times_but_not_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_module, "MAX_TIMES", 10)
    seen = Seen()
    for seq in range(1, 101):
        assert seen.add(1, seq, seq)
    assert not seen.add(1, 1, 1), "an old message, its time forgotten"
    assert seen.add(1, 1, 101), "younger than everything seen: numbered anew"


def test_seen_keeps_few_ranges_and_forgets_the_lowest() -> None:
    seen = Seen()
    for index in range(seen_module.MAX_RANGES + 1):
        assert seen.add(1, 10 * index + 10, 5)
    assert not seen.add(1, 20, 5)
    assert seen.add(1, 10, 5), "forgotten: shown twice rather than lost"


# --- addresses ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("chat.example:9000", HostPort("chat.example", 9000)),
        ("chat.example", HostPort("chat.example", 8090)),
        (":9000", HostPort("127.0.0.1", 9000)),
        ("[::1]:9000", HostPort("::1", 9000)),
        ("[::1]", HostPort("::1", 8090)),
        ("::1", HostPort("::1", 8090)),
        ("", DEFAULT),
    ],
)
def test_parse_address(text: str, address: HostPort) -> None:
    assert parse_address(text, DEFAULT) == address
    assert parse_address(str(address), DEFAULT) == address


@pytest.mark.parametrize("text", ["host:port", "host:0", "host:65536", "[::1", "[::1]9000", "host:²"])
def test_parse_address_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        parse_address(text, DEFAULT)


# --- lines -------------------------------------------------------------------


def line(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def test_decode_replies_and_events() -> None:
    assert decode(line(type="presence", id=3, online=True, mood="new field")) == Presence(id=3, online=True)
    ok = decode(line(type="send.ok", ref=4, chat=1, seq=2, at=3, duplicate=False))
    assert isinstance(ok, SendOk)
    assert ok.ref == 4


def test_decode_passes_over_what_it_does_not_know() -> None:
    assert decode(line(type="hologram", data=[1])) is None
    assert decode(line(type="presence", id="x", online=True)) is None
    assert decode(line(no_type=1)) is None


def test_decode_turns_a_senseless_reply_into_an_error_for_its_request() -> None:
    reply = decode(line(type="send.ok", ref=9, chat="x"))
    assert isinstance(reply, ErrorReply)
    assert (reply.ref, reply.name) == (9, "internal")


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request", b"[1]", b"\xff", b"[" * 100_000, b"3"])
def test_decode_refuses_what_is_no_object(garbage: bytes) -> None:
    with pytest.raises(NotFlux):
        decode(garbage)


def test_errors_become_exceptions() -> None:
    refused = as_exception(ErrorReply(code=1105, name="forbidden", detail="no"))
    assert isinstance(refused, Forbidden)
    limited = as_exception(ErrorReply(code=1107, name="rate_limited", detail="", retry_after=250))
    assert isinstance(limited, RateLimited)
    assert limited.retry_after == 250
    newer = as_exception(ErrorReply(code=2000, name="too_shiny", detail="dull it"))
    assert type(newer) is FluxError
    assert "too_shiny" in str(newer)


# --- inbox -------------------------------------------------------------------


def note(number: int) -> Presence:
    return Presence(id=number, online=True)


class TestInbox:
    def setup_method(self) -> None:
        self.clock = Clock()
        self.choked: list[bool] = []
        self.inbox = Inbox(self.clock, self.choked.append)
        self.taken: list[int] = []

    def put(self, number: int, visible: bool = True) -> None:
        self.inbox.put(note(number) if visible else None, lambda: self.taken.append(number))

    def test_an_event_is_taken_when_the_next_is_asked_for(self) -> None:
        self.put(1)
        self.put(2)
        assert result(self.inbox.__anext__()) == note(1)
        assert self.taken == []
        assert result(self.inbox.__anext__()) == note(2)
        assert self.taken == [1]

    def test_duplicates_are_taken_in_their_turn_and_not_seen(self) -> None:
        self.put(1)
        self.put(2, visible=False)
        self.put(3)
        assert result(self.inbox.__anext__()) == note(1)
        assert result(self.inbox.__anext__()) == note(3)
        assert self.taken == [1, 2]

    def test_wakes_its_consumer_from_the_reactor_only(self) -> None:
        waiter = start(self.inbox.__anext__())
        self.put(1)
        assert waiting(waiter)
        self.clock.advance(0)
        assert result(waiter) == note(1)

    def test_has_one_consumer(self) -> None:
        first = start(self.inbox.__anext__())
        with pytest.raises(RuntimeError):
            result(self.inbox.__anext__())
        self.put(1)
        self.clock.advance(0)
        assert result(first) == note(1)

    def test_of_states_nobody_looked_at_only_the_newest_stays(self) -> None:
        self.put(1)
        for attempt in range(100):
            self.inbox.put(Offline("gone", attempt))
            self.inbox.put(Connecting("host", attempt))
        assert result(self.inbox.__anext__()) == note(1)
        assert result(self.inbox.__anext__()) == Connecting("host", 99)
        assert waiting(start(self.inbox.__anext__()))

    def test_chokes_when_full_and_relieves_at_half(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(inbox_module, "LIMIT", 4)
        for number in range(4):
            self.put(number)
        room = start(self.inbox.room())
        assert self.choked == [True]
        result(self.inbox.__anext__())
        assert waiting(room)
        result(self.inbox.__anext__())
        assert self.choked == [True, False]
        assert result(room) is None
        assert result(self.inbox.room()) is None

    def test_ends_after_what_is_queued(self) -> None:
        self.put(1)
        self.inbox.close()
        self.put(2)
        assert result(self.inbox.__anext__()) == note(1)
        with pytest.raises(StopAsyncIteration):
            result(self.inbox.__anext__())

    def test_ends_for_who_is_waiting(self) -> None:
        waiter = start(self.inbox.__anext__())
        self.inbox.close()
        self.clock.advance(0)
        with pytest.raises(StopAsyncIteration):
            result(waiter)


def test_message_of_the_wire_is_the_event_of_the_model() -> None:
    said = decode(line(type="message", chat=1, seq=2, **{"from": 3}, name="bob", text="hi", at=4, to=5))
    assert said == Message(chat=1, seq=2, sender=3, name="bob", text="hi", at=4, to=5)
