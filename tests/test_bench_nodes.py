"""``flux bench nodes``: who is refused comes again and is counted, a pace is kept, promises are judged, and both
scenarios run on real nodes."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from printed_table import cells
from server_process import environment

from flux.bench import across, storm
from flux.bench.across import Across
from flux.bench.load import Client, Load, Measured, Tally
from flux.bench.logins import close, login_line
from flux.bench.scenarios import Percentiles
from flux.bench.storm import Meanwhile, Phase, Storm, arrive
from flux.cli.main import main

OK = b'{"type":"login.ok"}\n'
REFUSED = b'{"type":"error","name":"no_server","detail":"full"}\n'


@contextlib.contextmanager
def server(answer: Callable[[int], bytes]) -> Iterator[int]:
    """Answers the nth connection's login, counted from 1, with what ``answer`` says; nothing: it is closed."""
    open_ones: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            number = 0
            while True:
                connection, _ = listening.accept()
                if connection.recv(65536) == b"end\n":
                    connection.close()
                    return
                number += 1
                connection.sendall(answer(number))
                open_ones.append(connection)
                if not answer(number):
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        port = listening.getsockname()[1]
        yield port
        with socket.create_connection(("127.0.0.1", port)) as last:
            last.sendall(b"end\n")
            thread.join()
        close(open_ones)


def clients(port: int, count: int) -> list[tuple[int, bytes]]:
    return [(port, login_line(uid, "token")) for uid in range(1, count + 1)]


def test_everybody_gets_in() -> None:
    with server(lambda number: OK) as port:
        arrived = arrive(clients(port, 5), 0.0)
        close(arrived.sockets)
    assert (len(arrived.sockets), arrived.retries, arrived.refused) == (5, 0, 0)
    assert arrived.logins.get_total_count() == 5


def test_who_is_refused_or_cut_off_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storm, "AGAIN", 0.01)
    with server(lambda number: REFUSED if number == 1 else b"" if number == 2 else OK) as port:
        arrived = arrive(clients(port, 3), 0.0)
        close(arrived.sockets)
    assert (len(arrived.sockets), arrived.retries, arrived.refused) == (3, 2, 0)


def test_who_never_gets_in_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storm, "AGAIN", 0.01)
    monkeypatch.setattr(storm, "PATIENCE", 0.1)
    with server(lambda number: OK if number == 1 else REFUSED) as port:
        arrived = arrive(clients(port, 3), 0.0)
        close(arrived.sockets)
    assert (len(arrived.sockets), arrived.refused) == (1, 2)
    assert arrived.retries >= 2


def test_who_was_let_in_and_cut_off_is_counted() -> None:
    with server(lambda number: b"" if number > 2 else OK + b'{"type":"presence"}\n' * (number == 1)) as port:
        arrived = arrive(clients(port, 2), 0.0)
        there, gone = arrived.sockets
        assert not storm._ended(there)
        gone.shutdown(socket.SHUT_RDWR)
        assert [storm._ended(each) for each in arrived.sockets] == [False, True]
        close(arrived.sockets)


def test_nobody_comes_before_the_rate_allows() -> None:
    with server(lambda number: OK) as port:
        arrived = arrive(clients(port, 4), 20.0)
        close(arrived.sockets)
    assert len(arrived.sockets) == 4
    assert arrived.seconds >= 3 / 20


def test_a_pace_is_kept_whatever_is_answered() -> None:
    ours, theirs = zip(socket.socketpair(), socket.socketpair(), strict=True)

    def relay() -> None:
        with theirs[0].makefile("rb") as lines:
            for number, line in enumerate(lines, 1):
                theirs[1].sendall(b'{"type":"message","chat":1,"seq":%d,"text":"%s"}\n' % (number, text_of(line)))
                theirs[0].sendall(b'{"type":"send.ok"}\n')

    def text_of(line: bytes) -> bytes:
        return bytes(json.loads(line)["text"].encode())

    thread = threading.Thread(target=relay)
    thread.start()
    talking = [Client(ours[0], "000000", b'"to":2', 1), Client(ours[1], "000001", b'"to":1', 0)]
    measured = Load(talking, lambda: 0.0, lambda share: None, rate=100.0).run(0.0, 0.5, 1)
    ours[0].shutdown(socket.SHUT_RDWR)
    thread.join()
    close([*ours, *theirs])
    assert 40 <= measured.total.sent <= 51
    assert (measured.total.lost, measured.total.duplicated, measured.total.reordered) == (0, 0, 0)


# --- what is promised, and what came of it ---

MB = 1_000_000
WELL = Across(
    Percentiles(2.0, 9.0, 20.0),
    Percentiles(4.0, 90.0, 200.0),
    (1.1, 9.0, 2.0, 2.1),
    (True, False, True, True),
    (Tally(), Tally()),
    (600.0, 1234.0),
    (0.3, 0.617),
)
CALM = Storm(
    [Phase(name, 100, 1.0, 3, 0, 0, 2.0, 9.0) for name in ("storm", "again", "return")],
    [
        Meanwhile(name, 2.0, 249.0, Tally(), memory * MB)
        for name, memory in {
            "storm": 200, "storm gone": 200, "again": 204, "again gone": 204, "return": 300, "return gone": 300,
        }.items()
    ],
    150 * MB,
)  # fmt: skip
_, FAULTS_ACROSS = (each.what for each in across.judge(WELL))
SHUT_OUT, CUT_OFF, FAULTS, SLOW, GROWN = (each.what for each in storm.judge(CALM))


def with_one(name: str, **changes: object) -> Storm:
    """The calm storm, but for what was seen at one time."""
    return replace(
        CALM,
        meanwhile=[replace(each, **changes) if each.name == name else each for each in CALM.meanwhile],  # type: ignore[arg-type] - of any field
    )


BROKEN = {
    "somebody was refused": (replace(CALM, phases=[*CALM.phases[:2], replace(CALM.phases[2], refused=1)]), SHUT_OUT),
    "somebody was cut off": (replace(CALM, phases=[replace(CALM.phases[0], cut_off=1), *CALM.phases[1:]]), CUT_OFF),
    "a message was lost": (with_one("again", tally=Tally(lost=1)), FAULTS),
    "a message was doubled": (with_one("storm gone", tally=Tally(duplicated=1)), FAULTS),
    "messages changed places": (with_one("return gone", tally=Tally(reordered=1)), FAULTS),
    "the others noticed who came": (with_one("return", delivery_p99=250.0), SLOW),
    "the others noticed who left": (with_one("storm gone", delivery_p99=250.0), SLOW),
    "leaving took memory": (with_one("storm gone", memory=205 * MB), GROWN),
    "who came again took more memory": (with_one("again", memory=205 * MB), GROWN),
    "their leaving took memory": (with_one("again gone", memory=205 * MB), GROWN),
}


def test_what_was_promised_and_measured_holds() -> None:
    assert all(each.holds for each in storm.judge(CALM))
    assert all(each.holds for each in across.judge(WELL))


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_hold_is_said(case: str) -> None:
    measured, promise = BROKEN[case]
    assert [each.what for each in storm.judge(measured) if not each.holds] == [promise]


def test_that_the_processor_was_full_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for busy, said in ((0.9, False), (0.91, True)):
        measured = replace(WELL, busy=(0.5, busy))
        monkeypatch.setattr(across, "measure", lambda *_, measured=measured: measured)
        assert main(["bench", "nodes", "--scenario", "across", "--data", str(tmp_path)]) == 0
        assert ("The processor was full" in capsys.readouterr().out) == said


def part(milliseconds: float, cpu: float, lost: int = 0) -> Measured:
    """Of ten messages, each of which took so long, and so much of the processor."""
    measured = Measured(seconds=2.0, delivered=10, server_cpu=10 * cpu, total=Tally(lost=lost))
    measured.delivery.record_value(int(milliseconds * 1000), 10)
    return measured


def test_parts_for_which_the_processor_was_slower_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(across, "COUNTED", 1)
    measured = across.summary([
        (part(1.0, 0.01), part(7.0, 0.04, lost=1)),
        (part(1.0, 0.01), part(2.5, 0.02)),
        (part(3.0, 0.02), part(2.0, 0.02)),
        (part(1.0, 0.011), part(2.0, 0.02)),
    ])  # fmt: skip
    assert measured.added == pytest.approx([6.0, 1.5, -1.0, 1.0], abs=0.01)
    assert measured.counted == [False, True, False, True]
    assert measured.between.p50 == pytest.approx(2.0, abs=0.01)
    assert measured.between.p99 == pytest.approx(2.5, abs=0.01)
    assert measured.cpu == pytest.approx((10_500, 20_000))
    assert measured.busy == pytest.approx((0.0525, 0.1))
    assert [tally.lost for tally in measured.tallies] == [0, 1]


def test_some_parts_count_however_unsteady_the_processor_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(across, "COUNTED", 3)
    measured = across.summary([(part(1.0, cpu), part(2.0, 0.02)) for cpu in (0.04, 0.01, 0.03, 0.02)])
    assert measured.counted == [False, True, True, True]


def test_what_another_node_adds_and_loses_is_judged() -> None:
    slow = replace(WELL, added=(1.1, 0.0, 2.1, 2.2))
    lossy = replace(WELL, tallies=(Tally(), Tally(lost=1)))
    assert [each.holds for each in across.judge(slow)] == [False, True]
    assert [each.holds for each in across.judge(lossy)] == [True, False]


@pytest.mark.parametrize(("measured", "status"), [(CALM, 0), (BROKEN["leaving took memory"][0], 1)])
def test_the_command_prints_every_verdict_and_its_status_is_theirs(
    measured: Storm, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(across, "measure", lambda *_: WELL)
    monkeypatch.setattr(storm, "measure", lambda *_: measured)
    assert main(["bench", "nodes", "--data", str(tmp_path)]) == status
    output = capsys.readouterr().out
    printed = cells(output)
    promises = [*across.judge(WELL), *storm.judge(measured)]
    verdicts = ["holds" if each.holds else "does not hold" for each in promises]
    assert printed[-len(promises) :] == [
        [each.what, each.found, each.limit, verdict] for each, verdict in zip(promises, verdicts, strict=True)
    ]
    assert "p50 added, part by part: +1.10, (+9.00), +2.00, +2.10" in output
    assert ["two nodes", "4.00", "90.00", "200.00", "1,234", "62%", "0", "0", "0"] in printed
    assert ["storm gone", "2.0", "249.0", "0", "0", "0", str(measured.meanwhile[1].memory // MB)] in printed


#: What is measured means nothing here: neither has it to be warm, nor the memory settled.
IMPATIENT = """
import sys
from flux.bench import across, storm
from flux.cli.main import main

across.WARM_UP = storm._WARM_UP = storm.SETTLE = 0.1
across.PARTS = 6
sys.exit(main())
"""


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    small = ["--seconds", "0.3", "--rate", "50", "--storm", "1", "--returning", "20", "--data", str(tmp_path), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT, "bench", "nodes", *small],
        env=environment(), capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    figures = json.loads(done.stdout)
    # How quick a busy machine is shows nothing; what has become of clients and messages does.
    verdicts = {each["what"]: each["holds"] for each in figures["judgements"]}
    assert done.returncode == (0 if all(verdicts.values()) else 1)
    assert len(verdicts) == 7
    assert verdicts[SHUT_OUT]
    assert verdicts[CUT_OFF]
    assert verdicts[FAULTS]
    assert verdicts[FAULTS_ACROSS]
    assert figures["across"]["same"]["p50"] > 0
    assert figures["across"]["between"]["p50"] > 0
    assert len(figures["across"]["added"]) == 6
    assert sum(figures["across"]["counted"]) >= across.COUNTED
    assert all(cpu > 100 for cpu in figures["across"]["cpu"])
    assert all(busy > 0 for busy in figures["across"]["busy"])
    assert [(phase["name"], phase["sessions"], phase["refused"]) for phase in figures["storm"]["phases"]] == [
        ("storm", 50, 0),
        ("again", 50, 0),
        ("return", 20, 0),
    ]
    assert [each["name"] for each in figures["storm"]["meanwhile"]] == [each.name for each in CALM.meanwhile]
    assert list(tmp_path.iterdir()) == []
