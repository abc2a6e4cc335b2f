"""Messages through a client: sent once, shown once, acknowledged when taken, in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from scripted_server import ScriptedServer, result, start, waiting
from twisted.internet.defer import CancelledError

from flux.client import Online, QueueFull
from flux.client import inbox as inbox_module
from flux.client.cursors import BATCH, GATHER
from flux.errors import BadRequest, Forbidden


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.end()


# --- sending -----------------------------------------------------------------


def test_a_send_resolves_with_its_receipt(server: ScriptedServer) -> None:
    client, link, _ = server.logged_in()
    sent = client.send("hello", to=8)
    request = link.take("send")
    assert (request["to"], request["text"]) == (8, "hello")
    assert "group" not in request
    link.receipt(request, 1)
    assert result(sent).seq == 1


def test_cids_differ_between_messages_and_clients(server: ScriptedServer) -> None:
    cids = set()
    for _ in range(3):
        client, link, _ = server.logged_in()
        for text in "abc":
            client.send(text, to=8)
            request = link.take("send")
            link.receipt(request, 1)
            cids.add(request["cid"])
    assert len(cids) == 9
    assert all(1 <= len(cid) <= 64 for cid in cids)


def test_a_connection_lost_between_send_and_ok(server: ScriptedServer) -> None:
    client, link, _ = server.logged_in()
    sent = [client.send(text, to=8) for text in ("first", "second", "third")]
    lost = link.take("send")
    assert link.types() == [], "one of a chat on its way at a time"
    link.cut()
    server.wait(0.2)
    order = []
    for seq in (1, 2, 3):
        request = server.link.take("send")
        order.append((request["text"], request["cid"]))
        server.link.receipt(request, seq, duplicate=seq == 1)
    assert [text for text, _ in order] == ["first", "second", "third"]
    assert order[0][1] == lost["cid"]
    assert [result(d).seq for d in sent] == [1, 2, 3]


@pytest.mark.parametrize(("name", "fields"), [("unavailable", {}), ("rate_limited", {"retry_after": 3000})])
def test_a_send_that_could_not_be_taken_is_repeated_before_the_next(
    server: ScriptedServer, name: str, fields: dict[str, int]
) -> None:
    client, link, _ = server.logged_in()
    first, second = client.send("first", to=8), client.send("second", to=8)
    elsewhere = client.send("elsewhere", group=9)
    request = link.take("send")
    link.error(request, name, **fields)
    link.receipt(link.take("send"), 5, chat=9)
    assert result(elsewhere).chat == 9, "other chats do not wait"
    server.wait(2.9 if fields else 0.0)
    assert link.types() == []
    server.wait(0.8)
    again = link.take("send")
    assert (again["cid"], again["text"]) == (request["cid"], "first")
    link.receipt(again, 1)
    link.receipt(link.take("send"), 2)
    assert [result(first).seq, result(second).seq] == [1, 2]


def test_the_pauses_between_repetitions_have_a_bound(server: ScriptedServer) -> None:
    client, link, _ = server.logged_in(longest_pause=0.4)
    sent = client.send("hello", to=8)
    for _ in range(10):
        link.error(link.take("send"), "unavailable")
        server.wait(0.45)
    link.receipt(link.take("send"), 1)
    assert result(sent).seq == 1


def test_a_refused_send_fails_and_the_next_goes_on(server: ScriptedServer) -> None:
    client, link, _ = server.logged_in()
    first, second = client.send("first", to=8), client.send("second", to=8)
    link.error(link.take("send"), "forbidden")
    with pytest.raises(Forbidden):
        result(first)
    link.receipt(link.take("send"), 1)
    assert result(second).seq == 1


@pytest.mark.parametrize(
    ("wrong", "error", "told"),
    [("half \udcff", BadRequest, "text: holds half a character"), (object(), TypeError, "object")],
    ids=["a lone surrogate", "no text at all"],
)
def test_what_cannot_be_sent_fails_in_its_turn_and_the_next_goes_on(
    server: ScriptedServer, wrong: Any, error: type[Exception], told: str
) -> None:
    client, link, _ = server.logged_in()
    first, second, third = (client.send(text, to=8) for text in ("first", wrong, "third"))
    alone = client.send(wrong, to=9)
    with pytest.raises(error, match=told):
        result(alone)
    assert waiting(second)
    link.receipt(link.take("send"), 1)
    with pytest.raises(error, match=told):
        result(second)
    request = link.take("send")
    assert request["text"] == "third"
    link.receipt(request, 2)
    assert [result(first).seq, result(third).seq] == [1, 2]
    assert client.unsent == 0
    assert link.open


def test_an_unanswered_send_gives_the_link_up(server: ScriptedServer) -> None:
    client, link, _ = server.logged_in()
    sent = client.send("hello", to=8)
    cid = link.take("send")["cid"]
    server.wait(31)
    assert not link.open
    request = server.link.take("send")
    assert request["cid"] == cid
    server.link.receipt(request, 1)
    assert result(sent).seq == 1


def test_a_cancelled_send_does_not_leave(server: ScriptedServer) -> None:
    client, link, _ = server.logged_in()
    first, second, third = (client.send(text, to=8) for text in ("first", "second", "third"))
    second.addErrback(lambda _: None)
    second.cancel()
    link.receipt(link.take("send"), 1)
    request = link.take("send")
    assert request["text"] == "third"
    link.receipt(request, 2)
    assert [result(first).seq, result(third).seq] == [1, 2]


def test_a_send_cancelled_on_its_way_does_not_block_its_chat(server: ScriptedServer) -> None:
    client, link, _ = server.logged_in()
    first, second = client.send("first", to=8), client.send("second", to=8)
    first.addErrback(lambda _: None)
    first.cancel()
    link.receipt(link.take("send"), 1)
    link.receipt(link.take("send"), 2)
    assert result(second).seq == 2


@pytest.mark.parametrize("backwards", [False, True])
def test_sends_that_were_taken_back_make_room(server: ScriptedServer, backwards: bool) -> None:
    client, link, _ = server.logged_in(max_pending=3)
    link.cut()
    sent = [client.send(text, to=8) for text in ("one", "two", "three")]
    kept = []
    for one in reversed(sent) if backwards else sent:
        one.addErrback(lambda failure: kept.append(client.send("instead", to=8)))
        one.cancel()
    assert (len(kept), client.unsent) == (3, 3)
    server.wait(0.2)
    for seq in (1, 2, 3):
        request = server.link.take("send")
        assert request["text"] == "instead"
        server.link.receipt(request, seq)
    assert [result(each).seq for each in kept] == [1, 2, 3]
    assert client.unsent == 0


def test_a_send_that_waits_to_be_repeated_is_taken_back_at_once(server: ScriptedServer) -> None:
    client, link, _ = server.logged_in(max_pending=2)
    first, second = client.send("first", to=8), client.send("second", to=8)
    link.error(link.take("send"), "rate_limited", retry_after=60_000)
    first.cancel()
    with pytest.raises(CancelledError):
        result(first)
    request = link.take("send")
    assert (request["text"], client.unsent) == ("second", 1)
    link.receipt(request, 1)
    assert result(second).seq == 1
    assert client.unsent == 0


def test_a_send_cancelled_on_its_way_keeps_its_place_until_it_is_known(server: ScriptedServer) -> None:
    client, link, _ = server.logged_in(max_pending=1)
    sent = client.send("first", to=8)
    sent.cancel()
    with pytest.raises(CancelledError):
        result(sent)
    assert client.unsent == 1
    with pytest.raises(QueueFull):
        result(client.send("second", to=8))
    link.cut()
    server.wait(0.2)
    assert (client.unsent, server.link.types()) == (0, ["login"])


def test_sends_that_are_taken_back_because_others_were(server: ScriptedServer) -> None:
    """What an application does in its error paths, while the connection comes or the session ends."""
    client, link, _ = server.logged_in()
    link.cut()
    bad = client.send("\ud800", to=8)
    other = client.send("other", to=9)
    bad.addErrback(lambda failure: other.cancel())
    server.wait(0.2)
    with pytest.raises(CancelledError):
        result(other)
    assert (client.unsent, server.link.types()) == (0, ["login"])
    server.link.cut()
    sent = [client.send(text, to=to) for to in (8, 9) for text in ("one", "two")]
    sent[0].addErrback(lambda failure: [each.cancel() for each in sent])
    result(client.close())
    for each in sent[1:]:
        with pytest.raises(CancelledError):
            result(each)
    server.wait(1)
    assert client.unsent == 0


def test_pending_sends_are_bounded(server: ScriptedServer) -> None:
    client, link, _ = server.logged_in(max_pending=2)
    link.cut()
    sent = [client.send("a", to=8), client.send("b", to=9)]
    with pytest.raises(QueueFull, match="2 messages wait"):
        result(client.send("c", to=8))
    server.wait(0.2)
    for seq, request in enumerate([server.link.take("send"), server.link.take("send")]):
        server.link.receipt(request, seq)
    assert [result(d).seq for d in sent] == [0, 1]
    third = client.send("c", to=8)
    server.link.receipt(server.link.take("send"), 2)
    assert result(third).seq == 2


def test_sending_from_where_a_send_was_answered(server: ScriptedServer) -> None:
    client, link, taken = server.logged_in()
    answered: list[int] = []

    async def chatter() -> None:
        for text in ("a", "b"):
            answered.append((await client.send(text, to=8)).seq)
        await client.close()

    chat = start(chatter())
    link.receipt(link.take("send"), 1)
    link.receipt(link.take("send"), 2)
    server.wait(0.1)
    result(chat)
    assert answered == [1, 2]
    assert taken.ended
    assert server.clock.getDelayedCalls() == []


# --- receiving ---------------------------------------------------------------


def test_what_comes_again_after_a_reconnect_is_shown_once_and_acknowledged(server: ScriptedServer) -> None:
    _, link, taken = server.logged_in()
    for seq in (1, 2, 3):
        link.message(seq)
    server.clock.advance(0)
    link.cut()
    server.wait(0.2)
    for seq in (1, 2, 3, 4):
        server.link.message(seq)
    server.wait(0.3)
    assert taken.texts() == ["m1", "m2", "m3", "m4"]
    assert server.link.take("received")["seq"] == 4
    assert "received" not in server.link.types()


def test_only_duplicates_are_acknowledged_too(server: ScriptedServer) -> None:
    _, link, taken = server.logged_in()
    link.message(1)
    server.clock.advance(0)
    link.cut()
    server.wait(0.2)
    server.link.message(1)
    server.wait(0.3)
    assert taken.texts() == ["m1"]
    assert server.link.take("received") == {"type": "received", "chat": 100, "seq": 1}


def test_gaps_are_ones_own_messages(server: ScriptedServer) -> None:
    client, link, taken = server.logged_in()
    link.message(1)
    sent = client.send("mine", to=8)
    link.receipt(link.take("send"), 2)
    link.message(3)
    server.wait(0.3)
    assert result(sent).seq == 2
    assert taken.texts() == ["m1", "m3"]
    assert link.take("received")["seq"] == 3


def test_the_same_seq_with_another_time_is_another_message(server: ScriptedServer) -> None:
    """The server's database was restored to an earlier point."""
    _, link, taken = server.logged_in()
    for seq in (1, 2, 3):
        link.message(seq)
    server.wait(0.3)
    link.cut()
    server.wait(0.3)
    server.link.message(2, at=5002, text="new 2")
    server.link.message(3, at=5003, text="new 3")
    server.wait(0.3)
    assert taken.texts() == ["m1", "m2", "m3", "new 2", "new 3"]
    assert server.link.take("received")["seq"] == 3


def test_history_counts_as_seen(server: ScriptedServer) -> None:
    client, link, taken = server.logged_in()
    page = start(client.history(chat=100))
    item = {"type": "message", "chat": 100, "from": 8, "name": "bob", "to": 7, "text": "old"}
    messages = [{**item, "seq": seq, "at": 1000 + seq} for seq in (1, 2)]
    link.ok(link.take("history"), chat=100, messages=messages, more=False)
    assert len(result(page).messages) == 2
    for seq in (1, 2, 3):
        link.message(seq)
    server.wait(0.3)
    assert taken.texts() == ["m3"]
    assert link.take("received")["seq"] == 3


def test_chats_do_not_mix(server: ScriptedServer) -> None:
    _, link, taken = server.logged_in()
    link.message(1, chat=100, text="a")
    link.message(1, chat=200, text="b")
    server.wait(0.3)
    assert taken.texts() == ["a", "b"]
    acknowledged = [link.take("received"), link.take("received")]
    assert {(a["chat"], a["seq"]) for a in acknowledged} == {(100, 1), (200, 1)}


# --- acknowledging -----------------------------------------------------------


def test_acknowledgements_are_gathered(server: ScriptedServer) -> None:
    _, link, _ = server.logged_in()
    for seq in range(1, 11):
        link.message(seq)
    server.clock.advance(0)
    assert link.types() == []
    server.wait(0.2)
    assert link.types() == ["received"]
    assert link.take("received")["seq"] == 10
    server.wait(1)
    assert link.types() == []


def test_many_messages_are_acknowledged_at_once(server: ScriptedServer) -> None:
    _, link, _ = server.logged_in()
    for seq in range(1, BATCH + 1):
        link.message(seq)
    server.clock.advance(0)
    assert link.take("received")["seq"] == BATCH


def test_what_was_not_taken_is_not_acknowledged(server: ScriptedServer) -> None:
    client = server.client()
    result(client.login("ann", password="secret word"))
    link = server.link
    link.take("login")
    for seq in (1, 2):
        link.message(seq)
    assert isinstance(result(client.events.__anext__()), Online)
    assert result(client.events.__anext__()).seq == 1  # type: ignore[union-attr]
    server.wait(1)
    assert link.types() == [], "the application may still be working on it"
    assert result(client.events.__anext__()).seq == 2  # type: ignore[union-attr]
    server.wait(1)
    assert link.take("received")["seq"] == 1


def test_what_an_old_connection_brought_is_acknowledged_when_the_new_one_brings_it(server: ScriptedServer) -> None:
    client = server.client()
    result(client.login("ann", password="secret word"))
    server.link.message(1)
    server.link.message(2)
    server.link.cut()
    server.wait(0.2)
    new = server.link
    new.take("login")
    events = []
    for _ in range(3):
        events.append(result(client.events.__anext__()))
    server.wait(0.3)
    assert new.types() == [], "the server has pushed nothing here yet"
    for seq in (1, 2, 3):
        new.message(seq)
    events.append(result(client.events.__anext__()))
    events.append(result(client.events.__anext__()))
    assert [getattr(event, "seq", None) for event in events] == [None, 1, 2, None, 3]
    server.wait(0.3)
    assert new.take("received")["seq"] == 2


def test_an_application_that_takes_nothing_stops_the_reading(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "LIMIT", 10)
    client = server.client()
    result(client.login("ann", password="secret word"))
    link = server.link
    for seq in range(1, 31):
        link.message(seq)
    assert not link.reading
    server.wait(120)
    assert link.open, "an answer to a ping may lie unread: the link stays"
    seqs = []
    while len(seqs) < 30:
        event = result(client.events.__anext__())
        if hasattr(event, "seq"):
            seqs.append(event.seq)
    assert seqs == list(range(1, 31))
    assert link.reading


def test_a_full_inbox_puts_reconnecting_off(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "LIMIT", 4)
    client = server.client()
    result(client.login("ann", password="secret word"))
    for seq in range(1, 5):
        server.link.message(seq)
    server.link.cut()
    server.wait(30)
    assert len(server.links) == 1
    for _ in range(4):
        result(client.events.__anext__())
    server.wait(0.1)
    assert len(server.links) == 2
    assert server.link.reading


# --- read and typing ---------------------------------------------------------


def test_read_is_gathered_and_survives_a_reconnect(server: ScriptedServer) -> None:
    client, link, _ = server.logged_in()
    client.read(100, 3)
    client.read(100, 5)
    client.read(100, 4)
    server.wait(0.3)
    assert link.take("read") == {"type": "read", "chat": 100, "seq": 5}
    assert link.types() == []
    link.cut()
    client.read(100, 6)
    server.wait(0.3)
    assert server.link.take("read")["seq"] == 6


def test_read_outlives_a_connection_that_was_just_given_up(server: ScriptedServer) -> None:
    client, link, _ = server.logged_in()
    # In one turn of the reactor, in this order: it is given up, the mark is due, the session is told of the end.
    server.clock.callLater(GATHER, link.write_raw, b"this is not flux\n")
    client.read(100, 5)
    server.clock.advance(GATHER)
    assert not link.open
    assert link.types() == []
    server.wait(0.2)
    assert server.link.take("read") == {"type": "read", "chat": 100, "seq": 5}


def test_typing_is_lost_while_offline(server: ScriptedServer) -> None:
    client, link, _ = server.logged_in()
    client.typing(to=8)
    assert link.take("typing") == {"type": "typing", "to": 8}
    link.cut()
    client.typing(group=3)
    server.wait(0.3)
    assert server.link.types() == ["login"]


def test_waiting_for_events_does_not_end_with_a_connection(server: ScriptedServer) -> None:
    client = server.client()
    result(client.login("ann", password="secret word"))
    result(client.events.__anext__())
    event = start(client.events.__anext__())
    assert waiting(event)
    server.link.message(1)
    server.clock.advance(0)
    assert result(event).seq == 1  # type: ignore[union-attr]
