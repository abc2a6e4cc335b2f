"""When two account names are the same: compared after NFKC and case folding."""

from __future__ import annotations

from unicodedata import normalize


def fold(name: str) -> str:
    """The form under which a name is unique and searched: ``fold("Ｚoë") == fold("ZOË")``.

    Case folding can undo a normal form, so the result is normalised again
    (Unicode Standard, section 3.13, definition D145); folding twice changes nothing.
    """
    return normalize("NFKC", normalize("NFKC", name).casefold())
