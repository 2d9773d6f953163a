"""/livez: the process runs. /readyz: a change can really flow from the database to a client of this server, and when
that ends, or begins again, the log says so.

Invariants
- A stranger learns whether changes flow, and no name, table or SQL.
- A server that was ready still answers 200, as "degraded", for a grace after something failed. All servers lose the
  database at once, and a balancer that drops them all turns a pause into an outage.
- While changes are not captured (the fuse is open) it is "degraded", for as long as that lasts: no other server does
  better, and rows can still be had.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Final

from aiohttp import web

from app.model.observations import Flowing, NotFlowing, Observer
from app.web.ports import Facts, Health

LOOK_SECONDS: Final = 0.5
TELL_SECONDS: Final = 3.0  # a connection that is made anew at once is told by itself
FUSE: Final = "fuse"  # has a state of its own: see above
_FORWARDED: Final = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")


class Readiness:
    """`grace` in seconds; `clock` in seconds and never goes back."""

    def __init__(self, health: Health, grace: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._health = health
        self._grace = grace
        self._clock = clock
        self._was_ready = False
        self._lost_at: float | None = None  # when it was first seen that nothing flows any more
        self.stopping = False

    def look(self) -> tuple[int, dict[str, object]]:
        """The HTTP status and the body of /readyz now. The grace begins with the first look that finds a failure."""
        facts = self._health()
        now = self._clock()
        if flows(facts):
            self._was_ready, self._lost_at = True, None
        elif self._was_ready and self._lost_at is None:
            self._lost_at = now
        if self.stopping:
            status = "not ready"
        elif self._was_ready and self._lost_at is None:
            status = "ready" if facts["fuse"] is None else "degraded"
        elif self._lost_at is not None and now - self._lost_at <= self._grace:
            status = "degraded"
        else:
            status = "not ready"
        return (503 if status == "not ready" else 200), {"status": status, "checks": facts}

    async def livez(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "alive"}, headers={"Cache-Control": "no-store"})

    def readyz(self, trusted: Callable[[web.Request], bool]) -> Callable[[web.Request], Awaitable[web.Response]]:
        """The handler of GET /readyz, which shows all the facts to who is `trusted`."""

        async def answer(request: web.Request) -> web.Response:
            status, body = self.look()
            if not trusted(request):
                body["checks"] = plain(self._health())
            return web.json_response(body, status=status, headers={"Cache-Control": "no-store"})

        return answer


def flows(facts: Facts) -> bool:
    """Whether a change can get from the database to a client."""
    return not missing(facts)


def missing(facts: Facts) -> list[str]:
    """The names of what is not as it has to be."""
    return [name for name, whole in plain(facts).items() if not whole and name != FUSE]


async def tell_flow(health: Health, observe: Observer) -> None:
    """Tell whenever changes have stopped to flow, and when they flow again, for ever."""
    since: float | None = time.monotonic()  # when it was first seen that nothing flows; None while changes flow
    told = flowed = False
    while True:
        lacks, now = missing(health()), time.monotonic()
        if not lacks:
            if since is not None and (told or not flowed):
                observe(Flowing(now - since))
            since, told, flowed = None, False, True
        elif since is None:
            since = now
        elif not told and now - since >= TELL_SECONDS:
            told = True
            observe(NotFlowing(", ".join(lacks), now - since))
        await asyncio.sleep(LOOK_SECONDS)


def plain(facts: Facts) -> dict[str, bool]:
    """What a stranger may know."""
    known = {"database": facts["database"], "listen": facts["listen"], "bus": facts["bus"]}
    known |= {"leader": facts["leader"] is not None, "flow": facts["flow"]}
    return known | {FUSE: facts["fuse"] is None}


def at_the_machine(request: web.Request) -> bool:
    """Whether this was asked on the server's own machine, and not through a proxy there."""
    if request.remote is None or any(name in request.headers for name in _FORWARDED):
        return False
    return ip_address(request.remote.partition("%")[0]).is_loopback
