"""Many values as one parameter: PostgreSQL's array literals, which cost the driver and the parser least."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

_encode = msgspec.json.Encoder().encode
_decode_integers = msgspec.json.Decoder(list[int]).decode


def integers(values: Sequence[int]) -> str:
    """``{1,2,3}``, to be cast to bigint[]."""
    return "{" + _encode(values)[1:-1].decode() + "}"


def texts(values: Sequence[str]) -> str:
    """``{"a","b"}``, to be cast to text[]. :raises ValueError: a text holds a NUL."""
    if not values:
        return "{}"
    joined = "\0".join(values)
    if joined.count("\0") >= len(values):
        raise ValueError("a NUL in a text")
    if "\\" in joined:
        joined = joined.replace("\\", "\\\\")
    if '"' in joined:
        joined = joined.replace('"', '\\"')
    return '{"' + joined.replace("\0", '","') + '"}'


def list_of(literal: str) -> list[int]:
    """The integers of ``{1,2,3}``, which is how the server writes an array as text."""
    return _decode_integers(f"[{literal[1:-1]}]")
