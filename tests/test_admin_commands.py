"""``flux admin`` against a real admin port: tables for people, objects for programs, what it says when it cannot."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from admin_parts import TOKEN, login, running
from printed_table import cells
from test_admin_port import ends
from twisted.internet.defer import fail
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread

from flux.bench.servers import free_port
from flux.cli.main import main
from flux.config import ConfigError, Difference, Mistake
from flux.errors import Unavailable

NO_ADMIN_PORT = "is no admin port of flux"
ENDS_INSTEAD = "ends the connection instead of answering as an admin port of flux does"


async def flux_admin(assembly: Any, *arguments: str, words: str = "", **env: str) -> tuple[int, str, str]:
    """Exit status, output and complaints of the command, which runs in a thread: this one answers it."""
    where = [] if assembly is None else ["--admin", "{}:{}".format(*assembly.admin_listener.address())]
    output, errors = io.StringIO(), io.StringIO()

    def run() -> int:
        with (
            patch.dict(os.environ, {"COLUMNS": "120", **env}),
            patch.object(sys, "stdin", io.StringIO(words)),
            redirect_stdout(output),
            redirect_stderr(errors),
        ):
            return main(["admin", *arguments, *where])

    return await deferToThread(run), output.getvalue(), errors.getvalue()


async def test_what_runs_is_shown_to_people_and_programs(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly:
        ann = await login(assembly, "ann")
        status, output, errors = await flux_admin(assembly, "stats")
        assert (status, errors) == (0, "")
        assert output.startswith("chat1, flux ")
        assert ["store", "up"] in [row[:2] for row in cells(output)]
        status, output, _ = await flux_admin(assembly, "stats", "--json")
        assert (status, json.loads(output)["process"]["name"]) == (0, "chat1")
        status, output, errors = await flux_admin(assembly, "sessions", "an")
        assert (status, errors) == (0, "")
        [row] = cells(output)
        assert row[:3] + row[4:7] == ["1", "ann", "127.0.0.1", "named", "0", "live"]
        assert cells((await flux_admin(assembly, "users"))[1]) == [["1", "ann", "chat1"]]
        status, output, errors = await flux_admin(assembly, "users", "--json", "--limit", "1")
        assert json.loads(output) == [{"id": 1, "name": "ann", "nick": "", "server": "chat1"}]
        await ann.close()


async def test_nobody_is_said_in_words(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly:
        for command, said in (("sessions", "no sessions"), ("users", "no users"), ("bans", "nobody is banned")):
            assert await flux_admin(assembly, command) == (0, f"{said}\n", "")
            assert await flux_admin(assembly, command, "--json") == (0, "[]\n", "")


async def test_whole_cells_on_a_narrow_terminal(tmp_path: Path) -> None:
    name, reason = "ann-" + "o" * 20, "sells what nobody wants to buy, and again"
    async with running(tmp_path) as assembly:
        ann = await login(assembly, name)
        [row] = cells((await flux_admin(assembly, "sessions", COLUMNS="40"))[1])
        assert row[:3] == ["1", name, "127.0.0.1"]
        assert [row[1] for row in cells((await flux_admin(assembly, "users", COLUMNS="20"))[1])] == [name]
        assert (await flux_admin(assembly, "ban", "2001:db8:1111:2222::/64", "--for", "2d", "--reason", reason))[0] == 0
        row, *more = cells((await flux_admin(assembly, "bans", COLUMNS="90"))[1])
        assert row[0] == "2001:db8:1111:2222::/64"
        assert row[2].endswith(" UTC")
        assert row[3].endswith(" UTC")
        # What is wrapped instead.
        assert more
        assert " ".join([row[4], *(rest for [rest] in more)]) == reason
        await ann.close()


async def test_sessions_are_ended_and_passwords_set(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly:
        ann, bob = await login(assembly, "ann"), await login(assembly, "bob")
        done = await flux_admin(assembly, "kick", "ann")
        assert done == (0, "ann (1): the session has ended, the token is revoked\n", "")
        assert await ends(ann) == "admin"
        # Without a terminal nobody is asked.
        done = await flux_admin(assembly, "passwd", "2", "--json", words="battery staple\n")
        assert (done[0], json.loads(done[1])["session"]) == (0, "ended")
        assert await ends(bob) == "password"
        assert await flux_admin(assembly, "passwd", "2", words="short\n") == (
            1, "", "flux admin: a password has at least 8 characters\n",
        )  # fmt: skip
        assert (await flux_admin(assembly, "passwd", "2"))[::2] == (
            1, "flux admin: the password is empty; nothing was changed\n",
        )  # fmt: skip
        assert (await flux_admin(assembly, "kick", "3"))[0] == 1
        assert (await flux_admin(assembly, "kick", "3", "--name"))[::2] == (
            1, "flux admin: there is no user called '3'\n",
        )  # fmt: skip
        await ann.close()
        await bob.close()


async def test_a_kick_that_leaves_the_token_says_so_and_is_no_success(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly:
        ann = await login(assembly, "ann")
        setattr(assembly.state, "revoke", lambda uid: fail(Unavailable("the shared state is away")))  # noqa: B010 - of a stand-in
        assert await flux_admin(assembly, "kick", "ann") == (
            1,
            "ann (1): the session ends within some seconds, THE TOKEN IS NOT REVOKED\n",
            "because: the shared state is away\nflux admin: the token still lets ann in until it expires: try again\n",
        )
        assert (await flux_admin(assembly, "kick", "ann", "--json"))[0] == 1
        await ann.close()


async def test_reload_says_what_changed_and_what_is_wrong(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly:

        async def reread(by: str) -> Difference:
            return Difference(("chat.drain",), ("chat.name", "store.path"))

        async def wrong(by: str) -> Difference:
            raise ConfigError([Mistake("chat.name", '"-" is not a name', "flux.ini:3")])

        assembly.reread = reread
        assert await flux_admin(assembly, "reload") == (
            0, "changed: chat.drain\na restart is needed for: chat.name, store.path\n", "",
        )  # fmt: skip
        assembly.reread = wrong
        status, output, errors = await flux_admin(assembly, "reload")
        assert (status, output) == (1, "")
        assert 'chat.name: "-" is not a name (flux.ini:3)' in errors


async def test_the_token_comes_from_the_configuration_and_who_cannot_be_asked_is_named(tmp_path: Path) -> None:
    async with running(tmp_path, f"admin.token={TOKEN}") as assembly:
        assert (await flux_admin(assembly, "stats"))[0] == 2
        assert "wants a token" in (await flux_admin(assembly, "stats"))[2]
        wrong = await flux_admin(assembly, "stats", "--set", "admin.token=another token altogether")
        assert (wrong[0], "refuses this admin.token" in wrong[2]) == (2, True)
        ini = tmp_path / "flux.ini"
        port = assembly.admin_listener.address()[1]
        ini.write_text(f"[admin]\nlisten = tcp:{port}\ntoken = env:FLUX_TOKEN\n", "utf-8")
        assert (await flux_admin(None, "stats", "--config", str(ini), FLUX_TOKEN=TOKEN))[0] == 0
        chat = "{}:{}".format(*assembly.chat.listener.address())
        status, output, errors = await flux_admin(None, "stats", "--admin", chat)
        assert (status, output) == (2, "")
        # Whichever comes first, its answer or the end of the connection.
        assert errors in (
            f"flux admin: {chat} {said}, or it has TLS (--tls); see admin.listen\n"
            for said in (NO_ADMIN_PORT, ENDS_INSTEAD)
        )
    status, output, errors = await flux_admin(None, "stats", "--admin", f":{free_port()}")
    assert (status, output) == (2, "")
    assert "is this its admin.listen? flux-chat, flux-status and flux-gate have no admin port until" in errors
    named = await flux_admin(None, "stats", "--set", f"admin.listen=tcp:{free_port()}:interface=127.0.0.1")
    assert (named[0], named[2].endswith("is this its admin.listen?\n")) == (2, True)
    # Where there are workers, the port of the configuration is nobody's.
    port = free_port()
    workers = ["--set", f"admin.listen=tcp:{port}:interface=127.0.0.1", "--set", "chat.workers=2"]
    for shared in ("state.kind=redis", "store.kind=postgres", "store.dsn=postgresql://u@127.0.0.1/d"):
        workers += ["--set", shared]
    for command in ("stats", "sessions", "reload"):
        status, _, errors = await flux_admin(None, command, *workers)
        assert status == 2
        assert errors.endswith(
            "With chat.workers each worker has an admin port of its own; give one by --admin: "
            f"127.0.0.1:{port + 1} (chat1-1), 127.0.0.1:{port + 2} (chat1-2).\n"
        )
    told = await flux_admin(None, "stats", *workers, "--admin", f":{free_port()}")
    assert (told[0], told[2].endswith("is this its admin.listen?\n")) == (2, True)
    status, _, errors = await flux_admin(None, "stats", "--set", "admin.listen=tcp:0:interface=127.0.0.1")
    assert (status, "give --admin HOST:PORT" in errors) == (2, True)
    status, _, errors = await flux_admin(None, "stats", "--set", f"admin.listen=unix:{tmp_path}/none")
    assert (status, errors.startswith(f"flux admin: {tmp_path}/none: ")) == (2, True)


async def test_an_admin_port_on_a_unix_socket(tmp_path: Path) -> None:
    admin = f"admin.listen=unix:address={tmp_path}/admin:mode=600"
    async with running(tmp_path, admin):
        status, output, errors = await flux_admin(None, "stats", "--set", admin)
        assert (status, errors) == (0, "")
        assert output.startswith("chat1, flux ")


@pytest.mark.parametrize(
    ("answer", "said"), [(b'{"type":"error","code":1001}\r\n', NO_ADMIN_PORT), (b"", ENDS_INSTEAD)]
)
async def test_something_else_that_listens_there(answer: bytes, said: str) -> None:
    from twisted.internet import reactor

    class Other(Protocol):
        def dataReceived(self, data: bytes) -> None:
            self.transport.write(answer)
            self.transport.loseConnection()

    factory = Factory.forProtocol(Other)
    factory.noisy = False
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    where = f"127.0.0.1:{port.getHost().port}"
    assert await flux_admin(None, "stats", "--admin", where) == (
        2, "", f"flux admin: {where} {said}, or it has TLS (--tls); see admin.listen\n",
    )  # fmt: skip
    await port.stopListening()
