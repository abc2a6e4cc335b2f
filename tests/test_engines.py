"""Servers of one's own: they start, survive a kill with their data, and are not left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psycopg2
import pytest

from flux.bench import engines
from flux.bench.engines import PostgresServer, RedisServer
from flux.bench.servers import ServerFailed


def ask(server: RedisServer, *commands: str) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall("".join(f"{command}\r\n" for command in [*commands, "QUIT"]).encode())
        answer = b""
        while data := connection.recv(4096):
            answer += data
    return answer


def test_a_redis_wants_its_password_and_forgets_when_killed(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as server:
        assert b"NOAUTH" in ask(server, "GET a")
        assert ask(server, f"AUTH {server.password}", "SET a 1", "GET a").count(b"+OK") == 3
        server.kill()
        server.start()
        assert b"$-1" in ask(server, f"AUTH {server.password}", "GET a")


def test_a_redis_takes_settings(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis", {"appendonly": "yes", "appendfsync": "always"}) as server:
        ask(server, f"AUTH {server.password}", "SET a 1")
        server.kill()
        server.start()
        assert b"\r\n1\r\n" in ask(server, f"AUTH {server.password}", "GET a")


def test_a_postgres_keeps_what_was_committed_when_killed(tmp_path: Path) -> None:
    with PostgresServer(tmp_path / "postgres") as server:
        for round_ in range(2):
            connection = psycopg2.connect(server.dsn)
            with connection.cursor() as cursor:
                if not round_:
                    cursor.execute("CREATE TABLE kept (a int); INSERT INTO kept VALUES (7)")
                cursor.execute("SELECT a FROM kept")
                assert cursor.fetchall() == [(7,)]
            connection.commit()
            server.kill()
            connection.close()
            server.start()
        other = psycopg2.connect(server.create_database("other"))
        with other.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_tables WHERE tablename = 'kept'")
            assert cursor.fetchall() == [(0,)]
        other.close()
        with pytest.raises(psycopg2.OperationalError):
            psycopg2.connect(server.dsn.replace(server.password, "guessed"))


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(engines, "_DEBIAN", tmp_path)
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ServerFailed, match="apt-get install redis-server"):
        RedisServer(tmp_path / "redis").start()
    with pytest.raises(ServerFailed, match="apt-get install postgresql"):
        PostgresServer(tmp_path / "postgres").start()


def test_nothing_is_left_when_who_started_it_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, signal, sys\n"
        "from flux.bench.engines import RedisServer\n"
        "server = RedisServer(pathlib.Path(sys.argv[1])).start()\n"
        "print(server.process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while _runs(int(killed.stdout)):
        assert time.monotonic() < deadline
        os.sched_yield()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
