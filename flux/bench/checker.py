"""Was a conversation delivered as promised?  A pure judgement over what its clients recorded.

Three records are held against each other: what senders were promised (``Acknowledged``), what
each member was shown after deduplication (``Shown``), and what the server says happened
(``history``, read at the end).  Every deviation has a name, after the anomalies of the
Jepsen and Maelstrom checkers::

    lost             acknowledged, but missing in the history or never shown to a member
    skipped          committed without acknowledgement, but not shown to a member who was shown others;
                     or a number missing in the history
    duplicated       shown to a member twice
    reordered        shown after one with a higher seq; or numbered against the order of sending
    phantom          shown or stored, but sent by nobody, or to somebody else
    diverged         two records disagree about what has this chat and seq
    committed twice  one sending, two numbers

Every sending has a text of its own, by which it is recognised.  A sending that was never
acknowledged may be committed or not, but at most once.

Records carry the *period* in which they were made, so that an anomaly can be laid at the door of what went on
then: a promise that was not kept counts where it was given, a wrong showing where it was shown.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

Kind = Literal["lost", "skipped", "duplicated", "reordered", "phantom", "diverged", "committed twice"]
KINDS: tuple[Kind, ...] = ("lost", "skipped", "duplicated", "reordered", "phantom", "diverged", "committed twice")


class Attempt(NamedTuple):
    """A message a client was asked to send, to an account or (``to`` 0) a group."""

    sender: int
    to: int
    group: int
    text: str
    period: int = 0


class Acknowledged(NamedTuple):
    """An attempt whose ``send.ok`` arrived."""

    attempt: Attempt
    chat: int
    seq: int
    at: int
    period: int = 0


class Line(NamedTuple):
    """A message as the server gave it."""

    chat: int
    seq: int
    at: int
    sender: int
    text: str


class Shown(NamedTuple):
    """A message that ``viewer``'s client showed."""

    viewer: int
    line: Line
    period: int = 0


class Anomaly(NamedTuple):
    """A promise that was not kept; ``viewer`` is 0 where it concerns nobody in particular."""

    kind: Kind
    chat: int
    seq: int
    viewer: int
    detail: str
    period: int = 0


@dataclass
class Recording:
    """Everything that was recorded, each list in the order in which it happened to its client.

    :ivar groups: the members of each group, the same throughout.
    :ivar history: per chat, everything in it, as it was read at the end.
    """

    groups: dict[int, frozenset[int]] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    acknowledged: list[Acknowledged] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    history: dict[int, list[Line]] = field(default_factory=dict)


def check(recording: Recording) -> list[Anomaly]:
    """All anomalies, by kind.

    :raises ValueError: two attempts have the same text.
    """
    found = list(_Case(recording).anomalies())
    return sorted(found, key=lambda anomaly: (KINDS.index(anomaly.kind), anomaly))


def count(anomalies: list[Anomaly]) -> dict[Kind, int]:
    """How many there are of each kind."""
    counted = Counter(anomaly.kind for anomaly in anomalies)
    return {kind: counted[kind] for kind in KINDS}


class _Case:
    """A recording, indexed."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.attempts = {attempt.text: attempt for attempt in recording.attempts}
        if len(self.attempts) != len(recording.attempts):
            raise ValueError("two attempts have the same text")
        self.acknowledged = {ack.attempt.text: ack for ack in recording.acknowledged}
        self.committed = {(line.chat, line.seq): line for lines in recording.history.values() for line in lines}
        self.numbers: defaultdict[str, list[Line]] = defaultdict(list)
        for line in self.committed.values():
            self.numbers[line.text].append(line)

    def anomalies(self) -> Iterator[Anomaly]:
        yield from self._stored()
        yield from self._promised()
        yield from self._numbered()
        yield from self._seen()
        yield from self._unseen()

    def _members(self, attempt: Attempt) -> frozenset[int]:
        if attempt.group:
            return self.recording.groups[attempt.group]
        return frozenset((attempt.sender, attempt.to))

    def _sent_in(self, text: str) -> int:
        """The period in which a text was sent; 0 for one that nobody sent."""
        attempt = self.attempts.get(text)
        return attempt.period if attempt is not None else 0

    def _stored(self) -> Iterator[Anomaly]:
        """The history on its own: numbers 1 to the head, all of it sent by somebody, once."""
        for chat, lines in self.recording.history.items():
            texts = {line.seq: line.text for line in lines}
            for seq in sorted(set(range(1, max(texts, default=0) + 1)) - texts.keys()):
                # What followed the one that is missing was sent at about the same time.
                period = self._sent_in(texts[min(number for number in texts if number > seq)])
                yield Anomaly("skipped", chat, seq, 0, "missing in the history", period)
            for earlier, later in pairwise(lines):
                if later.seq <= earlier.seq:
                    period = self._sent_in(later.text)
                    yield Anomaly("reordered", chat, later.seq, 0, f"in the history after {earlier.seq}", period)
            for line in lines:
                yield from self._phantom(line, 0, self._sent_in(line.text))
        for lines in self.numbers.values():
            for line in lines[1:]:
                detail = f"also committed as {lines[0].seq}"
                yield Anomaly("committed twice", line.chat, line.seq, 0, detail, self._sent_in(line.text))

    def _phantom(self, line: Line, viewer: int, period: int) -> Iterator[Anomaly]:
        attempt = self.attempts.get(line.text)
        if attempt is None:
            detail = "sent by nobody"
        elif attempt.sender != line.sender:
            detail = f"from {line.sender}, but {attempt.sender} sent it"
        elif attempt.group and attempt.group != line.chat:
            detail = f"was sent to group {attempt.group}"
        elif viewer and viewer not in self._members(attempt):
            detail = "shown to somebody outside the chat"
        else:
            return
        yield Anomaly("phantom", line.chat, line.seq, viewer, detail, period)

    def _promised(self) -> Iterator[Anomaly]:
        """Every acknowledgement against the history."""
        for ack in self.recording.acknowledged:
            line = self.committed.get((ack.chat, ack.seq))
            kept = ack.attempt.text in self.numbers
            kind: Kind = "diverged" if kept else "lost"
            if line is None:
                detail = "acknowledged, missing in the history"
                if kept:
                    detail = f"acknowledged, but stored as {self.numbers[ack.attempt.text][0].seq}"
            elif line != Line(ack.chat, ack.seq, ack.at, ack.attempt.sender, ack.attempt.text):
                detail = "acknowledged, the history has something else there"
            else:
                continue
            yield Anomaly(kind, ack.chat, ack.seq, 0, detail, ack.period)

    def _numbered(self) -> Iterator[Anomaly]:
        """What one client sends to one chat is numbered in the order of sending."""
        newest: dict[tuple[int, int, int], int] = {}
        for attempt in self.recording.attempts:
            lines = self.numbers.get(attempt.text)
            if not lines:
                continue
            lane = (attempt.sender, attempt.to, attempt.group)
            line = lines[0]
            if line.seq <= newest.get(lane, 0):
                detail = "sent after one that has a higher number"
                yield Anomaly("reordered", line.chat, line.seq, 0, detail, attempt.period)
            newest[lane] = max(line.seq, newest.get(lane, 0))

    def _seen(self) -> Iterator[Anomaly]:
        """Every showing against those before it, and against the history."""
        shown: set[tuple[int, str]] = set()
        newest: dict[tuple[int, int], int] = {}
        for viewer, line, period in self.recording.shown:
            if (viewer, line.text) in shown:
                yield Anomaly("duplicated", line.chat, line.seq, viewer, "shown again", period)
                continue
            shown.add((viewer, line.text))
            last = newest.get((viewer, line.chat), 0)
            if line.seq <= last:
                yield Anomaly("reordered", line.chat, line.seq, viewer, f"shown after {last}", period)
            newest[viewer, line.chat] = max(line.seq, last)
            phantoms = list(self._phantom(line, viewer, period))
            yield from phantoms
            if phantoms:
                continue
            stored = self.committed.get((line.chat, line.seq))
            if stored is None:
                yield Anomaly("phantom", line.chat, line.seq, viewer, "shown, missing in the history", period)
            elif stored != line:
                detail = "shown, the history has something else there"
                yield Anomaly("diverged", line.chat, line.seq, viewer, detail, period)

    def _unseen(self) -> Iterator[Anomaly]:
        """Every committed or promised message against what each other member was shown."""
        shown = {(viewer, line.text) for viewer, line, _ in self.recording.shown}
        for text, attempt in self.attempts.items():
            ack = self.acknowledged.get(text)
            lines = self.numbers.get(text)
            if ack is None and not lines:
                continue
            chat, seq = (ack.chat, ack.seq) if ack is not None else (lines[0].chat, lines[0].seq) if lines else (0, 0)
            kind: Kind = "skipped" if ack is None else "lost"
            period = attempt.period if ack is None else ack.period
            for viewer in sorted(self._members(attempt) - {attempt.sender}):
                if (viewer, text) not in shown:
                    yield Anomaly(kind, chat, seq, viewer, "never shown", period)
