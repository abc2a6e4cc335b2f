"""Asking the status port for servers as fast as it answers: requests pipelined on one connection."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import msgspec

from flux.bench.load import LoadFailed

#: Requests without an answer that are kept under way.
UNDER_WAY = 256
#: Without any answer for this long it has failed, in seconds.
SILENCE = 30.0
#: The time is looked at after so many requests.
_TURN = 64


class _Answer(msgspec.Struct, gc=False):
    type: str = ""
    name: str = ""
    detail: str = ""
    uid: int = 0


_decode: Callable[[bytes], list[_Answer]] = msgspec.json.Decoder(_Answer).decode_lines


def ask_for_servers(port: int, accounts: int, seconds: float, progress: Callable[[float], None]) -> int:
    """Send ``get_chat_server`` for the accounts 1 to ``accounts``, over and over, for ``seconds``.

    :return: how many were answered. Answers are checked to be those of the accounts asked for, in order.
    :raises LoadFailed: something else was answered.
    """
    with socket.create_connection(("127.0.0.1", port), SILENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        start = time.monotonic()
        asked = answered = 0
        rest = b""
        while True:
            sending = time.monotonic() - start < seconds
            if sending and asked - answered <= UNDER_WAY - _TURN:
                uids = [(asked + turn) % accounts + 1 for turn in range(_TURN)]
                connection.sendall(b"".join(b'{"type":"get_chat_server","uid":%d}\n' % uid for uid in uids))
                asked += _TURN
                progress((time.monotonic() - start) / seconds)
                continue
            if answered == asked:
                return answered
            data = connection.recv(262144)
            if not data:
                raise LoadFailed("the status port closed the connection")
            whole, end, rest = (rest + data).rpartition(b"\n")
            for answer in _decode(whole + end):
                if answer.type != "get_chat_server.ok":
                    raise LoadFailed(f"the status port answered {answer.name or answer.type}: {answer.detail}")
                if answer.uid != answered % accounts + 1:
                    raise LoadFailed(f"the status port answered for {answer.uid} out of turn")
                answered += 1
