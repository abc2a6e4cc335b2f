"""Server processes that a measurement or a verification starts, watches and kills.

Figures of a process come from ``/proc`` (Linux).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

#: A server that does not listen by then has failed to start, in seconds.
START_WITHIN = 30.0
#: A server that still runs so long after SIGTERM is killed, in seconds.
STOP_WITHIN = 20.0
#: A server that is expected to end by itself and still runs so long after that is killed, in seconds.
END_WITHIN = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")
_TWISTD = "from twisted.scripts.twistd import run; run()"


class ServerFailed(Exception):
    """A server process did not do what it was started for: the text says what, with the end of its output."""


class _Survivors:
    """Kills the servers that are left when this process is gone, however it went.

    A shell reads their numbers from a pipe; when nobody holds the other end any more, it kills those that were not
    taken back. (``PR_SET_PDEATHSIG`` would do it too early: when the *thread* that started a server ends.)
    """

    _SCRIPT = """
        left=
        while read what pid; do
            case $what in
                +) left="$left $pid" ;;
                -) kept=; for other in $left; do [ "$other" = "$pid" ] || kept="$kept $other"; done; left=$kept ;;
            esac
        done
        [ -z "$left" ] || kill -9 $left
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipe: IO[bytes] | None = None
        self._pids: set[int] = set()

    def add(self, pid: int) -> None:
        """Kill ``pid`` in the end."""
        with self._lock:
            self._pids.add(pid)
            self._tell(b"+ %d\n" % pid)

    def discard(self, pid: int) -> None:
        """It has ended, and its number may be given to somebody else."""
        with self._lock:
            if pid in self._pids:
                self._pids.discard(pid)
                self._tell(b"- %d\n" % pid)

    def _tell(self, line: bytes) -> None:
        if self._pipe is None:
            # Out of reach of a Ctrl-C in the terminal, which is for those it outlives.
            shell = subprocess.Popen(["/bin/sh", "-c", self._SCRIPT], stdin=subprocess.PIPE, start_new_session=True)
            self._pipe = shell.stdin
            atexit.register(self._end, shell)
        assert self._pipe is not None
        self._pipe.write(line)
        self._pipe.flush()

    def _end(self, shell: subprocess.Popen[bytes]) -> None:
        assert self._pipe is not None
        self._pipe.close()
        shell.wait()


_survivors = _Survivors()


class ServerProcess:
    """A running server. It is killed when the process that started it ends, however that happens.

    :param command: program and arguments, see :func:`python` and :func:`twistd`.
    :param output: file that takes what it prints.
    :param cpus: processors it may run on; empty: all.
    :param user: the system's number of the user to run as; None: this process's own.
    """

    def __init__(self, command: Sequence[str], output: Path, cpus: Sequence[int] = (), user: int | None = None) -> None:
        self._output = output
        with output.open("ab") as stream:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                user=user,
                group=user,
                extra_groups=[] if user is not None else None,
                # Out of reach of a Ctrl-C in the terminal: who started it ends it, when it is time.
                start_new_session=True,
            )
        _survivors.add(self.pid)
        # Before it has made a thread, which would keep the old set.
        if cpus:
            os.sched_setaffinity(self._process.pid, cpus)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def cpu_seconds(self) -> float:
        """CPU time of all its threads so far, in user and kernel mode."""
        return sum(_cpu_ticks(self.pid)[:2]) / _TICKS

    def family_cpu_seconds(self) -> float:
        """The same, and of the processes that it has started, also of those that have ended."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text("ascii").split()
        ticks = sum(_cpu_ticks(self.pid))
        for child in children:
            # One that ends now is counted with what has ended next time.
            with contextlib.suppress(OSError):
                ticks += sum(_cpu_ticks(int(child))[:2])
        return ticks / _TICKS

    def resident(self) -> int:
        """Bytes of memory it occupies now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text("ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def printed(self) -> str:
        """The end of what it has printed."""
        return self._output.read_text("utf-8", "replace")[-4000:]

    def check(self) -> None:
        """:raises ServerFailed: it is not running any more."""
        status = self._process.poll()
        if status is not None:
            _survivors.discard(self.pid)
            raise ServerFailed(f"the server ended with status {status}:\n{self.printed()}")

    def wait_until_listening(self, *ports: int) -> None:
        """Return when all ``ports`` of the loopback interface accept connections.

        :raises ServerFailed: it ended, or took longer than ``START_WITHIN``.
        """
        deadline = time.monotonic() + START_WITHIN
        for port in ports:
            while not listens(port):
                self.check()
                if time.monotonic() > deadline:
                    raise ServerFailed(f"nothing listens on port {port}:\n{self.printed()}")
                time.sleep(0.005)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, SIGSTOP and SIGCONT for instance. Does nothing if it has ended."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait until it has ended by itself, and return the exit status.

        :raises ServerFailed: it has not ended after ``END_WITHIN``; then it is killed.
        """
        try:
            status = self._process.wait(END_WITHIN)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailed(f"the server does not end:\n{self.printed()}") from None
        _survivors.discard(self.pid)
        return status

    def kill(self) -> None:
        """SIGKILL, and return when it is gone. Does nothing if it has ended."""
        self._process.kill()
        self._process.wait()
        _survivors.discard(self.pid)

    def stop(self) -> int:
        """SIGTERM, after ``STOP_WITHIN`` SIGKILL; return the exit status."""
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_WITHIN)
        self.kill()
        return self._process.wait()


def python(*arguments: str) -> list[str]:
    """The interpreter that runs this, with ``arguments``."""
    return [sys.executable, *arguments]


def twistd(command: str, settings: Mapping[str, str]) -> list[str]:
    """``twistd -n COMMAND --set ...``."""
    arguments = python("-c", _TWISTD, "--nodaemon", "--pidfile=", command)
    for key, value in settings.items():
        arguments += ["--set", f"{key}={value}"]
    return arguments


def flux_settings(chat_port: int, status_port: int) -> dict[str, str]:
    """Settings of a server that is to be loaded from one address, without limits in the way."""
    return {
        "chat.listen": f"tcp:{chat_port}:interface=127.0.0.1:backlog=4096",
        "status.listen": f"tcp:{status_port}:interface=127.0.0.1",
        "gate.listen": "",
        "admin.listen": "",
        "limits.connections_per_address": "0",
        "limits.messages_per_second": "0",
        "limits.requests_per_second": "0",
        "limits.token_logins_per_minute": "0",
        "limits.registrations_per_hour_address": "0",
        "log.level": "warn",
    }


def listens(port: int) -> bool:
    """Whether the loopback interface accepts connections on ``port``."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """A port nobody listens on, outside the range that outgoing connections take theirs from.

    From that range, a client that tries to reconnect to a killed server may be given
    the server's port as its own, and then the server cannot have it back.

    As long as this process lives, nobody else is given it, in whichever process they ask.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    for _ in range(100):
        port = random.randrange(min(10_000, lowest // 2), lowest)
        with socket.socket() as held:
            try:
                held.bind(("127.0.0.1", port))
            except OSError:
                continue
            # Now others may listen there, if they say the same, as servers do; for this function it stays taken.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.detach()
            return port
    raise ServerFailed("no free port found")


def _cpu_ticks(pid: int) -> list[int]:
    """CPU time of a process: its own in user and kernel mode, and that of its children that have ended, in ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    return [int(each) for each in fields[11:15]]


def processors() -> tuple[Sequence[int], Sequence[int]]:
    """One processor for the server and another for the load; the same where there is only one."""
    available = sorted(os.sched_getaffinity(0))
    return available[:1], available[1:2] or available[:1]
