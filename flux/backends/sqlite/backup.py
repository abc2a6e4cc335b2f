"""A copy of a database that is in use: one snapshot, taken while its owner goes on writing."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from flux.backends.sqlite.schema import recognise
from flux.errors import Unavailable

PAGES = 500
"""Pages copied at a time, between which progress is told: 2 MB."""


class Backup(NamedTuple):
    """A copy: the absolute path it was made from, its size in bytes, and how many accounts it has."""

    source: Path
    size: int
    accounts: int


def back_up(path: Path, target: Path, progress: Callable[[float], None]) -> Backup:
    """Copy the database at ``path`` to the new file ``target``, which appears when it is complete.

    The owner's lock is not needed: a reader does not disturb a writer.

    :param progress: is told the share that is done, 0 to 1.
    :raises Unavailable: there is no database, it is not whole, or the copy cannot be made; nothing is left then.
    """
    relative, path = not path.is_absolute(), path.absolute()
    if not path.exists():
        hint = "; a relative one counts from the current directory" if relative else ""
        raise Unavailable(f"{path} does not exist (store.path{hint})")
    if target.exists():
        raise Unavailable(f"{target} exists already: a backup overwrites nothing")
    unfinished = target.with_name(target.name + ".part")
    try:
        # As private as the database itself.
        os.close(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        raise Unavailable(f"{unfinished} exists: another backup makes it, or was broken off; remove it") from None
    except OSError as error:
        raise Unavailable(f"{target} cannot be written: {error.strerror}") from error
    try:
        accounts = _copy(path, unfinished, progress)
        os.rename(unfinished, target)
    except sqlite3.Error as error:
        raise Unavailable(f"{path} could not be copied to {target}: {error}") from error
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()
    return Backup(path, target.stat().st_size, accounts)


def _copy(path: Path, unfinished: Path, progress: Callable[[float], None]) -> int:
    """Returns the number of accounts."""
    with (
        closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)) as source,
        closing(sqlite3.connect(unfinished, isolation_level=None)) as copy,
    ):
        recognise(source, path)
        if not source.execute("PRAGMA user_version").fetchall()[0][0]:
            raise Unavailable(f"{path} has no tables: no server has used it yet (store.path)")
        # A snapshot that is held: without it, each commit of the owner would make the copy begin anew.
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        source.backup(
            copy, pages=PAGES, progress=lambda _, left, total: progress(1 - left / total if total else 1), sleep=0
        )
        # In one file, on the disk, and whole.
        copy.execute("PRAGMA journal_mode = DELETE").fetchall()
        if (verdict := copy.execute("PRAGMA quick_check(1)").fetchall()) != [("ok",)]:
            raise Unavailable(f"the copy of {path} is not whole, nor is the database, perhaps: {verdict[0][0]}")
        [(accounts,)] = copy.execute("SELECT count(*) FROM accounts").fetchall()
    descriptor = os.open(unfinished, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return int(accounts)
