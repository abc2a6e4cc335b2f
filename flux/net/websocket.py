"""WebSocket (RFC 6455) as a framing of lines: a line is a text message, without its terminator.

::

    socket -> [raw] -> ServerProtocol -> messages -> [backlog] -> line_received()      reading
    write() -> a frame per line, large ones deflated -> socket                         writing

The protocol itself (handshake, masking, fragments, deflate, limits) is the sans-I/O
part of the ``websockets`` library.  What is added here is what a server needs so that
no client costs it more than a client of the line protocol does: bytes are handed to
the library in small pieces, only when the messages before have been worked on, so that
what a few bytes inflate to does not pile up; control frames and fragments are counted.

At the end each side says goodbye.  After ours nothing more is looked at: the connection
is half closed, and the peer is heard out until it closes as well.  As with
:meth:`flux.net.connection.Connection.hang_up`, who owns the connections sees to it that
this takes an end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import ClassVar

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from websockets.extensions import Extension, ServerExtensionFactory
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import Event, State
from websockets.server import ServerProtocol
from websockets.typing import ExtensionName, ExtensionParameter

from flux.net.connection import NORMAL, POLICY_VIOLATION, Connection, Gather

#: Close codes of RFC 6455, section 7.4.1, that only this framing has a use for.
UNSUPPORTED_DATA = 1003
INVALID_DATA = 1007

PIECE = 4096
"""Bytes handed to the library at once."""

INFLATED_PER_TURN = 256 * 1024
"""Bytes of messages after which a connection waits for the reactor's next turn: what deflate makes of little input
would otherwise keep everybody waiting."""

MAX_FRAGMENTS = 256
"""Fragments of one message."""

MAX_CONTROLS = 100
"""Pings, pongs and empty fragments in one second."""

DEFLATED = range(1024, 64 * 1024)
"""Sizes of lines that are deflated: smaller ones gain nothing without a context that is kept, and larger ones would
stop everybody for too long."""


class _ToTwisted(logging.Handler):
    """Brings what the library logs, which are its own bugs, into the log of the process."""

    log = Logger(namespace="websockets")

    def emit(self, record: logging.LogRecord) -> None:
        self.log.error("{text}", text=self.format(record))


_logger = logging.Logger("websockets", logging.ERROR)
_logger.addHandler(_ToTwisted())


class _Deflate(Extension):
    """Per-message deflate that leaves alone what is not in ``DEFLATED``."""

    name = ExtensionName("permessage-deflate")

    def __init__(self, deflate: PerMessageDeflate) -> None:
        self.bits = deflate.local_max_window_bits
        self._deflate = deflate

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        return self._deflate.decode(frame, max_size=max_size)

    def encode(self, frame: Frame) -> Frame:
        return self._deflate.encode(frame) if len(frame.data) in DEFLATED else frame


class _OfferDeflate(ServerExtensionFactory):
    """Agrees to per-message deflate without contexts: with them a connection would keep 300 kB, not 5."""

    name = _Deflate.name

    def __init__(self) -> None:
        self._factory = ServerPerMessageDeflateFactory(
            server_no_context_takeover=True,
            client_no_context_takeover=True,
            compress_settings={"level": 1},
        )

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], Extension]:
        agreed, deflate = self._factory.process_request_params(params, accepted_extensions)
        return agreed, _Deflate(deflate)


_EXTENSIONS = (_OfferDeflate(),)


class WebSocketProtocol(Connection):
    """The server's side of a WebSocket connection whose messages are lines of text.

    First :meth:`handshake`, then, if that says 101, ``makeConnection``.
    """

    #: The last lines written and their frames: what goes to many is framed and deflated once.
    _framed: ClassVar[tuple[bytes, int, bytes]] = (b"", 0, b"")

    def __init__(self, conn: str, gather: Gather, max_line: int, clock: IReactorTime) -> None:
        super().__init__(conn, gather, max_line, clock)
        self._raw = bytearray()
        self._parts: list[bytes] = []
        self._fragments = 0
        self._failed = False
        self._inflated = 0
        self._controls = 0
        self._controls_since = 0.0

    def handshake(self, head: bytes) -> Response:
        """Answer a client's handshake.

        :param head: the request, from its first line to the empty one.
        :return: 101, which is then sent by ``connectionMade``; anything else refuses, and is for the caller to send.
        """
        self._ws = ws = ServerProtocol(extensions=_EXTENSIONS, max_size=self.max_line, logger=_logger)
        ws.receive_data(head)
        requests = ws.events_received()
        if not requests:
            return ws.reject(400, "not a request that could be understood\n")
        assert isinstance(requests[0], Request)
        response = ws.accept(requests[0])
        ws.send_response(response)
        self._bits = next((extension.bits for extension in ws.extensions if isinstance(extension, _Deflate)), 0)
        return response

    # --- Twisted's side ---

    def connectionMade(self) -> None:
        """Answer the handshake; from now on lines may come and go."""
        super().connectionMade()
        self._flush_protocol()

    def dataReceived(self, data: bytes) -> None:
        """Work on the messages whose turn has come."""
        if self.closed:
            return
        self.heard = True
        self.probed = False
        self._raw += data
        self._uncut = True
        if self._held or self._backlog:
            self._queue(())
        else:
            self._inflated = 0
            self._work(())

    # --- reading ---

    def cut(self) -> Iterable[bytes]:
        """The messages in the next piece of what has arrived; the end, when nothing before it waits any more."""
        if self._ws.state is not State.OPEN:
            self._uncut = False
            self._over()
            return ()
        piece = bytes(self._raw[:PIECE])
        del self._raw[:PIECE]
        self._ws.receive_data(piece)
        lines = self._messages(self._ws.events_received())
        if self._ws.state is State.OPEN:
            self._flush_protocol()
            self._uncut = bool(self._raw)
        if self._inflated > INFLATED_PER_TURN and self._uncut:
            self._inflated = 0
            self.end_turn()
        return lines

    def _messages(self, events: Iterable[Event]) -> list[bytes]:
        """The messages that ``events`` complete; a client that breaks a rule is failed."""
        lines = []
        for frame in events:
            if self._failed:
                break
            assert isinstance(frame, Frame)
            size = len(frame.data)
            self._inflated += size
            if frame.opcode in (Opcode.PING, Opcode.PONG) or not (size or frame.fin):
                self._count_control()
            if frame.opcode is Opcode.BINARY:
                self._fail(UNSUPPORTED_DATA, "only text messages")
            elif frame.opcode in (Opcode.TEXT, Opcode.CONT):
                line = self._assemble(frame)
                if line is not None:
                    lines.append(line)
        return lines

    def _assemble(self, frame: Frame) -> bytes | None:
        """The message that ``frame`` completes, if it does."""
        line = bytes(frame.data)
        if not frame.fin or self._fragments:
            self._fragments += 1
            if line:
                self._parts.append(line)
            if self._fragments > MAX_FRAGMENTS:
                self._fail(POLICY_VIOLATION, f"more than {MAX_FRAGMENTS} fragments")
            if self._failed or not frame.fin:
                return None
            line = b"".join(self._parts)
            self._parts.clear()
            self._fragments = 0
        if not line.isascii():
            try:
                line.decode()
            except UnicodeDecodeError:
                self._fail(INVALID_DATA, "not UTF-8")
                return None
        return line

    def _count_control(self) -> None:
        now = self._clock.seconds()
        if now - self._controls_since >= 1:
            self._controls_since = now
            self._controls = 0
        self._controls += 1
        if self._controls > MAX_CONTROLS:
            self._fail(POLICY_VIOLATION, f"more than {MAX_CONTROLS} control frames or empty fragments in a second")

    def _fail(self, code: int, reason: str) -> None:
        self._failed = True
        if self._ws.state is State.OPEN:
            self._ws.fail(code, reason)

    def _over(self) -> None:
        """The peer has said goodbye, or has broken a rule."""
        goodbye, ours = self._ws.close_rcvd, self._ws.close_sent
        if ours is not None and ours is not goodbye:
            self.log.warn(
                "a WebSocket client broke a rule, closed: {code} {reason}",
                code=int(ours.code), reason=ours.reason, conn=self.conn,
            )  # fmt: skip
            self.broke_rule()
        else:
            self.farewell()
        self.close()

    def broke_rule(self) -> None:
        """The peer has broken a rule of WebSocket, and is closed."""

    # --- writing ---

    def write(self, line: bytes) -> None:
        """Write whole lines, each as a message of its own."""
        if not self.closed:
            super().write(self._frames(line))

    def _frames(self, lines: bytes) -> bytes:
        framed, bits, frames = WebSocketProtocol._framed
        if lines is framed and bits == self._bits:
            return frames
        frames = b"".join([self._frame(line) for line in lines.split(b"\n") if line])
        WebSocketProtocol._framed = (lines, self._bits, frames)
        return frames

    def _frame(self, line: bytes) -> bytes:
        if self._bits and len(line) in DEFLATED and self._ws.state is State.OPEN:
            self._ws.send_text(line)
            return b"".join(self._ws.data_to_send())
        return text_frame(line)

    def _flush_protocol(self) -> None:
        """Write what the library has to say: the answer to the handshake, pings and pongs."""
        data = b"".join(self._ws.data_to_send())
        if data:
            super().write(data)

    def probe(self) -> None:
        """Ping."""
        if not self.closed and self._ws.state is State.OPEN:
            self._ws.send_ping(b"")
            self._flush_protocol()
            self.probed = True

    # --- ending ---

    def close(self, code: int = NORMAL) -> None:
        """Say goodbye, after what was written; then hear the peer out."""
        if not self.closed:
            if self._ws.state is State.OPEN:
                self._ws.send_close(code)
            self._end()
            transport = self.transport
            assert transport is not None
            transport.write(b"".join(self._ws.data_to_send()))
            if self._ws.close_rcvd is None:
                self._half_close()
            else:
                transport.loseConnection()

    def hang_up(self, code: int = NORMAL) -> None:
        """The same: the closing handshake hears the peer out."""
        self.close(code)

    def _end(self) -> None:
        super()._end()
        self._raw.clear()
        self._parts.clear()


def text_frame(line: bytes) -> bytes:
    """An unmasked text message in one frame, ten times as fast as the library makes it: most of what is written."""
    size = len(line)
    if size < 126:
        return b"\x81%c%b" % (size, line)
    if size < 65536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), line)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), line)
