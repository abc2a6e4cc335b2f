"""What ``flux check`` says of a database file, and that it leaves everything as it was."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from server_process import environment
from store_contract_people import people

from flux.backends.sqlite import SqliteStore, check_sqlite
from flux.backends.sqlite.schema import migrations, own
from flux.errors import Unavailable


async def checked(path: Path) -> dict[str, str]:
    from twisted.internet import reactor

    return {step.name: await step.attempt() for step in check_sqlite(path, reactor)}


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    """What is in a folder: what each file holds, and when that changed."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir() if path.is_file()}


def at_version(path: Path, version: int) -> None:
    """A database as the flux of that schema left it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL").fetchall()
        for number, migration in enumerate(migrations()[:version], 1):
            db.executescript(f"{migration.script}; PRAGMA application_id = 0x666C7578; PRAGMA user_version = {number}")


async def test_where_there_is_none_it_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "flux-data" / "deep" / "flux.db"
    results = await checked(path)
    assert list(results) == ["file", "write and fsync"]
    assert results["file"] == f"there is none yet at {path}: a start makes it"
    assert re.fullmatch(r"a write takes [0-9.]+ ms to be on the disk \(median of 20\)", results["write and fsync"])
    assert os.listdir(tmp_path) == []


async def test_where_none_could_be_made(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(Unavailable, match=r"flux\.db cannot be used \(store\.path\): Not a directory"):
        await checked(tmp_path / "data" / "flux.db")


async def test_one_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    from twisted.internet import reactor

    path = tmp_path / "flux.db"
    store = SqliteStore(path, reactor)
    await store.start()
    await people(store, "ann", "bob")
    await store.stop()
    before = everything(tmp_path)
    results = await checked(path)
    assert results["file"] == f"{path} is free"
    assert re.fullmatch(r"schema 3, 0\.[0-9] MB, accounts: 2", results["schema"])
    assert everything(tmp_path) == before


async def test_what_was_not_yet_copied_from_the_log_is_seen(tmp_path: Path) -> None:
    """As the death of a server leaves it."""
    from twisted.internet import reactor

    store = SqliteStore(tmp_path / "flux.db", reactor)
    await store.start()
    await people(store, "ann", "bob", "cat")
    (tmp_path / "dead").mkdir()
    for name in ("flux.db", "flux.db-wal"):
        (tmp_path / "dead" / name).write_bytes((tmp_path / name).read_bytes())
    await store.stop()
    before = everything(tmp_path / "dead")
    results = await checked(tmp_path / "dead" / "flux.db")
    assert results["schema"].endswith("accounts: 3")
    after = everything(tmp_path / "dead")
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("version", [0, 1])
async def test_missing_migrations_are_said_and_not_applied(tmp_path: Path, version: int) -> None:
    at_version(tmp_path / "flux.db", version)
    before = everything(tmp_path)
    results = await checked(tmp_path / "flux.db")
    missing = ", ".join(migration.name for migration in migrations()[version:])
    assert results["schema"].startswith(f"schema {version}, 0.")
    assert results["schema"].endswith(f", accounts: 0\na start applies {missing}")
    assert everything(tmp_path) == before


async def test_one_that_a_start_would_refuse(tmp_path: Path) -> None:
    path = tmp_path / "flux.db"
    lock = own(path)
    at_version(path, 3)
    with pytest.raises(Unavailable, match=f"is in use by process {os.getpid()} on .*: stop that one"):
        await checked(path)
    lock.release()
    await checked(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP INDEX messages_by_cid")
    with pytest.raises(Unavailable, match=r"schema 3 without its messages_by_cid"):
        await checked(path)
    path.write_text("a text " * 1000)
    with pytest.raises(Unavailable, match=r"flux\.db cannot be used \(store\.path\): file is not a database"):
        await checked(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(Unavailable, match=r"flux\.db cannot be used \(store\.path\): Is a directory"):
        await checked(path)


@contextmanager
def without_rights() -> Iterator[None]:
    """Root may do everything, so it becomes somebody else for a while."""
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(me)


@pytest.fixture
def foreign() -> Iterator[Path]:
    """A database of which somebody else may write all but the log: what a command of root's leaves behind."""
    # Not in tmp_path, which nobody else may enter.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "flux.db"
        at_version(path, 3)
        path.chmod(0o666)
        log = Path(f"{path}-wal")
        log.touch()
        log.chmod(0o400)
        yield path


async def test_files_of_another_user(foreign: Path) -> None:
    denied = rf"{foreign}-wal: Permission denied; run the check as the user of the server"
    with without_rights(), pytest.raises(Unavailable, match=denied):
        await checked(foreign)


async def test_a_directory_of_another_user(foreign: Path) -> None:
    os.chmod(foreign.parent, 0o500)
    with without_rights(), pytest.raises(Unavailable, match=rf"{foreign.parent}.*: Permission denied"):
        await checked(foreign.parent / "data" / "flux.db")


@pytest.mark.slow
def test_the_command_in_the_wrong_directory(tmp_path: Path) -> None:
    free = [
        part for each in ("chat", "status", "gate") for part in ("--set", f"{each}.listen=tcp:0:interface=127.0.0.1")
    ]
    program = "import sys; from flux.cli.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "check", *free, "--set", "admin.listen="],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert f"there is none yet at {tmp_path / 'flux-data' / 'flux.db'}: a start makes it\n" in done.stdout
    assert list(tmp_path.iterdir()) == []
