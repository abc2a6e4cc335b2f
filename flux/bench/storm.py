"""Many clients at once: a storm of new connections, and everybody coming back after a restart, while others chat.

::

    talkers   40 on the first node, in pairs, at a steady pace: their latency is what the others must not notice
    storm     new connections and logins by token at a steady rate, each to the node it was assigned, kept open
    again     the same once more, after all of them have gone
    return    the sessions of the second node, which is killed and started again, all at the same moment

Each is followed by everybody's leaving at once, which the talkers must not notice either.

Whoever is refused or cut off comes again after a while, as clients do; who is not in at the end was refused
for good.

Memory *returns* when those who come use what those who left had.  The system sees little of it again: CPython takes
memory in arenas of 1 MiB and gives one back when nothing is left in it, and of what lives on a little is in each.
So from the moment when everybody is in for the first time memory must grow no more, neither by their leaving nor by
as many who come after them.
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
from typing import TypeVar

from hdrh.histogram import HdrHistogram

from flux.bench.judgement import Judgement
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
#: The memory of the servers is looked at so long after everybody was told to go, in seconds.
SETTLE = 5.0
#: Most that the 99th percentile of the talkers' messages may be at any time, in ms.
LIMIT = 250.0
#: Most that memory may grow once everybody has been in, as a share of what it was then: what some things take now and
#: then, and after 12,000 sessions some 300 bytes of each.
GROWTH = 0.02
_WARM_UP = 1.0

T = TypeVar("T")


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
    """Many clients that came; times in ms.

    :ivar name: ``storm``, ``again`` or ``return``.
    :ivar seconds: until everybody was in.
    :ivar cut_off: who had been let in, and was no longer there when all were in.
    :ivar login_p99: from opening a connection to ``login.ok``, the first of several tries counted from its own start.
    """

    name: str
    sessions: int
    seconds: float
    retries: int
    refused: int
    cut_off: int
    login_p50: float
    login_p99: float


@dataclass(frozen=True)
class Meanwhile:
    """What became of the talkers' messages while many came or left, in ms, and what the nodes were like then.

    :ivar name: that of the phase, with ``gone`` for the leaving after it.
    :ivar memory: bytes of all nodes at its end.
    """

    name: str
    delivery_p50: float
    delivery_p99: float
    tally: Tally
    memory: int


@dataclass(frozen=True)
class Storm:
    """All of it.

    :ivar memory_before: bytes of all nodes with nobody but the talkers.
    """

    phases: Sequence[Phase]
    meanwhile: Sequence[Meanwhile]
    memory_before: int


def judge(storm: Storm) -> list[Judgement]:
    """What came of the promises."""
    refused = sum(phase.refused for phase in storm.phases)
    cut_off = sum(phase.cut_off for phase in storm.phases)
    faults = sum(each.tally.lost + each.tally.duplicated + each.tally.reordered for each in storm.meanwhile)
    slowest = max(each.delivery_p99 for each in storm.meanwhile)
    memory = {each.name: each.memory for each in storm.meanwhile}
    first = memory["storm"]
    grown = max(memory[name] for name in ("storm gone", "again", "again gone")) - first
    return [
        Judgement("storm: refused for good", str(refused), "0", not refused),
        Judgement("storm: let in and cut off", str(cut_off), "0", not cut_off),
        Judgement("storm: lost, duplicated, reordered", str(faults), "0", not faults),
        Judgement(
            "storm: p99 of the others' messages",
            f"{slowest:.0f} ms",
            f"{LIMIT:.0f} ms",
            slowest < LIMIT,
        ),
        Judgement(
            "storm: memory since all were in", f"{grown / first:+.1%}", f"{GROWTH:+.0%}", grown <= GROWTH * first
        ),
    ]


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


def _ended(connection: socket.socket) -> bool:
    """Whether the server has closed it; what else has come is thrown away."""
    try:
        while connection.recv(65536, socket.MSG_DONTWAIT):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def measure(directory: Path, rate: float, seconds: float, returning: int, progress: Callable[[float], None]) -> Storm:
    """Two storms of ``rate`` clients a second for ``seconds`` each, and the return of ``returning``.

    :raises LoadFailed: the talkers were not served.
    :raises flux.bench.servers.ServerFailed: a server did not come up.
    """
    storming = round(rate * seconds)
    first, last = TALKERS + 1, TALKERS + max(storming, returning)
    with nodes(directory, 2, last) as cluster:
        token = tokens(cluster.status_port, range(1, TALKERS + 1))
        lines = [login_line(uid, token[uid]) for uid in range(1, TALKERS + 1)]
        talking = log_in(cluster.ports[0], lines, lambda share: None)
        scene = _Scene(cluster, talking)
        try:
            before = scene.memory()
            for number, name in enumerate(("storm", "again")):
                placed = assignments(cluster.status_port, range(first, first + storming))
                clients = [(each["port"], login_line(uid, each["token"])) for uid, each in placed.items()]

                def come(clients: Sequence[tuple[int, bytes]] = clients, begun: float = number * 0.45) -> Arrived:
                    return arrive(clients, rate, lambda share: progress(begun + share * 0.45))

                scene.come_and_go(name, come)
            _return(scene, range(first, first + returning), lambda share: progress(0.9 + share * 0.1))
        finally:
            close(talking)
    return Storm(scene.phases, scene.meanwhile, before)


class _Scene:
    """The nodes, the talkers, and what has been seen of them.

    :ivar processes: of the nodes, as they are now.
    """

    def __init__(self, cluster: Nodes, talking: Sequence[socket.socket]) -> None:
        self.cluster = cluster
        self.processes = list(cluster.processes)
        self.phases: list[Phase] = []
        self.meanwhile: list[Meanwhile] = []
        self._talking = talking

    def memory(self) -> int:
        """Bytes of all nodes now."""
        return sum(process.resident() for process in self.processes)

    def come_and_go(self, name: str, come: Callable[[], Arrived]) -> None:
        """Let many come, and all leave at once when everybody is in."""
        came = self._watch(name, come)
        self.phases.append(
            Phase(
                name,
                len(came.sockets) + came.refused,
                came.seconds,
                came.retries,
                came.refused,
                sum(map(_ended, came.sockets)),
                came.logins.get_value_at_percentile(50) / 1000,
                came.logins.get_value_at_percentile(99) / 1000,
            )
        )

        def leave() -> None:
            close(came.sockets)
            # They leave meanwhile, and what the nodes do about it is measured: nothing tells when that is over.
            time.sleep(SETTLE)

        self._watch(f"{name} gone", leave)

    def _watch(self, name: str, event: Callable[[], T]) -> T:
        outcome, measured = _while_talking(self._talking, event)
        self.meanwhile.append(
            Meanwhile(
                name,
                measured.delivery.get_value_at_percentile(50) / 1000,
                measured.delivery.get_value_at_percentile(99) / 1000,
                measured.total,
                self.memory(),
            )
        )
        return outcome


def _return(scene: _Scene, uids: range, progress: Callable[[float], None]) -> None:
    cluster = scene.cluster
    token = tokens(cluster.status_port, uids)
    port = cluster.ports[1]
    clients = [(port, login_line(uid, token[uid])) for uid in uids]
    with contextlib.ExitStack() as close_all:
        first = log_in(port, [line for _, line in clients], lambda share: None)
        close_all.callback(close, first)

        def restart() -> Arrived:
            scene.processes[1].kill()
            server = ServerProcess(cluster.commands[1], cluster.directory / "output-again", cluster.cpus)
            close_all.callback(server.stop)
            scene.processes[1] = server
            server.wait_until_listening(port)
            return arrive(clients, 0.0, progress)

        scene.come_and_go("return", restart)


def _while_talking(talking: Sequence[socket.socket], event: Callable[[], T]) -> tuple[T, Measured]:
    """Let the talkers talk while ``event`` takes place in another thread."""
    clients = [Client(sock, f"{index:06}", b'"to":%d' % ((index ^ 1) + 1), 1) for index, sock in enumerate(talking)]
    outcomes: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            outcomes.append(event())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    load = Load(clients, lambda: 0.0, lambda share: None, PACE)
    thread.start()
    measured = load.run(0.0, _WARM_UP, 1, thread.is_alive)
    thread.join()
    for failure in failures:
        raise failure
    [outcome] = outcomes
    return outcome, measured
