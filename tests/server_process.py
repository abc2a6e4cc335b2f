"""A twistd command in a process of its own: started, watched line by line, signalled, and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import flux

TESTS = Path(__file__).parent


class ServerProcess:
    """A running process whose output is read as it comes.

    Reading blocks; the timeout of the test is the deadline.
    """

    def __init__(self, command: Sequence[str], cwd: Path, env: dict[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self.popen = subprocess.Popen(
            command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def wait_for(self, text: str) -> str:
        """The next line of stdout that has ``text`` in it."""
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.append(line.rstrip("\n"))
            if text in line:
                return self.lines[-1]
        _, errors = self.popen.communicate()
        raise AssertionError("\n".join([f"it ended without a line with {text!r}", *self.lines, errors]))

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait until it has ended: the exit status, and what it wrote to stderr. ``lines`` is then complete."""
        output, errors = self.popen.communicate()
        self.lines += output.splitlines()
        return self.popen.returncode, errors


@contextmanager
def server(command: Sequence[str], cwd: Path, env: dict[str, str] | None = None) -> Iterator[ServerProcess]:
    """Run ``command`` in ``cwd``; at the end it is killed if it still runs."""
    process = ServerProcess(command, cwd, env)
    try:
        yield process
    finally:
        process.popen.kill()
        process.popen.communicate()


def environment() -> dict[str, str]:
    """What a process needs to find the flux that is being tested, its twistd plugin included."""
    return {**os.environ, "PYTHONPATH": str(Path(flux.__file__).parent.parent), "PYTHONUNBUFFERED": "1"}


def with_fake_assembly(*arguments: str) -> list[str]:
    """The command line of twistd with ``fake_assembly`` for what it runs."""
    return [sys.executable, str(TESTS / "fake_assembly.py"), *arguments]
