"""The numbered dialect as pure functions: its requests, its objects, and what fits into a login's answer."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from flux.errors import (
    AlreadyLoggedIn,
    FluxError,
    Forbidden,
    LineTooLong,
    PasswordInvalid,
    RateLimited,
    Unavailable,
    UserExists,
)
from flux.model.chats import Group
from flux.model.events import FriendAnswered, FriendRequested, GroupChanged, Kicked, Moved, Presence, ReadUpTo, Typing
from flux.model.messages import Message, Receipt
from flux.model.people import Profile
from flux.wire import replies, requests
from flux.wire.catalogue import Rejected
from flux.wire.named import sniff
from flux.wire.numbered import MAX_LOGIN_ANSWER, NUMBERED, OneSidedFriendAdd
from flux.wire.replies import FriendView, MemberView

DIALECT = NUMBERED[b"\n"]
LARGEST = 2**63 - 1


def decode(value: object, uid: int = 7) -> object:
    return DIALECT.decode(json.dumps(value).encode(), uid)


# --- requests ----------------------------------------------------------------

REQUESTS: list[tuple[dict[str, Any], object]] = [
    ({"msgid": 1, "id": 9, "password": "123456"}, requests.Login(id=9, password="123456")),
    ({"msgid": 3, "id": 7}, requests.Logout()),
    ({"msgid": 4, "name": "zhang san", "password": "1"}, requests.Register(name="zhang san", password="1")),
    (
        {"msgid": 6, "id": 7, "name": "me", "toid": 9, "msg": "hi", "time": "2026-11-20 10:00:00"},
        requests.Send(text="hi", to=9),
    ),
    ({"msgid": 7, "id": 7, "friendid": 9}, OneSidedFriendAdd(to=9)),
    (
        {"msgid": 8, "id": 7, "groupname": "us", "groupdesc": "all of us"},
        requests.GroupCreate(name="us", description="all of us"),
    ),
    ({"msgid": 8, "id": 7, "groupname": "us"}, requests.GroupCreate(name="us")),
    ({"msgid": 9, "id": 7, "groupid": 5}, requests.GroupJoin(group=5)),
    (
        {"msgid": 10, "id": 7, "name": "me", "groupid": 5, "msg": "hi", "time": "now"},
        requests.Send(text="hi", group=5),
    ),
]


@pytest.mark.parametrize(("line", "request_"), REQUESTS, ids=lambda value: str(value)[:20])
def test_each_request(line: dict[str, Any], request_: object) -> None:
    assert decode(line) == request_
    assert type(decode(line)) is type(request_)
    assert decode({**line, "unknown": [None, 1e300]}) == request_


@pytest.mark.parametrize(("line", "request_"), REQUESTS, ids=lambda value: str(value)[:20])
def test_fields_that_are_missing_or_wrong(line: dict[str, Any], request_: object) -> None:
    for name in line.keys() - {"name", "time", "groupdesc"} | ({"name"} if line["msgid"] == 4 else set()):
        without = {key: value for key, value in line.items() if key != name}
        for bad in (without, *({**line, name: value} for value in (None, True, [1], -1, 1.5, {}, LARGEST + 1))):
            with pytest.raises(Rejected):
                decode(bad)


@pytest.mark.parametrize("line", [line for line, _ in REQUESTS if "id" in line and line["msgid"] != 1])
def test_requests_in_the_name_of_another_account_are_refused(line: dict[str, Any]) -> None:
    for uid in (0, 8):
        with pytest.raises(Rejected, match="account"):
            decode(line, uid)


@pytest.mark.parametrize("number", [0, 2, 5, 11, -1, LARGEST, "1", None, 1.5, [1]])
def test_numbers_that_are_no_request(number: object) -> None:
    with pytest.raises(Rejected):
        decode({"msgid": number, "id": 7, "password": "123456", "name": "x", "toid": 9, "msg": "hi"})


@pytest.mark.parametrize(
    "line", [b"", b"hello", b"[]", b"1", b'{"msgid":3', b'{"type":"ping"}', b"\xff", b"[" * 60_000, b'{"msgid":NaN}']
)
def test_lines_that_are_no_request(line: bytes) -> None:
    with pytest.raises(Rejected):
        DIALECT.decode(line, 7)


def test_nul_is_refused_and_an_escaped_backslash_before_u0000_is_none() -> None:
    with pytest.raises(Rejected, match=r"U\+0000"):
        decode({"msgid": 6, "id": 7, "toid": 9, "msg": "a\0b"})
    assert decode({"msgid": 6, "id": 7, "toid": 9, "msg": r"\u0000"}) == requests.Send(text=r"\u0000", to=9)


@given(st.binary(max_size=100))
def test_any_line_is_a_request_or_dropped(line: bytes) -> None:
    answer = b""
    try:
        DIALECT.decode(line, 7)
    except Rejected as problem:
        answer = DIALECT.error(problem.error, problem.request, problem.ref)
    assert answer == b""


@pytest.mark.parametrize(
    ("line", "numbered"),
    [
        (b'{"msgid":1}', True),
        (b'{"msgid":"x"}', True),
        (b' {"a":1,"msgid":null} ', True),
        (b'{"msgid":1,"type":"login"}', False),
        (b'{"type":"login"}', False),
        (b'{"x":{"msgid":1}}', False),
        (b'["msgid"]', False),
        (b'"msgid"', False),
        (b'{"msgid":1', False),
        (b"msgid", False),
        (b"\xff", False),
        (b"[" * 100_000, False),
        (b'{"msgid":1,"x":' + b"[" * 100_000, False),
    ],
)
def test_the_first_line_tells_the_dialect(line: bytes, numbered: bool) -> None:
    assert sniff(line) is numbered


# --- objects -----------------------------------------------------------------


def message(seq: int = 1, text: str = "hi", group: int = 0, at: int = 1_795_000_000_000) -> Message:
    return Message(3, seq, 9, "bob", text, at, UNSET if group else 7, group or UNSET)


@pytest.mark.parametrize(("zone", "at"), [("UTC0", "11:06:40"), ("CST-8", "19:06:40"), ("NST3:30", "07:36:40")])
def test_messages_have_the_senders_name_and_the_time_of_this_server(zone: str, at: str, monkeypatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert json.loads(DIALECT.event(message())) == {
            "msgid": 6, "id": 9, "name": "bob", "toid": 7, "msg": "hi", "time": f"2026-11-18 {at}",
        }  # fmt: skip
        assert json.loads(DIALECT.event(message(group=5))) == {
            "msgid": 10, "id": 9, "name": "bob", "groupid": 5, "msg": "hi", "time": f"2026-11-18 {at}",
        }  # fmt: skip
    finally:
        monkeypatch.undo()
        time.tzset()


EVENTS = [
    ReadUpTo(1, 2, 3), Typing(1, 2), Presence(1, True), FriendRequested(1, "a", ""), FriendAnswered(1, "accepted"),
    GroupChanged(1, "join", 2), Kicked("takeover"), Moved("h", 1, "drain", 1000),
]  # fmt: skip
REPLIES = [
    replies.LogoutOk(), replies.PingOk(at=1), replies.GroupCreateOk(group=1, chat=1, name="x"),
    replies.FriendAddOk(to=1, status="pending"), replies.GroupJoinOk(group=1, chat=1),
]  # fmt: skip


@pytest.mark.parametrize("dialect", NUMBERED.values())
def test_what_the_dialect_has_no_word_for_is_not_written(dialect) -> None:
    assert [dialect.event(event) for event in EVENTS] == [b""] * len(EVENTS)
    assert [dialect.reply(requests.Ping(), reply) for reply in REPLIES] == [b""] * len(REPLIES)
    assert dialect.send_ok(requests.Send(text="x", to=1), Receipt(1, 1, 1, False, 1)) == b""
    for kind in (*requests.CHAT.requests.keys() - {"login", "register"}, UNSET):
        for error in (Forbidden("x"), LineTooLong("x"), RateLimited("x")):
            assert dialect.error(error, kind) == b""


@pytest.mark.parametrize("end", NUMBERED)
def test_objects_end_as_the_connection_does(end: bytes) -> None:
    dialect = NUMBERED[end]
    lines = [
        dialect.event(message(text="a\nb\0c")),
        dialect.reply(requests.Register(name="x", password="y"), replies.RegisterOk(id=22, name="x")),
        dialect.error(PasswordInvalid(), "login"),
        dialect.error(UserExists(), "register"),
        dialect.login_answer(Profile(7, "ann"), [], [], [])[0],
    ]
    for line in lines:
        assert line.endswith(end)
        assert not set(b"\n\0") & set(line[:-1])
        assert "msgid" in json.loads(line[:-1])


def test_the_answers_to_a_registration() -> None:
    register = requests.Register(name="zhang san", password="123456")
    assert DIALECT.reply(register, replies.RegisterOk(id=22, name="zhang san")) == b'{"msgid":5,"errno":0,"id":22}\n'
    assert json.loads(DIALECT.error(UserExists(), "register")) == {"msgid": 5, "errno": 1}


@pytest.mark.parametrize(
    ("error", "number"),
    [(PasswordInvalid(), 1), (AlreadyLoggedIn("in use"), 2), (Unavailable(), 1), (RateLimited(), 1)],
)
def test_the_answers_to_a_failed_login(error: FluxError, number: int) -> None:
    answer = json.loads(DIALECT.error(error, "login"))
    assert answer.pop("errmsg")
    assert answer == {"msgid": 2, "errno": number}


# --- the answer to a login ---------------------------------------------------

ANN = Profile(7, "ann")
US = Group(5, 5, "us", "all of us", "member")


def answer(*what: Any) -> tuple[dict[str, Any], int]:
    line, packed = DIALECT.login_answer(*what)
    return json.loads(line), packed


def test_a_login_without_anything() -> None:
    assert answer(ANN, [], [], []) == ({"msgid": 2, "errno": 0, "id": 7, "name": "ann"}, 0)


def test_friends_and_groups_are_strings_of_json() -> None:
    friends = [FriendView(9, "bob", "bobby", "mate", True), FriendView(10, "cy", "", "", False)]
    members = [
        MemberView(9, "bob", "owner", True),
        MemberView(7, "ann", "admin", True),
        MemberView(8, "d", "member", False),
    ]
    found, _ = answer(ANN, friends, [(US, members)], [])
    assert [json.loads(friend) for friend in found["friends"]] == [
        {"id": 9, "name": "bob", "state": "online"},
        {"id": 10, "name": "cy", "state": "offline"},
    ]
    [group] = [json.loads(group) for group in found["groups"]]
    users = [json.loads(user) for user in group.pop("users")]
    assert group == {"id": 5, "groupname": "us", "groupdesc": "all of us"}
    assert users == [
        {"id": 9, "name": "bob", "state": "online", "role": "creator"},
        {"id": 7, "name": "ann", "state": "online", "role": "normal"},
        {"id": 8, "name": "d", "state": "offline", "role": "normal"},
    ]


TEXTS = st.lists(st.text(max_size=200) | st.just("x" * 40), max_size=30)


@given(TEXTS, st.integers(0, 12), st.sampled_from([b"\n", b"\0"]))
def test_offline_messages_ride_along_while_they_fit(texts: list[str], friends: int, end: bytes) -> None:
    dialect = NUMBERED[end]
    views = [FriendView(n, "somebody", "", "", False) for n in range(1, friends + 1)]
    offline = [message(seq, text, group=seq % 2 * 5) for seq, text in enumerate(texts, 1)]
    line, packed = dialect.login_answer(ANN, views, [], offline)
    found = json.loads(line[:-1])
    strings = found.get("offlinemsg", [])
    assert len(strings) == packed
    assert [json.loads(each) for each in strings] == [json.loads(dialect.event(m)[:-1]) for m in offline[:packed]]
    if packed:
        assert len(line) <= MAX_LOGIN_ANSWER
    if packed < len(offline):
        one_more = {**found, "offlinemsg": [*strings, dialect.event(offline[packed])[:-1].decode()]}
        assert len(json.dumps(one_more, ensure_ascii=False, separators=(",", ":")).encode()) + 1 > MAX_LOGIN_ANSWER
    assert ("offlinemsg" in found) == bool(packed)


def test_an_answer_that_is_long_without_messages_is_whole() -> None:
    friends = [FriendView(n, "somebody", "", "", False) for n in range(1, 100)]
    found, packed = answer(ANN, friends, [], [message()])
    assert len(found["friends"]) == 99
    assert packed == 0
