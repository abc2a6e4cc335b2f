"""What a person who starts a chat server is told first."""

from __future__ import annotations


def first_steps(name: str, host: str, port: int, tls: bool) -> list[str]:
    """Where to connect, and what to type."""
    chat, netcat = f"flux chat {host}:{port}", f"nc {host} {port}"
    if tls:
        chat, netcat = f"flux chat --tls {host}:{port}", f"openssl s_client -quiet -connect {host}:{port}"
    return [
        f"flux chat server {name!r} listens on {host}:{port}{' with TLS' if tls else ''}",
        "",
        f"  {chat:<30} the terminal client",
        f"  {netcat:<30} or type JSON lines yourself:",
        "",
        '  {"type":"register","name":"ann","password":"correct horse"}',
        '  {"type":"login","name":"ann","password":"correct horse"}',
        '  {"type":"send","to":2,"text":"hello"}',
        '  {"type":"help"}',
    ]
