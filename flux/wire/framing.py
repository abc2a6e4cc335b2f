"""Cutting a byte stream into lines, whatever the chunks it arrives in.

The terminator is ``\\n`` (a ``\\r`` before it is dropped) or, for clients of the
numbered dialect, NUL: whichever is seen first on a connection holds for all of it.
"""

from __future__ import annotations

CARRIAGE_RETURN = 0x0D


class LineFramer:
    """Collects chunks and hands out whole lines.

    :param max_line: longest line accepted, in bytes, its terminator not counted.
    :ivar terminator: ``b""`` until the first line ended, then ``b"\\n"`` or ``b"\\0"``.
    :ivar overflow: True once a line was longer than ``max_line``. What follows
        cannot be framed: no more lines come out.
    """

    __slots__ = ("_partial", "max_line", "overflow", "terminator")

    def __init__(self, max_line: int) -> None:
        self.max_line = max_line
        self.terminator = b""
        self.overflow = False
        self._partial: bytearray | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """Take a chunk; return the lines it completes, without terminators, empty ones left out."""
        if self.overflow:
            return []
        terminator = self.terminator or self._sniff(data)
        if not terminator:
            self._keep(data)
            return []
        partial = self._partial
        if partial is not None:
            # Only the new chunk is searched: a long line in tiny chunks stays linear.
            end = data.find(terminator)
            if end < 0:
                self._keep(data)
                return []
            partial += data[:end]
            data = bytes(partial) + data[end:]
            self._partial = None
        lines = data.split(terminator)
        rest = lines.pop()
        # By its number: looking for bytes in bytes, Python makes and drops an exception first.
        if terminator == b"\n" and CARRIAGE_RETURN in data:
            lines = [line[:-1] if line.endswith(b"\r") else line for line in lines]
        if len(data) > self.max_line:
            for index, line in enumerate(lines):
                if len(line) > self.max_line:
                    self.overflow = True
                    return [line for line in lines[:index] if line]
        if rest:
            self._keep(rest)
        if b"" in lines:
            lines = [line for line in lines if line]
        return lines

    def _sniff(self, data: bytes) -> bytes:
        newline = data.find(b"\n")
        nul = data.find(b"\0")
        if newline < 0 and nul < 0:
            return b""
        self.terminator = b"\n" if nul < 0 or 0 <= newline < nul else b"\0"
        return self.terminator

    def _keep(self, data: bytes) -> None:
        if self._partial is None:
            self._partial = bytearray(data)
        else:
            self._partial += data
        length = len(self._partial)
        # One byte more may still be the "\r" of a line of exactly max_line bytes.
        if length > self.max_line and not (length == self.max_line + 1 and self._partial.endswith(b"\r")):
            self.overflow = True
            self._partial = None
