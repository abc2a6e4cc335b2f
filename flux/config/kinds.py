"""Kinds of values a configuration key can have: from the text in the file to a checked value."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from email.utils import parseaddr
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flux.addresses import HostPort


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of value is written.

    :ivar expected: completes "expected ...".
    :ivar parse: the value of a text; raises ``ValueError`` saying what is wrong with it.
    :ivar secret: neither the text nor the value may be shown.
    """

    expected: str
    parse: Callable[[str], Any]
    secret: bool = False


def _in_range(value: float, text: str, minimum: float, maximum: float) -> None:
    if value < minimum:
        raise ValueError(f'"{text}" is too small')
    if value > maximum:
        raise ValueError(f'"{text}" is too large')


def whole(minimum: int, maximum: int = 10**9) -> Kind:
    """A whole number."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise ValueError(f'"{text}" is not a whole number')
        value = int(text)
        _in_range(value, text, minimum, maximum)
        return value

    return Kind(f"a whole number from {minimum} to {maximum}", parse)


_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(minimum: str, maximum: str) -> Kind:
    """A time span; the value is in seconds."""

    def seconds(text: str) -> float:
        match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([smhd]?)", text)
        if not match:
            raise ValueError(f'"{text}" is not a time span')
        return float(match[1]) * _SECONDS[match[2]]

    def parse(text: str) -> float:
        value = seconds(text)
        _in_range(value, text, seconds(minimum), seconds(maximum))
        return value

    return Kind(f"a number of seconds, or one with s, m, h or d, from {minimum} to {maximum}", parse)


_BYTES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def size(minimum: str, maximum: str) -> Kind:
    """A size; the value is in bytes."""

    def count(text: str) -> int:
        match = re.fullmatch(r"([0-9]{1,15})([kmg]?)", text.lower())
        if not match:
            raise ValueError(f'"{text}" is not a size')
        return int(match[1]) * _BYTES[match[2]]

    def parse(text: str) -> int:
        value = count(text)
        _in_range(value, text, count(minimum), count(maximum))
        return value

    return Kind(f"a number of bytes, or one with k, m or g, from {minimum} to {maximum}", parse)


def choice(*names: str, own: bool = False) -> Kind:
    """One of ``names``; with ``own`` also the dotted path of a class of the user's."""

    def parse(text: str) -> str:
        if text in names or (own and re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", text)):
            return text
        near = get_close_matches(text.lower(), names, 1)
        raise ValueError(f'"{text}" is unknown' + (f" (did you mean {near[0]}?)" if near else ""))

    return Kind(", ".join(names) + (", or the dotted path of a class of your own" if own else ""), parse)


_WORDS = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}


def _parse_yes_no(text: str) -> bool:
    try:
        return _WORDS[text.lower()]
    except KeyError:
        raise ValueError(f'"{text}" is neither yes nor no') from None


YES_NO = Kind("yes or no", _parse_yes_no)


def some_of(*names: str) -> Kind:
    """Some of ``names``, or none."""

    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(part.strip() for part in text.split(",")) if text else ()
        for one in chosen:
            choice(*names).parse(one)
            if chosen.count(one) > 1:
                raise ValueError(f'"{one}" stands there twice')
        return chosen

    return Kind(f"some of {', '.join(names)}, separated by commas, or nothing", parse)


MOST_NAME = 64
"""Characters of a name."""

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MOST_NAME - 1}}}")


def _parse_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f'"{text}" is not a name')
    return text


NAME = Kind("1 to 64 letters, digits, dots, dashes and underscores", _parse_name)


def _parse_names(text: str) -> tuple[str, ...]:
    names = tuple(_parse_name(part.strip()) for part in text.split(",")) if text else ()
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f'"{name}" stands there twice')
    return names


NAMES = Kind("names separated by commas, or nothing", _parse_names)


def _parse_path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError("this is not a path")
    return Path(text)


PATH = Kind("the path of a file", _parse_path)
PATH_OR_NOTHING = Kind("the path of a file, or nothing", lambda text: _parse_path(text) if text else None)


def _parse_prefix(text: str) -> str:
    if not re.fullmatch(r"[!-~]{1,64}", text):
        raise ValueError(f'"{text}" is not a prefix')
    return text


PREFIX = Kind("1 to 64 visible ASCII characters", _parse_prefix)


def _parse_host(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    if len(text) > 253 or not all(
        re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})", label) for label in text.removesuffix(".").split(".")
    ):
        raise ValueError(f'"{text}" is not a host')
    return text


HOST = Kind("a host name or an IP address", _parse_host)
PORT = whole(1, 65535)


def _parse_address(text: str) -> HostPort | None:
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or (":" in host and not bracketed):
        raise ValueError(f'"{text}" is not host:port')
    return HostPort(_parse_host(host[1:-1] if bracketed else host), PORT.parse(port))


ADDRESS = Kind("host:port, or nothing", _parse_address)


def _parse_addresses(text: str) -> tuple[HostPort, ...]:
    addresses = [_parse_address(part.strip()) for part in text.split(",")] if text else []
    if None in addresses:
        raise ValueError(f'"{text}" has nothing between two commas')
    return tuple(address for address in addresses if address is not None)


ADDRESSES = Kind("host:port, several of them separated by commas, or nothing", _parse_addresses)

Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]


def _parse_networks(text: str) -> Networks:
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise ValueError(f'"{text}" is not a list of addresses: {error}') from error


NETWORKS = Kind("IP addresses or networks (10.0.0.0/8) separated by commas, or nothing", _parse_networks)


def _parse_origins(text: str) -> tuple[str, ...]:
    origins = tuple(part.strip().lower() for part in text.split(",")) if text else ()
    for origin in origins:
        if origin != "*" and not re.fullmatch(
            r"https?://[a-z0-9._-]+(:[0-9]+)?|https?://\[[0-9a-f:.]+\](:[0-9]+)?", origin
        ):
            raise ValueError(f'"{origin}" is not an origin')
    return origins


ORIGINS = Kind("origins such as https://chat.example.net separated by commas, or * for all, or nothing", _parse_origins)


def _parse_host_or_nothing(text: str) -> str:
    return _parse_host(text) if text else ""


HOST_OR_NOTHING = Kind("a host name or an IP address, or nothing", _parse_host_or_nothing)


def _url(what: str, *schemes: str) -> Kind:
    def parse(text: str) -> str:
        if not text:
            return ""
        try:
            parts = urlsplit(text)
            good = parts.scheme in schemes and parts.hostname and parts.port != 0 and not parts.username
        except ValueError:
            good = False
        if not good or not re.fullmatch(r"[!-~]+", text):
            raise ValueError(f'"{text}" is not the address of {what}')
        return text

    return Kind(f"{schemes[0]}://host/path, or nothing", parse)


URL = _url("a web service", "https", "http")
WEBSOCKET_URL = _url("a WebSocket", "wss", "ws")


def _parse_sender(text: str) -> str:
    if not text:
        return ""
    name, address = parseaddr(text)
    if not re.fullmatch(r"[!-?A-~]+@[A-Za-z0-9.-]+", address) or not name.isprintable():
        raise ValueError(f'"{text}" is not an e-mail address')
    return text


SENDER = Kind("an e-mail address, or a name and <an address>, or nothing", _parse_sender)


TEXT = Kind("a text, or nothing", str)


def secret(minimum: int) -> Kind:
    """A secret of at least ``minimum`` characters, or nothing."""
    text = f"a text of at least {minimum} characters" if minimum > 1 else "a text"

    def parse(text: str) -> str:
        value = _look_up(text)
        if value and len(value) < minimum:
            raise ValueError("the secret is too short")
        if text and not value:
            raise ValueError("the secret is empty")
        return value

    return Kind(f"env:NAME, file:/path or {text}, or nothing", parse, secret=True)


def secret_text(what: str) -> Kind:
    """A text that holds a secret, such as an address with a password in it."""
    return Kind(f"env:NAME, file:/path or {what}", _look_up, secret=True)


def _parse_key_file(text: str) -> Path | str | None:
    if not text:
        return None
    where, _, rest = text.partition(":")
    if where == "env":
        return _look_up(text)
    return _parse_path(rest if where == "file" else text)


KEY_FILE = Kind("the path of a file, or env:NAME for the key itself, or nothing", _parse_key_file, secret=True)


def _look_up(text: str) -> str:
    where, _, name = text.partition(":")
    if where == "env":
        try:
            return os.environ[name]
        except KeyError:
            raise ValueError(f"the environment has no {name}") from None
    if where == "file":
        try:
            return Path(name).read_text("utf-8").strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise ValueError(f"{name} cannot be read: {reason}") from error
    return text
