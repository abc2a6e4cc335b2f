"""The progress bar of long commands."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from flux.cli import progress
from flux.cli.progress import ProgressBar


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REFRESH", 0.0)


def drawn(terminal: bool) -> tuple[str, str]:
    """What is shown while two steps are done, and in the end."""
    screen = io.StringIO()
    with ProgressBar(Console(file=screen, force_terminal=terminal, width=80), 2) as bar:
        bar.step("copying accounts")(0.5)
        bar.step("copying messages")(0.25)
        during = screen.getvalue()
    return during, screen.getvalue().removeprefix(during)


def test_it_shows_what_is_done_and_how_much_of_it() -> None:
    during, end = drawn(terminal=True)
    places = [during.find(part) for part in ("copying accounts", "25 %", "copying messages", "62 %")]
    assert -1 not in places
    assert places == sorted(places)
    # It takes its line back.
    assert "\x1b[2K" in end


def test_a_file_gets_nothing_of_it() -> None:
    assert drawn(terminal=False) == ("", "")
