"""What others wrote, on its way to whoever runs a command: it is text there, and nothing else.

Names, reasons, what servers and databases say, the output of processes, names of files: a terminal would obey the
escape sequences in them and turn them around (U+202E), and rich takes brackets and colons for colours and emoji.
"""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from flux.client.terminal.text import clean


def shown(text: object) -> str:
    """For ``print``, as a part of one line."""
    return clean(str(text))


def shown_lines(text: object) -> str:
    """The same for what may be several lines."""
    return clean(str(text), "\n")


def cell(text: object) -> Text:
    """For a cell of a table."""
    return Text(shown(text))


def say(console: Console, text: object, style: str = "") -> None:
    """Print lines as they are: only a terminal wraps them, so that elsewhere they can be searched for."""
    console.print(Text(shown_lines(text), style), soft_wrap=True)
