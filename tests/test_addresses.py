"""When two network addresses count as one."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from flux.addresses import counted, holds, is_in, parse


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("local", None),
        ("", None),
        ("192.0.2.1/32", None),
    ],
)
def test_an_address_is_read(text: str, address: str | None) -> None:
    assert parse(text) == (None if address is None else ip_address(address))


@pytest.mark.parametrize(
    ("text", "as_what"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("local", "local"),
        ("no:address", "no:address"),
    ],
)
def test_what_an_address_counts_as(text: str, as_what: str) -> None:
    assert counted(text) == as_what


def test_networks_hold_addresses_of_their_version() -> None:
    networks = [ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")]
    for text in ("10.1.2.3", "::ffff:10.1.2.3", "2001:db8::7"):
        assert is_in(text, networks), text
    for text in ("11.0.0.1", "::10.1.2.3", "2001:db9::", "local"):
        assert not is_in(text, networks), text


@pytest.mark.parametrize(
    ("outer", "inner", "whether"),
    [
        ("10.0.0.0/8", "10.1.0.0/16", True),
        ("10.0.0.0/8", "10.0.0.0/8", True),
        ("10.1.0.0/16", "10.0.0.0/8", False),
        ("::/0", "10.0.0.0/8", False),
        ("2001:db8::/32", "2001:db8:7::/48", True),
    ],
)
def test_networks_hold_networks_of_their_version(outer: str, inner: str, whether: bool) -> None:
    assert holds(ip_network(outer), ip_network(inner)) is whether
