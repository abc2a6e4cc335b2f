"""At the terminal: what is shown of a conversation, and what becomes of what is typed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from scripted_server import PROFILE, result
from terminal_session import AT, FULL, MEMBERS, Session, sessions, welcomed

from flux.client.terminal.chat import MAX_TYPED_AHEAD, TYPING_EVERY
from flux.client.terminal.toolbar import TYPING_FOR


@pytest.fixture
def begin() -> Iterator[Callable[..., Session]]:
    with sessions() as begin:
        yield begin


@pytest.fixture
def session(begin: Callable[..., Session]) -> Session:
    return welcomed(begin)


# --- after logging in --------------------------------------------------------


def test_the_welcome_shows_who_and_what_there_is(begin: Callable[..., Session]) -> None:
    session = begin(**FULL)
    session.answer("group.members", members=MEMBERS)
    assert session.new() == [
        "",
        "Welcome, ann  id 7, on chat1",
        "  dave wants to be your friend: “it's me”  /accept dave or /reject dave",
        "Friends",
        "  ● bob",
        "  ○ zhang san (Zed)",
        "Groups",
        "  #python (number 30, owner)  ● you owner, ○ zhang san admin, ● carol",
        "Unread  bob 2",
        "/msg NAME TEXT talks to somebody, /help lists all commands, Tab completes.",
        "",
    ]
    assert session.screen.toolbar() == " ● ann on chat.example:8090 │ unread: bob 2"
    assert session.screen.prompt() == "> "


def test_missed_messages_come_after_the_welcome_with_their_times(begin: Callable[..., Session]) -> None:
    session = begin(**FULL)
    session.message(3, "are you there?")
    session.message(4, "hello?")
    session.message(5, "now live")
    assert session.new() == []
    session.answer("group.members", members=MEMBERS)
    assert session.new()[-5:] == [
        "Missed messages",
        "── Sunday 9 September 2001 ──",
        "01:49 bob: are you there?",
        "01:50 bob: hello?",
        "01:51 bob: now live",
    ]
    assert "unread: bob 3" in session.screen.toolbar()


def test_the_welcome_tells_name_and_nick_where_they_differ(begin: Callable[..., Session]) -> None:
    assert "Welcome, Annie  ann, id 7, on chat1" in begin(nick="Annie").new()
    assert "Welcome, ann  id 7, on chat1" in begin(nick="ann").new()


def test_strangers_who_wrote_are_called_by_their_names(begin: Callable[..., Session]) -> None:
    session = begin(unread=[{"chat": 100, "to": 44, "count": 1, "head": 1}])
    request = session.answer("profile.get", id=44, name="erin", nick="", description="", sex="", icon="")
    assert request["id"] == 44
    assert "Unread  erin 1" in session.new()


def test_an_empty_account_is_told_what_to_do(begin: Callable[..., Session]) -> None:
    lines = begin().new()
    assert "  no friends yet: /search NAME finds people, /add NAME asks them" in lines
    assert "  no groups yet: /group create NAME makes one, /group join ID joins one" in lines


# --- talking -----------------------------------------------------------------


def test_msg_sends_and_makes_it_the_current_conversation(session: Session) -> None:
    session.type("/msg zhang san hello there")
    assert session.screen.prompt() == "zhang san> "
    assert session.new() == ["› /msg zhang san hello there"]
    request = session.link.take("send")
    assert (request["to"], request["text"]) == (9, "hello there")
    session.link.ok(request, chat=200, seq=1, at=AT, duplicate=False)
    session.settle()
    assert session.new() == ["── Sunday 9 September 2001 ──", "01:46 you → zhang san: hello there ✓"]
    session.type("and more")
    assert session.link.take("send")["to"] == 9


def test_lines_typed_while_a_name_is_looked_up_go_where_they_were_meant(session: Session) -> None:
    session.talk_to_bob()
    session.type("/msg erin hi")
    session.type("for erin, too")
    assert session.link.types() == ["user.search"]
    erin = {"id": 44, "name": "Erin", "nick": "", "description": "", "sex": "", "icon": ""}
    session.answer("user.search", users=[erin])
    request = session.link.take("send")
    assert request["to"] == 44
    session.link.ok(request, chat=200, seq=1, at=AT, duplicate=False)
    session.settle()
    assert (session.link.take("send")["to"], session.screen.prompt()) == (44, "Erin> ")


def test_strangers_with_spaces_in_their_names_are_found(session: Session) -> None:
    session.type("/msg wang wu hello")
    found = {"nick": "", "description": "", "sex": "", "icon": ""}
    request = session.answer(
        "user.search", users=[{"id": 50, "name": "Wang", **found}, {"id": 51, "name": "wang wu", **found}]
    )
    assert request["query"] == "wang"
    request = session.link.take("send")
    assert (request["to"], request["text"]) == (51, "hello")


def test_nobody_of_that_name(session: Session) -> None:
    session.type("/msg nobody hi")
    session.answer("user.search", users=[])
    assert session.new()[-1].startswith("There is nobody called nobody; /search finds")
    session.type("/msg #nowhere hi")
    assert session.new()[-1] == "You are in no group called #nowhere; /groups lists yours."


@pytest.mark.parametrize("line", ["/msg ann hi", "/msg ANN", "/open ann", "/history ann 5"])
def test_nobody_writes_to_oneself(session: Session, line: str) -> None:
    session.talk_to_bob()
    session.type(line)
    assert session.new()[-1] == "This is you; write to somebody else."
    assert session.screen.prompt() == "bob> "
    assert session.link.types() == []


def test_a_line_without_a_conversation(session: Session) -> None:
    session.type("hello?")
    assert session.new() == ["To whom? /msg NAME TEXT sends to somebody, /open NAME begins a conversation."]
    session.type("   ")
    assert session.new() == []


def test_a_line_that_begins_with_a_slash_can_be_sent(session: Session) -> None:
    session.talk_to_bob()
    session.type("//etc/passwd is a file")
    assert session.link.take("send")["text"] == "/etc/passwd is a file"


def test_a_refused_message_says_why(session: Session) -> None:
    session.talk_to_bob()
    session.type("hello")
    session.refuse("send", "forbidden", detail="this user has blocked you")
    assert session.new() == ["Not sent to bob: This user has blocked you."]


def test_what_cannot_be_sent_is_told_and_the_chat_goes_on(session: Session) -> None:
    session.talk_to_bob()
    for line in ("half \udcff", "/add bob \udcff", "whole"):
        session.type(line)
    session.answer("send", chat=100, seq=1, at=AT, duplicate=False)
    why = "holds half a character, which cannot be sent (a lone surrogate; bytes that are not UTF-8 become one)"
    assert session.new() == [
        f"Not sent to bob: Text: {why}.",
        "› /add bob \ufffd",
        f"Note: {why}.",
        "── Sunday 9 September 2001 ──",
        "01:46 you → bob: whole ✓",
    ]


def test_a_message_that_is_too_long_is_not_sent(session: Session) -> None:
    session.talk_to_bob()
    session.type("x" * 8001)
    assert session.new() == ["This has 8001 characters; at most 8000 fit into a message."]
    assert session.link.types() == []


def test_group_messages_show_where_and_who(session: Session) -> None:
    session.message(1, "hello all", sender=10, name="carol", chat=30, group=30)
    assert session.new()[-1] == "01:47 #python · carol: hello all"
    session.type("/msg python hi")
    request = session.link.take("send")
    assert request["group"] == 30
    session.link.ok(request, chat=30, seq=2, at=AT, duplicate=False)
    session.settle()
    assert session.new()[-1] == "01:46 #python · you: hi ✓"


def test_what_others_send_cannot_control_the_terminal(session: Session) -> None:
    session.message(1, "\x1b[2J\x1b]0;title\x07boo\nsecond line\u202e", name="b\x1bob")
    session.push(type="friend.requested", **{"from": 66, "name": "\x1b[31mevil", "note": "\x9b1m"})
    shown = "\n".join(session.new())
    assert "␛[2J␛]0;title␇boo\n      second line\ufffd" in shown
    assert "\x1b" not in shown
    assert "\x9b" not in shown


def test_lines_typed_ahead_are_bounded(session: Session) -> None:
    session.type("/friends")
    for _ in range(MAX_TYPED_AHEAD - 1):
        session.type("/help quit")
    session.new()
    session.type("/help quit")
    assert session.new() == ["The server is slow: wait until it has answered."]


# --- unread, read, typing ----------------------------------------------------


def test_unread_counts_until_the_conversation_is_opened(session: Session) -> None:
    session.message(1)
    session.message(2)
    session.message(1, sender=10, name="carol", chat=30, group=30)
    assert session.screen.toolbar().endswith("│ unread: bob 2, #python 1")
    session.type("/open bob")
    session.answer("history", chat=100, messages=[], more=False)
    assert session.screen.toolbar().endswith("│ → bob │ unread: #python 1")
    session.server.wait(0.3)
    assert session.link.take("read") == {"type": "read", "chat": 100, "seq": 2}
    session.message(3)
    session.server.wait(0.3)
    assert session.link.take("read")["seq"] == 3
    assert "bob 1" not in session.screen.toolbar()


def test_receipts_in_the_toolbar(session: Session) -> None:
    session.talk_to_bob()
    session.type("hello")
    request = session.link.take("send")
    assert "sending 1…" in session.screen.toolbar()
    session.link.ok(request, chat=100, seq=1, at=AT, duplicate=False)
    session.settle()
    assert session.screen.toolbar().endswith("→ bob ✓")
    session.push(type="read", chat=100, id=8, seq=1)
    assert session.screen.toolbar().endswith("→ bob ✓✓")
    session.type("again")
    session.link.ok(session.link.take("send"), chat=100, seq=2, at=AT, duplicate=False)
    session.settle()
    assert session.screen.toolbar().endswith("→ bob ✓")


def test_what_was_read_while_one_was_away_is_seen_on_coming_back(session: Session) -> None:
    session.talk_to_bob()
    session.type("hello")
    session.link.ok(session.link.take("send"), chat=100, seq=1, at=AT, duplicate=False)
    session.link.cut()
    session.server.wait(2)
    session.link.ok(session.link.take("login"), **PROFILE)
    session.settle()
    last = {"type": "message", "chat": 100, "seq": 1, "from": 7, "name": "ann", "to": 8, "text": "hello", "at": AT}
    row = {"chat": 100, "to": 8, "name": "bob", "last": last, "unread": 0, "read": 0}
    session.answer("chats", chats=[{**row, "read_by": 1}])
    assert session.screen.toolbar().endswith("→ bob ✓✓")
    session.type("/chats")
    # A server that does not say.
    session.answer("chats", chats=[row])
    assert session.screen.toolbar().endswith("→ bob ✓✓")


def test_typing_of_others_in_the_toolbar(session: Session) -> None:
    session.message(1)
    session.push(type="typing", chat=100, **{"from": 8})
    assert session.screen.toolbar().endswith("│ bob is typing…")
    session.push(type="typing", chat=30, **{"from": 10})
    assert session.screen.toolbar().endswith("│ bob, carol in #python are typing…")
    session.message(2)
    assert session.screen.toolbar().endswith("│ carol in #python is typing…")
    session.server.wait(TYPING_FOR + 0.1)
    assert "typing" not in session.screen.toolbar()


def test_typing_is_told_now_and_then(session: Session) -> None:
    face = session.chat
    face.typed("no conversation yet")
    session.talk_to_bob()
    face.typed("/help is no message")
    assert session.link.types() == []
    for length in range(1, 5):
        face.typed("hello"[:length])
    assert session.link.types() == ["typing"]
    session.server.wait(TYPING_EVERY + 0.1)
    face.typed("hello")
    assert [session.link.take("typing")["to"] for _ in range(2)] == [8, 8]
    assert session.link.types() == []


# --- connections -------------------------------------------------------------


def test_an_outage_is_shown_once_and_what_was_typed_waits(session: Session) -> None:
    session.talk_to_bob()
    session.server.refusing = {("chat.example", 8090)}
    session.link.cut()
    session.server.wait(2)
    session.type("hello?")
    assert session.new() == [
        "── offline: the connection broke; trying again… ──",
        "      you → bob: hello? (waits for the connection)",
    ]
    assert " ○ offline, trying again in " in session.screen.toolbar()
    assert "sending 1…" in session.screen.toolbar()
    session.type("/friends")
    assert session.new()[-1] == "This needs the server: try again when the connection is back."
    session.server.refusing = set()
    session.server.wait(11)
    session.link.ok(session.link.take("login"), **PROFILE)
    session.settle()
    session.link.ok(session.link.take("send"), chat=100, seq=1, at=AT, duplicate=False)
    session.settle()
    assert session.new() == [
        "── connected again, to chat.example:8090 ──",
        "── Sunday 9 September 2001 ──",
        "01:46 you → bob: hello? ✓",
    ]
    assert session.screen.toolbar().startswith(" ● ann on")


def test_a_takeover_ends_the_session(session: Session) -> None:
    session.push(type="kicked", reason="takeover")
    session.server.wait(1)
    assert session.new() == ["The session has ended: this account has logged in somewhere else."]
    assert result(session.running) == "ended"
    assert session.server.clock.getDelayedCalls() == []


# --- leaving -----------------------------------------------------------------


@pytest.mark.parametrize("how", ["/quit", "control d"])
def test_quit(session: Session, how: str) -> None:
    session.type(how) if how == "/quit" else session.screen.control_d()
    session.server.wait(0.2)
    assert result(session.running) == "quit"
    assert not session.link.open
    assert session.server.clock.getDelayedCalls() == []


def test_logout(session: Session) -> None:
    session.type("/logout")
    session.answer("logout")
    session.link.cut(clean=True)
    session.server.wait(0.2)
    assert result(session.running) == "logout"


def test_leaving_with_messages_unsent_asks(session: Session) -> None:
    session.talk_to_bob()
    session.type("hello")
    session.type("/quit")
    assert session.screen.question == "1 not sent yet. Leave anyway? [y/N] "
    session.type("n")
    session.type("/quit")
    session.type("y")
    session.server.wait(0.2)
    assert result(session.running) == "quit"
    assert "Not known whether this arrived: hello" in session.new()


def test_control_c_does_not_leave(session: Session) -> None:
    session.screen.control_c()
    session.settle()
    assert session.new() == ["/quit or Ctrl-D leaves"]
    session.type("/help quit")
    assert session.new()[-1].split() == ["/quit", "leave"]
