"""Whole processes of a cluster, people who speak to them, and the admin."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from redis_parts import new_prefix
from server_process import ServerProcess, environment, server
from store_invariants import check_dsn, check_file

from flux.bench.engines import PostgresServer, RedisServer
from flux.bench.servers import free_port, twistd

PASSWORD = "correct horse"


class Person:
    """A client that asks and waits, one line after the other."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), source_address=(address, 0))
        self._lines = self._socket.makefile("rb")
        self.server = ""

    def ask(self, type: str, **fields: Any) -> dict[str, Any]:  # noqa: A002 - the protocol's word
        self._socket.sendall(json.dumps({"type": type, **fields}).encode() + b"\n")
        return self.next()

    def next(self) -> dict[str, Any]:
        line: dict[str, Any] = json.loads(self._lines.readline() or b'{"type":"closed"}')
        return line

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


class Place:
    """Where the processes of a test run; they end with it."""

    def __init__(self, folder: Path, stack: ExitStack, **settings: str) -> None:
        self.chat, self.status = free_port(), free_port()
        self._folder = folder
        self._stack = stack
        self.settings = {
            "chat.listen": f"tcp:{self.chat}:interface=127.0.0.1",
            "chat.drain": "2",
            "status.listen": f"tcp:{self.status}:interface=127.0.0.1",
            "gate.listen": "",
            "admin.listen": "",
            "status.heartbeat": "0.2",
            "status.lease": "10",
            "store.path": str(folder / "flux.db"),
            **{key.replace("__", "."): value for key, value in settings.items()},
        }
        # Begun before the processes, and so the last to be done.
        stack.callback(self._check)

    def _check(self) -> None:
        """The invariants of the store, where there is one."""
        if self.settings.get("store.kind") == "postgres":
            check_dsn(self.settings["store.dsn"], perhaps_empty=True)
        elif (file := Path(self.settings["store.path"])).exists():
            check_file(file)

    def launch(self, command: str, *options: str, logfile: str = "") -> ServerProcess:
        """Begin to start a twistd command; with a ``logfile`` its output is the banner alone."""
        arguments = [*twistd(command, self.settings), *options]
        if logfile:
            arguments[arguments.index(command) : arguments.index(command)] = ["--logfile", logfile]
        return self._stack.enter_context(server(arguments, self._folder, environment()))

    def start(self, command: str, *options: str, logfile: str = "") -> ServerProcess:
        """The same, and return when it listens."""
        process = self.launch(command, *options, logfile=logfile)
        process.wait_for("listen" if logfile else started(command))
        return process

    def start_admin(self, *arguments: str) -> subprocess.Popen[str]:
        return start_admin(*arguments, "--status", f":{self.status}")

    def admin(self, *arguments: str) -> tuple[int, str, str]:
        return ended(self.start_admin(*arguments))

    def person(self) -> Person:
        return self._stack.enter_context(closing(Person(self.chat)))

    def log_in(self, name: str = "ann") -> Person:
        """Somebody who is registered, if need be, and logged in."""
        person = self.person()
        person.ask("register", name=name, password=PASSWORD)
        answer = person.ask("login", name=name, password=PASSWORD)
        assert answer["type"] == "login.ok", answer
        person.server = answer["server"]
        return person


def started(command: str) -> str:
    """What a twistd command says when it listens."""
    return f" process.FluxProcess {command} started in"


def start_admin(*arguments: str) -> subprocess.Popen[str]:
    """``flux admin`` in a process of its own."""
    command = "import sys; from flux.cli.main import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", command, "admin", *arguments],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


ALONE = "flux admin: no other server is up: clients that find none are closed when the drain ends\n"
"""What ``flux admin drain`` says besides when it has drained the last one."""


def ended(command: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = command.communicate()
    return command.returncode, output, errors


def shared_by_all(redis: RedisServer, postgres: PostgresServer, database: str) -> dict[str, str]:
    """Settings of processes that have everything in common, in a database of its own."""
    return {
        "store__kind": "postgres",
        "store__dsn": postgres.create_database(database),
        "store__pool": "1",
        "state__kind": "redis",
        "state__url": redis.url,
        "state__prefix": new_prefix(),
    }
