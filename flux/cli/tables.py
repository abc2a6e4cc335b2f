"""Tables of the ``flux`` command: whole cells, on whatever they are printed."""

from __future__ import annotations

import os

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

WIDE = 1000
"""Characters of a line where no terminal ends it, in a pipe or a file."""

NARROW = 20
"""Characters that a column which may be wrapped keeps."""


def show(table: Table) -> None:
    """Print a table on standard output; its columns with ``no_wrap`` are never cut.

    The others make room for them. Where that is not enough the terminal wraps the lines: an address in two is of
    no use to anybody who copies it, nor is half a number.
    """
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDE
    console.width = max(console.width, _least(table, console))
    console.print(table)


def _least(table: Table, console: Console) -> int:
    """The width below which something would be cut."""
    wrapped = [column for column in table.columns if not column.no_wrap]
    for column in wrapped:
        column.max_width = NARROW
    least = Measurement.get(console, console.options.update_width(WIDE), table).maximum
    for column in wrapped:
        column.max_width = None
    return least
