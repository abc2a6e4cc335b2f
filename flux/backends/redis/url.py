"""``[state] url``: where Redis is, and how one gets in.

::

    redis://[[user]:password@]host[:port][/database]                             in the clear
    rediss://...                                                                 through TLS
    redis+sentinel://[[user]:password@]host[:port][,host[:port]...]/service[/database]
    rediss+sentinel://...                                                        through TLS, to the Sentinels too
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from flux.errors import Unavailable

FORMS = (
    "redis://[[user]:password@]host[:port][/database], rediss:// for TLS, or "
    "redis+sentinel://host:port,host:port/service[/database], rediss+sentinel:// for TLS to Sentinels and Redis"
)

PORT = 6379
SENTINEL_PORT = 26379


@dataclass(frozen=True, slots=True)
class Address:
    """A URL taken apart.

    :ivar hosts: the server or, with a ``service``, the Sentinels that know where it is.
    :ivar username: empty: the default user.
    :ivar service: what the Sentinels call the primary; empty without Sentinel.
    """

    hosts: tuple[tuple[str, int], ...]
    username: str = ""
    password: str = field(default="", repr=False)
    database: int = 0
    tls: bool = False
    service: str = ""


def parse_url(url: str) -> Address:
    """Take a URL apart.

    :raises flux.errors.Unavailable: it has none of the forms; it is not quoted, since it may hold a password.
    """
    match = re.fullmatch(r"(rediss?)(\+sentinel)?://(?:([^@/?#]*)@)?([^/?#@]*)(?:/([^?#@]*))?", url)
    if match is None:
        raise _wrong("it has none of the forms that are known; / ? # @ in a password are written as %2F %3F %23 %40")
    scheme, sentinel, credentials, hosts, path = match.groups(default="")
    username, _, password = credentials.partition(":")
    if credentials and not password:
        raise _wrong("a user without a password")
    service, _, database = path.rpartition("/") if sentinel else ("", "", path)
    if sentinel and not service:
        # One part only: it is the service.
        service, database = database, ""
    if sentinel and not service:
        raise _wrong("it does not say which service the Sentinels should be asked for")
    if not re.fullmatch(r"[0-9]{0,4}", database):
        raise _wrong("the database is not a number")
    default = SENTINEL_PORT if sentinel else PORT
    addresses = tuple(_host(part, default) for part in hosts.split(","))
    if len(addresses) > 1 and not sentinel:
        raise _wrong("several hosts, which only redis+sentinel:// may have")
    return Address(
        addresses, unquote(username), unquote(password), int(database or 0), scheme == "rediss", unquote(service)
    )


def _host(text: str, default: int) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", text)
    if match is None or not 0 < int(match[2] or default) < 65536:
        raise _wrong("a host is missing or wrong")
    return match[1].strip("[]"), int(match[2] or default)


def _wrong(what: str) -> Unavailable:
    return Unavailable(f"state.url: {what}; expected {FORMS}")
