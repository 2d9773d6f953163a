"""How much may pass in how much time: GCRA, the generic cell rate algorithm. It equals a bucket of `burst` tokens into
which one more falls every `step`, and keeps one integer in place of a count and a time.

Invariants
- Who keeps to the limit is never refused, whatever he did before. What was refused costs nothing.
- State is kept only of keys that something passed for within the last `window`, but for what the next few takes remove.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

SECOND: Final = 1_000_000_000  # in nanoseconds, the unit of all times here
MS: Final = 1_000_000
REMOVED: Final = 2  # idle keys that one take removes: more than it adds


@dataclass(frozen=True, slots=True)
class Limit:
    """`per_minute` in the long run, of them `burst` at once. Both are at least 1."""

    per_minute: int
    burst: int

    @property
    def step(self) -> int:
        return 60 * SECOND // self.per_minute

    @property
    def window(self) -> int:
        """After so long without anything, all of `burst` may pass again."""
        return self.burst * self.step

    def take(self, due: int, now: int) -> tuple[int, int]:
        """`due` is when the bucket is full again, 0 at first. Returns the next `due`, and how long to wait: 0 where
        this one passes."""
        begin = max(due, now)
        wait = begin - now - self.window + self.step
        return (due, wait) if wait > 0 else (begin + self.step, 0)


class Gcra:
    """One limit, for each of many keys. `now` never goes back."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self._due: OrderedDict[Hashable, int] = OrderedDict()  # that which something passed for last is the last

    def __len__(self) -> int:
        return len(self._due)

    def take(self, key: Hashable, now: int) -> int:
        """Nanoseconds until one more may pass for this key; 0 where this one does."""
        self._remove_idle(now)
        due, wait = self.limit.take(self._due.get(key, 0), now)
        if not wait:
            self._due[key] = due
            self._due.move_to_end(key)
        return wait

    def forget(self, key: Hashable) -> None:
        self._due.pop(key, None)

    def _remove_idle(self, now: int) -> None:
        for _ in range(REMOVED):
            key = next(iter(self._due), None)
            if key is None or self._due[key] > now:
                return
            del self._due[key]


def in_ms(wait: int) -> int:
    """Nanoseconds as milliseconds, rounded up."""
    return -(-wait // MS)
