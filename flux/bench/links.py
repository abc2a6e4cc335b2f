"""A TCP link that can be broken: a proxy in front of a server on this machine.

::

    passing      bytes go through
    cut          every connection was reset, new ones are refused
    swallowing   nothing gets through in either direction, and nobody is told: a cable that was pulled.
                 When the link is whole again, what was sent meanwhile arrives late, as TCP would bring it,
                 unless an end has given up; the other end then learns that, late as well
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IConsumer, IListeningPort, IPushProducer, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from flux.bench.servers import free_port
from flux.lifecycle import Tasks, insulated, sleep


class _Transport(ITCPTransport, IPushProducer, IConsumer):
    """What a TCP connection offers a protocol."""


@implementer(IPushProducer)
class _End(Protocol):
    """One end of a connection through the link; it stops reading when the other end does not keep up.

    :param arrived: told of it once it is connected.
    """

    transport: _Transport

    def __init__(self, link: Link, arrived: Callable[[_End], None] | None = None) -> None:
        self._link = link
        self._arrived = arrived
        self._other: _End | None = None
        self._full = False

    def connectionMade(self) -> None:
        self._link.ends.add(self)
        self.transport.setTcpNoDelay(True)
        self.update()
        if self._arrived is not None:
            self._arrived(self)

    def join(self, other: _End) -> None:
        """Begin to carry bytes between this end and ``other``."""
        for one, another in ((self, other), (other, self)):
            one._other = another
            one.transport.registerProducer(another, True)
            one.update()

    def update(self) -> None:
        """Read, or do not."""
        if self._other is None or self._full or self._link.swallowing:
            self.transport.pauseProducing()
        else:
            self.transport.resumeProducing()

    def dataReceived(self, data: bytes) -> None:
        assert self._other is not None
        self._other.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._link.ends.discard(self)
        if self._other is not None:
            self._other.transport.unregisterProducer()
            self._other.transport.loseConnection()

    # what the other end's transport calls

    def pauseProducing(self) -> None:
        self._full = True
        self.update()

    def resumeProducing(self) -> None:
        self._full = False
        self.update()

    def stopProducing(self) -> None:
        """The other end is gone; its ``connectionLost`` says so too."""


class Link(Factory):
    """A way to ``127.0.0.1:port``.

    :ivar port: where the way begins, on 127.0.0.1.
    :ivar swallowing: whether nothing gets through.
    :ivar ends: of the connections that are open.
    """

    noisy = False
    _log = Logger()

    def __init__(self, reactor: Any, port: int) -> None:
        self.port = free_port()
        self.swallowing = False
        self.ends: set[_End] = set()
        self._reactor = reactor
        self._target = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        self._listening: IListeningPort | None = None
        self._waiting: list[_End] = []
        self._tasks = Tasks(self._log, self._reactor)

    async def open(self) -> None:
        """Let connections through. Does nothing where they are."""
        self.swallowing = False
        for end in list(self.ends):
            end.update()
        waiting, self._waiting = self._waiting, []
        for near in waiting:
            self._tasks.spawn(self._reach(near), "reaching the server")
        if self._listening is None:
            self._listening = self._reactor.listenTCP(self.port, self, interface="127.0.0.1")

    async def swallow(self) -> None:
        """Let nothing through, and tell nobody."""
        self.swallowing = True
        for end in list(self.ends):
            end.update()

    async def cut(self) -> None:
        """Reset all connections and refuse new ones; returns when that is so."""
        port, self._listening = self._listening, None
        if port is not None:
            await maybeDeferred(port.stopListening)
        for end in list(self.ends):
            end.transport.abortConnection()
        self._waiting.clear()

    def lose_one(self, rng: random.Random) -> None:
        """Reset a connection, where there is one and what happens is told."""
        if self.ends and not self.swallowing:
            rng.choice(list(self.ends)).transport.abortConnection()

    async def close(self) -> None:
        """Cut, and leave nothing in the reactor. It can be opened again."""
        await self.cut()
        await self._tasks.stop()
        self._tasks = Tasks(self._log, self._reactor)
        await sleep(0, self._reactor)

    def buildProtocol(self, addr: object) -> _End:
        return _End(self, self._arrived)

    def _arrived(self, near: _End) -> None:
        if self.swallowing:
            self._waiting.append(near)
        else:
            self._tasks.spawn(self._reach(near), "reaching the server")

    async def _reach(self, near: _End) -> None:
        """Connect one that has come to the server."""
        try:
            far = await insulated(connectProtocol(self._target, _End(self)))
        except ConnectError as problem:
            self._log.debug("the server cannot be reached: {problem}", problem=problem)
            near.transport.abortConnection()
            return
        if near in self.ends:
            near.join(far)
        else:
            far.transport.abortConnection()
