"""Which address a request counts for."""

import re

import pytest

from app.model.errors import SettingsError
from app.model.settings import Settings
from app.web.addresses import Trusted, network, source

TRUSTED = Trusted(("10.0.0.0/8", "2001:db8:1::/48", "192.0.2.1"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("203.0.113.7", [], "203.0.113.7"),
        ("203.0.113.7", ["198.51.100.1"], "203.0.113.7"),  # forged: the peer is no proxy of ours
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1"], "198.51.100.1"),  # 1.1.1.1 is what the client made up
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1", "198.51.100.1,10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.3,10.0.0.2"], "10.0.0.3"),
        ("192.0.2.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("2001:db8:1::5", ["[2001:db8:2::9]:4711"], "2001:db8:2::9"),
        ("2001:db8:1::5", ["2001:db8:2::9"], "2001:db8:2::9"),
        ("::ffff:10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("fe80::1%eth0", ["198.51.100.1"], "fe80::1%eth0"),
        # What is no address is nobody's word.
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", [",,,"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, _hidden, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["198.51.100.256"], "10.0.0.1"),
        ("10.0.0.1", ["[198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["١٩٨.51.100.1"], "10.0.0.1"),
        ("10.0.0.1", ["1," * 4000], "10.0.0.1"),
    ],
)
def test_the_address_is_the_rightmost_that_no_trusted_proxy_has(peer: str, forwarded: list[str], expected: str) -> None:
    assert str(source(peer, forwarded, TRUSTED)) == expected


def test_a_peer_that_has_gone_has_no_address() -> None:
    assert source("", ["198.51.100.1"], TRUSTED) is None


def test_an_ipv6_host_is_its_64() -> None:
    one, same, other = (
        source(text, [], TRUSTED) for text in ("2001:db8::1", "2001:db8::ffff:0:0:1", "2001:db8:0:1::1")
    )
    assert one is not None
    assert same is not None
    assert other is not None
    assert network(one) == network(same) != network(other)
    assert len(network(one)) == 8


@pytest.mark.parametrize("text", ["10.0.0.1/8", "proxy.example", "10.0.0.0/33", "10.0.0.0/8,", "*"])
def test_what_is_no_network_stops_the_start(text: str) -> None:
    with pytest.raises(SettingsError, match=re.escape("not an address or a network such as 10.0.0.0/8")):
        Settings.from_env({"SOBRANIE_TRUSTED_PROXIES": text})


def test_networks_and_addresses_of_both_kinds_can_be_listed() -> None:
    listed = Settings.from_env({"SOBRANIE_TRUSTED_PROXIES": "10.0.0.0/8, 192.0.2.1,2001:db8::/32"}).trusted_proxies
    assert listed == ("10.0.0.0/8", "192.0.2.1", "2001:db8::/32")
