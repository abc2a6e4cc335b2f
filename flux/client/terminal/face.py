"""What the chat needs of a screen, and a screen of the chat. Tests put their own screen here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from flux.client.terminal.commands import Completion
from flux.client.terminal.text import Line


class Interrupted(Exception):
    """The person pressed Ctrl-C instead of giving an answer."""


class EndOfInput(Exception):
    """The person pressed Ctrl-D, the terminal is gone, or :meth:`Screen.interrupt` was called."""


class Face(Protocol):
    """What a prompt looks like and does while a line is typed."""

    def prompt(self) -> Line:
        """What stands before the line."""

    def toolbar(self) -> Line:
        """What stands at the bottom; asked twice a second."""

    def complete(self, text: str) -> Sequence[Completion]:
        """Proposals for the text before the cursor."""

    def typed(self, text: str) -> None:
        """The line has changed to ``text``."""


class Screen(Protocol):
    """A terminal with a line being typed at its bottom."""

    def show(self, *lines: Line) -> None:
        """Put lines above the one being typed, in order, soon."""

    async def read(self, face: Face) -> str:
        """The next line.

        :raises Interrupted: Ctrl-C on an empty line.
        :raises EndOfInput: no more lines.
        """

    async def ask(self, question: str, hidden: bool = False) -> str:
        """An answer to a question; ``hidden`` ones are neither shown nor remembered.

        :raises Interrupted: Ctrl-C.
        :raises EndOfInput: no more lines.
        """

    def refresh(self) -> None:
        """Prompt or toolbar have changed."""

    def interrupt(self) -> None:
        """End a :meth:`read` or :meth:`ask` that waits, with ``EndOfInput``."""
