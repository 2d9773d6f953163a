"""History: recent stretches in memory, for clients that missed them.

Invariants
- History is bounded in bytes. It serves every position that contains its floor; app.stream.replays serves older ones.
- What has left the event log leaves the history too.
- Positions here are normalised snapshots.
"""

from bisect import bisect_left
from collections import deque

from app.model.position import Snapshot
from app.stream.stretch import UNIT_BYTES, Stretch, pieces


class History:
    """The stretches up to the server's position, newest last: each ends at a position that contains the end of the one
    before. `gone` is the newest floor of the event log that is known: what it sees may have left the event log."""

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
        """Add what follows the newest."""
        for piece in pieces(stretch) if stretch.schema else (stretch,):  # others are cut when a client is fed from them
            self.stretches.append(piece)
            self.size += piece.size
            self._merge()
        while self.size > self.limit and len(self.stretches) > 1:
            self._drop_oldest()
        if not stretch.since.contains(self.gone):  # read before some of it left the event log
            self.forget(self.gone)

    def _merge(self) -> None:
        """Make one of the newest two for as long as the newest is at least as large as the one before.

        So many small batches are few stretches for a client that missed them, and each change is copied, and gets into
        an index, a few times at most."""
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
        """Drop every transaction that `gone`, a floor of the event log, sees: purged rows must be nowhere."""
        self.gone = gone
        last = next((i for i in reversed(range(len(self.stretches))) if self.stretches[i].holds(gone)), -1)
        for _ in range(last + 1):
            self._drop_oldest()

    def after(self, position: Snapshot) -> Stretch | None:
        """The stretch that serves `position`, which lacks something that the server has; None where that is not in
        memory. A stretch that is too large for one unit is cut first: what the history holds stays the same."""
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
