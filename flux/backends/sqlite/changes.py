"""What moved, and when: the writer's memory of its own commits.

It answers ``IStore.changes`` exactly, because this process is the only writer.
Nothing of it is stored: a mark of an earlier run is simply too old.
"""

from __future__ import annotations

import time
from collections import OrderedDict

from flux.model.overview import Changes


class Moved:
    """Things of one kind, the one that moved last at the end.

    :param bound: things remembered; one more forgets the one that moved longest ago.
    """

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._moved: OrderedDict[int, tuple[int, int]] = OrderedDict()
        self.forgotten = 0
        """The highest number of a commit of which something was forgotten."""

    def record(self, number: int, values: dict[int, int]) -> None:
        """The commit ``number`` gave these things these values."""
        moved = self._moved
        for thing, value in values.items():
            moved[thing] = (number, value)
            moved.move_to_end(thing)
        while len(moved) > self._bound:
            _, (self.forgotten, _) = moved.popitem(last=False)

    def since(self, number: int) -> tuple[tuple[int, int], ...]:
        """(thing, value) of all that moved in commits after ``number``."""
        found = []
        for thing, (commit, value) in reversed(self._moved.items()):
            if commit <= number:
                break
            found.append((thing, value))
        return tuple(found)


class ChangeLog:
    """Heads, member versions and session numbers, by the commit that moved them last.

    :param bound: things of each kind that are remembered.
    """

    def __init__(self, bound: int) -> None:
        # Any start will do that is above all marks of earlier runs.
        self._number = self._start = time.time_ns()
        self._heads = Moved(bound)
        self._members = Moved(bound)
        self._sessions = Moved(bound)

    def record(self, heads: dict[int, int], members: dict[int, int], sessions: dict[int, int]) -> None:
        """Remember what one commit moved."""
        self._number += 1
        self._heads.record(self._number, heads)
        self._members.record(self._number, members)
        self._sessions.record(self._number, sessions)

    def forget(self) -> None:
        """From now on every mark given so far is too old: something may have moved unrecorded."""
        self._number += 1
        self._start = self._number

    def since(self, mark: int) -> Changes:
        """See ``IStore.changes``. Where it is not complete, it is empty."""
        if mark == 0:
            return Changes(mark=self._number, heads=(), members=(), sessions=())
        forgotten = max(self._start, self._heads.forgotten, self._members.forgotten, self._sessions.forgotten)
        if not forgotten <= mark <= self._number:
            return Changes(mark=self._number, heads=(), members=(), sessions=(), complete=False)
        return Changes(
            mark=self._number,
            heads=self._heads.since(mark),
            members=self._members.since(mark),
            sessions=self._sessions.since(mark),
        )
