"""The load counts what a server does wrong, the comparison is fair, and ``flux bench`` says both."""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from printed_table import cells
from server_process import environment

from flux.bench import load, scenarios, subjects
from flux.bench.disk import sync_latency
from flux.bench.load import Client, Load, LoadFailed, Measured, Tally
from flux.bench.logins import log_in, login_line, tokens
from flux.bench.report import as_json, judge, sound, summarise
from flux.bench.scenarios import Idle, Percentiles, Plan, Run, talk
from flux.bench.servers import ServerFailed, ServerProcess, free_port, twistd
from flux.cli import bench
from flux.cli.main import main

Lines = list[bytes]
#: The lines for sender and receiver that answer the nth message.
Answer = Callable[[int, bytes], tuple[Lines, Lines]]


def acknowledged() -> bytes:
    return b'{"type":"send.ok","chat":1,"seq":1}'


def message(seq: int, line: bytes) -> bytes:
    text = json.loads(line)["text"]
    return json.dumps({"type": "message", "chat": 1, "seq": seq, "text": text}).encode()


def faithful(number: int, line: bytes) -> tuple[Lines, Lines]:
    return [acknowledged()], [message(number + 1, line)]


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], Measured]]:
    """Runs a load of one sender and one receiver against a server that answers as told."""
    monkeypatch.setattr(load, "DRAIN_WITHIN", 0.3)
    ours = [socket.socketpair() for _ in range(2)]
    threads: list[threading.Thread] = []

    def run(answer: Answer) -> Measured:
        (sender, serves_sender), (receiver, serves_receiver) = ours

        def serve() -> None:
            # A load that has failed is gone in the middle of an answer.
            with contextlib.suppress(OSError), serves_sender.makefile("rb") as lines:
                for number, line in enumerate(lines):
                    for connection, answers in zip((serves_sender, serves_receiver), answer(number, line), strict=True):
                        connection.sendall(b"".join(each + b"\n" for each in answers))

        threads.append(threading.Thread(target=serve))
        threads[0].start()
        clients = [Client(sender, "sender", b'"to":2', 4), Client(receiver, "readr0", b'"to":1', 0)]
        return Load(clients, lambda: 0.0, lambda share: None).run(0.0, 0.2, 1)

    yield run
    for one, other in ours:
        one.close()
        other.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()
    for _, other in ours:
        other.close()


def test_a_faithful_server(drive: Callable[[Answer], Measured]) -> None:
    measured = drive(faithful)
    sent = measured.total.sent
    assert sent > 50
    assert measured.total == Tally(sent, acknowledged=sent, delivered=sent)
    assert 0 < measured.delivered <= sent
    assert measured.delivery.get_total_count() == measured.delivered
    assert measured.commit.get_total_count() == measured.acknowledged


def test_lost_messages_are_counted(drive: Callable[[Answer], Measured]) -> None:
    def loses_two(number: int, line: bytes) -> tuple[Lines, Lines]:
        to_sender, to_receiver = faithful(number, line)
        return to_sender, [] if number in (10, 20) else to_receiver

    total = drive(loses_two).total
    assert total == Tally(total.sent, total.sent, total.sent - 2, lost=2)


def test_losing_everything_is_counted(drive: Callable[[Answer], Measured]) -> None:
    total = drive(lambda number, line: ([acknowledged()], [])).total
    assert total.sent > 0
    assert total == Tally(total.sent, total.sent, 0, lost=total.sent)


def test_what_is_not_acknowledged_is_not_lost(drive: Callable[[Answer], Measured]) -> None:
    total = drive(lambda number, line: faithful(number, line) if number < 10 else ([], [])).total
    assert total == Tally(sent=14, acknowledged=10, delivered=10)


def test_duplicates_are_counted(drive: Callable[[Answer], Measured]) -> None:
    def repeats_one(number: int, line: bytes) -> tuple[Lines, Lines]:
        to_sender, [first] = faithful(number, line)
        return to_sender, [first, message(number + 2, line)] if number == 10 else [first] if number < 10 else [
            message(number + 2, line)
        ]

    total = drive(repeats_one).total
    assert total == Tally(total.sent, total.sent, total.sent + 1, duplicated=1)


def test_late_messages_are_counted_as_reordered(drive: Callable[[Answer], Measured]) -> None:
    kept: Lines = []

    def swaps_two(number: int, line: bytes) -> tuple[Lines, Lines]:
        if number == 10:
            kept.append(line)
            return [acknowledged()], []
        if number == 11:
            return [acknowledged()], [message(11, line), message(12, kept[0])]
        return faithful(number, line)

    total = drive(swaps_two).total
    assert total == Tally(total.sent, total.sent, total.sent, reordered=1)


def test_a_seq_that_does_not_ascend_is_reordered(drive: Callable[[Answer], Measured]) -> None:
    total = drive(lambda number, line: ([acknowledged()], [message(7 if number == 10 else number + 1, line)])).total
    assert total.reordered == 1


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"type":"error","name":"rate_limited","detail":"slow down"}', "error: rate_limited slow down"),
        (b'{"type":"kicked","reason":"slow"}', "kicked"),
        (b'{"type":"message","text":"nobody 00000001 ..."}', "nobody sent"),
    ],
)
def test_an_answer_that_ends_the_measurement(drive: Callable[[Answer], Measured], line: bytes, complaint: str) -> None:
    with pytest.raises(LoadFailed, match=complaint):
        drive(lambda number, _: ([line], []))


def test_received_is_told_while_messages_arrive(drive: Callable[[Answer], Measured]) -> None:
    told: list[bytes] = []

    def notes(number: int, line: bytes) -> tuple[Lines, Lines]:
        if b'"received"' in line:
            told.append(line)
            return [], []
        # The sender hears its own messages here, so that its answers can be read.
        return [acknowledged(), message(number + 1, line)], [message(number + 1, line)]

    drive(notes)
    seqs = [json.loads(line)["seq"] for line in told]
    assert json.loads(told[0]) == {"type": "received", "chat": 1, "seq": seqs[0]}
    # Said when a chunk is through, which holds at most what was in flight.
    assert load.RECEIVED_EVERY <= seqs[0] < load.RECEIVED_EVERY + 4
    assert all(later - earlier >= load.RECEIVED_EVERY for earlier, later in pairwise(seqs))


@pytest.mark.parametrize("scenario", ["pairs", "group"])
def test_the_relay_delivers_everything_once(scenario: scenarios.Scenario, tmp_path: Path) -> None:
    plan = Plan(clients=6, sessions=0, group_size=5, seconds=0.2, directory=tmp_path)
    run = talk(plan, scenario, "relay", 2, lambda share: None)
    receivers = 4 if scenario == "group" else 1
    assert run.tally.sent > 0
    assert run.tally == Tally(run.tally.sent, run.tally.sent, run.tally.sent * receivers)
    assert run.rate > 0
    assert run.delivery is not None
    assert 0 < run.delivery.p50 <= run.delivery.p99 <= run.delivery.p999


def a_run(subject: subjects.Subject, rate: float, lost: int = 0, in_flight: int = 1) -> Run:
    times = Percentiles(rate / 100, rate / 10, rate)
    return Run("pairs", subject, in_flight, rate, 1e6 / rate, 0.5, times, times, Tally(lost=lost))


def test_medians_and_the_ratio_of_each_round() -> None:
    relay, flux = summarise(
        [
            *(a_run("relay", 100), a_run("flux", 80)),
            *(a_run("relay", 50), a_run("flux", 45)),  # the machine was busy: both suffered
            *(a_run("relay", 200), a_run("flux", 140, lost=3)),
        ]
    )
    assert (relay.subject, relay.rounds, relay.rate, relay.ratio) == ("relay", 3, 100, None)
    assert (flux.subject, flux.rounds, flux.rate, flux.lost) == ("flux", 3, 80, 3)
    assert flux.ratio == pytest.approx(0.8)
    assert flux.delivery == Percentiles(0.8, 8, 80)
    assert sound([relay])
    assert not sound([relay, flux])


def test_loads_are_summarised_apart() -> None:
    runs = [a_run("flux", 10), Run("login", "flux", 0, 3000, 300, 0.4)]
    assert [(s.scenario, s.delivery is None, s.ratio) for s in summarise(runs)] == [
        ("pairs", False, None),
        ("login", True, None),
    ]
    figures = as_json(summarise(runs), [Idle("flux", 10, 3500.0, 0.01)], 0.0002)
    assert json.loads(json.dumps(figures))["fsync_ms"] == pytest.approx(0.2)


PROMISES = (
    "pairs W=1: cluster's rate, of relay's",
    "pairs W=8: cluster's rate, of relay's",
    "assign: cluster's answers",
)


def test_what_was_not_measured_is_not_judged() -> None:
    runs = [
        a_run("relay", 100),
        a_run("flux", 10),
        a_run("cluster", 100, in_flight=2),
        Run("assign", "flux", 0, 1, 1, 0.5),
    ]
    assert judge(summarise(runs)) == []
    assert judge(summarise([a_run("cluster", 100)])) == []
    assert [each.what for each in judge(summarise([*runs, a_run("cluster", 100)]))] == [PROMISES[0]]


@pytest.mark.parametrize(
    ("found", "broken"),
    [
        ((45, 18, 15_000), None),
        ((44.9, 18, 15_000), PROMISES[0]),
        ((45, 17.9, 15_000), PROMISES[1]),
        ((45, 18, 14_999), PROMISES[2]),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_every_promise_is_printed_and_the_status_is_theirs(
    found: tuple[float, float, float],
    broken: str | None,
    as_json: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rates = {1: found[0], 8: found[1]}

    def talked(plan: Plan, scenario: object, subject: subjects.Subject, in_flight: int, progress: object) -> Run:
        return a_run(subject, 100 if subject == "relay" else rates[in_flight], in_flight=in_flight)

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(bench, "talk", talked)
    monkeypatch.setattr(bench, "assign", lambda plan, subject, progress: Run("assign", subject, 0, found[2], 60, 0.5))
    measure = ["bench", "--scenario", "pairs", "assign", "--server", "cluster", "--data", str(tmp_path)]
    assert main([*measure, "--json"] if as_json else measure) == (0 if broken is None else 1)
    output = capsys.readouterr().out
    if as_json:
        judged = json.loads(output)["judgements"]
        assert [(each["what"], each["bound"]) for each in judged] == [(what, "at least") for what in PROMISES]
        assert [each["what"] for each in judged if not each["holds"]] == ([] if broken is None else [broken])
        return
    assert "at least" in output
    assert "at most" not in output
    shown = (f"{found[0] / 100:.3f}", "0.45"), (f"{found[1] / 100:.3f}", "0.18"), (f"{found[2]:,}/s", "15,000/s")
    assert cells(output)[-3:] == [
        [what, *figures, "does not hold" if what == broken else "holds"]
        for what, figures in zip(PROMISES, shown, strict=True)
    ]


def test_a_failed_login_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def refuse() -> None:
            connection, _ = listening.accept()
            with connection, connection.makefile("rb") as lines:
                assert json.loads(lines.readline()) == {"type": "login", "id": 7, "token": "t", "acks": True}
                connection.sendall(b'{"type":"error","name":"token_inv')
                connection.sendall(b'alid","detail":"expired"}\n')
                lines.readline()

        server = threading.Thread(target=refuse)
        server.start()
        try:
            with pytest.raises(LoadFailed, match="token_invalid expired"):
                log_in(listening.getsockname()[1], [login_line(7, "t")], lambda share: None)
        finally:
            server.join()


def test_tokens_are_asked_for_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux.bench.logins.TOKENS_AT_ONCE", 2)
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def assign() -> None:
            connection, _ = listening.accept()
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    request = json.loads(line)
                    asked.append(request["uids"])
                    assignments = [{"uid": uid, "token": f"token-{uid}"} for uid in request["uids"]]
                    answer = {"type": "get_chat_server.ok", "assignments": assignments}
                    connection.sendall(json.dumps(answer).encode() + b"\n")

        server = threading.Thread(target=assign)
        server.start()
        found = tokens(listening.getsockname()[1], range(1, 4))
        server.join()
    assert asked == [[1, 2], [3]]
    assert found == {1: "token-1", 2: "token-2", 3: "token-3"}


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    misspelt = twistd("flux", {"chat.listne": "tcp:0"})
    with ServerProcess(misspelt, tmp_path / "output") as server, pytest.raises(ServerFailed, match=r"chat\.listne"):
        server.wait_until_listening(free_port())


def test_ports_are_free_and_never_those_of_clients() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    port = free_port()
    assert port < lowest
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_the_disk_takes_some_time(tmp_path: Path) -> None:
    assert 0 < sync_latency(tmp_path) < 10
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong", ["--clients 3", "--group-size 1", "--rounds 0", "--scenario x", "--server x"], ids=lambda wrong: wrong
)
def test_wrong_arguments(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    bench.configure(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(wrong.split())
    assert wrong.split()[0] in capsys.readouterr().err


def test_too_many_connections_for_the_system(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    bench.configure(parser)
    assert bench.run(parser.parse_args(["--sessions", "100000000"])) == 2
    assert "ulimit" in capsys.readouterr().err


def flux_bench(*arguments: str) -> dict[str, Any]:
    """The figures of a small run, in which nothing was lost."""
    command = "import sys; from flux.bench import scenarios; from flux.cli.main import main; "
    command += "scenarios.ACCOUNTS = 100; sys.exit(main())"
    small = ["--clients=4", "--in-flight=2", "--group-size=12", "--sessions=20", "--seconds=0.3", "--rounds=1"]
    done = subprocess.run(
        [sys.executable, "-c", command, "bench", *small, "--json", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode in (0, 1), done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    # How quick a busy machine is shows nothing.
    assert done.returncode == (0 if all(each["holds"] for each in figures["judgements"]) else 1)
    for run in figures["runs"]:
        assert run["rate"] > 0
        assert run["lost"] == run["duplicated"] == run["reordered"] == 0
    return figures


@pytest.mark.slow
def test_flux_bench(tmp_path: Path) -> None:
    """All scenarios against the real server."""
    figures = flux_bench("--data", str(tmp_path))
    assert figures["fsync_ms"] > 0
    assert [(idle["subject"], idle["sessions"]) for idle in figures["idle"]] == [("flux", 20)]
    assert [(run["scenario"], run["subject"]) for run in figures["runs"]] == [
        ("pairs", "relay"),
        ("pairs", "flux"),
        ("group", "relay"),
        ("group", "flux"),
        ("login", "flux"),
        ("assign", "flux"),
    ]
    assert figures["runs"][1]["ratio"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_flux_bench_of_a_server_on_postgresql_and_redis(tmp_path: Path) -> None:
    figures = flux_bench("--scenario", "pairs", "assign", "--server", "cluster", "--data", str(tmp_path))
    assert [(run["scenario"], run["subject"]) for run in figures["runs"]] == [
        ("pairs", "relay"),
        ("pairs", "cluster"),
        ("assign", "cluster"),
    ]
    assert [each["what"] for each in figures["judgements"]] == [PROMISES[2]]
    assert figures["runs"][1]["ratio"] > 0
    assert list(tmp_path.iterdir()) == []
