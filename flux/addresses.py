"""Network addresses, and when two of them count as one."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

ONE_HOUSEHOLD = 64
"""Bits of an IPv6 address that tell one customer of a provider from the next; the others a customer chooses."""


class HostPort(NamedTuple):
    """Where something listens on TCP; as text, ``HOST:PORT`` or ``[V6]:PORT``.

    Of a UNIX socket it is the absolute path, and 0; as text, the path.
    """

    host: str
    port: int

    @property
    def is_path(self) -> bool:
        """Whether it is a UNIX socket."""
        return self.host.startswith("/")

    def __str__(self) -> str:
        if self.is_path:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(text: str) -> Address | None:
    """An address; None for anything else (a UNIX socket has none). An IPv4 address within an IPv6 one is the former."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def counted(text: str) -> str:
    """What an address counts as, where something is counted per address.

    Itself; but whoever has one IPv6 address has 2**64 of them, so those count as their network (RFC 6177).
    """
    if ":" not in text:
        return text
    address = parse(text)
    if isinstance(address, IPv6Address):
        return str(ip_network((int(address) >> ONE_HOUSEHOLD << ONE_HOUSEHOLD, ONE_HOUSEHOLD)))
    return text if address is None else str(address)


def is_in(text: str, networks: Iterable[Network]) -> bool:
    """Whether an address is in one of ``networks``; False where it is none."""
    address = parse(text)
    return address is not None and any(address in network for network in networks)


def holds(outer: Network, inner: Network) -> bool:
    """Whether all addresses of ``inner`` are in ``outer``; an IPv4 network holds no IPv6 one."""
    # mypy does not see that networks of one version are of one class.
    return outer.version == inner.version and inner.subnet_of(outer)  # type: ignore[arg-type]
