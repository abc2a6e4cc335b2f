"""``flux migrate``, ``flux backup`` and ``flux copy``: what a database is, taken along whole."""

from __future__ import annotations

import random
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from postgres_database import Database, empty_database
from server_process import environment
from store_contract_people import befriend, people, together
from store_invariants import check_file
from twisted.internet.defer import Deferred

from flux.backends.postgres import PostgresStore
from flux.backends.scripts import migrations_of
from flux.backends.sqlite import SqliteStore
from flux.backends.sqlite.backup import Backup, back_up
from flux.backends.sqlite.schema import migrate
from flux.backends.transfer import PostgresSide, SqliteSide, copying
from flux.bench.engines import PostgresServer
from flux.cli import migrate as migrate_command
from flux.cli.main import main
from flux.config import load
from flux.errors import Forbidden, Unavailable
from flux.interfaces import IStore
from flux.model.chats import CursorMove
from flux.model.messages import Draft, Receipt
from flux.model.people import Ban

ODD = [
    "plain",
    "tab\there",
    "line\nbreak",
    "back\\slash \\N \\.",
    "quo'te\"s",
    "\r\n",
    "{a,b}",
    "",
    "漢字 🧗",
    "\x01\x7f",
]


@pytest.fixture
def database(quick_postgres: PostgresServer) -> Iterator[Database]:
    """An empty database, without tables."""
    with empty_database(quick_postgres, "copy") as database:
        yield database


@pytest.fixture
def configured(database: Database, tmp_path: Path) -> Path:
    """A folder with a configuration for each kind of store."""
    (tmp_path / "lite.ini").write_text("[store]\npath = flux.db\n")
    (tmp_path / "post.ini").write_text(f"[store]\nkind = postgres\ndsn = {database.dsn}\nrequire_fsync = no\n")
    return tmp_path


def flux(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "import sys; from flux.cli.main import main; sys.exit(main())", *arguments],
        env=environment(), cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def sqlite_store(path: Path) -> SqliteStore:
    from twisted.internet import reactor

    return SqliteStore(path, reactor)  # type: ignore[arg-type]


def postgres_store(database: Database) -> PostgresStore:
    from twisted.internet import reactor

    return PostgresStore(database.dsn, reactor, pool=2, require_fsync=False)


async def inhabit(store: IStore) -> list[int]:
    """People who have done everything there is to do."""
    luck = random.Random(7)
    ids = await people(store, *(f"Üser {n}" for n in range(12)))
    await store.set_profile(ids[0], None, "climbs\nhigh", "f", "🧗")
    await store.set_email(ids[0], "Ann@Example.org", "ann@example.org")
    await befriend(store, ids[0], ids[1])
    await store.friend_add(ids[2], ids[0], "please\tdo", "the \\one", True)
    await store.block(ids[3], ids[4])
    await store.ban(Ban(ids[5], "", "spam\t\\", 1, 2**62))
    await store.ban(Ban(0, "2001:db8::/32", "", 2, 0))
    groups = [(await store.group_create(ids[n], f"group {n}", "", n % 2 == 0, n == 1)).group for n in range(3)]
    for uid in ids[1:8]:
        await store.group_add(ids[0], groups[0], uid)
    await store.group_role(ids[0], groups[0], ids[1], "admin")
    for number in range(30):
        drafts = []
        for _ in range(luck.randrange(1, 60)):
            one, other = luck.sample(ids[:8], 2)
            cid = f"{number}-{len(drafts)}" if luck.random() < 0.7 else ""
            text = luck.choice(ODD) or "x"
            drafts.append(
                Draft(one, 0, groups[0], text, cid) if luck.random() < 0.3 else Draft(one, other, 0, text, cid)
            )
        await store.append(drafts)
    await store.group_remove(ids[0], groups[0], ids[7])
    for uid in ids[8:10]:
        await store.group_join(uid, groups[1])
    await store.group_remove(ids[1], groups[1], ids[9])
    for uid in ids[:8]:
        number = await store.open_session(uid)
        moves = [
            CursorMove(uid, number, cursor.chat, cursor.head - 2, cursor.head // 2)
            for cursor in (await store.overview(uid)).cursors
        ]
        await store.advance(moves)
    for _ in range(3):
        await store.next_boot("chat1")
    return ids


async def everything(store: IStore, ids: list[int]) -> list[Any]:
    """All that a store says of these people."""
    said: list[Any] = [await store.credentials(0, "", "ann@example.org"), await store.bans(9)]
    [_, group] = await store.groups(ids[1])
    with pytest.raises(Forbidden, match="removed"):
        await store.group_join(ids[9], group.group)
    for uid in ids:
        overview = await store.overview(uid)
        said += [overview, await store.conversations(uid, 100), await store.credentials(uid, "")]
        for cursor in overview.cursors:
            said.append(await store.membership(cursor.chat))
            said.append(await store.history(uid, cursor.chat, 0, 0, 0, 0, 1000))
    return said


@pytest.mark.slow
async def test_an_installation_moves_to_postgresql_and_back(configured: Path, database: Database) -> None:
    original = sqlite_store(configured / "flux.db")
    await original.start()
    ids = await inhabit(original)
    said = await everything(original, ids)
    [known] = [r for r in await original.append([Draft(ids[0], ids[1], 0, "again", "known")]) if isinstance(r, Receipt)]
    said = await everything(original, ids)
    await original.stop()

    there = flux(configured, "copy", "lite.ini", "post.ini")
    assert there.returncode == 0, there
    assert "copied" in there.stdout
    assert database.dsn not in there.stdout
    database.check()
    copied = postgres_store(database)
    await copied.start()
    assert await everything(copied, ids) == said
    # Life goes on with the next numbers.
    [repeated, blocked, new] = await copied.append(
        [Draft(ids[0], ids[1], 0, "again", "known"), Draft(ids[4], ids[3], 0, "x"), Draft(ids[9], ids[10], 0, "x")]
    )
    assert (repeated.seq, repeated.duplicate) == (known.seq, True)
    assert not isinstance(blocked, Receipt)
    [[chats]] = database.query("SELECT count(*) FROM chats")
    assert new.chat == chats
    assert await people(copied, "new") == [len(ids) + 1]
    assert await copied.next_boot("chat1") == 4
    assert await copied.open_session(ids[0]) == 2
    ids.append(len(ids) + 1)
    said = await everything(copied, ids)

    in_use = flux(configured, "copy", "post.ini", "lite.ini")
    assert in_use.returncode == 1
    (configured / "flux.db").rename(configured / "old.db")
    in_use = flux(configured, "copy", "post.ini", "lite.ini")
    assert in_use.returncode == 1
    assert "is in use: " in in_use.stderr
    await copied.stop()
    back = flux(configured, "copy", "post.ini", "lite.ini")
    assert back.returncode == 0, back
    check_file(configured / "flux.db")
    again = sqlite_store(configured / "flux.db")
    await again.start()
    assert await everything(again, ids) == said
    [receipt] = await again.append([Draft(ids[0], ids[1], 0, "again", "known")])
    assert (receipt.seq, receipt.duplicate) == (known.seq, True)
    assert await people(again, "newer") == [len(ids) + 1]
    await again.stop()


@pytest.mark.slow
async def test_what_cannot_be_copied(configured: Path, database: Database) -> None:
    nothing = flux(configured, "copy", "lite.ini", "post.ini")
    assert (nothing.returncode, nothing.stderr) == (
        1,
        "flux copy: there is nothing to copy: FROM names an empty database\n",
    )
    same = flux(configured, "copy", "post.ini", "post.ini")
    assert (same.returncode, same.stderr) == (1, "flux copy: FROM and TO name the same store\n")
    missing = flux(configured, "copy", "lite.ini", "nowhere.ini")
    assert missing.returncode == 2
    store = sqlite_store(configured / "flux.db")
    await store.start()
    await people(store, "ann")
    running = flux(configured, "copy", "lite.ini", "post.ini")
    assert running.returncode == 1
    assert "is in use by process" in running.stderr
    assert database.query("SELECT to_regclass('accounts')") == [(None,)], "nothing was made there"
    await store.stop()
    full = postgres_store(database)
    await full.start()
    await full.next_boot("a")
    await full.stop()
    refused = flux(configured, "copy", "lite.ini", "post.ini")
    assert refused.returncode == 1
    assert "is not empty: it has boots; copying needs an empty one" in refused.stderr
    assert database.query("SELECT count(*) FROM accounts") == [(0,)]


async def test_a_copy_that_differs_is_not_kept(tmp_path: Path, database: Database) -> None:
    store = sqlite_store(tmp_path / "flux.db")
    await store.start()
    ann, bob = await people(store, "ann", "bob")
    await store.append([Draft(ann, bob, 0, f"{n}") for n in range(10)])
    await store.stop()
    database.migrate()
    database.query(
        "CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.text := replace(NEW.text, '7', 'seven'); RETURN NEW; END $$;"
        " CREATE TRIGGER change BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION change()"
    )
    source = SqliteSide(tmp_path / "flux.db")
    target = PostgresSide(database.dsn, write=True)
    with pytest.raises(Unavailable, match=r"messages differ: .* has 10 rows with the checksum .*; nothing was kept"):
        copying.copy(source, target, lambda share, what: None)
    target.close()
    source.close()
    assert database.query("SELECT count(*) FROM accounts") == [(0,)]


async def test_a_copy_back_that_differs_is_not_kept(tmp_path: Path, database: Database) -> None:
    store = postgres_store(database)
    await store.start()
    ann, bob = await people(store, "ann", "bob")
    await store.append([Draft(ann, bob, 0, f"{n}") for n in range(10)])
    await store.stop()
    path = tmp_path / "flux.db"
    with closing(sqlite3.connect(path)) as db:
        migrate(db, path)
        db.execute(
            "CREATE TRIGGER change AFTER INSERT ON messages WHEN NEW.text = '7'"
            " BEGIN UPDATE messages SET text = 'seven' WHERE id = NEW.id; END"
        )
        db.commit()
    source, target = PostgresSide(database.dsn), SqliteSide(path, write=True)
    with pytest.raises(Unavailable, match=r"messages differ: .* has 10 rows with the checksum .*; nothing was kept"):
        copying.copy(source, target, lambda share, what: None)
    target.close()
    source.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM accounts").fetchall() == [(0,)]


def test_progress_goes_from_nothing_to_all(tmp_path: Path, database: Database) -> None:
    with closing(sqlite3.connect(tmp_path / "flux.db")) as db:
        migrate(db, tmp_path / "flux.db")
        db.executemany(
            "INSERT INTO accounts (name, key, password_hash, email, nick) VALUES (?, ?, '', '', '')",
            [(f"u{n}", f"u{n}") for n in range(5000)],
        )
        db.execute("INSERT INTO sessions SELECT id, 0 FROM accounts")
        db.commit()
    database.migrate()
    seen: list[tuple[float, str]] = []
    source, target = SqliteSide(tmp_path / "flux.db"), PostgresSide(database.dsn, write=True)
    copied = copying.copy(source, target, lambda share, what: seen.append((share, what)))
    source.close()
    target.close()
    assert [table.rows for table in copied.tables[:2]] == [5000, 5000]
    shares = [share for share, _ in seen]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert {"copying accounts", "comparing sessions"} <= {what for _, what in seen}


# --- flux migrate ---


@pytest.mark.slow
async def test_migrations_are_shown_and_applied(configured: Path, database: Database) -> None:
    for file, kind in (("lite.ini", "sqlite"), ("post.ini", "postgres")):
        names = [migration.name for migration in migrations_of(kind)]
        shown = flux(configured, "migrate", "-c", file)
        assert (shown.returncode, shown.stderr) == (0, "")
        missing = "".join(f"to apply: {name}\n" for name in names)
        assert f"the database has schema 0; this flux knows {len(names)}\n{missing}" in shown.stdout
        assert database.query("SELECT to_regclass('accounts')") == [(None,)]
        assert not (configured / "flux.db").exists()
        applied = flux(configured, "migrate", "-c", file, "--apply")
        assert applied.stdout.endswith("".join(f"applied {name}\n" for name in names))
        again = flux(configured, "migrate", "-c", file, "--apply")
        known = f"the database has schema {len(names)}; this flux knows {len(names)}"
        assert again.stdout == f"{known}\nnothing to apply\n"
        if file == "lite.ini":
            (configured / "flux.db").unlink()
    for store in (sqlite_store(configured / "flux.db"), postgres_store(database)):
        await store.start()
        assert await people(store, "ann") == [1]
        await store.stop()


async def test_migrate_says_that_another_process_was_quicker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = AsyncMock(pending=AsyncMock(return_value=(0, ["0001_initial"])), migrate=AsyncMock(return_value=[]))
    monkeypatch.setattr("flux.assembly.make_store", lambda settings, reactor: store)
    monkeypatch.setattr("flux.assembly.has_migrations", lambda store: True)
    await migrate_command._migrate(load(None), None, apply=True)
    assert capsys.readouterr().out == (
        "the database has schema 0; this flux knows 1\nanother process has applied it meanwhile\n"
    )


def test_migrate_says_what_is_wrong(configured: Path, database: Database) -> None:
    (configured / "flux.db").write_text("this is no database, but it is long enough to be looked at" * 20)
    wrong = flux(configured, "migrate", "-c", "lite.ini")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("flux migrate: flux.db") or "flux.db cannot be used" in wrong.stderr
    database.query("CREATE TABLE accounts (theirs int)")
    wrong = flux(configured, "migrate", "-c", "post.ini", "--apply")
    assert wrong.returncode == 1
    assert "has tables that flux has not made (accounts)" in wrong.stderr
    assert flux(configured, "migrate", "--set", "store.kind=oracle").returncode == 2


def test_migrate_says_of_a_damaged_database_what_a_start_says(configured: Path, database: Database) -> None:
    database.migrate()
    database.query("DROP TABLE bans")
    with closing(sqlite3.connect(configured / "flux.db")) as db:
        migrate(db, configured / "flux.db")
        db.execute("DROP TABLE bans")
    for file, said in (
        ("lite.ini", "flux.db is damaged or was altered"),
        ("post.ini", "store.dsn: the database is half"),
    ):
        for arguments in ([], ["--apply"]):
            wrong = flux(configured, "migrate", "-c", file, *arguments)
            assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (1, "", 1)
            assert said in wrong.stderr
            assert "without its bans, " in wrong.stderr


# --- flux backup ---


async def test_a_backup_of_a_database_that_is_being_written(tmp_path: Path) -> None:
    store = sqlite_store(tmp_path / "flux.db")
    await store.start()
    ids = await people(store, *(f"user{n}" for n in range(20)))
    text = "x" * 500

    async def send(number: int) -> None:
        outcomes = await store.append([Draft(ids[0], to, 0, f"{number} {text}", f"{number}") for to in ids[1:]])
        assert all(isinstance(outcome, Receipt) for outcome in outcomes)

    for number in range(100):
        await send(number)
    done: Deferred[Backup] = Deferred()
    shares: list[float] = []

    def work() -> None:
        from twisted.internet import reactor

        made = back_up(tmp_path / "flux.db", tmp_path / "copy.db", shares.append)
        reactor.callFromThread(done.callback, made)  # type: ignore[attr-defined]

    thread = threading.Thread(target=work)
    thread.start()
    sent = 100
    while not done.called:
        await send(sent)
        sent += 1
    thread.join()
    assert await done == Backup(tmp_path / "flux.db", (tmp_path / "copy.db").stat().st_size, len(ids))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "copy.db.part").exists()
    check_file(tmp_path / "copy.db")
    copied = sqlite_store(tmp_path / "copy.db")
    await copied.start()
    overviews = await together([copied.overview(uid) for uid in ids[1:]])
    # Of one moment: every batch is in it whole, or not at all.
    heads = {cursor.head for overview in overviews for cursor in overview.cursors}
    [head] = heads
    assert 100 <= head <= sent
    await copied.stop()
    await store.stop()


@pytest.mark.slow
async def test_the_command_copies_what_a_server_has(configured: Path) -> None:
    store = sqlite_store(configured / "flux.db")
    await store.start()
    ids = await inhabit(store)
    said = await everything(store, ids)
    made = flux(configured, "backup", "copy.db", "-c", "lite.ini")
    assert made.returncode == 0, made
    assert re.match(
        rf"copy\.db: 0\.\d MB, {len(ids)} accounts, copied from {re.escape(str(configured / 'flux.db'))}\n", made.stdout
    )
    await store.stop()
    copied = sqlite_store(configured / "copy.db")
    await copied.start()
    assert await everything(copied, ids) == said
    await copied.stop()


def test_what_cannot_be_backed_up(
    configured: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(configured)
    (configured / "copy.db").touch()
    (configured / "unused.db").touch()
    with closing(sqlite3.connect(configured / "flux.db")) as db:
        migrate(db, configured / "flux.db")
    with closing(sqlite3.connect(configured / "foreign.db")) as db:
        db.execute("CREATE TABLE theirs (a)")
    (configured / "broken.db.part").touch()
    for status, arguments, complaint in (
        (1, ["copy.db", "-c", "lite.ini"], "copy.db exists already: a backup overwrites nothing"),
        (
            1,
            ["broken.db", "-c", "lite.ini"],
            "broken.db.part exists: another backup makes it, or was broken off; remove it",
        ),
        (
            1,
            ["x.db", "--set", "store.path=nothing.db"],
            f"{configured / 'nothing.db'} does not exist (store.path; a relative",
        ),
        (1, ["x.db", "--set", "store.path=unused.db"], f"{configured / 'unused.db'} has no tables: no server has used"),
        (1, ["no/folder/x.db", "-c", "lite.ini"], "cannot be written: No such file or directory"),
        (1, ["x.db", "--set", "store.path=foreign.db"], "belongs to another program"),
        (2, ["x.db", "-c", "post.ini"], "PostgreSQL has pg_dump"),
        (2, ["x.db", "-c", "nowhere.ini"], "nowhere.ini: cannot be read"),
    ):
        assert main(["backup", *arguments]) == status
        assert complaint in capsys.readouterr().err
    assert not (configured / "x.db").exists()
    assert not (configured / "x.db.part").exists()
    assert main(["backup", "x.db", "-c", "lite.ini"]) == 0
    assert (configured / "x.db").exists()
