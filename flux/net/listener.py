"""A listening port from an endpoint string: opened here, or handed over by who started this process."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.logger import Logger

from flux.addresses import HostPort
from flux.lifecycle import CannotStart


class Listener:
    """A port.

    :param key: the setting, for errors: "chat.listen".
    :param description: a Twisted server endpoint.
    :param inherited: the descriptor of a listening socket, which is used instead of a new one; what else
        ``description`` says (TLS, PROXY headers) holds.
    :ivar port: what listens, once it does.
    """

    log = Logger()

    def __init__(
        self, key: str, description: str, factory: IProtocolFactory, reactor: Any, inherited: int | None = None
    ) -> None:
        self._key = key
        self._description = description
        self._factory = factory
        self._reactor = reactor if inherited is None else _Adopting(reactor, inherited)
        self.port: IListeningPort | None = None

    async def start(self) -> None:
        """:raises flux.lifecycle.CannotStart: the address is taken, or not ours."""
        try:
            self.port = await serverFromString(self._reactor, self._description).listen(self._factory)
        except Exception as error:
            problem = f"{self._key} = {self._description}: {error}"
            if isinstance(error, CannotListenError) and getattr(error.socketError, "errno", 0) == errno.EADDRINUSE:
                problem += f" Is the server running already? Stop it, or choose another {self._key}."
            elif lock := _lock(error):
                problem += f" {lock} Is that the server? Stop it. If it is another process, remove the file."
            raise CannotStart(problem) from error
        self.log.info("{key} listens on {where}", key=self._key, where=self.where())

    async def stop(self) -> None:
        """Accept nothing any more."""
        port, self.port = self.port, None
        if port is not None:
            await maybeDeferred(port.stopListening)

    def address(self) -> HostPort:
        """Host and port in numbers; a UNIX socket has port 0."""
        assert self.port is not None
        address: Any = self.port.getHost()
        return HostPort(getattr(address, "host", "localhost"), getattr(address, "port", 0))

    def where(self) -> str:
        """The same for people, who are told the path of a UNIX socket."""
        assert self.port is not None
        address: Any = self.port.getHost()
        return str(self.address()) if not self.is_unix() else address.name.decode(errors="replace")

    def is_unix(self) -> bool:
        """Whether it listens on a UNIX socket."""
        assert self.port is not None
        return isinstance(self.port.getHost(), UNIXAddress)


def _lock(error: Exception) -> str:
    """Whose the lock beside a UNIX socket is, if that is why nobody can listen there; else empty."""
    if isinstance(error, CannotListenError) and error.socketError == "Cannot acquire lock":
        lock = f"{os.fsdecode(error.port)}.lock"
        with contextlib.suppress(OSError):  # it is given back at this moment
            return f"{lock} is of process {os.readlink(lock)}."
    # Of the calls that are made, only the signal that looks whether its process lives fails like this.
    if isinstance(error, PermissionError) and error.errno == errno.EPERM:
        return "The file beside the socket whose name ends in .lock is of another user's process."
    return ""


class _Adopting:
    """A reactor for an endpoint to listen with, whose TCP port is one that listens already."""

    def __init__(self, reactor: Any, descriptor: int) -> None:
        self._reactor = reactor
        self._descriptor = descriptor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(  # noqa: N802 - Twisted's name
        self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> Any:
        with socket.socket(fileno=self._descriptor) as handed_over:
            # It makes a descriptor of its own.
            handed_over.setblocking(False)
            return self._reactor.adoptStreamPort(handed_over.fileno(), handed_over.family, factory)

    def listenSSL(  # noqa: N802 - Twisted's name
        self,
        port: int,
        factory: IProtocolFactory,
        contextFactory: Any,  # noqa: N803 - Twisted's name
        backlog: int = 50,
        interface: str = "",
    ) -> Any:
        from twisted.protocols.tls import TLSMemoryBIOFactory

        return self.listenTCP(port, TLSMemoryBIOFactory(contextFactory, False, factory), backlog, interface)
