"""``flux check`` and the ``flux`` command that finds it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_assembly
import pytest
from server_process import environment
from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.error import TCPTimedOutError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from flux.cli import check, main
from flux.config import ChatServer, load
from flux.model.checks import Step


def outcomes(output: str) -> list[tuple[str, str]]:
    """(outcome, name) of each step; times must be there."""
    return re.findall(r"^(ok|FAILED) +[0-9]+ ms  (.+)$", output, re.MULTILINE)


# --- steps -------------------------------------------------------------------


async def test_each_step_is_a_line_with_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    clock = task.Clock()

    async def opens() -> str:
        await task.deferLater(clock, 1.25)
        return "schema 3"

    done = Deferred.fromCoroutine(check.attempt([Step("store: opens", opens)], clock))
    clock.advance(1.25)
    assert await done is True
    assert capsys.readouterr().out == "ok        1250 ms  store: opens\n                   schema 3\n"


async def test_a_failed_step_says_why_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    async def fails() -> None:
        raise check.CheckFailed("the disk is full\nMake room.")

    async def breaks() -> None:
        raise ZeroDivisionError

    async def works() -> None:
        return

    clock = task.Clock()
    steps = [Step("a", fails), Step("b", breaks), Step("c", works), Step("d", works)]
    assert await check.attempt(steps, clock) is False
    output = capsys.readouterr().out
    assert outcomes(output) == [("FAILED", "a"), ("FAILED", "b"), ("ok", "c"), ("ok", "d")]
    assert "\n                   the disk is full\n                   Make room.\n" in output
    assert "\n                   ZeroDivisionError\n" in output


async def test_a_step_that_hangs_fails(capsys: pytest.CaptureFixture[str]) -> None:
    clock = task.Clock()
    done = Deferred.fromCoroutine(check.attempt([Step("a", Deferred)], clock))
    clock.advance(check.STEP_WITHIN)
    assert await done is False
    assert capsys.readouterr().out == "FAILED   10000 ms  a\n                   a: nothing after 10 s\n"


async def test_ports_and_the_servers_of_the_static_list(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from twisted.internet import reactor

    monkeypatch.setitem(sys.modules, "flux.assembly", fake_assembly)
    taken = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
    free = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
    in_use, closed = taken.getHost().port, free.getHost().port
    await free.stopListening()
    settings = load(
        None,
        [
            "chat.listen=tcp:0:interface=127.0.0.1",
            f"status.listen=tcp:{in_use}:interface=127.0.0.1",
            "gate.listen=",
            "admin.listen=",
            "chatservers.name=there,gone",
            "there.host=127.0.0.1",
            f"there.port={in_use}",
            "gone.host=127.0.0.1",
            f"gone.port={closed}",
        ],
    )
    assert await check.attempt(check.steps(settings, reactor), reactor) is False
    await taken.stopListening()
    output = capsys.readouterr().out
    assert outcomes(output) == [
        ("ok", "store: opens"),
        ("ok", "chat.listen tcp:0:interface=127.0.0.1"),
        ("FAILED", f"status.listen tcp:{in_use}:interface=127.0.0.1"),
        ("ok", f"chat server there at 127.0.0.1:{in_use}"),
        ("FAILED", f"chat server gone at 127.0.0.1:{closed}"),
    ]
    assert "Is the server running already? Stop it, or choose another status.listen." in output
    assert "Connection was refused by other side" in output
    assert "Start that server, or correct gone.host and gone.port." in output


async def test_a_server_has_the_time_the_configuration_gives_it() -> None:
    reactor = MemoryReactorClock()
    server = ChatServer("far", host="127.0.0.1", port=1)
    done = Deferred.fromCoroutine(check.answers(server, load(None, ["status.check_timeout=2.5"]), reactor))
    [(host, port, factory, timeout, _)] = reactor.tcpClients
    assert (host, port, timeout) == ("127.0.0.1", 1, 2.5)
    factory.clientConnectionFailed(None, Failure(TCPTimedOutError()))
    reactor.advance(1)  # in which another address of the host would be tried
    with pytest.raises(check.CheckFailed, match=r"TCP connection timed out.*\nStart that server"):
        await done


# --- the command -------------------------------------------------------------


def flux(
    *arguments: str, cwd: Path, prelude: str = "pass", stdout: int = subprocess.PIPE, **env: str
) -> subprocess.CompletedProcess[str]:
    program = f"import sys; {prelude}; from flux.cli.main import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd,
        env={**environment(), **env},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


FREE = "tcp:0:interface=127.0.0.1"
ANY_PORT = [f"--set={key}.listen={FREE}" for key in ("chat", "status", "gate", "admin")]
FAKE = (
    f"sys.path.insert(0, {str(Path(__file__).parent)!r}); import fake_assembly; "
    "sys.modules['flux.assembly'] = fake_assembly"
)


def test_flux_check_is_quiet_about_nothing_and_exits_with_0(tmp_path: Path) -> None:
    (tmp_path / "flux.ini").write_text("\n".join(f"[{each}]\nlisten = {FREE}" for each in ("chat", "admin")), "utf-8")
    done = flux(
        *("check", "--config", "flux.ini", "--mail", "a@example.org"),
        *("--set", f"status.listen={FREE}", "--set", f"gate.listen={FREE}"),
        cwd=tmp_path,
        prelude=FAKE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [outcome for outcome, _ in outcomes(done.stdout)] == ["ok"] * 7
    assert "e-mail to a@example.org" in done.stdout
    assert "at flux-data/flux.db" in done.stdout


def test_flux_check_exits_with_1_if_a_step_fails(tmp_path: Path) -> None:
    own = ["--set", "chat.listen=unix:/nowhere/at/all", "--set", "gate.listen="]
    own += ["--set", "status.listen=tcp:0:interface=127.0.0.1"]
    done = flux("check", *own, cwd=tmp_path, prelude=FAKE)
    assert (done.returncode, done.stderr) == (1, "")
    assert outcomes(done.stdout)[2] == ("FAILED", "chat.listen unix:/nowhere/at/all")


EVERYTHING = [
    "chat.listen=tcp:0", "chat.websocket=tcp:0", "status.listen=tcp:0:interface=127.0.0.1", "gate.listen=tcp:0",
    "gate.status=127.0.0.1:1", "chatservers.name=old", "old.host=127.0.0.1", "old.port=1",
    "state.kind=redis", "state.url=redis://127.0.0.1:1/0", "store.kind=postgres", "store.dsn=postgresql://u:p@127.0.0.1:1/d",
]  # fmt: skip


@pytest.mark.parametrize(
    ("part", "names"),
    [
        (
            "flux",
            "store state chat.name balancer mailer status-service "
            "chat.listen chat.websocket status.listen gate.listen admin.listen old",
        ),
        ("chat", "store state chat.name chat.listen chat.websocket"),
        ("status", "state balancer status.listen old"),
        ("gate", "store state mailer status-service gate.listen"),
    ],
)
def test_a_part_tries_only_what_it_opens_and_uses(part: str, names: str) -> None:
    from twisted.internet import reactor

    steps = check.steps(load(None, EVERYTHING), reactor, roles=check.PARTS[part].roles)
    kinds = [
        name.replace("status service", "status-service").replace("chat server old", "old").split(" ")[0]
        for name in (step.name for step in steps)
    ]
    assert list(dict.fromkeys(kinds)) == names.split()


def test_an_admin_port_that_is_told_belongs_to_each_part() -> None:
    settings = load(None, [*EVERYTHING, "admin.listen=tcp:0:interface=127.0.0.1"])
    for part in check.PARTS.values():
        assert "admin.listen tcp:0:interface=127.0.0.1" in [
            step.name for step in check.steps(settings, task.Clock(), "", part.roles)
        ]


def test_a_part_that_would_not_start_with_this_configuration(tmp_path: Path) -> None:
    done = flux("check", "--part", "gate", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert outcomes(done.stdout) == [("FAILED", "configuration")]
    assert "state.kind: memory is not shared" in done.stdout
    assert "store.kind: an SQLite file belongs to one process" in done.stdout


def test_flux_check_exits_with_1_if_there_is_no_such_backend(tmp_path: Path) -> None:
    done = flux("check", "--set", "store.kind=no.Store", cwd=tmp_path, prelude=FAKE)
    assert (done.returncode, done.stderr) == (1, "")
    assert outcomes(done.stdout) == [("ok", "configuration"), ("FAILED", "backends")]
    assert "store.kind: no.Store: there is none" in done.stdout


def test_flux_check_tells_all_mistakes(tmp_path: Path) -> None:
    done = flux("check", "--set", "chat.weight=0", "--set", "chat.nmae=x", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert outcomes(done.stdout) == [("FAILED", "configuration")]
    assert "2 mistakes in the configuration:" in done.stdout


def test_flux_help_names_all_commands_and_imports_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    done = flux("--help", cwd=tmp_path, prelude="import atexit; atexit.register(lambda: print(sorted(sys.modules)))")
    assert done.returncode == 0
    help_text, modules = done.stdout.rsplit("\n[", 1)
    assert all(f"\n  {name} " in help_text for name in main.COMMANDS)
    assert "'flux.cli.main'" in modules
    assert "'twisted" not in modules


def test_no_command_at_all_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("usage: flux COMMAND [ARGUMENTS]")
    assert "\n  check " in errors


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(["chekc"])
    assert caught.value.code == 2
    assert "invalid choice: 'chekc'" in capsys.readouterr().err


def test_a_command_gets_its_arguments_and_returns_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("fake_command")
    module.configure = lambda parser: parser.add_argument("--times", type=int)  # type: ignore[attr-defined]
    module.run = lambda args: args.times  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_command", module)
    monkeypatch.setitem(main.COMMANDS, "fake", ("fake_command", "a command"))
    assert main.main(["fake", "--times", "3"]) == 3

    def interrupted(args: Any) -> int:
        raise KeyboardInterrupt

    module.run = interrupted  # type: ignore[attr-defined]
    assert main.main(["fake"]) == 130


def test_who_reads_no_further_ends_the_command_quietly(tmp_path: Path) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    for unbuffered in ("", "1"):
        done = flux("check", *ANY_PORT, cwd=tmp_path, prelude=FAKE, stdout=writes, PYTHONUNBUFFERED=unbuffered)
        assert (done.returncode, done.stderr) == (141, "")
    assert flux("--help", cwd=tmp_path, stdout=writes, PYTHONUNBUFFERED="").returncode == 141
    os.close(writes)


def test_who_stops_reading_within_the_reactor_ends_the_command_quietly(tmp_path: Path) -> None:
    # The first step closes what reads, after the line of the configuration has gone there.
    leaves = "import os; reads, writes = os.pipe(); os.dup2(writes, 1); leave = Step('leave', lambda: os.close(reads))"
    never = "Step('never', lambda: print(file=sys.stderr))"
    prelude = (
        f"from flux.model.checks import Step; {FAKE}; {leaves}; fake_assembly.checks = lambda *_: [leave, {never}]"
    )
    done = flux("check", *ANY_PORT, cwd=tmp_path, prelude=prelude)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        for command in (["check", *ANY_PORT], ["--help"]):
            for unbuffered in ("", "1"):
                done = flux(*command, cwd=tmp_path, prelude=FAKE, stdout=full.fileno(), PYTHONUNBUFFERED=unbuffered)
                assert (done.returncode, done.stderr) == (
                    1, "flux: cannot write to standard output: No space left on device\n",
                )  # fmt: skip


def test_a_closed_stdout_is_no_error(tmp_path: Path) -> None:
    done = flux("check", *ANY_PORT, cwd=tmp_path, prelude=f"{FAKE}; sys.stdout = None")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_of_the_table_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main([*name.split(), "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: flux {name}")


# --- the gate's mailer and status services -----------------------------------


async def test_the_mailer_and_the_status_services_of_the_gate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flush_logged_errors: Any
) -> None:
    from twisted.internet import reactor

    free = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
    closed = free.getHost().port
    await free.stopListening()
    settings = load(
        None,
        [
            f"store.path={tmp_path / 'flux.db'}",
            "mail.kind=smtp",
            "mail.host=127.0.0.1",
            f"mail.port={closed}",
            "mail.sender=chat@example.net",
            "mail.deadline=1s",
            f"gate.status=127.0.0.1:{closed}",
        ],
    )
    found = [
        step for step in check.steps(settings, reactor, "ann@example.org") if step.name.startswith(("m", "e", "stat"))
    ]
    found = [step for step in found if not step.name.startswith(("status.listen", "state"))]
    assert await check.attempt(found, reactor) is False
    output = capsys.readouterr().out
    assert outcomes(output) == [
        ("FAILED", "mailer smtp"),
        ("FAILED", f"status service 127.0.0.1:{closed} of gate.status"),
        ("FAILED", "e-mail to ann@example.org"),
    ]
    assert output.count("Connection was refused by other side") == 2
    assert len(flush_logged_errors()) == 1
    assert "Start that service, or correct gate.status." in output


@pytest.mark.parametrize(
    ("balancer", "complaint"),
    [
        ("least_connections", ""),
        ("balancers_of_somebody.Good", ""),
        ("balancers_of_nobody.Good", "cannot import 'balancers_of_nobody'"),
        ("balancers_of_somebody.Missing", "'balancers_of_somebody' has no 'Missing'"),
        ("balancers_of_somebody.Undeclared", "not an IBalancer"),
    ],
)
async def test_the_balancer_is_loaded(
    balancer: str,
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from twisted.internet import reactor

    (tmp_path / "balancers_of_somebody.py").write_text(
        "from zope.interface import implementer\n"
        "from flux.interfaces import IBalancer\n"
        "class Undeclared:\n"
        "    name = 'mine'\n"
        "    def __init__(self, rng): pass\n"
        "    def choose(self, uid, nodes): return nodes[0] if nodes else None\n"
        "@implementer(IBalancer)\n"
        "class Good(Undeclared): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = load(None, [f"status.balancer={balancer}"])
    [step] = [step for step in check.steps(settings, reactor) if step.name.startswith("balancer")]
    assert await check.attempt([step], reactor) is not bool(complaint)
    output = capsys.readouterr().out
    assert outcomes(output) == [("FAILED" if complaint else "ok", f"balancer {balancer}")]
    assert not complaint or f"status.balancer: {balancer}: {complaint}" in output
    assert not any(
        step.name.startswith("balancer") for step in check.steps(settings, reactor, roles=frozenset({"gate"}))
    )


async def test_what_the_log_mailer_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from twisted.internet import reactor

    settings = load(None, [f"store.path={tmp_path / 'flux.db'}"])
    found = [step for step in check.steps(settings, reactor, "ann@example.org") if "mail" in step.name]
    assert await check.attempt(found, reactor) is True
    assert "codes included" in capsys.readouterr().out


def test_a_mailer_that_cannot_be_made(tmp_path: Path) -> None:
    from flux.lifecycle import CannotStart

    mail = ["mail.kind=webhook", "mail.url=https://example.org/", "mail.secret=sixteen characters or more"]
    for override, why in (("mail.ca=/nowhere", "No such file"), ("mail.kind=no.Mailer", "no.Mailer")):
        with pytest.raises(CannotStart, match=f"{override.partition('=')[0]}.*{why}"):
            check.steps(load(None, [*mail, f"store.path={tmp_path / 'flux.db'}", override]), task.Clock())
