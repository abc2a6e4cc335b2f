"""twistd on a machine whose clock somebody sets: SIGUSR2 puts it forward by the seconds of the first argument."""

from __future__ import annotations

import signal
import sys
import time

step = float(sys.argv.pop(1))
time_of_day = time.time
wrong_by = 0.0


def set_clock(*_: object) -> None:
    global wrong_by
    wrong_by = step


time.time = lambda: time_of_day() + wrong_by
signal.signal(signal.SIGUSR2, set_clock)

# It keeps the function that it finds.
from twisted.scripts.twistd import run  # noqa: E402

if __name__ == "__main__":
    run()
