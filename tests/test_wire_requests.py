"""The catalogue of requests: what each line becomes, and the precise error for each that is none."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.errors import UnknownType
from flux.wire.catalogue import Rejected, Request, RequestHelp
from flux.wire.named import NAMED
from flux.wire.requests import CHAT, Help, Ping

LARGEST = 2**63 - 1


class Kind(NamedTuple):
    """Values of a field: good ones, and bad ones by the error they get."""

    good: list[Any]
    bad_request: list[Any]
    too_large: list[Any] = []  # noqa: RUF012 - never changed


def text(least: int, most: int) -> Kind:
    good = ["x" * max(least, 1), "x" * most, "é" * most, "\U0001f600" * most]
    short = [""] if least else []
    return Kind(good, [*short, 1, None, True, ["x"], {"x": "x"}], ["x" * (most + 1), "é" * (most + 1)])


def whole(least: int) -> Kind:
    return Kind([least, LARGEST], [least - 1, -LARGEST, LARGEST + 1, 10**40, 1.5, "1", None, True, [1]])


ID, SEQ, COUNT = whole(1), whole(0), whole(1)
BOOL = Kind([True, False], [0, 1, "true", None])
HISTORY = Kind(["open", "joined"], ["closed", "", 1, None])
ROLE = Kind(["owner", "admin", "member"], ["king", "", 1, None])
NAME, SECRET, NICK, NOTE, DESCRIPTION = text(1, 50), text(0, 1024), text(0, 50), text(0, 200), text(0, 500)

#: Each request with its fields; those that must be there are in capitals.
FIELDS: dict[str, dict[str, Kind]] = {
    "register": {"NAME": NAME, "PASSWORD": SECRET, "email": text(0, 254), "code": NOTE, "nick": NICK},
    "login": {"id": ID, "name": NAME, "password": SECRET, "token": SECRET, "acks": BOOL},
    "logout": {},
    "send": {"TEXT": text(1, 8000), "to": ID, "group": ID, "cid": text(1, 64)},
    "received": {"CHAT": ID, "SEQ": SEQ},
    "read": {"CHAT": ID, "SEQ": SEQ},
    "history": {"chat": ID, "to": ID, "group": ID, "before": SEQ, "after": SEQ, "limit": COUNT},
    "chats": {},
    "typing": {"to": ID, "group": ID},
    "friend.add": {"TO": ID, "note": NOTE, "remark": NICK},
    "friend.answer": {"FROM": ID, "ACCEPT": BOOL, "remark": NICK},
    "friend.remove": {"ID": ID},
    "user.block": {"ID": ID},
    "user.unblock": {"ID": ID},
    "friends": {},
    "friend.requests": {},
    "group.create": {"NAME": NAME, "description": DESCRIPTION, "closed": BOOL, "history": HISTORY},
    "group.join": {"GROUP": ID},
    "group.leave": {"GROUP": ID},
    "group.add": {"GROUP": ID, "ID": ID},
    "group.remove": {"GROUP": ID, "ID": ID},
    "group.role": {"GROUP": ID, "ID": ID, "ROLE": ROLE},
    "groups": {},
    "group.members": {"GROUP": ID},
    "user.search": {"QUERY": NAME, "limit": COUNT},
    "profile.get": {"id": ID},
    "profile.set": {"nick": NICK, "description": DESCRIPTION, "sex": text(0, 20), "icon": text(0, 500)},
    "password.change": {"OLD": SECRET, "NEW": SECRET},
    "ping": {},
    "help": {"request": NICK},
}
REF = Kind(["x", "x" * 64, 1, -LARGEST, LARGEST], [True, 1.5, None, [1], LARGEST + 1], ["x" * 65])


def decode(value: object) -> Request:
    return CHAT.decode(json.dumps(value).encode())


def rejected(line: object) -> Rejected:
    with pytest.raises(Rejected) as caught:
        CHAT.decode(line if isinstance(line, bytes) else json.dumps(line).encode())
    return caught.value


def least(kind: str) -> dict[str, Any]:
    """A request with what it must have and no more."""
    return {"type": kind} | {name.lower(): values.good[0] for name, values in FIELDS[kind].items() if name.isupper()}


def test_the_table_here_is_the_whole_catalogue() -> None:
    assert list(CHAT.requests) == list(FIELDS)


@pytest.mark.parametrize("kind", FIELDS)
def test_every_good_value_of_every_field_arrives(kind: str) -> None:
    assert decode(least(kind)).type() == kind
    for name, values in FIELDS[kind].items():
        for good in values.good:
            request = decode(least(kind) | {name.lower(): good})
            assert getattr(request, "sender" if name == "FROM" else name.lower()) == good
    for ref in REF.good:
        assert decode(least(kind) | {"ref": ref}).ref == ref


@pytest.mark.parametrize("kind", FIELDS)
def test_unknown_fields_are_ignored(kind: str) -> None:
    assert decode(least(kind) | {"unknown": [{"a": [None, 1e300, 10**30]}]}) == decode(least(kind))


@pytest.mark.parametrize("kind", FIELDS)
def test_a_missing_field_is_named(kind: str) -> None:
    for name in FIELDS[kind]:
        if name.isupper():
            line = {key: value for key, value in least(kind).items() if key != name.lower()} | {"ref": 7}
            problem = rejected(line)
            assert (problem.error.name, problem.error.detail) == ("bad_request", f"{name.lower()}: missing")
            assert (problem.request, problem.ref) == (kind, 7)


@pytest.mark.parametrize("kind", FIELDS)
def test_a_bad_value_is_refused_and_its_field_named(kind: str) -> None:
    for name, values in FIELDS[kind].items():
        for error, bad_values in (("bad_request", values.bad_request), ("too_large", values.too_large)):
            for bad in bad_values:
                problem = rejected(least(kind) | {name.lower(): bad, "ref": "r"})
                assert (problem.error.name, problem.request, problem.ref) == (error, kind, "r"), bad
                assert problem.error.detail.startswith(f"{name.lower()}: "), problem.error.detail
                assert len(problem.error.detail) < 120


def test_a_bad_ref_is_refused_and_not_carried_back() -> None:
    for error, bad_values in (("bad_request", REF.bad_request), ("too_large", REF.too_large)):
        for bad in bad_values:
            problem = rejected({"type": "ping", "ref": bad})
            assert (problem.error.name, problem.request) == (error, "ping")
            assert "ref" not in json.loads(NAMED.error(problem.error, problem.request, problem.ref))


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b" ", "bad_json"),
        (b"hello", "bad_json"),
        (b"{'type':'ping'}", "bad_json"),
        (b'{"type":"ping"', "bad_json"),
        (b'{"type":"ping",}', "bad_json"),
        (b'{"type":"ping"} {"type":"ping"}', "bad_json"),
        (b'\xef\xbb\xbf{"type":"ping"}', "bad_json"),
        (b"[]", "bad_json"),
        (b'["type","ping"]', "bad_json"),
        (b"1", "bad_json"),
        (b"null", "bad_json"),
        (b'"ping"', "bad_json"),
        (b"{}", "bad_request"),
        (b'{"Type":"ping"}', "bad_request"),
        (b'{"type":null}', "bad_request"),
        (b'{"type":1}', "bad_request"),
        (b'{"type":["ping"]}', "bad_request"),
        (b'{"type":""}', "unknown_type"),
        (b'{"type":"PING"}', "unknown_type"),
        (b'{"type":"ping "}', "unknown_type"),
        (b'{"type":"ping.ok"}', "unknown_type"),
        (b'{"type":"error"}', "unknown_type"),
    ],
)
def test_what_is_no_request(line: bytes, error: str) -> None:
    assert rejected(line).error.name == error


HINT = '; a request is one JSON object a line: {"type":"help"} lists all'


@pytest.mark.parametrize(
    "line", [b"help", b"", b"[]", b'"help"', b"\xff", b"[" * 60_000, b'["\\u0000"]', b"{type:'login'}"]
)
def test_who_types_something_else_is_told_what_a_request_is(line: bytes) -> None:
    assert rejected(line).error.detail.endswith(HINT)


USER_ID = "expected a user's id, an integer; user.search finds it"
GROUP_ID = "expected a group's id, an integer; the request groups lists yours"
CHAT_ID = "expected a chat's id, an integer; the request chats lists yours"


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (b"{}", 'type: missing; {"type":"help"} lists all'),
        (b'{"type":["send"]}', 'type: expected string; {"type":"help"} lists all'),
        (b"\xff\xfb\x18", "not UTF-8" + HINT),
        ({"type": "send", "to": "ann", "text": "x"}, f"to: {USER_ID}"),
        ({"type": "send", "to": 0, "text": "x"}, f"to: {USER_ID}"),
        ({"type": "friend.answer", "from": "ann", "accept": True}, f"from: {USER_ID}"),
        (
            {"type": "group.join", "group": "tea"},
            f"group: {GROUP_ID}",
        ),
        (
            {"type": "read", "chat": "x", "seq": 1},
            f"chat: {CHAT_ID}",
        ),
        ({"type": "login", "id": "ann"}, "id: expected integer, got string"),
        ({"type": "group.role", "group": 1, "id": 2, "role": "king"}, "role: expected one of owner, admin, member"),
        ({"type": "group.create", "name": "x", "history": 1}, "history: expected one of open, joined"),
        ({"type": "send", "to": 2, "text": ""}, "text: must not be empty"),
        ({"type": "send", "to": 2, "text": ["x"]}, "text: expected string, got array"),
        ({"type": "friend.answer", "from": 2, "accept": "yes"}, "accept: expected boolean, got string"),
        ({"type": "ping", "ref": 1.5}, "ref: expected integer or string, got number"),
        ({"type": "read", "chat": 1, "seq": -1}, "seq: expected integer >= 0"),
        ({"type": "register", "name": "x" * 51, "password": "x"}, "name: at most 50 characters"),
        (b'{"type":"send","to":2,"text":"a\\u0000"}', "text: U+0000 is not allowed in a string"),
    ],
)
def test_what_is_wrong_is_said_in_the_words_of_json(line: object, detail: str) -> None:
    assert rejected(line).error.detail == detail


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b'{"type":"send","to":2,"text":"\xff"}',
        b'{"type":"send","to":2,"text":"\xc0\x80"}',
        b'{"type":"send","to":2,"text":"\xed\xa0\x80"}',
        b'{"type":"send","to":2,"text":"\xf4\x90\x80\x80"}',
        b'{"type":"ping","ignored":"\xff"}',
        b'{"type":"ping","ignored":"\xed\xa0\x80"}',
        b'{"type":"ping","\xff":1}',
    ],
)
def test_what_is_not_utf_8(line: bytes) -> None:
    assert rejected(line).error.name == "bad_json"


@pytest.mark.parametrize("where", ['{"type":"send","to":2,"text":"%s"}', '{"type":"ping","x":"%s"}', '{"%s":1}'])
@pytest.mark.parametrize("surrogate", [r"\ud800", r"\udfff", r"a\uD83D b", r"\ude00\ud83d", r"\ud83d\ud83d\ude00"])
def test_lone_surrogates_are_refused_everywhere(where: str, surrogate: str) -> None:
    assert rejected((where % surrogate).encode()).error.name == "bad_json"


def test_pairs_of_surrogates_are_one_character() -> None:
    assert decode({"type": "send", "to": 2, "text": "\U0001f600"}).text == "\U0001f600"


@pytest.mark.parametrize("where", ['"text":"%s"', '"cid":"%s"', '"x":"%s"', '"x":[{"y":"%s"}]', '"%s":1', '"ref":"%s"'])
def test_nul_is_refused_everywhere(where: str) -> None:
    line = '{"type":"send","to":2,"text":"hello",' + where % r"a\u0000b" + "}"
    problem = rejected(line.encode())
    assert (problem.error.name, problem.request) == ("bad_request", "send")
    field = where.split('"')[1].replace("%s", "")
    assert problem.error.detail == (f"{field}: " if field else "") + "U+0000 is not allowed in a string"


def test_an_escaped_backslash_before_u0000_is_no_nul() -> None:
    assert decode({"type": "send", "to": 2, "text": r"\u0000"}).text == r"\u0000"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "nan", "01", "+1", ".5", "1.", "0x10"])
def test_numbers_that_json_does_not_know(number: str) -> None:
    for line in (f'{{"type":"history","chat":{number}}}', f'{{"type":"ping","x":{number}}}'):
        assert rejected(line.encode()).error.name == "bad_json"


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" + "0" * 400, "1" + "0" * 100_000, "1e5", "0.5"])
def test_numbers_that_are_no_identifiers(number: str) -> None:
    problem = rejected(f'{{"type":"group.join","group":{number},"ref":5}}'.encode())
    assert (problem.error.name, problem.request, problem.ref) == ("bad_request", "group.join", 5)
    assert problem.error.detail.startswith("group: ")


@pytest.mark.parametrize("depth", [2_000, 60_000])
@pytest.mark.parametrize(
    "opening", ['{"type":"ping","x":', '{"type":"send","text":', "", '{"type":"ping","x":"\\u0000","y":']
)
def test_deep_nesting(opening: str, depth: int) -> None:
    for line in (opening + "[" * depth, opening + "[" * depth + "]" * depth + ("}" if opening else "")):
        assert rejected(line.encode()).error.name == "bad_json"
    objects = opening + '{"a":' * depth + "1" + "}" * depth + ("}" if opening else "")
    assert rejected(objects.encode()).error.name in ("bad_json", "bad_request")


def test_the_same_field_twice_is_one_request_or_one_error() -> None:
    assert CHAT.decode(b'{"type":"ping","ref":1,"ref":2}') == Ping(ref=2)
    assert rejected(b'{"type":"ping","type":"help"}').error.name == "bad_request"


def test_an_unknown_type_says_what_to_do_and_repeats_little() -> None:
    problem = rejected({"type": "x" * 5000, "ref": 3})
    assert problem.error.name == "unknown_type"
    assert problem.ref == 3
    assert '{"type":"help"}' in problem.error.detail
    assert len(problem.error.detail) < 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
FIELD_NAMES = st.sampled_from(sorted({"ref"} | {name.lower() for fields in FIELDS.values() for name in fields}))
REQUESTS = st.builds(
    lambda kind, fields: {"type": kind} | fields,
    st.sampled_from([*FIELDS, "nope"]),
    st.dictionaries(FIELD_NAMES | st.text(max_size=3), JSON, max_size=6),
)


def one_line(line: bytes) -> dict[str, Any]:
    """The object on a line that is well-formed for clients."""
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    found: dict[str, Any] = json.loads(line)
    return found


def error_line(line: bytes) -> dict[str, Any] | None:
    """The error that a line gets; None for a request."""
    try:
        CHAT.decode(line)
    except Rejected as problem:
        return one_line(NAMED.error(problem.error, problem.request, problem.ref))
    return None


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_line_is_a_request_or_one_error(line: bytes) -> None:
    assert (error_line(line) or {"type": "error"})["type"] == "error"


@given(REQUESTS)
def test_any_fields_are_a_request_or_one_error(request: dict[str, Any]) -> None:
    error = error_line(json.dumps(request).encode())
    if error is not None:
        assert error["name"] in ("bad_json", "bad_request", "too_large", "unknown_type")
        assert error.get("request", request["type"]) == request["type"]
        assert error.get("ref", request.get("ref")) == request.get("ref")


# --- help --------------------------------------------------------------------


def help_of(wanted: str = "") -> list[RequestHelp]:
    return msgspec.json.decode(CHAT.help(wanted), type=list[RequestHelp])


def test_help_explains_every_request_with_its_fields() -> None:
    for entry, (kind, fields) in zip(help_of(), FIELDS.items(), strict=True):
        assert entry.type == kind
        assert entry.about.endswith(".")
        assert set(entry.fields) == {name.lower() for name in fields}
        for name in fields:
            assert entry.fields[name.lower()].endswith(", optional") == name.islower()
            assert not entry.fields[name.lower()].startswith("value")
        assert entry.answer.startswith(f"{kind}.ok") or kind in ("received", "read", "typing")


def test_help_on_one_request() -> None:
    [entry] = help_of("group.role")
    assert entry.fields == {"group": "integer", "id": "integer", "role": "one of owner, admin, member"}
    assert help_of(Help.type())[0].fields == {"request": "string of at most 50, optional"}
    with pytest.raises(UnknownType):
        CHAT.help("nope")


def test_help_is_encoded_once() -> None:
    for wanted in ("", "send"):
        assert CHAT.help(wanted) is CHAT.help(wanted)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("sned", "send"), ("group.mebmers", "group.members"), ("logn", "login"), ("join", ""), ("x" * 1000, "")],
)
def test_a_slip_of_the_fingers_is_told_what_it_looks_like(typed: str, meant: str) -> None:
    with pytest.raises(Rejected) as rejected:
        CHAT.decode(b'{"type":"%s"}' % typed.encode())
    detail = rejected.value.error.detail
    assert f"{typed[:50]!r} is not a request of this port; " in detail
    assert (f'did you mean "{meant}"?' in detail) == bool(meant)
    assert '{"type":"help"}' in detail
