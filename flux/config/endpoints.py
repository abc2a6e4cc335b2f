"""Twisted server endpoints, such as ``tcp:8090:interface=127.0.0.1``: kinds of values, and what their text tells.

::

    haproxy:tcp:8090:interface=127.0.0.1
    is_proxied  with_port      is_local  listens_on

What is not written there is not known: an endpoint is only taken apart here, never opened.
"""

from __future__ import annotations

import ipaddress
import os.path
import re

from twisted.internet.endpoints import serverFromString

from flux.addresses import HostPort
from flux.config.kinds import Kind


def _parse_endpoint(text: str) -> str:
    try:
        # The parsers only keep the reactor for listening, which does not happen here.
        serverFromString(None, text)
    except Exception as error:
        raise ValueError(f'"{text}" is not an endpoint: {error}') from error
    return text


ENDPOINT = Kind("a Twisted server endpoint such as tcp:8090:interface=127.0.0.1", _parse_endpoint)


def _parse_auto_endpoint(text: str) -> str:
    return text if text in ("", "auto") else _parse_endpoint(text)


AUTO_ENDPOINT = Kind(f"{ENDPOINT.expected}, or auto, or nothing", _parse_auto_endpoint)


def _parse_endpoint_or_nothing(text: str) -> str:
    return _parse_endpoint(text) if text else ""


ENDPOINT_OR_NOTHING = Kind(f"{ENDPOINT.expected}, or nothing", _parse_endpoint_or_nothing)


def reachable_at(endpoint: str) -> HostPort | None:
    """Where one connects to ``endpoint`` on this machine; None where TCP is not enough, or its text does not tell."""
    kind, arguments, named = _taken_apart(endpoint)
    port = named.get("port", arguments[0] if arguments else "")
    if kind not in ("tcp", "tcp6") or not port.isdecimal() or not int(port):
        return None
    interface = named.get("interface", arguments[1] if len(arguments) > 1 else "")
    here = {"": "127.0.0.1" if kind == "tcp" else "::1", "0.0.0.0": "127.0.0.1", "::": "::1"}
    return HostPort(here.get(interface, interface), int(port))


def socket_of(endpoint: str) -> HostPort | None:
    """The UNIX socket on which one connects to ``endpoint``; None where it is another kind."""
    kind, arguments, named = _taken_apart(endpoint)
    path = named.get("address", arguments[0] if arguments else "")
    return HostPort(os.path.abspath(path), 0) if kind == "unix" else None


def listens_on(endpoint: str) -> HostPort | None:
    """Where ``endpoint`` listens, as the port will tell; None where its text does not: port 0, a UNIX socket."""
    kind, arguments, named = _taken_apart(endpoint.removeprefix("haproxy:"))
    port = named.get("port", arguments[0] if arguments else "")
    if kind not in ("tcp", "tcp6", "ssl") or not port.isdecimal() or not int(port):
        return None
    interface = named.get("interface", arguments[1] if len(arguments) > 1 else "")
    return HostPort(interface or ("::" if kind == "tcp6" else "0.0.0.0"), int(port))


def _taken_apart(endpoint: str) -> tuple[str, list[str], dict[str, str]]:
    """An endpoint's kind, and its arguments without and with names."""
    kind, *parts = [part.replace("\\:", ":") for part in re.split(r"(?<!\\):", endpoint)]
    named = dict(part.split("=", 1) for part in parts if "=" in part)
    return kind, [part for part in parts if "=" not in part], named


def with_port(endpoint: str, port: int) -> str:
    """The same endpoint on another TCP port."""
    proxy, rest = ("haproxy:", endpoint.removeprefix("haproxy:")) if is_proxied(endpoint) else ("", endpoint)
    kind, *parts = re.split(r"(?<!\\):", rest)
    for index, part in enumerate(parts):
        if part.startswith("port=") or "=" not in part:
            parts[index] = f"port={port}" if "=" in part else str(port)
            break
    return proxy + ":".join([kind, *parts])


def is_proxied(endpoint: str) -> bool:
    """Whether connections to ``endpoint`` come through a proxy that tells in a PROXY header whose they are."""
    return endpoint.startswith("haproxy:")


def is_ssl(endpoint: str) -> bool:
    """Whether an endpoint brings TLS of its own."""
    return (endpoint.partition(":")[2] if is_proxied(endpoint) else endpoint).startswith("ssl:")


def is_local(endpoint: str) -> bool:
    """Whether what listens on ``endpoint`` can only be reached from this machine, as far as its text tells."""
    if is_proxied(endpoint):
        return is_local(endpoint.partition(":")[2])
    kind, arguments, named = _taken_apart(endpoint)
    if kind == "unix":
        return True
    interface = named.get("interface", "")
    if not interface and kind in ("tcp", "tcp6") and len(arguments) > 1:
        interface = arguments[1]
    return is_this_machine(interface)


def is_this_machine(host: str | None) -> bool:
    """Whether ``host`` is a loopback address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
