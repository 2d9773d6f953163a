"""What has been: a ring of recent batches in memory, and behind it the log.

The ring is bounded in bytes. It serves every position that contains its floor; older ones are served from the log
(app.stream.replays). Positions here are normalised snapshots. History is kept in *stretches* of about UNIT_BYTES: what
a client is sent at a time, so that nothing large is held for one that reads slowly.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from app.core.index import Index
from app.model.change import Batch, Portion, Transaction
from app.model.position import Path, Snapshot

PORTION_BYTES = 1 << 20
UNIT_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of some channels as of one position (normalised), each row as its JSON."""

    position: Snapshot
    lsn: int
    channels: dict[str, list[bytes]]


@dataclass(frozen=True, eq=False)
class Stretch:
    """All that `upto` sees and `since` does not, in whole transactions, in order; None where that is too much to hold.

    It serves every position that contains `since`: what of it the position does not see comes next for the client,
    who is then at the union of its position and `upto`.
    """

    since: Snapshot
    upto: Snapshot
    transactions: list[Transaction] | None
    size: int

    def serves(self, position: Snapshot) -> bool:
        return position.contains(self.since) and not position.contains(self.upto)

    def holds(self, gone: Snapshot) -> bool:
        """Whether a transaction is in it that `gone` sees."""
        return any(gone.sees(t.xid) for t in self.transactions or ())

    @cached_property
    def index(self) -> Index:
        """Its changes by channel; made where somebody is fed from it."""
        return Index(self.transactions or ())

    @cached_property
    def schema(self) -> bool:
        """Whether a definition changes in it: then it is a unit of its own, for its changes give way to a `reset`."""
        return any(t.schema for t in self.transactions or ())


class Log(Protocol):
    """Reading the log of one primary. Every method may raise DatabaseAway."""

    async def difference(self, since: Snapshot) -> Batch | None:
        """All that is committed, durable, and not in `since`; None where there is nothing new. It has no transactions
        where some that `since` leaves open have ended, and wrote nothing.

        Raises PositionRefused(EXPIRED) when the log no longer reaches back to `since`.
        """
        ...

    async def floor(self) -> Snapshot:
        """What a position must contain for the log to reach back to it; at most a second old."""
        ...

    def replay(self, since: Snapshot, upto: Snapshot) -> AsyncIterator[Portion]:
        """What `upto` sees and `since` does not, in order, in portions of about a mebibyte; the last ends at `upto`.

        No transaction of the database stays open between two portions. Raises PositionRefused: EXPIRED at the start,
        OVERRUN when the ring of the log turned meanwhile.
        """
        ...

    def stretches(self, since: Snapshot, upto: Snapshot) -> AsyncIterator[Stretch]:
        """The same in whole transactions, in stretches of about a mebibyte that follow each other. One that is too
        large to hold is a stretch of its own, and not read: `replay` does. After a refusal `floor` is fresh."""
        ...


class History:
    """The ring of the stretches before the server's position, newest last. Their ends grow. What has left the log
    (`gone`) leaves it too."""

    def __init__(self, position: Snapshot, limit: int) -> None:
        self.limit = limit
        self.gone = Snapshot(0)
        self.restart(position)

    def restart(self, position: Snapshot) -> None:
        """Forget everything: the stream goes on from here (a new incarnation, a hole that can't be filled)."""
        self.stretches: deque[Stretch] = deque()
        self.size = 0
        self.floor = position

    def append(self, stretch: Stretch) -> None:
        """What follows the newest."""
        for piece in pieces(stretch) if stretch.schema else (stretch,):  # the others when somebody is fed from it
            self.stretches.append(piece)
            self.size += piece.size
            self._merge()
        while self.size > self.limit and len(self.stretches) > 1:
            self._drop_oldest()
        if not stretch.since.contains(self.gone):  # read before it went
            self.forget(self.gone)

    def _merge(self) -> None:
        """Make one of the newest two for as long as the newest is as large, so that many small batches are few
        stretches for who has missed them, and each change is moved, and gets into an index, a few times at most."""
        while len(self.stretches) > 1:
            before, newest = self.stretches[-2], self.stretches[-1]
            if before.size > newest.size or before.size + newest.size > min(UNIT_BYTES, self.limit >> 3):
                return
            if before.transactions is None or newest.transactions is None or before.schema or newest.schema:
                return
            both = before.transactions + newest.transactions
            self.stretches.pop()
            self.stretches[-1] = Stretch(before.since, newest.upto, both, before.size + newest.size)

    def _drop_oldest(self) -> None:
        oldest = self.stretches.popleft()
        self.size -= oldest.size
        self.floor = oldest.upto

    def forget(self, gone: Snapshot) -> None:
        """Drop every transaction that `gone`, a floor of the log, sees: rows that were purged are nowhere then."""
        self.gone = gone
        last = next((i for i in reversed(range(len(self.stretches))) if self.stretches[i].holds(gone)), -1)
        for _ in range(last + 1):
            self._drop_oldest()

    def after(self, position: Snapshot) -> Stretch | None:
        """The stretch that serves `position`, which lacks something that the server has; None where that is not in
        memory."""
        if not position.contains(self.floor):
            return None
        first = self._first(position)
        found = self.stretches[first] if first < len(self.stretches) else None
        if found is None or found.transactions is None:
            return None
        if found.size > UNIT_BYTES and len(found.transactions) > 1:
            self._cut(first)
            found = self.stretches[self._first(position)]
        return found

    def _first(self, position: Snapshot) -> int:
        return bisect_left(self.stretches, True, key=lambda s: not position.contains(s.upto))

    def _cut(self, place: int) -> None:
        """Make pieces of one stretch."""
        self.stretches.rotate(-place)
        whole = self.stretches.popleft()
        cut = list(pieces(whole))
        self.stretches.extendleft(reversed(cut))
        self.stretches.rotate(place)
        self.size += sum(piece.size for piece in cut) - whole.size


def pieces(whole: Stretch) -> Iterator[Stretch]:
    """The same as stretches of about UNIT_BYTES, cut between transactions; one that changes a definition is alone."""
    transactions = whole.transactions
    if transactions is None or len(transactions) < 2 or (whole.size <= UNIT_BYTES and not whole.schema):
        yield whole
        return
    path = Path(whole.since, whole.upto, [t.xid for t in transactions])
    start, held, size = whole.since, list[Transaction](), 0
    for t in transactions:
        weight = sum(c.size for c in t.changes)
        if held and (t.schema or held[-1].schema or size + weight > UNIT_BYTES):
            yield Stretch(start, path.position, held, size)
            start, held, size = path.position, [], 0
        held.append(t)
        size += weight
        path.deliver(t.xid)
    yield Stretch(start, whole.upto, held, size)
