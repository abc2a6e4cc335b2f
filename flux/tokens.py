"""Login tokens: made by the status service, checked by status and chat, stored only as digests.

A plain SHA-256 is enough for a digest here: unlike a password, a token is random
and long, so there is nothing to guess, and whoever reads the shared state learns no
token that would be accepted.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

_ABSENT = bytes(32)


def new_token() -> str:
    """A fresh token: 192 random bits, 32 characters that need no quoting in a URL."""
    return secrets.token_urlsafe(24)


def digest(token: str) -> bytes:
    """What is stored of ``token``: 32 bytes."""
    # Clients send anything; what UTF-8 cannot hold must be wrong, not an error.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def matches(token: str, stored: bytes | None) -> bool:
    """Whether ``stored`` is the digest of ``token``, in a time that tells nothing about either.

    :param stored: None where there is none: takes as long and is False.
    """
    equal = hmac.compare_digest(digest(token), _ABSENT if stored is None else stored)
    return equal and stored is not None
