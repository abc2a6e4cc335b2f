"""Logging many clients in: tokens from the status port, then a connection and a ``login`` each.

Raw sockets, for the same reason as in :mod:`flux.bench.load`.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from flux.bench.load import LoadFailed, decode_frames

#: Most accounts in one ``get_chat_server``.
TOKENS_AT_ONCE = 1000
#: Logins under way at the same time.
LOGINS_AT_ONCE = 100
#: One loopback address has some 28,000 ports for outgoing connections, and finding a free one
#: takes the kernel longer the more of them are taken; so each has this many only.
CONNECTIONS_PER_ADDRESS = 5_000
#: A chat server that listens is known to all status services so many seconds later, at the most.
KNOWN_WITHIN = 10.0
#: Without any answer for this long it has failed, in seconds.
SILENCE = 30.0
#: Linux' IP_BIND_ADDRESS_NO_PORT: bind the address alone, the port is chosen by connect.
_BIND_ADDRESS_NO_PORT = 24


def tokens(status_port: int, uids: Sequence[int]) -> dict[int, str]:
    """A login token for each account.

    :raises LoadFailed: the status service answered something else.
    """
    return {uid: assignment["token"] for uid, assignment in assignments(status_port, uids).items()}


def assignments(status_port: int, uids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """What ``get_chat_server`` answers for each account.

    :raises LoadFailed: the status service answered something else.
    """
    found: dict[int, dict[str, Any]] = {}
    deadline = time.monotonic() + KNOWN_WITHIN
    with (
        socket.create_connection(("127.0.0.1", status_port), SILENCE) as connection,
        connection.makefile("rb") as lines,
    ):
        while len(found) < len(uids):
            request = {"type": "get_chat_server", "uids": list(uids[len(found) : len(found) + TOKENS_AT_ONCE])}
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(lines.readline() or b"{}")
            if answer.get("name") == "no_server" and time.monotonic() < deadline:
                time.sleep(0.02)
            elif answer.get("type") != "get_chat_server.ok":
                raise LoadFailed(f"the status port answered {answer.get('name', 'nothing')}: {answer.get('detail')}")
            else:
                found.update((assignment["uid"], assignment) for assignment in answer["assignments"])
    return found


def login_line(uid: int, token: str) -> bytes:
    """The request that logs ``uid`` in as flux's own clients do."""
    return b'{"type":"login","id":%d,"token":"%s","acks":true}\n' % (uid, token.encode())


def log_in(port: int, lines: Sequence[bytes], progress: Callable[[float], None]) -> list[socket.socket]:
    """Open a connection per line, send the line, wait for ``login.ok``; the sockets are in the order of ``lines``.

    :param progress: called now and then with the share that is done, 0 to 1.
    :raises LoadFailed: a connection or a login failed.
    """
    sockets: list[socket.socket] = []
    waiting: dict[int, tuple[socket.socket, bytearray]] = {}
    done = 0
    heard = time.monotonic()
    with select.epoll() as epoll:
        try:
            while done < len(lines):
                while len(sockets) < len(lines) and len(waiting) < LOGINS_AT_ONCE:
                    connection = connect(port, len(sockets))
                    sockets.append(connection)
                    waiting[connection.fileno()] = connection, bytearray()
                    epoll.register(connection, select.EPOLLIN)
                    connection.sendall(lines[len(sockets) - 1])
                for number, _ in epoll.poll(0.25):
                    heard = time.monotonic()
                    if _answered(*waiting[number]):
                        del waiting[number]
                        epoll.unregister(number)
                        done += 1
                if time.monotonic() - heard > SILENCE:
                    raise LoadFailed(f"no answer to a login for {SILENCE:g} s")
                progress(done / len(lines))
        except BaseException:
            close(sockets)
            raise
    return sockets


def close(sockets: Sequence[socket.socket]) -> None:
    """Close all of them."""
    for connection in sockets:
        connection.close()


def connect(port: int, index: int) -> socket.socket:
    """The ``index``-th connection to a port of the loopback interface.

    :raises LoadFailed: it was refused.
    """
    connection = socket.socket()
    try:
        connection.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        connection.bind((f"127.0.0.{1 + index // CONNECTIONS_PER_ADDRESS}", 0))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.connect(("127.0.0.1", port))
    except OSError as error:
        connection.close()
        raise LoadFailed(f"connection {index + 1} failed: {error}") from error
    return connection


def _answered(connection: socket.socket, answer: bytearray) -> bool:
    """Read, and say whether the answer to the login is complete."""
    try:
        data = connection.recv(65536)
    except OSError as error:
        raise LoadFailed(f"connection lost: {error}") from error
    if not data:
        raise LoadFailed("the server closed a connection instead of answering the login")
    answer += data
    line, end, _ = bytes(answer).partition(b"\n")
    if not end:
        return False
    [frame] = decode_frames(line)
    if frame.type != "login.ok":
        raise LoadFailed(f"a login was answered {frame.type}: {frame.name} {frame.detail}")
    return True
