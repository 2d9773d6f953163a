"""How long to wait before trying again: doubling from attempt to attempt, with jitter, so that a fleet that failed at
one moment does not come back at one moment."""

import random
from collections.abc import Iterator
from typing import Final

FIRST_SECONDS: Final = 0.1
LAST_SECONDS: Final = 10.0


def backoff() -> Iterator[float]:
    """Seconds to wait before each further attempt, ten at most. After a success begin with a new one."""
    pause = FIRST_SECONDS
    while True:
        yield jittered(pause)
        pause = min(pause * 2, LAST_SECONDS)


def jittered(seconds: float) -> float:
    """Half of `seconds` to all of them."""
    return seconds * random.uniform(0.5, 1.0)
