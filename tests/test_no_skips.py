"""``pytest --no-skips``: whatever skips itself is a failure, and says why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from server_process import environment

TESTS = {
    "mark": "@pytest.mark.skipif(True, reason='no epoll')\ndef test(): pass",
    "call": "def test(): pytest.skip('no epoll')",
    "fixture": "@pytest.fixture\ndef poll(): pytest.skip('no epoll')\ndef test(poll): pass",
    "parameters": "@pytest.mark.parametrize('poll', [])\ndef test(poll): pass",
    "file": "pytest.importorskip('nobody_has_this', reason='no epoll')\ndef test(): pass",
}
EXPECTED = "@pytest.mark.xfail\ndef test(): assert False"


def run(test: str, directory: Path, *arguments: str) -> tuple[int, str]:
    """Status and output of pytest for a file with this test, in one process and without what it would find here."""
    (directory / "test_it.py").write_text(f"import pytest\n{test}\n")
    inherited = {name: value for name, value in environment().items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no_skips", "-p", "no:cacheprovider", *arguments, str(directory)],
        cwd=directory, env=inherited | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.mark.parametrize("kind", TESTS)
def test_what_is_skipped_fails(kind: str, tmp_path: Path) -> None:
    status, output = run(TESTS[kind], tmp_path, "--no-skips")
    assert status in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED), output
    assert "--no-skips: " in output
    assert kind == "parameters" or "no epoll" in output


def test_without_the_option_it_is_skipped(tmp_path: Path) -> None:
    status, output = run(TESTS["mark"], tmp_path)
    assert status == pytest.ExitCode.OK, output
    assert "1 skipped" in output


def test_an_expected_failure_is_none(tmp_path: Path) -> None:
    status, output = run(EXPECTED, tmp_path, "--no-skips")
    assert status == pytest.ExitCode.OK, output
    assert "1 xfailed" in output
