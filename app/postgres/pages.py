"""The reads of a replay: lists of transactions, and whole transactions. app.postgres.large reads those that are too
large to hold.

Invariants
- Every statement checks in its own snapshot that the event log still reaches back to what has been delivered.
- Every read checks that it found as much as was listed. Rows that went missing are a refusal, never a silent hole.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.model.change import Transaction
from app.model.errors import PositionRefused, ResetReason
from app.model.position import Snapshot
from app.postgres import event_rows as rows
from app.postgres.catalog import Catalog, Lend
from app.postgres.queries import SQL

LISTED: Final = 50_000  # transactions that are listed at once
LARGE_CHANGES: Final = 10_000  # more in one transaction, or in one read, is never held at once
LARGE_BYTES: Final = 8 << 20  # neither is more than this, as stored, compressed values fourfold

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """A transaction to replay: the id of its last event, its number of changes, and their bytes as stored."""

    xid: int
    last: int
    changes: int
    bytes: int

    @property
    def large(self) -> bool:
        return self.changes > LARGE_CHANGES or self.bytes > LARGE_BYTES


def ranges(since: Snapshot, upto: Snapshot) -> tuple[list[str], list[str]]:
    """The half-open ranges of transaction ids between two snapshots, as the parameters `lows` and `highs`."""
    found = since.missing_from(upto)
    return [str(low) for low, _ in found], [str(high) for _, high in found]


async def read(lend: Lend, query: str, parameters: dict[str, Any], check: Callable[[Snapshot], None]) -> list[Row]:
    """The rows of a statement without their first column. That is the floor, which `check` looks at."""
    async with lend() as connection:
        cursor = await connection.cursor(binary=True).execute(SQL[query], parameters)
        found = await cursor.fetchall()
        check(Snapshot.parse(found[0][0]))
        return [row[1:] for row in found if row[1] is not None]


async def ensure_known(lend: Lend, catalog: Catalog, events: Sequence[Row]) -> None:
    """Load the generations that these rows name, which end with the columns of an event."""
    unknown = [(row[-rows.WIDTH + rows.GEN], row[-rows.WIDTH + rows.OP]) for row in events]
    if catalog.lacks(unknown):
        async with lend() as connection:
            await catalog.ensure(connection, unknown)


class Pages:
    """The reads of one replay. `since` is what has been delivered, and its caller moves it on."""

    def __init__(self, lend: Lend, catalog: Catalog, since: Snapshot) -> None:
        self.lend = lend
        self.catalog = catalog
        self.since = since

    def _check(self, refusal: ResetReason) -> Callable[[Snapshot], None]:
        def check(floor: Snapshot) -> None:
            if not self.since.contains(floor):
                raise PositionRefused(refusal)

        return check

    async def listed(
        self, since: Snapshot, upto: Snapshot, refusal: ResetReason
    ) -> tuple[list[Listed], list[int], bool]:
        """The next transactions in order, the ids of those that come later although they are lower, and whether these
        transactions are all that are left."""
        lows, highs = ranges(since, upto)
        parameters = {"lows": lows, "highs": highs, "xmax": str(since.xmax), "limit": LISTED}
        found = await read(self.lend, "transactions", parameters, self._check(refusal))
        page = sorted((Listed(*row[1:]) for row in found if row[0]), key=lambda t: (t.last, t.xid))
        return page, [row[1] for row in found if not row[0]], len(page) < LISTED

    async def whole(self, group: Sequence[Listed]) -> list[Transaction]:
        """Transactions that are small enough to hold, in order."""
        parameters = {"xids": [str(t.xid) for t in group]}
        found = await read(self.lend, "portion", parameters, self._check(ResetReason.OVERRUN))
        await ensure_known(self.lend, self.catalog, found)
        if len(found) != sum(t.changes for t in group):
            raise PositionRefused(ResetReason.OVERRUN)
        return rows.transactions(found, self.catalog.generations)
