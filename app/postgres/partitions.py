"""The partitions of the event log, as the leader has them emptied: by age and size, and at once for a purge.

The partitions follow each other in a circle. To *turn* is to empty the oldest, or to begin the next (realtime.turn).
While the fuse is open nothing turns: the leader has the event log cleared and the fuse closed (realtime.mind_fuse).

Invariants
- No event goes that was not published SETTLED_SECONDS ago, so that the other servers have read it too.
- Whatever the database refuses ends nothing: it is reported as what is in the way.
- That the partitions can't turn is reported when it has lasted for two looks, then rarely, and when it ends.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import psycopg

from app.model.observations import (
    EventLogState,
    EventLogTurnBlocked,
    EventLogTurned,
    EventLogTurnFree,
    Observer,
    QueueUsage,
)
from app.model.position import Snapshot
from app.postgres.connect import OURS, Connection, refusal
from app.postgres.queries import SQL

TURN_SECONDS: Final = 5.0  # how often to try, at most
SETTLED_SECONDS: Final = 2.0
REMIND_SECONDS: Final = 600.0  # how often it is reported again that the partitions can't turn
PATIENCE_SECONDS: Final = 60.0  # before that is reported where no session is in the way
ROOM_KB: Final = (256, 65536)  # at least, and at most
ROOM_TIMES: Final = 2
ROOM_FADES: Final = 2  # what was asked for before is asked for in this part again, for writers pause
STEPS_AT_ONCE: Final = 10  # of the fuse
PROGRESS: Final = frozenset({"opened", "cleared", "closed"})
UNDELIVERED: Final = "what would have to go has not been delivered for long enough"
FUSE: Final = "the fuse is open, and the disk of the database has no room"
TURNS_AT_ONCE: Final = 5  # of a purge: one begins the next partition, and four empty each of them


@dataclass(frozen=True, slots=True)
class Retention:
    """How far back the event log reaches: at least `keep`, unless it would take more than `bytes`. At `fuse` bytes it
    takes no more, and `ballast` bytes are held for a disk that is full."""

    keep: timedelta
    bytes: int
    fuse: int = 1 << 62
    ballast: int = 0


class Partitions:
    """Looks after the partitions for as long as a server leads."""

    def __init__(self, retention: Retention, published: Callable[[], Snapshot], observe: Observer) -> None:
        self._retention = retention
        self._pace = min(TURN_SECONDS, retention.keep.total_seconds() / 8)
        self._position = published
        self._observe = observe
        self._positions: deque[tuple[float, Snapshot]] = deque()
        self._turned = float("-inf")
        self._room = ROOM_KB[0]  # kilobytes that the disk has to have room for
        self._written: int | None = None  # how far the WAL was at the look before
        self._blocked_at: float | None = None
        self._told_at = float("-inf")
        self.blocked: EventLogTurnBlocked | None = None  # why the partitions can't turn, while they can't

    async def look(self, connection: Connection) -> None:
        """Turn the partitions where it is time to. The leader calls this once a beat.

        Raises what a broken connection raises.
        """
        now = time.monotonic()
        published = self._settled(now)
        row = await (await connection.execute(SQL["purging"])).fetchone()
        purging = row is not None and row[0]
        if purging or await self._at_risk(connection) or now - self._turned >= self._pace:
            self._turned = now
            await self._turn(connection, published, TURNS_AT_ONCE if purging else 1)

    async def _at_risk(self, connection: Connection) -> bool:
        """Whether the fuse is open or may have to be. The disk has to have room for twice what was written since
        the last look, within bounds, and less only by and by: so a disk that fills is seen before it is full."""
        parameters = {"fuse": self._retention.fuse, "kb": self._room}
        row = await (await connection.execute(SQL["fuse_at_risk"], parameters)).fetchone()
        if row is None:
            return False
        written = row[1] - self._written if self._written is not None else 0
        self._room = min(max(ROOM_KB[0], self._room // ROOM_FADES, ROOM_TIMES * written >> 10), ROOM_KB[1])
        self._written = row[1]
        return bool(row[0])

    def _settled(self, now: float) -> Snapshot | None:
        """Note what is published now. Returns what was SETTLED_SECONDS ago; None where it has not led for so long."""
        positions = self._positions
        positions.append((now, self._position()))
        while len(positions) > 1 and now - positions[1][0] >= SETTLED_SECONDS:
            positions.popleft()
        return positions[0][1] if now - positions[0][0] >= SETTLED_SECONDS else None

    async def _turn(self, connection: Connection, published: Snapshot | None, times: int) -> None:
        parameters = {
            "keep": self._retention.keep.total_seconds(),
            "bytes": self._retention.bytes,
            "published": str(published) if published is not None else None,
        }
        done = error = fuse = None
        try:
            fuse = await self._mind_fuse(connection)
            done = "blocked" if fuse is not None else None
            for _ in range(times if fuse is None else 0):
                row = await (await connection.execute(SQL["turn"], parameters)).fetchone()
                done = row[0] if row is not None else None
                if done == "emptied":
                    self._observe(EventLogTurned())
                if done not in ("emptied", "switched"):
                    break
            if done == "switched":
                await self._mind_fuse(connection)  # writers are to know how far this partition may grow
        except psycopg.Error as found:
            if connection.closed or isinstance(found, OURS):
                raise
            error = found
        row = await (await connection.execute(SQL["event_log_size"])).fetchone()
        assert row is not None
        excess = max(0, row[0] - self._retention.bytes)
        seconds = await self._report(connection, done == "blocked", excess, FUSE if fuse else UNDELIVERED, error)
        self._observe(EventLogState(row[0], row[1], excess, seconds))
        self._observe(QueueUsage(row[2]))

    async def _mind_fuse(self, connection: Connection) -> str | None:
        """Do what can be done now for the fuse to be whole. Returns what it waits for; None where it is whole."""
        parameters = {"fuse": self._retention.fuse, "ballast": self._retention.ballast, "kb": self._room}
        state: str | None = None
        for _ in range(STEPS_AT_ONCE):
            row = await (await connection.execute(SQL["mind_fuse"], parameters)).fetchone()
            state = row[0] if row is not None else None
            if state not in PROGRESS:
                break
        return None if state == "healed" else state

    async def _report(
        self, connection: Connection, blocked: bool, excess: int, otherwise: str, error: psycopg.Error | None
    ) -> float:
        """Report that the partitions can't turn, or can again. `otherwise` is why, where no session is in the way.
        Returns for how many seconds they could not."""
        now = time.monotonic()
        if not blocked and error is None:
            if self.blocked is not None:
                self._observe(EventLogTurnFree(self.blocked.seconds))
            self._blocked_at, self.blocked, self._told_at = None, None, float("-inf")
            return 0.0
        if self._blocked_at is None:
            self._blocked_at = now
            if error is None:
                return 0.0
        seconds = now - self._blocked_at
        if error is not None:
            found = [(f"PostgreSQL refuses: {refusal(error)}", _remedy(error))]
        else:
            found = await (await connection.execute(SQL["blockers"])).fetchall()
        if not found and seconds < PATIENCE_SECONDS:
            return seconds
        reason, remedy = found[0] if found else (otherwise, "")
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        self.blocked = EventLogTurnBlocked(seconds, excess, reason + more, remedy)
        if now - self._told_at >= REMIND_SECONDS:
            self._told_at = now
            self._observe(self.blocked)
        return seconds


def _remedy(error: psycopg.Error) -> str:
    return "make room on the disk of the database" if isinstance(error, psycopg.errors.DiskFull) else ""
