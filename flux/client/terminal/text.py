"""Styled text, and the neutralising of what others wrote.

A line is a list of (style class, text) pairs, which prompt_toolkit understands as it
is; the classes are those of ``STYLES``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeAlias

Fragment: TypeAlias = tuple[str, str]
Line: TypeAlias = list[Fragment]

#: Instead of the above where there are no colours (NO_COLOR): the toolbar stands out all the same.
COLOURLESS = {"bottom-toolbar": "reverse"}

#: Columns before a continued line: those of a message's time.
INDENT = 6

#: A line end, spaces, or a word.
_PARTS = re.compile(r"\n| +|[^ \n]+")

#: What the classes look like: only the terminal's own 16 colours, so that its theme decides.
STYLES = {
    "time": "ansibrightblack",
    "dim": "ansibrightblack",
    "title": "bold",
    "me": "bold ansicyan",
    "group": "bold ansiyellow",
    "error": "ansired",
    "good": "ansigreen",
    "warn": "ansiyellow",
    "online": "ansigreen",
    "name0": "bold ansigreen",
    "name1": "bold ansimagenta",
    "name2": "bold ansiblue",
    "name3": "bold ansibrightgreen",
    "name4": "bold ansibrightmagenta",
    "name5": "bold ansibrightblue",
    "prompt": "bold ansicyan",
    "bottom-toolbar": "noreverse bg:ansibrightblack ansiwhite",
    "bar.good": "ansibrightgreen",
    "bar.warn": "bold ansibrightyellow",
}


def clean(text: str, newline: str = " ") -> str:
    """``text`` without anything that a terminal or a reader could be fooled with.

    Control characters (C0 with ESC, DEL, C1) appear as pictures or U+FFFD, a tab as spaces, a line end as
    ``newline``. Formatting characters (those that reorder text among them), line and paragraph separators and
    lone surrogates appear as U+FFFD. Joiners stay: emoji and several scripts need them.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _picture(char, newline) for char in text)


def _picture(char: str, newline: str) -> str:
    code = ord(char)
    if char == "\n":
        return newline
    if char == "\t":
        return "    "
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    refused = unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char not in "\u200c\u200d"
    return "\ufffd" if refused else char


def paragraphs(text: str) -> str:
    """A message's text, cleaned, its own line ends kept and indented."""
    unified = text.replace("\r\n", "\n").rstrip("\n")
    return clean(unified, "\n" + " " * INDENT)


def wrap(line: Line, columns: int, width: Callable[[str], int]) -> Line:
    """Break a line between words where it does not fit; what follows is indented.

    Spaces at a break, and at the end of a line, are left out. A word longer than a line (an address) is left to the
    terminal.

    :param width: the columns that a text takes.
    """
    wrapped: Line = []
    spaces: Line = []
    used = gap = 0
    for style, text in line:
        for part in _PARTS.findall(text):
            if part == "\n":
                wrapped.append((style, part))
                spaces, used, gap = [], 0, 0
                continue
            length = width(part)
            if part.startswith(" "):
                spaces.append((style, part))
                gap += length
                continue
            if used + gap + length > columns and length <= columns - INDENT:
                if used > INDENT:
                    wrapped.append(("", "\n"))
                    used, gap = 0, INDENT
                else:
                    # Little or nothing to break after: fewer spaces before it.
                    gap = columns - used - length
                spaces = [("", " " * gap)]
            wrapped += [*spaces, (style, part)]
            used += gap + length
            spaces, gap = [], 0
    return wrapped


def local(at: int) -> datetime:
    """Milliseconds since the epoch in the time zone of this machine."""
    return datetime.fromtimestamp(at / 1000).astimezone()


def clock_time(at: int) -> str:
    """Hours and minutes, local."""
    return local(at).strftime("%H:%M")


def day(at: int) -> str:
    """The day in words: ``Friday 20 November 2026``."""
    moment = local(at)
    return f"{moment:%A} {moment.day} {moment:%B %Y}"


def name_style(uid: int) -> str:
    """A colour for a person, the same every time."""
    return f"class:name{uid % 6}"


def plain(line: Sequence[Fragment]) -> str:
    """A line without its styles."""
    return "".join(text for _, text in line)


def dim(text: str) -> Line:
    """A quiet remark."""
    return [("class:dim", text)]


def error(text: str) -> Line:
    """Something that did not work."""
    return [("class:error", text)]


def good(text: str) -> Line:
    """Something that did."""
    return [("class:good", text)]
