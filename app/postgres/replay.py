"""Reading again what lies between two positions, in the order of the transactions' last events.

Invariants
- The target is fixed before the first read.
- Cuts are between transactions in that order. So every position on the way contains the start and is contained in the
  target, nothing comes twice, and nothing is left out.
- No transaction of the database stays open between two portions.
- Memory is bounded whatever lies between: at most `LISTED` transactions are listed at once, and a transaction that is
  too large to hold is read in pages.
- Whether a transaction is too large depends on the transaction alone, so that every server gives a change the same id.
"""

from collections.abc import AsyncIterator, Iterator, Sequence

from app.model.errors import ResetReason
from app.model.position import Path, Snapshot
from app.postgres import event_rows as rows
from app.postgres.catalog import Catalog, Lend
from app.postgres.large import LargeReader
from app.postgres.pages import LARGE_CHANGES, Listed, Pages
from app.stream.ports import PORTION_BYTES
from app.stream.stretch import Stretch


async def stretches(lend: Lend, catalog: Catalog, since: Snapshot, upto: Snapshot) -> AsyncIterator[Stretch]:
    """See app.stream.ports.EventLog.stretches. Raises PositionRefused (EXPIRED, OVERRUN), DatabaseAway."""
    reader, start = Pages(lend, catalog, since), since
    async for group, end in _steps(reader, since, upto):
        if group and group[0].large:
            yield Stretch(start, end, None, 0, LargeReader(lend, catalog, group[0]))
        else:
            found = await reader.whole(group) if group else []
            yield Stretch(start, end, found, rows.size(found))
        start = end


async def _steps(reader: Pages, since: Snapshot, upto: Snapshot) -> AsyncIterator[tuple[list[Listed], Snapshot]]:
    """Groups of transactions in order, each with the position after it. `reader.since` is the position before it."""
    refusal = ResetReason.EXPIRED
    while True:
        page, behind, final = await reader.listed(since, upto, refusal)
        refusal = ResetReason.OVERRUN
        path = Path(since, upto, [*(t.xid for t in page), *behind])
        groups = list(grouped(page))
        for group in groups:
            reader.since = path.position
            for t in group:
                path.deliver(t.xid)
            yield group, upto if final and group is groups[-1] else path.position
        if final:
            if not groups:
                yield [], upto
            return
        since = reader.since = path.position


def grouped(page: Sequence[Listed]) -> Iterator[list[Listed]]:
    """Runs of transactions of about a portion each. A transaction that is too large to hold is alone."""
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
