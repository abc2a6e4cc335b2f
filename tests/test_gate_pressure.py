"""A client of the gate that asks for much and takes nothing makes itself wait, and nobody else."""

from __future__ import annotations

import json
import socket
from importlib.resources import files
from pathlib import Path

import pytest_twisted
from gate_server import GateServer
from http_parts import Raw, client_turns, connect
from twisted.internet.defer import Deferred

from flux.assembly.gate import BUFFER
from flux.gate.channel import ANSWER_WITHIN, Channel
from flux.gate.site import GateSite
from flux.tls.layer import left_below

WS = "chat.websocket=tcp:0:interface=127.0.0.1"
STATIC = Path(str(files("flux.web") / "static"))
FILES = sorted(path.name for path in STATIC.iterdir())
LARGEST = 64 * 1024
"""Bytes that no answer here is longer than, its head included."""


@pytest_twisted.async_yield_fixture
async def server(tmp_path):
    server = await GateServer(tmp_path, WS, f"chat.buffer={BUFFER}").start()
    yield server
    await server.stop()


class Greedy:
    """A client that asks for much at once.

    :ivar client: its end.
    :ivar channel: the server's end.
    """

    def __init__(self, client: Raw, channel: Channel) -> None:
        self.client = client
        self.channel = channel

    @property
    def left(self) -> int:
        """Bytes that wait for the client."""
        return left_below(self.channel.transport)

    def _kernel_takes(self, size: int) -> None:
        self.channel.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    async def ask(self, paths: list[str]) -> None:
        """Ask, and take nothing."""
        # Or the kernel would take more.
        self._kernel_takes(4096)
        self.client.transport.pauseProducing()
        self.client.say("".join(f"GET /{path} HTTP/1.1\r\n\r\n" for path in paths).encode())
        await client_turns(lambda: self.left > BUFFER)

    def take(self) -> None:
        """Begin to take what comes."""
        self._kernel_takes(128 * 1024)
        self.client.transport.resumeProducing()

    async def answers(self, count: int) -> list[tuple[int, bytes]]:
        """Take what was asked for."""
        self.take()
        answers = []
        for _ in range(count):
            status, _, body = await self.client.answer()
            answers.append((status, body))
        return answers

    async def gone(self) -> None:
        self.client.transport.abortConnection()
        await self.client.ended()


async def greedy(site: GateSite, port: int) -> Greedy:
    client = await connect(port)
    await client_turns(lambda: site._channels)
    [channel] = site._channels
    return Greedy(client, channel)


async def of_gate(server: GateServer) -> Greedy:
    assert server.assembly.gate is not None
    return await greedy(server.assembly.gate.site, server.port)


async def test_what_is_asked_for_at_once_is_answered_as_it_is_taken(server: GateServer) -> None:
    each = await of_gate(server)
    names = (FILES * 200)[:200]
    await each.ask(names)
    assert each.left < BUFFER + LARGEST
    # It is not even read.
    each.client.say(b"GET /nothing HTTP/1.1\r\n\r\n")
    for _ in range(3):
        assert (await server.ask("GET", "/v1/rules")).status == 200
    assert each.left < BUFFER + LARGEST
    answers = await each.answers(len(names) + 1)
    assert [body for _, body in answers[:-1]] == [(STATIC / name).read_bytes() for name in names]
    assert answers[-1][0] == 404
    await client_turns(lambda: each.channel.state == "idle")
    await each.gone()


async def test_the_websocket_port_waits_as_well(server: GateServer) -> None:
    own = server.assembly.chat.websocket
    assert own is not None
    each = await greedy(own._site, own.listener.address()[1])
    await each.ask(["x"] * 5000)
    assert each.left < BUFFER + LARGEST
    for status, body in await each.answers(5000):
        assert (status, json.loads(body)["name"]) == (404, "not_found")
    await each.gone()


async def test_who_takes_answers_slowly_has_the_time_of_an_answer(server: GateServer) -> None:
    """And no longer."""
    each = await of_gate(server)
    await each.ask((FILES * 100)[:100])
    each.channel.expire(each.channel.since + ANSWER_WITHIN)
    assert each.channel.state == "answering"
    assert len(await each.answers(100)) == 100
    await each.ask((FILES * 100)[:100])
    each.channel.expire(each.channel.since + ANSWER_WITHIN + 1)
    each.client.transport.resumeProducing()
    await each.client.ended()


async def test_a_stop_does_not_wait_for_what_was_not_taken(server: GateServer) -> None:
    """What was answered arrives; what was not even looked at is not answered any more."""
    each = await of_gate(server)
    await each.ask((FILES * 100)[:100])
    stopping = Deferred.fromCoroutine(server.assembly.stop())
    each.take()
    await stopping
    await each.client.ended()
    assert each.client.closed == "ConnectionDone"
    assert 0 < each.client.data.count(b"HTTP/1.1 200 OK") < 100
