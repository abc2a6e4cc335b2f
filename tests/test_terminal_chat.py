"""A session at the terminal, in memory: a person types, a scripted server answers, the screen shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_screen import FakeScreen
from scripted_server import PROFILE, Link, ScriptedServer, result, start

from flux.client.terminal import actions as _actions  # noqa: F401 - fills the table of commands
from flux.client.terminal.chat import MAX_TYPED_AHEAD, TYPING_EVERY, Chat
from flux.client.terminal.toolbar import TYPING_FOR

BOB = {"id": 8, "name": "bob", "nick": "", "remark": "", "online": True}
ZHANG = {"id": 9, "name": "zhang san", "nick": "Zed", "remark": "", "online": False}
PYTHON = {"group": 30, "chat": 30, "name": "python", "description": "", "role": "owner"}
FULL = {
    **PROFILE,
    "friends": [BOB, ZHANG],
    "friend_requests": [{"from": 12, "name": "dave", "note": "it's me", "at": 5}],
    "groups": [PYTHON],
    "unread": [{"chat": 100, "to": 8, "count": 2, "head": 4}],
}
MEMBERS = [
    {"id": 7, "name": "ann", "role": "owner", "online": True},
    {"id": 9, "name": "zhang san", "role": "admin", "online": False},
    {"id": 10, "name": "carol", "role": "member", "online": True},
]
#: 2001-09-09 01:46:40 UTC.
AT = 1_000_000_000_000


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is UTC."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


class Session:
    """A person, a screen, a client, and the server's end."""

    def __init__(self, **profile: Any) -> None:
        self.server = ScriptedServer()
        self.server.answers_logins = False
        self.client = self.server.client(("chat.example", 8090))
        login = start(self.client.login("ann", password="secret word"))
        self.link.ok(self.link.take("login"), **{**PROFILE, **profile})
        result(login)
        self.screen = FakeScreen(self.server.clock)
        self.chat = Chat(self.client, self.screen, self.server.clock)
        self.running = start(self.chat.run())
        self.settle()

    @property
    def link(self) -> Link:
        return self.server.link

    def settle(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(5):
            self.server.clock.advance(0)

    def end(self) -> None:
        """The session is over, whatever the test left."""
        self.server.end()
        result(self.running)

    def type(self, line: str) -> None:
        self.screen.type(line)
        self.settle()

    def answer(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Answer a request that is waiting, and return it."""
        request = self.link.take(kind)
        self.link.ok(request, **fields)
        self.settle()
        return request

    def refuse(self, kind: str, name: str, **fields: Any) -> None:
        self.link.error(self.link.take(kind), name, **fields)
        self.settle()

    def push(self, **fields: Any) -> None:
        self.link.push(**fields)
        self.settle()

    def message(self, seq: int, text: str = "hi", sender: int = 8, name: str = "bob", **where: Any) -> None:
        where = where or {"chat": 100, "to": 7}
        fields = {"seq": seq, "from": sender, "name": name, "text": text, "at": AT + seq * 60_000, **where}
        self.push(type="message", **fields)

    def new(self) -> list[str]:
        return self.screen.new()

    def talk_to_bob(self) -> None:
        """Make bob the current conversation."""
        self.type("/open bob")
        self.answer("history", chat=100, messages=[], more=False)
        self.new()


@pytest.fixture
def begin() -> Iterator[Callable[..., Session]]:
    """Begins sessions whose ``login.ok`` has the given fields."""
    sessions: list[Session] = []

    def begin(**profile: Any) -> Session:
        sessions.append(Session(**profile))
        return sessions[-1]

    yield begin
    for session in sessions:
        session.end()


@pytest.fixture
def session(begin: Callable[..., Session]) -> Session:
    """Logged in, the welcome read."""
    session = begin(friends=[BOB, ZHANG], groups=[PYTHON])
    session.answer("group.members", members=MEMBERS)
    session.new()
    return session


# --- after logging in --------------------------------------------------------


def test_the_welcome_shows_who_and_what_there_is(begin: Callable[..., Session]) -> None:
    session = begin(**FULL)
    session.answer("group.members", members=MEMBERS)
    assert session.new() == [
        "",
        "Welcome, ann  ann, id 7, on chat1",
        "  dave wants to be your friend: “it's me”  /accept dave or /reject dave",
        "Friends",
        "  ● bob",
        "  ○ zhang san (Zed)",
        "Groups",
        "  #python (owner)  ● you owner, ○ zhang san admin, ● carol",
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


# --- friends -----------------------------------------------------------------


def test_a_friend_request_there_and_back(session: Session) -> None:
    session.push(type="friend.requested", **{"from": 12, "name": "dave", "note": "it's me"})
    assert session.new() == ["  dave wants to be your friend: “it's me”  /accept dave or /reject dave"]
    assert [found.text for found in session.chat.complete("/accept ")] == ["dave "]
    session.type("/accept dave")
    request = session.answer("friend.answer", status="accepted", **{"from": 12})
    assert (request["from"], request["accept"]) == (12, True)
    assert session.new()[-1] == "dave and you are friends now"
    session.push(type="presence", id=12, online=True)
    session.push(type="presence", id=12, online=True)
    assert session.new() == ["● dave is here"]
    session.push(type="presence", id=12, online=False)
    assert session.new() == ["○ dave has left"]


def test_asking_somebody(session: Session) -> None:
    session.type("/add carol let us talk")
    request = session.answer("friend.add", to=10, status="pending")
    assert (request["to"], request["note"]) == (10, "let us talk")
    assert session.new()[-1] == "asked carol; you will see the answer here"
    session.push(type="friend.answered", id=10, status="rejected")
    assert session.new() == ["carol does not want to be your friend"]
    session.push(type="friend.answered", id=10, status="accepted")
    assert session.new() == ["carol and you are friends now"]
    session.type("/add carol")
    session.answer("friend.add", to=10, status="accepted")
    assert session.new()[-1] == "carol and you are friends now"


@pytest.mark.parametrize(
    ("line", "kind", "told"),
    [
        ("/remove bob", "friend.remove", "bob is not in your friend list any more"),
        ("/block bob", "user.block", "bob cannot write to you any more; /unblock bob undoes it"),
        ("/unblock bob", "user.unblock", "bob can write to you again"),
    ],
)
def test_ending_and_blocking(session: Session, line: str, kind: str, told: str) -> None:
    session.type(line)
    assert session.answer(kind, id=8)["id"] == 8
    assert session.new()[-1] == told


def test_rejecting(session: Session) -> None:
    session.push(type="friend.requested", **{"from": 12, "name": "dave", "note": ""})
    session.type("/reject dave")
    assert session.answer("friend.answer", status="rejected", **{"from": 12})["accept"] is False
    assert session.new()[-1] == "refused dave"


def test_lists(session: Session) -> None:
    session.type("/friends")
    session.answer("friends", friends=[ZHANG, BOB])
    assert session.new()[1:] == ["  ● bob", "  ○ zhang san (Zed)"]
    session.type("/requests")
    session.answer("friend.requests", friend_requests=[])
    assert session.new()[1:] == ["  no requests"]
    session.type("/who")
    session.answer("friends", friends=[ZHANG, BOB])
    assert session.new()[1:] == ["  ● bob"]
    session.type("/search ca")
    carol = {"id": 10, "name": "carol", "nick": "C", "description": "", "sex": "", "icon": ""}
    session.answer("user.search", users=[carol])
    assert session.new()[1:] == ["  carol  id 10  C"]


def test_chats(session: Session) -> None:
    session.type("/chats")
    last = {"type": "message", "seq": 9, "at": AT, "text": "see\nyou " + "x" * 80}
    to_bob = {**last, "chat": 100, "from": 7, "name": "ann", "to": 8}
    to_python = {**last, "chat": 30, "from": 10, "name": "carol", "group": 30}
    session.answer(
        "chats",
        chats=[
            {"chat": 100, "to": 8, "name": "bob", "unread": 0, "read": 9, "last": to_bob},
            {"chat": 30, "group": 30, "name": "python", "unread": 3, "read": 6, "last": to_python},
        ],
    )
    bob, python = session.new()[1:]
    assert bob == "2001-09-09 01:46 bob  you: see you " + "x" * 51 + "…"
    assert python.startswith("2001-09-09 01:46 #python 3 unread  carol: see you xxx")


# --- history -----------------------------------------------------------------


def page(*seqs: int) -> list[dict[str, Any]]:
    fields = {"type": "message", "chat": 100, "from": 8, "name": "bob", "to": 7}
    return [{**fields, "seq": seq, "text": f"m{seq}", "at": AT + seq * 1000} for seq in seqs]


def test_history_pages_until_there_is_enough(session: Session) -> None:
    session.type("/history bob 240")
    first = session.answer("history", chat=100, messages=page(*range(101, 301)), more=True)
    assert (first["to"], first["limit"]) == (8, 200)
    second = session.answer("history", chat=100, messages=page(*range(61, 101)), more=True)
    assert (second["chat"], second["before"], second["limit"]) == (100, 101, 40)
    lines = session.new()
    assert lines[1] == "── bob: the last 240 messages ──"
    assert lines[3].endswith("bob: m61")
    assert lines[-1].endswith("bob: m300")


def test_history_of_the_current_conversation(session: Session) -> None:
    session.type("/history")
    assert session.new()[-1] == "With whom? /history NAME, or /open NAME first."
    session.talk_to_bob()
    session.type("/history 2")
    assert session.answer("history", chat=100, messages=page(1, 2), more=False)["limit"] == 2
    assert [line.split(": ")[-1] for line in session.new()[-2:]] == ["m1", "m2"]
    session.type("/history bob many")
    assert session.new()[-1] == "How many? 'many' is no number."


# --- groups ------------------------------------------------------------------


def test_creating_a_group(session: Session) -> None:
    session.type('/group create "book club" we read')
    request = session.answer("group.create", group=31, chat=31, name="book club")
    assert (request["name"], request["description"]) == ("book club", "we read")
    club = {"group": 31, "chat": 31, "name": "book club", "description": "we read", "role": "owner"}
    session.answer("groups", groups=[PYTHON, club])
    assert session.new()[-1] == "#book club is there; others join it with /group join 31"
    assert session.screen.prompt() == "#book club> "
    session.type("/group create")
    assert session.new()[-1] == "What is it called? /group create NAME."


def test_joining_and_leaving(session: Session) -> None:
    session.type("/group join club")
    assert session.new()[-1].startswith("Groups are joined by number")
    session.type("/group join 31")
    session.answer("group.join", group=31, chat=31)
    club = {"group": 31, "chat": 31, "name": "club", "description": "", "role": "member"}
    session.answer("groups", groups=[PYTHON, club])
    assert session.new()[-1] == "you are in #club now"
    session.type("/group leave")
    assert session.answer("group.leave", group=31, chat=31)["group"] == 31
    session.answer("groups", groups=[PYTHON])
    assert session.new()[-1] == "you have left #club"
    assert session.screen.prompt() == "> "


def test_members_and_roles(session: Session) -> None:
    session.type("/group members python")
    session.answer("group.members", members=MEMBERS)
    assert session.new()[1:] == [
        "#python  number 30, 3 members",
        "  ● you owner",
        "  ○ zhang san admin",
        "  ● carol",
    ]
    session.type("/group role #python carol admin")
    request = session.answer("group.role", group=30, id=10)
    assert (request["group"], request["id"], request["role"]) == (30, 10, "admin")
    session.answer("groups", groups=[PYTHON])
    assert session.new()[-1] == "carol is admin of #python now"
    session.type("/group role #python carol king")
    assert session.new()[-1] == "Which role? owner, admin or member."


def test_adding_and_removing_members(session: Session) -> None:
    session.type("/group add bob")
    assert session.new()[-1] == "Which group? name it, #GROUP, or /open it first."
    session.type("/group add #python bob")
    request = session.answer("group.add", group=30, id=8)
    assert (request["group"], request["id"]) == (30, 8)
    assert session.new()[-1] == "bob is in #python now"
    session.type("/group remove #python bob")
    session.answer("group.remove", group=30, id=8)
    assert session.new()[-1] == "bob is not in #python any more"
    session.type("/group add #python python")
    assert session.new()[-1] == "#python is a group; this needs a person."


def test_what_happens_in_groups_is_told(session: Session) -> None:
    session.push(type="group.changed", group=30, change="join", id=10)
    session.push(type="group.changed", group=30, change="role", id=10, role="admin")
    session.push(type="group.changed", group=30, change="remove", id=9)
    assert session.new() == [
        "carol joined #python",
        "carol is now admin of #python",
        "zhang san was removed from #python",
    ]
    session.push(type="group.changed", group=30, change="remove", id=7)
    session.answer("groups", groups=[])
    assert session.new() == ["you were removed from #python"]
    session.push(type="group.changed", group=31, change="add", id=7)
    club = {"group": 31, "chat": 31, "name": "club", "description": "", "role": "member"}
    session.answer("groups", groups=[club])
    assert session.new() == ["you were added to #club"]


def test_groups(session: Session) -> None:
    session.type("/groups")
    session.answer("groups", groups=[PYTHON])
    assert session.new()[1:] == ["  #python (owner)  ● you owner, ○ zhang san admin, ● carol"]


# --- oneself -----------------------------------------------------------------


def test_profile(session: Session) -> None:
    session.type('/profile nick=Annie description="I like tea"')
    request = session.answer("profile.set", id=7, name="ann", nick="Annie", description="", sex="", icon="")
    assert (request["nick"], request["description"]) == ("Annie", "I like tea")
    assert "sex" not in request
    session.answer("profile.get", id=7, name="ann", nick="Annie", description="I like tea", sex="", icon="")
    assert session.new()[1:] == [
        "your profile was changed",
        "  ann  id 7",
        "  nick        Annie",
        "  description I like tea",
    ]
    session.type("/profile bob")
    assert session.answer("profile.get", id=8, name="bob", nick="", description="", sex="", icon="")["id"] == 8
    session.type("/profile colour=red")
    assert session.new()[-1] == "A profile has no colour: only nick, description, sex and icon."


def test_passwd(session: Session) -> None:
    session.type("/passwd")
    assert (session.screen.question, session.screen.hidden) == ("current password: ", True)
    session.type("secret word")
    session.type("better word")
    assert session.screen.hidden
    session.type("better word")
    request = session.answer("password.change")
    assert (request["old"], request["new"]) == ("secret word", "better word")
    assert session.new()[-1] == "your password was changed"
    assert not any("word" in line.replace("password", "") for line in session.new())


def test_passwd_thought_better_of(session: Session) -> None:
    session.type("/passwd")
    session.type("secret word")
    session.type("better word")
    session.type("bitter word")
    assert session.new()[-1] == "The two new passwords differ; nothing was changed."
    session.type("/passwd")
    session.screen.control_c()
    session.settle()
    assert session.new()[-1] == "nothing was changed"
    assert session.link.types() == []


def test_lines_typed_ahead_are_bounded(session: Session) -> None:
    session.type("/friends")
    for _ in range(MAX_TYPED_AHEAD - 1):
        session.type("/help quit")
    session.new()
    session.type("/help quit")
    assert session.new() == ["The server is slow: wait until it has answered."]
