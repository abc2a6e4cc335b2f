"""Four status processes on one Redis place users at the same time: nobody herds."""

from __future__ import annotations

import json
import socket
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis_parts import new_prefix, parts
from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread

from flux.bench.engines import RedisServer
from flux.bench.servers import ServerProcess, flux_settings, free_port, twistd
from flux.model.placement import Lease

USERS = 10_000
NODES = 10
STATUSES = 4
UNDER_WAY = 100


def lease(number: int, sessions: int) -> Lease:
    return Lease(f"node{number}", 1, "127.0.0.1", 9000 + number, sessions, capacity=0, weight=1, ttl=60.0)


def ask(port: int, uids: range) -> Counter[str]:
    """Ask for a server for each account in a request of its own, some of them under way at the same time."""
    given: Counter[str] = Counter()
    with socket.create_connection(("127.0.0.1", port), 30) as connection, connection.makefile("rb") as lines:
        for start in range(0, len(uids), UNDER_WAY):
            some = uids[start : start + UNDER_WAY]
            connection.sendall(b"".join(b'{"type":"get_chat_server","uid":%d}\n' % uid for uid in some))
            for uid in some:
                answer = json.loads(lines.readline())
                assert (answer["type"], answer["uid"]) == ("get_chat_server.ok", uid), answer
                given[answer["server"]] += 1
    return given


@pytest.mark.long  # Its bound is for a machine that answers within a millisecond, so not beside other tests.
async def test_four_status_processes_keep_the_bound(redis_server: RedisServer, tmp_path: Path) -> None:
    prefix = new_prefix()
    # What the heartbeats say is as old as it gets: nobody reports again before all have been placed.
    before = [100 + 7 * number for number in range(NODES)]
    state, _ = parts(redis_server.url, prefix)
    await state.start()
    try:
        for number, sessions in enumerate(before):
            await state.renew(lease(number, sessions), [])
        with ExitStack() as running:
            ports = [free_port() for _ in range(STATUSES)]
            for port in ports:
                settings = flux_settings(0, port) | {
                    "state.kind": "redis",
                    "state.url": redis_server.url,
                    "state.prefix": prefix,
                }
                process = ServerProcess(twistd("flux-status", settings), tmp_path / f"status{port}")
                running.enter_context(process)
                await deferToThread(process.wait_until_listening, port)
            share = USERS // STATUSES
            shares = [range(1 + share * index, 1 + share * (index + 1)) for index in range(STATUSES)]
            given = await gatherResults(
                [deferToThread(ask, port, part) for port, part in zip(ports, shares, strict=True)], consumeErrors=True
            )
        reserved = (await state.snapshot()).reserved
    finally:
        await state.stop()
    placed = sum(given, Counter())
    assert placed == reserved
    assert placed.total() == USERS
    loads = [sessions + placed[f"node{number}"] for number, sessions in enumerate(before)]
    assert max(loads) / (sum(loads) / NODES) <= 1.05, loads
