"""Folding of names: pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.names import fold


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ann", "aNN"),
        ("Ｚoë", "ZOE\u0308"),
        ("Straße", "STRASSE"),
        ("\ufb01sh", "FISH"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("①", "1"),
    ],
)
def test_names_that_are_the_same(one: str, other: str) -> None:
    assert fold(one) == fold(other)


@pytest.mark.parametrize(("one", "other"), [("ann", "anna"), ("Zoe", "Zoë"), ("a b", "ab"), ("ı", "i")])
def test_names_that_are_not(one: str, other: str) -> None:
    assert fold(one) != fold(other)


@given(st.text())
def test_folding_twice_changes_nothing(name: str) -> None:
    assert fold(fold(name)) == fold(name)
