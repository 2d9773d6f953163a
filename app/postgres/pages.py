"""The reads of a replay: lists of transactions, whole transactions, and pieces of those that are too large to hold.

Invariants
- Every statement checks in its own snapshot that the event log still reaches back to what has been delivered.
- Every read checks that it found as much as was listed. Rows that went missing are a refusal, never a silent hole.
"""

import re
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.core.control import Control
from app.model.change import Change, Transaction
from app.model.errors import PositionRefused, ResetReason
from app.model.position import Snapshot
from app.postgres import event_rows as rows
from app.postgres.catalog import Catalog, Lend
from app.postgres.queries import SQL

LISTED: Final = 50_000  # transactions that are listed at once
LARGE_CHANGES: Final = 10_000  # more in one transaction, or in one read, is never held at once
LARGE_BYTES: Final = 8 << 20  # neither is more than this, as stored
PAGE_CHANGES: Final = 2_000  # they keep the event loop busy for some ten milliseconds
PAGE_BYTES: Final = 4 << 20

Row = tuple[Any, ...]
_FIRST: Final = re.compile(r"\[(\d+)")


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


def in_runs(page: Sequence[Row], ids: str) -> Sequence[Row]:
    """Put the rows of a piece, which are in the order of their ids, into the order of these runs of ids."""
    firsts = [int(first) for first in _FIRST.findall(ids)]
    if len(firsts) < 2:
        return page
    turns = sorted(range(len(firsts)), key=firsts.__getitem__)
    firsts.sort()
    return sorted(page, key=lambda row: turns[bisect_right(firsts, row[1 + rows.ID]) - 1])


class Pages:
    """The reads of one replay. `since` is what has been delivered, and its caller moves it on."""

    def __init__(self, lend: Lend, catalog: Catalog, since: Snapshot) -> None:
        self._lend = lend
        self._catalog = catalog
        self.since = since

    async def _rows(self, query: str, parameters: dict[str, Any], refusal: ResetReason) -> list[Row]:
        """The rows of a statement without their first column. That is the floor, which is checked.

        Raises PositionRefused(refusal) where the event log no longer reaches back to `since`.
        """
        async with self._lend() as connection:
            cursor = await connection.cursor(binary=True).execute(SQL[query], parameters)
            found = await cursor.fetchall()
            if not self.since.contains(Snapshot.parse(found[0][0])):
                raise PositionRefused(refusal)
            return [row[1:] for row in found if row[1] is not None]

    async def _events(self, query: str, parameters: dict[str, Any]) -> list[Row]:
        """The events of a statement, when the generations that they name are loaded."""
        found = await self._rows(query, parameters, ResetReason.OVERRUN)
        unknown = [(row[-rows.WIDTH + rows.GEN], row[-rows.WIDTH + rows.OP]) for row in found]
        if self._catalog.lacks(unknown):
            async with self._lend() as connection:
                await self._catalog.ensure(connection, unknown)
        return found

    async def listed(
        self, since: Snapshot, upto: Snapshot, refusal: ResetReason
    ) -> tuple[list[Listed], list[int], bool]:
        """The next transactions in order, the ids of those that come later although they are lower, and whether these
        transactions are all that are left."""
        lows, highs = ranges(since, upto)
        parameters = {"lows": lows, "highs": highs, "xmax": str(since.xmax), "limit": LISTED}
        found = await self._rows("transactions", parameters, refusal)
        page = sorted((Listed(*row[1:]) for row in found if row[0]), key=lambda t: (t.last, t.xid))
        return page, [row[1] for row in found if not row[0]], len(page) < LISTED

    async def whole(self, group: Sequence[Listed]) -> list[Transaction]:
        """Transactions that are small enough to hold, in order."""
        found = await self._events("portion", {"xids": [str(t.xid) for t in group]})
        if len(found) != sum(t.changes for t in group):
            raise PositionRefused(ResetReason.OVERRUN)
        return rows.transactions(found, self._catalog.generations)

    async def large(self, listed: Listed) -> AsyncIterator[Transaction]:
        """The pieces of a transaction that is too large to hold, in order.

        The order is that of app.core.order as far as it needs no more than a row and its query. Chains of old and new
        values are not checked. Of what one query did to a table the deletes come first, the inserts last.
        """
        xid = {"xid": str(listed.xid)}
        limits = {"rows": PAGE_CHANGES, "bytes": PAGE_BYTES}
        control = Control()
        for low, high, count, ids, begins, ends in await self._rows("pages", xid | limits, ResetReason.OVERRUN):
            places = {"low": low, "high": high, "ids": ids}
            places |= dict(zip(("run", "first", "first_phase", "first_n"), begins, strict=True))
            places |= dict(zip(("run", "last", "last_phase", "last_n"), ends, strict=True))
            page = await self._events("page", xid | places)
            if len(page) != count:
                raise PositionRefused(ResetReason.OVERRUN)
            changes, schema = control.take_out([self._change(row) for row in in_runs(page, ids)])
            yield Transaction(listed.xid, listed.last, changes, schema)

    def _change(self, row: Row) -> Change:
        """The change of a row. A change of a key is two rows: in phase 0 the old key goes, before the other rows of the
        statement, and in phase 2 the new one comes, after them."""
        phase, event = row[0], list(row[-rows.WIDTH :])
        if phase == 0:
            event[rows.OP], event[rows.NEW_VALUES], event[rows.NEW] = "D", None, None
        elif phase == 2:
            event[rows.OP], event[rows.OLD_VALUES], event[rows.OLD] = "I", None, None
        return rows.change(event, self._catalog.generations, {0: "d", 1: "", 2: "i"}[phase])
