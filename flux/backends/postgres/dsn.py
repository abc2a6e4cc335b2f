"""Where the database is: a connection string, and the addresses it stands for.

libpq looks host names up while everything else waits, so they are looked up here, in a thread, and handed to
it as numbers; with several hosts or addresses each is tried in turn, within a time of its own.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from typing import Any, NamedTuple

import psycopg2.extensions
from twisted.internet.threads import deferToThreadPool

from flux.errors import Unavailable

DEFAULTS = {
    "application_name": "flux",
    "client_encoding": "UTF8",
    # A link that swallows what is sent is noticed within about 15 s, also by an idle connection.
    "keepalives_idle": "5",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
"""Parameters of a connection, where the string does not give them."""

_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%\w+)?|/.*|@.*|")


class Address(NamedTuple):
    """One server to try.

    :ivar name: for messages.
    :ivar parameters: what psycopg2.connect takes.
    """

    name: str
    parameters: dict[str, str]


class Dsn:
    """A parsed ``store.dsn``.

    :raises Unavailable: it is none. Says nothing of its content, for that may be part of a password.
    """

    def __init__(self, text: str) -> None:
        try:
            self._parameters = DEFAULTS | psycopg2.extensions.parse_dsn(text)
        except psycopg2.Error:
            raise _malformed() from None
        hosts = (self._parameters.pop("host", None) or os.environ.get("PGHOST", "")).split(",")
        numbers = self._parameters.pop("hostaddr", "").split(",")
        ports = (self._parameters.pop("port", None) or os.environ.get("PGPORT", "5432")).split(",")
        count = max(len(hosts), len(numbers))
        if len(ports) == 1:
            ports *= count
        if len(numbers) == 1:
            numbers *= count
        if not len(hosts) == len(numbers) == len(ports) or not all(map(_HOST.fullmatch, hosts)):
            raise _malformed()
        if not all(port.isdecimal() and int(port) < 65536 for port in ports):
            raise _malformed()
        self._hosts = list(zip(hosts, numbers, ports, strict=True))

    async def addresses(self, reactor: Any) -> list[Address]:
        """All servers to try, in order.

        :raises Unavailable: none of the host names can be found.
        """
        found = []
        for host, number, port in self._hosts:
            parameters = self._parameters | {"port": port}
            if host:
                parameters["host"] = host
            name = host or number or "the local socket"
            if not number and host and host[0] not in "/@" and not _is_number(host):
                for number in await _look_up(host, reactor):
                    found.append(Address(f"{name}:{port}", parameters | {"hostaddr": number}))
                continue
            if number:
                parameters["hostaddr"] = number
            found.append(Address(f"{name}:{port}", parameters))
        if not found:
            names = ", ".join(host for host, _, _ in self._hosts)
            raise Unavailable(f"store.dsn: there is no host {names}")
        return found


def _malformed() -> Unavailable:
    return Unavailable(
        "store.dsn is no connection string: expected postgresql://user:password@host:port/database"
        " (in a password, write %40 for @, %2F for / and so on)"
    )


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _look_up(host: str, reactor: Any) -> list[str]:
    try:
        found = await deferToThreadPool(
            reactor, reactor.getThreadPool(), socket.getaddrinfo, host, None, 0, socket.SOCK_STREAM
        )
    except OSError:
        return []
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
