"""Which event log this is, and which positions it can honour.

An incarnation ends where the event log may have lost a tail (a crash, a promotion) or moved (a restore, a copy).

Invariants
- A strict position holds through every crash and promotion whose recovery reached as far as the WAL that was durable
  when the position was minted.
- A position that is not strict holds within its incarnation only.
- In another database no position holds.
"""

from dataclasses import dataclass
from typing import Final

import psycopg

from app.model.errors import PositionRefused, ResetReason
from app.model.position import Position
from app.postgres.connect import Connection
from app.postgres.queries import SQL

FIRST_TIMELINE: Final = 1
PAGE: Final = 8192
HEADERS: Final = (24, 40)  # bytes of the header of a page of WAL, and of the first page of a segment


@dataclass(frozen=True, slots=True)
class Incarnation:
    """A row of realtime.incarnation.

    `sysid`, `db` and `marker` say which event log it is, and `timeline` which of its histories. `recovery_end` is the
    WAL position where the recovery ended that it began with (None where it began without one).
    """

    n: int
    uuid: str
    sysid: int
    db: int
    marker: int
    timeline: int
    recovery_end: int | None = None

    @property
    def tag(self) -> str:
        return self.uuid[:8]

    @property
    def lineage(self) -> tuple[int, int, int, int]:
        """The same in all incarnations of one event log and one history."""
        return self.sysid, self.db, self.marker, self.timeline

    def __str__(self) -> str:
        return f"{self.n}-{self.tag} (timeline {self.timeline})"


class Incarnations:
    """All incarnations of the event log that are known, and the one that the newest session found."""

    def __init__(self) -> None:
        self.known: dict[int, Incarnation] = {}
        self.current: Incarnation | None = None
        self._left: dict[int, int] = {}  # by timeline: where it ended, of those that led to the present one

    async def identify(self, connection: Connection) -> Incarnation:
        """The incarnation that `connection` reads. Every new session asks this first."""
        async with connection.transaction():
            row = await (await connection.execute(SQL["incarnate"])).fetchone()
        assert row is not None
        known = self.known.get(row[0])
        if known is None or known.uuid != row[1]:  # a dump restored twice over its database begins its number again
            await self.refresh(connection)
        return self.known[row[0]]

    async def refresh(self, connection: Connection) -> None:
        """Load all incarnations and timelines."""
        rows = await (await connection.execute(SQL["incarnations"])).fetchall()
        self.known = {row[0]: Incarnation(*row) for row in rows}
        if max((i.timeline for i in self.known.values()), default=FIRST_TIMELINE) > FIRST_TIMELINE:
            self._left = await _timelines(connection)

    def behind(self, position: Position) -> bool:
        """Whether the position may be of an incarnation that began since the last look."""
        return position.incarnation > max(self.known, default=0)

    def adopt(self, found: Incarnation) -> bool:
        """Take over what a further session found. False where that is another event log or history."""
        if self.current is not None and found.lineage != self.current.lineage:
            return False
        if self.current is None or found.n > self.current.n:
            self.current = found
        return True

    def check_honours(self, position: Position) -> None:
        """Raises PositionRefused (FOREIGN, LOST) unless the current incarnation can honour the position."""
        minted = self.known.get(position.incarnation)
        if minted is None or minted.tag != position.tag:
            raise PositionRefused(ResetReason.FOREIGN)
        assert self.current is not None
        self.check_carries(minted, self.current, position.lsn if position.strict else None)

    def check_carries(self, minted: Incarnation, now: Incarnation, lsn: int | None) -> None:
        """Raises PositionRefused unless all that was durable in `minted` at `lsn` (None: unknown) is in `now`."""
        if minted.lineage[:3] != now.lineage[:3]:
            raise PositionRefused(ResetReason.FOREIGN)
        if minted.n == now.n:
            return
        if lsn is None or not self._reaches(minted, now, _end_of_record(lsn)):
            raise PositionRefused(ResetReason.LOST)

    def _reaches(self, minted: Incarnation, now: Incarnation, lsn: int) -> bool:
        if minted.timeline != now.timeline and lsn > self._left.get(minted.timeline, -1):
            return False
        # The first recovery after it decides: a copy of the data that was started beside the original recovered less.
        later = (i for n, i in sorted(self.known.items()) if n > minted.n and i.lineage == minted.lineage)
        next_ = next(later, None)
        return next_ is None or next_.recovery_end is None or lsn <= next_.recovery_end


async def _timelines(connection: Connection) -> dict[int, int]:
    """Where each earlier timeline ended. Empty where this role, or the function's owner, may not know."""
    try:
        return dict(await (await connection.execute(SQL["timelines"])).fetchall())
    except (psycopg.errors.UndefinedFunction, psycopg.errors.InsufficientPrivilege):
        return {}


def _end_of_record(lsn: int) -> int:
    """Where the record before `lsn` ends.

    PostgreSQL says where the next record goes. On a fresh page that is after the page's header, which recovery does not
    reach where no further record was written.
    """
    return lsn - lsn % PAGE if lsn % PAGE in HEADERS else lsn
