"""Origins and host names: as an operator lists them, and as a browser sends them.

Invariant: what is listed is refused where no browser could ever send a match. `*` means everybody where it stands
alone, all subdomains where it stands for the first labels (`https://*.example.com`), and all ports where it stands for
the port (`http://localhost:*`).
"""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

EVERYBODY: Final = "*"
OPAQUE: Final = "null"  # the origin of sandboxed frames and of files
_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#@\s]*)(.*)", re.IGNORECASE | re.DOTALL)
_PLACE: Final = re.compile(r"(\[[^\]]*\]|[^:]*)(?::(.*))?", re.DOTALL)
_NAME: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_ANY_PORT: Final = -1


@dataclass(frozen=True, slots=True)
class Host:
    """A host name or an address in the one form of browsers; with `below` its subdomains and not itself."""

    name: str
    below: bool = False

    @classmethod
    def listed(cls, text: str) -> "Host":
        """Raises ValueError, which says what is wrong."""
        name = text.lower()
        below = name.startswith("*.")
        if below:
            name = name[2:]
        if "*" in name:
            raise ValueError(f"in {text!r} a * may stand for all subdomains only (*.example.com)")
        name = canonical_host(name)
        if below and is_address(name):
            raise ValueError(f"{text!r} matches nothing: an address has no subdomains")
        return cls(name, below)

    def matches(self, name: str) -> bool:
        return name.endswith("." + self.name) if self.below else name == self.name


@dataclass(frozen=True, slots=True)
class Origin:
    scheme: str
    host: Host
    port: int | None  # None: a scheme that has no ports; _ANY_PORT: all

    @classmethod
    def listed(cls, text: str) -> "Origin":
        """Raises ValueError, which says what is wrong."""
        match = _ORIGIN.fullmatch(text)
        if match is None or not match[2]:
            raise ValueError("not a list of origins such as https://app.example.com,https://example.com (or *)")
        if match[3] not in ("", "/"):
            raise ValueError(f"{text!r} is no origin: leave out what follows the host")
        scheme = match[1].lower()
        host, port = _place(match[2])
        if host == EVERYBODY:
            raise ValueError(f"{text!r} names no host: all subdomains are https://*.example.com, everybody is *")
        return cls(scheme, Host.listed(host), _ANY_PORT if port == EVERYBODY else _port(scheme, port, text))

    def matches(self, text: str) -> bool:
        """Whether a browser's `Origin` is this one."""
        match = _ORIGIN.fullmatch(text.lower())
        if match is None or match[3] or match[1] != self.scheme:
            return False
        try:
            host, port = _place(match[2])
            same_port = self.port in (_ANY_PORT, _port(self.scheme, port, text))
        except ValueError:
            return False
        return same_port and self.host.matches(host)


def canonical_host(name: str) -> str:
    """The form in which browsers send it. Raises ValueError for what none could send."""
    if name.startswith("["):
        try:
            return f"[{IPv6Address(name[1:-1])}]"
        except AddressValueError:
            raise ValueError(f"{name!r} is no IPv6 address") from None
    try:
        name = name if name.isascii() else name.encode("idna").decode()
    except UnicodeError:
        raise ValueError(f"{name!r} is no host name") from None
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no host name")
    if name.rstrip(".").rpartition(".")[2].isdigit() and not is_address(name):
        raise ValueError(f"{name!r} is no IPv4 address")
    return name


def is_address(name: str) -> bool:
    """Whether this is an IPv4 address, or an IPv6 one in brackets."""
    try:
        IPv6Address(name[1:-1]) if name.startswith("[") else IPv4Address(name)
    except AddressValueError:
        return False
    return True


def host_of(place: str) -> str:
    """The host of `host:port`, as a `Host` header has it; "" where it is none."""
    try:
        return canonical_host(_place(place.lower())[0])
    except ValueError:
        return ""


def _place(text: str) -> tuple[str, str | None]:
    match = _PLACE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no host with a port")
    return match[1], match[2]


def _port(scheme: str, port: str | None, text: str) -> int | None:
    if port is None:
        return _PORTS.get(scheme)
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"{text!r} has no port from 0 to 65535 (or *, for all)")
    return int(port)
