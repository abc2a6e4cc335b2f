"""What was measured, held against what flux promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Judgement:
    """One promise.

    :ivar what: is limited, in a few words.
    :ivar found: what it was, with its unit.
    :ivar limit: the most that it was promised to be.
    """

    what: str
    found: str
    limit: str
    holds: bool


def all_hold(judgements: Sequence[Judgement]) -> bool:
    """Whether every promise was kept."""
    return all(each.holds for each in judgements)
