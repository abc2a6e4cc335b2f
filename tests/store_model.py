"""What a store should answer, in plain dictionaries: as slow and as simple as possible.

Methods are named as in ``IStore`` and take the same arguments.  Identifiers are
given in the same order as a store that does one call after the other gives them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import UNSET

from flux.errors import BadRequest, FluxError, Forbidden, NotFound, UserExists, UserInvalid
from flux.model.chats import SMALL_CHAT, Cursor, CursorMove, Group, Member, MemberChange, Membership, Participant
from flux.model.messages import Conversation, Draft, Message, Page, Receipt
from flux.model.overview import Overview
from flux.model.people import Credentials, Friend, FriendRequest, Profile
from flux.names import fold

RANK = {"owner": 0, "admin": 1, "member": 2}


@dataclass
class Place:
    """An account in a chat."""

    first: int
    received: int
    read: int
    role: str = "member"


@dataclass
class Chat:
    id: int
    pair: tuple[int, int] | None = None
    group: Group | None = None
    closed: bool = False
    open_history: bool = False
    version: int = 1
    members: dict[int, Place] = field(default_factory=dict)
    removed: set[int] = field(default_factory=set)
    #: (the message, its cid)
    messages: list[tuple[Message, str]] = field(default_factory=list)

    @property
    def head(self) -> int:
        return self.messages[-1][0].seq if self.messages else 0

    def after(self, floor: int) -> list[Message]:
        return [message for message, _ in self.messages if message.seq > floor]

    def visible(self, uid: int) -> list[Message]:
        return self.after(0 if self.open_history else self.members[uid].first - 1)

    def unread(self, uid: int) -> int:
        place = self.members[uid]
        return sum(message.sender != uid for message in self.after(max(place.read, place.first - 1)))

    def old(self, before: int) -> list[int]:
        """The messages that may be removed."""
        arrived = min((place.received for place in self.members.values()), default=self.head)
        return [m.seq for m, _ in self.messages if m.at < before and m.seq <= min(arrived, self.head - 1)]


class ModelStore:
    def __init__(self) -> None:
        self.time = 0
        self.profiles: dict[int, Profile] = {}
        self.verified: dict[int, str] = {}
        self.sessions: dict[int, int] = {}
        self.friendships: dict[tuple[int, int], tuple[str, bool]] = {}
        self.requests: dict[tuple[int, int], tuple[str, str, int]] = {}
        self.blocks: set[tuple[int, int]] = set()
        self.chats: dict[int, Chat] = {}
        # What moved since somebody looked.
        self.heads: dict[int, int] = {}
        self.versions: dict[int, int] = {}
        self.numbers: dict[int, int] = {}

    # accounts

    def create_account(
        self, name: str, key: str, password_hash: str, nick: str, email: str, icon: str = "", verified: str = ""
    ) -> int:
        if any(fold(profile.name) == key for profile in self.profiles.values()) or verified in self.verified.values():
            raise UserExists
        uid = len(self.profiles) + 1
        self.profiles[uid] = Profile(uid, name, nick, icon=icon)
        if verified:
            self.verified[uid] = verified
        self.sessions[uid] = 0
        return uid

    def set_email(self, uid: int, email: str, verified: str) -> None:
        if uid not in self.profiles:
            raise UserInvalid
        if any(address == verified for other, address in self.verified.items() if other != uid):
            raise UserExists
        self.verified[uid] = verified

    def credentials(self, uid: int, key: str, verified: str) -> Credentials | None:
        for profile in self.profiles.values():
            mine = self.verified.get(profile.id, "")
            if profile.id == uid if uid else fold(profile.name) == key if key else mine and mine == verified:
                return Credentials(profile.id, profile.name, "h", mine, profile.nick, icon=profile.icon)
        return None

    def open_session(self, uid: int) -> int:
        if uid not in self.profiles:
            raise UserInvalid
        self.sessions[uid] += 1
        self.numbers[uid] = self.sessions[uid]
        return self.sessions[uid]

    def return_session(self, uid: int, number: int) -> None:
        if self.sessions.get(uid) == number > 0:
            self.sessions[uid] -= 1
            if uid in self.numbers:
                self.numbers[uid] = self.sessions[uid]

    def overview(self, uid: int) -> Overview:
        if uid not in self.profiles:
            raise UserInvalid
        mine = [chat for chat in self.chats.values() if uid in chat.members]
        return Overview(
            profile=self.profiles[uid],
            friends=self.friends(uid),
            requests=self.friend_requests(uid),
            groups=self.groups(uid),
            cursors=tuple(self._cursor(chat, uid) for chat in mine),
            session=self.sessions[uid],
            password_hash="h",
            blocked=tuple(sorted(other for blocker, other in self.blocks if blocker == uid)),
        )

    def _cursor(self, chat: Chat, uid: int) -> Cursor:
        place = chat.members[uid]
        peer = sum(chat.pair) - uid if chat.pair else 0
        return Cursor(chat.id, peer, place.received, place.read, chat.head, chat.unread(uid))

    # friends

    def friend_add(self, uid: int, to: int, note: str, remark: str, one_sided: bool) -> str:
        if uid == to:
            raise BadRequest
        if to not in self.profiles:
            raise UserInvalid
        if (to, uid) in self.blocks:
            raise Forbidden
        if self.friendships.get((uid, to), ("", False))[1]:
            if remark:
                self.friendships[uid, to] = (remark, True)
            return "accepted"
        if (uid, to) in self.requests:
            return self.friend_answer(uid, to, True, remark)
        _, _, since = self.requests.get((to, uid), ("", "", self.time))
        self.requests[to, uid] = (note, remark, since)
        if one_sided:
            self.friendships[uid, to] = (remark, False)
        return "pending"

    def friend_answer(self, uid: int, sender: int, accept: bool, remark: str) -> str:
        if (uid, sender) not in self.requests:
            raise NotFound
        if accept and self._barred(uid, sender):
            raise Forbidden
        _, theirs, _ = self.requests.pop((uid, sender))
        if not accept:
            return "rejected"
        self.requests.pop((sender, uid), None)
        self.friendships[uid, sender] = (remark, True)
        self.friendships[sender, uid] = (theirs, True)
        return "accepted"

    def friend_remove(self, uid: int, other: int) -> None:
        for pair in ((uid, other), (other, uid)):
            self.friendships.pop(pair, None)
            self.requests.pop(pair, None)

    def block(self, uid: int, other: int) -> None:
        if other not in self.profiles:
            raise UserInvalid
        self.blocks.add((uid, other))
        self.friend_remove(uid, other)

    def unblock(self, uid: int, other: int) -> None:
        self.blocks.discard((uid, other))

    def _barred(self, one: int, other: int) -> bool:
        return (one, other) in self.blocks or (other, one) in self.blocks

    def friends(self, uid: int) -> tuple[Friend, ...]:
        found = [
            Friend(friend, self.profiles[friend].name, self.profiles[friend].nick, remark, mutual)
            for (owner, friend), (remark, mutual) in self.friendships.items()
            if owner == uid
        ]
        return tuple(sorted(found, key=lambda friend: fold(friend.name)))

    def friend_requests(self, uid: int) -> tuple[FriendRequest, ...]:
        found = [
            FriendRequest(sender, self.profiles[sender].name, note, at)
            for (owner, sender), (note, _, at) in self.requests.items()
            if owner == uid
        ]
        return tuple(sorted(found, key=lambda request: (request.at, request.sender)))

    # groups

    def group_create(self, uid: int, name: str, description: str, closed: bool, open_history: bool) -> Group:
        number = len(self.chats) + 1
        group = Group(number, number, name, description, "owner")
        self.chats[number] = Chat(number, group=group, closed=closed, open_history=open_history)
        self.chats[number].members[uid] = Place(1, 0, 0, "owner")
        self.versions[number] = 1
        return group

    def _group(self, group: int) -> Chat:
        chat = self.chats.get(group)
        if chat is None or chat.group is None:
            raise NotFound
        return chat

    def _changed(self, chat: Chat, uid: int, kind: str, role: object = UNSET) -> MemberChange:
        chat.version += 1
        self.versions[chat.id] = chat.version
        return MemberChange(chat.id, uid, kind, chat.version, chat.head, role)

    def _enter(self, chat: Chat, uid: int, kind: str) -> MemberChange:
        chat.members[uid] = Place(chat.head + 1, chat.head, chat.head)
        return self._changed(chat, uid, kind)

    def group_join(self, uid: int, group: int) -> MemberChange:
        chat = self._group(group)
        if uid in chat.members:
            return MemberChange(group, uid, "join", chat.version, chat.members[uid].first - 1, again=True)
        if not chat.members:
            raise NotFound
        if chat.closed or uid in chat.removed:
            raise Forbidden
        return self._enter(chat, uid, "join")

    def group_leave(self, uid: int, group: int) -> MemberChange:
        chat = self._group(group)
        if uid not in chat.members or (chat.members[uid].role == "owner" and len(chat.members) > 1):
            raise Forbidden
        del chat.members[uid]
        return self._changed(chat, uid, "leave")

    def _rank(self, chat: Chat, uid: int) -> int:
        return RANK[chat.members[uid].role] if uid in chat.members else 3

    def group_add(self, actor: int, group: int, uid: int) -> MemberChange:
        chat = self._group(group)
        if self._rank(chat, actor) > 1:
            raise Forbidden
        if uid in chat.members:
            return MemberChange(group, uid, "add", chat.version, chat.members[uid].first - 1, again=True)
        if uid not in self.profiles:
            raise UserInvalid
        if (uid, actor) in self.blocks:
            raise Forbidden
        chat.removed.discard(uid)
        return self._enter(chat, uid, "add")

    def group_remove(self, actor: int, group: int, uid: int) -> MemberChange:
        chat = self._group(group)
        if self._rank(chat, actor) > 1:
            raise Forbidden
        if uid not in chat.members:
            raise NotFound
        if self._rank(chat, uid) <= self._rank(chat, actor):
            raise Forbidden
        del chat.members[uid]
        chat.removed.add(uid)
        return self._changed(chat, uid, "remove")

    def group_role(self, actor: int, group: int, uid: int, role: str) -> MemberChange:
        chat = self._group(group)
        if self._rank(chat, actor) > 0 or actor == uid:
            raise Forbidden
        if uid not in chat.members:
            raise NotFound
        if role == "owner":
            chat.members[actor].role = "admin"
        chat.members[uid].role = role
        return self._changed(chat, uid, "role", role)

    def groups(self, uid: int) -> tuple[Group, ...]:
        mine = [chat for chat in self.chats.values() if chat.group and uid in chat.members]
        return tuple(
            Group(chat.id, chat.id, chat.group.name, chat.group.description, chat.members[uid].role) for chat in mine
        )

    def members(self, uid: int, group: int) -> tuple[Member, ...]:
        chat = self._group(group)
        if uid not in chat.members:
            raise Forbidden
        found = [
            Member(id_, self.profiles[id_].name, place.role, self._barred(uid, id_))
            for id_, place in chat.members.items()
        ]
        return tuple(sorted(found, key=lambda member: (RANK[member.role], member.id)))

    def membership(self, chat: int) -> Membership:
        if chat not in self.chats:
            raise NotFound
        found = self.chats[chat]
        participants = tuple(Participant(uid, place.first) for uid, place in sorted(found.members.items()))
        return Membership(chat, found.group is not None, found.version, found.head, participants)

    # messages

    def append(self, drafts: list[Draft]) -> list[Receipt | FluxError]:
        outcomes: list[Receipt | FluxError] = []
        for draft in drafts:
            try:
                outcomes.append(self._append(draft))
            except FluxError as error:
                outcomes.append(error)
        return outcomes

    def _append(self, draft: Draft) -> Receipt:
        sender, to = draft.sender, draft.to
        chat = self._pair(sender, to) if to else self._group(draft.group)
        for message, cid in chat.messages:
            if cid and (cid, message.sender) == (draft.cid, sender):
                if message.text != draft.text:
                    raise BadRequest
                return Receipt(chat.id, message.seq, message.at, True, chat.version)
        if sender not in chat.members or (to, sender) in self.blocks:
            raise Forbidden
        at = max(self.time, chat.messages[-1][0].at if chat.messages else 0)
        where = {"to": to} if to else {"group": chat.id}
        message = Message(chat.id, chat.head + 1, sender, self.profiles[sender].name, draft.text, at, **where)
        chat.messages.append((message, draft.cid))
        self.heads[chat.id] = chat.head
        return Receipt(chat.id, message.seq, at, False, chat.version)

    def _pair(self, one: int, other: int) -> Chat:
        if one == other:
            raise BadRequest
        if other not in self.profiles:
            raise UserInvalid
        pair = (min(one, other), max(one, other))
        for chat in self.chats.values():
            if chat.pair == pair:
                return chat
        if (other, one) in self.blocks:
            raise Forbidden
        number = len(self.chats) + 1
        members = {uid: Place(1, 0, 0) for uid in pair}
        self.chats[number] = Chat(number, pair=pair, members=members)
        self.versions[number] = 1
        return self.chats[number]

    def history(self, uid: int, chat: int, to: int, group: int, before: int, after: int, limit: int) -> Page:
        if to:
            pair = (min(uid, to), max(uid, to))
            chat = next((found.id for found in self.chats.values() if found.pair == pair), 0)
            if not chat:
                return Page(0, (), False)
        if group:
            self._group(group)
        found = self.chats.get(chat or group)
        if found is None:
            raise NotFound
        if uid not in found.members:
            raise Forbidden
        chosen = [m for m in found.visible(uid) if m.seq > after and (not before or m.seq < before)]
        shown = chosen[:limit] if after >= 0 else chosen[-limit:]
        return Page(found.id, tuple(shown), len(chosen) > limit)

    def fill(self, uid: int, chat: int, after: int, limit: int) -> tuple[Message, ...]:
        found = self.chats.get(chat)
        if found is None or uid not in found.members:
            return ()
        floor = max(after, found.members[uid].first - 1)
        return tuple(found.after(floor)[:limit])

    def conversations(self, uid: int, limit: int) -> tuple[Conversation, ...]:
        mine = [chat for chat in self.chats.values() if uid in chat.members and chat.messages and chat.visible(uid)]
        mine.sort(key=lambda chat: (chat.messages[-1][0].at, chat.id), reverse=True)
        return tuple(
            Conversation(
                chat.id,
                chat.group.name if chat.group else self.profiles[sum(chat.pair) - uid].name,
                chat.messages[-1][0],
                chat.unread(uid),
                chat.members[uid].read,
                UNSET if chat.group else sum(chat.pair) - uid,
                chat.id if chat.group else UNSET,
                self.read_by(uid, chat),
            )
            for chat in mine[:limit]
        )

    def read_by(self, uid: int, chat: Chat) -> int:
        if len(chat.members) > SMALL_CHAT:
            return 0
        shown = [0]
        for other, place in chat.members.items():
            barred = (uid, other) in self.blocks or (chat.pair and (other, uid) in self.blocks)
            if other != uid and not barred and place.read >= place.first:
                shown.append(place.read)
        return max(shown)

    def advance(self, moves: list[CursorMove]) -> None:
        for move in moves:
            chat = self.chats.get(move.chat)
            if chat and move.uid in chat.members and move.number >= self.sessions[move.uid]:
                place = chat.members[move.uid]
                place.received = max(place.received, min(move.received, chat.head))
                place.read = max(place.read, min(move.read, chat.head))

    def removed(self, before: int, left: dict[int, int], all_of_them: bool) -> int:
        """What a store has removed, which has to be what it may, and all of that if it removes all; how many.

        :param left: the lowest message of each chat that is still there.
        """
        count = 0
        for chat in self.chats.values():
            gone = [message.seq for message, _ in chat.messages if message.seq < left.get(chat.id, 1)]
            old = chat.old(before)
            assert gone == old if all_of_them else gone == old[: len(gone)], (chat, gone, old)
            del chat.messages[: len(gone)]
            count += len(gone)
        return count
