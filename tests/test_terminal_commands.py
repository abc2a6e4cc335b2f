"""At the terminal: the commands about friends, groups, history and oneself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from terminal_session import AT, BOB, MEMBERS, PYTHON, ZHANG, Session, sessions, welcomed


@pytest.fixture
def session() -> Iterator[Session]:
    with sessions() as begin:
        yield welcomed(begin)


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


def test_who_is_blocked_is_no_friend(session: Session) -> None:
    session.push(type="friend.requested", **{"from": 12, "name": "dave", "note": ""})
    for name, uid in (("bob", 8), ("dave", 12)):
        session.type(f"/block {name}")
        session.answer("user.block", id=uid)
    assert not session.chat.roster.people[8].friend
    assert not session.chat.roster.requests


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


def test_the_owner_is_told_how_to_leave(session: Session) -> None:
    session.type("/group leave #python")
    session.refuse("group.leave", "forbidden", detail="the owner hands the group over before leaving (group.role)")
    assert session.new()[-1] == "Somebody else has to own #python first: /group role #python NAME owner."
    assert "python" in [group.name for group in session.chat.roster.groups.values()]


def test_a_group_of_one(session: Session) -> None:
    session.type("/group members #python")
    session.answer("group.members", members=MEMBERS[:1])
    assert session.new()[1] == "#python  number 30, 1 member"


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
    assert session.new()[1:] == ["  #python (number 30, owner)  ● you owner, ○ zhang san admin, ● carol"]
    club = {"group": 31, "chat": 31, "name": "club", "description": "", "role": "member"}
    session.type("/groups")
    session.answer("groups", groups=[club, {**club, "group": 32, "chat": 32}])
    session.answer("group.members", members=MEMBERS[2:])
    session.answer("group.members", members=MEMBERS[2:])
    assert session.new()[1:] == ["  #club (number 31)  ● carol", "  #club (number 32)  ● carol"]
    assert [(found.text, found.about) for found in session.chat.complete("/msg #cl")] == [
        ("#31 ", "#club (31)"),
        ("#32 ", "#club (32)"),
    ]


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
