"""What was measured, held against what flux promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.box import SIMPLE
from rich.table import Table


@dataclass(frozen=True)
class Judgement:
    """One promise.

    :ivar what: is limited, in a few words.
    :ivar found: what it was, with its unit.
    :ivar limit: what it was promised to be.
    :ivar bound: on which side of the limit.
    """

    what: str
    found: str
    limit: str
    holds: bool
    bound: Literal["at most", "at least"] = "at most"


def all_hold(judgements: Sequence[Judgement]) -> bool:
    """Whether every promise was kept."""
    return all(each.holds for each in judgements)


def as_table(judgements: Sequence[Judgement]) -> Table:
    """For people: a row per promise."""
    bounds = dict.fromkeys(each.bound for each in judgements)
    table = Table(title="promises", box=SIMPLE, title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in ("found", *bounds, ""):
        table.add_column(heading, justify="right")
    for each in judgements:
        limits = (each.limit if bound == each.bound else "" for bound in bounds)
        table.add_row(each.what, each.found, *limits, "holds" if each.holds else "[bold red]does not hold[/]")
    return table
