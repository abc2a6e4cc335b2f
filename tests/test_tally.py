"""What strangers make happen takes few lines of the log."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import Logger, capturedLogs, formatEvent

from flux.net.tally import MOST_LINES, TELL_AFTER, Tally


def test_what_has_all_in_common_is_one_line_and_the_lines_are_few() -> None:
    clock = Clock()
    tally = Tally(Logger(), clock)
    with capturedLogs() as logged:
        for number in range(MOST_LINES + 50):
            for _ in range(2):
                tally.count("{why} from {address}: {count}", why="noise", address=f"10.0.0.{number}")
        tally.count("{why} from {address}: {count}", why="noise", address="10.0.0.0")
        assert not logged
        clock.advance(TELL_AFTER)
        lines = [formatEvent(event) for event in logged]
        assert len(lines) == MOST_LINES + 1
        assert lines[:2] == ["noise from 10.0.0.0: 3", "noise from 10.0.0.1: 2"]
        assert lines[-1] == "and more of this and other addresses: 100"
        del logged[:]
        tally.count("{count} at the end")
        tally.stop()
        assert [formatEvent(event) for event in logged] == ["1 at the end"]
    assert not clock.getDelayedCalls()
    tally.stop()
