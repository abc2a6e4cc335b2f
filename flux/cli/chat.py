"""``flux chat [HOST:PORT]`` and ``flux chat --gate URL``: the terminal client."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from flux.client import HostPort, parse_address, parse_url, trust_from

DEFAULT = HostPort("127.0.0.1", 8090)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    server = f"a chat server (default: {DEFAULT})"
    user = "log in as NAME at once; the password is asked for, or taken from the environment: FLUX_PASSWORD"
    parser.add_argument("address", metavar="HOST:PORT", nargs="?", default="", help=server)
    gate = "log in through the gate at URL, which knows the chat servers; it also sends codes by e-mail"
    parser.add_argument("--gate", metavar="URL", default="", help=gate)
    tls = "begin the connection with TLS; a gate says itself which chat servers want that"
    parser.add_argument("--tls", action="store_true", help=tls)
    cafile = "certificates (PEM) that servers' must be signed by (default: those the system trusts)"
    parser.add_argument("--cafile", metavar="FILE", default="", help=cafile)
    parser.add_argument("--user", metavar="NAME", default="", help=user)


def run(args: argparse.Namespace) -> int:
    """Chat until the person leaves."""
    try:
        if args.gate and args.address:
            raise ValueError("give HOST:PORT or --gate URL: a gate knows where the chat servers are")
        address = parse_address(args.address, DEFAULT)
        where = parse_url(args.gate) if args.gate else address
        if args.cafile and not (args.tls or args.gate):
            raise ValueError("--cafile is for TLS: give --tls, or --gate https://...")
        trust = trust_from(Path(args.cafile)) if args.cafile else None
    except OSError as problem:
        print(f"flux chat: --cafile {args.cafile}: {problem.strerror}", file=sys.stderr)
        return 2
    except ValueError as problem:
        print(f"flux chat: {problem}", file=sys.stderr)
        return 2
    netcat = f"openssl s_client -quiet -connect {address}" if args.tls else f"nc {address.host} {address.port}"
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print(
            "flux chat: this is for people at a terminal, and standard input or output is none; "
            f"programs speak JSON lines with the server (try: {netcat}) or use flux.client",
            file=sys.stderr,
        )
        return 2
    password = os.environ.pop("FLUX_PASSWORD", None)

    from twisted.internet import asyncioreactor

    asyncioreactor.install()
    from flux.client.terminal.application import chat

    chat(where, args.user, password, args.tls, trust)
    return 0
