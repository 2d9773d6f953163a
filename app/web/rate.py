"""How many messages one connection may send: far above what a reconnecting client with many channels needs.

Invariant: a client that keeps to the limit is never refused, whatever it did a minute ago.
"""

import time
from collections.abc import Callable
from typing import Final

PER_MINUTE: Final = 1000
BURST: Final = 2000
STRIKES: Final = 3  # refusals within a minute that end the connection


class Rate:
    """A token bucket. `clock` is in seconds and never goes back."""

    __slots__ = ("_at", "_clock", "_refusals", "_tokens")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens = float(BURST)
        self._at = clock()
        self._refusals: tuple[float, ...] = ()  # the last STRIKES at most

    def take(self) -> int:
        """0 where a message may pass; otherwise the milliseconds until the next one may."""
        now = self._clock()
        self._tokens = min(float(BURST), self._tokens + (now - self._at) * PER_MINUTE / 60)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0
        self._refusals = (*self._refusals, now)[-STRIKES:]
        return int((1 - self._tokens) * 60_000 / PER_MINUTE) + 1

    @property
    def exhausted(self) -> bool:
        """Whether the client has been refused STRIKES times within a minute."""
        return len(self._refusals) == STRIKES and self._clock() - self._refusals[0] < 60
