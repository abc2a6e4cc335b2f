"""The commands as one table: their names, help, completion; and what a typed line asks for.

``COMMANDS`` is filled by the decorator :func:`command` where the commands are written
(:mod:`flux.client.terminal.actions`).  Parsing, help and completion only read the table.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flux.client.terminal.roster import Offer
from flux.client.terminal.text import Line

#: What completion offers for a command's argument.
Argument = Literal["", "target", "person", "group", "request", "command", "role"]

Action = Callable[[Any, str], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the table.

    :ivar name: what is typed after ``/``; two words for ``group create`` and the like.
    :ivar usage: its arguments, for people.
    :ivar about: one line of help.
    :ivar arguments: what each argument is, for completion.
    :ivar asks: True where it asks for more input, so that no other line may be read meanwhile.
    """

    name: str
    usage: str
    about: str
    arguments: Sequence[Argument]
    asks: bool
    action: Action


@dataclass(frozen=True, slots=True)
class Completion:
    """A proposal: ``text`` takes the place of the last ``replaces`` characters."""

    text: str
    replaces: int
    about: str = ""


class Unknown(Exception):
    """No such command; the text is a sentence."""


COMMANDS: dict[str, Command] = {}


def command(name: str, usage: str, about: str, *arguments: Argument, asks: bool = False) -> Callable[[Action], Action]:
    """Enter a coroutine method into the table."""

    def enter(action: Action) -> Action:
        COMMANDS[name] = Command(name, usage, about, arguments, asks, action)
        return action

    return enter


def parse(line: str) -> tuple[Command, str] | None:
    """The command a line calls and its arguments; None for a line that is a message.

    ``//`` at the beginning is a message that begins with one ``/``.

    :raises Unknown: it begins with ``/`` and is no command.
    """
    if not line.startswith("/") or line.startswith("//"):
        return None
    words = line[1:].split(None, 2)
    if not words:
        raise Unknown("type a command after the /, or /help for all of them")
    first = words[0].lower()
    second = " ".join([first, *(word.lower() for word in words[1:2])])
    if second in COMMANDS and second != first:
        return COMMANDS[second], words[2].strip() if len(words) > 2 else ""
    if first in COMMANDS:
        return COMMANDS[first], line[1 + len(first) :].strip()
    family = [name for name in COMMANDS if name.startswith(first + " ")]
    if family:
        raise Unknown(f"/{first} needs one of: {', '.join(name.removeprefix(first + ' ') for name in family)}")
    # Who types /join means /group join; what is a command by itself goes first.
    meant = {name.split()[-1]: name for name in COMMANDS} | {name.split()[0]: name.split()[0] for name in COMMANDS}
    near = difflib.get_close_matches(first, meant, 1)
    hint = f"did you mean /{meant[near[0]]}?" if near else "/help lists all"
    raise Unknown(f"there is no command /{first}; {hint}")


def help_lines(wanted: str = "") -> list[Line]:
    """All commands, or those whose name begins with ``wanted``.

    :raises Unknown: there are none.
    """
    wanted = wanted.strip().removeprefix("/").lower()
    chosen = [c for c in COMMANDS.values() if not wanted or c.name == wanted or c.name.startswith(wanted + " ")]
    if not chosen:
        raise Unknown(f"there is no command /{wanted}; /help lists all")
    width = max(len(c.name) + len(c.usage) for c in chosen) + 3
    lines: list[Line] = [
        [("class:me", f"  /{c.name} "), ("", c.usage.ljust(width - len(c.name) - 1)), ("class:dim", c.about)]
        for c in chosen
    ]
    if not wanted:
        lines.append([("class:dim", "  Anything else goes to the current conversation. Tab completes names.")])
    return lines


def complete(line: str, offers: Callable[[Argument], Sequence[Offer]]) -> list[Completion]:
    """What could follow in ``line``, the text before the cursor.

    :param offers: what there is of a kind of argument.
    """
    if not line.startswith("/") or line.startswith("//"):
        return []
    typed = line[1:]
    if not any(typed.lower().startswith(name + " ") for name in COMMANDS):
        return [
            Completion(f"/{c.name}" + (" " if c.usage else ""), len(line), c.about)
            for c in COMMANDS.values()
            if c.name.startswith(typed.lower())
        ]
    name = max((name for name in COMMANDS if typed.lower().startswith(name + " ")), key=len)
    family = [c for c in COMMANDS.values() if c.name.startswith(typed.lower()) and c.name != name]
    completions = [Completion(f"/{c.name} ", len(line), c.about) for c in family]
    done, last = _arguments(typed[len(name) + 1 :])
    kinds = COMMANDS[name].arguments
    if done < len(kinds) and kinds[done]:
        typed_name = last.replace('"', "").casefold()
        completions += [
            Completion(offer.text + " ", len(last), offer.label)
            for offer in offers(kinds[done])
            if any(name.replace('"', "").casefold().startswith(typed_name) for name in offer if name)
        ]
    return completions


def _arguments(text: str) -> tuple[int, str]:
    """How many arguments are complete, and the text of the one being typed; quotes hold spaces together."""
    done, current, in_quotes = 0, "", False
    for char in text:
        if char == " " and not in_quotes:
            if current:
                done += 1
            current = ""
            continue
        if char == '"':
            in_quotes = not in_quotes
        current += char
    return done, current
