"""The line protocol that every TCP port speaks: lines that end in a newline or NUL (see :mod:`flux.wire.framing`)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from twisted.internet.interfaces import IReactorTime

from flux.net.connection import Connection, Gather
from flux.wire.framing import LineFramer

_HTTP = re.compile(rb"^(GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH|PRI) .* HTTP/\d")


class LineProtocol(Connection):
    """A connection whose lines end in a terminator."""

    def __init__(self, conn: str, gather: Gather, max_line: int, clock: IReactorTime) -> None:
        super().__init__(conn, gather, max_line, clock)
        self._framer = LineFramer(max_line)
        self._started = False

    def line_too_long(self) -> None:
        """The peer sent a line over the limit and its turn has come: say so and close."""
        raise NotImplementedError

    def not_lines(self) -> None:
        """The peer speaks HTTP, and is cut."""

    def first_words(self, lines: list[bytes]) -> bool:
        """Something has arrived and no line was worked on yet; False where none of ``lines`` is to be."""
        if lines:
            self._started = True
            if _HTTP.match(lines[0]):
                self.log.warn("an HTTP request on a line port, closed", conn=self.conn)
                self.not_lines()
                self.abort()
                return False
        return True

    def dataReceived(self, data: bytes) -> None:
        """Cut into lines and work on those whose turn has come."""
        lines = self._framer.feed(data)
        if not self._started and not self.first_words(lines):
            return
        self.heard = True
        if self._framer.overflow:
            self._uncut = True
        if self._held or self._backlog:
            self._queue(lines)
        elif len(lines) == 1 and not self._uncut:
            # By far the most frequent case; one line alone has nothing to be gathered with.
            self.line_received(lines[0])
        elif lines or self._uncut:
            self._work(lines)

    def cut(self) -> Iterable[bytes]:
        """A line over the limit: what follows cannot be cut into lines any more."""
        self._uncut = False
        self.line_too_long()
        return ()
