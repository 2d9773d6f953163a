"""Which requests are served: those that ask for this server by one of its names (Hosts), and, of streams, those for a
page that may use it (Origins).

Invariants
- Whoever is refused is told why, in words that a page can read.
- The log has one line with the Origin and the Host, at most LINES a minute. The metrics count every refused stream.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from app.model.errors import Forbidden
from app.model.observations import ConnectionFailed, Observer, PageRefused, Transport
from app.web.hosts import Hosts
from app.web.origins import Origins

LINES: Final = 10
_ANY_NAME: Final = frozenset({"/realtime/ws", "/realtime/events", "/livez", "/readyz"})
_LONGEST: Final = 200  # characters of a header in the log
_REMEDY: Final = {
    "host": "if the name is yours, list it in SOBRANIE_HOSTS",
    "origin": "if the page is yours, list its origin in SOBRANIE_ORIGINS; where Host is not the one that the browser "
    "asked for, have the proxy pass that on",
}


class Admission:
    """`clock` is in seconds and never goes back."""

    def __init__(
        self, hosts: Hosts, origins: Origins, observe: Observer, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.hosts = hosts
        self.origins = origins
        self._observe = observe
        self._clock = clock
        self._told: set[tuple[str, str]] = set()  # in the minute that began at `_since`
        self._since = 0.0

    def refusal(self, request: web.Request, transport: Transport | None = None) -> Forbidden | None:
        """Why this request is not served; None where it is. A refusal is counted and logged here."""
        if not self.hosts.allow(request):
            reason, host = "host", request.headers.get("Host", "")
            problem = Forbidden(f"this server does not answer to the name {host[:60]!r} (SOBRANIE_HOSTS)")
        elif transport is not None and not self.origins.allow(request):
            reason, problem = "origin", Forbidden("pages of this origin may not connect (SOBRANIE_ORIGINS)")
        else:
            return None
        if transport is not None:
            self._observe(ConnectionFailed(transport, reason))
        self._tell(request, reason)
        return problem

    @web.middleware
    async def only_our_names(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Refuse what asks for a name that is not ours. Streams refuse in the form that
        their clients read, and a health probe may use any name."""
        if request.path not in _ANY_NAME:
            refusal = self.refusal(request)
            if refusal is not None:
                return web.Response(status=403, text=f"{refusal.message}\n")
        return await handler(request)

    def _tell(self, request: web.Request, reason: str) -> None:
        origin, host = request.headers.get("Origin", ""), request.headers.get("Host", "")
        now = self._clock()
        if now - self._since >= 60:
            self._told, self._since = set(), now
        if len(self._told) < LINES and (origin, host) not in self._told:
            self._told.add((origin, host))
            self._observe(PageRefused(reason, origin[:_LONGEST], host[:_LONGEST], _REMEDY[reason]))
