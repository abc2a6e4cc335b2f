"""The supervisor of workers, with processes that only seem to be: starts, restarts, drains, stops, output."""

from __future__ import annotations

import random
import signal
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from status_parts import texts
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from flux.addresses import HostPort
from flux.config import Settings, load
from flux.lifecycle import CannotStart
from flux.workers import supervisor as module
from flux.workers.child import LONGEST_LINE, Child
from flux.workers.handover import ALIVE, DRAINED, OWN, SHARED, STARTED
from flux.workers.supervisor import STABLE_AFTER, STOP_WITHIN, Supervisor, worker_settings

DRAIN = 2.0


class Process:
    """A process as the reactor starts it."""

    def __init__(self, reactor: Reactor, protocol: Child, arguments: Sequence[str], files: dict[int, Any]) -> None:
        self.reactor = reactor
        self.protocol = protocol
        self.arguments = arguments
        self.descriptors = files
        self.signals: list[str] = []
        self.pid: int | None = 100 + len(reactor.processes)

    def signalProcess(self, number: int) -> None:  # noqa: N802 - Twisted's name
        if self.pid is None:
            raise ProcessExitedAlready
        self.signals.append(signal.Signals(number).name)

    def listens(self) -> None:
        self.protocol.childDataReceived(STARTED, b"0")
        self.protocol.childConnectionLost(STARTED)

    def ends(self, status: int = 0, said: bytes = b"") -> None:
        """With an exit status, or minus the number of a signal."""
        self.pid = None
        if said:
            self.protocol.childDataReceived(STARTED, said)
        self.protocol.childConnectionLost(STARTED)
        reason = ProcessTerminated(status, None, 0) if status > 0 else ProcessTerminated(None, -status, 0)
        self.protocol.processEnded(Failure(reason if status else ProcessDone(0)))


class Reactor(Clock):
    """Time, processes, and whether it was stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[Process] = []
        self.stopped = False
        self.full = False

    def spawnProcess(self, protocol: Child, executable: str, args: Sequence[str], **how: Any) -> None:  # noqa: N802
        if self.full:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        process = Process(self, protocol, args, how["childFDs"])
        self.processes.append(process)
        protocol.makeConnection(process)  # type: ignore[arg-type]

    def stop(self) -> None:
        self.stopped = True

    @property
    def running(self) -> list[Process]:
        return [process for process in self.processes if process.pid is not None]


class Port:
    """What listens: number and descriptor are the same."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.accepts = True

    def stopReading(self) -> None:  # noqa: N802 - Twisted's name
        self.accepts = False

    def fileno(self) -> int:
        return self.number


class Listener:
    """Every port can be had but those in ``taken``."""

    taken: tuple[int, ...] = ()
    open: list[int]

    def __init__(self, key: str, description: str, factory: Any, reactor: Any) -> None:
        self.number = int(description.split(":")[1])
        self.port: Port | None = None

    async def start(self) -> None:
        if self.number in self.taken:
            problem = CannotListenError("127.0.0.1", self.number, OSError(98, "Address already in use"))
            raise CannotStart(f"port {self.number} is taken") from problem
        self.port = Port(self.number)
        Listener.open.append(self.number)

    async def stop(self) -> None:
        if self.port is not None:
            Listener.open.remove(self.number)
            self.port = None

    def address(self) -> HostPort:
        return HostPort("127.0.0.1", self.number)


class Inner:
    """Services in the supervisor's own process."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def start(self) -> None:
        self.calls.append("start")

    async def stop(self) -> None:
        self.calls.append("stop")

    def reload(self, settings: Settings) -> None:
        self.calls.append("reload")

    def banner(self) -> str:
        return "the inner ones"


class Setup:
    """A supervisor of two workers."""

    def __init__(self, inner: Inner | None = None, workers: int = 2) -> None:
        settings = Settings()
        chat = replace(settings.chat, listen="tcp:8090", workers=workers, drain=DRAIN, name="chat")
        self.settings = replace(settings, chat=chat)
        self.reactor = Reactor()
        self.supervisor = Supervisor(
            self.settings, lambda number: ["program", f"--worker={number}"], inner, self.reactor, random.Random(1)
        )
        self.starting = Deferred.fromCoroutine(self.supervisor.start())

    async def started(self) -> Setup:
        for process in self.reactor.processes:
            process.listens()
        await self.starting
        return self

    def newest(self, number: int) -> Process:
        """The latest process of a worker."""
        return [each for each in self.reactor.processes if each.arguments[1] == f"--worker={number}"][-1]


@pytest.fixture(autouse=True)
def _ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Listener", Listener)
    monkeypatch.setattr(Listener, "taken", ())
    Listener.open = []


# --- start -------------------------------------------------------------------


async def test_it_has_started_when_all_workers_listen() -> None:
    inner = Inner()
    setup = Setup(inner)
    one, other = setup.reactor.processes
    assert one.arguments == ["program", "--worker=1"]
    assert (one.descriptors[SHARED], one.descriptors[OWN]) == (8090, 8091)
    assert (other.descriptors[SHARED], other.descriptors[OWN]) == (8090, 8092)
    # It accepts nothing itself.
    assert not setup.supervisor._shared.port.accepts
    one.listens()
    assert (setup.starting.called, inner.calls) == (False, [])
    other.listens()
    await setup.starting
    assert inner.calls == ["start"]
    banner = setup.supervisor.banner().splitlines()
    assert banner[0] == "flux chat server 'chat' listens on 127.0.0.1:8090 and has 2 workers:"
    assert [line.split() for line in banner[2:4]] == [["chat-1", "127.0.0.1:8091"], ["chat-2", "127.0.0.1:8092"]]
    assert banner[-1] == "the inner ones"
    assert worker_settings(setup.settings, 2).chat.name == "chat-2"


async def test_the_banner_names_the_dashboards_of_the_workers() -> None:
    setup = await Setup().started()
    assert "dashboards" not in setup.supervisor.banner()
    setup.supervisor._settings = replace(
        setup.settings, admin=replace(setup.settings.admin, listen="tcp:9090:interface=127.0.0.1")
    )
    assert [line.split() for line in setup.supervisor.banner().splitlines()[-2:]] == [
        ["chat-1", "http://127.0.0.1:9091/"],
        ["chat-2", "http://127.0.0.1:9092/"],
    ]


def test_each_worker_has_an_admin_port_after_the_one_that_is_set() -> None:
    def of_second(listen: str) -> str:
        return worker_settings(load(None, [f"admin.listen={listen}"]), 2).admin.listen

    assert of_second("tcp:9090:interface=127.0.0.1") == "tcp:9092:interface=127.0.0.1"
    assert [of_second(listen) for listen in ("auto", "", "unix:/run/flux")] == ["auto", "", ""]


async def test_ports_that_are_taken_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Listener, "taken", (8091, 8093))
    setup = await Setup().started()
    assert [process.descriptors[OWN] for process in setup.reactor.processes] == [8092, 8094]


async def test_a_shared_port_that_is_taken_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Listener, "taken", (8090,))
    with pytest.raises(CannotStart, match="port 8090 is taken"):
        await Setup().starting


async def test_a_worker_that_does_not_start_ends_the_start() -> None:
    setup = Setup(Inner())
    one, other = setup.reactor.processes
    one.listens()
    other.ends(1, b"1 the store: no such host")
    # First the others end.
    assert not setup.starting.called
    assert one.signals == ["SIGTERM"]
    one.ends()
    with pytest.raises(CannotStart, match="worker chat-2: the store: no such host"):
        await setup.starting
    assert Listener.open == []


async def test_a_worker_that_ends_without_a_word() -> None:
    setup = Setup(workers=2)
    one, other = setup.reactor.processes
    one.ends(-signal.SIGKILL)
    other.ends()
    with pytest.raises(CannotStart, match=r"worker chat-1: was killed by SIGKILL \(out of memory\?\)"):
        await setup.starting


async def test_a_start_that_is_cancelled_ends_the_workers() -> None:
    setup = Setup()
    setup.starting.cancel()
    for process in setup.reactor.processes:
        assert process.signals == ["SIGTERM"]
        process.ends()
    assert setup.starting.called
    setup.starting.addErrback(lambda failure: None)
    assert Listener.open == []


async def test_a_start_has_a_deadline() -> None:
    setup = Setup()
    setup.reactor.advance(module.SILENT_FOR)
    for process in setup.reactor.processes:
        process.ends()
    with pytest.raises(CannotStart, match="the workers: they do not listen, and have shown no sign of life for 120 s"):
        await setup.starting


async def test_a_start_has_time_as_long_as_a_worker_is_alive() -> None:
    """It migrates, perhaps, and the log has only errors."""
    setup = Setup()
    one, other = setup.reactor.processes
    for _ in range(5):
        setup.reactor.advance(module.SILENT_FOR - 1)
        one.protocol.childDataReceived(STARTED, ALIVE)
    assert (one.signals, setup.starting.called) == ([], False)
    for process in (one, other):
        process.listens()
    await setup.starting


async def test_a_worker_that_was_alive_says_why_it_does_not_start() -> None:
    setup = Setup(workers=2)
    one, other = setup.reactor.processes
    one.protocol.childDataReceived(STARTED, ALIVE)
    one.ends(1, ALIVE + b"1 the store: 127.0.0.1: no ...")
    other.ends()
    with pytest.raises(CannotStart, match=r"worker chat-1: the store: 127\.0\.0\.1: no \.\.\.$"):
        await setup.starting


# --- restarts ----------------------------------------------------------------


async def test_a_worker_that_ends_is_started_again_with_growing_pauses(flush_logged_errors) -> None:
    setup = await Setup().started()
    pauses = []
    for status in (-signal.SIGKILL, 1, 0, 1, 1):
        with capturedLogs() as logged:
            setup.newest(2).ends(status)
        [told] = texts(logged)
        assert told.startswith("worker chat-2 ")
        count, began = len(setup.reactor.processes), setup.reactor.seconds()
        while len(setup.reactor.processes) == count:
            setup.reactor.advance(0.01)
        pauses.append(setup.reactor.seconds() - began)
        assert setup.newest(2).descriptors[OWN] == 8092
    assert [low <= pause <= 2.1 * low for low, pause in zip((0.1, 0.2, 0.4, 0.8, 1.6), pauses, strict=True)] == [
        True
    ] * 5
    # One that was well for a while begins anew.
    setup.newest(2).listens()
    setup.reactor.advance(STABLE_AFTER)
    setup.newest(2).ends(1)
    count = len(setup.reactor.processes)
    setup.reactor.advance(0.21)
    assert len(setup.reactor.processes) == count + 1
    assert len(setup.reactor.running) == 2
    await stopped(setup)
    assert len(flush_logged_errors()) == 6


async def test_a_machine_that_has_no_room_for_a_process_is_asked_again(flush_logged_errors) -> None:
    setup = await Setup().started()
    setup.reactor.full = True
    with capturedLogs() as logged:
        setup.newest(1).ends(1)
        setup.reactor.advance(0.21)
    assert "worker chat-1 cannot be started: [Errno 11] Resource temporarily" in texts(logged)[1]
    setup.reactor.full = False
    setup.reactor.advance(0.41)
    assert len(setup.reactor.running) == 2
    await stopped(setup)
    assert len(flush_logged_errors()) == 2


# --- draining ----------------------------------------------------------------


async def test_a_drained_worker_is_left_out_and_without_any_left_it_ends() -> None:
    setup = await Setup().started()
    setup.newest(1).ends(DRAINED)
    setup.reactor.advance(60)
    assert (len(setup.reactor.running), Listener.open) == (1, [8090, 8092])
    assert not setup.reactor.stopped
    setup.newest(2).ends(DRAINED)
    assert (setup.reactor.stopped, setup.supervisor.exit_status) == (True, 0)
    await setup.supervisor.stop()
    assert Listener.open == []


async def test_with_services_of_its_own_it_goes_on() -> None:
    setup = await Setup(Inner()).started()
    for number in (1, 2):
        setup.newest(number).ends(DRAINED)
    assert not setup.reactor.stopped


# --- signals and stop --------------------------------------------------------


async def stopped(setup: Setup) -> None:
    stopping = Deferred.fromCoroutine(setup.supervisor.stop())
    for process in setup.reactor.running:
        process.ends()
    await stopping


async def test_a_stop_waits_for_the_workers() -> None:
    inner = Inner()
    setup = await Setup(inner).started()
    stopping = Deferred.fromCoroutine(setup.supervisor.stop())
    one, other = setup.reactor.processes
    assert one.signals == other.signals == ["SIGTERM"]
    # The queues are not kept open for nobody.
    assert Listener.open == []
    one.ends()
    setup.reactor.advance(DRAIN)
    assert not stopping.called
    other.ends()
    await stopping
    assert inner.calls == ["start", "stop"]
    setup.reactor.advance(60)
    assert setup.reactor.running == []


async def test_a_worker_that_does_not_end_is_killed(flush_logged_errors) -> None:
    setup = await Setup().started()
    stopping = Deferred.fromCoroutine(setup.supervisor.stop())
    one, other = setup.reactor.processes
    one.ends()
    setup.reactor.advance(DRAIN + STOP_WITHIN)
    assert other.signals == ["SIGTERM", "SIGKILL"]
    other.ends(-signal.SIGKILL)
    await stopping
    assert len(flush_logged_errors()) == 1


async def test_a_stop_while_a_worker_waits_to_be_started_again(flush_logged_errors) -> None:
    setup = await Setup().started()
    setup.newest(1).ends(1)
    await stopped(setup)
    setup.reactor.advance(60)
    assert len(setup.reactor.processes) == 2
    assert len(flush_logged_errors()) == 1


async def test_a_reload_is_passed_on_and_its_drain_holds() -> None:
    inner = Inner()
    setup = await Setup(inner).started()
    chat = replace(setup.settings.chat, drain=50.0)
    setup.supervisor.reload(replace(setup.settings, chat=chat))
    assert [process.signals for process in setup.reactor.processes] == [["SIGHUP"]] * 2
    assert inner.calls == ["start", "reload"]
    stopping = Deferred.fromCoroutine(setup.supervisor.stop())
    setup.reactor.advance(50)
    assert "SIGKILL" not in setup.newest(1).signals
    for process in setup.reactor.running:
        process.ends()
    await stopping


# --- output ------------------------------------------------------------------


async def test_what_workers_print_is_logged_line_by_line(flush_logged_errors) -> None:
    setup = await Setup().started()
    with capturedLogs() as logged:
        one = setup.newest(1).protocol
        one.childDataReceived(1, b"a li")
        one.childDataReceived(2, b"Traceback\n  File\n")
        one.childDataReceived(1, b"ne\nand an\xff")
        one.childDataReceived(2, b"x" * (LONGEST_LINE + 1))
        setup.newest(1).ends(1)
    lines = [event["log_line"] for event in logged if "log_line" in event]
    assert lines[:3] == ["Traceback", "  File", "a line"]
    assert (len(lines[3]), lines[4]) == (LONGEST_LINE + 1, "and an\ufffd")
    await stopped(setup)
    assert len(flush_logged_errors()) == 1
