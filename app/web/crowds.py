"""How many streams one address may have, and how fast it may come with more of them.

Invariants
- What comes from this machine itself (loopback) has no limit, unless a trusted proxy here says where it comes from: a
  proxy that nobody named must not make all clients one.
- Each process counts alone.
"""

import random
import time
from collections.abc import Callable
from typing import Final

from aiohttp import web

from app.clients.limits import BACK_MS
from app.core.gcra import Gcra, Limit, in_ms
from app.core.tally import Tally
from app.model.errors import RateLimited
from app.model.observations import Crowded, Limited, Observer
from app.web.addresses import Trusted, network, source

CONNECTIONS: Final = 1000  # of one address
ARRIVALS: Final = 6  # times as many streams may begin in a minute as there may be: each may come back some times
TOLD_SECONDS: Final = 60.0  # between two lines that say that an address has too many
REMEDY: Final = (
    "if that address is a proxy, list it in SOBRANIE_TRUSTED_PROXIES; if it is a network of many people, raise "
    "SOBRANIE_CONNECTIONS_PER_ADDRESS"
)


class Crowds:
    """`most` streams at once from one address. `clock` is in nanoseconds and never goes back."""

    def __init__(
        self,
        observe: Observer,
        most: int = CONNECTIONS,
        trusted: tuple[str, ...] = (),
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._observe = observe
        self._clock = clock
        self._trusted = Trusted(trusted)
        self._streams = Tally(most)
        self._arrivals = Gcra(Limit(most * ARRIVALS, most * ARRIVALS))
        self._telling = Gcra(Limit(1, 1))

    def of(self, request: web.Request) -> bytes | None:
        """What the request counts for; None where nothing is counted."""
        address = source(request.remote or "", request.headers.getall("X-Forwarded-For", []), self._trusted)
        return None if address is None or address.is_loopback else network(address)

    def arrive(self, address: bytes | None) -> None:
        """Somebody there asks for a stream. Raises RateLimited where that was asked for too often lately."""
        wait = self._arrivals.take(address, self._clock()) if address is not None else 0
        if wait:
            raise self._refuse("flood", "too many connections begin at this address", in_ms(wait))

    def enter(self, address: bytes | None) -> None:
        """Count one more stream. Raises RateLimited, and then nothing is counted."""
        if address is not None and not self._streams.enter(address):
            text = f"this address has {self._streams.most} connections, as many as it may"
            raise self._refuse("address", text, random.randint(*BACK_MS))

    def leave(self, address: bytes | None) -> None:
        """Count one that entered out."""
        if address is not None:
            self._streams.leave(address)

    def _refuse(self, kind: str, message: str, retry_after_ms: int) -> RateLimited:
        self._observe(Limited(kind))
        if not self._telling.take(None, self._clock()):
            self._observe(Crowded(self._streams.most, REMEDY))
        return RateLimited(message, retry_after_ms)
