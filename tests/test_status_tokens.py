"""Login tokens: random, stored as digests, compared whole."""

from __future__ import annotations

import base64

import pytest

from flux import tokens


def test_a_token_has_192_random_bits_and_comes_once() -> None:
    made = {tokens.new_token() for _ in range(1000)}
    assert len(made) == 1000
    assert all(len(base64.urlsafe_b64decode(token)) == 24 for token in made)


def test_a_token_matches_its_own_digest_only() -> None:
    token = tokens.new_token()
    assert tokens.matches(token, tokens.digest(token))
    assert not tokens.matches(tokens.new_token(), tokens.digest(token))
    assert token.encode() not in tokens.digest(token)


@pytest.mark.parametrize("token", ["", "x", "\ud800", "é" * 500, "\0"])
def test_anything_a_client_may_send_is_simply_wrong(token) -> None:
    assert not tokens.matches(token, tokens.digest(tokens.new_token()))
    assert not tokens.matches(token, None)
    assert not tokens.matches(token, b"")


def test_no_digest_is_never_matched() -> None:
    # The digest that is compared instead of a missing one must not open a door.
    assert not tokens.matches("anything", bytes(32)[:0])
    assert not any(tokens.matches(tokens.new_token(), None) for _ in range(10))
