"""What commands print: standard output that may end before they do (``| head``, a full disk), and warnings."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, TextIO

#: What a shell shows for a program that a broken pipe has ended: 128 and the number of SIGPIPE.
BROKEN_PIPE = 141


class Output:
    """A stream for :data:`sys.stdout` that ends the command when nothing can be written any more.

    By ``SystemExit``, which no command takes for an error of what it does, and which ``react`` lets pass without a
    traceback. SIGPIPE's own action would do for the pipe alone, but it would also end a command whose
    connection to a server breaks.

    :ivar status: the exit status of a command that could not write; 0 while it can.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.status = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """:raises SystemExit: it cannot be written."""
        try:
            return self._stream.write(text)
        except OSError as error:
            raise self._end(error) from None

    def flush(self) -> None:
        """:raises SystemExit: what was written before cannot be."""
        try:
            self._stream.flush()
        except OSError as error:
            raise self._end(error) from None

    def _end(self, error: OSError) -> SystemExit:
        # What is still in the buffer goes there when the interpreter ends, without another error.
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        if isinstance(error, BrokenPipeError):
            # Whoever reads has read enough: nothing to tell.
            self.status = BROKEN_PIPE
        else:
            self.status = 1
            print(f"flux: cannot write to standard output: {error.strerror or error}", file=sys.stderr)
        return SystemExit(self.status)


def warnings_to_stderr(command: str) -> None:
    """Show what is logged as a warning or worse: what a command waits for, for one, and for how long already."""
    # Not above: `flux --help` is quick because it imports nothing.
    from twisted.logger import (
        FileLogObserver,
        FilteringLogObserver,
        LogLevel,
        LogLevelFilterPredicate,
        formatEvent,
        globalLogBeginner,
    )

    from flux.cli.shown import shown

    observer = FileLogObserver(sys.stderr, lambda event: f"{command}: {shown(formatEvent(event))}\n")
    warnings = FilteringLogObserver(observer, [LogLevelFilterPredicate(LogLevel.warn)])
    globalLogBeginner.beginLoggingTo([warnings], redirectStandardIO=False)
