"""One connection of a gate to a status service: requests are matched to replies, and one without a reply ends it."""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from flux import errors
from flux.errors import FluxError, Unavailable
from flux.lifecycle import DeadlineExceeded, within
from flux.net.connection import Gather
from flux.net.lines import LineProtocol
from flux.wire.catalogue import ErrorReply, Reply, Request
from flux.wire.named import MAX_REPLY
from flux.wire.replies import PingOk
from flux.wire.status import AuthOk, GetChatServersOk, StatusPing

ANSWER_WITHIN = 2.5
"""Seconds one service has to answer, so that another can still be asked: it has deadlines of 2 s itself."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(AuthOk | GetChatServersOk | PingOk | ErrorReply).decode
_ERRORS = {
    error.name: error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, FluxError)
}


class Lost(Exception):
    """The connection ended, or never was; the text says why."""


class StatusConnection(LineProtocol):
    """One connection to a status service: requests matched to replies by ``ref``.

    :ivar outstanding: accounts whose assignment it is to bring.
    :ivar gone: fires with a sentence when the connection has ended.
    """

    log = Logger()

    def __init__(self, conn: str, clock: Any) -> None:
        super().__init__(conn, Gather(), MAX_REPLY, clock)
        self.outstanding = 0
        self.gone: Deferred[str] = Deferred()
        self._refs = itertools.count(1)
        self._waiting: dict[int, Deferred[Reply]] = {}
        self._why = ""

    async def ask(self, request: Request) -> Reply:
        """The reply to ``request``.

        :raises flux.errors.FluxError: the service's own.
        :raises Lost: the connection ended, or no answer came in time, and so it was ended.
        """
        if self.closed:
            raise Lost("the connection has ended")
        ref = request.ref = next(self._refs)
        answer = self._waiting[ref] = Deferred()
        self.write(_encode(request) + b"\n")
        try:
            reply = await within(ANSWER_WITHIN, answer, self._clock, "the status service")
        except DeadlineExceeded as late:
            self.end(str(late))
            raise Lost(str(late)) from None
        finally:
            self._waiting.pop(ref, None)
        if isinstance(reply, ErrorReply):
            raise _as_exception(reply)
        return reply

    async def sign_of_life(self) -> None:
        """Return when the service has said anything to a ping.

        :raises Lost: it has not.
        """
        with suppress(FluxError):
            await self.ask(StatusPing())

    def end(self, why: str) -> None:
        """Cut the connection."""
        self._why = self._why or why
        self.abort()

    def line_received(self, line: bytes) -> None:
        """A reply."""
        try:
            reply = _decode(line)
        except (ValueError, RecursionError) as problem:
            self.end(f"what it says makes no sense: {problem}")
            return
        waiting = self._waiting.pop(reply.ref, None) if isinstance(reply.ref, int) else None
        if waiting is not None:
            waiting.callback(reply)
        elif isinstance(reply, ErrorReply):
            self.end(f"{reply.name}: {reply.detail}")

    def line_too_long(self) -> None:
        """No reply is that long."""
        self.end("it sends lines that are too long")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Nobody gets an answer here any more."""
        super().connectionLost(reason)
        why = self._why or "it closed the connection"
        waiting, self._waiting = list(self._waiting.values()), {}
        for answer in waiting:
            answer.errback(Lost(why))
        self.gone.callback(why)


def _as_exception(reply: ErrorReply) -> FluxError:
    kind = _ERRORS.get(reply.name)
    if kind is None or kind is FluxError:
        return Unavailable(f"the status service answered {reply.name}")
    return kind(reply.detail)
