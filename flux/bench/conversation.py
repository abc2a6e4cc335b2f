"""Clients that talk, and note everything they are promised and shown.

flux's own client library, as an application uses it.  Clients sit in pairs, and some of them in
groups too; each talks in all its chats, one message of a chat at a time, in its own rhythm::

    gather()     accounts, logins, groups
    talk()       until stop(), which waits for answers; anything may happen to the server meanwhile
    settle()     until everything acknowledged has been shown, or a deadline
    read_back()  the history of every chat
    leave()

``recording`` is then complete, and :mod:`flux.bench.checker` judges it.
"""

from __future__ import annotations

import random
import secrets
from functools import partial

from msgspec import UNSET, UnsetType
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.bench.checker import Acknowledged, Attempt, Line, Recording, Shown
from flux.bench.installation import Installation
from flux.client import Client, ClientError, Ended, Message, NotConnected, Offline, Online, SessionEnded
from flux.errors import FluxError, RateLimited, Unavailable
from flux.lifecycle import Tasks, sleep, together
from flux.wire.replies import HistoryOk

#: Longest pause of a client between attempts to reconnect, in seconds: shorter than for people,
#: because the time until everybody is back is part of what is measured.
LONGEST_PAUSE = 1.0
#: How long the last messages may take to arrive, in seconds.
SETTLE_WITHIN = 60.0
#: Between looks at whether something has happened, in seconds.
LOOK_EVERY = 0.02
#: Participants that register at the same time: hashing their passwords takes the servers a while.
JOINING = 4
#: Messages in one request for history.
PAGE = 200
#: No pause of a talker is longer than this many times the mean one: how soon everybody hears something new is measured.
LONGEST_SILENCE = 2.0


class ConversationFailed(Exception):
    """The conversation could not go on: the text says why."""


class SessionLost(ConversationFailed):
    """A session ended that nobody had ended."""


class Participant:
    """An account, its client, and whom it talks to.

    :ivar chats: (account, group) of each chat, one of the two 0.
    """

    def __init__(self, client: Client, uid: int) -> None:
        self.client = client
        self.uid = uid
        self.chats: list[tuple[int, int]] = []


class Conversation:
    """All participants and their recording.

    :param installation: its status service gives each session server and token; where it has none, they log in by
        password where they register, which is the next of its chat servers for each.
    :param clients: an even number; each two of them are a pair.
    :param groups: groups of ``group_size`` members each, drawn from all.
    :param rate: messages per second of each participant, spread over its chats.
    :ivar online: who is logged in, as far as they know.
    :ivar period: what is recorded from now on belongs to this period, see :mod:`flux.bench.checker`.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        installation: Installation,
        *,
        clients: int,
        groups: int,
        group_size: int,
        rate: float,
        rng: random.Random,
    ) -> None:
        self.recording = Recording()
        self.online: set[int] = set()
        self.period = 0
        self._reactor = reactor
        self._installation = installation
        self._size = clients
        self._groups = groups
        self._group_size = min(group_size, clients)
        self._rate = rate
        self._rng = rng
        self._nonce = secrets.token_hex(4)
        self._participants: list[Participant] = []
        self._talking = False
        self._speaking = 0
        self._leaving = False
        self._failure: ConversationFailed | None = None
        self._shown: set[tuple[int, str]] = set()
        self._numbers: dict[str, int] = {}
        self._news_from = 0
        self._informed: set[int] = set()
        self._tasks = Tasks(self._log, reactor)

    @property
    def size(self) -> int:
        """How many participate."""
        return len(self._participants)

    async def gather(self) -> None:
        """Register, log in, meet.

        :raises ConversationFailed: the server lets this address register no more accounts.
        :raises flux.errors.FluxError: it refused for another reason.
        :raises flux.client.ClientError: it cannot be reached.
        """
        password = secrets.token_urlsafe(12)
        for first in range(0, self._size, JOINING):
            numbers = range(first, min(first + JOINING, self._size))
            await together(self._join(number, password) for number in numbers)
        for one, other in zip(self._participants[::2], self._participants[1::2], strict=True):
            one.chats.append((other.uid, 0))
            other.chats.append((one.uid, 0))
        for number in range(self._groups):
            members = self._rng.sample(self._participants, self._group_size)
            created = await members[0].client.group_create(f"verify-{self._nonce}-group-{number}")
            for member in members[1:]:
                await member.client.group_join(created.group)
            for member in members:
                member.chats.append((0, created.group))
            self.recording.groups[created.group] = frozenset(member.uid for member in members)

    def talk(self) -> None:
        """Begin to talk in all chats."""
        self._talking = True
        for who in self._participants:
            for chat in who.chats:
                self._speaking += 1
                self._tasks.spawn(self._speak(who, chat), "talking")

    async def stop(self) -> None:
        """Say nothing more, and return when everything that was said is answered.

        :raises ConversationFailed: something is not answered within ``SETTLE_WITHIN``.
        """
        self._talking = False
        deadline = self._reactor.seconds() + SETTLE_WITHIN
        while self._speaking:
            self.check()
            if self._reactor.seconds() > deadline:
                raise ConversationFailed(f"no answer to a message for {SETTLE_WITHIN:g} s")
            await sleep(LOOK_EVERY, self._reactor)
        self.check()

    def expect_news(self) -> None:
        """From now on :attr:`informed` are those who have been shown what is said from now on."""
        self._news_from = len(self.recording.attempts)
        self._informed.clear()

    @property
    def informed(self) -> int:
        """How many are online and have been shown something said since :meth:`expect_news`."""
        return len(self.online & self._informed)

    def check(self) -> None:
        """:raises ConversationFailed: a session ended (``SessionLost``: by itself), or a message was refused."""
        if self._failure is not None:
            raise self._failure

    async def settle(self) -> bool:
        """Wait until all that was acknowledged has been shown to all who should see it.

        :return: False if something is still missing after ``SETTLE_WITHIN``.
        """
        missing = [
            (viewer, ack.attempt.text)
            for ack in self.recording.acknowledged
            for viewer in self._members(ack.attempt) - {ack.attempt.sender}
        ]
        deadline = self._reactor.seconds() + SETTLE_WITHIN
        while missing := [showing for showing in missing if showing not in self._shown]:
            self.check()
            if self._reactor.seconds() > deadline:
                return False
            await sleep(LOOK_EVERY, self._reactor)
        return True

    async def read_back(self) -> None:
        """Read every chat from its end to its beginning, through one of its members.

        :raises flux.errors.FluxError, flux.client.ClientError: the server did not answer it.
        """
        clients = {who.uid: who.client for who in self._participants}
        reader_of = {shown.line.chat: shown.viewer for shown in self.recording.shown}
        reader_of |= {ack.chat: ack.attempt.sender for ack in self.recording.acknowledged}
        for chat, reader in reader_of.items():
            client = clients[reader]
            page = await self._page(client, chat, UNSET)
            lines = [_line(message) for message in page.messages]
            while page.more and page.messages:
                page = await self._page(client, chat, page.messages[0].seq)
                lines = [*(_line(message) for message in page.messages), *lines]
            self.recording.history[chat] = lines

    async def _page(self, client: Client, chat: int, before: int | UnsetType) -> HistoryOk:
        """A page of history, asked for until it comes or ``SETTLE_WITHIN`` is over."""
        deadline = self._reactor.seconds() + SETTLE_WITHIN
        while True:
            try:
                return await client.history(chat=chat, before=before, limit=PAGE)
            except (RateLimited, Unavailable, NotConnected) as passing:
                if self._reactor.seconds() > deadline:
                    raise
                pause = passing.retry_after / 1000 if isinstance(passing, RateLimited) else LOOK_EVERY
                await sleep(pause, self._reactor)

    async def leave(self) -> None:
        """End all sessions."""
        self._leaving = True
        self._talking = False
        for who in self._participants:
            await who.client.close()
        await self._tasks.stop()

    async def _join(self, number: int, password: str) -> None:
        there = self._installation
        first = number % len(there.addresses)
        addresses = there.addresses[first:] + there.addresses[:first]
        client = Client(
            self._reactor, addresses, tls=there.tls, trust=there.trust, longest_pause=LONGEST_PAUSE, rng=self._rng
        )
        try:
            account = await client.register(f"verify-{self._nonce}-{number}", password)
        except RateLimited as limited:
            raise ConversationFailed(
                f"{len(self._participants)} of {self._size} accounts were registered, then the server refused: "
                f"{limited.detail}. limits.registrations_per_hour_address of the server bounds them: raise it there, "
                f"or take fewer clients, or wait {limited.retry_after / 60_000:.0f} minutes"
            ) from limited
        if there.status is not None:
            await client.login_through(partial(there.status.locate, account.id))
        else:
            await client.login(account.id, password=password)
        participant = Participant(client, account.id)
        self._participants.append(participant)
        self._tasks.spawn(self._watch(participant), "watching a participant")

    async def _speak(self, who: Participant, chat: tuple[int, int]) -> None:
        try:
            await self._say_things(who, *chat)
        except SessionEnded:
            pass  # the events say why
        except (FluxError, ClientError) as error:
            self._failure = ConversationFailed(f"sending failed: {error}")
        finally:
            self._speaking -= 1

    async def _say_things(self, who: Participant, to: int, group: int) -> None:
        number = 0
        rate = self._rate / len(who.chats)
        while self._talking:
            number += 1
            text = f"{self._nonce} {who.uid} {to} {group} {number}"
            attempt = Attempt(who.uid, to, group, text, self.period)
            self._numbers[text] = len(self.recording.attempts)
            self.recording.attempts.append(attempt)
            receipt = await who.client.send(text, to=to, group=group)
            acknowledged = Acknowledged(attempt, receipt.chat, receipt.seq, receipt.at, self.period)
            self.recording.acknowledged.append(acknowledged)
            await sleep(min(self._rng.expovariate(rate), LONGEST_SILENCE / rate), self._reactor)

    async def _watch(self, who: Participant) -> None:
        async for event in who.client.events:
            if isinstance(event, Message):
                self.recording.shown.append(Shown(who.uid, _line(event), self.period))
                self._shown.add((who.uid, event.text))
                if self._numbers.get(event.text, -1) >= self._news_from:
                    self._informed.add(who.uid)
            elif isinstance(event, Online):
                self.online.add(who.uid)
            elif isinstance(event, Offline | Ended):
                self.online.discard(who.uid)
                if isinstance(event, Ended) and not self._leaving:
                    # An admin of somebody's server may end one; the account and its password are ours alone.
                    failed = ConversationFailed if event.reason == "admin" else SessionLost
                    self._failure = failed(f"a session ended: {event.reason}: {event.detail}")

    def _members(self, attempt: Attempt) -> frozenset[int]:
        if attempt.group:
            return self.recording.groups[attempt.group]
        return frozenset((attempt.sender, attempt.to))


def _line(message: Message) -> Line:
    return Line(message.chat, message.seq, message.at, message.sender, message.text)
