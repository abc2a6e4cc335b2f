"""Bans by admins: over the admin port and from the shell, on the node that is asked and on the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from admin_parts import ask, login, running
from printed_table import cells
from test_admin_commands import flux_admin
from test_admin_port import ends
from twisted.internet.defer import fail

from flux.assembly import Assembly
from flux.client import Client, Ended
from flux.errors import Forbidden, RateLimited, Unavailable

PASSWORD = "correct horse"


async def attempt(assembly: Assembly, name: str) -> Client:
    """Log in as one who has registered."""
    from twisted.internet import reactor

    client = Client(reactor, [assembly.chat.listener.address()])
    try:
        await client.login(name, password=PASSWORD)
    except BaseException:
        await client.close()
        raise
    return client


async def ending(client: Any) -> Ended:
    async for event in client.events:
        if isinstance(event, Ended):
            return event
    raise AssertionError("no end")


async def test_an_account_is_banned_and_let_in_again(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly:
        ann = await login(assembly, "ann")
        answer = await ask(assembly, "/api/ban", {"user": "ANN", "reason": " spam "})
        assert answer.status == 200, answer
        ban = answer.json["ban"]
        assert (ban["id"], ban["name"], ban["network"], ban["by"], ban["until"]) == (1, "ann", "", "admin", 0)
        assert ban["reason"] == "spam"
        assert answer.json["ending"]["session"] == "ended"
        end = await ending(ann)
        assert (end.reason, end.detail) == (
            "admin", "an administrator has ended this session: this account is banned: spam",
        )  # fmt: skip
        with pytest.raises(Forbidden, match="this account is banned: spam"):
            await attempt(assembly, "ann")
        assert (await ask(assembly, "/api/bans")).json == [ban]
        assert (await ask(assembly, "/api/unban", {"user": 1})).json == {"id": 1, "name": "ann", "network": ""}
        again = await attempt(assembly, "ann")
        for who, name in (
            ({"user": 1}, "ann (1) is not banned"),
            ({"network": "10.0.0.1"}, "10.0.0.1/32 is not banned"),
        ):
            answer = await ask(assembly, "/api/unban", who)
            assert (answer.status, answer.json["detail"]) == (404, name)
        await ann.close()
        await again.close()


async def test_a_ban_may_be_over_some_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as assembly:
        await (await login(assembly, "ann")).close()
        ban = (await ask(assembly, "/api/ban", {"user": 1, "seconds": 60.5})).json["ban"]
        assert ban["until"] - ban["at"] == 60_500
        with pytest.raises(Forbidden, match=r"this account is banned until \d{4}-\d\d-\d\d \d\d:\d\d UTC$"):
            await attempt(assembly, "ann")
        monkeypatch.setattr(assembly.bans, "_wall", lambda: ban["until"] / 1000)
        await (await attempt(assembly, "ann")).close()


async def test_an_address_is_banned_and_its_sessions_end(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly:
        ann = await login(assembly, "ann")
        # Loopback is exempt from what is not meant for it alone.
        assert (await ask(assembly, "/api/ban", {"network": "126.0.0.0/7"})).status == 200
        ping = await attempt(assembly, "ann")
        assert (await ending(ann)).reason == "takeover"
        answer = await ask(assembly, "/api/ban", {"network": "127.0.0.1", "reason": "go away"})
        assert answer.json["ban"]["network"] == "127.0.0.1/32"
        end = await ending(ping)
        assert end.detail == "an administrator has ended this session: this address is banned: go away"
        with pytest.raises(Forbidden, match="this address is banned: go away"):
            await attempt(assembly, "ann")
        answer = await ask(assembly, "/api/ban", {"network": "127.0.0.1", "seconds": 3600})
        with pytest.raises(RateLimited) as refused:
            await attempt(assembly, "ann")
        assert 3_590_000 < refused.value.retry_after <= 3_600_000
        assert (await ask(assembly, "/api/unban", {"network": "127.0.0.1/32"})).status == 200
        await (await attempt(assembly, "ann")).close()
        answer = await ask(assembly, "/api/unban", {"network": "127.0.0.1"})
        assert answer.json["detail"] == "127.0.0.1/32 is not banned, but 126.0.0.0/7 is"
        assert assembly.registry.get_sample_value("flux_bans", {"by": "admin"}) == 1
        await ann.close()
        await ping.close()


async def test_bans_that_made_themselves_are_listed_and_lifted(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly:
        await assembly.state.offend({"203.0.113.7": 1, "2001:db8::/64": 1}, 1, 60, 60)
        await assembly.state.offend({"203.0.113.8": 1}, 1, 60, 120)
        found = (await ask(assembly, "/api/bans")).json
        assert [(ban["network"], ban["by"], ban["at"]) for ban in found] == [
            ("203.0.113.8", "automatic", None),
            ("203.0.113.7", "automatic", None),
            ("2001:db8::/64", "automatic", None),
        ]
        assert len((await ask(assembly, "/api/bans?limit=1")).json) == 1
        for network in ("203.0.113.7", "2001:db8::5", "203.0.113.8/32"):
            assert (await ask(assembly, "/api/unban", {"network": network})).status == 200, network
        assert await assembly.state.banned() == {}
        # Those of admins are known though the state is away, and can be lifted.
        await ask(assembly, "/api/ban", {"network": "::ffff:203.0.113.0/120"})
        setattr(assembly.state, "banned", lambda: fail(Unavailable("away")))  # noqa: B010 - of a stand-in
        setattr(assembly.state, "pardon", lambda address: fail(Unavailable("away")))  # noqa: B010 - likewise
        assert [ban["network"] for ban in (await ask(assembly, "/api/bans")).json] == ["203.0.113.0/24"]
        assert (await ask(assembly, "/api/unban", {"network": "203.0.113.0/24"})).status == 200
        assert (await ask(assembly, "/api/unban", {"network": "203.0.113.0/24"})).status == 503


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({}, 400, "user, network: give one of them"),
        ({"user": 1, "network": "10.0.0.1"}, 400, "user, network: give one of them"),
        ({"user": "nobody"}, 404, "there is no user called 'nobody'"),
        ({"network": "10.0.0.5/8"}, 400, "network: 10.0.0.5/8 has host bits set"),
        ({"network": "chat.example.net"}, 400, "network: 'chat.example.net' does not appear to be"),
        (
            {"network": "203.0.113.7/24"},
            400,
            "network: 203.0.113.7/24 has host bits set; did you mean 203.0.113.0/24?",
        ),
        ({"network": "::/0"}, 400, "::/0: this is everybody"),
        ({"network": "10.0.0.1", "reason": "a\nb"}, 400, "reason: one line"),
        ({"network": "10.0.0.1", "reason": "x" * 201}, 413, "reason: at most 200 characters"),
        ({"network": "10.0.0.1", "seconds": -1}, 400, "seconds: expected a number from 0"),
    ],
)
async def test_what_makes_no_sense_is_refused(tmp_path: Path, body: Any, status: int, detail: str) -> None:
    async with running(tmp_path) as assembly:
        answer = await ask(assembly, "/api/ban", body)
        assert answer.status == status
        assert answer.json["detail"].startswith(detail)
        assert (await ask(assembly, "/api/bans")).json == []


async def test_from_the_shell(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly:
        ann = await login(assembly, "ann")
        assert await flux_admin(assembly, "ban", "ann", "--reason", "sp[b]am") == (
            0, "ann (1): banned for ever; the session has ended, the token is revoked\n", "",
        )  # fmt: skip
        assert await ends(ann) == "admin"
        status, output, _ = await flux_admin(assembly, "ban", "203.0.113.0/24", "--for", "2d")
        assert (status, output.startswith("203.0.113.0/24 is banned until 20")) == (0, True)
        rows = cells((await flux_admin(assembly, "bans"))[1])
        assert [row[0] for row in rows] == ["203.0.113.0/24", "ann (1)"]
        assert (rows[1][2], rows[1][4]) == ("for ever", "sp[b]am")
        listed = json.loads((await flux_admin(assembly, "bans", "--json", "--limit", "1"))[1])
        assert [ban["network"] for ban in listed] == ["203.0.113.0/24"]
        assert await flux_admin(assembly, "unban", "203.0.113.0/24") == (
            0,
            "203.0.113.0/24 is not banned any more\n",
            "",
        )
        assert await flux_admin(assembly, "unban", "1") == (0, "ann (1) is not banned any more\n", "")
        assert await flux_admin(assembly, "unban", "1") == (1, "", "flux admin: ann (1) is not banned\n")
        assert await flux_admin(assembly, "ban", "1.2.3.4", "--name") == (
            1, "", "flux admin: there is no user called '1.2.3.4'\n",
        )  # fmt: skip
        status, _, errors = await flux_admin(assembly, "ban", "1", "--for", "soon")
        assert (status, errors.startswith('flux admin: --for: "soon" is not a time span')) == (2, True)
        assert "addresses banned" in (await flux_admin(assembly, "stats"))[1]
        await ann.close()


async def test_a_process_without_accounts_says_where_to_ask(tmp_path: Path) -> None:
    async with running(tmp_path, "state.kind=memory", roles=frozenset({"status"})) as assembly:
        for path, body in (("/api/bans", None), ("/api/ban", {"network": "10.0.0.1"}), ("/api/unban", {"user": 1})):
            answer = await ask(assembly, path, body)
            assert (answer.status, "ask the admin address of" in answer.json["detail"]) == (404, True)
