"""A stretch: whole transactions between two positions, which is what history is kept in and clients are fed from.

Invariants: a stretch is never changed once it is made; one that is cut becomes pieces that follow each other, and
together hold the same. A piece is about UNIT_BYTES, so that nothing large is held for a client that reads slowly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from app.core.index import Index
from app.model.change import Transaction
from app.model.position import Path, Snapshot
from app.stream.large import PageReader

UNIT_BYTES: Final = 64 << 10


@dataclass(frozen=True, eq=False)
class Stretch:
    """All that `upto` sees and `since` does not, in whole transactions, in order; None where that is too much to hold.
    `large` reads it where it is one transaction that is too large to hold.

    It serves every position that contains `since` and not `upto`. The client at such a position is given the
    transactions that its position does not see, and is then at the union of its position and `upto`.
    """

    since: Snapshot
    upto: Snapshot
    transactions: list[Transaction] | None
    size: int
    large: PageReader | None = None

    def serves(self, position: Snapshot) -> bool:
        return position.contains(self.since) and not position.contains(self.upto)

    def holds(self, gone: Snapshot) -> bool:
        """Whether a transaction is in it that `gone` sees."""
        if self.large is not None:
            return gone.sees(self.large.xid)
        return any(gone.sees(t.xid) for t in self.transactions or ())

    @cached_property
    def index(self) -> Index:
        """Its changes by channel. It is made when a client is first fed from this stretch."""
        return Index(self.transactions or ())

    @cached_property
    def schema(self) -> bool:
        """Whether a definition changes in it. Then it is a unit of its own, for clients get a `reset` instead of it."""
        return any(t.schema for t in self.transactions or ())


def pieces(whole: Stretch) -> Iterator[Stretch]:
    """The same as stretches of about UNIT_BYTES, cut between transactions. A transaction that changes a definition is a
    piece of its own."""
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
