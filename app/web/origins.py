"""Which web pages may use this server: by default those that it could have served itself.

A browser sends Origin with every WebSocket handshake, cross-site fetch and cross-site event stream, and a page can't
forge it. Who sends none is no browser page of another site.
"""

from urllib.parse import urlsplit

from aiohttp import web

_PORTS = {"http": 80, "https": 443}


class Origins:
    """`allowed` are origins such as https://app.example.com; `*` is everybody."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._everybody = "*" in allowed
        self._allowed = {origin.rstrip("/").lower() for origin in allowed}

    def allow(self, request: web.Request) -> bool:
        origin = request.headers.get("Origin")
        return origin is None or self._everybody or origin.lower() in self._allowed or same_origin(request)

    def headers(self, request: web.Request) -> dict[str, str]:
        """What lets a page of an allowed origin read the answer (CORS)."""
        origin = request.headers.get("Origin")
        if origin is None or not self.allow(request):
            return {}
        return {"Access-Control-Allow-Origin": "*" if self._everybody else origin, "Vary": "Origin"}


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
