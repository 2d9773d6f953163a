"""What every test needs a fresh one of is made while the test before runs: databases and clusters take longer to make
than most tests do.

Invariants: one thread makes and discards, in order; the first is made when the first is taken, so that a run that
needs none makes none; `close` leaves nothing behind.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    def __init__(self, make: Callable[[], T], discard: Callable[[T], None]) -> None:
        self._make = make
        self._discard = discard
        self._thread = ThreadPoolExecutor(1)
        self._next: Future[T] | None = None
        self._discarded: list[Future[None]] = []

    @contextmanager
    def one(self, *, quiet: bool = False) -> Iterator[T]:
        """A fresh one, for the length of the block; where `quiet`, nothing is made or discarded meanwhile."""
        ready = self._next or self._thread.submit(self._make)
        self._next = None if quiet else self._thread.submit(self._make)
        made = ready.result()
        if quiet:
            self._thread.submit(int).result()
        try:
            yield made
        finally:
            self._discarded.append(self._thread.submit(self._discard, made))

    def close(self) -> None:
        """Discard what nobody took. Raises what went wrong with discarding."""
        if self._next is not None:
            self._discarded.append(self._thread.submit(self._discard, self._next.result()))
        self._thread.shutdown()
        for discarded in self._discarded:
            discarded.result()
