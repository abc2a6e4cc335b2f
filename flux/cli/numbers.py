"""Numbers among the arguments of the ``flux`` command: what is wrong with one, in words."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def at_least(least: int) -> Callable[[str], int]:
    """For argparse: a whole number that is not less."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"at least {least}")
        return number

    return parse


def even(text: str) -> int:
    """For argparse: an even number of clients."""
    number = at_least(2)(text)
    if number % 2:
        raise argparse.ArgumentTypeError("an even number, for they talk in pairs")
    return number
