"""What a log event looks like, which events are shown, and where they go.

::

    Logger().info(...) ──> Threshold (level, may change at run time) ──> text or JSON ──> stdout, file, syslog

Text is for people: one line an event, a traceback indented below it::

    2026-11-20T19:14:02.123Z info  chat.session [conn 42] user 7 logged in

Nothing that a user has written begins a line of its own, or changes how a terminal shows one: control characters,
line separators and what reorders text or cannot be seen are escaped.

JSON is for programs: one object a line with ``time``, ``level``, ``namespace``,
``message``, ``failure`` where there is one, and all fields of the event that JSON
can hold.  Events of a connection carry its number as ``conn``, those of a worker process
(``chat.workers``) the name of its chat server as ``worker``.  Lines that a worker has
formatted (``log_line``) go out as they are, but for what would have been escaped.

What Twisted itself tells at info (factories starting, ports closing) counts as debug, except
that no connection can be accepted any more: that is a warning, at most every 10 s.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import stat
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any
from unicodedata import category

import msgspec
from constantly import NamedConstant
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogFilterPredicate,
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    PredicateResult,
    formatEvent,
)
from twisted.python import threadable
from twisted.python.logfile import LogFile
from zope.interface import implementer

Format = Callable[[LogEvent], str]

ROTATED_AT = 10_000_000
"""Bytes after which a log file is rotated."""

KEPT = 10
"""Rotated log files that are kept."""

REFUSED_EVERY = 10.0
"""Seconds between two warnings that connections cannot be accepted."""

_log = Logger()

#: Unicode's categories of characters that are escaped: control, formatting (bidirectional overrides among it), line
#: and paragraph separators.
_ESCAPED = ("Cc", "Cf", "Zl", "Zp")

# constantly compares its constants in order of definition, which mypy does not know.
_RANKS: dict[NamedConstant, int] = {level: rank for rank, level in enumerate(LogLevel.iterconstants())}


def _level(event: LogEvent) -> NamedConstant:
    level: NamedConstant = event.get("log_level", LogLevel.info)
    namespace = event.get("log_namespace", "")
    if level is LogLevel.info and (namespace.startswith("twisted.") or namespace == "log_legacy"):
        return LogLevel.debug
    return level


def _time(event: LogEvent) -> str:
    second, ms = divmod(int(event["log_time"] * 1000), 1000)
    return f"{_second(second)}.{ms:03}Z"


@lru_cache(2)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _message(event: LogEvent) -> str:
    """The event's text; what UTF-8 cannot hold is escaped."""
    template = event.get("log_format")
    # formatEvent, which also calls what "{name()}" means and never fails, takes seven times as long as str does.
    if not isinstance(template, str) or "()" in template:
        return _encodable(formatEvent(event))
    try:
        return _encodable(template.format_map(event))
    except Exception:
        return _encodable(formatEvent(event))


def _traceback(event: LogEvent) -> str:
    return _encodable(event["log_failure"].getTraceback()) if "log_failure" in event else ""


def _encodable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _one_line(text: str) -> str:
    """The text with what could forge a line escaped, as Python writes it; tabs stay."""
    return text if text.isprintable() else "".join([_escape(char) for char in text])


def _escape(char: str) -> str:
    if char.isprintable() or char == "\t" or category(char) not in _ESCAPED:
        return char
    return char.encode("unicode_escape").decode()


def _one_json_line(text: str) -> str:
    """The same for JSON, as JSON writes it: what is escaped can only stand in a string there."""
    return text if text.isprintable() else "".join([_escape_json(char) for char in text])


def _escape_json(char: str) -> str:
    return json.dumps(char)[1:-1] if not char.isprintable() and category(char) in _ESCAPED else char


def as_text(event: LogEvent) -> str:
    """The event for people."""
    if "log_line" in event:
        return _one_line(str(event["log_line"])) + "\n"
    namespace = event.get("log_namespace", "-").removeprefix("flux.")
    conn = f" [conn {event['conn']}]" if "conn" in event else ""
    worker = f"{event['worker']} " if "worker" in event else ""
    line = _one_line(f"{_time(event)} {_level(event).name:<5} {worker}{namespace}{conn} {_message(event)}")
    below = [_one_line(part) for part in _traceback(event).split("\n") if part.strip()]
    return "\n\t".join([line, *below]) + "\n"


def as_json(event: LogEvent) -> str:
    """The event for programs: one object and a newline."""
    if "log_line" in event:
        return _one_json_line(str(event["log_line"])) + "\n"
    record: dict[str, Any] = {
        "time": _time(event),
        "level": _level(event).name,
        "namespace": event.get("log_namespace", ""),
        "message": _message(event),
    }
    if traceback := _traceback(event):
        record["failure"] = traceback
    for name, value in event.items():
        if name.startswith("log_") or name in record:
            continue
        try:
            record[name] = msgspec.Raw(msgspec.json.encode(value))
        except (TypeError, ValueError, OverflowError, RecursionError):
            continue
    return _one_json_line(msgspec.json.encode(record).decode("utf-8")) + "\n"


FORMATS: dict[str, Format] = {"text": as_text, "json": as_json}


@implementer(ILogFilterPredicate)
class Threshold:
    """Lets events of :attr:`level` and above pass.

    :ivar level: ``debug``, ``info``, ``warn``, ``error`` or ``critical``; may be set at any time.
    """

    def __init__(self, level: str) -> None:
        self.level = level

    @property
    def level(self) -> str:
        return self._name

    @level.setter
    def level(self, name: str) -> None:
        self._rank = _RANKS[LogLevel.levelWithName(name)]
        self._name = name

    def __call__(self, event: LogEvent) -> NamedConstant:
        passes = "log_line" in event or _RANKS[_level(event)] >= self._rank
        return PredicateResult.maybe if passes else PredicateResult.no


def observer_for_twistd(
    options: Mapping[str, Any], style: str, threshold: Threshold, reactor: IReactorFromThreads, worker: str = ""
) -> ILogObserver | None:
    """The observer that twistd is to use, writing to where its options say.

    twistd has no way to change only how its log looks, so where it goes is decided
    here just as twistd would: ``--syslog``, ``--logfile`` (rotated by size, and on
    SIGUSR1; begun anew on SIGUSR1 where somebody has moved it), stdout with ``-n``, else
    ``twistd.log``.  Where there is no file, SIGUSR1 does nothing.

    :param options: twistd's own options.
    :param style: ``text`` or ``json``.
    :param worker: a name put into every event, for a log that has those of several processes.
    :return: None with ``--logger``: the user brings an observer.
    """
    if options.get("logger"):
        return None
    destination: ILogObserver
    if options.get("syslog"):
        file = None
        destination = _Syslog(options.get("prefix") or "flux", FORMATS[style])
    else:
        file = _file(options)
        out: Any = sys.stdout if file is None else file
        destination = FileLogObserver(out, FORMATS[style])
    _rotate_on_signal(file, reactor)
    if worker:
        destination = _Named(destination, worker)
    return _Refusals(FilteringLogObserver(destination, [threshold]))


@implementer(ILogObserver)
class _Named:
    """Puts a worker's name into every event."""

    def __init__(self, destination: ILogObserver, worker: str) -> None:
        self._destination = destination
        self._worker = worker

    def __call__(self, event: LogEvent) -> None:
        self._destination({**event, "worker": self._worker})


@implementer(ILogObserver)
class _Refusals:
    """Adds a warning to what Twisted says, each time, when a connection cannot be accepted."""

    def __init__(self, destination: ILogObserver) -> None:
        self._destination = destination
        self._told = -REFUSED_EVERY

    def __call__(self, event: LogEvent) -> None:
        self._destination(event)
        # Those of UNIX sockets have the same name.
        if event.get("log_namespace") != "twisted.internet.tcp.Port":
            return
        if str(event.get("log_format")).startswith("EMFILE encountered"):
            problem = "EMFILE"
        else:
            problem = event.get("acceptError", "ECONNABORTED")
        # Aborted was one, by the other side; and the clock may have been set back.
        if problem == "ECONNABORTED" or 0 <= event["log_time"] - self._told < REFUSED_EVERY:
            return
        self._told = event["log_time"]
        warning = {key: value for key, value in event.items() if key.startswith("log_")}
        warning |= {"log_level": LogLevel.warn, "log_namespace": "flux.process"}
        if problem == "EMFILE":
            warning["log_format"] = (
                "no file descriptors left (limit {limit}), new connections are refused: raise LimitNOFILE= or ulimit -n"
            )
            warning["limit"] = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        else:
            warning["log_format"] = "new connections are refused: {reason}"
            warning["reason"] = os.strerror(getattr(errno, problem))
        self._destination(warning)


def _file(options: Mapping[str, Any]) -> _File | None:
    """The log file; None: it is stdout."""
    name = options.get("logfile") or ""
    if name == "-" and not options.get("nodaemon"):
        raise SystemExit("A daemon cannot log to stdout: give --logfile a file, or -n to stay in the foreground.")
    if name == "-" or (not name and options.get("nodaemon")):
        return None
    folder, name = os.path.split(os.path.abspath(name or "twistd.log"))
    return _File(name, folder)


def _rotate_on_signal(file: _File | None, reactor: IReactorFromThreads) -> None:
    def on_signal(*_: object) -> None:
        # Without a file it is ignored, since it would end the process: those who rotate logs may signal all of a
        # service, its workers among them. SIG_IGN would be inherited by the processes that are started.
        if file is not None:
            reactor.callFromThread(_rotate, file)

    if signal.getsignal(signal.SIGUSR1) in (None, signal.SIG_DFL):
        signal.signal(signal.SIGUSR1, on_signal)


def _rotate(file: _File) -> None:
    try:
        file.rotate()
    except OSError as problem:
        _log.error("SIGUSR1: the log goes on as it was: {problem}", problem=str(problem))


class _File(LogFile):
    """A log file that others may rotate, too: by moving it, or by copying and truncating it."""

    synchronized = ["rotate"]  # noqa: RUF012 - Twisted's way to declare it

    def __init__(self, name: str, folder: str) -> None:
        super().__init__(name, folder, ROTATED_AT, maxRotatedFiles=KEPT)  # type: ignore[no-untyped-call]  # Twisted's

    def _openFile(self) -> None:  # noqa: N802 - Twisted's name
        """Begin or go on with the file; the one before is closed only when that has worked.

        :raises OSError: it has not.
        """
        # One that somebody else has made keeps the mode that it was given.
        new = not os.path.exists(self.path)
        mode = 0o666 if self.defaultMode is None else self.defaultMode
        # Appending: where it was truncated, the next line is its first.
        file = open(self.path, "ab", 0, opener=partial(os.open, mode=mode))  # noqa: SIM115 - it stays open
        if new and self.defaultMode is not None:
            os.fchmod(file.fileno(), mode)
        self._file, self.closed = file, False
        self.size = os.fstat(file.fileno()).st_size

    def shouldRotate(self) -> bool:  # noqa: N802 - Twisted's name
        if self.size < self.rotateLength:
            return False
        # It may have been truncated meanwhile.
        self.size = os.fstat(self._file.fileno()).st_size
        return bool(self.size >= self.rotateLength)

    def rotate(self) -> None:
        """Go on with a new file; if that of this name is another one, or gone, with that.

        :raises OSError: that cannot be done; the next attempt is made after as much as fills a file.
        """
        self.size = 0
        mine = os.fstat(self._file.fileno())
        if not stat.S_ISREG(mine.st_mode):
            return
        try:
            moved = not os.path.samestat(os.stat(self.path), mine)
        except FileNotFoundError:
            moved = True
        if moved:
            before = self._file
            self._openFile()
            before.close()
        elif not os.access(self.directory, os.W_OK):
            raise PermissionError(f"no files can be made in {self.directory}")
        else:
            super().rotate()  # type: ignore[no-untyped-call]  # Twisted's


threadable.synchronize(_File)


@implementer(ILogObserver)
class _Syslog:
    """Writes to the system's log, which adds the time itself."""

    def __init__(self, prefix: str, style: Format) -> None:
        import syslog

        syslog.openlog(prefix, syslog.LOG_PID, syslog.LOG_DAEMON)
        self._write = syslog.syslog
        self._format = style
        self._priorities = {
            LogLevel.debug: syslog.LOG_DEBUG,
            LogLevel.info: syslog.LOG_INFO,
            LogLevel.warn: syslog.LOG_WARNING,
            LogLevel.error: syslog.LOG_ERR,
            LogLevel.critical: syslog.LOG_CRIT,
        }

    def __call__(self, event: LogEvent) -> None:
        for line in self._format(event).removesuffix("\n").split("\n"):
            self._write(self._priorities[_level(event)], line)
