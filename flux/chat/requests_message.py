"""Messages: send, history, conversations, and what moves cursors."""

from __future__ import annotations

from msgspec import UNSET

from flux.chat.dispatch import answers
from flux.chat.positions import Chat
from flux.chat.session import Session
from flux.errors import BadRequest, UserInvalid
from flux.model.events import Typing
from flux.model.messages import Draft
from flux.wire import replies, requests
from flux.wire.requests import CHAT

MAX_HISTORY = 200
"""Messages in one ``history`` reply."""

MAX_CONVERSATIONS = 1_000
"""Rows of one ``chats`` reply."""


@answers(requests.Send)
def send(session: Session, request: requests.Send) -> None:
    """Hand a message to the journal; ``send.ok`` is written when it is committed."""
    to, group = request.to, request.group
    if (not to) == (not group):
        raise BadRequest("to, group: give exactly one of them")
    draft = Draft(session.uid, to, group, request.text, request.cid)
    session.node.journal.append((session, request, draft))
    session.sending()


@answers(requests.Received, counts=None)
def received(session: Session, request: requests.Received) -> None:
    """Move the cursor, counted no further than what was pushed on this connection."""
    chat = _own_chat(session, request.chat)
    if chat is None or not session.acks:
        return
    position = session.node.delivery.positions.position(session, chat)
    seq = min(request.seq, position)
    unacked = session.unacked.get(chat.id, 0) if session.unacked else 0
    if unacked <= seq:
        # What follows up to the position is the account's own.
        seq = position
        if session.unacked:
            session.unacked.pop(chat.id, None)
    session.advance(chat.id, seq)


@answers(requests.Read, counts=None)
def read(session: Session, request: requests.Read) -> None:
    """Move the read cursor, at most to the head; in small chats the others see it."""
    chat = _own_chat(session, request.chat)
    if chat is None:
        return
    seq = min(request.seq, chat.head)
    if session.advance_read(chat.id, seq):
        session.node.reading.risen(session, chat, seq)


@answers(requests.TypingRequest)
async def typing(session: Session, request: requests.TypingRequest) -> None:
    """Tell the others of a chat; nothing is stored, and a chat without messages has nobody to tell."""
    if bool(request.to) == bool(request.group):
        raise BadRequest("to, group: give exactly one of them")
    if request.to == session.uid:
        raise BadRequest("to: this is yourself")
    for chat in session.chats:
        if chat.id == request.group if request.group else not chat.group and request.to in chat.members:
            if not session.bars(chat):
                members = await session.node.delivery.members.of(chat)
                others = [uid for uid in members if uid != session.uid]
                await session.node.presence.notify(others, Typing(chat.id, session.uid))
            return


@answers(requests.History, counts=False)
async def history(session: Session, request: requests.History) -> replies.HistoryOk:
    """A stretch of a chat's messages."""
    if sum(map(bool, (request.chat, request.to, request.group))) != 1:
        raise BadRequest("chat, to, group: give exactly one of them")
    if request.before is not UNSET and request.after is not UNSET:
        raise BadRequest("before, after: give at most one of them")
    if request.to == session.uid:
        raise UserInvalid("to: there is no chat with oneself")
    after = request.after if isinstance(request.after, int) else None
    before = request.before if isinstance(request.before, int) else None
    if before == 0:
        before = 1
    page = await session.node.store.history(
        session.uid, request.chat, request.to, request.group,
        before or 0, after if after is not None else -1, min(request.limit, MAX_HISTORY),
    )  # fmt: skip
    kind = replies.HistoryOk if after is not None else replies.HistoryEndOk
    return kind(chat=page.chat, messages=list(page.messages), more=page.more)


@answers(requests.Chats, counts=False)
async def chats(session: Session, request: requests.Chats) -> replies.ChatsOk:
    """The conversation list."""
    found = await session.node.store.conversations(session.uid, MAX_CONVERSATIONS + 1)
    reply = replies.ChatsOk(chats=list(found[:MAX_CONVERSATIONS]))
    if len(found) > MAX_CONVERSATIONS:
        reply.more = True
    return reply


@answers(requests.Ping, login=False, counts=False)
def ping(session: Session, request: requests.Ping) -> replies.PingOk:
    """A sign of life; from now on the server expects them."""
    session.pinged = True
    return replies.PingOk(at=int(session.node.wall_clock() * 1000))


@answers(requests.Help, login=False, counts=False)
def help_(session: Session, request: requests.Help) -> replies.EncodedHelpOk:
    """Explain the requests."""
    return replies.EncodedHelpOk(requests=CHAT.help(request.request))


def _own_chat(session: Session, number: int) -> Chat | None:
    """The chat, if this session's account is in it."""
    chat = session.node.delivery.chats.get(number)
    return chat if chat is not None and session in chat.sessions else None
