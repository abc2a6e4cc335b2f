"""``flux bench nodes``: who is refused comes again and is counted; a pace is kept; both scenarios run on real nodes."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server_process import environment

from flux.bench import storm
from flux.bench.load import Client, Load
from flux.bench.logins import close, login_line
from flux.bench.storm import arrive

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


#: What is measured means nothing here: neither has it to be warm, nor the memory settled.
IMPATIENT = """
import sys
from flux.bench import across, storm
from flux.cli.main import main

across.WARM_UP = storm._WARM_UP = storm.SETTLE = 0.1
sys.exit(main())
"""


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    small = ["--seconds", "0.3", "--rate", "50", "--storm", "1", "--returning", "20", "--data", str(tmp_path), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT, "bench", "nodes", *small],
        env=environment(), capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["across"]["same"]["p50"] > 0
    assert figures["across"]["between"]["p50"] > 0
    assert [(phase["name"], phase["sessions"], phase["refused"]) for phase in figures["storm"]["phases"]] == [
        ("storm", 50, 0),
        ("return", 20, 0),
    ]
    assert list(tmp_path.iterdir()) == []
