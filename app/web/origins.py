"""Which web pages may use this server: by default those that it could have served itself.

A browser sends Origin with every WebSocket handshake, cross-site fetch and cross-site event stream, and a page can't
forge it. A request without Origin comes from no page of another site.

Invariant: a page can read an answer to a request with cookies (Access-Control-Allow-Credentials) only where its origin
is listed by name, never by `*`.
"""

import re
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from app.model.origin import EVERYBODY, OPAQUE, Origin

_PORTS: Final = {"http": 80, "https": 443}
_HEADER_NAMES: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+(\s*,\s*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*")
PREFLIGHT_SECONDS: Final = 7200  # how long a browser may remember a preflight; none keeps it longer


class Origins:
    """`allowed` as SOBRANIE_ORIGINS has them (app.model.origin); `*` is everybody."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._everybody = EVERYBODY in allowed
        self._opaque = OPAQUE in allowed
        self.listed = tuple(Origin.listed(text) for text in allowed if text not in (EVERYBODY, OPAQUE))

    def allow(self, request: web.Request) -> bool:
        origin = request.headers.get("Origin")
        return origin is None or self._everybody or self._by_name(origin) or same_origin(request)

    def may_use_cookies(self, request: web.Request, *, needed: bool) -> bool:
        """Whether a cookie of this request speaks for its user: a browser sends it for any page, so the page must be
        this server's or of an origin that is listed by name. `needed` says that a page's browser names its origin
        (WebSocket). Elsewhere a page of this server sends none, and newer browsers say so in `Sec-Fetch-Site`."""
        origin = request.headers.get("Origin")
        if origin is not None:
            return self._by_name(origin) or same_origin(request)
        site = request.headers.get("Sec-Fetch-Site")
        return not needed and (site == "same-origin" or (site is None and not (self.listed or self._everybody)))

    def headers(self, request: web.Request) -> dict[str, str]:
        """What lets a page of an allowed origin read the answer (CORS)."""
        origin = request.headers.get("Origin")
        if origin is None or not self.allow(request):
            return {"Vary": "Origin"}
        if self._by_name(origin):
            named = {"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Credentials": "true"}
        else:
            named = {"Access-Control-Allow-Origin": EVERYBODY if self._everybody else origin}
        return named | {"Vary": "Origin"}

    def preflight(self, request: web.Request) -> dict[str, str]:
        """What lets a page of an allowed origin send GET with headers of its own (`Last-Event-ID` from a fetch)."""
        headers = self.headers(request)
        if "Access-Control-Allow-Origin" in headers:
            asked = request.headers.get("Access-Control-Request-Headers", "")
            headers |= {"Access-Control-Allow-Methods": "GET", "Access-Control-Max-Age": str(PREFLIGHT_SECONDS)}
            if _HEADER_NAMES.fullmatch(asked):
                headers["Access-Control-Allow-Headers"] = asked
        return headers | {"Vary": "Origin, Access-Control-Request-Headers"}

    def _by_name(self, origin: str) -> bool:
        return self._opaque if origin == OPAQUE else any(listed.matches(origin) for listed in self.listed)


def same_origin(request: web.Request) -> bool:
    """Whether Origin, if there is one, names the host of this request.

    The scheme is not compared: a proxy in front may have taken TLS off.
    """
    origin = request.headers.get("Origin")
    if origin is None:
        return True
    try:
        page = urlsplit(origin)
        port, default = page.port, _PORTS.get(page.scheme)
        here = urlsplit(f"//{request.headers.get('Host', '')}")
        return default is not None and page.hostname == here.hostname and (port or default) == (here.port or default)
    except ValueError:
        return False
