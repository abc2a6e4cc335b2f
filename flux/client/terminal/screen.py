"""The terminal itself, through prompt_toolkit; runs on Twisted's asyncio reactor.

One prompt is open while a line is read; lines shown meanwhile are printed above it,
gathered per turn of the loop, with the prompt taken away and drawn again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import DummyHistory, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth, create_output
from prompt_toolkit.renderer import print_formatted_text
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import get_cwidth
from twisted.internet.defer import Deferred

from flux.client.terminal.face import EndOfInput, Face, Interrupted
from flux.client.terminal.text import COLOURLESS, STYLES, Fragment, Line, wrap

#: How often the toolbar is looked at, in seconds.
REFRESH_EVERY = 0.5


class _Names(Completer):
    """Asks the face that is shown."""

    def __init__(self, screen: TerminalScreen) -> None:
        self._screen = screen

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        face = self._screen.face
        for found in face.complete(document.text_before_cursor) if face is not None else ():
            yield Completion(found.text, -found.replaces, display=found.text.strip(), display_meta=found.about)


class TerminalScreen:
    """The screen of the process's own terminal; see :class:`flux.client.terminal.face.Screen`."""

    def __init__(self) -> None:
        #: What is shown while a line is read.
        self.face: Face | None = None
        self._output = create_output()
        colourless = self._output.get_default_color_depth() == ColorDepth.DEPTH_1_BIT
        self._style = Style.from_dict(STYLES | (COLOURLESS if colourless else {}))
        self._pending: list[Line] = []
        self._reading: asyncio.Future[str] | None = None
        options: dict[str, Any] = {
            "output": self._output,
            "style": self._style,
            "include_default_pygments_style": False,
            "interrupt_exception": Interrupted,
            "eof_exception": EndOfInput,
        }
        self._lines: PromptSession[str] = PromptSession(
            self._prompt,
            completer=_Names(self),
            complete_while_typing=False,
            bottom_toolbar=self._toolbar,
            key_bindings=_bindings(),
            history=InMemoryHistory(),
            refresh_interval=REFRESH_EVERY,
            erase_when_done=True,
            **options,
        )
        self._lines.default_buffer.on_text_changed += self._typed
        self._questions: PromptSession[str] = PromptSession(history=DummyHistory(), **options)

    def show(self, *lines: Line) -> None:
        """Print lines above the prompt, those of one turn of the loop together."""
        if not self._pending:
            asyncio.get_running_loop().call_soon(self.flush)
        self._pending += lines

    async def read(self, face: Face) -> str:
        """A line for ``face``: remembered, completed, erased when it is done."""
        self.face = face
        try:
            return await self._run(self._lines, self._lines.prompt_async())
        finally:
            self.face = None

    async def ask(self, question: str, hidden: bool = False) -> str:
        """The answer to a question."""
        return await self._run(self._questions, self._questions.prompt_async(question, is_password=hidden))

    def refresh(self) -> None:
        """Draw prompt and toolbar again."""
        self._lines.app.invalidate()

    def interrupt(self) -> None:
        """End what is being read."""
        if self._reading is not None:
            self._reading.cancel()

    async def _run(self, session: PromptSession[str], prompt: Any) -> str:
        if not self._lines.app.is_running:
            self.flush()
        self._reading = asyncio.ensure_future(prompt)
        try:
            return await Deferred.fromFuture(self._reading)
        except asyncio.CancelledError:
            raise EndOfInput from None
        finally:
            self._reading = None

    def flush(self) -> None:
        """Print now what was shown."""
        lines, self._pending = self._pending, []
        if not lines:
            return
        text: list[Fragment] = []
        columns = self._output.get_size().columns
        for line in lines:
            text += [*wrap(line, columns, get_cwidth), ("", "\n")]

        def write() -> None:
            print_formatted_text(self._output, FormattedText(text), self._style)

        if self._reading is not None:
            _ = run_in_terminal(write)
        else:
            write()

    def _prompt(self) -> FormattedText:
        return FormattedText(self.face.prompt() if self.face is not None else [])

    def _toolbar(self) -> FormattedText:
        return FormattedText(self.face.toolbar() if self.face is not None else [])

    def _typed(self, buffer: Buffer) -> None:
        if self.face is not None:
            self.face.typed(buffer.text)


def _bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("c-c")
    def clear(event: KeyPressEvent) -> None:
        """Clear the line; on an empty one, tell the face."""
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=Interrupted())

    return bindings
