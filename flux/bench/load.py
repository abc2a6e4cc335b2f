"""The load: many connections in one thread, each sending as soon as it may, every reply checked.

A closed loop: a sender keeps ``in_flight`` messages unacknowledged, and each ``send.ok`` lets the
next one go.  Or paced: the senders take turns at a given rate, whatever is answered.  Receivers
check each message against the one before from the same sender::

    text   "000017 00000042 ...."      who sent it, the how manieth of that sender
    seq    ascends in the chat

so at the end of a run every acknowledged message is accounted for as delivered or lost, and
every delivery as the first or a duplicate, in order or not.

This has to cost much less than the server it drives.  Hence no framework: epoll and plain
sockets; lines joined from prepared pieces; all lines of a chunk decoded by one call, into
structs that name only the fields looked at.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from itertools import cycle

import msgspec
from hdrh.histogram import HdrHistogram

#: Messages a receiver takes before it says ``received``; flux's own clients gather likewise.
RECEIVED_EVERY = 64
#: The end of a run waits this long for deliveries that are due, in seconds.
DRAIN_WITHIN = 15.0
#: Without any reply for this long a run is given up, in seconds.
SILENCE = 30.0
#: What is waited for a message that is due within a millisecond, in seconds: epoll's time-outs are whole ones.
_NAP = 20e-6
#: Completes a text to 40 characters, an ordinary chat message.
_PADDING = b"the quick brown fox jump"
_CHUNK = 262144


class LoadFailed(Exception):
    """The server did something that ends a measurement: the text says what."""


class Frame(msgspec.Struct, gc=False):
    """Any line of the server, as far as the load looks at it."""

    type: str = ""
    text: str = ""
    chat: int = 0
    seq: int = 0
    name: str = ""
    detail: str = ""


decode_frames: Callable[[bytes], list[Frame]] = msgspec.json.Decoder(Frame).decode_lines


class Stream:
    """What one receiver got from one sender.

    :ivar due: every counter below it was delivered, except the ``missing`` ones.
    """

    __slots__ = ("due", "missing", "sender")

    def __init__(self, sender: Client) -> None:
        self.sender = sender
        self.due = 0
        self.missing: set[int] = set()


class Client:
    """One connection of the load.

    :param sock: connected and logged in.
    :param label: six characters of its own.
    :param target: the fields of ``send`` that say where to: ``b'"to":7'``.
    :param in_flight: messages it keeps unacknowledged; 0: it only receives.
    """

    __slots__ = (
        "acknowledged",
        "chat",
        "in_flight",
        "label",
        "last_seq",
        "partial",
        "prefix",
        "received",
        "sent_at",
        "sock",
        "streams",
        "unsent",
    )

    def __init__(self, sock: socket.socket, label: str, target: bytes, in_flight: int) -> None:
        self.sock = sock
        self.label = label
        self.in_flight = in_flight
        self.prefix = b'{"type":"send",' + target + b',"text":"' + label.encode() + b" "
        self.sent_at = array("q")
        self.acknowledged = 0
        self.streams: dict[str, Stream] = {}
        self.chat = 0
        self.last_seq = 0
        self.received = 0
        self.partial = b""
        self.unsent = b""


@dataclass
class Tally:
    """What happened to the messages of a run, all of it counted."""

    sent: int = 0
    acknowledged: int = 0
    delivered: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0

    def add(self, other: Tally) -> None:
        """Count what happened to the messages of another run too."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass
class Measured:
    """A run.

    :ivar seconds: length of the measured stretch; ``delivered``, ``acknowledged`` and the CPU
        seconds are of that stretch, ``total`` of the whole run.
    """

    seconds: float = 0.0
    delivered: int = 0
    acknowledged: int = 0
    server_cpu: float = 0.0
    load_cpu: float = 0.0
    total: Tally = field(default_factory=Tally)
    delivery: HdrHistogram = field(default_factory=lambda: new_histogram())
    commit: HdrHistogram = field(default_factory=lambda: new_histogram())


def new_histogram() -> HdrHistogram:
    """Of times in microseconds, 1 µs to 100 s, three digits."""
    return HdrHistogram(1, 100_000_000, 3)


class Load:
    """Drives ``clients``, who may all talk to each other within one chat or in pairs.

    :param server_cpu: CPU seconds the server has used so far.
    :param progress: called about four times a second with the share that is done, 0 to 1.
    :param rate: messages per second of all senders together; 0: a closed loop.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        server_cpu: Callable[[], float],
        progress: Callable[[float], None],
        rate: float = 0.0,
    ) -> None:
        self._clients = {client.sock.fileno(): client for client in clients}
        self._senders = {client.label: client for client in clients if client.in_flight}
        self._server_cpu = server_cpu
        self._progress = progress
        self._epoll = select.epoll()
        for number, client in self._clients.items():
            client.sock.setblocking(False)
            self._epoll.register(number, select.EPOLLIN)
        self._sending = False
        self._interval = 1 / rate if rate else 0.0
        self._next = 0.0
        self._turns = cycle(list(self._senders.values()))
        self._suffixes: list[bytes] = []
        self._cid = b'","cid":"' + os.urandom(6).hex().encode() + b"-"
        self._tally = Tally()
        self._delivery = array("q")
        self._commit = array("q")

    def run(
        self, warm_up: float, seconds: float, receivers: int, lasting: Callable[[], bool] = lambda: False
    ) -> Measured:
        """Send for ``warm_up`` + ``seconds``, then let everything arrive.

        :param receivers: how many others get each message.
        :param lasting: as long as this is true it goes on for another ``seconds``.
        :raises LoadFailed: an error was answered, a connection closed, or nothing came any more.
        """
        tally = self._tally
        measured = Measured(total=tally)
        gc.collect()
        gc.freeze()
        try:
            self._sending = True
            begin = self._next = time.monotonic()
            if not self._interval:
                for client in self._senders.values():
                    self._send(client, client.in_flight)
            whole = warm_up + seconds
            self._poll(begin + warm_up, lambda now: (now - begin) / whole)
            self._delivery = array("q")
            self._commit = array("q")
            start, server, own = time.monotonic(), self._server_cpu(), time.process_time()
            delivered, acknowledged = tally.delivered, tally.acknowledged
            self._poll(begin + whole, lambda now: (now - begin) / whole)
            while lasting():
                self._poll(time.monotonic() + seconds, lambda now: 1.0)
            measured.server_cpu = self._server_cpu() - server
            measured.seconds = time.monotonic() - start
            measured.load_cpu = time.process_time() - own
            measured.delivered = tally.delivered - delivered
            measured.acknowledged = tally.acknowledged - acknowledged
            fill(measured.delivery, self._delivery)
            fill(measured.commit, self._commit)
            self._sending = False
            self._drain(receivers)
        finally:
            gc.unfreeze()
            self._epoll.close()
        self._count_lost(receivers)
        return measured

    def _poll(self, until: float, share: Callable[[float], float]) -> None:
        poll, clients = self._epoll.poll, self._clients
        shown = heard = now = time.monotonic()
        wait = 0.25
        while now < until:
            if self._interval and self._sending:
                self._send_due(now)
                wait = self._wait(now)
            for number, event in poll(wait):
                heard = now
                if event & select.EPOLLOUT:
                    self._flush(clients[number])
                if event & ~select.EPOLLOUT:
                    self._receive(clients[number])
            now = time.monotonic()
            if now - shown > 0.25:
                shown = now
                self._progress(share(now))
            if now - heard > SILENCE:
                raise LoadFailed(f"no reply for {SILENCE:g} s")

    def _drain(self, receivers: int) -> None:
        tally = self._tally
        deadline = time.monotonic() + DRAIN_WITHIN
        while time.monotonic() < deadline:
            arrived = tally.delivered - tally.duplicated
            if tally.acknowledged == tally.sent and arrived >= tally.sent * receivers:
                return
            self._poll(time.monotonic() + 0.02, lambda now: 1.0)

    def _count_lost(self, receivers: int) -> None:
        delivered_to = Counter[str]()
        for client in self._clients.values():
            for stream in client.streams.values():
                sender = stream.sender
                delivered_to[sender.label] += 1
                gaps = sum(counter < sender.acknowledged for counter in stream.missing)
                self._tally.lost += gaps + max(0, sender.acknowledged - stream.due)
        for sender in self._senders.values():
            self._tally.lost += sender.acknowledged * (receivers - delivered_to[sender.label])

    def _receive(self, client: Client) -> None:
        try:
            data = client.sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            raise LoadFailed(f"connection lost: {error}") from error
        if not data:
            raise LoadFailed("the server closed a connection")
        if client.partial:
            data = client.partial + data
        end = data.rfind(b"\n") + 1
        if end == len(data):
            client.partial = b""
        else:
            client.partial = data[end:]
            data = data[:end]
        now = time.perf_counter_ns()
        acknowledged = 0
        tally, delivery, streams = self._tally, self._delivery, client.streams
        for frame in decode_frames(data):
            text = frame.text
            if text:
                stream = streams.get(text[:6]) or self._new_stream(client, text[:6])
                counter = int(text[7:15])
                tally.delivered += 1
                delivery.append(now - stream.sender.sent_at[counter])
                if counter == stream.due:
                    stream.due = counter + 1
                else:
                    self._out_of_turn(stream, counter)
                seq = frame.seq
                if seq:
                    if seq <= client.last_seq:
                        tally.reordered += 1
                    client.last_seq = seq
                    client.received += 1
                    client.chat = frame.chat
            elif frame.type == "send.ok":
                self._commit.append(now - client.sent_at[client.acknowledged])
                client.acknowledged += 1
                acknowledged += 1
            elif frame.type in ("error", "kicked"):
                raise LoadFailed(f"the server answered {frame.type}: {frame.name} {frame.detail}")
        tally.acknowledged += acknowledged
        if client.received >= RECEIVED_EVERY:
            client.received = 0
            self._write(client, b'{"type":"received","chat":%d,"seq":%d}\n' % (client.chat, client.last_seq))
        if acknowledged and self._sending and not self._interval:
            self._send(client, acknowledged)

    def _new_stream(self, client: Client, label: str) -> Stream:
        if label not in self._senders:
            raise LoadFailed("a message arrived that nobody sent")
        stream = client.streams[label] = Stream(self._senders[label])
        return stream

    def _out_of_turn(self, stream: Stream, counter: int) -> None:
        if counter > stream.due:
            stream.missing.update(range(stream.due, counter))
            stream.due = counter + 1
        elif counter in stream.missing:
            stream.missing.remove(counter)
            self._tally.reordered += 1
        else:
            self._tally.duplicated += 1

    def _wait(self, now: float) -> float:
        """How long epoll may wait, so that the next message goes out when it is due, in seconds.

        Rounded up by epoll, messages that are due every 2 ms went out after 1.2 to 2.6. A server whose processor they
        keep busy for most of that time then had two of them at once, and what it was measured by was this load.
        """
        whole = int((self._next - now) * 1000)
        if whole > 0:
            return (whole - 0.5) / 1000
        # The load has a processor of its own, and a nap is short against what is measured.
        time.sleep(_NAP)
        return 0.0

    def _send_due(self, now: float) -> None:
        """Send what the pace demands by ``now``."""
        while self._next <= now:
            self._send(next(self._turns), 1)
            self._next += self._interval

    def _send(self, client: Client, count: int) -> None:
        """Send the next ``count`` messages of ``client``."""
        sent_at, suffixes = client.sent_at, self._suffixes
        first = len(sent_at)
        last = first + count
        while len(suffixes) < last:
            number = b"%08d" % len(suffixes)
            suffixes.append(number + b" " + _PADDING + self._cid + number + b'"}\n')
        lines = client.prefix + client.prefix.join(suffixes[first:last])
        now = time.perf_counter_ns()
        for _ in range(count):
            sent_at.append(now)
        self._tally.sent += count
        self._write(client, lines)

    def _write(self, client: Client, lines: bytes) -> None:
        if client.unsent:
            client.unsent += lines
            return
        try:
            written = client.sock.send(lines)
        except BlockingIOError:
            written = 0
        except OSError as error:
            raise LoadFailed(f"connection lost: {error}") from error
        if written < len(lines):
            client.unsent = lines[written:]
            self._epoll.modify(client.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _flush(self, client: Client) -> None:
        lines, client.unsent = client.unsent, b""
        self._epoll.modify(client.sock.fileno(), select.EPOLLIN)
        if lines:
            self._write(client, lines)


def fill(histogram: HdrHistogram, times: array[int]) -> None:
    """Record ``times``, nanoseconds, in a histogram of microseconds."""
    for microseconds, count in Counter(t // 1000 for t in times).items():
        histogram.record_value(max(microseconds, 1), count)
