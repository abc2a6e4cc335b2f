"""What a person who starts a chat server is told first."""

from __future__ import annotations

from flux.addresses import HostPort


def first_steps(where: HostPort, tls: bool) -> list[str]:
    """What to type."""
    chat, netcat = f"flux chat {where}", f"nc {where.host} {where.port}"
    if tls:
        chat, netcat = f"flux chat --tls {where}", f"openssl s_client -quiet -connect {where}"
    return [
        "",
        f"  {chat:<30} the terminal client",
        f"  {netcat:<30} or type JSON lines yourself:",
        "",
        '  {"type":"register","name":"ann","password":"correct horse"}',
        '  {"type":"login","name":"ann","password":"correct horse"}',
        '  {"type":"send","to":2,"text":"hello"}',
        '  {"type":"help"}',
    ]
