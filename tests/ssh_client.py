"""An SSH client on twisted.conch: logs in with a key, opens a shell, types, and keeps what comes.

Imported inside tests only: conch chooses a reactor as soon as it is imported, and may not be installed.
"""

from __future__ import annotations

import re
import struct
from typing import Any

from twisted.conch.ssh import channel, common, connection, keys, transport, userauth
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import ClientCreator

from flux.lifecycle import within

DEADLINE = 20.0
ESCAPES = re.compile(rb"\x1b(\[[0-9;?]*[A-Za-z]|[A-Za-z])")


class Shell(channel.SSHChannel):
    """A session with a terminal."""

    name = b"session"

    def openFailed(self, reason: Any) -> None:  # noqa: N802
        self.conn.client.fail(reason)

    def channelOpen(self, data: bytes) -> None:  # noqa: N802
        self.conn.client.shell = self
        if self.conn.client.command:
            self.conn.sendRequest(self, b"exec", common.NS(self.conn.client.command))
            return
        terminal = common.NS(b"xterm") + struct.pack(">4L", 80, 24, 0, 0) + common.NS(b"")
        self.conn.sendRequest(self, b"pty-req", terminal)
        self.conn.sendRequest(self, b"shell", b"", wantReply=True).addCallbacks(lambda _: None, self.conn.client.fail)

    def dataReceived(self, data: bytes) -> None:
        self.conn.client.came(data)

    def closed(self) -> None:
        self.conn.client.ended()


class _Connection(connection.SSHConnection):
    def __init__(self, client: Client) -> None:
        super().__init__()
        self.client = client

    def serviceStarted(self) -> None:  # noqa: N802
        self.openChannel(Shell(conn=self))


class _Keys(userauth.SSHUserAuthClient):
    preferredOrder = (b"publickey",)  # noqa: N815

    def __init__(self, key: Any, client: Client) -> None:
        super().__init__(b"admin", _Connection(client))
        self._key: Any = key
        self._client = client

    def getPublicKey(self) -> Any:  # noqa: N802
        key, self._offered = self._key.public(), getattr(self, "_offered", 0) + 1
        return key if self._offered == 1 else None

    def getPrivateKey(self) -> Any:  # noqa: N802
        return succeed(self._key)


class _Transport(transport.SSHClientTransport):
    def __init__(self, client: Client) -> None:
        self._client = client

    def verifyHostKey(self, key: bytes, fingerprint: bytes) -> Any:  # noqa: N802
        self._client.host_key = keys.Key.fromString(key)
        return succeed(True)

    def connectionSecure(self) -> None:  # noqa: N802
        self.requestService(_Keys(self._client.key, self._client))

    def receiveError(self, code: int, description: bytes) -> None:  # noqa: N802
        self._client.fail(f"{code} {description.decode()}")

    def connectionLost(self, reason: Any = None) -> None:
        super().connectionLost(reason)
        self._client.ended()


class Client:
    """A login.

    :ivar command: what is asked for instead of a shell.
    :ivar text: what came, without the codes of a terminal.
    :ivar problem: why it failed.
    """

    def __init__(self, key: Any) -> None:
        self.key = key
        self.host_key: Any = None
        self.command = b""
        self.text = ""
        self.problem = ""
        self.over = False
        self.shell: Any = None
        self._wake: list[Deferred[None]] = []

    async def connect(self, host: str, port: int) -> Client:
        """Connect; :meth:`until` waits for what follows."""
        from twisted.internet import reactor

        self._transport = await ClientCreator(reactor, _Transport, self).connectTCP(host, port)
        return self

    def came(self, data: bytes) -> None:
        self.text += ESCAPES.sub(b"", data.replace(b"\x1bE", b"\n").replace(b"\r\n", b"\n")).decode()
        self._notify()

    def fail(self, problem: Any) -> None:
        self.problem = str(problem)
        self._notify()

    def ended(self) -> None:
        self.over = True
        self._notify()

    def _notify(self) -> None:
        wake, self._wake = self._wake, []
        for waiting in wake:
            waiting.callback(None)

    async def until(self, happened: Any) -> None:
        """Wait until that is true."""
        from twisted.internet import reactor

        while not happened():
            assert not self.over, (self.text, self.problem)
            turn: Deferred[None] = Deferred()
            self._wake.append(turn)
            await within(DEADLINE, turn, reactor, f"{self.text!r} is all that came; more")  # type: ignore[arg-type]

    async def prompted(self) -> str:
        """What came up to the next prompt."""
        await self.until(lambda: self.text.endswith(">>> "))
        text, self.text = self.text, ""
        return text.removesuffix(">>> ")

    async def ask(self, line: str) -> str:
        """Type a line; what it is answered with."""
        self.shell.write(line.encode() + b"\r")
        await self.until(lambda: "\n" in self.text)
        return (await self.prompted()).partition(line)[2].strip()

    def close(self) -> None:
        if not self.over:
            self._transport.transport.abortConnection()
