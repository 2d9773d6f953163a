"""The credential that comes with a request: a header, a cookie, or a parameter where that is allowed.

Invariants
- The first that is there counts, in this order, and the others are not looked at.
- A credential that is there and does not hold is refused, whatever else there is.
- A cookie counts only for a page that may use it (app.web.origins).
- A server without a key looks at none: what is in front of it may need them.
"""

from typing import Final

from aiohttp import web

from app.clients.door import Door
from app.model.claims import ANONYMOUS, Identity
from app.model.errors import ClientError, Unauthorized
from app.model.observations import AuthMethod, Transport
from app.web.origins import Origins

PARAMETER: Final = "token"
_IN_URL: Final = (
    "a token in a URL ends in the logs of proxies; send Authorization: Bearer (or set SOBRANIE_TOKEN_IN_URL=1)"
)
_SCHEME: Final = "of Authorization only Bearer is taken here"
_COOKIE: Final = "a cookie speaks for its user only from this server's pages and from origins that are listed by name"
_MISSING: Final = "a token is needed: Authorization: Bearer …"


class Credentials:
    """`cookie` is the name of the one that may hold a token, None for none; `in_url` allows it as a parameter."""

    def __init__(self, door: Door, origins: Origins, *, cookie: str | None, in_url: bool) -> None:
        self._door = door
        self._origins = origins
        self._cookie = cookie
        self.in_url = in_url

    @property
    def full(self) -> bool:
        """Whether no more clients may come that have to show a token first."""
        return self._door.full

    async def identify(self, request: web.Request, transport: Transport) -> Identity | None:
        """Who sends the request: ANONYMOUS where it shows nothing and needs nothing, None for a WebSocket that has to
        show a token first. Raises Unauthorized, or Unavailable where nobody can tell now."""
        door = self._door
        if door.verifier is not None:
            shown = self._shown(request, transport)
            if shown is not None:
                method, token = shown
                return await door.identify(token, method)
        if door.anonymous:
            door.let_in_unnamed()
            return ANONYMOUS
        if transport == "ws":
            return None
        raise door.refuse("none", "missing", _MISSING)

    def _shown(self, request: web.Request, transport: Transport) -> tuple[AuthMethod, str] | None:
        """How a token comes, and the token. Raises Unauthorized for one that may not come so."""
        header = request.headers.get("Authorization")
        if header is not None:
            scheme, _, token = header.strip().partition(" ")
            if scheme.lower() != "bearer":
                raise self._door.refuse("header", "scheme", _SCHEME)
            return "header", token.strip()
        cookie = request.cookies.get(self._cookie) if self._cookie is not None else None
        if cookie is not None:
            if not self._origins.may_use_cookies(request, needed=transport == "ws"):
                raise self._door.refuse("cookie", "origin", _COOKIE)
            return "cookie", cookie
        if PARAMETER in request.query:
            if not self.in_url:
                raise self._door.refuse("url", "in_url", _IN_URL)
            return "url", request.query[PARAMETER]
        return None


def final(problem: ClientError) -> bool:
    """Whether an event stream is refused with a status, after which an EventSource never comes back. A token that has
    just ended may be in the midst of being renewed."""
    return isinstance(problem, Unauthorized) and not problem.lately
