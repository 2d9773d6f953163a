"""Timers by the second, for as many clients as there are: a wheel of buckets, in place of a timer for each.

Invariants
- What is put in for a second comes out of `due` in that second or the next, unless it was taken out.
- Nothing that was taken out is kept.
- A turn looks at one bucket for each second that has passed, whose entries may be of a later turn.
"""

import math
from collections.abc import Iterator
from typing import Final, Generic, Protocol, TypeVar

BUCKETS: Final = 256


class Timed(Protocol):
    """What a wheel holds. `due` is the second that it is in for, 0 where it is in no wheel. The wheel sets it."""

    due: int


T = TypeVar("T", bound=Timed)


class Wheel(Generic[T]):
    """`now` is the second in which it begins."""

    def __init__(self, now: float) -> None:
        self._buckets: list[set[T]] = [set() for _ in range(BUCKETS)]
        self._turned = int(now)  # all up to this second has come out

    def put(self, item: T, at: float) -> None:
        """Have `item` come out at `at`, and not when it was to come out before."""
        self.take_out(item)
        item.due = max(math.ceil(at), self._turned + 1)
        self._buckets[item.due % BUCKETS].add(item)

    def take_out(self, item: T) -> None:
        if item.due:
            self._buckets[item.due % BUCKETS].discard(item)
            item.due = 0

    def turn(self, now: float) -> Iterator[T]:
        """All whose second has come. Each is out of the wheel when it is given."""
        before, self._turned = self._turned, max(self._turned, int(now))
        for second in range(max(before, self._turned - BUCKETS) + 1, self._turned + 1):
            for item in list(self._buckets[second % BUCKETS]):
                if 0 < item.due <= self._turned:
                    self.take_out(item)
                    yield item

    def __iter__(self) -> Iterator[T]:
        return (item for bucket in self._buckets for item in list(bucket))
