"""Who and what there is, as far as this client knows: people, groups, conversations.

Everything is found by what a person types: a name (compared as the server compares
them), ``#group``, or an id.  A *target* is where a message can go: a user or a group.
Conversations keep what the toolbar shows: unread messages, and how far own ones were read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from flux.model.chats import Group
from flux.model.messages import Conversation as Listed
from flux.model.messages import Message
from flux.model.people import FriendRequest
from flux.names import fold
from flux.wire.replies import FriendView, LoginOk, MemberView, SendOk

#: Names have at most 50 characters: no more words than this can belong to one.
_MAX_WORDS = 26


class Target(NamedTuple):
    """Where a message goes: ``to`` a user or, if that is 0, to ``group``."""

    to: int = 0
    group: int = 0


@dataclass(slots=True)
class Person:
    """What is known of an account."""

    id: int
    name: str
    nick: str = ""
    remark: str = ""
    online: bool = False
    friend: bool = False


@dataclass(slots=True)
class Conversation:
    """One chat as this client sees it.

    :ivar head: the highest ``seq`` seen or heard of.
    :ivar unread: messages of others not read yet.
    :ivar sent: the ``seq`` of the newest own message of this session, 0 if there is none.
    :ivar read_by: how far each other member has read, by id; at 0, how far at least one of them has.
    """

    chat: int = 0
    head: int = 0
    unread: int = 0
    sent: int = 0
    read_by: dict[int, int] = field(default_factory=dict)

    def readers(self) -> int:
        """How many others, at least, have read the newest own message."""
        if not self.sent:
            return 0
        known = sum(seq >= self.sent for uid, seq in self.read_by.items() if uid)
        return known or int(self.read_by.get(0, 0) >= self.sent)


class Offer(NamedTuple):
    """What can be typed for something; ``label`` is its name on the screen where ``text`` is another."""

    text: str
    label: str = ""


class Ambiguous(Exception):
    """Several targets have the name that was typed; ``targets`` are they."""

    def __init__(self, targets: list[Target]) -> None:
        super().__init__()
        self.targets = targets


class Roster:
    """The account's own view of its surroundings.

    :ivar current: where a plain line goes.
    """

    def __init__(self) -> None:
        self.me = Person(0, "")
        self.people: dict[int, Person] = {}
        self.groups: dict[int, Group] = {}
        self.members: dict[int, list[MemberView]] = {}
        self.requests: dict[int, FriendRequest] = {}
        self.conversations: dict[Target, Conversation] = {}
        self.current: Target | None = None
        self._chats: dict[int, Target] = {}
        self._left: dict[int, str] = {}

    # what the server tells

    def logged_in(self, login: LoginOk) -> None:
        """Take over the state of a login."""
        self.me = self.person(login.id, login.name)
        self.me.nick = login.nick
        self.set_friends(login.friends)
        self.set_groups(login.groups)
        self.requests = {request.sender: request for request in login.friend_requests}
        for request in login.friend_requests:
            self.person(request.sender, request.name)
        for conversation in self.conversations.values():
            conversation.unread = 0
        for unread in login.unread:
            target = Target(to=unread.to) if isinstance(unread.to, int) else Target(group=_id(unread.group))
            conversation = self.conversation(target, unread.chat)
            conversation.unread = unread.count
            conversation.head = max(conversation.head, unread.head)

    def set_friends(self, friends: list[FriendView]) -> None:
        """Replace the friend list."""
        for person in self.people.values():
            person.friend = False
        for friend in friends:
            person = self.person(friend.id, friend.name)
            person.nick, person.remark = friend.nick, friend.remark
            person.online, person.friend = friend.online, True

    def set_groups(self, groups: list[Group]) -> None:
        """Replace the groups."""
        for group in self.groups.values():
            self._left[group.group] = group.name
        self.groups = {group.group: group for group in groups}
        for group in groups:
            self.conversation(Target(group=group.group), group.chat)
        if self.current is not None and self.current.group and self.current.group not in self.groups:
            self.current = None

    def set_members(self, group: int, members: list[MemberView]) -> None:
        """Replace what is known of a group's members."""
        self.members[group] = members
        for member in members:
            person = self.person(member.id, member.name)
            if person is not self.me:
                person.online = member.online

    def person(self, uid: int, name: str = "") -> Person:
        """The person with this id, made known if need be."""
        person = self.people.get(uid)
        if person is None:
            person = self.people[uid] = Person(uid, name)
        elif name:
            person.name = name
        return person

    def conversation(self, target: Target, chat: int = 0) -> Conversation:
        """The conversation with a target; ``chat`` is remembered where it is given."""
        conversation = self.conversations.get(target)
        if conversation is None:
            conversation = self.conversations[target] = Conversation()
        if chat:
            conversation.chat = chat
            self._chats[chat] = target
        return conversation

    def came(self, message: Message) -> Target:
        """A message arrived: the target it belongs to. It counts as unread, unless the login counted it."""
        target = self.looked_up(message)
        conversation = self.conversation(target)
        if message.seq > conversation.head:
            conversation.head = message.seq
            conversation.unread += message.sender != self.me.id
        return target

    def looked_up(self, message: Message) -> Target:
        """A message was found in history: the target it belongs to."""
        self.person(message.sender, message.name)
        target = self.target_of(message)
        self.conversation(target, message.chat)
        return target

    def listed(self, row: Listed) -> None:
        """A row of the conversation list."""
        target = self.looked_up(row.last)
        if target.to:
            self.person(target.to, row.name)
        read_by = self.conversation(target).read_by
        read_by[0] = max(read_by.get(0, 0), row.read_by)

    def sent(self, target: Target, receipt: SendOk) -> None:
        """An own message was committed."""
        conversation = self.conversation(target, receipt.chat)
        conversation.sent = max(conversation.sent, receipt.seq)
        conversation.head = max(conversation.head, receipt.seq)

    def target_of(self, message: Message) -> Target:
        """Where one answers a message."""
        if isinstance(message.group, int):
            return Target(group=message.group)
        return Target(to=_id(message.to) if message.sender == self.me.id else message.sender)

    def target_of_chat(self, chat: int) -> Target | None:
        """The target whose chat this is, if it is known."""
        return self._chats.get(chat)

    # names

    def label(self, target: Target) -> str:
        """What a target is called on the screen."""
        if target.to:
            return self.name(target.to)
        name = self.groups[target.group].name if target.group in self.groups else self._left.get(target.group, "")
        if not name:
            return f"#{target.group}"
        return f"#{name} ({target.group})" if self._shared(name) else f"#{name}"

    def typed(self, target: Target) -> str:
        """How a target is typed: its name, in quotes if need be; a group that shares its name by its id."""
        if target.to:
            return quoted(self.name(target.to))
        name = self.groups[target.group].name if target.group in self.groups else ""
        return f"#{target.group}" if not name or self._shared(name) else quoted(f"#{name}")

    def name(self, uid: int) -> str:
        """What a person is called."""
        person = self.people.get(uid)
        return person.name if person is not None and person.name else f"user {uid}"

    def find(self, typed: str) -> Target | None:
        """What a whole name, ``#group`` or id means; None for nothing known.

        :raises Ambiguous: several groups have this name.
        """
        typed = typed.strip()
        wanted = fold(typed.removeprefix("#"))
        if not typed.startswith("#"):
            for person in self.people.values():
                if person.name and fold(person.name) == wanted:
                    return Target(to=person.id)
        named = [group.group for group in self.groups.values() if fold(group.name) == wanted]
        if len(named) > 1:
            raise Ambiguous([Target(group=group) for group in named])
        if named:
            return Target(group=named[0])
        if wanted.isascii() and wanted.isdigit():
            number = int(wanted)
            if typed.startswith("#") or number not in self.people:
                return Target(group=number) if number in self.groups else None
            return Target(to=number)
        return None

    def split(self, text: str) -> tuple[Target | str, str]:
        """Cut ``text`` after the longest known name it begins with, quoted or not.

        :return: the target, or the first word where no name is known; and the rest.
        :raises Ambiguous: several groups have this name.
        """
        text = text.strip()
        hash_, bare = ("#", text[1:]) if text.startswith("#") else ("", text)
        if bare.startswith('"') and '"' in bare[1:]:
            name, _, rest = bare[1:].partition('"')
            return self.find(hash_ + name) or name, rest.strip()
        words = text.split(" ")
        for count in range(min(len(words), _MAX_WORDS), 0, -1):
            target = self.find(" ".join(words[:count]))
            if target is not None:
                return target, " ".join(words[count:]).strip()
        return words[0], " ".join(words[1:]).strip()

    def names(self) -> list[Offer]:
        """What can be typed for people and groups, friends first."""
        people = sorted(
            (person for person in self.people.values() if person.name and person is not self.me),
            key=lambda person: (not person.friend, fold(person.name)),
        )
        return [Offer(quoted(person.name)) for person in people] + sorted(map(self._group_offer, self.groups))

    def _group_offer(self, group: int) -> Offer:
        target = Target(group=group)
        return Offer(self.typed(target), self.label(target) if self._shared(self.groups[group].name) else "")

    def _shared(self, name: str) -> bool:
        return sum(fold(group.name) == fold(name) for group in self.groups.values()) > 1

    def unread(self) -> list[tuple[Target, int]]:
        """Conversations with unread messages, most first."""
        counts = [(target, c.unread) for target, c in self.conversations.items() if c.unread and target != self.current]
        return sorted(counts, key=lambda item: -item[1])


def quoted(name: str) -> str:
    """A name as it is typed where more text may follow: in quotes if it has spaces."""
    if " " not in name:
        return name
    return f'#"{name[1:]}"' if name.startswith("#") else f'"{name}"'


def _id(value: object) -> int:
    return value if isinstance(value, int) else 0
