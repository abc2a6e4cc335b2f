"""Values as lines on the screen. Pure: everything it needs is in its arguments."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flux.client import NotConnected
from flux.client.terminal.roster import Person, Roster, Target
from flux.client.terminal.text import Fragment, Line, clean, clock_time, day, dim, local, name_style, paragraphs
from flux.errors import FluxError, RateLimited, Unavailable, UserExists
from flux.lifecycle import DeadlineExceeded
from flux.model.chats import Group
from flux.model.messages import Conversation, Message
from flux.model.people import FriendRequest
from flux.wire.replies import MemberView, ProfileGetOk

#: Members listed of each group at login.
FEW_MEMBERS = 8

#: What details begin with and only programs know; a name or a text is what people call it, too.
_WIRE_FIELDS = re.compile(r"^(?:to|from|id|group|chat|cid|old|new|email): ")

_ROLES = {"owner": "owner", "admin": "admin", "member": ""}


def message(roster: Roster, said: Message, receipt: str = "") -> Line:
    """A message, whoever sent it: time, where, who, text.

    :param receipt: shown after an own message.
    """
    line: Line = [("class:time", clock_time(said.at) + " ")]
    target = roster.target_of(said)
    own = said.sender == roster.me.id
    if target.group:
        line += [("class:group", clean(roster.label(target))), ("class:dim", " · ")]
    if own:
        line.append(("class:me", "you"))
        if target.to:
            line += [("class:dim", " → "), (name_style(target.to), clean(roster.name(target.to)))]
    else:
        line.append((name_style(said.sender), clean(said.name)))
    line.append(("", ": " + paragraphs(said.text)))
    if receipt:
        line.append(("class:good", f" {receipt}"))
    return line


def waiting(roster: Roster, target: Target, text: str) -> Line:
    """An own message that cannot leave yet."""
    return dim(f"      you → {clean(roster.label(target))}: {paragraphs(text)} (waits for the connection)")


def separator(at: int) -> Line:
    """Between the messages of two days."""
    return dim(f"── {day(at)} ──")


def dated(said: Message) -> Line:
    """Date and time before a message found by ``/chats``."""
    return [("class:time", local(said.at).strftime("%Y-%m-%d %H:%M "))]


def presence_mark(online: bool) -> Fragment:
    """A dot that says whether somebody is there."""
    return ("class:online", "● ") if online else ("class:dim", "○ ")


def person(someone: Person) -> Line:
    """A friend's name with state, and remark or nick."""
    also = someone.remark or someone.nick
    line: Line = [presence_mark(someone.online), (name_style(someone.id), clean(someone.name))]
    if also and also != someone.name:
        line.append(("class:dim", f" ({clean(also)})"))
    return line


def friends(roster: Roster) -> list[Line]:
    """The friend list, who is there first."""
    listed = sorted((p for p in roster.people.values() if p.friend), key=lambda p: (not p.online, p.name.casefold()))
    if not listed:
        return [dim("  no friends yet: /search NAME finds people, /add NAME asks them")]
    return [[("", "  "), *person(friend)] for friend in listed]


def request(asked: FriendRequest) -> Line:
    """A friend request that waits."""
    note = f": “{clean(asked.note)}”" if asked.note else ""
    name = clean(asked.name)
    return [
        ("", "  "),
        (name_style(asked.sender), name),
        ("", f" wants to be your friend{note}"),
        ("class:dim", f"  /accept {name} or /reject {name}"),
    ]


def group(roster: Roster, listed: Group, members: Sequence[MemberView] | None) -> Line:
    """A group with its number, the own role and, where they are known, its members with theirs."""
    role = f", {_ROLES[listed.role]}" if _ROLES[listed.role] else ""
    line: Line = [
        ("", "  "),
        ("class:group", f"#{clean(listed.name)}"),
        ("class:dim", f" (number {listed.group}{role})"),
    ]
    if members is not None:
        line.append(("class:dim", "  "))
        for index, member in enumerate(members[:FEW_MEMBERS]):
            line += [("", ", " if index else ""), *member_fragments(roster, member)]
        if len(members) > FEW_MEMBERS:
            line.append(("class:dim", f" and {len(members) - FEW_MEMBERS} more"))
    return line


def member_fragments(roster: Roster, member: MemberView) -> Line:
    """A member with state and role."""
    own = member.id == roster.me.id
    line: Line = [
        presence_mark(member.online or own),
        ("class:me", "you") if own else (name_style(member.id), clean(member.name)),
    ]
    if _ROLES[member.role]:
        line.append(("class:dim", f" {_ROLES[member.role]}"))
    return line


def groups(roster: Roster) -> list[Line]:
    """The groups with what is known of their members."""
    if not roster.groups:
        return [dim("  no groups yet: /group create NAME makes one, /group join ID joins one")]
    return [group(roster, listed, roster.members.get(listed.group)) for listed in roster.groups.values()]


def conversation(roster: Roster, listed: Conversation) -> Line:
    """A row of the conversation list."""
    own = listed.last.sender == roster.me.id
    target = roster.target_of(listed.last)
    style = "class:group" if target.group else name_style(target.to)
    label = f"#{listed.name}" if target.group and target.group not in roster.groups else roster.label(target)
    speaker = "you: " if own else f"{clean(listed.last.name)}: " if target.group else ""
    text = clean(listed.last.text)
    line: Line = [*dated(listed.last), (style, clean(label))]
    if listed.unread:
        line.append(("class:warn", f" {count(listed.unread)} unread"))
    line.append(("class:dim", "  " + speaker + (text if len(text) <= 60 else text[:59] + "…")))
    return line


def profile(shown: ProfileGetOk) -> list[Line]:
    """A profile, one field a line, empty ones left out."""
    lines: list[Line] = [[("", "  "), (name_style(shown.id), clean(shown.name)), ("class:dim", f"  id {shown.id}")]]
    fields = {"nick": shown.nick, "description": shown.description, "sex": shown.sex, "icon": shown.icon}
    lines += [[("class:dim", f"  {label:<12}"), ("", clean(value))] for label, value in fields.items() if value]
    return lines


def welcome(roster: Roster, server: str) -> list[Line]:
    """What one sees after logging in: oneself, requests, friends, groups, what is unread."""
    me = roster.me
    lines: list[Line] = [[]]
    name = f"{clean(me.name)}, " if me.nick not in ("", me.name) else ""
    lines.append([
        ("class:title", f"Welcome, {clean(me.nick or me.name)}"),
        ("class:dim", f"  {name}id {me.id}, on {clean(server)}"),
    ])  # fmt: skip
    lines += [request(asked) for asked in roster.requests.values()]
    lines += [[("class:title", "Friends")], *friends(roster)]
    lines += [[("class:title", "Groups")], *groups(roster)]
    unread = roster.unread()
    if unread:
        line: Line = [("class:title", "Unread"), ("", "  ")]
        for index, (target, number) in enumerate(unread):
            line += [("", ", " if index else ""), ("class:warn", f"{clean(roster.label(target))} {count(number)}")]
        lines.append(line)
    lines.append(dim("/msg NAME TEXT talks to somebody, /help lists all commands, Tab completes."))
    lines.append([])
    return lines


def count(number: int) -> str:
    """A count of unread messages; the server stops counting at a thousand."""
    return "1000+" if number >= 1000 else str(number)


def counted(number: int, thing: str) -> str:
    """So many of something: ``1 member``, ``2 members``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def sentence(problem: Exception) -> str:
    """What went wrong and what to do about it, for people."""
    match problem:
        case RateLimited():
            return f"Too many attempts: try again in {-(-problem.retry_after // 1000)} s."
        case Unavailable():
            return "The server cannot do that right now: try again in a moment."
        case UserExists() if "e-mail" not in problem.detail:
            return "This name is taken: choose another one."
        case DeadlineExceeded():
            return "The server did not answer in time: try again."
        case NotConnected():
            return "This needs the server: try again when the connection is back."
    told = _WIRE_FIELDS.sub("", problem.detail) if isinstance(problem, FluxError) else str(problem)
    return capitalised(told or type(problem).__name__)


def capitalised(text: str) -> str:
    """A sentence from what others wrote: cleaned, with a capital and a full stop."""
    text = clean(text)
    return text[0].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")
