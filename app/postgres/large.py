"""Reading one transaction that is too large to hold, in pages.

Invariants
- The transaction is sorted once, by the statement that says where each page lies.
- Every statement checks in its own snapshot that nothing of the transaction has left the event log, and every page that
  it found as much as was announced.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

from app.core.control import Control
from app.model.change import Change, Table, Transaction
from app.model.channel import Topic
from app.model.errors import PositionRefused, ResetReason
from app.model.position import Snapshot
from app.postgres import event_rows as rows
from app.postgres.catalog import Catalog, Lend
from app.postgres.pages import Listed, Row, ensure_known, read

PAGE_CHANGES: Final = 1_000  # they keep the event loop busy for some five milliseconds
PAGE_BYTES: Final = 1 << 20

_FIRST: Final = re.compile(r"\[(\d+)")


def in_runs(page: Sequence[Row], ids: str) -> Sequence[Row]:
    """Put the rows of a page, which are in the order of their ids, into the order of these runs of ids."""
    firsts = [int(first) for first in _FIRST.findall(ids)]
    if len(firsts) < 2:
        return page
    turns = sorted(range(len(firsts)), key=firsts.__getitem__)
    firsts.sort()
    return sorted(page, key=lambda row: turns[bisect_right(firsts, row[1 + rows.ID]) - 1])


class LargeReader:
    """Implements app.stream.large.PageReader.

    The order is that of app.core.order as far as it needs no more than a row and its query. Of what one query did to a
    table the deletes come first, the inserts last. Where chains of old and new values contradict that, its changes
    are left out, and the first page says that its channels have to be reset.
    """

    def __init__(self, lend: Lend, catalog: Catalog, listed: Listed) -> None:
        self.xid = listed.xid
        self._lend = lend
        self._catalog = catalog
        self._listed = listed
        self._pages: list[Row] | None = None
        self._contradicts: dict[Topic, Table] = {}  # tables whose changes are left out
        self._truncated: dict[int, int | None] = {}  # by page: the table that the end of the page before emptied

    def _check(self, floor: Snapshot) -> None:
        if floor.sees(self.xid):
            raise PositionRefused(ResetReason.OVERRUN)

    async def _read(self, query: str, **parameters: Any) -> list[Row]:
        return await read(self._lend, query, {"xid": str(self.xid), **parameters}, self._check)

    async def topics(self) -> AbstractSet[Topic]:
        return {table.relid for table in await self._tables()}

    async def _tables(self) -> list[Table]:
        gens = [row[0] for row in await self._read("large_tables")]
        async with self._lend() as connection:
            await self._catalog.ensure(connection, [(gen, "") for gen in gens])
        tables = self._catalog.generations
        strange = any(gen not in tables for gen in gens)  # which may be any table's
        return [table for gen, table in tables.items() if strange or gen in gens]

    async def count(self) -> int:
        self._pages = await self._read("pages", rows=PAGE_CHANGES, bytes=PAGE_BYTES)
        if sum(row[2] for row in self._pages) < self._listed.changes:
            raise PositionRefused(ResetReason.OVERRUN)
        contradicts = self._pages[0][-1] if self._pages else None
        if contradicts:
            self._contradicts = {table.relid: table for table in await self._tables() if table.relid in contradicts}
        return len(self._pages)

    async def page(self, n: int) -> Transaction:
        assert self._pages is not None
        low, high, count, ids, begins, ends, _ = self._pages[n]
        places = {"low": low, "high": high, "ids": ids}
        places |= dict(zip(("run", "first", "first_phase", "first_n"), begins, strict=True))
        places |= dict(zip(("run", "last", "last_phase", "last_n"), ends, strict=True))
        found = await self._read("page", **places)
        await ensure_known(self._lend, self._catalog, found)
        if len(found) != count:
            raise PositionRefused(ResetReason.OVERRUN)
        control = Control(self._truncated.get(n))
        try:
            changes, schema = control.take_out([self._change(row) for row in in_runs(found, ids)])
        except Exception as error:  # noqa: BLE001 - whatever it is, what follows has to be read
            return rows.unreadable(found, self._catalog.generations, error)
        self._truncated[n + 1] = control.truncated
        return self._told(n, Transaction(self.xid, self._listed.last, changes, schema))

    def _told(self, n: int, page: Transaction) -> Transaction:
        if self._contradicts:
            page.changes = [change for change in page.changes if change.table.relid not in self._contradicts]
            if n == 0:
                page.schema += self._contradicts.values()
                page.unreadable = "the order of its changes of a row can't be told, and it is too large to be held"
        return page

    def _change(self, row: Row) -> Change:
        """The change of a row. A change of a key is two rows: in phase 0 the old key goes, before the other rows of the
        statement, and in phase 2 the new one comes, after them."""
        phase = row[0]
        if phase == 1:
            return rows.change(row[-rows.WIDTH :], self._catalog.generations)
        event = list(row[-rows.WIDTH :])
        if phase == 0:
            event[rows.OP], event[rows.NEW_VALUES], event[rows.NEW] = "D", None, None
        else:
            event[rows.OP], event[rows.OLD_VALUES], event[rows.OLD] = "I", None, None
        return rows.change(event, self._catalog.generations, "i" if phase else "d")
