"""What PostgreSQL and its driver raise, in our words."""

from __future__ import annotations

import psycopg2

from flux.errors import Unavailable

#: By SQLSTATE, or its class. Clients read these: nothing of addresses, names or settings, which are in the log.
SENTENCES = {
    "53100": "its disk is full",
    "53200": "it is out of memory",
    "53300": "it has no connection to spare",
    "53": "it is short of resources",
    "25006": "it is read-only: a standby, or set to be",
    "42501": "its role may not do this",
    "55P03": "a lock was not to be had",
    "57014": "it cancelled the statement",
    "57P": "it is starting up or shutting down",
    "58": "its disk has failed",
}

#: By the same: what an admin can do.
ADVICE = {
    "53100": "make room on the disk of the database; flux goes on by itself",
    "53200": "give the database more memory",
    "53300": "raise its max_connections, or lower store.pool",
    "25006": "name the primary if it is a standby, else see its default_transaction_read_only",
    "42501": "GRANT the role what it lacks",
    "58": "see the log of the database",
}

#: Nothing was done, and it may be tried again: a deadlock, a serialization failure.
AGAIN = ("40P01", "40001")


def is_dead(error: BaseException) -> bool:
    """Whether the connection that raised this cannot be used any more."""
    if isinstance(error, psycopg2.OperationalError):
        # A lock timeout or a deadlock is one too, but those have codes of their own.
        return error.pgcode is None or error.pgcode.startswith(("08", "57P"))
    return isinstance(error, psycopg2.InterfaceError)


def unavailable(error: BaseException) -> Unavailable | None:
    """What a caller is told, and admins in full; None where it may be tried again, or the statement itself is to blame,
    which is a bug.
    """
    code = _code(error)
    if code in AGAIN:
        return None
    if sentence := _of(SENTENCES, code):
        detail = f"the database could not do it: {sentence}"
    elif is_dead(error):
        detail = "the connection to the database was lost"
    elif isinstance(error, (psycopg2.OperationalError, psycopg2.InternalError)):
        detail = "the database could not do it"
    else:
        return None
    return Unavailable(detail, f"store.dsn: {complaint(error)}")


def away(detail: str) -> Unavailable:
    """What a caller is told of a database that answers nothing, and admins together with the setting."""
    return Unavailable(detail, f"store.dsn: {detail}")


def in_full(error: Unavailable) -> str:
    """What an admin is told, without the setting: what the server has said, if it has said something."""
    return error.detail if error.__cause__ is None else complaint(error.__cause__)


def complaint(error: BaseException) -> str:
    """What the log says of it: the server's own words, the code by which its manual explains them, and what to do."""
    code = _code(error)
    advice = _of(ADVICE, code)
    return first_line(error) + (f" ({code})" if code else "") + (f"; {advice}" if advice else "")


def _code(error: BaseException) -> str:
    return getattr(error, "pgcode", None) or ""


def _of(table: dict[str, str], code: str) -> str:
    return next((table[prefix] for prefix in (code, code[:3], code[:2]) if prefix in table), "")


def first_line(error: BaseException) -> str:
    """What the server or the driver says, without what it adds for programmers."""
    text = str(getattr(getattr(error, "diag", None), "message_primary", None) or error)
    return " ".join(line for line in text.strip().splitlines()[:1]) or type(error).__name__
