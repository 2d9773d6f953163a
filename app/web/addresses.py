"""Where a request comes from: the peer's address or, behind proxies that are trusted, what they say of it.

Invariants
- X-Forwarded-For counts only from a trusted proxy, and of it only what trusted proxies wrote: the hops from the right,
  up to the first that is not trusted. What is left of that one its sender made up.
- A hop that is no address is nobody's word: the last hop that is known stands.
- An IPv6 address stands for its /64, for a host has as many as it likes.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Ip = IPv4Address | IPv6Address


def source(peer: str, forwarded: Sequence[str], trusted: "Trusted") -> Ip | None:
    """The address that counts. `forwarded` are the X-Forwarded-For headers, in their order. None where the peer's is
    no address (a socket that has gone)."""
    found = _address(peer)
    hops = [hop for header in forwarded for hop in header.split(",")]
    while found is not None and hops and found in trusted:
        before = _address(hops.pop().strip())
        if before is None:
            break
        found = before
    return found


def network(address: Ip) -> bytes:
    """What is counted as one: the address, and of IPv6 the /64."""
    return address.packed[:8]


class Trusted:
    """Networks, as SOBRANIE_TRUSTED_PROXIES has them."""

    def __init__(self, listed: tuple[str, ...]) -> None:
        self._networks = [ip_network(text) for text in listed]

    def __contains__(self, address: Ip) -> bool:
        return any(address in network for network in self._networks)


def _address(text: str) -> Ip | None:
    """An address, with or without a port behind it as some proxies write it. IPv4 in the form of IPv6 is IPv4."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
