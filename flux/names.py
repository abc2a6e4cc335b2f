"""When two account names, and when two e-mail addresses, are the same."""

from __future__ import annotations

from unicodedata import normalize


def fold(name: str) -> str:
    """The form under which a name is unique and searched, after NFKC and case folding: ``fold("Ｚoë") == fold("ZOË")``.

    Case folding can undo a normal form, so the result is normalised again
    (Unicode Standard, section 3.13, definition D145); folding twice changes nothing.
    """
    return normalize("NFKC", normalize("NFKC", name).casefold())


def fold_email(address: str) -> str:
    """The form under which an e-mail address is unique and looked up.

    RFC 5321 leaves the case of what stands before the @ to its host; no host in use tells two mailboxes apart by it.
    """
    return address.casefold()
