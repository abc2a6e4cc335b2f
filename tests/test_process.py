"""The process around the services: start, signals, reload and exit status, in the foreground and as a daemon."""

from __future__ import annotations

import gc
import json
import os
import re
import select
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from processes import Place
from server_process import TESTS, ServerProcess, environment, server, with_fake_assembly
from twisted.application.service import Application, IServiceCollection, MultiService
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver
from twisted.python.components import Componentized

from flux.bench.servers import twistd
from flux.config import Settings
from flux.log import Threshold
from flux.process import ExitStatus, FluxProcess, shortened
from flux.workers.handover import ALIVE, ALIVE_EVERY, STARTED
from flux.workers.supervisor import SILENT_FOR


def flux(*arguments: str, cwd: Path) -> Any:
    return server(with_fake_assembly("-n", "flux", *arguments), cwd, environment())


def messages(process: ServerProcess) -> list[str]:
    """The log without times."""
    return [line.split(" ", 1)[-1] for line in process.lines]


# --- the clock ---------------------------------------------------------------


def on_a_clock(place: Place, which: str, step: int) -> list[str]:
    """The command of a chat server whose clock is put forward by a signal."""
    command = twistd("flux-chat", place.settings)
    return [command[0], str(TESTS / "set_clock.py"), which, str(step), *command[command.index("--nodaemon") :]]


@pytest.mark.parametrize("hours", [-1, 1])
def test_who_sets_the_clock_of_the_machine_stops_nothing_and_ends_nothing(hours: int, tmp_path: Path) -> None:
    """Set back, nothing would happen for an hour; set forward, whoever has pinged would have been silent for one."""
    with ExitStack() as stack:
        # Longer than a login takes on a busy machine, as its password is hashed.
        place = Place(tmp_path, stack, chat__login_timeout="4")
        command = twistd("flux-chat", place.settings)
        script = [
            command[0],
            str(TESTS / "set_clock.py"),
            "time",
            str(hours * 3600),
            *command[command.index("--nodaemon") :],
        ]
        process = stack.enter_context(server(script, tmp_path, environment()))
        process.wait_for("flux-chat started in")
        ann = place.log_in("ann")
        assert ann.ask("ping")["type"] == "ping.ok"
        # The look at all connections that ends this one has noticed what ann said.
        assert place.person().next()["type"] == "closed"
        stranger = place.person()
        assert stranger.ask("ping")["type"] == "ping.ok"
        process.signal(signal.SIGUSR2)
        # The one that ends this one finds ann in order.
        assert stranger.next()["type"] == "closed"
        pong = ann.ask("ping")
        assert pong["type"] == "ping.ok"
        assert abs(pong["at"] / 1000 - time.time() - hours * 3600) < 1800


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no clock that a suspend does not stop")
def test_a_process_notices_that_its_machine_was_suspended(tmp_path: Path) -> None:
    with ExitStack() as stack:
        place = Place(tmp_path, stack)
        process = stack.enter_context(server(on_a_clock(place, "boottime", 600), tmp_path, environment()))
        process.wait_for("flux-chat started in")
        process.signal(signal.SIGUSR2)
        process.wait_for("this process stood still for 600 s, longer than its lease")


# --- start and stop ----------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_the_exit_status_is_0(number: signal.Signals, tmp_path: Path) -> None:
    with flux(cwd=tmp_path) as process:
        process.wait_for("telnet 127.0.0.1 8090")
        process.signal(number)
        assert process.end() == (0, "")
    seen = messages(process)
    assert seen.index("info  fake starting chat gate status") < seen.index("info  fake draining")
    assert f"info  process.FluxProcess {number.name}: stopping; once more to exit at once" in seen
    assert seen[-1] == "info  process.FluxProcess flux stopped"
    assert not (tmp_path / "twistd.pid").exists()


def test_the_banner_follows_the_start_as_it_is(tmp_path: Path) -> None:
    with flux(cwd=tmp_path) as process:
        process.wait_for("flux started in")
        assert process.wait_for("") == "ready: type"
        assert process.wait_for("") == "  telnet 127.0.0.1 8090"


def test_a_second_signal_exits_at_once(tmp_path: Path) -> None:
    with flux("--set", "chat.name=hangs-at-stop", cwd=tmp_path) as process:
        process.wait_for("telnet")
        process.signal(signal.SIGTERM)
        process.wait_for("draining")
        process.signal(signal.SIGTERM)
        assert process.end() == (1, "")


def test_a_failed_start_is_one_line_and_exit_status_1(tmp_path: Path) -> None:
    with flux("--set", "chat.name=fails", cwd=tmp_path) as process:
        assert process.end() == (1, "cannot start flux: the store: it is used by process 7\n")
    seen = messages(process)
    assert "critical process.FluxProcess cannot start flux: the store: it is used by process 7" in seen
    assert not any("Traceback" in line or "draining" in line or "ready" in line for line in seen)
    assert not (tmp_path / "twistd.pid").exists()


def test_a_start_that_fails_for_a_bug_is_traced_in_the_log(tmp_path: Path) -> None:
    with flux("--set", "chat.name=breaks", cwd=tmp_path) as process:
        assert process.end() == (1, "cannot start flux: a bug\n")
    assert any("\tbuiltins.ZeroDivisionError: a bug" in line for line in process.lines)


@pytest.mark.parametrize("key", ["chat.listen", "admin.listen"])
def test_a_port_that_is_taken_is_one_line_that_says_what_to_do(key: str, tmp_path: Path) -> None:
    settings = dict.fromkeys(("chat.listen", "status.listen", "admin.listen"), "tcp:0:interface=127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings |= {key: f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1", "gate.listen": ""}
        with server(twistd("flux", settings), tmp_path, environment()) as process:
            status, errors = process.end()
    assert (status, errors.count("\n")) == (1, 1)
    assert errors.startswith("cannot start flux: ")
    assert f"{key} = {settings[key]}: Couldn't listen on" in errors
    assert f"Is the server running already? Stop it, or choose another {key}." in errors
    [said] = [line for line in messages(process) if "cannot start" in line]
    assert said == f"critical process.FluxProcess {errors.rstrip()}"
    assert not any("Traceback" in line for line in process.lines)


def test_a_bug_below_a_stage_is_traced_too(tmp_path: Path) -> None:
    with flux("--set", "chat.name=breaks-below", cwd=tmp_path) as process:
        assert process.end() == (1, "cannot start flux: the store: a bug\n")
    assert any("\tbuiltins.ZeroDivisionError: a bug" in line for line in process.lines)


def test_a_failed_stop_is_exit_status_1(tmp_path: Path) -> None:
    with flux("--set", "chat.name=breaks-at-stop", cwd=tmp_path) as process:
        process.wait_for("telnet")
        process.signal(signal.SIGTERM)
        assert process.end() == (1, "")
    assert "critical process.FluxProcess stopping flux failed" in messages(process)


def test_a_service_that_cannot_go_on_ends_the_process_with_exit_status_1(tmp_path: Path) -> None:
    with flux("--set", "chat.name=dies", cwd=tmp_path) as process:
        assert process.end() == (1, "")
    assert "info  fake draining" in messages(process)


def test_a_service_that_has_done_its_work_ends_the_process_with_exit_status_0(tmp_path: Path) -> None:
    with flux("--set", "chat.name=is-done", cwd=tmp_path) as process:
        assert process.end() == (0, "")
    assert "info  fake draining" in messages(process)


@pytest.mark.parametrize("behaviour", ["hangs", "hangs-and-fails"])
def test_a_signal_while_starting_ends_the_start(tmp_path: Path, behaviour: str) -> None:
    """And is no failure of it, whatever becomes of what was under way."""
    with flux("--set", f"chat.name={behaviour}", cwd=tmp_path) as process:
        process.wait_for("starting")
        process.signal(signal.SIGTERM)
        assert process.end() == (0, "")
    assert not any("draining" in line or "cannot start" in line for line in process.lines)


def test_the_limit_of_open_files_is_raised(tmp_path: Path) -> None:
    command = ["bash", "-c", 'ulimit -Sn 300; ulimit -Hn 400; exec "$@"', "-", *with_fake_assembly("-n", "flux")]
    with server(command, tmp_path, environment()) as process:
        assert process.wait_for("limit of open files").endswith("the limit of open files is 400 (was 300)")


def test_a_limit_of_open_files_that_cannot_be_raised_is_not_talked_of(tmp_path: Path) -> None:
    command = ["bash", "-c", 'ulimit -n 400; exec "$@"', "-", *with_fake_assembly("-n", "flux")]
    with server(command, tmp_path, environment()) as process:
        process.wait_for("telnet")
        assert not any("open files" in line for line in process.lines)


# --- commands and options ----------------------------------------------------


def test_all_mistakes_stop_the_start(tmp_path: Path) -> None:
    with flux("--set", "chat.weight=0", "--set", "chat.nmae=x", cwd=tmp_path) as process:
        status, errors = process.end()
    assert status == 1
    assert errors.startswith("flux: 2 mistakes in the configuration:\n  chat.weight: ")
    assert "chat.nmae: is no key, did you mean chat.name? (--set chat.nmae)" in errors
    assert process.lines == []


def test_each_command_has_its_roles(tmp_path: Path) -> None:
    with server(with_fake_assembly("-n", "flux-chat"), tmp_path, environment()) as process:
        assert process.wait_for("fake starting").endswith("fake starting chat")
    own = ["--set", "state.kind=my.State"]
    with server(with_fake_assembly("-n", "flux-status", *own), tmp_path, environment()) as process:
        assert process.wait_for("fake starting").endswith("fake starting status")
    own += ["--set", "store.kind=my.Store", "--set", "gate.status=127.0.0.1:1"]
    with server(with_fake_assembly("-n", "flux-gate", *own), tmp_path, environment()) as process:
        assert process.wait_for("fake starting").endswith("fake starting gate")


def test_a_gate_alone_refuses_what_it_cannot_share(tmp_path: Path) -> None:
    with server(with_fake_assembly("-n", "flux-gate", "--set", "gate.listen="), tmp_path, environment()) as process:
        status, errors = process.end()
    assert status == 1
    for mistake in (
        "state.kind: memory is not shared",
        "store.kind: an SQLite file belongs to one process",
        "gate.status: is empty",
        "gate.listen: is empty",
    ):
        assert f"\n  {mistake}" in errors


def test_a_status_service_alone_refuses_unshared_state(tmp_path: Path) -> None:
    with server(with_fake_assembly("-n", "flux-status"), tmp_path, environment()) as process:
        status, errors = process.end()
    assert status == 1
    assert "\n  state.kind: memory is not shared" in errors


def test_the_version(tmp_path: Path) -> None:
    from flux import __version__

    with flux("--version", cwd=tmp_path) as process:
        assert process.end() == (0, "")
    assert process.lines == [f"flux {__version__}"]


# --- reload ------------------------------------------------------------------


def test_a_hangup_applies_what_it_can_and_says_what_it_cannot(tmp_path: Path) -> None:
    ini = tmp_path / "flux.ini"
    ini.write_text("[chat]\nname = a\n", "utf-8")
    with flux("--config", "flux.ini", "--set", "chat.weight=2", cwd=tmp_path) as process:
        process.wait_for("telnet")

        ini.write_text("[chat]\nname = b\ntakeover = no\nweight = 3\n", "utf-8")
        process.signal(signal.SIGHUP)
        assert process.wait_for("reloaded").endswith("name=a takeover=False")
        assert process.wait_for("SIGHUP").endswith("SIGHUP: changed chat.takeover")
        assert process.wait_for("SIGHUP").endswith("SIGHUP: a restart is needed for chat.name")

        ini.write_text("[chat]\ntakeover = maybe\nname = -\n[log]\nlevel = debug\n", "utf-8")
        process.signal(signal.SIGHUP)
        assert 'error process.FluxProcess SIGHUP: chat.name: "-" is not a name' in process.wait_for("SIGHUP")
        assert 'SIGHUP: chat.takeover: "maybe" is neither' in process.wait_for("SIGHUP")
        assert process.wait_for("SIGHUP").endswith("the settings stay as they are until the configuration is right")

        ini.write_text("[chat]\nname = a\n", "utf-8")
        process.signal(signal.SIGHUP)
        assert process.wait_for("reloaded").endswith("name=a takeover=True")
        assert process.wait_for("SIGHUP").endswith("SIGHUP: changed chat.takeover")

        process.signal(signal.SIGHUP)
        assert process.wait_for("SIGHUP").endswith("SIGHUP: changed nothing")
        process.signal(signal.SIGTERM)
        assert process.end() == (0, "")


def test_the_level_changes_at_run_time(tmp_path: Path) -> None:
    ini = tmp_path / "flux.ini"
    ini.write_text("[log]\nlevel = warn\n", "utf-8")
    with flux("--config", "flux.ini", cwd=tmp_path) as process:
        process.wait_for("telnet")
        assert process.lines == ["ready: type", "  telnet 127.0.0.1 8090"]
        ini.write_text("[log]\nlevel = info\n", "utf-8")
        process.signal(signal.SIGHUP)
        assert process.wait_for("SIGHUP").endswith("SIGHUP: changed log.level")
        process.signal(signal.SIGTERM)
        process.wait_for("SIGTERM: stopping")


def test_a_hangup_while_starting_changes_nothing(tmp_path: Path) -> None:
    with flux("--set", "chat.name=hangs", cwd=tmp_path) as process:
        process.wait_for("starting")
        process.signal(signal.SIGHUP)
        process.wait_for("SIGHUP: nothing is read again while starting")
        process.signal(signal.SIGTERM)
        assert process.end() == (0, "")


# --- where the log goes ------------------------------------------------------


def test_the_log_goes_to_the_file_and_the_banner_to_the_person(tmp_path: Path) -> None:
    command = with_fake_assembly("-n", "--logfile", "flux.log", "flux", "--set", "log.format=json")
    with server(command, tmp_path, environment()) as process:
        process.wait_for("telnet")
        process.signal(signal.SIGTERM)
        assert process.end() == (0, "")
    assert process.lines == ["ready: type", "  telnet 127.0.0.1 8090"]
    events = [json.loads(line) for line in (tmp_path / "flux.log").read_text("utf-8").splitlines()]
    said = {"roles": "chat gate status", "message": "starting chat gate status"}
    assert any(said.items() <= event.items() for event in events)


def test_a_log_that_was_moved_is_begun_anew(tmp_path: Path) -> None:
    log, moved = tmp_path / "flux.log", tmp_path / "moved"
    command = with_fake_assembly("-n", "--logfile", "flux.log", "flux")
    with server(command, tmp_path, environment()) as process:
        process.wait_for("telnet")
        log.rename(moved)
        process.signal(signal.SIGUSR1)
        while not log.exists():
            assert process.popen.poll() is None
        process.signal(signal.SIGTERM)
        assert process.end() == (0, "")
    assert "starting chat" in moved.read_text("utf-8")
    assert "SIGTERM: stopping" not in moved.read_text("utf-8")
    assert "SIGTERM: stopping" in log.read_text("utf-8")


def test_the_level_of_the_start_holds(tmp_path: Path) -> None:
    with flux("--set", "log.level=debug", cwd=tmp_path) as process:
        assert process.wait_for("a detail").endswith("debug fake a detail")


def test_an_observer_of_the_users_own_is_left_to_twistd(tmp_path: Path) -> None:
    command = with_fake_assembly("-n", "--logger", "fake_assembly.own_observer", "flux")
    with server(command, tmp_path, environment()) as process:
        assert process.wait_for("starting chat") == "own: starting chat gate status"


# --- daemons -----------------------------------------------------------------


def daemon(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        with_fake_assembly(*arguments), cwd=cwd, env=environment(), capture_output=True, text=True, check=False
    )


def wait_for_end(pid: int) -> None:
    handle = os.pidfd_open(pid)
    try:
        assert select.select([handle], [], [], 60)[0]
    finally:
        os.close(handle)


def test_a_daemon_has_started_when_its_parent_returns(tmp_path: Path) -> None:
    done = daemon("flux", cwd=tmp_path)
    pid = int((tmp_path / "twistd.pid").read_text("ascii"))
    log = (tmp_path / "twistd.log").read_text("utf-8")
    os.kill(pid, signal.SIGTERM)
    wait_for_end(pid)
    assert (done.returncode, done.stderr) == (0, "")
    assert "flux started in" in log
    assert not (tmp_path / "twistd.pid").exists()


def test_a_daemon_that_cannot_start_fails_for_its_parent(tmp_path: Path) -> None:
    done = daemon("flux", "--set", "chat.name=fails", cwd=tmp_path)
    assert done.returncode == 1
    assert "the store: it is used by process 7" in done.stderr


def test_a_reason_too_long_for_the_parent_of_a_daemon_ends_at_a_word(tmp_path: Path) -> None:
    done = daemon("flux", "--set", "chat.name=fails-at-length", cwd=tmp_path)
    assert done.returncode == 1
    said = re.search("An error has occurred: b'(.*)'", done.stderr)
    assert said is not None
    reason = "the store: it is used by process 7 and by another one and by another one and by ... (see the log)"
    assert said[1] == reason
    log = (tmp_path / "twistd.log").read_text("utf-8")
    assert log.count("and by another one") == 20


def test_a_supervisor_is_told_ten_times_as_much(tmp_path: Path) -> None:
    worker = with_fake_assembly("-n", "flux-chat", "--worker", "1", "--set", "chat.name=fails-at-length")
    command = ["bash", "-c", f'exec "$@" {STARTED}>told', "-", *worker]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert done.returncode == 1
    told = (tmp_path / "told").read_text("ascii")
    assert told.lstrip(".") == "1 the store: it is used by process 7" + 20 * " and by another one"


class Endless:
    """An assembly whose start takes as long as a test wants."""

    exit_status = 1
    reread: Any = None

    def __init__(self) -> None:
        self.started: Deferred[None] = Deferred()

    async def start(self) -> None:
        await self.started

    async def stop(self) -> None:
        pass

    def reload(self, settings: Settings) -> None:
        pass

    def banner(self) -> str:
        return ""


def test_a_worker_shows_signs_of_life_until_it_has_started_whatever_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "set_threshold", lambda *_: None)
    monkeypatch.setattr(FluxProcess, "_raise_file_limit", lambda _: None)
    clock, assembly, status = Clock(), Endless(), ExitStatus()
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    process = FluxProcess(
        "flux-chat",
        Settings(),
        lambda: assembly,
        Settings,
        Threshold("error"),
        None,
        {},
        status,
        clock,
        supervised=True,
    )
    process._parent_pipe = writing
    starting = Deferred.fromCoroutine(process._start())
    for _ in range(10):
        assert os.read(reading, 100) == ALIVE
        clock.advance(ALIVE_EVERY)
    assert ALIVE_EVERY < SILENT_FOR / 2
    assembly.started.callback(None)
    assert starting.called
    assert os.read(reading, 100) == ALIVE + b"0"
    # Closed, and nothing comes any more.
    assert os.read(reading, 100) == b""
    assert clock.getDelayedCalls() == []
    os.close(reading)


@pytest.mark.parametrize(
    ("message", "shorter"),
    [
        (b"1 " + b"x" * 98, b"1 " + b"x" * 98),
        (b"1 " + b"x" * 99, b"1 " + b"x" * 80 + b" ... (see the log)"),
        (b"x" * 101, b"x" * 82 + b" ... (see the log)"),
        (b"x" * 82 + b" " + b"y" * 20, b"x" * 82 + b" ... (see the log)"),
        (b"x" * 80 + b" y " + b"z" * 20, b"x" * 80 + b" y ... (see the log)"),
        (b"x" * 80 + b" yy " + b"z" * 20, b"x" * 80 + b" ... (see the log)"),
    ],
)
def test_what_is_shortened_is_cut_between_words(message: bytes, shorter: bytes) -> None:
    assert shortened(message, 100) == shorter


def test_a_daemon_does_not_log_to_stdout(tmp_path: Path) -> None:
    done = daemon("--logfile", "-", "flux", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("A daemon cannot log to stdout")


@pytest.mark.parametrize("parent", [MultiService(), Application("somebody's own")])
def test_any_service_may_be_the_parent(parent: Any) -> None:
    seen: list[Any] = []
    process = FluxProcess(
        "flux", Settings(), Endless, Settings, Threshold("error"), seen.append, {}, ExitStatus(), Clock()
    )
    process.setServiceParent(parent)
    assert list(IServiceCollection(parent)) == [process]
    application = isinstance(parent, Componentized)
    assert ILogObserver(parent, None) == (seen.append if application else None)
