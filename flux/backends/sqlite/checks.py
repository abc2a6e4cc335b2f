"""What ``flux check`` tries of a database file. It makes none, and changes none.

::

    there is one:   file (may it be opened, is it free) ── schema (is it whole) ── write and fsync
    there is none:  file (where a start would make it)                           ── write and fsync

The last one is tried with a file without a name in the same directory.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

from twisted.internet.threads import deferToThreadPool

from flux.backends.sqlite.schema import log_file, migrations, need_sqlite, recognise, see_whether_free, verify
from flux.errors import Unavailable
from flux.model.checks import Step

PROBES = 20
"""Writes that are measured."""

PAGE = 4096
"""Bytes of each: a page of the database."""


def check_sqlite(path: Path, reactor: Any) -> list[Step]:
    """Steps that show whether a server could use the database at ``path``, in order.

    Each returns a sentence or raises ``Unavailable``.
    """
    path = path.absolute()

    def step(name: str, work: Callable[[Path], str]) -> Step:
        def run() -> str:
            try:
                return work(path)
            except (OSError, sqlite3.Error) as error:
                raise Unavailable(f"{path} cannot be used (store.path): {_why(error)}") from error

        return Step(name, lambda: deferToThreadPool(reactor, reactor.getThreadPool(), run))

    writes = step("write and fsync", _writes)
    # Not Path.exists: where the directory may not be entered, that is told by the steps.
    if not os.path.exists(path):
        return [step("file", _none_yet), writes]
    return [step("file", _file), step("schema", _schema), writes]


def _why(error: OSError | sqlite3.Error) -> str:
    if not isinstance(error, PermissionError):
        return (error.strerror if isinstance(error, OSError) else None) or str(error)
    # Which of the files it is, is what has to be known: root's -wal next to a service's database, for example.
    return f"{error.filename}: {error.strerror}; run the check as the user of the server, who needs that right"


def _none_yet(path: Path) -> str:
    need_sqlite()
    with tempfile.TemporaryFile(dir=_directory(path)):
        return f"there is none yet at {path}: a start makes it"


def _directory(path: Path) -> Path:
    """Where a start would begin to make something."""
    return next(parent for parent in path.parents if os.path.exists(parent))


def _file(path: Path) -> str:
    need_sqlite()
    for each in (path, log_file(path), path.with_name(path.name + "-shm")):
        # Before SQLite opens them: to close one of them would release its locks.
        try:
            os.close(os.open(each, os.O_RDWR | os.O_CLOEXEC))
        except FileNotFoundError:
            if each == path:
                raise
    see_whether_free(path)
    return f"{path} is free"


def _schema(path: Path) -> str:
    # Without a log the file is all there is, and without "immutable" SQLite would leave an empty log behind.
    how = "mode=ro" if log_file(path).exists() else "mode=ro&immutable=1"
    with closing(sqlite3.connect(f"{path.as_uri()}?{how}", uri=True)) as db:
        recognise(db, path)
        version = verify(db, path)
        accounts = db.execute("SELECT count(*) FROM accounts").fetchall()[0][0] if version else 0
    found = f"schema {version}, {path.stat().st_size / 1e6:.1f} MB, accounts: {accounts:,}"
    missing = ", ".join(migration.name for migration in migrations()[version:])
    return f"{found}\na start applies {missing}" if missing else found


def _writes(path: Path) -> str:
    taken = []
    with tempfile.TemporaryFile(dir=_directory(path), buffering=0) as file:
        for _ in range(PROBES):
            began = time.perf_counter()
            file.write(bytes(PAGE))
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - began)
    return f"a write takes {median(taken) * 1000:.2f} ms to be on the disk (median of {PROBES})"
