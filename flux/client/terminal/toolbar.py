"""The line at the bottom: connection, who and where one is, unread messages, who types, what waits."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from flux.client import Client, Connecting, Offline, Online
from flux.client.terminal.render import count
from flux.client.terminal.roster import Roster, Target
from flux.client.terminal.text import Line, clean

#: How long somebody who typed counts as typing, in seconds.
TYPING_FOR = 6.0
#: Names listed before the rest is only counted.
FEW = 3


class Toolbar:
    """What the bottom line shows, from the client's state, the roster, and what it is told."""

    def __init__(self, client: Client, roster: Roster, clock: IReactorTime) -> None:
        self._client = client
        self._roster = roster
        self._clock = clock
        self._typing: dict[tuple[Target, int], float] = {}
        self._retry_at = 0.0

    def typing(self, where: Target, uid: int) -> None:
        """Somebody is typing."""
        self._typing[where, uid] = self._clock.seconds() + TYPING_FOR

    def typed(self, where: Target, uid: int) -> None:
        """What somebody was typing has arrived."""
        self._typing.pop((where, uid), None)

    def offline(self, retry_in: float) -> None:
        """The next attempt to connect is ``retry_in`` seconds away."""
        self._retry_at = self._clock.seconds() + retry_in

    def line(self) -> Line:
        """The line as of now."""
        parts = [self._connection(), self._conversation(), self._unread(), self._who_types()]
        if self._client.unsent:
            parts.append([("class:bar.warn", f"sending {self._client.unsent}…")])
        line: Line = [("", " ")]
        for part in filter(None, parts):
            line += [*([("", " │ ")] if len(line) > 1 else []), *part]
        return line

    def _connection(self) -> Line:
        match self._client.state:
            case Online(host=host, port=port):
                return [("class:bar.good", "● "), ("", f"{clean(self._roster.me.name)} on {host}:{port}")]
            case Offline():
                left = max(0.0, self._retry_at - self._clock.seconds())
                return [("class:bar.warn", f"○ offline, trying again in {left:.0f} s")]
            case Connecting(host=host, port=port):
                return [("class:bar.warn", f"○ connecting to {host}:{port}…")]
        return [("class:bar.warn", "○ not connected")]

    def _conversation(self) -> Line:
        current = self._roster.current
        if current is None:
            return []
        conversation = self._roster.conversation(current)
        readers = conversation.readers()
        marks = " ✓✓" if readers else " ✓" if conversation.sent else ""
        number = f" {readers}" if current.group and readers else ""
        return [("", "→ " + clean(self._roster.label(current))), ("class:bar.good", marks + number)]

    def _unread(self) -> Line:
        unread = self._roster.unread()
        if not unread:
            return []
        listed = [f"{clean(self._roster.label(target))} {count(number)}" for target, number in unread[:FEW]]
        more = f", {len(unread) - FEW} more" if len(unread) > FEW else ""
        return [("class:bar.warn", "unread: " + ", ".join(listed) + more)]

    def _who_types(self) -> Line:
        now = self._clock.seconds()
        self._typing = {key: until for key, until in self._typing.items() if until > now}
        names = []
        for target, uid in self._typing:
            elsewhere = target.group and target != self._roster.current
            place = f" in {clean(self._roster.label(target))}" if elsewhere else ""
            names.append(clean(self._roster.name(uid)) + place)
        if not names:
            return []
        return [("", f"{', '.join(names[:FEW])} {'is' if len(names) == 1 else 'are'} typing…")]
