"""What it costs a message to go from one node to another: pairs on one node against pairs on two, at the same pace.

The two ways take turns, part by part, and each part is held against the one before it: the processor of a virtual
machine may be half as fast a minute later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from flux.bench.judgement import Judgement
from flux.bench.load import Client, Load, Tally, new_histogram
from flux.bench.logins import close, log_in, login_line, tokens
from flux.bench.scenarios import Percentiles, percentiles
from flux.bench.subjects import Nodes, nodes

#: Clients, in pairs, and the messages a second of all of them.
CLIENTS = 40
PACE = 500.0
#: Most that another node may add to the median, in ms.
LIMIT = 2.0
#: Of each way. What another node adds is the median over them.
PARTS = 5
#: Before the measured stretch of each, in seconds.
WARM_UP = 1.0


@dataclass(frozen=True)
class Across:
    """From sending to arrival, in ms: on the same node, and on another one; and what became of all messages.

    :ivar added: how much higher the median was from node to node, in each part.
    :ivar cpu: of both nodes, PostgreSQL and Redis, for a message, in µs; and of both ways.
    :ivar busy: which share of their one processor that was.
    """

    same: Percentiles
    between: Percentiles
    added: Sequence[float]
    tallies: tuple[Tally, Tally]
    cpu: tuple[float, float]
    busy: tuple[float, float]


def judge(across: Across) -> list[Judgement]:
    """What came of the promises."""
    added = median(across.added)
    faults = sum(tally.lost + tally.duplicated + tally.reordered for tally in across.tallies)
    return [
        Judgement("across: p50 added by the other node", f"{added:+.2f} ms", f"{LIMIT:+.0f} ms", added <= LIMIT),
        Judgement("across: lost, duplicated, reordered", str(faults), "0", not faults),
    ]


def measure(directory: Path, seconds: float, progress: Callable[[float], None]) -> Across:
    """Talk for ``seconds`` in each of the two ways.

    :raises flux.bench.load.LoadFailed: the nodes did not do their part.
    :raises flux.bench.servers.ServerFailed: one of them did not come up.
    """
    ways = (_Way((0, 0)), _Way((0, 1)))
    turns = ways * PARTS
    with nodes(directory, 2, len(turns) * CLIENTS) as cluster:
        for turn, way in enumerate(turns):
            # Others each time: those before would be sent again what they had not yet said they received.
            way.talk(cluster, turn * CLIENTS + 1, seconds / PARTS)
            progress((turn + 1) / len(turns))
    same, between = ways
    return Across(
        percentiles(same.delivery),
        percentiles(between.delivery),
        [there - here for here, there in zip(same.medians, between.medians, strict=True)],
        (same.tally, between.tally),
        (same.cpu / max(1, same.messages) * 1e6, between.cpu / max(1, between.messages) * 1e6),
        (same.cpu / same.seconds, between.cpu / between.seconds),
    )


class _Way:
    """One of the two, over all its parts.

    :param homes: the nodes of the two of each pair.
    """

    def __init__(self, homes: tuple[int, int]) -> None:
        self.delivery = new_histogram()
        self.medians: list[float] = []
        self.tally = Tally()
        self.messages = 0
        self.cpu = self.seconds = 0.0
        self._homes = homes

    def talk(self, cluster: Nodes, first: int, seconds: float) -> None:
        """One part.

        :param first: of the accounts.
        """
        token = tokens(cluster.status_port, range(first, first + CLIENTS))
        sockets = []
        try:
            for half, home in enumerate(self._homes):
                lines = [login_line(uid, token[uid]) for uid in range(first + half, first + CLIENTS, 2)]
                sockets.append(log_in(cluster.ports[home], lines, lambda share: None))
            talking = [sock for pair in zip(*sockets, strict=True) for sock in pair]
            clients = [
                Client(sock, f"{index:06}", b'"to":%d' % (first + (index ^ 1)), 1) for index, sock in enumerate(talking)
            ]
            measured = Load(clients, cluster.cpu_seconds, lambda share: None, PACE).run(WARM_UP, seconds, 1)
        finally:
            for some in sockets:
                close(some)
        self.medians.append(percentiles(measured.delivery).p50)
        self.delivery.add(measured.delivery)
        self.tally.add(measured.total)
        self.messages += measured.delivered
        self.cpu += measured.server_cpu
        self.seconds += measured.seconds
