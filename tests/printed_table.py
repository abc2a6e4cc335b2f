"""What a command printed as a table."""

from __future__ import annotations

import re


def cells(output: str) -> list[list[str]]:
    """The cells of each row below a rule; an empty cell is not seen."""
    rows: list[list[str]] = []
    within = False
    for line in output.splitlines():
        if line.strip().startswith("──"):
            within = True
        elif not line.strip():
            within = False
        elif within:
            rows.append(re.split(" {2,}", line.strip()))
    return rows
