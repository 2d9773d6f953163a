"""The names under which this server answers: the defence against DNS rebinding.

A page of a stranger's site may have its own name resolve to 127.0.0.1, and is then of the same origin as a server that
listens there. So a server on loopback answers only under its own names.

Invariants
- An address and a name without a dot (`localhost`, `sobranie`) are always answered. No stranger can register one.
- A server that other machines can reach checks names only where SOBRANIE_HOSTS asks for it.
"""

import socket
from ipaddress import ip_address

from aiohttp import web

from app.model.origin import EVERYBODY, Host, host_of, is_address
from app.web.origins import Origins


class Hosts:
    """`bound` is the address to listen on, `listed` is SOBRANIE_HOSTS. The hosts of listed origins are known too."""

    def __init__(self, bound: str, listed: tuple[str, ...], origins: Origins) -> None:
        self._checked = EVERYBODY not in listed and bool(listed or on_loopback(bound))
        self._known = [Host.listed(name) for name in listed if name != EVERYBODY]
        self._known += [Host("localhost", below=True), Host(bound.lower())]
        self._known += [origin.host for origin in origins.listed]

    def allow(self, request: web.Request) -> bool:
        """Whether the request may be answered. One that names no host (HTTP/1.0) comes from no browser, and may."""
        header = request.headers.get("Host")
        if not self._checked or header is None:
            return True
        name = host_of(header).rstrip(".")
        return bool(name) and ("." not in name or is_address(name) or any(known.matches(name) for known in self._known))


def on_loopback(bound: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(bound, None, type=socket.SOCK_STREAM)}
    except OSError:
        return False  # to listen there will fail, and that error says more
    return all(ip_address(str(address).partition("%")[0]).is_loopback for address in found)
