"""Which chats the sessions here are in, and how far each has got everything.

Every session has a *position* in each of its chats: everything up to it was pushed on
this connection or is the account's own.  Most of the time that is the chat's head, so
the head is kept once per chat and a session remembers only the chats where it differs::

    Chat     head                              Session   chats
             sessions ──> who is in it here              apart   chat -> position, where that is not the head
                                                         left    chat -> position, where it is in no more

A session that is placed below its chat's head is told to be *behind*.  What is written, and
where members and messages are read, is others' business: nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from flux.model.chats import Cursor
from flux.model.messages import Message

if TYPE_CHECKING:
    from flux.chat.session import Session


class Chat:
    """What this node knows of a chat that has a session here.

    :ivar head: position of the sessions that are not ``apart``.
    :ivar version: member version of ``members``; 0 while they are not known.
    :ivar newest: the highest member version heard of: above ``version``, the members
        have to be read before the next message goes out.
    :ivar members: account ids, empty while not known.
    :ivar sessions: the sessions here whose accounts are members.
    :ivar waiting: messages held back while the members are being read.
    """

    __slots__ = ("group", "head", "id", "members", "newest", "sessions", "version", "waiting")

    def __init__(self, chat: int, group: bool, head: int, version: int = 0, members: tuple[int, ...] = ()) -> None:
        self.id = chat
        self.group = group
        self.head = head
        self.version = version
        self.newest = max(version, 1)
        self.members = members
        self.sessions: list[Session] = []
        self.waiting: list[tuple[Message, bool]] | None = None


class Positions:
    """The chats of this node, and the sessions' positions in them.

    :param sessions: the node's table of live sessions by account.
    :param behind: called with a session that has to be filled from the store.
    :ivar chats: those that somebody here is in, by id.
    """

    def __init__(self, sessions: Mapping[int, Session], behind: Callable[[Session], None]) -> None:
        self.chats: dict[int, Chat] = {}
        self._sessions = sessions
        self._behind = behind
        self._forgotten: set[Session] = set()

    def here(self, uid: int) -> Session | None:
        """The session of an account that is in its chats."""
        session = self._sessions.get(uid)
        return None if session in self._forgotten else session

    def position(self, session: Session, chat: Chat) -> int:
        """Everything up to here needs no more pushing on this connection."""
        return session.apart.get(chat.id, chat.head) if session.apart else chat.head

    def place(self, session: Session, chat: Chat, position: int) -> None:
        """Record a position; sessions behind their chat's head get filled."""
        if position == chat.head:
            if session.apart:
                session.apart.pop(chat.id, None)
            return
        if session.apart is None:
            session.apart = {}
        session.apart[chat.id] = position
        if position < chat.head:
            self._behind(session)

    def raise_head(self, chat: Chat, head: int) -> None:
        """The chat is known to reach up to ``head``, though nobody brought the messages."""
        old = chat.head
        if head <= old:
            return
        chat.head = head
        for session in tuple(chat.sessions):
            self.place(session, chat, session.apart.get(chat.id, old) if session.apart else old)

    # --- which chats a session is in ---

    def enter(self, session: Session, cursors: Iterable[Cursor]) -> None:
        """Place a session that just logged in: its positions start at its cursors."""
        for cursor in cursors:
            chat = self.chats.get(cursor.chat)
            if chat is None and cursor.peer:
                chat = self.pair(cursor.chat, session.uid, cursor.peer, cursor.head)
            elif chat is None:
                chat = self.chats[cursor.chat] = Chat(cursor.chat, True, cursor.head)
            else:
                self.raise_head(chat, cursor.head)
                if chat.version == chat.newest and session.uid not in chat.members:
                    # The cursors or the members are out of date: look before the next message.
                    chat.newest += 1
            self.attach(session, chat, cursor.received)

    def compare(self, session: Session, cursors: Iterable[Cursor]) -> None:
        """Everything was read anew for a session that is in the middle of things."""
        for cursor in cursors:
            chat = self.chats.get(cursor.chat)
            if chat is None or session not in chat.sessions:
                session.joined(cursor.chat, cursor.read)
                self.enter(session, [cursor])
            else:
                self.raise_head(chat, cursor.head)

    def leave(self, session: Session) -> None:
        """Forget a session that ended."""
        self._forgotten.discard(session)
        for chat in session.chats:
            chat.sessions.remove(session)
            self.drop_if_unused(chat)
        session.chats = []
        session.apart = None

    def pair(self, number: int, one: int, other: int, head: int) -> Chat:
        """A one-to-one chat that no session here was in.

        It is as old as its first message: who is here already has nothing of it yet.
        """
        chat = self.chats[number] = Chat(number, False, head, 1, tuple(sorted((one, other))))
        for uid in chat.members:
            if session := self.here(uid):
                self.attach(session, chat, 0)
        return chat

    def attach(self, session: Session, chat: Chat, position: int) -> None:
        """The session is in the chat, with everything up to ``position``, from now on."""
        if session not in chat.sessions:
            chat.sessions.append(session)
            session.chats.append(chat)
        if session.left:
            # Whatever made it leave and come back: nothing is pushed twice on one connection.
            position = max(position, session.left.pop(chat.id, 0))
        self.place(session, chat, position)

    def detach(self, session: Session, chat: Chat) -> None:
        """The session is in the chat no more."""
        if session in chat.sessions:
            if session.left is None:
                session.left = {}
            session.left[chat.id] = self.position(session, chat)
            chat.sessions.remove(session)
            session.chats.remove(chat)
            if session.apart:
                session.apart.pop(chat.id, None)
        self.drop_if_unused(chat)

    def drop_if_unused(self, chat: Chat) -> None:
        """Forget a chat that nobody here is in."""
        if not chat.sessions and chat.waiting is None and self.chats.get(chat.id) is chat:
            del self.chats[chat.id]

    # --- when the store is another one ---

    def forget(self) -> None:
        """The store has gone back to an earlier state: drop heads, positions and members.

        The sessions are in no chat, and get nothing, until :meth:`enter_anew`.
        """
        for session in self._sessions.values():
            session.live = False
            session.chats = []
            session.apart = session.left = session.unacked = session.received = session.read = None
            session.has_read([])
            if session.placed:
                self._forgotten.add(session)
        for chat in self.chats.values():
            chat.sessions = []
            if chat.waiting:
                chat.waiting.clear()
        self.chats.clear()

    def forgotten(self) -> list[Session]:
        """The sessions whose cursors have to be read."""
        return list(self._forgotten)

    def enter_anew(self, session: Session, cursors: Iterable[Cursor]) -> None:
        """The session goes on from its cursors; what it has seen above them may be shown again."""
        self._forgotten.discard(session)
        self.enter(session, cursors)
