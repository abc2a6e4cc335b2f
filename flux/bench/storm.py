"""Many clients at once: a storm of new connections, and everybody coming back after a restart, while others chat.

::

    talkers   40 on the first node, in pairs, at a steady pace: their latency is what the others must not notice
    storm     new connections and logins by token at a steady rate, each to the node it was assigned, kept open
    return    the sessions of the second node, which is killed and started again, all at the same moment

Whoever is refused or cut off comes again after a while, as clients do; who is not in at the end was refused
for good.
"""

from __future__ import annotations

import contextlib
import heapq
import select
import socket
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hdrh.histogram import HdrHistogram

from flux.bench.load import Client, Load, LoadFailed, Measured, Tally, decode_frames, fill, new_histogram
from flux.bench.logins import assignments, close, connect, log_in, login_line, tokens
from flux.bench.servers import ServerProcess
from flux.bench.subjects import Nodes, nodes

#: Who chats meanwhile, in pairs, and how many messages a second of all of them.
TALKERS = 40
PACE = 200.0
#: A client that was refused or cut off comes again after so many seconds.
AGAIN = 1.0
#: Who is not logged in so long after the last one came was refused for good, in seconds.
PATIENCE = 30.0
#: The memory of the servers is looked at so long after everybody has gone, in seconds.
SETTLE = 3.0
_WARM_UP = 1.0


@dataclass
class Arrived:
    """Those who came.

    :ivar sockets: of those who are in.
    :ivar retries: how often somebody had to come again.
    :ivar refused: who was not in at the end.
    :ivar logins: from opening the connection to ``login.ok``.
    """

    sockets: list[socket.socket] = field(default_factory=list)
    retries: int = 0
    refused: int = 0
    seconds: float = 0.0
    logins: HdrHistogram = field(default_factory=new_histogram)


@dataclass(frozen=True)
class Phase:
    """What one phase came to; times in ms.

    :ivar name: ``storm`` or ``return``.
    :ivar seconds: until everybody was in.
    :ivar login_p99: from opening a connection to ``login.ok``, the first of several tries counted from its own start.
    :ivar delivery_p50: of the talkers' messages, while it lasted.
    """

    name: str
    sessions: int
    seconds: float
    retries: int
    refused: int
    login_p50: float
    login_p99: float
    delivery_p50: float
    delivery_p99: float
    tally: Tally


@dataclass(frozen=True)
class Storm:
    """Both phases, and bytes of memory of all nodes: before, with everybody in, and after they had gone."""

    phases: Sequence[Phase]
    memory_before: int
    memory_peak: int
    memory_after: int


def arrive(
    clients: Sequence[tuple[int, bytes]], rate: float, progress: Callable[[float], None] = lambda share: None
) -> Arrived:
    """Connect and log in, ``rate`` new clients a second.

    :param clients: port and first line of each.
    :param rate: 0: all at once.
    """
    arrived = Arrived()
    times = array("q")
    begin = time.monotonic()
    due = [(begin + (index / rate if rate else 0.0), index) for index in range(len(clients))]
    late = due[-1][0] + PATIENCE
    waiting: dict[int, tuple[socket.socket, bytearray, int, int]] = {}
    with select.epoll() as epoll:

        def again(index: int) -> None:
            arrived.retries += 1
            heapq.heappush(due, (time.monotonic() + AGAIN, index))

        while (due or waiting) and time.monotonic() < late:
            now = time.monotonic()
            while due and due[0][0] <= now:
                _, index = heapq.heappop(due)
                port, line = clients[index]
                started = time.perf_counter_ns()
                try:
                    connection = connect(port, index)
                    connection.sendall(line)
                except (LoadFailed, OSError):
                    again(index)
                    continue
                waiting[connection.fileno()] = connection, bytearray(), index, started
                epoll.register(connection, select.EPOLLIN)
            for number, _ in epoll.poll(max(0.0, min(0.1, due[0][0] - now)) if due else 0.1):
                connection, answer, index, started = waiting[number]
                outcome = _read(connection, answer)
                if outcome is None:
                    continue
                del waiting[number]
                epoll.unregister(number)
                if outcome:
                    times.append(time.perf_counter_ns() - started)
                    arrived.sockets.append(connection)
                    progress(len(arrived.sockets) / len(clients))
                else:
                    connection.close()
                    again(index)
    arrived.seconds = time.monotonic() - begin
    arrived.refused = len(due) + len(waiting)
    close([connection for connection, *_ in waiting.values()])
    fill(arrived.logins, times)
    return arrived


def _read(connection: socket.socket, answer: bytearray) -> bool | None:
    """Whether the login was answered well; None: it was not yet answered."""
    try:
        data = connection.recv(65536)
    except OSError:
        return False
    answer += data
    line, end, _ = bytes(answer).partition(b"\n")
    if not end:
        return None if data else False
    [frame] = decode_frames(line)
    return frame.type == "login.ok"


def measure(directory: Path, rate: float, seconds: float, returning: int, progress: Callable[[float], None]) -> Storm:
    """A storm of ``rate`` clients a second for ``seconds``, and the return of ``returning``.

    :raises LoadFailed: the talkers were not served.
    :raises flux.bench.servers.ServerFailed: a server did not come up.
    """
    storming = round(rate * seconds)
    first, last = TALKERS + 1, TALKERS + max(storming, returning)
    with nodes(directory, 2, last) as cluster:
        token = tokens(cluster.status_port, range(1, TALKERS + 1))
        lines = [login_line(uid, token[uid]) for uid in range(1, TALKERS + 1)]
        talking = log_in(cluster.ports[0], lines, lambda share: None)
        try:
            before = _memory(cluster)
            placed = assignments(cluster.status_port, range(first, first + storming))
            clients = [(each["port"], login_line(uid, each["token"])) for uid, each in placed.items()]
            came, measured = _while_talking(talking, lambda: arrive(clients, rate, lambda s: progress(s * 0.7)))
            peak = _memory(cluster)
            close(came.sockets)
            phases = [_phase("storm", storming, came, measured)]
            time.sleep(SETTLE)
            after = _memory(cluster)
            came, measured = _return(cluster, range(first, first + returning), talking, progress)
            phases.append(_phase("return", returning, came, measured))
        finally:
            close(talking)
    return Storm(phases, before, peak, after)


def _return(
    cluster: Nodes, uids: range, talking: Sequence[socket.socket], progress: Callable[[float], None]
) -> tuple[Arrived, Measured]:
    token = tokens(cluster.status_port, uids)
    port = cluster.ports[1]
    clients = [(port, login_line(uid, token[uid])) for uid in uids]
    close_all = contextlib.ExitStack()
    with close_all:
        first = log_in(port, [line for _, line in clients], lambda share: None)
        close_all.callback(close, first)

        def restart() -> Arrived:
            cluster.processes[1].kill()
            server = ServerProcess(cluster.commands[1], cluster.directory / "output-again", cluster.cpus)
            close_all.callback(server.stop)
            server.wait_until_listening(port)
            came = arrive(clients, 0.0, lambda share: progress(0.7 + 0.3 * share))
            close_all.callback(close, came.sockets)
            return came

        return _while_talking(talking, restart)


def _while_talking(talking: Sequence[socket.socket], event: Callable[[], Arrived]) -> tuple[Arrived, Measured]:
    """Let the talkers talk while ``event`` takes place in another thread."""
    clients = [Client(sock, f"{index:06}", b'"to":%d' % ((index ^ 1) + 1), 1) for index, sock in enumerate(talking)]
    outcomes: list[Arrived | BaseException] = []

    def run() -> None:
        try:
            outcomes.append(event())
        except BaseException as error:
            outcomes.append(error)

    thread = threading.Thread(target=run, daemon=True)
    load = Load(clients, lambda: 0.0, lambda share: None, PACE)
    thread.start()
    measured = load.run(0.0, _WARM_UP, 1, thread.is_alive)
    thread.join()
    [outcome] = outcomes
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome, measured


def _phase(name: str, sessions: int, came: Arrived, measured: Measured) -> Phase:
    return Phase(
        name,
        sessions,
        came.seconds,
        came.retries,
        came.refused,
        came.logins.get_value_at_percentile(50) / 1000,
        came.logins.get_value_at_percentile(99) / 1000,
        measured.delivery.get_value_at_percentile(50) / 1000,
        measured.delivery.get_value_at_percentile(99) / 1000,
        measured.total,
    )


def _memory(cluster: Nodes) -> int:
    return sum(process.resident() for process in cluster.processes)
