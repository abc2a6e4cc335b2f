"""A logged-in session at the terminal: events become lines, lines become commands and messages.

Three coroutines share it: ``run`` reads lines, ``_follow`` shows events, ``_work``
carries out what was typed, one line after the other, so that a slow server never stops
the typing and ``/msg bob`` has changed the conversation before the next line is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from msgspec import UNSET
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.client import (
    Client,
    ClientError,
    ClientEvent,
    Connecting,
    Ended,
    FriendAnswered,
    FriendRequested,
    GroupChanged,
    Message,
    Offline,
    Online,
    Presence,
    ReadUpTo,
    SessionEnded,
    Typing,
)
from flux.client.terminal import commands, render
from flux.client.terminal.commands import Argument, Command, Completion, Unknown
from flux.client.terminal.face import EndOfInput, Interrupted, Screen
from flux.client.terminal.roster import Ambiguous, Offer, Roster, Target
from flux.client.terminal.text import Line, clean, day, dim, error, good
from flux.client.terminal.toolbar import Toolbar
from flux.errors import FluxError
from flux.lifecycle import DeadlineExceeded, spawn
from flux.model.messages import Conversation
from flux.model.people import FriendRequest
from flux.names import fold

#: At most this often the others are told that one is typing, in seconds.
TYPING_EVERY = 3.0
#: Groups whose members are asked for at login.
GROUPS_AT_LOGIN = 20
#: Longest message, in characters.
LONGEST_TEXT = 8000
#: Lines typed ahead of a slow server.
MAX_TYPED_AHEAD = 100


class Problem(Exception):
    """A command cannot be carried out; the text is a sentence."""


#: What is told to the person in a sentence; anything else is a bug.
EXPECTED = (Problem, Unknown, FluxError, ClientError, DeadlineExceeded)


class Chat:
    """One session with a person.

    :param client: logged in, its events not taken yet.
    :ivar leaving: set where the session is to end: ``logout`` or ``quit``.
    """

    _log = Logger()

    def __init__(self, client: Client, screen: Screen, clock: IReactorTime) -> None:
        self.client = client
        self.screen = screen
        self.roster = Roster()
        self.leaving = ""
        self.server = ""
        self._clock = clock
        self._lines: deque[tuple[Command | None, str]] = deque()
        self._more: Deferred[None] | None = None
        self._idle: list[Deferred[None]] = []
        self._bar = Toolbar(client, self.roster, clock)
        self._told_typing = float("-inf")
        self._outage = False
        #: The heads at login, until the first missed message was shown under its title.
        self._missed: dict[int, int] = {}
        self._day = ""

    async def run(self) -> str:
        """Chat until the person leaves or the session ends.

        :return: ``quit``, ``logout``, or ``ended``.
        """
        following = spawn(self._follow(), "showing events", self._log)
        working = spawn(self._work(), "carrying out a command", self._log)
        try:
            while not self.leaving and not isinstance(self.client.state, Ended):
                try:
                    await self._take(await self.screen.read(self))
                except Interrupted:
                    self.screen.show(dim("/quit or Ctrl-D leaves"))
                except EndOfInput:
                    if not isinstance(self.client.state, Ended):
                        self.leaving = "quit"
            if self.leaving == "logout":
                await self.client.logout()
            else:
                await self.client.close()
            await following
        finally:
            working.cancel()
            following.cancel()
        return self.leaving or "ended"

    async def _take(self, line: str) -> None:
        line = line.strip()
        if not line:
            return
        try:
            parsed = commands.parse(line)
        except Unknown as problem:
            self.screen.show(error(render.sentence(problem)))
            return
        if len(self._lines) >= MAX_TYPED_AHEAD:
            self.screen.show(error("The server is slow: wait until it has answered."))
            return
        if parsed is not None:
            self.screen.show(dim(f"› {clean(line)}"))
        self._lines.append(parsed or (None, line.removeprefix("/") if line.startswith("//") else line))
        if self._more is not None:
            more, self._more = self._more, None
            more.callback(None)
        if parsed is not None and parsed[0].asks and self._lines:
            idle: Deferred[None] = Deferred(self._idle.remove)
            self._idle.append(idle)
            await idle

    async def _work(self) -> None:
        while True:
            while self._lines:
                await self._carry_out(*self._lines[0])
                self._lines.popleft()
            idle, self._idle = self._idle, []
            for waiter in idle:
                # In a later turn: who waits may end this coroutine, which it cannot survive while it runs.
                self._clock.callLater(0, waiter.callback, None)
            self._more = Deferred()
            await self._more

    async def _carry_out(self, command: Command | None, text: str) -> None:
        try:
            if command is not None:
                await command.action(self, text)
            elif self.roster.current is None:
                raise Problem("to whom? /msg NAME TEXT sends to somebody, /open NAME begins a conversation")
            else:
                self.say(self.roster.current, text)
        except Ambiguous as several:
            names = " or ".join(f"#{target.group}" for target in several.targets)
            self.screen.show(error(f"Several groups have this name: type {names}."))
        except (Interrupted, EndOfInput):
            self.screen.show(dim("nothing was changed"))
        except EXPECTED as problem:
            self.screen.show(error(render.sentence(problem)))

    # sending

    def say(self, target: Target, text: str) -> None:
        """Send ``text``; it is shown once the server has it.

        :raises Problem: it is too long.
        """
        if len(text) > LONGEST_TEXT:
            raise Problem(f"this has {len(text)} characters; at most {LONGEST_TEXT} fit into a message")
        _ = spawn(self._say(target, text), "sending", self._log)

    async def _say(self, target: Target, text: str) -> None:
        if not isinstance(self.client.state, Online):
            self.screen.show(render.waiting(self.roster, target, text))
        try:
            receipt = await self.client.send(text, to=target.to, group=target.group)
        except SessionEnded:
            self.screen.show(error(f"Not known whether this arrived: {clean(text)}"))
            return
        except EXPECTED as problem:
            label = clean(self.roster.label(target))
            self.screen.show(error(f"Not sent to {label}: {render.sentence(problem)}"))
            return
        self.roster.sent(target, receipt)
        me = self.roster.me
        said = Message(
            chat=receipt.chat, seq=receipt.seq, sender=me.id, name=me.name, text=text, at=receipt.at,
            to=target.to or UNSET, group=target.group or UNSET,
        )  # fmt: skip
        self.show_message(said, "✓")
        self.screen.refresh()

    # what is on the screen

    def show_message(self, said: Message, receipt: str = "") -> None:
        """Show a message, after the date if it has changed."""
        if day(said.at) != self._day:
            self._day = day(said.at)
            self.screen.show(render.separator(said.at))
        self.screen.show(render.message(self.roster, said, receipt))

    def open(self, target: Target) -> None:
        """Make ``target`` the current conversation, everything in it read."""
        self.roster.current = target
        self.mark_read(target)
        self.screen.refresh()

    def mark_read(self, target: Target) -> None:
        """Everything in a conversation was read."""
        conversation = self.roster.conversation(target)
        if conversation.unread and conversation.chat:
            self.client.read(conversation.chat, conversation.head)
        conversation.unread = 0

    def prompt(self) -> Line:
        """Where a plain line goes."""
        current = self.roster.current
        return [("class:prompt", f"{clean(self.roster.label(current))}> " if current else "> ")]

    def toolbar(self) -> Line:
        """See :mod:`flux.client.terminal.toolbar`."""
        return self._bar.line()

    def complete(self, text: str) -> Sequence[Completion]:
        """Commands, and the names they take."""
        return commands.complete(text, self._offers)

    def _offers(self, kind: Argument) -> list[Offer]:
        names = self.roster.names()
        if kind == "person":
            return [name for name in names if not name.text.startswith("#")]
        if kind == "group":
            return [name for name in names if name.text.startswith("#")]
        if kind == "request":
            return [Offer(self.roster.typed(Target(to=sender))) for sender in self.roster.requests]
        if kind == "command":
            return [Offer(name) for name in commands.COMMANDS]
        if kind == "role":
            return [Offer(role) for role in ("owner", "admin", "member")]
        return names

    def typed(self, text: str) -> None:
        """Tell the current conversation that something is being written, now and then."""
        current, now = self.roster.current, self._clock.seconds()
        if text and not text.startswith("/") and current is not None and now - self._told_typing >= TYPING_EVERY:
            self._told_typing = now
            self.client.typing(to=current.to, group=current.group)

    # who is meant

    async def resolve(self, text: str) -> tuple[Target, str]:
        """The person or group whose name ``text`` begins with, and the rest; strangers are looked up.

        :raises Problem: there is nobody of that name.
        """
        found, rest = self.roster.split(text)
        if isinstance(found, Target):
            return found, rest
        if not found:
            raise Problem("whom do you mean? give a name")
        if found.startswith("#"):
            raise Problem(f"you are in no group called {clean(found)}; /groups lists yours")
        words = text.strip().split(" ")
        users = (await self.client.user_search(found[:50])).users
        for user in sorted(users, key=lambda user: -len(user.name)):
            person = self.roster.person(user.id, user.name)
            length = len(user.name.split(" "))
            if fold(found) == fold(user.name):
                return Target(to=person.id), rest
            if fold(" ".join(words[:length])) == fold(user.name):
                return Target(to=person.id), " ".join(words[length:]).strip()
        for user in users:
            if found == str(user.id):
                return Target(to=user.id), rest
        raise Problem(f"there is nobody called {clean(found)}; /search finds people by the beginning of their name")

    async def resolve_other(self, text: str) -> tuple[Target, str]:
        """Like :meth:`resolve`, for what one writes to.

        :raises Problem: it is nobody, or oneself.
        """
        target, rest = await self.resolve(text)
        if target.to and target.to == self.roster.me.id:
            raise Problem("this is you; write to somebody else")
        return target, rest

    async def resolve_person(self, text: str) -> tuple[int, str]:
        """Like :meth:`resolve`, for people only.

        :raises Problem: it is nobody, or a group.
        """
        target, rest = await self.resolve(text)
        if not target.to:
            raise Problem(f"{clean(self.roster.label(target))} is a group; this needs a person")
        return target.to, rest

    async def name_known(self, uid: int) -> str:
        """The name of a person, looked up if need be."""
        person = self.roster.person(uid)
        if not person.name:
            try:
                person.name = (await self.client.profile_get(uid)).name
            except EXPECTED:
                self._log.info("no name for an id")
        return clean(self.roster.name(uid))

    async def refresh_groups(self) -> None:
        """Ask which groups one is in."""
        self.roster.set_groups((await self.client.groups()).groups)

    async def refresh_conversations(self) -> list[Conversation]:
        """Ask for all conversations, the newest first, and so how far the others have read."""
        listed = (await self.client.chats()).chats
        for row in listed:
            self.roster.listed(row)
        return listed

    # events

    async def _follow(self) -> None:
        async for event in self.client.events:
            try:
                await self._event(event)
            except EXPECTED as problem:
                self.screen.show(error(render.sentence(problem)))
            self.screen.refresh()
        self.screen.interrupt()

    async def _event(self, event: ClientEvent) -> None:
        match event:
            case Message():
                if event.seq <= self._missed.get(event.chat, 0):
                    self._missed.clear()
                    self.screen.show([("class:title", "Missed messages")])
                target = self.roster.came(event)
                self._bar.typed(target, event.sender)
                self.show_message(event)
                if target == self.roster.current:
                    self.mark_read(target)
            case Presence(id=uid, online=online):
                person = self.roster.person(uid)
                if person.online != online:
                    person.online = online
                    name = await self.name_known(uid)
                    self.screen.show(dim(f"{'●' if online else '○'} {name} {'is here' if online else 'has left'}"))
            case Typing(chat=chat, sender=sender):
                place = self.roster.target_of_chat(chat)
                if place is not None:
                    self._bar.typing(place, sender)
            case ReadUpTo(chat=chat, id=uid, seq=seq):
                place = self.roster.target_of_chat(chat)
                if place is not None and uid != self.roster.me.id:
                    self.roster.conversation(place).read_by[uid] = seq
            case FriendRequested(sender=sender, name=name, note=note):
                self.roster.person(sender, name)
                self.roster.requests[sender] = asked = FriendRequest(sender, name, note, 0)
                self.screen.show(render.request(asked))
            case FriendAnswered(id=uid, status=status):
                await self._answered(uid, status)
            case GroupChanged():
                await self._group_changed(event)
            case Online() | Offline() | Connecting() | Ended():
                await self._state(event)

    async def _answered(self, uid: int, status: str) -> None:
        name = await self.name_known(uid)
        if status == "accepted":
            self.roster.person(uid).friend = True
            self.roster.requests.pop(uid, None)
            self.screen.show(good(f"{name} and you are friends now"))
        else:
            self.screen.show(dim(f"{name} does not want to be your friend"))

    async def _group_changed(self, event: GroupChanged) -> None:
        target, me = Target(group=event.group), event.id == self.roster.me.id
        self.roster.members.pop(event.group, None)
        known = event.group in self.roster.groups
        if not known or me:
            await self.refresh_groups()
        who = "you" if me else await self.name_known(event.id)
        be = "are" if me else "is"
        was = "were" if me else "was"
        done = {
            "join": f"{who} joined",
            "leave": f"{who} left",
            "add": f"{who} {was} added to",
            "remove": f"{who} {was} removed from",
            "role": f"{who} {be} now {event.role if isinstance(event.role, str) else 'member'} of",
        }[event.change]
        self.screen.show(dim(f"{done} {clean(self.roster.label(target))}"))

    async def _state(self, state: Online | Offline | Connecting | Ended) -> None:
        match state:
            case Online(login=login):
                self.roster.logged_in(login)
                if not self.server:
                    self.server = login.server
                    self._missed = {unread.chat: unread.head for unread in login.unread}
                    await self._look_around()
                    self.screen.show(*render.welcome(self.roster, self.server))
                elif self._outage:
                    self._outage = False
                    self.screen.show(good(f"── connected again, to {state.host}:{state.port} ──"))
                    if any(known.sent and not known.readers() for known in self.roster.conversations.values()):
                        await self.refresh_conversations()
                if self.roster.current is not None:
                    self.mark_read(self.roster.current)
            case Offline(reason=reason, retry_in=seconds):
                self._bar.offline(seconds)
                if not self._outage:
                    self._outage = True
                    self.screen.show([("class:warn", f"── offline: {clean(reason)}; trying again… ──")])
            case Ended(reason=reason, detail=detail) if reason not in ("logout", "closed"):
                self.screen.show(error(f"The session has ended: {clean(detail)}."))

    async def _look_around(self) -> None:
        """Ask for the members of one's groups, and the names of those who wrote while one was away."""
        try:
            for group in list(self.roster.groups)[:GROUPS_AT_LOGIN]:
                self.roster.set_members(group, (await self.client.group_members(group)).members)
            for target, _ in self.roster.unread():
                if target.to:
                    await self.name_known(target.to)
        except EXPECTED as problem:
            self._log.info("looking around ended early: {problem}", problem=type(problem).__name__)
