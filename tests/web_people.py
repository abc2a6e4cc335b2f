"""People with a browser, and the server they use."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import Any

from browser import Tab
from server_process import ServerProcess, environment

from flux.bench.servers import free_port, twistd

PASSWORD = "correct horse"


class Server:
    """A server with everything in one process, that can be stopped and started again."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.settings = settings
        self.port, self.chat_port = free_port(), free_port()
        self.process = self.start()

    def start(self) -> ServerProcess:
        settings = {
            "chat.listen": f"tcp:{self.chat_port}:interface=127.0.0.1",
            "status.listen": "tcp:0:interface=127.0.0.1",
            "gate.listen": f"tcp:{self.port}:interface=127.0.0.1",
            "admin.listen": "",
            # A browser keeps many connections open for a while, and all tabs come from one address.
            "limits.connections_per_address": "0",
            "limits.messages_per_second": "0",
            "limits.token_logins_per_minute": "0",
            "limits.registrations_per_hour_address": "0",
            **{key.replace("__", "."): value for key, value in self.settings.items()},
        }
        command = [*twistd("flux", settings), f"--logfile={self.folder / 'flux.log'}"]
        # Options of twistd come before the command.
        command.insert(command.index("flux"), command.pop())
        process = ServerProcess(command, self.folder, environment())
        process.wait_for("in a browser")
        return process

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.signal(number)
        self.process.end()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


class Lines:
    """Somebody on the chat port, by hand."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._lines = self._socket.makefile("rw", encoding="utf-8", newline="\n")

    def tell(self, type: str, **fields: Any) -> None:  # noqa: A002 - the protocol's word
        self._lines.write(json.dumps({"type": type, **fields}) + "\n")
        self._lines.flush()

    def ask(self, type: str, **fields: Any) -> dict[str, Any]:  # noqa: A002 - the protocol's word
        self.tell(type, ref=1, **fields)
        while True:
            reply: dict[str, Any] = json.loads(self._lines.readline())
            if reply.get("ref") == 1:
                assert reply["type"] == f"{type}.ok", reply
                return reply

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


def sign_up(tab: Tab, name: str) -> None:
    tab.click("Create an account")
    tab.wait_text("At least")
    tab.fill("Name", name)
    tab.fill("Password", PASSWORD)
    tab.press("Enter")
    tab.wait_text("No conversations yet")


def sign_in(tab: Tab, name: str, password: str = PASSWORD) -> None:
    tab.fill("Name or e-mail address", name)
    tab.fill("Password", password)
    tab.press("Enter")


def own_id(tab: Tab) -> int:
    """The account of who is signed in."""
    return int(tab.js("JSON.parse(sessionStorage['flux.session']).id"))


def write_to(tab: Tab, name: str) -> None:
    """Open a conversation with somebody who is looked for."""
    tab.click("New conversation")
    tab.fill("Who?", name)
    tab.click("Write")
    tab.wait_text(name, ".chat-head")


def open_chat(tab: Tab, title: str) -> None:
    """Open a conversation that is in the list."""
    tab.click(title, ".side")
    tab.wait_text(title, ".chat-head h2")


def leave_chat(tab: Tab) -> None:
    tab.press("Escape")
    tab.wait("!document.querySelector('.chat')")


def try_now(tab: Tab) -> None:
    """Have the page connect at once, unless it is doing so by itself."""
    tab.js("document.querySelector('.link-state button')?.click()")


def say(tab: Tab, text: str) -> None:
    tab.js("document.querySelector('.composer textarea').focus()")
    tab.type(text)
    tab.press("Enter")


def said(tab: Tab) -> list[str]:
    """The texts in the open conversation, in order."""
    script = """[...document.querySelectorAll('.bubble')].map((bubble) =>
        [...bubble.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data).join(''))"""
    return list(tab.js(script))


def wait_said(tab: Tab, texts: list[str]) -> None:
    script = "[...document.querySelectorAll('.bubble')].length"
    tab.wait(f"{script} >= {len(texts)}")
    assert said(tab) == texts
