"""The terminal client's parts: safe text, wrapping, the table of commands, completion, names."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.client import NotConnected
from flux.client.terminal import actions as _actions  # noqa: F401 - fills the table of commands
from flux.client.terminal import render
from flux.client.terminal.commands import COMMANDS, Argument, Unknown, complete, help_lines, parse
from flux.client.terminal.roster import Ambiguous, Offer, Roster, Target, quoted
from flux.client.terminal.text import INDENT, clean, paragraphs, plain, wrap
from flux.errors import BadRequest, Forbidden, PasswordInvalid, RateLimited, TooLarge, Unavailable, UserExists
from flux.lifecycle import DeadlineExceeded
from flux.model.chats import Group
from flux.model.messages import Message
from flux.wire.replies import FriendView, LoginOk, Unread

# --- text --------------------------------------------------------------------


@given(st.text())
def test_cleaned_text_holds_nothing_a_terminal_obeys(text: str) -> None:
    for char in clean(text):
        assert char in "\u200c\u200d" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("hello wörld, 你好 👩‍🚀 🇩🇪", "hello wörld, 你好 👩‍🚀 🇩🇪"),
        ("\x1b[31mred\x07", "␛[31mred␇"),
        ("\x9b31m", "\ufffd31m"),
        ("a\tb\nc", "a    b c"),
        ("\x7f\x00", "␡␀"),
        ("abc\u202edcba\u2066", "abc\ufffddcba\ufffd"),
        ("non\u00a0breaking", "non\u00a0breaking"),
        ("line\u2028separator", "line\ufffdseparator"),
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_paragraphs_are_indented() -> None:
    assert paragraphs("one\r\ntwo\x1b\n\n") == "one\n" + " " * INDENT + "two␛"


@given(st.lists(st.text("ab \n", min_size=1, max_size=30), min_size=1, max_size=8), st.integers(20, 60))
def test_wrapped_lines_fit_and_nothing_but_spaces_is_lost(texts: list[str], columns: int) -> None:
    line = [("class:x", text) for text in texts]
    wrapped = plain(wrap(line, columns, len))
    assert "".join(wrapped.split()) == "".join(plain(line).split())
    assert wrapped.count("\n") >= plain(line).count("\n")
    if max(map(len, plain(line).split()), default=0) <= columns - INDENT:
        assert all(len(part) <= columns for part in wrapped.split("\n"))
    assert not any(part.endswith(" ") for part in wrapped.split("\n"))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "to a person or #group; from then on plain lines",
            ["to a person or #group; from then on plain", "      lines"],
        ),
        ("x" * 42 + " y", ["x" * 42, "      y"]),
        ("x" * 40 + " " * 9 + "y", ["x" * 40, "      y"]),
        (" " * 60 + "x", [" " * 41 + "x"]),
        ("one \n" + " " * 60 + "x ", ["one", " " * 41 + "x"]),
        ("  a  b  ", ["  a  b"]),
    ],
)
def test_spaces_where_a_line_ends_are_left_out(text: str, lines: list[str]) -> None:
    assert plain(wrap([("", text)], 42, len)).split("\n") == lines


def test_wrapping_leaves_long_words_to_the_terminal() -> None:
    address = "https://example.org/" + "x" * 100
    assert plain(wrap([("", "see " + address)], 40, len)) == "see " + address


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (RateLimited("", 1500), "Too many attempts: try again in 2 s."),
        (Unavailable("the store is away"), "The server cannot do that right now: try again in a moment."),
        (UserExists("taken"), "This name is taken: choose another one."),
        (DeadlineExceeded("x: nothing after 30 s"), "The server did not answer in time: try again."),
        (NotConnected("not connected"), "This needs the server: try again when the connection is back."),
        (Forbidden("you are not a member"), "You are not a member."),
        (Forbidden("\x1b[2Jno"), "␛[2Jno."),
        (Forbidden(""), "Forbidden."),
        (BadRequest("to: this is yourself"), "This is yourself."),
        (BadRequest("email: this is no e-mail address"), "This is no e-mail address."),
        (PasswordInvalid("old: this is not the current password"), "This is not the current password."),
        (BadRequest("name: no control characters"), "Name: no control characters."),
        (TooLarge("text: at most 8000 characters"), "Text: at most 8000 characters."),
    ],
)
def test_errors_are_sentences(problem: Exception, told: str) -> None:
    assert render.sentence(problem) == told


# --- commands ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "name", "arguments"),
    [
        ("/msg bob hello  there", "msg", "bob hello  there"),
        ("/MSG bob", "msg", "bob"),
        ("/group create book club", "group create", "book club"),
        ("/group  Leave", "group leave", ""),
        ("/groups", "groups", ""),
        ("/help group create", "help", "group create"),
        ("/quit", "quit", ""),
    ],
)
def test_parse(line: str, name: str, arguments: str) -> None:
    parsed = parse(line)
    assert parsed is not None
    assert (parsed[0].name, parsed[1]) == (name, arguments)


@pytest.mark.parametrize("line", ["hello", "//not a command", "a /msg"])
def test_parse_leaves_messages(line: str) -> None:
    assert parse(line) is None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/", "type a command"),
        ("/mgs bob", r"did you mean /msg\?"),
        ("/serch bob", r"did you mean /search\?"),
        ("/join 12", r"did you mean /group join\?"),
        ("/xyzzy", "/help lists all"),
        ("/group", "one of: create, join, leave, members"),
        ("/group dance", "one of: create"),
    ],
)
def test_parse_helps_with_mistakes(line: str, told: str) -> None:
    with pytest.raises(Unknown, match=told):
        parse(line)


def test_every_command_is_in_the_help() -> None:
    told = "\n".join(plain(line) for line in help_lines())
    for command in COMMANDS.values():
        assert f"/{command.name} " in told
        assert command.about in told
    assert len(help_lines("/group")) == 7
    assert len(help_lines("msg")) == 1
    with pytest.raises(Unknown):
        help_lines("nonsense")


def test_the_promised_commands_exist() -> None:
    plain_ones = """msg open add accept reject block unblock remove friends requests groups chats history search
        profile passwd who logout quit help"""
    of_groups = "create join leave members add remove role"
    assert set(COMMANDS) == {*plain_ones.split(), *(f"group {what}" for what in of_groups.split())}


def offers(kind: Argument) -> list[Offer]:
    twins = [Offer("#6", "#tea time (6)"), Offer("#7", "#Tea Time (7)")]
    return {
        "target": [Offer("bob"), Offer('"zhang san"'), Offer("#python"), *twins],
        "person": [Offer("bob"), Offer('"zhang san"')],
        "command": [Offer("msg"), Offer("quit")],
    }.get(kind, [])


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ("/m", ["/msg "]),
        ("/quit", ["/quit"]),
        ("/re", ["/requests", "/reject ", "/remove "]),
        ("/msg ", ["bob ", '"zhang san" ', "#python ", "#6 ", "#7 "]),
        ("/msg #te", ["#6 ", "#7 "]),
        ('/msg #"tea t', ["#6 ", "#7 "]),
        ("/msg #7", ["#7 "]),
        ("/msg B", ["bob "]),
        ("/msg zh", ['"zhang san" ']),
        ('/msg "zhang s', ['"zhang san" ']),
        ("/msg #p", ["#python "]),
        ("/msg bob he", []),
        ("/add #", []),
        ("/group cr", ["/group create "]),
        ("/help q", ["quit "]),
        ("hello", []),
        ("//m", []),
    ],
)
def test_complete(line: str, texts: list[str]) -> None:
    assert [found.text for found in complete(line, offers)] == texts


def test_completion_replaces_what_was_typed_of_the_word() -> None:
    [found] = complete('/msg "zhang s', offers)
    assert found.replaces == len('"zhang s')
    [found, _] = complete("/msg #te", offers)
    assert (found.replaces, found.about) == (3, "#tea time (6)")
    [found] = complete("/gROUP cr", offers)
    assert found.replaces == len("/gROUP cr")


# --- the roster --------------------------------------------------------------


def roster(groups: tuple[str, ...] = ("python", "book club")) -> Roster:
    known = Roster()
    known.logged_in(
        LoginOk(
            server="chat1", id=7, name="ann", nick="", description="", sex="", icon="",
            friends=[FriendView(8, "bob", "", "", True), FriendView(9, "Zhang San", "", "boss", False)],
            friend_requests=[],
            groups=[Group(30 + index, 30 + index, name, "", "member") for index, name in enumerate(groups)],
            unread=[Unread(chat=100, to=8, count=2, head=5)],
        )
    )  # fmt: skip
    return known


BOB, ZHANG, PYTHON, CLUB = Target(to=8), Target(to=9), Target(group=30), Target(group=31)


@pytest.mark.parametrize(
    ("text", "target", "rest"),
    [
        ("bob hello there", BOB, "hello there"),
        ("BOB", BOB, ""),
        ("zhang san hello", ZHANG, "hello"),
        ('"Zhang San" hello', ZHANG, "hello"),
        ("zhang hello", "zhang", "hello"),
        ("#python hi", PYTHON, "hi"),
        ("python hi", PYTHON, "hi"),
        ("#book club hi", CLUB, "hi"),
        ('#"book club" hi', CLUB, "hi"),
        ("8 hi", BOB, "hi"),
        ("#31 hi", CLUB, "hi"),
        ("#99 hi", "#99", "hi"),
        ("nobody", "nobody", ""),
        ("", "", ""),
    ],
)
def test_names_are_found_as_they_are_typed(text: str, target: Target | str, rest: str) -> None:
    assert roster().split(text) == (target, rest)


def test_what_completion_offers_is_understood() -> None:
    known = roster()
    names = [name.text for name in known.names()]
    assert names == ["bob", '"Zhang San"', '#"book club"', "#python"]
    assert [known.split(f"{name} text") for name in names] == [
        (target, "text") for target in (BOB, ZHANG, CLUB, PYTHON)
    ]
    assert quoted("#a b") == '#"a b"'


def test_groups_of_one_name_are_told_apart_by_number() -> None:
    known = roster(("twins", "Twins"))
    with pytest.raises(Ambiguous) as several:
        known.find("#twins")
    assert several.value.targets == [Target(group=30), Target(group=31)]
    assert known.label(Target(group=31)) == "#Twins (31)"
    assert known.names()[-2:] == [("#30", "#twins (30)"), ("#31", "#Twins (31)")]
    assert known.find("#31") == Target(group=31)


def message(seq: int, sender: int = 8, **to: int) -> Message:
    return Message(chat=100, seq=seq, sender=sender, name="bob", text="x", at=1000, **(to or {"to": 7}))


def test_unread_counts() -> None:
    known = roster()
    assert known.unread() == [(BOB, 2)]
    for seq in (4, 5):
        known.came(message(seq))
    assert known.unread() == [(BOB, 2)], "the login had counted them"
    known.came(message(6))
    known.came(message(6))
    assert known.unread() == [(BOB, 3)]
    known.looked_up(message(9))
    assert known.unread() == [(BOB, 3)], "history is not news"
    known.current = BOB
    assert known.unread() == []


def test_a_group_one_left_keeps_its_name_on_the_screen() -> None:
    known = roster()
    known.current = PYTHON
    known.set_groups([])
    assert known.label(PYTHON) == "#python"
    assert known.current is None
    assert known.find("#python") is None
