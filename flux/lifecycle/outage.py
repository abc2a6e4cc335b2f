"""What fails again and again is told once."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger


class Outage:
    """What is tried again and again and fails for a while: a line in the log when it begins, and one when it is over.

    The failures between are there at debug.
    """

    def __init__(self, log: Logger, clock: IReactorTime) -> None:
        self._log = log
        self._clock = clock
        self._since: float | None = None

    def failed(self, message: str, **fields: object) -> None:
        """It has failed; ``message`` is a log format, told as a warning where the last time went well."""
        tell = self._log.warn
        if self._since is None:
            self._since = self._clock.seconds()
        else:
            tell = self._log.debug
        tell(message, **fields)

    def over(self, message: str) -> None:
        """It works; ``message``, told where the last time failed, may have ``{seconds}``, which it has not."""
        if self._since is not None:
            self._log.info(message, seconds=round(self._clock.seconds() - self._since, 1))
            self._since = None
