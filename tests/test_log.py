"""How log events look in text and JSON, which are shown, and where they go."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import tcp
from twisted.logger import FilteringLogObserver, LogEvent, Logger, LogLevel, LogPublisher, formatEvent
from twisted.python.failure import Failure

from flux.log import KEPT, ROTATED_AT, Threshold, as_json, as_text, observer_for_twistd


def event(text: str = "user {uid} logged in", **fields: Any) -> LogEvent:
    return {
        "log_time": 1795202042.1236,
        "log_level": LogLevel.info,
        "log_namespace": "flux.chat.session",
        "log_format": text,
        "log_source": object(),
        "uid": 7,
        **fields,
    }


def failure() -> Failure:
    try:
        raise ValueError("two\nlines \x1b[31m")
    except ValueError:
        return Failure()


# --- text --------------------------------------------------------------------


def test_text_is_a_line_with_time_level_place_and_connection() -> None:
    assert as_text(event()) == "2026-11-20T19:14:02.123Z info  chat.session user 7 logged in\n"
    assert as_text(event(conn=42)) == "2026-11-20T19:14:02.123Z info  chat.session [conn 42] user 7 logged in\n"


def test_nobody_can_forge_a_line_or_talk_to_the_terminal() -> None:
    text = as_text(event("name is {name}", name="x\n2026 info\r\x1b[2J\x85\t\ud800"))
    assert text.endswith("name is x\\n2026 info\\r\\x1b[2J\\x85\t\\ud800\n")
    assert text.count("\n") == 1


#: What makes a line of its own for some reader, turns text around, or cannot be seen.
TRICKS = ["\x0b", "\x1c", "\x85", "\u2028", "\u2029", "\u202e", "\u2066", "\u200b", "\ufeff", "\U000e0041"]


@pytest.mark.parametrize("trick", TRICKS, ids=ascii)
def test_neither_can_they_with_what_unicode_has_for_it(trick: str) -> None:
    fields = {"name": f"é {trick}\u3000x", trick: trick}
    text, line = as_text(event("name is {name}", **fields)), as_json(event("name is {name}", **fields))
    assert text.endswith(f"name is é {trick.encode('unicode_escape').decode()}\u3000x\n")
    for each in (text, line):
        assert each.splitlines(True) == [each]
        assert trick not in each
    record = json.loads(line)
    assert (record["name"], record[trick]) == (fields["name"], trick)
    # Neither in what somebody else has printed.
    raw = event(log_line=f"{{{trick}}}")
    assert as_text(raw).isascii()
    assert as_json(raw).isascii()


def test_a_traceback_is_indented_below_its_line() -> None:
    first, *below, end = as_text(event("oops", log_failure=failure())).split("\n")
    assert first.endswith("oops")
    assert below[0] == "\tTraceback (most recent call last):"
    assert below[-2:] == ["\tbuiltins.ValueError: two", "\tlines \\x1b[31m"]
    assert all(line.startswith("\t") for line in below)
    assert end == ""


def test_a_worker_is_named_in_front() -> None:
    assert as_text(event(conn="c1", worker="chat1-2")).split(" ", 1)[1] == (
        "info  chat1-2 chat.session [conn c1] user 7 logged in\n"
    )


@pytest.mark.parametrize("level", [LogLevel.debug, LogLevel.info])
def test_the_line_of_a_worker_goes_out_as_it_is(level: Any) -> None:
    line = '{"time":"2026-11-20T19:14:02.123Z","message":"é\\n"}'
    raw = {"log_level": level, "log_format": "{log_line}", "log_line": line, "log_namespace": "flux.workers"}
    assert as_json(raw) == f"{line}\n"
    assert as_text(raw) == f"{line}\n"
    shown: list[LogEvent] = []
    FilteringLogObserver(shown.append, [Threshold("critical")])(raw)
    assert shown == [raw]
    # What something else in its process prints may hold anything.
    assert as_text({**raw, "log_line": "a\x1b[2J\tb"}) == "a\\x1b[2J\tb\n"


# --- JSON --------------------------------------------------------------------


def test_json_is_an_object_a_line_with_all_fields_that_json_can_hold() -> None:
    line = as_json(event(conn=42, loads={"a": 1}, names=("x",), thing=object(), surrogate="\ud800", level="mine"))
    assert line.count("\n") == 1
    assert line.startswith("{")
    assert json.loads(line) == {
        "time": "2026-11-20T19:14:02.123Z",
        "level": "info",
        "namespace": "flux.chat.session",
        "message": "user 7 logged in",
        "uid": 7,
        "conn": 42,
        "loads": {"a": 1},
        "names": ["x"],
    }


def test_json_has_the_traceback() -> None:
    record = json.loads(as_json(event("oops", log_failure=failure())))
    assert record["failure"].startswith("Traceback (most recent call last):")


# --- levels ------------------------------------------------------------------


def shown(threshold: Threshold, **fields: Any) -> bool:
    seen: list[LogEvent] = []
    FilteringLogObserver(seen.append, [threshold])(event(**fields))
    return bool(seen)


def test_the_threshold_can_change() -> None:
    threshold = Threshold("warn")
    assert [shown(threshold, log_level=level) for level in LogLevel.iterconstants()] == [False, False, True, True, True]
    threshold.level = "debug"
    assert all(shown(threshold, log_level=level) for level in LogLevel.iterconstants())
    threshold.level = "critical"
    assert [shown(threshold, log_level=level) for level in LogLevel.iterconstants()] == [False] * 4 + [True]
    assert threshold.level == "critical"


@pytest.mark.parametrize("namespace", ["twisted.internet.protocol.Factory", "log_legacy"])
def test_the_small_talk_of_twisted_is_debug(namespace: str) -> None:
    info, debug = Threshold("info"), Threshold("debug")
    assert not shown(info, log_namespace=namespace)
    assert shown(debug, log_namespace=namespace)
    assert shown(info, log_namespace=namespace, log_level=LogLevel.warn)
    assert shown(info, log_namespace="their.plugin")


# --- connections that cannot be accepted ---------------------------------------


class Exhausted:
    """A listening socket that cannot accept."""

    def __init__(self, number: int) -> None:
        self._number = number

    def accept(self) -> Any:
        raise OSError(self._number, os.strerror(self._number))


def refused(observer: Any, number: int, reserved: bool, at: float) -> None:
    """Have Twisted accept in vain."""
    reservation: Any = tcp._FileDescriptorReservation(partial(open, os.devnull))
    if reserved:
        reservation.reserve()
    events: list[LogEvent] = []
    append: Any = events.append
    logger = Logger(namespace=tcp.Port._logger.namespace, observer=append)
    list(tcp._accept(logger, range(1), Exhausted(number), reservation))
    if reserved:
        reservation._fileDescriptor.close()
    for event in events:
        observer({**event, "log_time": at})


def test_that_no_descriptors_are_left_is_a_warning_at_times(capsys: pytest.CaptureFixture[str]) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    observer = twistd_observer({"nodaemon": True}, "text", "info")
    for number, reserved, at, shown in (
        (errno.EMFILE, True, 1000, f"no file descriptors left (limit {limit})"),
        (errno.EMFILE, True, 1009, ""),
        (errno.EMFILE, False, 1010, f"no file descriptors left (limit {limit})"),
        (errno.ECONNABORTED, False, 2000, ""),
        (errno.ENFILE, False, 2000, "new connections are refused: Too many open files in system"),
        # The clock was set back.
        (errno.EMFILE, True, 900, "no file descriptors left"),
    ):
        refused(observer, number, reserved, at)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == bool(shown)
        assert all(f" warn  process {shown}" in line for line in lines)


# --- where it goes -----------------------------------------------------------


def twistd_observer(options: dict[str, Any], style: str, threshold: str) -> Any:
    """Where no file is written, there is no reactor to tell of signals."""
    no_reactor: Any = None
    return observer_for_twistd(options, style, Threshold(threshold), no_reactor)


def log_through(observer: Any) -> None:
    logger = Logger(namespace="flux.test", observer=LogPublisher(observer))
    logger.info("hello {name}", name="you")
    logger.debug("a detail")


class Rotated:
    """A log file in a folder, and SIGUSR1."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "flux.log"
        # All that is needed of one.
        reactor: Any = self
        options = {"logfile": str(self.path), "nodaemon": True}
        self.observer: Any = observer_for_twistd(options, "text", Threshold("info"), reactor)
        self.log = Logger(namespace="flux.test", observer=LogPublisher(self.observer))

    def callFromThread(self, call: Any, *arguments: Any) -> None:  # noqa: N802 - Twisted's name
        call(*arguments)

    def say(self, text: str) -> None:
        self.log.info("{text}", text=text)

    def signal(self) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)


@pytest.fixture
def rotated(tmp_path: Path) -> Iterator[Rotated]:
    before = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    rotated = Rotated(tmp_path)
    yield rotated
    signal.signal(signal.SIGUSR1, before)
    rotated.observer._destination._observer._outFile.close()


def told(path: Path) -> list[str]:
    """What was said, without times and names."""
    return [line.removesuffix("\n").rpartition(" ")[2] for line in path.read_text("utf-8").splitlines()]


def test_a_log_file(rotated: Rotated) -> None:
    log_through(rotated.observer)
    assert rotated.path.read_text("utf-8").endswith("info  test hello you\n")
    assert rotated.path.read_text("utf-8").count("\n") == 1


def test_a_log_that_was_moved_is_begun_anew_on_a_signal(rotated: Rotated, tmp_path: Path) -> None:
    rotated.say("one")
    rotated.path.rename(tmp_path / "moved")
    rotated.say("two")
    rotated.signal()
    rotated.say("three")
    assert told(tmp_path / "moved") == ["one", "two"]
    assert told(rotated.path) == ["three"]
    # Now with a new one that whoever moved it has made.
    rotated.path.rename(tmp_path / "moved again")
    rotated.path.touch(0o600)
    rotated.signal()
    rotated.say("four")
    assert (told(tmp_path / "moved again"), told(rotated.path)) == (["three"], ["four"])
    assert stat.S_IMODE(rotated.path.stat().st_mode) == 0o600


def test_a_log_that_nobody_has_moved_is_rotated_on_a_signal(rotated: Rotated, tmp_path: Path) -> None:
    for text in ("one", "two", "three"):
        rotated.say(text)
        rotated.signal()
    assert [told(tmp_path / f"flux.log{end}") for end in ("", ".1", ".2", ".3")] == [[], ["three"], ["two"], ["one"]]


def test_a_log_goes_on_where_the_signal_can_do_nothing(
    rotated: Rotated, tmp_path: Path, flush_logged_errors: Callable[..., list[LogEvent]]
) -> None:
    rotated.path.rename(tmp_path / "moved")
    # A folder in its place: not even root opens that.
    rotated.path.mkdir()
    rotated.signal()
    [event] = flush_logged_errors()
    assert formatEvent(event).startswith("SIGUSR1: the log goes on as it was: [Errno")
    rotated.say("one")
    assert told(tmp_path / "moved") == ["one"]


def test_a_log_that_was_truncated_has_nothing_in_front(rotated: Rotated) -> None:
    rotated.say("one")
    os.truncate(rotated.path, 0)
    rotated.say("two")
    assert rotated.path.read_bytes().count(b"\0") == 0
    assert told(rotated.path) == ["two"]


def test_logs_are_rotated_by_size_and_a_few_are_kept(
    rotated: Rotated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "x" * (ROTATED_AT // 2)
    for _ in range(2 * (KEPT + 2)):
        rotated.say(line)
    rotated.say("one")
    assert told(rotated.path) == ["one"]
    assert {path.name for path in tmp_path.iterdir()} == {"flux.log", *(f"flux.log.{n + 1}" for n in range(KEPT))}


def test_what_is_truncated_in_time_is_not_rotated(rotated: Rotated, tmp_path: Path) -> None:
    for _ in range(4):
        rotated.say("x" * (ROTATED_AT // 2))
        os.truncate(rotated.path, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["flux.log"]


@pytest.mark.parametrize("options", [{"nodaemon": True}, {"syslog": True}])
def test_where_there_is_no_log_file_the_signal_ends_nothing(options: dict[str, Any]) -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    try:
        twistd_observer(options, "text", "info")
        os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("logfile", ["-", "", None])
def test_stdout_in_the_foreground(logfile: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"logfile": logfile, "nodaemon": True}
    log_through(twistd_observer(options, "json", "debug"))
    hello, detail = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (hello["message"], hello["name"], detail["level"]) == ("hello you", "you", "debug")


def test_the_system_log(monkeypatch: pytest.MonkeyPatch) -> None:
    import syslog

    calls: list[Any] = []
    monkeypatch.setattr(syslog, "openlog", lambda *args: calls.append(args))
    monkeypatch.setattr(syslog, "syslog", lambda *args: calls.append(args))
    options = {"syslog": True, "prefix": "chat7", "nodaemon": True}
    log_through(twistd_observer(options, "text", "info"))
    opened, (priority, line) = calls
    assert opened == ("chat7", syslog.LOG_PID, syslog.LOG_DAEMON)
    assert priority == syslog.LOG_INFO
    assert line.endswith("info  test hello you")


@pytest.mark.parametrize("style", ["text", "json"])
def test_nobody_forges_a_line_of_the_system_log(monkeypatch: pytest.MonkeyPatch, style: str) -> None:
    import syslog

    lines: list[str] = []
    monkeypatch.setattr(syslog, "openlog", lambda *args: None)
    monkeypatch.setattr(syslog, "syslog", lambda priority, line: lines.append(line))
    observer = twistd_observer({"syslog": True, "nodaemon": True}, style, "info")
    logger = Logger(namespace="flux.test", observer=LogPublisher(observer))
    logger.info("hello {name}", name="\n".join(["you", *TRICKS]))
    assert len(lines) == 1
    logger.failure("oops", failure())
    assert any("ValueError: two" in line for line in lines[1:])


def test_sys_stdout_is_left_alone_by_a_daemon() -> None:
    with pytest.raises(SystemExit, match="cannot log to stdout"):
        twistd_observer({"logfile": "-"}, "text", "info")
    assert not sys.stdout.closed
