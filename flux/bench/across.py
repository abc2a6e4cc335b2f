"""What it costs a message to go from one node to another: pairs on one node against pairs on two, at the same pace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flux.bench.judgement import Judgement
from flux.bench.load import Client, Load, Tally
from flux.bench.logins import close, log_in, login_line, tokens
from flux.bench.scenarios import Percentiles, percentiles
from flux.bench.subjects import Nodes, nodes

#: Clients, in pairs, and the messages a second of all of them.
CLIENTS = 40
PACE = 500.0
#: Most that another node may add to the median, in ms.
LIMIT = 2.0
#: Before the measured stretch, in seconds.
WARM_UP = 1.0


@dataclass(frozen=True)
class Across:
    """From sending to arrival, in ms: on the same node, and on another one; and what became of all messages."""

    same: Percentiles
    between: Percentiles
    tallies: tuple[Tally, Tally]


def judge(across: Across) -> list[Judgement]:
    """What came of the promises."""
    added = across.between.p50 - across.same.p50
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
    with nodes(directory, 2, 2 * CLIENTS) as cluster:
        same, tally_same = _talk(cluster, 1, (0, 0), seconds, lambda share: progress(share / 2))
        # Others: those would be sent again what they had not yet said they received.
        first = CLIENTS + 1
        between, tally_between = _talk(cluster, first, (0, 1), seconds, lambda share: progress(0.5 + share / 2))
    return Across(same, between, (tally_same, tally_between))


def _talk(
    cluster: Nodes, first: int, homes: tuple[int, int], seconds: float, progress: Callable[[float], None]
) -> tuple[Percentiles, Tally]:
    """:param first: of the accounts.
    :param homes: the nodes of the two of each pair.
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
        measured = Load(clients, cluster.cpu_seconds, progress, PACE).run(WARM_UP, seconds, 1)
    finally:
        for some in sockets:
            close(some)
    return percentiles(measured.delivery), measured.total
