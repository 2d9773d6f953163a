"""Which log this is, and which positions it can honour.

An incarnation ends where the log may have lost a tail (a crash, a promotion) or moved (a restore, a copy). Invariants:
a strict position holds through every crash of one timeline, because all that it contains was durable when it was
minted; one that is not strict holds within its incarnation only; across timelines nothing holds.
"""

from dataclasses import dataclass

from app.errors import PositionRefused, ResetReason
from app.position import Position
from app.postgres.connect import Connection
from app.postgres.queries import SQL


@dataclass(frozen=True, slots=True)
class Incarnation:
    """A row of realtime.incarnation: `sysid`, `db` and `marker` say which log, `timeline` which of its histories."""

    n: int
    uuid: str
    sysid: int
    db: int
    marker: int
    timeline: int

    @property
    def tag(self) -> str:
        return self.uuid[:8]

    @property
    def lineage(self) -> tuple[int, int, int, int]:
        return self.sysid, self.db, self.marker, self.timeline

    def __str__(self) -> str:
        return f"{self.n}-{self.tag} (timeline {self.timeline})"


class Incarnations:
    """All incarnations of the log that are known, and the one that the newest connection found."""

    def __init__(self) -> None:
        self.known: dict[int, Incarnation] = {}
        self.current: Incarnation | None = None

    async def identify(self, connection: Connection) -> Incarnation:
        """The incarnation that `connection` reads; what every new connection does first."""
        async with connection.transaction():
            row = await (await connection.execute(SQL["incarnate"])).fetchone()
        assert row is not None
        if row[0] not in self.known:
            await self.refresh(connection)
        return self.known[row[0]]

    async def refresh(self, connection: Connection) -> None:
        rows = await (await connection.execute(SQL["incarnations"])).fetchall()
        self.known = {row[0]: Incarnation(*row) for row in rows}

    def behind(self, position: Position) -> bool:
        """Whether the position may be of an incarnation that began since the last look."""
        return position.incarnation > max(self.known, default=0)

    def adopt(self, found: Incarnation) -> bool:
        """Take over what a further connection found; False where that is another log or history."""
        if self.current is not None and found.lineage != self.current.lineage:
            return False
        if self.current is None or found.n > self.current.n:
            self.current = found
        return True

    def judge(self, position: Position) -> None:
        """Raises PositionRefused (FOREIGN, LOST) unless the current incarnation can honour the position."""
        minted = self.known.get(position.incarnation)
        current = self.current
        assert current is not None
        if minted is None or minted.tag != position.tag or minted.lineage[:3] != current.lineage[:3]:
            raise PositionRefused(ResetReason.FOREIGN)
        if minted.timeline != current.timeline or not (position.strict or minted.n == current.n):
            raise PositionRefused(ResetReason.LOST)
