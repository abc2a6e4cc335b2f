"""The answer to a login in the numbered dialect, which carries more than the named one.

It lists the members of every group with their states, and as many of the offline
messages as still fit; the others follow as ordinary messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flux.chat.positions import Chat
from flux.errors import FluxError
from flux.model.chats import Group, Member
from flux.model.messages import Message
from flux.model.overview import Overview
from flux.wire.numbered import MAX_LOGIN_ANSWER, NumberedDialect
from flux.wire.replies import FriendView, MemberView

if TYPE_CHECKING:
    from flux.chat.session import Session

MOST = 20
"""Offline messages looked at: more than fit into an answer of 1,000 bytes."""


async def answer_login(session: Session, overview: Overview, online: set[int]) -> None:
    """Write answer 2; the messages in it count as pushed."""
    assert isinstance(session.dialect, NumberedDialect)
    friends = [FriendView(f.id, f.name, f.nick, f.remark, f.id in online) for f in overview.friends]
    groups = [(group, await _members(session, group)) for group in overview.groups]
    line, _ = session.dialect.login_answer(overview.profile, friends, groups, [])
    offline = await _offline(session) if len(line) < MAX_LOGIN_ANSWER else []
    # Some chats may have been left while the others were read.
    offline = [(chat, message) for chat, message in offline if chat in session.chats]
    line, packed = session.dialect.login_answer(overview.profile, friends, groups, [message for _, message in offline])
    for chat, message in offline[:packed]:
        session.pushed(chat.id, message.seq)
        session.node.delivery.positions.place(session, chat, message.seq)
    session.write(line)


async def _members(session: Session, group: Group) -> Sequence[MemberView]:
    try:
        members: tuple[Member, ...] = await session.node.store.members(session.uid, group.group)
    except FluxError:
        # Removed since the overview was read.
        return []
    online = await session.node.presence.online([member.id for member in members if not member.barred])
    return [MemberView(member.id, member.name, member.role, member.id in online) for member in members]


async def _offline(session: Session) -> list[tuple[Chat, Message]]:
    """The first of the messages that wait, chat by chat."""
    found: list[tuple[Chat, Message]] = []
    positions = session.node.delivery.positions
    for chat in list(session.chats):
        position = positions.position(session, chat)
        if position < chat.head:
            messages = await session.node.store.fill(session.uid, chat.id, position, MOST)
            found += [(chat, message) for message in messages if message.sender != session.uid]
        if len(found) >= MOST:
            break
    return found
