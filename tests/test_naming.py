"""A name belongs to one live chat server: a second one does not start; one that takes the place of a dead one does."""

from __future__ import annotations

import importlib
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer
from processes import Place, shared_by_all
from server_process import ServerProcess, environment, server
from status_parts import lease, texts
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from flux.addresses import HostPort
from flux.assembly.chat import will_listen
from flux.assembly.checks import name_checks
from flux.backends.memory import MemoryState
from flux.bench.engines import PostgresServer, RedisServer
from flux.bench.servers import free_port, twistd
from flux.chat.naming import LOOKS, MISSED, find_free
from flux.cli.check import STEP_WITHIN, attempt
from flux.config import listens_on, load
from flux.errors import Unavailable

HEARTBEAT, LEASE = 3.0, 10.0
OWN = HostPort("a.example", 8090)


class Start:
    """A server called ``a`` that starts while another one may have the name.

    :ivar outcome: of the search for a free name, once it has ended.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.state = MemoryState(self.clock.seconds)
        self.outcome: list[Any] = []

    def report(self, **changes: Any) -> None:
        """The other one's heartbeat."""
        Deferred.fromCoroutine(self.state.renew(lease("a", **changes), []))

    def begin(self, own: HostPort | None = OWN, heartbeat: float = HEARTBEAT) -> None:
        Deferred.fromCoroutine(find_free(self.state, "a", own, heartbeat, self.clock)).addBoth(self.outcome.append)

    def pass_time(self, seconds: float, meanwhile: Callable[[], object] = lambda: None) -> None:
        for _ in range(round(seconds / HEARTBEAT * LOOKS)):
            self.clock.advance(HEARTBEAT / LOOKS)
            meanwhile()


@pytest.fixture
def start() -> Start:
    return Start()


def test_a_name_without_a_lease_is_free_at_once(start: Start) -> None:
    Deferred.fromCoroutine(start.state.renew(lease("b"), []))
    start.begin()
    assert start.outcome == [None]


def test_a_name_is_taken_where_the_lease_is_renewed(start: Start) -> None:
    start.report()
    start.pass_time(HEARTBEAT / 2)
    start.begin()
    start.pass_time(HEARTBEAT / 4)
    assert start.outcome == []
    start.report()
    start.pass_time(HEARTBEAT / LOOKS)
    [failure] = start.outcome
    assert failure.check(Unavailable)
    assert failure.value.detail == (
        "another live chat server at a.example:8090 has the [chat] name 'a'; "
        "give this one another, or stop that one first"
    )


@pytest.mark.parametrize("silent", [0.0, 2.0])
def test_the_name_of_a_dead_one_is_free_when_its_heartbeat_has_not_come(start: Start, silent: float) -> None:
    start.report()
    start.clock.advance(silent)
    start.begin()
    start.pass_time(MISSED * HEARTBEAT - silent - 2 * HEARTBEAT / LOOKS)
    assert start.outcome == []
    start.pass_time(3 * HEARTBEAT / LOOKS)
    assert start.outcome == [None]


def test_a_long_wait_is_told_again(start: Start) -> None:
    start.report(ttl=600.0)
    start.begin(heartbeat=60.0)
    with capturedLogs() as logged:
        start.pass_time(70.0)
    assert start.outcome == []
    assert len(logged) == 2


def test_one_that_has_been_silent_for_longer_is_not_waited_for(start: Start) -> None:
    start.report()
    start.clock.advance(MISSED * HEARTBEAT)
    start.begin()
    assert start.outcome == [None]


ELSEWHERE = [HostPort("b.example", 8090), HostPort("a.example", 8091), None]


@pytest.mark.parametrize("own", ELSEWHERE)
def test_one_at_another_address_has_its_name_until_its_lease_is_over(start: Start, own: HostPort | None) -> None:
    start.report()
    start.clock.advance(5.0)
    with capturedLogs() as logged:
        start.begin(own)
        start.pass_time(LEASE - 5.0 - HEARTBEAT / LOOKS)
    assert start.outcome == []
    assert texts(logged) == [
        "a at a.example:8090 has reported 5.0 s ago: waiting whether it does so again, "
        "or its lease ends (it has another address)"
    ]
    start.pass_time(2 * HEARTBEAT / LOOKS)
    assert start.outcome == [None]


@pytest.mark.parametrize("own", ELSEWHERE)
def test_one_at_another_address_lives_although_its_heartbeat_was_late(start: Start, own: HostPort | None) -> None:
    # As it is when Redis fails over.
    start.report()
    start.clock.advance(5.0)
    start.begin(own)
    start.pass_time(3.0)
    start.report()
    start.pass_time(HEARTBEAT / LOOKS)
    [failure] = start.outcome
    assert failure.check(Unavailable)


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("tcp:8090", ("0.0.0.0", 8090)),
        ("tcp:port=8090:interface=10.0.0.7", ("10.0.0.7", 8090)),
        (r"haproxy:tcp:8090:interface=127.0.0.1", ("127.0.0.1", 8090)),
        (r"tcp6:8090:interface=fd00\:\:7", ("fd00::7", 8090)),
        ("tcp6:8090", ("::", 8090)),
        ("ssl:8090:privateKey=k", ("0.0.0.0", 8090)),
        ("tcp:0", None),
        ("unix:/run/flux", None),
    ],
)
def test_where_a_port_will_be(endpoint: str, address: tuple[str, int] | None) -> None:
    assert listens_on(endpoint) == address


def test_a_port_that_was_handed_over_is_known_before_it_is_used() -> None:
    with socket.socket() as handed_over:
        handed_over.bind(("127.0.0.1", 0))
        for _ in range(2):
            assert will_listen("tcp:0", handed_over.fileno()) == handed_over.getsockname()


@pytest.mark.parametrize(
    ("workers", "listen", "advertise", "expected"),
    [
        (1, "tcp:8090:interface=127.0.0.1", "", ["127.0.0.1:8090"]),
        (1, "tcp:0", "chat.example:4711", ["chat.example:4711"]),
        (1, "tcp:0", "", [None]),
        (2, "tcp:8090", "chat.example:4711", ["chat.example:4712", "chat.example:4713"]),
        (2, "tcp:0", "chat.example:4711", [None, None]),
    ],
)
async def test_the_check_knows_what_will_be_advertised(
    monkeypatch: pytest.MonkeyPatch, workers: int, listen: str, advertise: str, expected: list[str | None]
) -> None:
    checks = importlib.import_module("flux.assembly.checks")
    asked: list[str | None] = []

    async def look(state: Any, name: str, own: HostPort | None, heartbeat: float, clock: Any) -> None:
        asked.append(str(own) if own else None)

    monkeypatch.setattr(checks, "find_free", look)
    settings = load(None, [f"chat.workers={workers}", f"chat.listen={listen}", f"chat.advertise={advertise}",
                           "state.kind=redis", "store.kind=postgres", "store.dsn=postgresql:///d"])  # fmt: skip
    monkeypatch.setattr(checks, "make_state", lambda *_: (MemoryState(Clock().seconds), None))
    steps = name_checks(settings, Clock())
    for step in steps:
        await step.attempt()
    assert asked == expected
    # It has the time to wait for the end of a lease.
    clock = Clock()
    monkeypatch.setattr(checks, "find_free", lambda *_: Deferred())
    done = Deferred.fromCoroutine(attempt(name_checks(settings, clock)[:1], clock))
    clock.advance(STEP_WITHIN + settings.status.lease - 0.1)
    assert not done.called
    clock.advance(0.1)
    assert await done is False


def test_a_name_is_free_when_its_holder_stops_meanwhile(start: Start) -> None:
    start.report()
    start.begin()
    Deferred.fromCoroutine(start.state.retire("a", 1))
    start.pass_time(HEARTBEAT / LOOKS)
    assert start.outcome == [None]


async def test_a_server_whose_name_was_taken_says_by_whom(tmp_path: Path) -> None:
    chats = await ChatServer(tmp_path).start()
    try:
        old = chats.nodes[0]
        new = await chats.start_node(chat__name=old.node.name)
        await old.node.heartbeat.beat()
        assert old.fatal == [f"another process at 127.0.0.1:{new.port} started as {old.node.name!r} (chat.name)"]
        assert new.fatal == []
    finally:
        await chats.stop()


# --- whole processes ---


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def place(tmp_path: Path, stack: ExitStack, redis_server: RedisServer, postgres_server: PostgresServer) -> Place:
    shared = shared_by_all(redis_server, postgres_server, f"naming_{tmp_path.name}")
    return Place(tmp_path, stack, chat__advertise="127.0.0.1:4711", status__heartbeat="1", **shared)


def copied(place: Place, folder: Path, stack: ExitStack) -> tuple[int, ServerProcess]:
    """A server with the same settings but for the port, not yet started; and that port."""
    port = free_port()
    settings = place.settings | {"chat.listen": f"tcp:{port}:interface=127.0.0.1"}
    return port, stack.enter_context(server(twistd("flux-chat", settings), folder, environment()))


@pytest.mark.slow
def test_a_copy_of_a_live_server_opens_no_port_and_ends(place: Place, stack: ExitStack, tmp_path: Path) -> None:
    live = place.start("flux-chat")
    person = place.log_in()
    port, twin = copied(place, tmp_path, stack)
    twin.wait_for("chat1 at 127.0.0.1:4711 has reported")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    assert twin.end() == (
        1,
        "cannot start flux-chat: chat.name: another live chat server at 127.0.0.1:4711 has the [chat] name 'chat1'; "
        "give this one another, or stop that one first\n",
    )
    # The check says so as well, and would not if the other one did not live.
    command = [sys.executable, "-c", "import sys; from flux.cli.main import main; sys.exit(main())", "check"]
    command += ["--part", "chat", "--set", f"chat.listen=tcp:{port}:interface=127.0.0.1"]
    for key, value in place.settings.items():
        command += ["--set", f"{key}={value}"] if key != "chat.listen" else []
    checked = subprocess.run(command, env=environment(), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert [line.split(maxsplit=3)[3] for line in checked.stdout.splitlines() if line.startswith("FAILED")] == [
        "chat.name chat1"
    ]
    assert "another live chat server at 127.0.0.1:4711" in checked.stdout
    # Nobody here has noticed.
    assert person.ask("ping")["type"] == "ping.ok"
    live.signal(signal.SIGTERM)
    assert live.end() == (0, "")
    checked = subprocess.run(command, env=environment(), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert "chat.name chat1" in checked.stdout
    assert "no live chat server has it" in checked.stdout


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
def test_a_server_takes_the_place_of_one_that_is_gone(
    place: Place, stack: ExitStack, tmp_path: Path, how: signal.Signals
) -> None:
    gone = place.start("flux-chat")
    gone.signal(how)
    if how != signal.SIGSTOP:
        gone.end()
    port, successor = copied(place, tmp_path, stack)
    successor.wait_for(" process.FluxProcess flux-chat started in")
    # One that has given its lease up is not waited for.
    assert how != signal.SIGTERM or not any("has reported" in line for line in successor.lines)
    place.chat = port
    again = place.log_in()
    assert again.ask("ping")["type"] == "ping.ok"
    if how == signal.SIGSTOP:
        gone.signal(signal.SIGCONT)
        assert gone.end()[0] == 1
        assert "another process at 127.0.0.1:4711 started as 'chat1' (chat.name)" in "\n".join(gone.lines)
    successor.signal(signal.SIGTERM)
    assert successor.end() == (0, "")
