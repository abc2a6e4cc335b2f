"""The gate under wrk: nothing fails, and what it costs is printed (``tox -e system -- -s -k wrk`` shows it).

The figures are processor time of the server, all its threads, per request: how busy
the machine is otherwise matters little to them, and nothing is asserted of them.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import ServerProcess, environment, server

pytestmark = pytest.mark.system

LOGIN = """
wrk.method = "POST"
wrk.body = '{"name":"ann","password":"any"}'
wrk.headers["Content-Type"] = "application/json"
"""


@pytest.fixture
def running(tmp_path: Path, where: str) -> Iterator[tuple[ServerProcess, str]]:
    script = Path(__file__).parent / "constant_hash_server.py"
    with server([sys.executable, str(script), str(tmp_path), where], tmp_path, environment()) as process:
        yield process, process.wait_for("http://")
        process.signal(signal.SIGTERM)
        assert process.end() == (0, "")


def processor_time(pid: int) -> float:
    """Seconds that a process has used, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    ("what", "path", "header", "script", "where"),
    [
        ("get_test, connections kept", "/get_test?a=b", "", "", "here"),
        ("get_test, one connection each", "/get_test?a=b", "Connection: close", "", "here"),
        ("a static document", "/openapi.json", "", "", "here"),
        ("a file of the web client", "/main.js", "Accept-Encoding: gzip", "", "here"),
        ("a login, a constant instead of the hash", "/v1/login", "", LOGIN, "here"),
        ("a login, the constant from the threads that hash", "/v1/login", "", LOGIN, "thread"),
    ],
)
def test_wrk(
    running: tuple[ServerProcess, str], tmp_path: Path, what: str, path: str, header: str, script: str
) -> None:
    process, url = running
    command = ["wrk", "-t1", "-c32", "-d3s"]
    if header:
        command += ["-H", header]
    if script:
        (tmp_path / "wrk.lua").write_text(script)
        command += ["-s", str(tmp_path / "wrk.lua")]
    before = processor_time(process.popen.pid)
    output = subprocess.run([*command, url + path], capture_output=True, text=True, check=True).stdout
    spent = processor_time(process.popen.pid) - before
    assert "Non-2xx" not in output
    assert "Socket errors" not in output
    count = re.search(r"(\d+) requests in", output)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    assert count is not None, output
    assert rate is not None, output
    print(f"\n{what}: {float(rate[1]):,.0f}/s, {spent / int(count[1]) * 1e6:.0f} us of processor time each")
    assert int(count[1]) > 100
