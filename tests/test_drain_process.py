"""Draining whole processes through the status port, as an admin does."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from redis_parts import new_prefix
from server_process import ServerProcess, environment, server

from flux.bench.engines import RedisServer
from flux.bench.servers import free_port, twistd

PASSWORD = "correct horse"


class Person:
    """A client that asks and waits, one line after the other."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._lines = self._socket.makefile("rb")

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
        self._settings = {
            "chat.listen": f"tcp:{self.chat}:interface=127.0.0.1",
            "chat.drain": "2",
            "status.listen": f"tcp:{self.status}:interface=127.0.0.1",
            "status.heartbeat": "0.2",
            "status.lease": "10",
            "store.path": str(folder / "flux.db"),
            **{key.replace("__", "."): value for key, value in settings.items()},
        }

    def start(self, command: str) -> ServerProcess:
        process: ServerProcess = self._stack.enter_context(
            server(twistd(command, self._settings), self._folder, environment())
        )
        process.wait_for(f"{command} started in")
        return process

    def start_admin(self, *arguments: str) -> subprocess.Popen[str]:
        command = "import sys; from flux.cli.main import main; sys.exit(main())"
        return subprocess.Popen(
            [sys.executable, "-c", command, "admin", *arguments, "--status", f":{self.status}"],
            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def admin(self, *arguments: str) -> tuple[int, str, str]:
        return ended(self.start_admin(*arguments))

    def person(self) -> Person:
        return self._stack.enter_context(closing(Person(self.chat)))

    def log_in(self) -> Person:
        person = self.person()
        person.ask("register", name="ann", password=PASSWORD)
        assert person.ask("login", name="ann", password=PASSWORD)["type"] == "login.ok"
        return person


def ended(command: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = command.communicate()
    return command.returncode, output, errors


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_drained_chat_server_ends_and_serves_when_it_is_started_again(
    tmp_path: Path, stack: ExitStack, redis_server: RedisServer
) -> None:
    place = Place(
        tmp_path, stack, state__kind="redis", state__url=redis_server.url, state__prefix=new_prefix()
    )  # fmt: skip
    place.start("flux-status")
    chat = place.start("flux-chat")
    person = place.log_in()
    draining = place.start_admin("drain", "chat1", "--wait")
    chat.wait_for("draining: no new logins")
    # There is no other server for her.
    chat.wait_for("clients stay, at least for")
    assert person.ask("ping")["type"] == "ping.ok"
    assert person.ask("logout")["type"] == "logout.ok"
    assert ended(draining) == (0, "chat1 is down\n", "")
    chat.wait_for("drained: this process ends")
    assert chat.end() == (0, "")

    again = place.start("flux-chat")
    assert place.log_in().ask("ping")["type"] == "ping.ok"
    status, output, _ = place.admin("servers", "--json")
    [node] = json.loads(output)
    assert (status, node["name"], node["state"]) == (0, "chat1", "up")
    again.signal(signal.SIGTERM)
    assert again.end() == (0, "")
    assert not any("draining" in line for line in again.lines)


def test_a_process_with_a_status_service_goes_on(tmp_path: Path, stack: ExitStack) -> None:
    place = Place(tmp_path, stack)
    process = place.start("flux")
    person = place.log_in()
    assert place.admin("drain", "chat1") == (0, "chat1 is draining\n", "")
    process.wait_for("clients stay")
    assert person.ask("logout")["type"] == "logout.ok"
    process.wait_for("drained; this process goes on, because the status service is in it too")
    assert place.person().ask("login", name="ann", password=PASSWORD)["name"] == "no_server"
    assert place.admin("resume", "chat1") == (0, "chat1 is up\n", "")
    process.wait_for("taking logins again")
    assert place.log_in().ask("ping")["type"] == "ping.ok"
    process.signal(signal.SIGTERM)
    assert process.end() == (0, "")


def test_behind_a_proxy_the_log_has_the_clients_address(tmp_path: Path, stack: ExitStack) -> None:
    place = Place(tmp_path, stack)
    place._settings["chat.listen"] = "haproxy:" + place._settings["chat.listen"]
    process = place.start("flux")
    process.wait_for("for a proxy that sends PROXY headers")
    client = socket.create_connection(("127.0.0.1", place.chat))
    client.sendall(b"PROXY TCP4 203.0.113.7 127.0.0.1 5555 8090\r\n" + b"{}\n" * 20)
    assert process.wait_for("bad lines in a row").count("from 203.0.113.7, closed") == 1
    client.close()
