"""The commands themselves: each is a row of the table and what it does."""

from __future__ import annotations

import re

from flux.client.terminal import render
from flux.client.terminal.chat import Chat, Problem
from flux.client.terminal.commands import command, help_lines
from flux.client.terminal.roster import Target
from flux.client.terminal.text import Line, clean, dim, good, name_style
from flux.errors import Forbidden
from flux.model.chats import Role
from flux.model.messages import Message
from flux.wire.replies import HistoryOk

#: Messages shown when a conversation is opened, and by ``/history`` without a number.
FEW = 10
SOME = 20
#: Most that ``/history`` shows, and most that one request returns.
MOST = 1000
PAGE = 200

_FIELD = re.compile(r'(\w+)=("[^"]*"|\S*)\s*')


# --- talking -----------------------------------------------------------------


@command("msg", "NAME [TEXT]", "talk to a person or #group; from then on plain lines go there", "target")
async def msg(chat: Chat, rest: str) -> None:
    target, text = await chat.resolve_other(rest)
    if not text:
        await _open(chat, target)
        return
    chat.open(target)
    chat.say(target, text)


@command("open", "NAME", "begin or resume a conversation and show its last messages", "target")
async def open_(chat: Chat, rest: str) -> None:
    target, _ = await chat.resolve_other(rest)
    await _open(chat, target)


async def _open(chat: Chat, target: Target) -> None:
    chat.open(target)
    await _show_history(chat, target, FEW)


@command("history", "[NAME] [NUMBER]", "the last messages with somebody or in a #group", "target")
async def history(chat: Chat, rest: str) -> None:
    if chat.roster.current is not None and (not rest or rest.isdecimal()):
        target, number = chat.roster.current, rest
    elif not rest:
        raise Problem("with whom? /history NAME, or /open NAME first")
    else:
        target, number = await chat.resolve_other(rest)
    if number and not number.isdecimal():
        raise Problem(f"how many? {clean(number)!r} is no number")
    await _show_history(chat, target, min(int(number or SOME), MOST))


async def _show_history(chat: Chat, target: Target, number: int) -> None:
    label = clean(chat.roster.label(target))
    messages: list[Message] = []
    page: HistoryOk | None = None
    while len(messages) < number and (page is None or page.more):
        limit = min(number - len(messages), PAGE)
        if messages:
            page = await chat.client.history(chat=messages[0].chat, before=messages[0].seq, limit=limit)
        else:
            page = await chat.client.history(to=target.to, group=target.group, limit=limit)
        if not page.messages:
            break
        messages[:0] = page.messages
    if not messages:
        chat.screen.show(dim(f"── {label}: no messages yet ──"))
        return
    chat.screen.show(dim(f"── {label}: the last {f'{len(messages)} messages' if messages[1:] else 'message'} ──"))
    for message in messages:
        chat.roster.looked_up(message)
        chat.show_message(message)


@command("chats", "", "all conversations, the newest first")
async def chats(chat: Chat, rest: str) -> None:
    listed = await chat.refresh_conversations()
    chat.screen.show(*([render.conversation(chat.roster, row) for row in listed] or [dim("  no conversations yet")]))


# --- friends -----------------------------------------------------------------


@command("friends", "", "friends, who is there first")
async def friends(chat: Chat, rest: str) -> None:
    chat.roster.set_friends((await chat.client.friends()).friends)
    chat.screen.show(*render.friends(chat.roster))


@command("add", "NAME [NOTE]", "ask somebody to be a friend", "person")
async def add(chat: Chat, rest: str) -> None:
    uid, note = await chat.resolve_person(rest)
    status = (await chat.client.friend_add(uid, note)).status
    name = clean(chat.roster.name(uid))
    if status == "accepted":
        _befriended(chat, uid)
    else:
        chat.screen.show(good(f"asked {name}; you will see the answer here"))


@command("requests", "", "friend requests that wait for an answer")
async def requests(chat: Chat, rest: str) -> None:
    listed = (await chat.client.friend_requests()).friend_requests
    chat.roster.requests = {asked.sender: asked for asked in listed}
    for asked in listed:
        chat.roster.person(asked.sender, asked.name)
    chat.screen.show(*([render.request(asked) for asked in listed] or [dim("  no requests")]))


@command("accept", "NAME", "accept a friend request", "request")
async def accept(chat: Chat, rest: str) -> None:
    uid, _ = await chat.resolve_person(rest)
    await chat.client.friend_answer(uid, accept=True)
    _befriended(chat, uid)


@command("reject", "NAME", "refuse a friend request", "request")
async def reject(chat: Chat, rest: str) -> None:
    uid, _ = await chat.resolve_person(rest)
    await chat.client.friend_answer(uid, accept=False)
    chat.roster.requests.pop(uid, None)
    chat.screen.show(dim(f"refused {clean(chat.roster.name(uid))}"))


def _befriended(chat: Chat, uid: int) -> None:
    chat.roster.requests.pop(uid, None)
    chat.roster.person(uid).friend = True
    chat.screen.show(good(f"{clean(chat.roster.name(uid))} and you are friends now"))


@command("remove", "NAME", "end a friendship", "person")
async def remove(chat: Chat, rest: str) -> None:
    uid, _ = await chat.resolve_person(rest)
    await chat.client.friend_remove(uid)
    chat.roster.person(uid).friend = False
    chat.screen.show(dim(f"{clean(chat.roster.name(uid))} is not in your friend list any more"))


@command("block", "NAME", "take no more messages and requests from somebody, who is no friend any more", "person")
async def block(chat: Chat, rest: str) -> None:
    uid, _ = await chat.resolve_person(rest)
    await chat.client.user_block(uid)
    chat.roster.person(uid).friend = False
    chat.roster.requests.pop(uid, None)
    name = clean(chat.roster.name(uid))
    undo = f"/unblock {clean(chat.roster.typed(Target(to=uid)))}"
    chat.screen.show(dim(f"{name} cannot write to you any more; {undo} undoes it"))


@command("unblock", "NAME", "undo /block", "person")
async def unblock(chat: Chat, rest: str) -> None:
    uid, _ = await chat.resolve_person(rest)
    await chat.client.user_unblock(uid)
    chat.screen.show(dim(f"{clean(chat.roster.name(uid))} can write to you again"))


@command("who", "", "friends who are there, and who is in the current group")
async def who(chat: Chat, rest: str) -> None:
    chat.roster.set_friends((await chat.client.friends()).friends)
    here = [p for p in chat.roster.people.values() if p.friend and p.online]
    lines: list[Line] = [[("", "  "), *render.person(friend)] for friend in here]
    chat.screen.show(*(lines or [dim("  no friend is there")]))
    current = chat.roster.current
    if current is not None and current.group:
        await _show_members(chat, current.group)


@command("search", "TEXT", "people by the beginning of their name, or by id")
async def search(chat: Chat, rest: str) -> None:
    if not rest:
        raise Problem("for whom? /search and the beginning of a name")
    users = (await chat.client.user_search(rest[:50])).users
    for user in users:
        chat.roster.person(user.id, user.name)
    found: list[Line] = [
        [
            ("", "  "),
            (name_style(user.id), clean(user.name)),
            ("class:dim", f"  id {user.id}  {clean(user.nick)}".rstrip()),
        ]
        for user in users
    ]
    chat.screen.show(*(found or [dim("  nobody")]))


# --- groups ------------------------------------------------------------------


@command("groups", "", "groups with their numbers and members")
async def groups(chat: Chat, rest: str) -> None:
    await chat.refresh_groups()
    for group in list(chat.roster.groups):
        if group not in chat.roster.members:
            chat.roster.set_members(group, (await chat.client.group_members(group)).members)
    chat.screen.show(*render.groups(chat.roster))


@command("group create", "NAME", 'make a group; "NAME" TEXT describes it as well')
async def group_create(chat: Chat, rest: str) -> None:
    quoted = re.match(r'"([^"]*)"\s*(.*)', rest, re.DOTALL)
    name, description = quoted.groups() if quoted else (rest, "")
    name = name.removeprefix("#")
    if not name:
        raise Problem("what is it called? /group create NAME")
    made = await chat.client.group_create(name, description)
    await chat.refresh_groups()
    chat.open(Target(group=made.group))
    chat.screen.show(good(f"#{clean(made.name)} is there; others join it with /group join {made.group}"))


@command("group join", "ID", "join a group by its number")
async def group_join(chat: Chat, rest: str) -> None:
    number = rest.removeprefix("#")
    if not number.isdecimal():
        raise Problem("groups are joined by number: /group join 12; ask a member for it (/group members shows it)")
    joined = await chat.client.group_join(int(number))
    await chat.refresh_groups()
    target = Target(group=joined.group)
    chat.open(target)
    chat.screen.show(good(f"you are in {clean(chat.roster.label(target))} now"))


@command("group leave", "[GROUP]", "leave a group", "group")
async def group_leave(chat: Chat, rest: str) -> None:
    group, _ = _group(chat, rest, only=True)
    label = clean(chat.roster.label(Target(group=group)))
    try:
        await chat.client.group_leave(group)
    except Forbidden:
        if group in chat.roster.groups and chat.roster.groups[group].role == "owner":
            typed = clean(chat.roster.typed(Target(group=group)))
            raise Problem(f"somebody else has to own {label} first: /group role {typed} NAME owner") from None
        raise
    await chat.refresh_groups()
    chat.screen.show(dim(f"you have left {label}"))


@command("group members", "[GROUP]", "who is in a group, with roles", "group")
async def group_members(chat: Chat, rest: str) -> None:
    group, _ = _group(chat, rest, only=True)
    await _show_members(chat, group)


async def _show_members(chat: Chat, group: int) -> None:
    members = (await chat.client.group_members(group)).members
    chat.roster.set_members(group, members)
    label = clean(chat.roster.label(Target(group=group)))
    chat.screen.show(
        [("class:group", label), ("class:dim", f"  number {group}, {render.counted(len(members), 'member')}")],
        *([("", "  "), *render.member_fragments(chat.roster, member)] for member in members),
    )


@command("group add", "[#GROUP] NAME", "add somebody; for owner and admins", "target", "person")
async def group_add(chat: Chat, rest: str) -> None:
    group, rest = _group(chat, rest)
    uid, _ = await chat.resolve_person(rest)
    await chat.client.group_add(group, uid)
    chat.roster.members.pop(group, None)
    chat.screen.show(good(f"{clean(chat.roster.name(uid))} is in {clean(chat.roster.label(Target(group=group)))} now"))


@command("group remove", "[#GROUP] NAME", "remove somebody; for owner and admins", "target", "person")
async def group_remove(chat: Chat, rest: str) -> None:
    group, rest = _group(chat, rest)
    uid, _ = await chat.resolve_person(rest)
    await chat.client.group_remove(group, uid)
    chat.roster.members.pop(group, None)
    label = clean(chat.roster.label(Target(group=group)))
    chat.screen.show(dim(f"{clean(chat.roster.name(uid))} is not in {label} any more"))


@command("group role", "[#GROUP] NAME ROLE", "owner, admin or member; for the owner", "target", "role", "role")
async def group_role(chat: Chat, rest: str) -> None:
    group, rest = _group(chat, rest)
    uid, word = await chat.resolve_person(rest)
    roles: dict[str, Role] = {"owner": "owner", "admin": "admin", "member": "member"}
    if word not in roles:
        raise Problem("which role? owner, admin or member")
    await chat.client.group_role(group, uid, roles[word])
    chat.roster.members.pop(group, None)
    await chat.refresh_groups()
    label = clean(chat.roster.label(Target(group=group)))
    chat.screen.show(good(f"{clean(chat.roster.name(uid))} is {word} of {label} now"))


def _group(chat: Chat, text: str, only: bool = False) -> tuple[int, str]:
    """The group ``text`` begins with, or the current one, and the rest.

    :param only: nothing but a group can stand here, so its ``#`` may be missing.
    """
    if text.startswith("#") or (only and text):
        found, rest = chat.roster.split(text if text.startswith("#") else f"#{text}")
        if not isinstance(found, Target):
            raise Problem(f"you are in no group called {clean(found)}; /groups lists yours")
        return found.group, rest
    current = chat.roster.current
    if current is None or not current.group:
        raise Problem("which group? name it, #GROUP, or /open it first")
    return current.group, text


# --- oneself -----------------------------------------------------------------


@command("profile", "[NAME | FIELD=TEXT]", "a profile, or change yours: nick, description, sex, icon", "person")
async def profile(chat: Chat, rest: str) -> None:
    fields = {key: value.strip('"') for key, value in _FIELD.findall(rest)}
    if fields and not _FIELD.sub("", rest).strip():
        unknown = sorted(set(fields) - {"nick", "description", "sex", "icon"})
        if unknown:
            raise Problem(f"a profile has no {clean(unknown[0])}: only nick, description, sex and icon")
        chat.roster.me.nick = (await chat.client.profile_set(**fields)).nick
        chat.screen.show(good("your profile was changed"))
        rest = ""
    uid = (await chat.resolve_person(rest))[0] if rest else 0
    chat.screen.show(*render.profile(await chat.client.profile_get(uid)))


@command("passwd", "", "change your password", asks=True)
async def passwd(chat: Chat, rest: str) -> None:
    old = await chat.screen.ask("current password: ", hidden=True)
    new = await chat.screen.ask("new password: ", hidden=True)
    if await chat.screen.ask("new password again: ", hidden=True) != new:
        raise Problem("the two new passwords differ; nothing was changed")
    await chat.client.password_change(old, new)
    chat.screen.show(good("your password was changed"))


@command("logout", "", "log out, back to the start", asks=True)
async def logout(chat: Chat, rest: str) -> None:
    await _leave(chat, "logout")


@command("quit", "", "leave", asks=True)
async def quit_(chat: Chat, rest: str) -> None:
    await _leave(chat, "quit")


async def _leave(chat: Chat, how: str) -> None:
    unsent = chat.client.unsent
    if unsent:
        answer = await chat.screen.ask(f"{unsent} not sent yet. Leave anyway? [y/N] ")
        if not answer.strip().lower().startswith("y"):
            return
    chat.leaving = how


@command("help", "[COMMAND]", "this list, or one command", "command")
async def help_(chat: Chat, rest: str) -> None:
    chat.screen.show(*help_lines(rest))
