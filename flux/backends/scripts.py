"""Migrations: the files ``migrations/KIND/NNNN_*.sql``, numbered from 1."""

from __future__ import annotations

from importlib.resources import files
from typing import NamedTuple


class Migration(NamedTuple):
    """A file of migrations; its number is its place, from 1."""

    name: str
    script: str


def migrations_of(kind: str) -> list[Migration]:
    """All that this flux has for a kind of store, in order."""
    folder = files("flux.backends").joinpath("migrations", kind)
    found = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    for number, file in enumerate(found, 1):
        assert file.name.startswith(f"{number:04}_"), f"migration {file.name} should have number {number}"
    return [Migration(file.name.removesuffix(".sql"), file.read_text("utf-8")) for file in found]
