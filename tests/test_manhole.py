"""The manhole: who gets in, and what there is."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from admin_parts import FREE, login, running
from server_process import environment
from twisted.logger import capturedLogs

from flux.config import ConfigError, load
from flux.lifecycle import CannotStart
from flux.workers.supervisor import worker_settings

pytest.importorskip("bcrypt", reason="the extra flux-messenger[manhole] is not installed")


# What conch imports of Python and of its libraries is theirs to renew.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def new_key() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from twisted.conch.ssh.keys import Key

    return Key(ed25519.Ed25519PrivateKey.generate())


@pytest.fixture
def key(tmp_path: Path) -> Any:
    """A key that is let in."""
    key = new_key()
    (tmp_path / "keys").write_bytes(b"# admins\n\n" + key.public().toString("openssh") + b" ann@example\n")
    return key


def settings(folder: Path, **changes: str) -> list[str]:
    given = {"manhole": FREE, "manhole_keys": f"{folder}/keys", "manhole_host_key": f"{folder}/run/host_key", **changes}
    return [f"admin.{name}={value}" for name, value in given.items()]


@asynccontextmanager
async def clients() -> AsyncIterator[Any]:
    """Makes clients, and closes them."""
    from ssh_client import Client

    opened: list[Client] = []

    async def connect(assembly: Any, key: Any) -> Client:
        opened.append(Client(key))
        return await opened[-1].connect(*assembly.manhole.address())

    yield connect
    for client in opened:
        client.close()
        if not client.over:
            await client.until(lambda client=client: client.over)


async def test_somebody_looks_around(tmp_path: Path, key: Any) -> None:
    async with running(tmp_path, *settings(tmp_path)) as assembly, clients() as connect:
        ann = await login(assembly, "ann")
        with capturedLogs() as logged:
            client = await connect(assembly, key)
            greeting = await client.prompted()
        assert "assembly, bus, node, reactor, sessions, state, status, store; wait(...), exit()" in greeting
        assert any("somebody is in the manhole" in str(event.get("log_format")) for event in logged)
        assert await client.ask("len(sessions)") == "1"
        assert await client.ask("sessions[1].name, node.name, assembly.node is node") == "('ann', 'chat1', True)"
        answer = await client.ask("wait(store.profile(1))")
        if "called back" not in answer:
            await client.until(lambda: "called back" in client.text)
            answer = await client.prompted()
        assert "Profile(id=1, name='ann'" in answer
        assert "ZeroDivisionError" in await client.ask("1 / 0")
        # It goes on, and so does the server.
        assert await client.ask("6 * 7") == "42"
        # A terminal that changes its size.
        client.shell.conn.sendRequest(client.shell, b"window-change", bytes(16))
        assert await client.ask("node.name") == "'chat1'"
        client.shell.write(b"exit()\r")
        await client.until(lambda: client.over or client.shell.remoteClosed)
        assert assembly.banner().splitlines()[-1] == "manhole: ssh -p {1} {0}".format(*assembly.manhole.address())
        await ann.close()


async def test_rsa_keys_will_do_and_commands_are_answered(tmp_path: Path, key: Any) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from twisted.conch.ssh.keys import Key

    old = Key(rsa.generate_private_key(65537, 2048))
    (tmp_path / "keys").write_bytes(old.public().toString("openssh"))
    async with running(tmp_path, *settings(tmp_path)) as assembly, clients() as connect:
        client = await connect(assembly, old)
        await client.prompted()
        assert await client.ask("node.name") == "'chat1'"
        commanding = await connect(assembly, old)
        commanding.command = b"ls"
        await commanding.until(lambda: commanding.over)
        assert commanding.text == "there is a prompt only; type, or pipe, what is to be done\n"


async def test_only_keys_of_the_file_get_in_and_it_is_read_at_each_login(tmp_path: Path, key: Any) -> None:
    other = new_key()
    async with running(tmp_path, *settings(tmp_path)) as assembly, clients() as connect:
        stranger = await connect(assembly, other)
        await stranger.until(lambda: stranger.over)
        assert (stranger.shell, stranger.text) == (None, "")
        (tmp_path / "keys").write_bytes(other.public().toString("openssh") + b"\n")
        await (await connect(assembly, other)).prompted()
        ours = await connect(assembly, key)
        await ours.until(lambda: ours.over)
        # What others may write says nothing about who is meant.
        (tmp_path / "keys").chmod(0o666)
        again = await connect(assembly, other)
        await again.until(lambda: again.over)
        assert again.shell is None


async def test_its_own_key_is_made_once_and_for_its_owner_only(tmp_path: Path, key: Any) -> None:
    seen = []
    for _ in range(2):
        async with running(tmp_path, *settings(tmp_path)) as assembly, clients() as connect:
            client = await connect(assembly, key)
            await client.prompted()
            seen.append(client.host_key)
    assert seen[0] == seen[1]
    [path] = (tmp_path / "run").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o640)
    with pytest.raises(CannotStart, match=r"the manhole: admin.manhole_host_key: .* chmod 600"):
        async with running(tmp_path, *settings(tmp_path)):
            pass
    path.write_text("not a key")
    path.chmod(0o600)
    with pytest.raises(CannotStart, match=r"admin.manhole_host_key: .*run/host_key"):
        async with running(tmp_path, *settings(tmp_path)):
            pass


@pytest.mark.parametrize(
    ("content", "mode", "complaint"),
    [
        (None, 0, r"the keys of admin.manhole: .*/keys: No such file"),
        ("", 0o600, "admin.manhole_keys: .* has no public key"),
        ("# nobody\n", 0o600, "admin.manhole_keys: .* has no public key"),
        ("ssh-ed25519 AAAA\n", 0o622, "admin.manhole_keys: .* can be written by others"),
    ],
)
async def test_a_file_of_keys_that_cannot_be_right_is_refused(
    tmp_path: Path, content: str | None, mode: int, complaint: str
) -> None:
    if content is not None:
        (tmp_path / "keys").write_text(content)
        (tmp_path / "keys").chmod(mode)
    with pytest.raises(CannotStart, match=complaint):
        async with running(tmp_path, *settings(tmp_path)):
            pass


async def test_who_is_in_is_cut_when_the_server_stops(tmp_path: Path, key: Any) -> None:
    async with clients() as connect:
        async with running(tmp_path, *settings(tmp_path)) as assembly:
            client = await connect(assembly, key)
            await client.prompted()
        await client.until(lambda: client.over)


async def test_connections_are_few(tmp_path: Path, key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux.admin.manhole.MOST_CONNECTIONS", 1)
    async with running(tmp_path, *settings(tmp_path)) as assembly, clients() as connect:
        first = await connect(assembly, key)
        await first.prompted()
        second = await connect(assembly, key)
        await second.until(lambda: second.over)
        assert await first.ask("1 + 1") == "2"


# --- the configuration -------------------------------------------------------


def test_it_is_off_and_stays_on_loopback(tmp_path: Path) -> None:
    assert load().admin.manhole == ""
    with pytest.raises(ConfigError, match=r"admin.manhole: whoever gets in may do anything.*\n.*manhole_keys: is miss"):
        load(None, ["admin.manhole=tcp:2222"])
    with pytest.raises(
        ConfigError, match=r"manhole_keys: is missing, and admin\.manhole needs it: the path of a file, with"
    ):
        load(None, ["admin.manhole=tcp:2222:interface=127.0.0.1"])
    load(None, ["admin.manhole=unix:/run/flux.sock", "admin.manhole_keys=keys"])


def test_workers_have_manholes_of_their_own() -> None:
    given = load(None, ["admin.manhole=tcp:2222:interface=127.0.0.1", "admin.manhole_keys=keys"])
    assert [worker_settings(given, number).admin.manhole for number in (1, 2)] == [
        "tcp:2223:interface=127.0.0.1",
        "tcp:2224:interface=127.0.0.1",
    ]
    assert worker_settings(load(), 1).admin.manhole == ""


def test_where_conch_is_not_installed_a_start_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("ssh-ed25519 AAAA\n")
    (tmp_path / "bcrypt.py").write_text("raise ModuleNotFoundError('no', name='bcrypt')\n")
    sets = [f"--set={each}" for each in (*settings(tmp_path), f"store.path={tmp_path}/flux.db", f"chat.listen={FREE}")]
    sets += [f"--set={section}.listen={FREE}" for section in ("status", "gate", "admin")]
    environ = environment()
    environ["PYTHONPATH"] = f"{tmp_path}:{environ['PYTHONPATH']}"
    done = subprocess.run(
        [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile=", "flux", *sets],
        env=environ, cwd=tmp_path, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert b"admin.manhole: needs bcrypt: pip install 'flux-messenger[manhole]'" in done.stdout + done.stderr
