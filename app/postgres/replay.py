"""Reading again what lies between two positions, in the order of the transactions' last events.

Invariants
- The target is fixed before the first read. Cuts are between transactions in that order, so every position on the way
  contains the start and is contained in the target; nothing comes twice and nothing is left out.
- No transaction of the database stays open between two portions, and memory is bounded whatever lies between: at most
  `LISTED` transactions are listed at once, and what is too large to hold is read in pages.
- Which transactions are too large depends on the transaction alone, so that every server gives a change the same id.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.change import Change, Portion, Table, Transaction
from app.errors import PositionRefused, ResetReason
from app.history import PORTION_BYTES
from app.position import Snapshot
from app.postgres import rows
from app.postgres.catalog import Catalog, Lend
from app.postgres.queries import SQL

LISTED: Final = 50_000  # transactions
LARGE_CHANGES: Final = 10_000  # more in one transaction, or in one read, is never held at once
LARGE_BYTES: Final = 8 << 20  # as stored
PAGE_CHANGES: Final = 10_000
PAGE_BYTES: Final = 4 << 20


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


class Path:
    """The positions on the way from `since` to `upto`, as transactions are delivered in their order."""

    def __init__(self, since: Snapshot, upto: Snapshot, page: Sequence[Listed], behind: Iterable[int]) -> None:
        """`behind` are transactions that come after the page although they are lower than its highest, or `since`'s."""
        self._upto = upto
        self._xmax = since.xmax
        self._delivered: set[int] = set()
        self._ahead = sorted([t.xid for t in page] + list(behind), reverse=True)
        self._holes: set[int] = set()
        self._pass()

    def deliver(self, xid: int) -> None:
        self._delivered.add(xid)
        self._holes.discard(xid)
        self._xmax = max(self._xmax, xid + 1)
        self._pass()

    def _pass(self) -> None:
        while self._ahead and self._ahead[-1] < self._xmax:
            xid = self._ahead.pop()
            if xid in self._delivered:
                self._delivered.discard(xid)
            else:
                self._holes.add(xid)

    @property
    def position(self) -> Snapshot:
        open_ = frozenset(x for x in self._upto.xip if x < self._xmax)
        return Snapshot(self._xmax, open_ | self._holes)


async def replay(lend: Lend, catalog: Catalog, since: Snapshot, upto: Snapshot) -> AsyncIterator[Portion]:
    """See app.history.Log.replay. Raises PositionRefused (EXPIRED, OVERRUN), DatabaseAway."""
    reader = _Reader(lend, catalog, since)
    refusal = ResetReason.EXPIRED
    while True:
        page, behind, final = await reader.listed(since, upto, refusal)
        refusal = ResetReason.OVERRUN
        path = Path(since, upto, page, behind)
        groups = list(grouped(page))
        for group in groups:
            last = final and group is groups[-1]
            reader.since = path.position
            if group[0].large:
                async for part in reader.large(group[0]):
                    yield Portion([part], None)
                found: list[Transaction] = []
            else:
                found = await reader.whole(group)
            for t in group:
                path.deliver(t.xid)
            for portion in split(found, upto if last else path.position):
                yield portion
        if final:
            if not groups:
                yield Portion([], upto)
            return
        since = path.position


def ranges(since: Snapshot, upto: Snapshot) -> tuple[list[str], list[str]]:
    """The half-open ranges of transaction ids between two snapshots, as parameters."""
    found = since.missing_from(upto)
    return [str(low) for low, _ in found], [str(high) for _, high in found]


def grouped(page: Sequence[Listed]) -> Iterator[list[Listed]]:
    """Runs of transactions of about a portion; a large one is alone."""
    group: list[Listed] = []
    size = changes = 0
    for t in page:
        if group and (t.large or group[0].large or size + t.bytes > PORTION_BYTES or changes > LARGE_CHANGES):
            yield group
            group, size, changes = [], 0, 0
        group.append(t)
        size, changes = size + t.bytes + 200 * t.changes, changes + t.changes
    if group:
        yield group


def split(found: list[Transaction], upto: Snapshot) -> Iterator[Portion]:
    """Portions of about PORTION_BYTES; only the last has the position."""
    held: list[Transaction] = []
    size = 0
    for t in found:
        rest = t.changes
        while size + sum(c.size for c in rest) > PORTION_BYTES and (held or len(rest) > 1):
            cut = max(_fitting(rest, PORTION_BYTES - size), 0 if held else 1)
            if cut:
                held.append(Transaction(t.xid, t.last, rest[:cut]))
                rest = rest[cut:]
            yield Portion(held, None)
            held, size = [], 0
        held.append(Transaction(t.xid, t.last, rest, t.schema))
        size += sum(c.size for c in rest)
    yield Portion(held, upto)


def _fitting(changes: Sequence[Change], room: int) -> int:
    for i, c in enumerate(changes):
        room -= c.size
        if room < 0:
            return i
    return len(changes)


class _Reader:
    def __init__(self, lend: Lend, catalog: Catalog, since: Snapshot) -> None:
        self._lend = lend
        self._catalog = catalog
        self.since = since  # what has been delivered: the log must reach back to it

    async def _rows(
        self, query: str, parameters: dict[str, Any], refusal: ResetReason = ResetReason.OVERRUN
    ) -> list[tuple[Any, ...]]:
        """The rows of a query without the floor in their first column, which is checked."""
        async with self._lend() as connection:
            cursor = await connection.cursor(binary=True).execute(SQL[query], parameters)
            found = await cursor.fetchall()
            if not self.since.contains(Snapshot.parse(found[0][0])):
                raise PositionRefused(refusal)
            kept = [row[1:] for row in found if row[1] is not None]
            if query != "transactions":
                events = (row[-rows.WIDTH :] for row in kept)
                await self._catalog.ensure(connection, ((e[rows.GEN], e[rows.OP]) for e in events))
        return kept

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
        found = await self._rows("portion", {"xids": [str(t.xid) for t in group]})
        return rows.transactions(found, self._catalog.generations)

    async def large(self, listed: Listed) -> AsyncIterator[Transaction]:
        """The pieces of a transaction that is too large to hold. Their order is that of app.order as far as it needs no
        more than a row and its statement: marks and key changes count, chains of old and new are not checked."""
        key: dict[str, Any] = {"mark": -1, "unmarked": False, "level": 0, "id": 0, "phase": -1, "n": -1}
        limits = {"xid": str(listed.xid), "marked": listed.marked, "rows": PAGE_CHANGES, "bytes": PAGE_BYTES}
        truncated: int | None = None
        while page := await self._rows("page", key | limits):
            changes: list[Change] = []
            schema: dict[int, Table] = {}
            for row in page:
                change = self._piece(row)
                emptied = change.op == "R" and truncated == change.table.relid
                truncated = change.table.relid if change.op == "T" or emptied else None
                if change.op in "GR":
                    schema |= {} if emptied else {change.table.gen: change.table}
                else:
                    changes.append(change)
            for portion in split([Transaction(listed.xid, listed.last, changes, list(schema.values()))], self.since):
                yield portion.transactions[0]
            key = dict(zip(("mark", "unmarked", "level", "phase", "id", "n"), page[-1][:6], strict=True))

    def _piece(self, row: Sequence[Any]) -> Change:
        phase, event = row[3], list(row[4:])
        if phase == 0:  # the row's old key goes before, its new one comes after the statement's other rows
            event[rows.OP], event[8], event[10] = "D", None, None
        elif phase == 2:
            event[rows.OP], event[9], event[11] = "I", None, None
        return rows.change(event, self._catalog.generations, {0: "d", 1: "", 2: "i"}[phase])
