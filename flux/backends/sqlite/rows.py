"""Reading rows: every cursor to its end, for one that is read halfway keeps an old snapshot alive."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any


def all_rows(db: sqlite3.Connection, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    return db.execute(statement, values).fetchall()


def one_row(db: sqlite3.Connection, statement: str, values: Sequence[object]) -> tuple[Any, ...] | None:
    """The row of a query that has one at most."""
    rows = db.execute(statement, values).fetchall()
    return rows[0] if rows else None
