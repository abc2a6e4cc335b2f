"""One connection to Redis: commands go out at once and are answered in order, or it is given up.

txredisapi speaks the protocol: its :class:`HiredisProtocol` writes commands and has hiredis
read the replies, here without its own reconnecting, waiting and converting.  (Its other reader,
in Python, goes back to the reactor after every string of a reply: three times for each event
that is pushed.)  What it does not have is a deadline that costs nothing per command: replies
come in the order of the commands, so it is enough to look every half second how many of those
there were at earlier looks are answered by now.  One that is not after three looks means that
the link is dead, whether or not anybody closed it.

To be woken for an answer costs more than to read it, and keeps others on the same processor waiting.  Where nobody
hurries for one, the socket is left alone for a moment, and several are read at once.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from functools import cache
from typing import Any, NoReturn

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from flux.errors import Unavailable
from flux.net.eager import hurry

LOOK = 0.5
"""Seconds between two looks at what is unanswered."""

PATIENCE = 3
"""Looks that a command may stay unanswered: it takes 1.5 to 2 s until the connection is given up."""

LATER = 0.02
"""Seconds for which answers may be left unread that nobody hurries for."""

MOST_UNANSWERED = 20_000
"""Commands under way at once; more fail at once."""

Pushed = Callable[[bytes, bytes], None]

_REFUSALS = {
    "WRONGPASS": "it refuses the user or the password",
    "NOAUTH": "it wants a password",
    "NOPASS": "it has no password: leave out the one in state.url",
    "NOPERM": "its user has no right to this",
    "DENIED": "it is in protected mode and lets nobody in from another machine without a password",
    "READONLY": "it is a replica, which takes no writes; name the primary",
    "MASTERDOWN": "it is a replica without its primary; name the primary",
    "LOADING": "it is still loading its data; it serves in a moment",
    "OOM": "it is full: more memory is needed (maxmemory)",
    "MISCONF": "it cannot save to its disk and takes no writes until it can",
    "NOREPLICAS": "it has too few replicas to take writes",
    "BUSY": "a script has kept it busy for long",
}
_CODE = re.compile(rf"\b({'|'.join(_REFUSALS)})\b")

#: What a script may not is worded in other ways.
_IN_SCRIPT = re.compile("ACL failure in script|The user executing the script can't")

#: This has no code of its own.
_NO_PASSWORD = re.compile("AUTH <password> called without any password")

#: What only another connection can put right, perhaps one to another server.
_ELSEWHERE = {"NOAUTH", "READONLY", "MASTERDOWN", "LOADING"}


class Refused(Unavailable):
    """Redis answered with an error.

    :ivar kind: what it begins with: ``NOPERM``; empty for one that is not known.
    :ivar text: the whole of it.
    :ivar meaning: the same in words for people, without where that was.
    """

    def __init__(self, where: str, text: str) -> None:
        found = _CODE.search(_NO_PASSWORD.sub("NOPASS", _IN_SCRIPT.sub("NOPERM", text)))
        self.kind = found[1] if found else text.partition(" ")[0] if text[:2].isupper() else ""
        self.text = text
        self.meaning = f"{_REFUSALS[self.kind]} ({text})" if found else f"it says: {text}"
        super().__init__(f"Redis at {where}: {self.meaning}")


@cache
def _protocol() -> Any:
    # Importing txredisapi chooses the reactor, so not at the top.
    import txredisapi

    class Protocol(txredisapi.HiredisProtocol):  # type: ignore[misc]  # txredisapi has no types
        """Replies are counted, and what comes unasked goes its own way."""

        def __init__(self) -> None:
            super().__init__(charset=None, convertNumbers=False)
            self.answered = 0
            self.pushed: Pushed = lambda channel, payload: None
            self.gone: Callable[[Failure], None] = lambda reason: None
            self.garbled: Callable[[], None] = lambda: self.transport.abortConnection()

        def makeConnection(self, transport: Any) -> None:
            hurry(transport)
            super().makeConnection(transport)

        def dataReceived(self, data: bytes) -> None:
            try:
                super().dataReceived(data)
            except txredisapi.InvalidData:
                self.garbled()

        def replyReceived(self, reply: Any) -> None:  # noqa: N802
            if isinstance(reply, list) and reply and reply[0] == b"message":
                self.pushed(reply[1], reply[2])
            else:
                self.answered += 1
                super().replyReceived(reply)

        def connectionLost(self, why: Failure) -> None:
            self.gone(why)
            super().connectionLost(why)

    return Protocol


def make_protocol() -> Any:
    """What a :class:`Connection` is made of, to be connected by an endpoint."""
    return _protocol()()


class Connection:
    """A connected protocol.

    :param where: host and port, for errors.
    :param pushed: called with channel and payload of what was published to our subscriptions.
    :ivar lost: fires with None when the connection is gone; :attr:`reason` says why.
    """

    def __init__(self, protocol: Any, where: str, clock: IReactorTime) -> None:
        self.where = where
        self.lost: Deferred[None] = Deferred()
        self.reason = ""
        self._protocol = protocol
        self._clock = clock
        self._alive = bool(protocol.connected)
        self._sent = 0
        #: How many commands there were with the last whose answer is wanted at once.
        self._hurried = 0
        self._reading: IDelayedCall | None = None
        self._earlier: deque[int] = deque()
        self._idle = False
        protocol.gone = self._gone
        protocol.garbled = lambda: self.close("what it says is not the protocol of Redis")
        self._look: IDelayedCall | None = clock.callLater(LOOK, self._look_at_it) if self._alive else None
        if not self._alive:
            self._end("it closed the connection")

    @property
    def alive(self) -> bool:
        """Whether commands can be sent."""
        return self._alive

    @property
    def silent(self) -> bool:
        """Whether nothing was answered so far, on a connection that stands."""
        return not self._protocol.answered

    def on_push(self, pushed: Pushed) -> None:
        """From now on call ``pushed`` with channel and payload of what is published to our subscriptions."""
        self._protocol.pushed = pushed

    def command(self, *arguments: str | bytes | int, hurried: bool = True) -> Deferred[Any]:
        """Send a command; bulk replies are bytes.

        :param hurried: whether its answer is wanted as soon as it is there.
        :raises flux.errors.Unavailable: there is no answer, or it is an error (:class:`Refused`).
        """
        if not self._alive:
            return fail(Unavailable(f"Redis at {self.where}: {self.reason}"))
        if self._sent - self._protocol.answered >= MOST_UNANSWERED:
            return fail(Unavailable(f"Redis at {self.where}: too many commands are waiting for an answer"))
        self._sent += 1
        if hurried:
            self._hurried = self._sent
            self._read()
        elif self._reading is None and self._protocol.answered >= self._hurried:
            self._protocol.transport.pauseProducing()
            self._reading = self._clock.callLater(LATER, self._read_all)
        reply: Deferred[Any] = self._protocol.execute_command(*arguments)
        return reply.addErrback(self._failed)

    def close(self, reason: str) -> None:
        """Give the connection up: what is unanswered fails with ``reason``."""
        if self._alive:
            self._end(reason)
            self._protocol.transport.abortConnection()

    def _read_all(self) -> None:
        """Read the answers to all that was sent. Before that nothing is left alone again: the reactor looks at sockets
        later, and one of them may bring the next command."""
        self._hurried = self._sent
        self._read()

    def _read(self) -> None:
        """Read answers, and go on reading."""
        if self._reading is not None:
            if self._reading.active():
                self._reading.cancel()
            self._reading = None
            self._protocol.transport.resumeProducing()

    def _failed(self, failure: Failure) -> NoReturn:
        import txredisapi

        if failure.check(txredisapi.ResponseError):
            refused = Refused(self.where, str(failure.value))
            if refused.kind in _ELSEWHERE:
                self.close(refused.meaning)
            raise refused from None
        if failure.check(txredisapi.RedisError):
            raise Unavailable(f"Redis at {self.where}: {self.reason or failure.value}") from None
        failure.raiseException()

    def _look_at_it(self) -> None:
        self._look = self._clock.callLater(LOOK, self._look_at_it)
        answered = self._protocol.answered
        self._earlier.append(self._sent)
        if len(self._earlier) > PATIENCE and answered < self._earlier.popleft():
            self.close(f"it has not answered for {LOOK * PATIENCE:g} s")
        elif answered < self._sent:
            self._idle = False
        elif self._idle:
            self._idle = False
            # Nobody would notice otherwise that the link is dead.
            _ = self.command("PING").addErrback(lambda failure: None)
        else:
            self._idle = True

    def _gone(self, failure: Failure) -> None:
        if self._alive:
            self._end(_why(failure))

    def _end(self, reason: str) -> None:
        self._alive = False
        self.reason = reason
        self._protocol.pushed = lambda channel, payload: None
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        if self._look is not None:
            self._look.cancel()
            self._look = None
        self.lost.callback(None)


def _why(failure: Failure) -> str:
    """A lost connection in words for people."""
    from twisted.internet.error import ConnectionDone

    if failure.check(ConnectionDone):
        return "it closed the connection"
    text = failure.getErrorMessage()
    kind: Any = failure.type
    if "certificate verify failed" in text:
        return "its certificate is not signed by anybody we trust; state.ca names whom to trust"
    if kind.__name__ == "VerificationError":
        return "its certificate is for another host"
    if kind.__module__.startswith("OpenSSL"):
        return f"TLS fails: {text}"
    return text.rstrip(".") or str(kind.__name__)
