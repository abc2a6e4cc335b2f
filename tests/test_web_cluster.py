"""The web client and chat servers in other processes: by their own WebSocket ports, and through the gate."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from browser import Browser, Tab
from redis_parts import new_prefix
from server_process import ServerProcess, environment, server
from web_people import Lines, open_chat, said, say, sign_up, write_to

from flux.bench.engines import PostgresServer, RedisServer
from flux.bench.servers import free_port, twistd

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


KEY = "a key of sixteen characters"


class Cluster:
    """A gate, a status service, and chat servers: ``chat1`` has a port for browsers, ``chat2`` has none."""

    def __init__(self, folder: Path, stack: ExitStack, redis: RedisServer, postgres: PostgresServer) -> None:
        self._folder = folder
        self._stack = stack
        self.status, self.gate = free_port(), free_port()
        self._settings = {
            "state.kind": "redis",
            "state.url": redis.url,
            "state.prefix": new_prefix(),
            "store.kind": "postgres",
            "store.dsn": postgres.create_database("web"),
            "store.require_fsync": "no",
            "status.listen": f"tcp:{self.status}:interface=127.0.0.1",
            "status.cluster_key": KEY,
            "status.heartbeat": "0.3",
            "gate.listen": f"tcp:{self.gate}:interface=127.0.0.1",
            "gate.status": f"127.0.0.1:{self.status}",
            "chat.drain": "1",
        }
        self.start("flux-status")
        self.chats = [self.chat("chat1", websocket=True)]
        self.start("flux-gate")

    def chat(self, name: str, websocket: bool = False) -> ServerProcess:
        own = f"tcp:{free_port()}:interface=127.0.0.1" if websocket else ""
        listen = f"tcp:{free_port()}:interface=127.0.0.1"
        return self.start("flux-chat", **{"chat.name": name, "chat.listen": listen, "chat.websocket": own})

    def start(self, command: str, **changes: str) -> ServerProcess:
        arguments = twistd(command, self._settings | changes)
        place = arguments.index(command)
        name = changes.get("chat.name", command)
        arguments[place:place] = ["--logfile", str(self._folder / f"{name}.log")]
        process: ServerProcess = self._stack.enter_context(server(arguments, self._folder, environment()))
        process.wait_for("listen")
        return process


def connected_to(tab: Tab) -> str:
    """Where the page's WebSocket leads."""
    return str(tab.js("JSON.parse(sessionStorage['flux.session']).websocket"))


def test_a_browser_moves_from_a_server_of_its_own_to_one_behind_the_gate(
    browser: Browser,
    tabs: Callable[..., Tab],
    redis_server: RedisServer,
    quick_postgres: PostgresServer,
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        cluster = Cluster(tmp_path, stack, redis_server, quick_postgres)
        url = f"http://127.0.0.1:{cluster.gate}/"
        ann, bob = tabs(url), tabs(url)
        sign_up(ann, "ann")
        sign_up(bob, "bob")
        assert re.fullmatch(r"ws://127\.0\.0\.1:[0-9]+/ws", connected_to(ann))
        write_to(ann, "bob")
        say(ann, "on the first server")
        open_chat(bob, "ann")
        bob.wait_text("on the first server", ".log")
        # The first one is drained: both are told to go to the second, which they reach through the gate.
        second = cluster.chat("chat2")
        with closing(Lines(cluster.status)) as status:
            status.ask("auth", key=KEY)
            status.ask("drain", server="chat1")
        for tab in (ann, bob):
            tab.wait("JSON.parse(sessionStorage['flux.session']).websocket === '/ws?server=chat2'")
            tab.wait("!document.querySelector('.link-state')")
        say(bob, "on the second server")
        ann.wait_text("on the second server", ".log")
        say(ann, "through the gate")
        bob.wait_text("through the gate", ".log")
        expected = ["on the first server", "on the second server", "through the gate"]
        assert said(ann) == said(bob) == expected
        # The second one ends without a word. There is a first one again, which the gate tells them of.
        cluster.chats.append(cluster.chat("chat1", websocket=True))
        second.popen.kill()
        for tab in (ann, bob):
            tab.wait("JSON.parse(sessionStorage['flux.session']).websocket.startsWith('ws://')")
            tab.wait("!document.querySelector('.link-state')")
        say(ann, "on the first one again")
        bob.wait_text("on the first one again", ".log")
        assert said(bob) == [*expected, "on the first one again"]
