"""``flux chat`` inside tmux, the terminal that people on servers use: needs tmux (``tox -e system``)."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server_process import environment, server

pytestmark = pytest.mark.system

DEADLINE = 20.0
FLUX = f"{sys.executable} -c 'from flux.cli.main import main; raise SystemExit(main())'"
TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="]


class Tmux:
    """A tmux server of its own, its windows by name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._output: dict[str, int] = {}

    def run(self, *arguments: str) -> str:
        command = ["tmux", "-S", str(self._folder / "tmux"), "-f", "/dev/null", *arguments]
        return subprocess.run(
            command, check=True, capture_output=True, encoding="utf-8", env=environment(), timeout=DEADLINE
        ).stdout

    def open(self, name: str, command: str) -> None:
        self.run("new-session", "-d", "-s", name, "-x", "90", "-y", "30", command)
        pipe = self._folder / f"{name}.output"
        os.mkfifo(pipe)
        self._output[name] = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        self.run("pipe-pane", "-t", name, f"cat > {pipe}")

    def close(self) -> None:
        """End all windows."""
        self.run("kill-server")
        for output in self._output.values():
            os.close(output)

    def keys(self, name: str, *keys: str) -> None:
        self.run("send-keys", "-t", name, *keys)

    def type(self, name: str, line: str) -> None:
        self.run("send-keys", "-t", name, "-l", line)
        self.keys(name, "Enter")

    def screen(self, name: str) -> list[str]:
        return [line.rstrip() for line in self.run("capture-pane", "-p", "-t", name).split("\n")]

    def wait(self, name: str, shown: Callable[[list[str]], bool]) -> None:
        """Until the screen shows what it should; looked at whenever something was written to it."""
        late = time.monotonic() + DEADLINE
        while not shown(screen := self.screen(name)):
            written, _, _ = select.select([self._output[name]], [], [], max(0.0, late - time.monotonic()))
            assert written, "\n".join(screen)
            os.read(self._output[name], 65536)

    def wait_for(self, name: str, text: str) -> None:
        self.wait(name, lambda screen: any(text in line for line in screen))


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Tmux]:
    tmux = Tmux(tmp_path)
    tmux.open("keeper", "cat")
    yield tmux
    tmux.close()


@pytest.fixture
def port(tmp_path: Path) -> Iterator[str]:
    ports = [
        argument
        for name in ("chat", "status", "gate", "admin")
        for argument in ("--set", f"{name}.listen=tcp:0:interface=127.0.0.1")
    ]
    with server([*TWISTD, "flux", *ports], tmp_path, environment()) as process:
        match = re.search(r"listens on 127\.0\.0\.1:(\d+)", process.wait_for("flux chat server"))
        assert match is not None
        yield match.group(1)


def test_two_people_in_two_windows(tmux: Tmux, port: str) -> None:
    for name in ("ann", "bob"):
        tmux.open(name, f"{FLUX} chat 127.0.0.1:{port}; echo it ended with $?; cat")
        tmux.wait_for(name, "(q)uit?")
        for question, answer in (("(q)uit?", "r"), ("name:", name), ("password:", "correct horse")):
            tmux.wait_for(name, question)
            tmux.type(name, answer)
        tmux.wait_for(name, "password again:")
        tmux.type(name, "correct horse")
        tmux.wait_for(name, f"Welcome, {name}")
        assert not any("correct horse" in line for line in tmux.screen(name))

    # Half a line stays where it is while a message comes in above it.
    tmux.run("send-keys", "-t", "bob", "-l", "/msg ann half a li")
    tmux.wait_for("bob", "> /msg ann half a li")
    tmux.type("ann", "/msg bob hello, bob")
    tmux.wait_for("ann", "you → bob: hello, bob ✓")
    tmux.wait_for("bob", "ann: hello, bob")
    tmux.wait("bob", lambda screen: "> /msg ann half a li" in screen)
    tmux.type("bob", "ne")
    tmux.wait_for("ann", "bob: half a line")

    # The toolbar is the last line, also after the window has changed its size.
    tmux.wait("ann", lambda screen: screen[29].startswith(" ● ann on 127.0.0.1:"))
    tmux.run("resize-window", "-t", "ann", "-x", "60", "-y", "20")
    tmux.type("ann", "/friends")
    tmux.wait("ann", lambda screen: screen[19].startswith(" ● ann on 127.0.0.1:"))

    tmux.keys("ann", "C-d")
    tmux.wait_for("ann", "it ended with 0")
