"""WebSocket frames, good and bad, on transports in memory: the messages they carry, or the code that ends it."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from websocket_client import HEAD, Peer, frame
from websockets.protocol import State

from flux.net.connection import BUSY, POLICY_VIOLATION, Gather
from flux.net.websocket import DEFLATED, INFLATED_PER_TURN, MAX_CONTROLS, MAX_FRAGMENTS, PIECE, WebSocketProtocol

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MAX_LINE = 8192


class Transport(StringTransport):
    """A socket that remembers what was done to it."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


class Turns(Clock):
    """A clock that counts what waits for a turn of the reactor."""

    count = 0

    def callLater(self, when: float, what: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N802
        self.count += 1
        return super().callLater(when, what, *args, **kwargs)


class Server(WebSocketProtocol):
    """A server's side that keeps the lines that come.

    :ivar farewells: how often the peer was found to say goodbye.
    """

    def __init__(self, max_line: int = MAX_LINE) -> None:
        self.turns = Turns()
        super().__init__("w1", Gather(), max_line, self.turns)
        self.lines: list[bytes] = []
        self.farewells = 0

    def line_received(self, line: bytes) -> None:
        assert not self.closed
        self.lines.append(line)

    def farewell(self) -> None:
        self.farewells += 1


class Pair:
    """A server's side and a client that knows the rules, connected."""

    def __init__(self, deflate: bool = False, server: Server | None = None) -> None:
        self.server = server or Server()
        self.clock = self.server.turns
        self.peer = Peer(deflate)
        response = self.server.handshake(self.peer.sent())
        assert response.status_code == 101
        self.transport = Transport()
        self.server.makeConnection(self.transport)
        self.exchange()

    def exchange(self) -> None:
        """The peer reads what the server has written."""
        data = self.transport.value()
        self.transport.clear()
        self.peer.receive(data)

    def feed(self, data: bytes, sizes: Iterable[int] = ()) -> None:
        """The server receives ``data`` in chunks of ``sizes``, and the rest in one."""
        for size in sizes:
            self.server.dataReceived(data[:size])
            data = data[size:]
            if not data:
                break
        if data:
            self.server.dataReceived(data)
        self.settle()

    def settle(self) -> None:
        """Turns of the reactor until nothing waits for one."""
        while self.clock.getDelayedCalls():
            self.clock.advance(0)
        self.exchange()


CHUNKS = st.lists(st.integers(1, 300), max_size=40)


# --- what is allowed ---------------------------------------------------------


@given(st.lists(st.text(max_size=3000), max_size=8), CHUNKS, st.booleans())
def test_messages_arrive_whole_and_in_order_whatever_the_chunks(
    texts: list[str], sizes: list[int], deflate: bool
) -> None:
    pair = Pair(deflate)
    pair.feed(b"".join(pair.peer.text(text.encode()) for text in texts), sizes)
    assert pair.server.lines == [text.encode() for text in texts]
    assert pair.peer.code is None


@given(st.text(max_size=500), st.lists(st.integers(0, 500), max_size=6), CHUNKS, st.booleans())
def test_fragments_make_one_message_with_pings_between(
    text: str, cuts: list[int], sizes: list[int], deflate: bool
) -> None:
    """The cuts are anywhere, inside of characters too."""
    pair = Pair(deflate)
    payload = text.encode()
    cuts = [0, *sorted(min(cut, len(payload)) for cut in cuts), len(payload)]
    data = b""
    for number in range(len(cuts) - 1):
        part, fin = payload[cuts[number] : cuts[number + 1]], number == len(cuts) - 2
        send = pair.peer.protocol.send_continuation if number else pair.peer.protocol.send_text
        send(part, fin)
        data += pair.peer.sent() + frame(PING, b"%d" % number)
    pair.feed(data, sizes)
    assert pair.server.lines == [payload]
    assert pair.peer.protocol.state is State.OPEN


@given(st.lists(st.binary(min_size=1, max_size=4000).map(bytes.hex), min_size=1, max_size=6), st.booleans())
def test_lines_are_written_as_messages(texts: list[str], deflate: bool) -> None:
    pair = Pair(deflate)
    lines = [text.encode() for text in texts]
    for line in lines:
        pair.server.write(line + b"\n")
    pair.server.write(b"".join(line + b"\n" for line in lines))
    pair.exchange()
    assert pair.peer.texts == lines * 2


def test_large_lines_are_deflated_for_who_has_asked() -> None:
    line = b"abc " * (DEFLATED.start // 4)
    sizes = []
    for deflate in (True, False):
        pair = Pair(deflate)
        pair.server.write(line + b"\n")
        sizes.append(len(pair.transport.value()))
        pair.exchange()
        assert pair.peer.texts == [line]
    assert sizes[0] < 100 < len(line) < sizes[1]


def test_what_goes_to_many_is_framed_for_each_in_its_way() -> None:
    line = b"abc " * 1000 + b"\n"
    pairs = [Pair(deflate) for deflate in (True, False, True, False)]
    for pair in pairs:
        pair.server.write(line)
    for pair in pairs:
        pair.exchange()
        assert pair.peer.texts == [line[:-1]]


def test_pings_are_answered() -> None:
    pair = Pair()
    pair.peer.protocol.send_ping(b"here?")
    pair.feed(pair.peer.sent())
    assert pair.transport.value() == b""
    pair.server.dataReceived(frame(PING, b"here?"))
    assert pair.transport.value() == b"\x8a\x05here?"


def test_a_probe_is_a_ping_and_its_answer_a_sign_of_life() -> None:
    pair = Pair()
    pair.server.probe()
    assert pair.server.probed
    pair.exchange()
    assert pair.peer.pings == 1
    pair.server.heard = False
    pair.feed(pair.peer.sent())
    assert pair.server.heard
    assert not pair.server.probed


# --- what is not -------------------------------------------------------------


def bomb(size: int) -> bytes:
    """A message that inflates to ``size`` bytes."""
    deflate = zlib.compressobj(wbits=-15)
    data = deflate.compress(b" " * size) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return frame(TEXT, data[:-4], rsv=4)


BAD: dict[str, tuple[int, bytes]] = {
    "without a mask": (1002, frame(TEXT, b"x", mask=None)),
    "a ping without a mask": (1002, frame(PING, b"", mask=None)),
    "binary": (1003, frame(BINARY, b"x")),
    "an empty binary": (1003, frame(BINARY)),
    "the beginning of a binary": (1003, frame(BINARY, b"x", fin=False)),
    "an opcode for data that does not exist": (1002, frame(3, b"x")),
    "an opcode for control that does not exist": (1002, frame(11)),
    "a reserved bit": (1002, frame(TEXT, b"x", rsv=2)),
    "a compressed message that was not agreed on": (1002, frame(TEXT, b"x", rsv=4)),
    "a ping in fragments": (1002, frame(PING, b"x", fin=False)),
    "a long ping": (1002, frame(PING, b"x" * 126)),
    "a fragment of nothing": (1002, frame(CONT, b"x")),
    "a message within a message": (1002, frame(TEXT, b"x", fin=False) + frame(TEXT, b"y")),
    "a goodbye within a message": (1002, frame(TEXT, b"x", fin=False) + frame(CLOSE)),
    "a goodbye of one byte": (1002, frame(CLOSE, b"x")),
    "a goodbye with a code that does not exist": (1002, frame(CLOSE, b"\x00\x07")),
    "a goodbye with a code that is not for the wire": (1002, frame(CLOSE, b"\x03\xee")),
    "a goodbye that is not UTF-8": (1007, frame(CLOSE, b"\x03\xe8\xff")),
    "not UTF-8": (1007, frame(TEXT, b"\xff\xfe")),
    "half a character": (1007, frame(TEXT, b"\xc3")),
    "a surrogate": (1007, frame(TEXT, "\ud800".encode("utf-8", "surrogatepass"))),
    "not UTF-8, in fragments": (1007, frame(TEXT, b"\xc3", fin=False) + frame(CONT, b"x")),
    "too long": (1009, frame(TEXT, b"x" * (MAX_LINE + 1))),
    "too long, only claimed": (1009, frame(TEXT, size=MAX_LINE + 1)),
    "2 to the 63": (1009, frame(TEXT, size=2**63)),
    "too long in the end": (1009, frame(TEXT, b"x" * MAX_LINE, fin=False) + frame(CONT, b"x")),
    "too long in many fragments": (1009, frame(TEXT, b"x" * 99, fin=False) + frame(CONT, b"x" * 99, fin=False) * 99),
    "too many fragments": (1008, frame(TEXT, b"x", fin=False) + frame(CONT, b"x", fin=False) * MAX_FRAGMENTS),
    "too many empty fragments": (1008, frame(TEXT, b"x", fin=False) + frame(CONT, fin=False) * MAX_FRAGMENTS),
    "too many pings": (1008, frame(PING) * (MAX_CONTROLS + 1)),
    "too many pongs": (1008, frame(PONG) * (MAX_CONTROLS + 1)),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("size", [1, 7, 1_000_000])
def test_a_broken_rule_ends_it_with_its_code(name: str, size: int) -> None:
    code, data = BAD[name]
    pair = Pair()
    before, after = frame(TEXT, b'"before"'), frame(TEXT, b'"after"')
    pair.feed(before + data, [size] * len(data + before))
    assert pair.peer.code == code
    assert pair.server.lines == [b'"before"']
    assert pair.server.closed
    assert pair.server.farewells == 0
    # It is heard out, so that the code arrives, and nothing of it is worked on.
    pair.feed(after)
    assert pair.server.lines == [b'"before"']


@pytest.mark.parametrize("size", [MAX_LINE, MAX_LINE + 1, 10_000_000])
def test_what_inflates_beyond_the_limit_is_too_long(size: int) -> None:
    pair = Pair(deflate=True)
    pair.feed(bomb(size))
    assert pair.peer.code == (None if size <= MAX_LINE else 1009)
    assert [len(line) for line in pair.server.lines] == ([size] if size <= MAX_LINE else [])


def test_fragments_that_inflate_beyond_the_limit_are_too_long() -> None:
    pair = Pair(deflate=True)
    pair.peer.protocol.send_text(b" " * MAX_LINE, False)
    pair.peer.protocol.send_continuation(b" ", True)
    pair.feed(pair.peer.sent())
    assert pair.peer.code == 1009


def test_what_is_not_deflate_is_a_broken_rule() -> None:
    pair = Pair(deflate=True)
    pair.feed(frame(TEXT, b"\xff\xff\xff", rsv=4))
    assert pair.peer.code == 1002


def test_a_second_is_long_enough_for_a_few_pings() -> None:
    pair = Pair()
    for _ in range(3):
        pair.feed(frame(PING) * MAX_CONTROLS)
        pair.clock.advance(1)
    assert pair.peer.code is None


# --- pressure ----------------------------------------------------------------


def test_what_waits_is_not_inflated() -> None:
    """While a request is answered, the next ones wait as small as they came."""
    pair = Pair(deflate=True)
    piece = bomb(MAX_LINE)
    pair.server.hold(BUSY)
    pair.server.dataReceived(piece * 2000)
    assert pair.server.lines == []
    assert pair.transport.producerState == "paused"
    assert pair.server._backlog is not None
    assert not pair.server._backlog
    pair.server.release(BUSY)
    pair.settle()
    assert len(pair.server.lines) == 2000
    assert pair.transport.producerState == "producing"


class OneAtATime(Server):
    """Each line has to wait until the one before has been answered."""

    def line_received(self, line: bytes) -> None:
        super().line_received(line)
        self.hold(BUSY)


def test_a_line_that_makes_the_others_wait_keeps_few_of_them_inflated() -> None:
    pair = Pair(deflate=True, server=OneAtATime())
    piece = bomb(MAX_LINE)
    pair.server.dataReceived(piece * 2000)
    largest = 0
    while len(pair.server.lines) < 2000:
        largest = max(largest, len(pair.server._backlog or ()))
        pair.server.release(BUSY)
        if pair.clock.getDelayedCalls():
            pair.clock.advance(0)
    assert largest <= PIECE // len(piece) + 1


def test_what_little_inflates_to_takes_turns_with_others() -> None:
    pair = Pair(deflate=True)
    data = bomb(MAX_LINE)
    pair.server.dataReceived(data * 1000)
    assert len(pair.server.lines) == 1
    pair.settle()
    assert len(pair.server.lines) == 1000
    at_once = max(INFLATED_PER_TURN, PIECE // len(data) * MAX_LINE)
    assert pair.clock.count >= 1000 * MAX_LINE // at_once - 1 > 2


def test_nothing_is_worked_on_after_the_connection_was_lost() -> None:
    from twisted.internet.error import ConnectionLost
    from twisted.python.failure import Failure

    pair = Pair(deflate=True)
    pair.server.dataReceived(bomb(MAX_LINE) * 1000)
    done = len(pair.server.lines)
    pair.server.connectionLost(Failure(ConnectionLost()))
    while pair.clock.getDelayedCalls():
        pair.clock.advance(0)
    assert len(pair.server.lines) == done < 1000


# --- the end -----------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x03\xe9bye", b"\x0f\xa0"])
def test_a_goodbye_is_answered_after_what_came_before_it(payload: bytes) -> None:
    pair = Pair(server=OneAtATime())
    pair.feed(frame(TEXT, b"1") + frame(TEXT, b"2") + frame(CLOSE, payload) + frame(TEXT, b"3"))
    assert pair.server.lines == [b"1"]
    pair.server.release(BUSY)
    assert not pair.server.closed
    pair.server.write(b"answer\n")
    pair.server.release(BUSY)
    assert pair.server.lines == [b"1", b"2"]
    assert pair.server.farewells == 1
    assert pair.server.closed
    assert pair.transport.disconnecting
    assert pair.transport.value() == b"\x81\x06answer" + bytes([0x88, len(payload)]) + payload


def test_our_goodbye_comes_after_what_was_written_and_is_the_last() -> None:
    pair = Pair()
    pair.server.write(b"last\n")
    pair.server.close(POLICY_VIOLATION)
    pair.server.write(b"too late\n")
    pair.server.probe()
    pair.server.close()
    assert pair.transport.value() == b"\x81\x04last\x88\x02\x03\xf0"
    assert pair.transport.producer is None
    pair.feed(frame(TEXT, b"x") * 100 + frame(CLOSE, b"\x03\xf0") + b"\xff" * 100)
    assert pair.server.lines == []


# --- anything ----------------------------------------------------------------


class Said(NamedTuple):
    """A frame that a client without manners sends."""

    opcode: int
    payload: bytes
    fin: bool
    rsv: int
    masked: bool

    def encoded(self) -> bytes:
        mask = b"\xa5\x5a\x00\xff" if self.masked else None
        return frame(self.opcode, self.payload, fin=self.fin, rsv=self.rsv, mask=mask)


PAYLOADS = st.sampled_from(
    [b"", b"x", b'{"type":"ping"}', "\u00fc".encode(), b"\xc3", b"\xbc", b"\x03\xe8", b"y" * 200]
)
OPCODES = st.sampled_from([TEXT, TEXT, TEXT, CONT, CONT, PING, PONG]) | st.integers(0, 15)
RARELY = st.sampled_from([0] * 20 + [1, 2, 4])
FRAMES = st.lists(
    st.builds(Said, OPCODES, PAYLOADS, st.booleans(), RARELY, RARELY.map(lambda number: not number)), max_size=12
)


def expected(frames: list[Said]) -> tuple[list[bytes], int | None]:
    """The messages, and the code that ends it, by the rules of RFC 6455; None: it goes on.

    Where what a frame says is wrong and not the frame, another code may win: that of a later frame in the same piece.
    """
    lines: list[bytes] = []
    parts: list[bytes] | None = None
    for said in frames:
        control = said.opcode >= 8
        if said.opcode not in (CONT, TEXT, BINARY, CLOSE, PING, PONG) or not said.masked or said.rsv:
            return lines, 1002
        if control and (not said.fin or len(said.payload) > 125):
            return lines, 1002
        if said.opcode == CLOSE:
            if len(said.payload) == 1 or parts is not None:
                return lines, 1002
            if said.payload in (b"", b"\x03\xe8"):
                return lines, 1005 if not said.payload else 1000
            code = int.from_bytes(said.payload[:2], "big")
            if not 3000 <= code < 5000:
                return lines, 1002
            return lines, code
        if control:
            continue
        if (said.opcode == CONT) != (parts is not None):
            return lines, 1002
        if said.opcode == BINARY:
            return lines, 1003
        parts = [*(parts or []), said.payload]
        if said.fin:
            try:
                b"".join(parts).decode()
            except UnicodeDecodeError:
                return lines, 1007
            lines.append(b"".join(parts))
            parts = None
    return lines, None


@settings(max_examples=400)
@given(FRAMES, CHUNKS)
def test_any_frames_end_as_the_rules_say(frames: list[Said], sizes: list[int]) -> None:
    pair = Pair()
    pair.feed(b"".join(said.encoded() for said in frames), sizes)
    lines, code = expected(frames)
    assert pair.server.lines == lines
    assert pair.peer.code == code or code in (1003, 1007)
    assert pair.server.closed == (code is not None) == (pair.peer.code is not None)


@settings(max_examples=300)
@given(st.binary(max_size=2000), CHUNKS, st.booleans())
def test_any_bytes_end_with_a_code_or_wait_for_more(data: bytes, sizes: list[int], deflate: bool) -> None:
    pair = Pair(deflate)
    pair.feed(data, sizes)
    # 1011 would be a bug.
    assert pair.peer.code in (None, 1000, 1002, 1003, 1005, 1007, 1008, 1009) or pair.peer.code >= 3000
    assert pair.server.closed == (pair.peer.code is not None)


@settings(max_examples=100)
@given(st.binary(max_size=300), st.integers(1, 30), CHUNKS)
def test_damaged_messages_end_with_a_code_or_arrive(damage: bytes, where: int, sizes: list[int]) -> None:
    """As many of the first messages as were not damaged arrive as they were."""
    pair = Pair(deflate=True)
    texts = [b'{"type":"send","text":"%s"}' % (b"%d " % number * number) for number in range(40)]
    good = b"".join(pair.peer.text(text) for text in texts[:where])
    pair.feed(good + damage, sizes)
    assert pair.server.lines[:where] == texts[:where]


@pytest.mark.parametrize(
    "extensions", [b"", b"permessage-deflate; client_max_window_bits=x", b"x-webkit-deflate", b"; ;"]
)
def test_extensions_that_are_not_understood_are_not_agreed_on(extensions: bytes) -> None:
    head = HEAD + (b"Sec-WebSocket-Extensions: " + extensions + b"\r\n" if extensions else b"") + b"\r\n"
    response = Server().handshake(head)
    assert response.status_code in (101, 400)
    assert "Sec-WebSocket-Extensions" not in response.headers


def test_a_head_that_is_none_is_refused() -> None:
    for head in (b"", b"\r\n\r\n", b"GET /ws\r\n\r\n", b"\xff" * 100 + b"\r\n\r\n", HEAD):
        response: Any = Server().handshake(head)
        assert response.status_code == 400
