"""A progress bar for work that must not be disturbed by it."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from flux.cli.shown import shown

#: It is drawn at most this often, in seconds, and never by a thread: what it shows shares its processor.
REFRESH = 0.25


class ProgressBar:
    """Shows how many of ``steps`` are done, and what is being done. Vanishes at the end."""

    def __init__(self, console: Console, steps: int) -> None:
        self._bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
            transient=True,
            # Nothing at all, where it would otherwise leave an empty line behind.
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=steps)
        self._steps = 0
        self._drawn = 0.0

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, description: str) -> Callable[[float], None]:
        """Begin the next step; returns what is told the share of it that is done, 0 to 1."""
        done = self._steps
        self._steps += 1
        self._bar.update(self._task, description=shown(description), completed=done, refresh=True)

        def progress(share: float) -> None:
            self.show(done + share, description)

        return progress

    def show(self, completed: float, description: str) -> None:
        """Show the number of steps done and a description."""
        now = time.monotonic()
        if now - self._drawn >= REFRESH:
            self._drawn = now
            self._bar.update(self._task, description=shown(description), completed=completed, refresh=True)
