"""The reads of a replay: lists of transactions, whole transactions, and pieces of those that are too large to hold.

Invariants: every statement checks in its own snapshot that the log still reaches back to what has been delivered, and
that it found as much as was listed: rows that went missing are a refusal, never a silent hole.
"""

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

LISTED: Final = 50_000  # transactions
LARGE_CHANGES: Final = 10_000  # more in one transaction, or in one read, is never held at once
LARGE_BYTES: Final = 8 << 20  # as stored
PAGE_CHANGES: Final = 2_000  # some ten milliseconds of the event loop
PAGE_BYTES: Final = 4 << 20
EVERYWHERE: Final = ("(0,0)", "(4294967294,65535)")
KEY: Final = ("mark", "unmarked", "level", "phase", "id", "n")

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """A transaction to replay: its number of changes, their bytes as stored, and whether any bears a mark."""

    xid: int
    last: int
    changes: int
    bytes: int
    marked: bool

    @property
    def large(self) -> bool:
        return self.changes > LARGE_CHANGES or self.bytes > LARGE_BYTES


def ranges(since: Snapshot, upto: Snapshot) -> tuple[list[str], list[str]]:
    """The half-open ranges of transaction ids between two snapshots, as parameters."""
    found = since.missing_from(upto)
    return [str(low) for low, _ in found], [str(high) for _, high in found]


class Pages:
    def __init__(self, lend: Lend, catalog: Catalog, since: Snapshot) -> None:
        self._lend = lend
        self._catalog = catalog
        self.since = since  # what has been delivered

    async def _rows(self, query: str, parameters: dict[str, Any], refusal: ResetReason) -> list[Row]:
        """The rows of a query without the floor in their first column, which is checked."""
        async with self._lend() as connection:
            cursor = await connection.cursor(binary=True).execute(SQL[query], parameters)
            found = await cursor.fetchall()
            if not self.since.contains(Snapshot.parse(found[0][0])):
                raise PositionRefused(refusal)
            return [row[1:] for row in found if row[1] is not None]

    async def _events(self, query: str, parameters: dict[str, Any]) -> list[Row]:
        found = await self._rows(query, parameters, ResetReason.OVERRUN)
        unknown = [(row[-rows.WIDTH + rows.GEN], row[-rows.WIDTH + rows.OP]) for row in found]
        if self._catalog.lacks(unknown):
            async with self._lend() as connection:
                await self._catalog.ensure(connection, unknown)
        return found

    async def listed(
        self, since: Snapshot, upto: Snapshot, refusal: ResetReason
    ) -> tuple[list[Listed], list[int], bool]:
        """The next transactions in order, those that come later although they are lower, and whether that is all."""
        lows, highs = ranges(since, upto)
        parameters = {"lows": lows, "highs": highs, "xmax": str(since.xmax), "limit": LISTED}
        found = await self._rows("transactions", parameters, refusal)
        page = sorted((Listed(*row[1:]) for row in found if row[0]), key=lambda t: (t.last, t.xid))
        return page, [row[1] for row in found if not row[0]], len(page) < LISTED

    async def whole(self, group: Sequence[Listed]) -> list[Transaction]:
        found = await self._events("portion", {"xids": [str(t.xid) for t in group]})
        if len(found) != sum(t.changes for t in group):
            raise PositionRefused(ResetReason.OVERRUN)
        return rows.transactions(found, self._catalog.generations)

    async def large(self, listed: Listed) -> AsyncIterator[Transaction]:
        """The pieces of a transaction that is too large to hold, in order.

        The order is that of app.core.order as far as it needs no more than a row and its statement: marks and key
        changes count, chains of old and new are not checked.
        """
        key: dict[str, Any] = dict(zip(KEY, (-1, False, 0, -1, 0, -1), strict=True))
        whole = {"xid": str(listed.xid), "marked": listed.marked}
        control = Control()
        for low, high, rest in await self._rows("pages", whole | {"rows": PAGE_CHANGES}, ResetReason.OVERRUN):
            # A mark may come from a row far away: what bears marks is looked for everywhere.
            places = dict(zip(("low", "high"), EVERYWHERE if listed.marked else (low, high), strict=True))
            missing = rest
            while missing > 0:
                page = await self._events("page", whole | places | key | {"rows": missing, "bytes": PAGE_BYTES})
                if not page:
                    raise PositionRefused(ResetReason.OVERRUN)
                missing -= len(page)
                key = dict(zip(KEY, page[-1], strict=False))
                changes, schema = control.take_out([self._change(row) for row in page])
                yield Transaction(listed.xid, listed.last, changes, schema)

    def _change(self, row: Row) -> Change:
        phase, event = row[3], list(row[-rows.WIDTH :])
        if phase == 0:  # the row's old key goes before, its new one comes after the statement's other rows
            event[rows.OP], event[rows.NEW_VALUES], event[rows.NEW] = "D", None, None
        elif phase == 2:
            event[rows.OP], event[rows.OLD_VALUES], event[rows.OLD] = "I", None, None
        return rows.change(event, self._catalog.generations, {0: "d", 1: "", 2: "i"}[phase])
