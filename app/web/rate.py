"""How many messages one connection may send: far above what a reconnecting client with many channels needs.

Invariant: a client that keeps to the limit is never refused, whatever it did a minute ago.
"""

import time
from collections.abc import Callable
from typing import Final

from app.core.gcra import SECOND, Limit, in_ms

PER_MINUTE: Final = 1000
BURST: Final = 2000
STRIKES: Final = 3  # refusals within a minute that end the connection
_LIMIT: Final = Limit(PER_MINUTE, BURST)


class Rate:
    """`clock` is in seconds and never goes back."""

    __slots__ = ("_clock", "_due", "_refusals")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due = 0
        self._refusals: tuple[float, ...] = ()  # the last STRIKES at most

    def take(self) -> int:
        """0 where a message may pass; otherwise it is refused, and the result is the milliseconds until the next may
        pass."""
        self._due, wait = _LIMIT.take(self._due, int(self._clock() * SECOND))
        if wait:
            self.refuse()
        return in_ms(wait)

    def refuse(self) -> None:
        """A message was refused, for this limit or for another."""
        self._refusals = (*self._refusals, self._clock())[-STRIKES:]

    @property
    def exhausted(self) -> bool:
        """Whether the client has been refused STRIKES times within a minute."""
        return len(self._refusals) == STRIKES and self._clock() - self._refusals[0] < 60
