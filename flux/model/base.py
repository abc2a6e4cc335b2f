"""What all values have in common."""

from __future__ import annotations

import msgspec


class Value(msgspec.Struct, frozen=True, gc=False):
    """Base of the plain values."""


class Event(msgspec.Struct, frozen=True, gc=False, tag_field="type"):
    """Base of what a client is told without having asked."""
