"""A command in a real pseudo-terminal, its screen as a person would see it (pyte)."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyte

DEADLINE = 20.0
"""Seconds until something that does not appear fails the test."""


class _Screen(pyte.HistoryScreen):
    """A screen whose answers to the program (where the cursor is) reach it."""

    answer: Callable[[bytes], object]

    def write_process_input(self, data: str) -> None:
        self.answer(data.encode())


class PtyTerminal:
    """A process whose terminal is this one.

    :ivar raw: every byte it wrote.
    """

    def __init__(
        self, command: Sequence[str], cwd: Path, env: dict[str, str], columns: int = 100, lines: int = 40
    ) -> None:
        self.raw = b""
        self._ours, theirs = pty.openpty()
        self.modes = termios.tcgetattr(theirs)
        self._set_size(columns, lines)
        self._screen = _Screen(columns, lines, history=1000)
        self._screen.answer = lambda data: os.write(self._ours, data)
        self._stream = pyte.ByteStream(self._screen)
        # A session of its own, whose controlling terminal becomes the first one it opens.
        script = "import os, sys; os.close(os.open(os.ttyname(0), os.O_RDWR)); os.execv(sys.argv[1], sys.argv[1:])"
        self.popen = subprocess.Popen(
            [command[0], "-c", script, *command], cwd=cwd, env={**env, "TERM": "xterm-256color"},
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        self._theirs = theirs

    # what the person sees

    def lines(self) -> list[str]:
        """Everything on the screen and scrolled off it, without the empty rest of the screen."""
        above = ["".join(row[x].data for x in range(self._screen.columns)).rstrip() for row in self._screen.history.top]
        return [line for line in above + [line.rstrip() for line in self._screen.display] if line]

    def line_of_cursor(self) -> str:
        """The line in which the cursor stands."""
        return str(self._screen.display[self._screen.cursor.y]).rstrip()

    def toolbar(self) -> str:
        """The last line of the screen."""
        return str(self._screen.display[-1]).strip()

    def wait(self, happened: Callable[[], Any], what: str) -> Any:
        """What ``happened`` returns once it is true; looked at whenever something was written."""
        late = time.monotonic() + DEADLINE
        while not (result := happened()):
            readable, _, _ = select.select([self._ours], [], [], max(0.0, late - time.monotonic()))
            assert readable, "\n".join([f"{what} did not appear:", *self.lines()])
            self._feed()
        return result

    def wait_for(self, text: str) -> str:
        """The line that has ``text`` in it."""

        def found() -> str:
            return next((line for line in reversed(self.lines()) if text in line), "")

        line: str = self.wait(found, repr(text))
        return line

    def _feed(self) -> None:
        data = os.read(self._ours, 65536)
        self.raw += data
        self._stream.feed(data)

    # what the person does

    def keys(self, text: str) -> None:
        """Type, without Enter."""
        os.write(self._ours, text.encode())

    def type(self, *lines: str) -> None:
        """Type lines, each ended by Enter."""
        for line in lines:
            self.keys(line + "\r")

    def resize(self, columns: int, lines: int) -> None:
        """Pull at the window's corner."""
        self._set_size(columns, lines)
        self._screen.resize(lines, columns)
        os.killpg(self.popen.pid, signal.SIGWINCH)

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    # the process

    def end(self) -> int:
        """Wait until it has ended; its exit status."""
        late = time.monotonic() + DEADLINE
        while (status := self.popen.poll()) is None:
            assert time.monotonic() < late, "\n".join(["it did not end:", *self.lines()])
            if select.select([self._ours], [], [], 0.05)[0]:
                self._feed()
        while select.select([self._ours], [], [], 0)[0]:
            self._feed()
        return status

    def modes_now(self) -> list[Any]:
        """The terminal's modes: after a program that tidied up, those from before."""
        return termios.tcgetattr(self._theirs)

    def close(self) -> None:
        """Kill the process if it still runs."""
        self.popen.kill()
        self.popen.wait()
        os.close(self._ours)
        os.close(self._theirs)


@contextmanager
def terminal(command: Sequence[str], cwd: Path, env: dict[str, str], **size: int) -> Iterator[PtyTerminal]:
    """Run ``command`` in a terminal."""
    running = PtyTerminal(command, cwd, env, **size)
    try:
        yield running
    finally:
        running.close()
