"""Where a process listens: what the person who starts it is told, and what its log says."""

from __future__ import annotations

from pathlib import Path

from admin_parts import running
from status_parts import texts
from twisted.logger import capturedLogs

V6 = r"tcp6:0:interface=\:\:1"
ALL = frozenset({"status", "chat", "gate"})


async def test_addresses_are_written_so_that_they_can_be_used(tmp_path: Path) -> None:
    endpoints = [f"{section}.listen={V6}" for section in ("chat", "status", "gate", "admin")]
    with capturedLogs() as logged:
        async with running(tmp_path, *endpoints, roles=ALL) as assembly:
            banner = assembly.banner().splitlines()
            chat, status, gate, admin = (
                listener.address().port
                for listener in (
                    assembly.chat.listener, assembly.status_listener, assembly.gate.listener, assembly.admin_listener,
                )
            )  # fmt: skip
    assert banner[0] == f"flux chat server 'chat1' listens on [::1]:{chat}"
    assert [line.split("  ")[1] for line in banner[2:4]] == [f"flux chat [::1]:{chat}", f"nc ::1 {chat}"]
    assert banner[-4:] == [
        f"status service listens on [::1]:{status}",
        f"gate listens on http://[::1]:{gate}",
        f"  open http://[::1]:{gate}/ in a browser to chat",
        f"dashboard and metrics: http://[::1]:{admin}/",
    ]
    said = texts(logged)
    for key, port in {"chat": chat, "status": status, "gate": gate, "admin": admin}.items():
        assert f"{key}.listen listens on [::1]:{port}" in said
    assert f"chat server chat1 at [::1]:{chat} is up" in said


async def test_a_unix_socket_is_a_path_and_clients_need_an_address(tmp_path: Path) -> None:
    endpoints = [f"{section}.listen=unix:{tmp_path}/{section}" for section in ("chat", "status", "gate")]
    with capturedLogs() as logged:
        async with running(tmp_path, *endpoints, roles=ALL) as assembly:
            banner = assembly.banner().splitlines()
    assert banner[:-1] == [
        f"flux chat server 'chat1' listens on {tmp_path}/chat",
        "",
        f"status service listens on {tmp_path}/status",
        f"gate listens on {tmp_path}/gate",
    ]
    assert {f"{section}.listen listens on {tmp_path}/{section}" for section in ("chat", "gate")} <= {*texts(logged)}
    assert "clients are told to connect to localhost:0: set chat.advertise to an address" in texts(logged)


async def test_nobody_is_sent_to_a_port_that_waits_for_a_proxy(tmp_path: Path) -> None:
    endpoints = [f"{section}.listen=haproxy:tcp:0:interface=127.0.0.1" for section in ("chat", "gate")]
    async with running(tmp_path, *endpoints, roles=ALL) as assembly:
        chat, gate = assembly.chat.listener.where(), assembly.gate.listener.where()
        banner = assembly.banner().splitlines()
    behind = "for a proxy that sends PROXY headers"
    assert banner[0] == f"flux chat server 'chat1' listens on {chat} {behind}"
    assert f"gate listens on {gate} {behind}" in banner
    assert not any("nc " in line or "browser" in line for line in banner)
