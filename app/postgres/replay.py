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

from app.model.change import Change, Portion, Transaction
from app.model.errors import ResetReason
from app.model.position import Path, Snapshot
from app.postgres import event_rows as rows
from app.postgres.catalog import Catalog, Lend
from app.postgres.pages import LARGE_CHANGES, Listed, Pages
from app.stream.ports import PORTION_BYTES
from app.stream.stretch import Stretch


async def replay(lend: Lend, catalog: Catalog, since: Snapshot, upto: Snapshot) -> AsyncIterator[Portion]:
    """See app.stream.ports.EventLog.replay. Raises PositionRefused (EXPIRED, OVERRUN), DatabaseAway."""
    reader = Pages(lend, catalog, since)
    async for group, end in _steps(reader, since, upto):
        found: list[Transaction] = []
        if _large(group):
            async for piece in reader.large(group[0]):
                for portion in split([piece], end):
                    yield Portion(portion.transactions, None)
        elif group:
            found = await reader.whole(group)
        for portion in split(found, end):
            yield portion


async def stretches(lend: Lend, catalog: Catalog, since: Snapshot, upto: Snapshot) -> AsyncIterator[Stretch]:
    """See app.stream.ports.EventLog.stretches. Raises as `replay`."""
    reader, start = Pages(lend, catalog, since), since
    async for group, end in _steps(reader, since, upto):
        found = None if _large(group) else await reader.whole(group) if group else []
        yield Stretch(start, end, found, rows.size(found or ()))
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


def _large(group: Sequence[Listed]) -> bool:
    """Whether the group is one transaction that is too large to hold."""
    return bool(group) and group[0].large


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


def split(found: list[Transaction], upto: Snapshot) -> Iterator[Portion]:
    """Portions of about PORTION_BYTES. Only the last has the position.

    A statement is in one portion, unless it alone is more than that. Then its rows are cut in their order, in which
    those that leave a channel come first.
    """
    held: list[Transaction] = []
    size = 0
    for t in found:
        rest = t.changes
        while size + sum(c.size for c in rest) > PORTION_BYTES and (held or len(rest) > 1):
            cut = _fitting(rest, PORTION_BYTES - size)
            cut = _between_statements(rest, cut) or (0 if held else max(cut, 1))
            if cut:
                held.append(Transaction(t.xid, t.last, rest[:cut]))
                rest = rest[cut:]
            yield Portion(held, None)
            held, size = [], 0
        held.append(Transaction(t.xid, t.last, rest, t.schema))
        size += sum(c.size for c in rest)
    yield Portion(held, upto)


def _between_statements(changes: Sequence[Change], most: int) -> int:
    """How many changes, at most so many, end with a statement. 0 where all of them belong to one that goes on."""
    while 0 < most < len(changes) and changes[most - 1].number == changes[most].number:
        most -= 1
    return most


def _fitting(changes: Sequence[Change], room: int) -> int:
    """How many of the changes fit into `room` bytes."""
    for i, c in enumerate(changes):
        room -= c.size
        if room < 0:
            return i
    return len(changes)
