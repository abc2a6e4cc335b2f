"""The database file: who may open it, how, and which tables it has.

One process owns a file.  It holds a lock on ``<path>.lock`` while it runs, and that
file says who it is, so that a second process can name it.

Migrations are the files ``migrations/sqlite/NNNN_*.sql``, numbered from 1.  Each runs
in one transaction with the number it leaves behind in ``PRAGMA user_version``, so a
file is never between two of them.  A file of another program or of a later flux is
refused before anything is written to it.  In the end the tables are compared with those
that the migrations make in an empty database: a file that was restored in part or
altered by hand is refused too.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from flux.backends.scripts import Migration, migrations_of
from flux.errors import Unavailable

Connect = Callable[..., sqlite3.Connection]

APPLICATION_ID = 0x666C7578
"""``flux`` in ASCII, at byte 68 of the file (PRAGMA application_id; ``file`` shows it)."""

OLDEST_SQLITE = (3, 38, 0)
"""JSON functions without a build option; STRICT tables, RETURNING and UPDATE FROM are older."""

LOG_PAGES = 4000
"""Pages of the write-ahead log after which COMMIT copies it into the tables: that takes about 10 ms then,
and pages that changed again and again are copied once."""

BUSY_TIMEOUT = 5.0
"""Seconds to wait for a lock held by a tool that looks into the file."""

ADVICE = "stop that one, or give this one another store.path"
"""What a second server is told."""


class FileLock:
    """The right of one process to a database file, held until :meth:`release` or the process ends.

    :param advice: what to do where another process has it.
    :raises Unavailable: another process has it.
    """

    def __init__(self, path: Path, advice: str) -> None:
        self._fd = os.open(lock_file(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(self._fd, fcntl.LOCK_EX, path, advice)
        except Unavailable:
            os.close(self._fd)
            raise
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        """Give the right up. The lock file stays: removing it would let two processes lock two files."""
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


def _lock(descriptor: int, kind: int, path: Path, advice: str) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        owner = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
        raise Unavailable(f"{path} is in use by {owner}: {advice}") from None


def see_whether_free(path: Path) -> None:
    """See whether a process could own the file now, without a trace.

    :raises Unavailable: another process has it.
    :raises OSError: its lock file cannot be opened.
    """
    try:
        descriptor = os.open(lock_file(path), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _lock(descriptor, fcntl.LOCK_SH, path, ADVICE)
    finally:
        os.close(descriptor)


def own(path: Path, advice: str = ADVICE) -> FileLock:
    """Make the directory, and lock the file for this process.

    :param advice: what to do where another process has it.
    :raises Unavailable: another process has it, or there is no right to write there.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return FileLock(path, advice)
    except OSError as error:
        raise Unavailable(f"{path} cannot be used (store.path): {error.strerror}") from error


def need_sqlite() -> None:
    """:raises Unavailable: the SQLite of this Python is too old."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise Unavailable(f"this Python has SQLite {sqlite3.sqlite_version}; flux needs {oldest} or later")


def open_writer(path: Path, connect: Connect) -> sqlite3.Connection:
    """The connection that writes, to a file with the current schema; the file is made where there is none.

    :raises Unavailable: the file cannot be used; says why and which setting names it.
    """
    need_sqlite()
    try:
        # Made here, because SQLite would make it readable for everybody.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise Unavailable(f"{path} cannot be used (store.path): {error.strerror}") from error
    with _connection(path, connect) as db:
        recognise(db, path)
        _set(db, journal_mode="WAL", synchronous="FULL", foreign_keys="ON", secure_delete="OFF")
        _set(db, cache_size=-64 * 1024, wal_autocheckpoint=LOG_PAGES, journal_size_limit=LOG_PAGES * 4096)
        migrate(db, path)
        return db


def open_reader(path: Path, connect: Connect) -> sqlite3.Connection:
    """A connection that only reads.

    :raises Unavailable: it cannot be made.
    """
    with _connection(path, connect) as db:
        _set(db, query_only="ON", cache_size=-16 * 1024)
        return db


@contextmanager
def _connection(path: Path, connect: Connect) -> Iterator[sqlite3.Connection]:
    """A connection that is closed where preparing it fails."""
    db = None
    try:
        db = connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT)
        _set(db, temp_store="MEMORY")
        yield db
    except BaseException as error:
        if db is not None:
            db.close()
        if isinstance(error, sqlite3.Error):
            raise Unavailable(f"{path} cannot be used (store.path): {error}") from error
        raise


def _set(db: sqlite3.Connection, **pragmas: object) -> None:
    for name, value in pragmas.items():
        db.execute(f"PRAGMA {name} = {value}").fetchall()


def log_file(path: Path) -> Path:
    """The write-ahead log of a database."""
    return path.with_name(path.name + "-wal")


def lock_file(path: Path) -> Path:
    """What the owner of a database has locked."""
    return path.with_name(path.name + ".lock")


def migrations() -> list[Migration]:
    """The migrations, in order."""
    return migrations_of("sqlite")


def version_of(path: Path) -> int:
    """How many migrations a file has seen, without changing it; 0 where there is no file.

    :raises Unavailable: it cannot be read, is another program's or a later flux's, or is not whole.
    """
    if not path.exists():
        return 0
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            recognise(db, path)
            return verify(db, path)
    except sqlite3.Error as error:
        raise Unavailable(f"{path} cannot be used (store.path): {error}") from error


def recognise(db: sqlite3.Connection, path: Path) -> None:
    """See whose file this is, without changing it.

    :raises Unavailable: another program's, or a later flux's.
    """
    [(application,)] = db.execute("PRAGMA application_id").fetchall()
    [(version,)] = db.execute("PRAGMA user_version").fetchall()
    if application != APPLICATION_ID and (application or version or _tables(db)):
        raise Unavailable(f"{path} belongs to another program: give flux another store.path")
    if version > (known := len(migrations())):
        raise Unavailable(
            f"{path} was written by a later flux (schema {version}, this one knows {known}): "
            "install that version, or give this one another store.path"
        )


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring the schema up to date.

    :raises Unavailable: the tables are not what the version says.
    """
    scripts = [migration.script for migration in migrations()]
    # Before as well: a migration that lacks a table would not say what is wrong.
    version = verify(db, path)
    for number, script in enumerate(scripts[version:], version + 1):
        try:
            db.executescript(
                f"BEGIN IMMEDIATE;\n{script}\n"
                f"PRAGMA application_id = {APPLICATION_ID};\nPRAGMA user_version = {number};\nCOMMIT;"
            )
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    verify(db, path)


def verify(db: sqlite3.Connection, path: Path) -> int:
    """Compare the tables with what the version says, without changing anything, and return that version.

    :raises Unavailable: something is missing or was altered.
    """
    [(version,)] = db.execute("PRAGMA user_version").fetchall()
    scripts = [migration.script for migration in migrations()[:version]]
    if missing := sorted(_expected(scripts) - _tables(db)):
        names = ", ".join(name for name, _ in missing)
        raise Unavailable(f"{path} is damaged or was altered (schema {version} without its {names}): restore it")
    return int(version)


def _expected(scripts: list[str]) -> set[tuple[str, str]]:
    with sqlite3.connect(":memory:") as db:
        for script in scripts:
            db.executescript(script)
        tables = _tables(db)
    db.close()
    return tables


def _tables(db: sqlite3.Connection) -> set[tuple[str, str]]:
    return set(db.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall())
