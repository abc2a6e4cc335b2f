"""What strangers can make happen as often as they like, told by the second: they could fill the log."""

from __future__ import annotations

from collections import Counter

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

TELL_AFTER = 1.0
"""Seconds for which what happens is counted before it is told."""

MOST_LINES = 100
"""Lines in which it is told at a time; of what would take more there is only the number."""


class Tally:
    """What has happened since it was last told.

    :param log: where it is told, as warnings.
    """

    def __init__(self, log: Logger, clock: IReactorTime) -> None:
        self._log = log
        self._clock = clock
        self._counts: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()
        self._more = 0
        self._telling: IDelayedCall | None = None

    def count(self, text: str, **fields: str) -> None:
        """Something happened once more.

        :param text: the format of the line that tells it, with ``{count}``.
        :param fields: what else is in the line; what has all of it in common is counted together.
        """
        if self._telling is None:
            self._telling = self._clock.callLater(TELL_AFTER, self._tell)
        what = text, tuple(fields.items())
        if what in self._counts or len(self._counts) < MOST_LINES:
            self._counts[what] += 1
        else:
            self._more += 1

    def stop(self) -> None:
        """Tell what has not been told."""
        if self._telling is not None:
            self._telling.cancel()
            self._tell()

    def _tell(self) -> None:
        self._telling = None
        counts, self._counts = self._counts, Counter()
        more, self._more = self._more, 0
        for (text, fields), count in counts.items():
            self._log.warn(text, count=count, **dict(fields))
        if more:
            self._log.warn("and more of this and other addresses: {count}", count=more)
