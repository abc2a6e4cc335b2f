"""A screen for the terminal client that is a list of lines; what the person does comes from the test."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from flux.client.terminal.face import EndOfInput, Face, Interrupted
from flux.client.terminal.text import Line, plain


class FakeScreen:
    """Everything shown, as plain text, and at most one question or line waited for.

    :ivar lines: what was shown.
    :ivar question: what is being asked; empty while a line is read or nothing is.
    :ivar hidden: whether the answer would be hidden.
    :ivar face: what is on the screen while a line is read.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.lines: list[str] = []
        self.question = ""
        self.hidden = False
        self.face: Face | None = None
        self._clock = clock
        self._input: Deferred[str] | None = None

    def show(self, *lines: Line) -> None:
        self.lines += [plain(line) for line in lines]

    def refresh(self) -> None:
        """The tests look at the toolbar when they want to."""

    async def read(self, face: Face) -> str:
        self.face = face
        return await self._wait("", False)

    async def ask(self, question: str, hidden: bool = False) -> str:
        return await self._wait(question, hidden)

    async def _wait(self, question: str, hidden: bool) -> str:
        assert self._input is None, "two readers"
        self.question, self.hidden = question, hidden
        self._input = Deferred()
        try:
            return await self._input
        finally:
            self.question = ""

    def interrupt(self) -> None:
        if self._input is not None:
            self._later(lambda waiting: waiting.errback(Failure(EndOfInput())))

    # for tests

    def type(self, line: str) -> None:
        """The person types a line, or an answer, and Enter."""
        self._now(lambda waiting: waiting.callback(line))

    def control_c(self) -> None:
        """The person presses Ctrl-C."""
        self._now(lambda waiting: waiting.errback(Failure(Interrupted())))

    def control_d(self) -> None:
        """The person presses Ctrl-D."""
        self._now(lambda waiting: waiting.errback(Failure(EndOfInput())))

    def new(self) -> list[str]:
        """What was shown since the last call."""
        lines, self.lines = self.lines, []
        return lines

    def toolbar(self) -> str:
        """The toolbar's text."""
        assert self.face is not None
        return plain(self.face.toolbar())

    def prompt(self) -> str:
        """The prompt's text."""
        assert self.face is not None
        return plain(self.face.prompt())

    def _now(self, do: Callable[[Deferred[str]], None]) -> None:
        waiting, self._input = self._input, None
        assert waiting is not None, "nobody reads"
        do(waiting)

    def _later(self, do: Callable[[Deferred[str]], None]) -> None:
        waiting, self._input = self._input, None
        assert waiting is not None
        self._clock.callLater(0, do, waiting)
