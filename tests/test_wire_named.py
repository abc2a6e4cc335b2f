"""The named dialect as pure functions: what replies, errors and events look like, and how long a line may get."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from flux import errors
from flux.errors import BadJson, FluxError, RateLimited
from flux.model.base import Event
from flux.model.events import FriendAnswered, FriendRequested, GroupChanged, Kicked, Moved, Presence, ReadUpTo, Typing
from flux.model.messages import Conversation, Message, Receipt
from flux.wire.fields import MAX_ID
from flux.wire.named import MAX_REPLY, MAX_ROW, NAMED
from flux.wire.replies import (
    ChatsOk,
    FriendsOk,
    FriendView,
    HistoryEndOk,
    HistoryOk,
    LoginOk,
    PingOk,
    ProfileView,
    Unread,
)
from flux.wire.requests import CHAT, Chats, Friends, History, Login, Ping, Send


def every_error() -> list[type[FluxError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FluxError)]


EVENTS = [
    (
        Message(3, 1, 9, "bob", "hi", 1000, 7, UNSET),
        {"type": "message", "chat": 3, "seq": 1, "from": 9, "name": "bob", "text": "hi", "at": 1000, "to": 7},
    ),
    (
        Message(3, 1, 9, "bob", "hi", 1000, UNSET, 3),
        {"type": "message", "chat": 3, "seq": 1, "from": 9, "name": "bob", "text": "hi", "at": 1000, "group": 3},
    ),
    (ReadUpTo(3, 9, 5), {"type": "read", "chat": 3, "id": 9, "seq": 5}),
    (Typing(3, 9), {"type": "typing", "chat": 3, "from": 9}),
    (Presence(9, True), {"type": "presence", "id": 9, "online": True}),
    (FriendRequested(9, "bob", "hello"), {"type": "friend.requested", "from": 9, "name": "bob", "note": "hello"}),
    (FriendAnswered(9, "rejected"), {"type": "friend.answered", "id": 9, "status": "rejected"}),
    (GroupChanged(3, "join", 9), {"type": "group.changed", "group": 3, "change": "join", "id": 9}),
    (
        GroupChanged(3, "role", 9, "admin"),
        {"type": "group.changed", "group": 3, "change": "role", "id": 9, "role": "admin"},
    ),
    (Kicked("takeover"), {"type": "kicked", "reason": "takeover"}),
    (Moved("h", 1, "drain", 1000), {"type": "moved", "host": "h", "port": 1, "reason": "drain", "grace": 1000}),
    (
        Moved("h", 1, "shutdown", 1000, "t"),
        {"type": "moved", "host": "h", "port": 1, "reason": "shutdown", "grace": 1000, "token": "t"},
    ),
]


@pytest.mark.parametrize(("event", "expected"), EVENTS, ids=lambda value: str(value)[:20])
def test_each_event(event: Event, expected: dict[str, object]) -> None:
    line = NAMED.event(event)
    assert line.endswith(b"\n")
    assert json.loads(line) == expected


def test_every_kind_of_event_is_in_the_table_here() -> None:
    assert {type(event) for event, _ in EVENTS} == set(Event.__subclasses__())


@given(st.text(), st.text(max_size=50))
def test_any_text_is_one_line_and_comes_back(text: str, name: str) -> None:
    line = NAMED.event(Message(3, 1, 9, name, text, 1000, 7, UNSET))
    assert line.count(b"\n") == 1
    assert (json.loads(line)["text"], json.loads(line)["name"]) == (text, name)


@pytest.mark.parametrize("ref", [UNSET, "", "x" * 64, "\n", 0, -1, 2**63 - 1])
def test_replies_and_errors_carry_the_ref(ref: object) -> None:
    expected = {} if ref is UNSET else {"ref": ref}
    assert json.loads(NAMED.reply(Ping(ref=ref), PingOk(at=5))) == {"type": "ping.ok", "at": 5, **expected}
    error = json.loads(NAMED.error(BadJson("x"), "ping", ref))
    assert error == {"type": "error", "request": "ping", "code": 1001, "name": "bad_json", "detail": "x", **expected}
    ok = json.loads(NAMED.send_ok(Send(text="x", to=1, ref=ref), Receipt(3, 1, 1000, False, 1)))
    assert ok == {"type": "send.ok", "chat": 3, "seq": 1, "at": 1000, "duplicate": False, **expected}


def test_send_ok_has_the_cid_that_was_given() -> None:
    ok = json.loads(NAMED.send_ok(Send(text="x", to=1, cid="c"), Receipt(3, 1, 1000, True, 1)))
    assert ok == {"type": "send.ok", "chat": 3, "seq": 1, "at": 1000, "duplicate": True, "cid": "c"}


CODES = {
    1001: "bad_json", 1002: "unavailable", 1003: "code_expired", 1004: "code_wrong", 1005: "user_exists",
    1006: "password_mismatch", 1007: "email_mismatch", 1009: "password_invalid", 1010: "token_invalid",
    1011: "user_invalid", 1101: "unknown_type", 1102: "bad_request", 1103: "line_too_long", 1104: "not_logged_in",
    1105: "forbidden", 1106: "not_found", 1107: "rate_limited", 1108: "no_server", 1109: "already_logged_in",
    1110: "too_large", 1111: "internal",
}  # fmt: skip


def test_the_codes_are_those_of_the_protocol() -> None:
    assert {error.code: error.name for error in every_error()} == CODES


@pytest.mark.parametrize("error", every_error())
def test_an_error_has_code_name_and_detail(error: type[FluxError]) -> None:
    line = json.loads(NAMED.error(error("why")))
    retry_after = {"retry_after": 1000} if error is RateLimited else {}
    assert line == {"type": "error", "code": error.code, "name": error.name, "detail": "why", **retry_after}


# --- how long a line may get -------------------------------------------------


def messages(texts: list[str]) -> list[Message]:
    return [Message(3, seq, 9, "bob", text, 1000, 7, UNSET) for seq, text in enumerate(texts, 11)]


LONG = st.lists(st.sampled_from(["x" * 8000, "\x01" * 8000, "\U0001f600" * 8000, "", "short"]), max_size=200)


@settings(max_examples=30)
@given(LONG)
def test_a_history_gives_way_at_the_far_end_and_says_so(texts: list[str]) -> None:
    for kind in (HistoryOk, HistoryEndOk):
        line = NAMED.reply(History(chat=3), kind(chat=3, messages=messages(texts), more=False))
        assert len(line) <= MAX_REPLY
        reply = json.loads(line)
        kept = [message["seq"] for message in reply["messages"]]
        everything = list(range(11, 11 + len(texts)))
        assert kept == (everything[: len(kept)] if kind is HistoryOk else everything[len(everything) - len(kept) :])
        assert reply["more"] == (len(kept) < len(everything))
        assert kept or not everything


def test_a_line_of_exactly_the_limit_is_whole_and_one_byte_more_is_not() -> None:
    def reply(size: int) -> bytes:
        return NAMED.reply(History(chat=3), HistoryOk(chat=3, messages=messages([*long, "x" * size]), more=False))

    long = ["x" * 8000] * 129
    room = MAX_REPLY - len(reply(0))
    assert 0 < room < 8000
    assert len(reply(room)) == MAX_REPLY
    assert json.loads(reply(room))["more"] is False
    assert json.loads(reply(room + 1))["more"] is True


def test_other_lists_give_way_at_their_end() -> None:
    everybody = [FriendView(n, "x" * 50, "\x01" * 50, "é" * 50, True) for n in range(1, 10_001)]
    line = NAMED.reply(Friends(), FriendsOk(friends=everybody))
    assert len(line) <= MAX_REPLY
    reply = json.loads(line)
    assert reply["more"] is True
    assert [friend["id"] for friend in reply["friends"]] == list(range(1, len(reply["friends"]) + 1))
    assert len(line) > MAX_REPLY * 0.8
    assert "more" not in json.loads(NAMED.reply(Friends(), FriendsOk(friends=everybody[:3])))


def test_a_login_with_many_friends_keeps_some_of_every_list() -> None:
    everybody = [FriendView(n, "x" * 50, "\x01" * 50, "é" * 50, True) for n in range(1, 10_001)]
    ok = LoginOk(
        server="chat1", id=1, name="ann", nick="", description="", sex="", icon="", friends=everybody,
        friend_requests=[], groups=[], unread=[Unread(chat=n, group=n, count=1, head=1) for n in range(1, 31)],
    )  # fmt: skip
    line = NAMED.reply(Login(id=1, password="x"), ok)
    assert len(line) <= MAX_REPLY
    reply = json.loads(line)
    assert (reply["protocol"], reply["name"], reply["more"]) == (1, "ann", True)
    assert reply["friends"]
    assert [row["chat"] for row in reply["unread"]] == list(range(1, 31))


def test_no_more_is_encoded_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []

    def encode(what: object) -> bytes:
        line = msgspec.json.encode(what)
        encoded.append(len(line))
        return line

    monkeypatch.setattr("flux.wire.named._encode", encode)
    rows = [Conversation(n, "g", each, 0, 0, group=n) for n, each in enumerate(messages(["\x01" * 8000] * 1000), 1)]
    line = NAMED.reply(Chats(), ChatsOk(chats=rows))
    # The rows, and the line that they are put into.
    assert sum(encoded) <= 2 * MAX_REPLY + MAX_ROW
    reply = json.loads(line)
    assert reply["more"] is True
    assert len(line) <= MAX_REPLY < len(line) + MAX_ROW
    assert [row["chat"] for row in reply["chats"]] == list(range(1, len(reply["chats"]) + 1))


def test_no_row_is_longer_than_is_thought() -> None:
    most, text = "\x01" * 50, "\x01" * 500
    message = Message(MAX_ID, MAX_ID, MAX_ID, most, "\x01" * 8000, MAX_ID, MAX_ID, MAX_ID)
    rows = [
        Conversation(MAX_ID, most, message, MAX_ID, MAX_ID, MAX_ID, MAX_ID),
        ProfileView(MAX_ID, most, most, text, most, text),
    ]
    for row in rows:
        assert len(msgspec.json.encode(row)) < MAX_ROW


# --- the catalogue and the replies -------------------------------------------


def test_every_request_with_a_reply_has_a_struct_for_it() -> None:
    from flux.wire import replies
    from flux.wire.catalogue import Reply

    tags = {
        kind.__struct_config__.tag
        for kind in vars(replies).values()
        if isinstance(kind, type) and issubclass(kind, Reply)
    }
    for name, request in CHAT.requests.items():
        assert (f"{name}.ok" in tags) != request.no_reply
