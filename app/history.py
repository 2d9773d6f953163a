"""What has been: a ring of recent batches in memory, and behind it the log.

The ring is bounded in bytes. It serves every position that contains its floor; older ones are served from the log by
`Log.replay`. Positions here are normalised snapshots.
"""

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from app.change import Batch, Portion, Transaction
from app.position import Snapshot

PORTION_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of some channels as of one position (normalised), each row as its JSON."""

    position: Snapshot
    lsn: int
    channels: dict[str, list[bytes]]


class Log(Protocol):
    """Reading the log of one primary. Every method may raise DatabaseAway."""

    async def difference(self, since: Snapshot) -> Batch | None:
        """All that is committed, durable, and not in `since`; None where there is nothing new.

        Raises PositionRefused(EXPIRED) when the log no longer reaches back to `since`.
        """
        ...

    def replay(self, since: Snapshot, upto: Snapshot) -> AsyncIterator[Portion]:
        """What `upto` sees and `since` does not, in order, in portions of about a mebibyte; the last ends at `upto`.

        No transaction of the database stays open between two portions. Raises PositionRefused: EXPIRED at the start,
        OVERRUN when the ring of the log turned meanwhile.
        """
        ...


class History:
    """The ring of the batches before `position`, newest last. What has left the log (`gone`) leaves it too."""

    def __init__(self, position: Snapshot, limit: int) -> None:
        self.limit = limit
        self.gone = Snapshot(0)
        self.restart(position)

    def restart(self, position: Snapshot) -> None:
        """Forget all batches: the stream goes on from here (a new incarnation, a hole that can't be filled)."""
        self.batches: deque[Batch] = deque()
        self.size = 0
        self.floor = position

    def append(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.size += batch.size
        while self.size > self.limit and len(self.batches) > 1:
            self._drop_oldest()
        if not batch.since.contains(self.gone):  # read before they went
            self.forget(self.gone)

    def _drop_oldest(self) -> None:
        oldest = self.batches.popleft()
        self.size -= oldest.size
        self.floor = oldest.upto

    def forget(self, gone: Snapshot) -> None:
        """Drop every transaction that `gone`, a floor of the log, sees: rows that were purged are nowhere then."""
        self.gone = gone
        last = next((i for i in reversed(range(len(self.batches))) if _holds(self.batches[i], gone)), -1)
        for _ in range(last + 1):
            self._drop_oldest()

    def after(self, position: Snapshot) -> tuple[list[Transaction], Batch] | None:
        """The next unit for a client at `position`: its transactions, and the batch that it ends with.

        None where memory does not hold it. The caller has made sure that `position` lacks something.
        """
        if not position.contains(self.floor):
            return None
        missing = self._missing(position)
        unit: list[Transaction] = []
        size, last = 0, None
        for batch in missing:
            if batch.transactions is None or batch.schema or size > PORTION_BYTES:
                break
            unit += [t for t in batch.transactions if not position.sees(t.xid)]
            size, last = size + batch.size, batch
        if last is None and missing and missing[0].transactions is not None:
            first = missing[0]
            return [t for t in first.transactions or () if not position.sees(t.xid)], first
        return (unit, last) if last is not None else None

    def _missing(self, position: Snapshot) -> list[Batch]:
        found = []
        for batch in reversed(self.batches):
            if position.contains(batch.upto):
                break
            found.append(batch)
        return found[::-1]


def _holds(batch: Batch, gone: Snapshot) -> bool:
    return any(gone.sees(t.xid) for t in batch.transactions or ())
