"""A whole server under bad input: offenders get an error or the end, memory is bounded, others notice nothing."""

from __future__ import annotations

import json
import re
import resource
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from chat_server import Client, open_client
from server_process import ServerProcess, environment, server
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater

PASSWORD = "correct horse"
GROWTH = 50 * 1024 * 1024
"""Bytes of resident memory by which the server may grow while somebody misbehaves."""

PATIENCE = 2.0
"""Seconds until others see each other type meanwhile, on a machine that has other things to do."""

SETTINGS = {
    "chat.listen": "tcp:0:interface=127.0.0.1:backlog=4096",
    "status.listen": "tcp:0:interface=127.0.0.1",
    "gate.listen": "",
    "admin.listen": "",
    "chat.slow_timeout": "2",
    "limits.connections_per_address": "0",
    "limits.messages_per_second": "0",
    "limits.requests_per_second": "0",
    "limits.registrations_per_hour_address": "0",
    "store.path": "flux.db",
}


class Target:
    """The server process.

    :ivar page: bytes of a page of memory.
    """

    page = resource.getpagesize()

    def __init__(self, process: ServerProcess, log: Path) -> None:
        self.process = process
        self.log = log
        self.port = int(process.wait_for("flux chat server").rpartition(":")[2])

    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.process.popen.pid}/statm").read_text("ascii").split()[1]) * self.page

    def connect(self, **options: Any) -> Client:
        return open_client(self.port, **options)

    async def log_in(self, name: str, **options: Any) -> Client:
        client = self.connect(**options)
        client.id = (await client.ok("login", name=name, password=PASSWORD))["id"]
        return client

    def logged(self, pattern: str, since: int = 0) -> list[str]:
        """Lines of the log that match."""
        return [line for line in self.log.read_text("utf-8").splitlines()[since:] if re.search(pattern, line)]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server with its defaults, but for the number of connections and the rate of requests."""
    folder = tmp_path_factory.mktemp("server")
    options = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    twistd = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
    log = folder / "flux.log"
    with server([*twistd, "-n", f"--logfile={log}", "flux", *options], folder, environment()) as process:
        yield Target(process, log)
        process.popen.terminate()
        assert process.end() == (0, "")
    text = log.read_text("utf-8")
    assert "Traceback" not in text
    assert not re.search(r" (error|critical) ", text)
    assert PASSWORD not in text
    assert "a text of nobody's business" not in text


@pytest.fixture(scope="module", autouse=True)
def _many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def pause(seconds: float) -> None:
    from twisted.internet import reactor

    await deferLater(reactor, seconds)


class Conversation:
    """Two who keep chatting.

    :ivar count: messages that have arrived, and one on its way.
    :ivar slowest: seconds that the slowest ``typing`` took to be seen.
    """

    def __init__(self, ann: Client, bob: Client) -> None:
        self.slowest = 0.0
        self.count = 0
        self.largest = 0
        self._clients = (ann, bob)
        self._stopping = False

    async def run(self) -> None:
        from twisted.internet import reactor

        sender, receiver = self._clients
        while not self._stopping:
            self.count += 1
            sender.tell("send", ref=self.count, to=receiver.id, text="a text of nobody's business")
            assert (await receiver.told("message"))["from"] == sender.id
            assert (await sender.reply(self.count))["type"] == "send.ok"
            sender, receiver = receiver, sender
            # Not the message is timed: that would measure what else this machine's disk has to do.
            began = reactor.seconds()
            sender.tell("typing", to=receiver.id)
            await receiver.told("typing")
            self.slowest = max(self.slowest, reactor.seconds() - began)
            await pause(0.005)

    def stop(self) -> None:
        self._stopping = True


@asynccontextmanager
async def undisturbed(target: Target) -> AsyncIterator[None]:
    """While this lasts two others chat; at the end it must have been as if nothing had been."""
    for name in ("ann", "bob"):
        client = target.connect()
        await client.ask("register", name=name, password=PASSWORD)
        await client.close()
    pair = [await target.log_in("ann"), await target.log_in("bob")]
    conversation = Conversation(*pair)
    talking = Deferred.fromCoroutine(conversation.run())

    async def chatted(count: int) -> None:
        count += conversation.count
        while conversation.count < count:
            assert not talking.called, talking.result
            await pause(0.01)

    await chatted(20)
    before = peak = target.memory()

    def measure() -> None:
        nonlocal peak
        peak = max(peak, target.memory())

    measuring = LoopingCall(measure)
    measured = measuring.start(0.05)
    try:
        yield
        await chatted(20)
    finally:
        measuring.stop()
        await measured
        conversation.stop()
        await talking
        for client in pair:
            await client.close()
    assert conversation.slowest < PATIENCE
    assert peak - before < GROWTH, f"{(peak - before) / 2**20:.0f} MiB more"


NONSENSE = [
    b"hello",
    b'{"type":',
    b"[]",
    b"null",
    b'{"type":"login","id":"1"}',
    b'{"type":"login","id":1,"password":{}}',
    b'{"type":["login"]}',
    b'{"type":"nope"}',
    b'{"type":"ping","ref":NaN}',
    b'{"type":"ping","ref":1e999}',
    b'{"type":"ping","ref":' + b"9" * 100_000 + b"}",
    b'{"type":"ping","x":"\\ud800"}',
    b'{"type":"login","name":"a\\u0000b","password":"x"}',
    b'{"type":"ping","x":"\xff\xfe"}',
    b"\xff" * 1000,
    b"[" * 100_000,
    b'{"type":"ping","x":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    b'{"type":"ping","x":[' + b"{},".join([b""] * 30_000) + b"{}]",
    b'{"type":"' + b"x" * 100_000 + b'"}',
]


async def test_nonsense(target: Target) -> None:
    async with undisturbed(target):
        for _ in range(5):
            clients = [target.connect() for _ in range(10)]
            for client in clients:
                client.raw(b"\n".join(NONSENSE) + b"\n")
            for client in clients:
                lines = await client.ended()
                assert len(lines) == len(NONSENSE) == 20
                assert {line["name"] for line in lines} == {"bad_json", "bad_request", "unknown_type"}
    assert len(target.logged("20 bad lines in a row from 127.0.0.1, closed")) == 50


async def test_lines_of_a_megabyte(target: Target) -> None:
    async with undisturbed(target):
        for end in (b"\n", b""):
            clients = [target.connect() for _ in range(30)]
            for client in clients:
                client.raw(b'{"type":"ping","x":"' + b"x" * 1_000_000 + end)
            for client in clients:
                assert [line["name"] for line in await client.ended()] == ["line_too_long"]
    assert len(target.logged("a line of more than 131072 bytes from 127.0.0.1, closed")) == 60


async def test_half_lines(target: Target) -> None:
    async with undisturbed(target):
        clients = [target.connect() for _ in range(100)]
        for client in clients:
            client.raw(b'{"type":"ping","x":"' + b"x" * 100_000)
        for client in clients[::2]:
            client.raw(b'"}\n')
            await client.told("ping.ok")
        for client in clients:
            await client.reset()


async def test_http_requests(target: Target) -> None:
    async with undisturbed(target):
        for _ in range(5):
            clients = [target.connect() for _ in range(10)]
            for client in clients:
                client.raw(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)
            for client in clients:
                assert await client.ended() == []
    assert len(target.logged("an HTTP request on a line port, closed")) == 50


async def test_three_thousand_idle_connections(target: Target) -> None:
    async with undisturbed(target):
        with ExitStack() as idle:
            for number in range(3000):
                sock = idle.enter_context(socket.create_connection(("127.0.0.1", target.port)))
                if number % 3 == 0:
                    sock.send(b'{"type":"ping"')
                if number % 50 == 0:
                    await pause(0)
            late = target.connect()
            await late.ok("ping")
            await late.close()
            await pause(0.2)


async def test_clients_that_come_and_go(target: Target) -> None:
    async with undisturbed(target):
        for _ in range(20):
            clients = [target.connect() for _ in range(20)]
            for number, client in enumerate(clients):
                client.raw([b"", b"{", b'{"type":"help"}\n' * 20, b"\n" * 1000][number % 4])
            await pause(0.01)
            for client in clients:
                await client.reset()


@pytest.mark.slow
async def test_a_client_that_never_reads_what_it_asks_for(target: Target) -> None:
    since = len(target.logged(""))
    names = [f"greedy {number}" for number in range(3)]
    for name in [*names, "writer"]:
        client = target.connect()
        await client.ok("register", name=name, password=PASSWORD)
        await client.close()
    writer = await target.log_in("writer")
    greedy = [await target.log_in(name, receive_buffer=4096) for name in names]
    for client in greedy:
        for number in range(50):
            client.tell("send", ref=number, to=writer.id, text="\x01" * 8000)
        for number in range(50):
            await client.reply(number)
    async with undisturbed(target):
        for client in greedy:
            client.stop_reading()
            for kind, fields in (
                ("history", {"to": writer.id, "limit": 200}),
                ("help", {}),
                ("user.search", {"query": "g"}),
            ):
                client.raw((json.dumps({"type": kind, **fields}) + "\n").encode() * 2000)
        names = [f"kicked user {client.id}: slow" for client in greedy]
        while len(target.logged("|".join(names), since)) < len(names):
            await pause(0.1)
    for client in [writer, *greedy]:
        await client.reset()
    assert len(target.logged("kicked user .*: slow", since)) == len(names)


async def test_guessing_passwords(target: Target) -> None:
    since = len(target.logged(""))
    victim = target.connect()
    await victim.ask("register", name="victim", password=PASSWORD)
    async with undisturbed(target):
        guessers = [target.connect(address="127.0.0.66") for _ in range(20)]
        for guesser in guessers:
            for number in range(50):
                guesser.tell("login", ref=number, name="victim", password=f"guess {number}")
        names = []
        for guesser in guessers:
            names += [(await guesser.reply(number))["name"] for number in range(50)]
        assert set(names) == {"password_invalid", "rate_limited"}
        # As many as were being looked at when the tenth turned out wrong, no more.
        assert 10 <= names.count("password_invalid") <= 14
        await victim.ok("login", name="victim", password=PASSWORD)
        for guesser in guessers:
            await guesser.close()
    await victim.close()
    while True:
        refused = target.logged("logins refused from 127.0.0.66: too many", since)
        if sum(int(line.split(" logins refused")[0].split()[-1]) for line in refused) == names.count("rate_limited"):
            break
        await pause(0.05)
    # A line a second at most, however many there are.
    assert len(refused) < 10
