"""What an installation consists of, whatever it is stored in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import msgspec

Row = tuple[Any, ...]

TABLES: dict[str, tuple[str, ...]] = {
    "accounts": ("id", "name", "key", "password_hash", "email", "verified", "nick", "description", "sex", "icon"),
    "sessions": ("uid", "number"),
    "boots": ("node", "boot"),
    "friends": ("uid", "friend", "remark", "mutual"),
    "friend_requests": ("uid", "sender", "note", "remark", "at"),
    "blocks": ("uid", "blocked"),
    "bans": ("network", "uid", "reason", "at", "until"),
    "chats": ("id", "low", "high", "version"),
    "groups": ("chat", "name", "description", "closed", "open_history"),
    "members": ("uid", "chat", "first", "received", "read", "role"),
    "removals": ("uid", "chat"),
    "messages": ("chat", "seq", "sender", "at", "cid", "text"),
}
"""The columns of each table, in an order in which they can be filled."""

TRUTH_VALUES = {"mutual", "closed", "open_history"}
"""Columns that are 0 and 1 in SQLite."""

AT_ONCE = 2_000
"""Rows read and written at a time."""


class Side(Protocol):
    """An installation to read from, or an empty one to write to.

    :ivar name: for messages.
    """

    name: str

    def count(self, table: str) -> int:
        """Rows of a table."""

    def rows(self, table: str) -> Iterator[Row]:
        """All rows, of one snapshot of all tables; truth values are bool, and the messages of a chat come by seq."""

    def write(self, table: str, rows: Iterable[Row]) -> None:
        """Fill an empty table, in the transaction that :meth:`commit` ends."""

    def finish(self) -> None:
        """What follows from the rows: heads, indexes, the next ids."""

    def commit(self) -> None:
        """Keep what was written."""

    def interrupt(self) -> None:
        """Have the statement fail that runs; called by another thread, and does nothing where none runs."""

    def close(self) -> None:
        """Give it up; what was not committed is gone."""


class Sum:
    """A checksum of rows in any order, and their number."""

    def __init__(self) -> None:
        self.count = 0
        self.value = 0
        self._encode = msgspec.json.Encoder().encode

    def add(self, row: Row) -> None:
        """One more."""
        self.count += 1
        digest = hashlib.blake2b(self._encode(row), digest_size=8).digest()
        self.value = (self.value + int.from_bytes(digest)) % 2**64

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sum) and (self.count, self.value) == (other.count, other.value)

    __hash__ = None  # type: ignore[assignment]
