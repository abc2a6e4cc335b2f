"""twistd on a machine whose clock somebody sets: SIGUSR2 puts it forward by the seconds of the second argument.

The first argument is the clock: ``time``, that of the day, or ``boottime``, which has gone on where a machine was
suspended.
"""

from __future__ import annotations

import signal
import sys
import time

which, step = sys.argv.pop(1), float(sys.argv.pop(1))
time_of_day, any_time = time.time, time.clock_gettime
wrong_by = 0.0


def set_clock(*_: object) -> None:
    global wrong_by
    wrong_by = step


if which == "time":
    time.time = lambda: time_of_day() + wrong_by
else:
    time.clock_gettime = lambda clock: any_time(clock) + (wrong_by if clock == time.CLOCK_BOOTTIME else 0.0)
signal.signal(signal.SIGUSR2, set_clock)

# It keeps the function that it finds.
from twisted.scripts.twistd import run  # noqa: E402 - it imports the clock

if __name__ == "__main__":
    run()
