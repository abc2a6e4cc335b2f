"""Which messages were there already, so that each is shown once.

Known is the set of (chat, seq).  Per chat it is kept as disjoint ranges: usually one,
because gaps close as own messages and history fill them.  The same ``seq`` with
another ``at`` is another message (the server's database was restored to an earlier
point and numbered anew): the times of the latest messages are kept for that; an older
one counts as known unless it is younger than everything seen in its chat.
"""

from __future__ import annotations

from bisect import bisect_right

#: Most ranges kept per chat. The lowest is forgotten first: showing twice is better than losing.
MAX_RANGES = 64
#: Most commit times kept, over all chats.
MAX_TIMES = 20_000


class _Chat:
    __slots__ = ("firsts", "lasts", "newest")

    def __init__(self) -> None:
        # Range i is firsts[i]..lasts[i], both ends included, ascending.
        self.firsts: list[int] = []
        self.lasts: list[int] = []
        self.newest = 0

    def __contains__(self, seq: int) -> bool:
        index = bisect_right(self.firsts, seq) - 1
        return index >= 0 and seq <= self.lasts[index]

    def add(self, seq: int) -> None:
        """Add a ``seq`` that is not in any range."""
        index = bisect_right(self.firsts, seq)
        joins_left = index > 0 and self.lasts[index - 1] == seq - 1
        joins_right = index < len(self.firsts) and self.firsts[index] == seq + 1
        if joins_left and joins_right:
            self.lasts[index - 1] = self.lasts.pop(index)
            del self.firsts[index]
        elif joins_left:
            self.lasts[index - 1] = seq
        elif joins_right:
            self.firsts[index] = seq
        else:
            self.firsts.insert(index, seq)
            self.lasts.insert(index, seq)
            if len(self.firsts) > MAX_RANGES:
                del self.firsts[0], self.lasts[0]


class Seen:
    """The set of messages that were there. Memory is bounded per chat and in all."""

    def __init__(self) -> None:
        self._chats: dict[int, _Chat] = {}
        self._times: dict[tuple[int, int], int] = {}

    def add(self, chat: int, seq: int, at: int) -> bool:
        """Remember a message; True if it is new.

        :param at: its commit time in ms since the epoch.
        """
        known = self._chats.get(chat)
        if known is None:
            known = self._chats[chat] = _Chat()
        if seq in known:
            time = self._times.get((chat, seq))
            if time == at or (time is None and at <= known.newest):
                return False
        else:
            known.add(seq)
        known.newest = max(known.newest, at)
        self._times[chat, seq] = at
        if len(self._times) > MAX_TIMES:
            del self._times[next(iter(self._times))]
        return True
