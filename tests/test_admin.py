"""``flux admin`` against a real status port: what it shows, changes and waits for, and what it says when it cannot."""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from admin_parts import running
from printed_table import cells
from rich.console import Console
from server_process import environment
from status_parts import lease, node, settings
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.utils import getProcessOutputAndValue

from flux.backends.memory import MemoryState
from flux.bench.servers import free_port
from flux.cli import admin
from flux.cli.admin import AdminFailed
from flux.client.status import StatusClient
from flux.config import ChatServer, reachable_at
from flux.errors import Unavailable
from flux.model.placement import Node, Snapshot
from flux.status.protocol import StatusFactory
from flux.status.service import StatusService

KEY = "a key of the cluster"
OLD = ChatServer("old", host="127.0.0.1", port=1)


class Cluster:
    """A status service of this process with a port, and what chat servers report to it."""

    def __init__(self, reactor: Any, **configured: Any) -> None:
        self.state = MemoryState(reactor.seconds)
        used = settings(**configured)
        self.service = StatusService(used, self.state, reactor, random.Random(1))
        self.factory = StatusFactory(self.service, used, reactor)
        self.reactor = reactor
        self.port: Any = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port.getHost().port}"

    async def start(self) -> Cluster:
        await self.report("chat1", 30)
        await self.report("chat2", 5)
        return await self.listen()

    async def listen(self) -> Cluster:
        await self.service.start()
        self.port = self.reactor.listenTCP(0, self.factory, interface="127.0.0.1")
        return self

    async def report(self, name: str, sessions: int) -> None:
        await self.state.renew(lease(name, sessions, capacity=5000, ttl=3600.0), [])

    async def stop(self) -> None:
        await self.port.stopListening()
        await self.service.stop()
        await self.factory.stop()


Start = Callable[..., Awaitable[Cluster]]


@pytest_twisted.async_yield_fixture
async def start():
    from twisted.internet import reactor

    clusters = []

    async def start(**configured: Any) -> Cluster:
        clusters.append(await Cluster(reactor, **configured).start())
        return clusters[-1]

    yield start
    for cluster in clusters:
        await cluster.stop()


async def flux_admin(*arguments: str, prelude: str = "pass", **env: str) -> tuple[int, str, str]:
    """Exit status, output, and what is said on stderr, of the command in a process of its own."""
    from twisted.internet import reactor

    command = f"{prelude}; import sys; from flux.cli.main import main; sys.exit(main())"
    output, errors, status = await getProcessOutputAndValue(
        sys.executable, ["-c", command, "admin", *arguments], {**environment(), **env}, reactor=reactor
    )
    return status, output.decode(), errors.decode()


# --- in a process of its own -------------------------------------------------


async def test_servers_are_a_table_for_people_and_objects_for_programs(start: Start) -> None:
    cluster = await start(chatservers=[OLD])
    await cluster.state.drain("chat2", True)
    await cluster.service.placement.refresh()
    status, output, errors = await flux_admin("servers", "--status", cluster.address, COLUMNS="120")
    assert (status, errors) == (0, "")
    rows = cells(output)
    assert [row[:7] for row in rows] == [
        ["chat1", "chat1.example:8090", "up", "30", "0", "5,000", "1"],
        ["chat2", "chat2.example:8090", "draining", "5", "0", "5,000", "1"],
        ["old", "127.0.0.1:1", "down", "0", "0", "no limit", "1"],
    ]
    assert rows[0][7].endswith("s ago")
    assert rows[2][7] == "never"
    status, output, errors = await flux_admin("servers", "--status", cluster.address, "--json")
    assert (status, errors) == (0, "")
    assert [(node["name"], node["state"], node["sessions"]) for node in json.loads(output)] == [
        ("chat1", "up", 30), ("chat2", "draining", 5), ("old", "down", 0),
    ]  # fmt: skip


@pytest.mark.parametrize("form", [(), ("--json",)])
async def test_servers_that_cannot_be_read_now_are_listed_with_a_warning(
    start: Start, form: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = await start(status={"lease": 0.001, "heartbeat": 60.0})

    async def away() -> Snapshot:
        raise Unavailable("the shared state is away")

    monkeypatch.setattr(cluster.state, "snapshot", away)
    status, output, errors = await flux_admin("servers", *form, "--status", cluster.address, COLUMNS="120")
    assert status == 1
    assert re.fullmatch(
        r"flux admin: WARNING: this is as it was \d+\.\d s ago, since the shared state is away\n", errors
    )
    states = [node["state"] for node in json.loads(output)] if form else [row[2] for row in cells(output)]
    assert states == ["unknown", "unknown"]


async def test_a_drain_is_not_over_because_nobody_knows_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    from twisted.internet import reactor

    looks = [node("chat1", state=state) for state in ("draining", "unknown", "unknown", "unknown", "down")]

    class Status:
        async def servers(self) -> list[Node]:
            return [looks.pop(0)]

    monkeypatch.setattr(admin, "GONE_WITHIN", 0.0)
    monkeypatch.setattr(admin, "LOOK_EVERY", 0.0)
    waiting = admin._wait(Status(), {"chat1": looks.pop(0)}, reactor, Console(stderr=True, quiet=True))
    assert await waiting == {"chat1": "down"}


async def test_whole_addresses_on_narrow_terminals_and_in_pipes(start: Start) -> None:
    hosts = ["a-machine-of-some-cluster.example", "fd00:1111:2222:3333:4444:5555:6666:7777"]
    cluster = await start(chatservers=[ChatServer(f"server-{host}", host=host, port=8090) for host in hosts])
    for env in ({}, {"COLUMNS": "80"}, {"COLUMNS": "20"}, {"COLUMNS": "80", "FORCE_COLOR": "1"}):
        _, output, _ = await flux_admin("servers", "--status", cluster.address, **env)
        words = [line.split() for line in output.splitlines()]
        assert [f"server-{hosts[0]}", f"{hosts[0]}:8090"] in [line[:2] for line in words]
        assert [f"server-{hosts[1]}", f"[{hosts[1]}]:8090"] in [line[:2] for line in words]
        assert [line[-6:] for line in words if "never" in line] == [["0", "0", "no", "limit", "1", "never"]] * 2
        assert ("\x1b[" in output) is ("FORCE_COLOR" in env)


async def test_a_service_that_knows_no_server_says_so() -> None:
    from twisted.internet import reactor

    cluster = await Cluster(reactor).listen()
    assert await flux_admin("servers", "--status", cluster.address) == (0, "no chat server has reported yet\n", "")
    assert (await flux_admin("servers", "--json", "--status", cluster.address))[1] == "[]\n"
    await cluster.stop()


async def test_drain_and_resume_by_name_and_by_pattern(start: Start) -> None:
    cluster = await start()
    assert await flux_admin("drain", "chat2", "--status", cluster.address) == (0, "chat2 is draining\n", "")
    assert (await cluster.state.snapshot()).draining == {"chat2"}
    status, output, _ = await flux_admin("resume", "chat*", "--json", "--status", cluster.address)
    assert status == 0
    assert json.loads(output) == [{"server": "chat1", "state": "up"}, {"server": "chat2", "state": "up"}]
    assert (await cluster.state.snapshot()).draining == frozenset()


async def test_address_and_key_come_from_the_configuration(start: Start, tmp_path: Path) -> None:
    cluster = await start(status={"cluster_key": KEY})
    secret = tmp_path / "key"
    secret.write_text(KEY + "\n")
    ini = tmp_path / "flux.ini"
    port = cluster.address.partition(":")[2]
    ini.write_text(f"[status]\nlisten = tcp:{port}\ncluster_key = file:{secret}\n")
    assert (await flux_admin("servers", "--config", str(ini)))[0] == 0
    # Both without a file, the key from the environment.
    by_set = ("--status", cluster.address, "--set", "status.cluster_key=env:FLUX_KEY")
    assert (await flux_admin("servers", *by_set, FLUX_KEY=KEY))[0] == 0
    status, _, errors = await flux_admin("servers", *by_set, FLUX_KEY="another key altogether")
    assert (status, errors) == (2, f"flux admin: {cluster.address} refuses status.cluster_key: wrong cluster key\n")
    status, _, errors = await flux_admin("servers", "--status", cluster.address)
    assert status == 2
    assert errors.startswith(f"flux admin: {cluster.address} wants a cluster key: give the configuration that it has")


async def test_who_cannot_be_asked_is_named(start: Start, tmp_path: Path) -> None:
    port = free_port()
    status, output, errors = await flux_admin("servers", "--status", f":{port}")
    assert (status, output) == (2, "")
    assert errors.startswith(f"flux admin: cannot reach 127.0.0.1:{port}: Connection was refused")
    assert "status.listen" in errors
    for arguments, said in [
        (("servers", "--status", "here:there"), "'here:there' is no address"),
        (("servers", "--config", str(tmp_path / "none.ini")), "none.ini: cannot be read"),
        (("servers", "--set", "status.listen=tcp:0:interface=127.0.0.1"), "give --status HOST:PORT"),
        (("servers", "--set", f"status.listen=unix:{tmp_path}/none"), f"cannot reach {tmp_path}/none: "),
    ]:
        status, output, errors = await flux_admin(*arguments)
        assert (status, output) == (2, "")
        assert said in errors, errors
    status, _, errors = await flux_admin()
    assert (status, "servers" in errors) == (2, True)


async def test_a_status_port_on_a_unix_socket(tmp_path: Path) -> None:
    status = f"status.listen=unix:{tmp_path}/status:mode=600"
    async with running(tmp_path, status, "chat.name=chat7"):
        code, output, errors = await flux_admin("servers", "--set", status, COLUMNS="120")
    assert (code, errors) == (0, "")
    assert [row[0] for row in cells(output)] == ["chat7"]


async def test_to_resume_a_server_that_has_ended_does_not_succeed(start: Start) -> None:
    cluster = await start()
    await cluster.state.retire("chat2", 1)
    await cluster.service.placement.refresh()
    status, output, errors = await flux_admin("resume", "chat?", "--status", cluster.address)
    assert (status, output) == (1, "chat1 is up\nchat2 is down\n")
    assert errors == "flux admin: no users for chat2 before it runs again; --wait waits for that\n"


# --- in this process ---------------------------------------------------------


@pytest_twisted.async_yield_fixture
async def cluster(start: Start):
    yield await start(chatservers=[OLD])


@pytest_twisted.async_yield_fixture
async def client(cluster: Cluster):
    client = StatusClient(cluster.reactor, [("127.0.0.1", cluster.port.getHost().port)])
    yield client
    await client.close()


async def act(client: StatusClient, *arguments: str, output: Console | None = None) -> None:
    """What the command does once it is connected."""
    from twisted.internet import reactor

    parser = argparse.ArgumentParser()
    admin.configure(parser)
    await admin._act(parser.parse_args(arguments), client, reactor, output or Console(quiet=True))


@pytest.mark.parametrize(
    ("name", "said"),
    [("chat3", "no chat server is called 'chat3'; known: chat1, chat2, old"), ("gate*", "no chat server matches")],
)
async def test_an_unknown_name_changes_nothing(client: StatusClient, cluster: Cluster, name: str, said: str) -> None:
    with pytest.raises(AdminFailed, match=said):
        await act(client, "drain", "chat1", name)
    assert (await cluster.state.snapshot()).draining == frozenset()


async def looks(cluster: Cluster, count: int) -> None:
    """Wait until the servers have been asked for so many times from now on."""
    seen = [0]
    everything: Deferred[None] = Deferred()
    original = cluster.service.servers

    def servers() -> Any:
        seen[0] += 1
        if seen[0] == count:
            everything.callback(None)
        return original()

    cluster.service.servers = servers  # type: ignore[method-assign]
    await everything
    cluster.service.servers = original  # type: ignore[method-assign]


@pytest.fixture
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "LOOK_EVERY", 0.01)
    monkeypatch.setattr("flux.cli.progress.REFRESH", 0.0)


@pytest.mark.usefixtures("_quickly")
async def test_waiting_for_a_server_ends_when_it_takes_users(
    client: StatusClient, cluster: Cluster, capsys: Any
) -> None:
    await cluster.state.retire("chat1", 1)
    screen = Console(force_terminal=True, width=100, file=(shown := _Shown()))
    waiting = Deferred.fromCoroutine(act(client, "resume", "chat1", "chat2", "--wait", output=screen))
    await looks(cluster, 3)
    assert not waiting.called
    assert "waiting for chat1" in shown.text
    await cluster.report("chat1", 0)
    await waiting
    assert capsys.readouterr().out == "chat1 is up\nchat2 is up\n"


@pytest.mark.usefixtures("_quickly")
async def test_waiting_ends_when_the_server_has_ended(client: StatusClient, cluster: Cluster, capsys: Any) -> None:
    screen = Console(force_terminal=True, width=100, file=(shown := _Shown()))
    waiting = Deferred.fromCoroutine(act(client, "drain", "chat1", "--wait", output=screen))
    await looks(cluster, 3)
    for sessions in (20, 0):
        await cluster.report("chat1", sessions)
        await cluster.service.placement.refresh()
        await looks(cluster, 2)
        assert not waiting.called
    await cluster.state.retire("chat1", 1)
    await cluster.service.placement.refresh()
    await waiting
    assert capsys.readouterr().out == "chat1 is down\n"
    assert "draining chat1: 20 of 30 sessions left" in shown.text
    assert "33 %" in shown.text


class _Shown:
    """What is written to a terminal."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


@pytest.mark.usefixtures("_quickly")
async def test_waiting_ends_when_an_empty_server_goes_on(
    client: StatusClient, cluster: Cluster, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "GONE_WITHIN", 0.05)
    waiting = Deferred.fromCoroutine(act(client, "drain", "chat1", "chat2", "--wait"))
    await looks(cluster, 3)
    assert not waiting.called
    for name in ("chat1", "chat2"):
        await cluster.report(name, 0)
    await cluster.service.placement.refresh()
    await waiting
    assert capsys.readouterr().out == "chat1 is draining\nchat2 is draining\n"


@pytest.mark.usefixtures("_quickly")
async def test_waiting_ends_when_somebody_resumes_the_server(client: StatusClient, cluster: Cluster) -> None:
    waiting = Deferred.fromCoroutine(act(client, "drain", "chat1", "--wait"))
    await looks(cluster, 3)
    await cluster.service.drain("chat1", False)
    with pytest.raises(AdminFailed, match="chat1 takes users again"):
        await waiting


async def test_a_server_of_the_static_list_cannot_be_waited_for(client: StatusClient, cluster: Cluster) -> None:
    with pytest.raises(AdminFailed, match="nobody knows when it is empty"):
        await act(client, "drain", "old", "--wait")
    assert (await cluster.state.snapshot()).draining == {"old"}


async def test_something_else_that_listens_there(cluster: Cluster) -> None:
    class Web(Protocol):
        def dataReceived(self, data: bytes) -> None:
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    factory = Factory.forProtocol(Web)
    factory.noisy = False
    port = cluster.reactor.listenTCP(0, factory, interface="127.0.0.1")
    status, _, errors = await flux_admin("servers", "--status", f":{port.getHost().port}")
    assert status == 2
    assert "does not speak flux's protocol" in errors
    await port.stopListening()


async def test_something_that_only_listens_there(cluster: Cluster) -> None:
    """As a port of HTTP does, which waits for the rest of a request."""
    port = cluster.reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
    where = f"127.0.0.1:{port.getHost().port}"
    shorter = "import flux.client.status; flux.client.status.ANSWER_WITHIN = 0.1"
    said = f"flux admin: {where} gives no answer as a status port does; see status.listen\n"
    assert await flux_admin("servers", "--status", where, prelude=shorter) == (2, "", said)
    await port.stopListening()


# --- where a status port is --------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("tcp:50052:interface=127.0.0.1", ("127.0.0.1", 50052)),
        ("tcp:50052", ("127.0.0.1", 50052)),
        ("tcp:port=50052:interface=0.0.0.0", ("127.0.0.1", 50052)),
        ("tcp:50052:10.0.0.7", ("10.0.0.7", 50052)),
        ("tcp6:50052", ("::1", 50052)),
        (r"tcp6:50052:interface=\:\:", ("::1", 50052)),
        (r"tcp:50052:interface=fd00\:\:7:backlog=50", ("fd00::7", 50052)),
        ("tcp:0", None),
        ("unix:/run/flux", None),
        ("ssl:50052", None),
        ("haproxy:tcp:50052", None),
        ("systemd:domain=INET:index=0", None),
    ],
)
def test_where_to_connect(endpoint: str, address: tuple[str, int] | None) -> None:
    assert reachable_at(endpoint) == address
