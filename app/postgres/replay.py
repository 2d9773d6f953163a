"""Reading again what lies between two positions, in the order of the transactions' last events.

Invariants
- The target is fixed before the first read. Cuts are between transactions in that order, so every position on the way
  contains the start and is contained in the target; nothing comes twice and nothing is left out.
- No transaction of the database stays open between two portions, and memory is bounded whatever lies between: at most
  `LISTED` transactions are listed at once, and what is too large to hold is read in pages.
- Which transactions are too large depends on the transaction alone, so that every server gives a change the same id.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

from app.change import Change, Portion, Transaction
from app.errors import ResetReason
from app.history import PORTION_BYTES
from app.position import Snapshot
from app.postgres.catalog import Catalog, Lend
from app.postgres.pages import LARGE_CHANGES, Listed, Pages


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
    reader = Pages(lend, catalog, since)
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
                async for piece in reader.large(group[0]):
                    for portion in split([piece], upto):
                        yield Portion(portion.transactions, None)
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
    """Portions of about PORTION_BYTES; only the last has the position. A statement is in one portion, unless it
    alone is more than that: of its rows those that leave a channel come first."""
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
    """Where at most so many changes end with a statement; 0 where they are all of one that goes on."""
    while 0 < most < len(changes) and changes[most - 1].number == changes[most].number:
        most -= 1
    return most


def _fitting(changes: Sequence[Change], room: int) -> int:
    for i, c in enumerate(changes):
        room -= c.size
        if room < 0:
            return i
    return len(changes)
