"""What it costs a message to go from one node to another: pairs on one node against pairs on two, at the same pace.

The two ways take turns, part by part, and each part is held against the one before it: the processor of a virtual
machine may be half as fast a minute later, when others use it too.  The same messages take more of it then, in every
process, which tells such parts; that many wait for a full processor, as they do between nodes first, says nothing about
the way.  So parts count in which they took little more than where they took the least, and five in any case.  What
became of the messages is counted in all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from statistics import median

from flux.bench.judgement import Judgement
from flux.bench.load import Client, Load, Measured, Tally
from flux.bench.logins import close, log_in, login_line, tokens
from flux.bench.scenarios import Percentiles, percentiles
from flux.bench.subjects import Nodes, nodes

#: Clients, in pairs, and the messages a second of all of them.
CLIENTS = 40
PACE = 500.0
#: Most that another node may add to the median, in ms.
LIMIT = 2.0
#: Of each way. What another node adds is the median over those that count.
PARTS = 15
#: A part counts where neither way took more than this of the least CPU that it took in any part; so many do at least.
CALM = 1.25
COUNTED = 5
#: Before the measured stretch of each, in seconds.
WARM_UP = 0.5

#: The nodes of the two of each pair.
_SAME, _BETWEEN = (0, 0), (0, 1)


@dataclass(frozen=True)
class Across:
    """From sending to arrival, in ms: on the same node, and on another one; and what became of all messages.

    :ivar added: how much higher the median was from node to node, in each part.
    :ivar counted: which of the parts count; ``same``, ``between``, ``cpu`` and ``busy`` are of those.
    :ivar cpu: of both nodes, PostgreSQL and Redis, for a message, in µs; and of both ways.
    :ivar busy: which share of their one processor that was.
    """

    same: Percentiles
    between: Percentiles
    added: Sequence[float]
    counted: Sequence[bool]
    tallies: tuple[Tally, Tally]
    cpu: tuple[float, float]
    busy: tuple[float, float]


def judge(across: Across) -> list[Judgement]:
    """What came of the promises."""
    added = median(compress(across.added, across.counted))
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
    parts = []
    with nodes(directory, 2, 2 * PARTS * CLIENTS) as cluster:
        for number in range(PARTS):
            # Others each time: those before would be sent again what they had not yet said they received.
            first = 2 * number * CLIENTS + 1
            same = _talk(cluster, _SAME, first, seconds / PARTS)
            parts.append((same, _talk(cluster, _BETWEEN, first + CLIENTS, seconds / PARTS)))
            progress((number + 1) / PARTS)
    return summary(parts)


def summary(parts: Sequence[tuple[Measured, Measured]]) -> Across:
    """What came of all parts, each of them on the same node and from node to node."""
    least = [min(map(_cpu, way)) for way in zip(*parts, strict=True)]

    def slowness(part: tuple[Measured, Measured]) -> float:
        # None at all is what the system's clock of it shows of a stretch that is too short.
        return max(_cpu(way) / (fastest or 1.0) for way, fastest in zip(part, least, strict=True))

    slow = max(CALM, *sorted(map(slowness, parts))[:COUNTED])
    counted = [slowness(part) <= slow for part in parts]
    same, between = map(_together, zip(*compress(parts, counted), strict=True))
    tallies = (Tally(), Tally())
    for part in parts:
        for tally, way in zip(tallies, part, strict=True):
            tally.add(way.total)
    return Across(
        percentiles(same.delivery),
        percentiles(between.delivery),
        [percentiles(there.delivery).p50 - percentiles(here.delivery).p50 for here, there in parts],
        counted,
        tallies,
        (_cpu(same), _cpu(between)),
        (same.server_cpu / same.seconds, between.server_cpu / between.seconds),
    )


def _cpu(measured: Measured) -> float:
    """Of a message, in µs."""
    return measured.server_cpu / max(1, measured.delivered) * 1e6


def _together(some: Sequence[Measured]) -> Measured:
    whole = Measured()
    for measured in some:
        whole.delivery.add(measured.delivery)
        whole.delivered += measured.delivered
        whole.server_cpu += measured.server_cpu
        whole.seconds += measured.seconds
    return whole


def _talk(cluster: Nodes, homes: tuple[int, int], first: int, seconds: float) -> Measured:
    """One way of a part.

    :param homes: the nodes of the two of each pair.
    :param first: of the accounts.
    """
    token = tokens(cluster.status_port, range(first, first + CLIENTS))
    sockets = []
    try:
        for half, home in enumerate(homes):
            lines = [login_line(uid, token[uid]) for uid in range(first + half, first + CLIENTS, 2)]
            sockets.append(log_in(cluster.ports[home], lines, lambda share: None))
        talking = [sock for pair in zip(*sockets, strict=True) for sock in pair]
        clients = [
            Client(sock, f"{index:06}", b'"to":%d' % (first + (index ^ 1)), 1) for index, sock in enumerate(talking)
        ]
        return Load(clients, cluster.cpu_seconds, lambda share: None, PACE).run(WARM_UP, seconds, 1)
    finally:
        for some in sockets:
            close(some)
