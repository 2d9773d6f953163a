"""The ring of the log, as the leader turns it: in time, at once where a purge is asked for, and who is in its way.

Invariants: nothing goes that was not published SETTLED_SECONDS ago, so that the other servers have read it too; a log
that can't turn is reported when that has lasted for two looks, then rarely, and when it ends.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from app.model.observations import (
    EventLogState,
    EventLogTurnBlocked,
    EventLogTurned,
    EventLogTurnFree,
    Observer,
    QueueUsage,
)
from app.model.position import Snapshot
from app.postgres.connect import Connection
from app.postgres.queries import SQL

TURN_SECONDS: Final = 5.0
SETTLED_SECONDS: Final = 2.0
REMIND_SECONDS: Final = 600.0
PATIENCE_SECONDS: Final = 60.0  # where nobody is in the way: a new point to go by comes four times in this
TURNS_AT_ONCE: Final = 5  # of a purge: away from the present partition, and the four emptied


@dataclass(frozen=True, slots=True)
class Retention:
    """How far back the log reaches: at least `keep`, unless it would take more than `bytes`."""

    keep: timedelta
    bytes: int


class Partitions:
    """For one stretch of leading. `blocked` is why the ring can't turn, while it can't."""

    def __init__(self, retention: Retention, published: Callable[[], Snapshot], observe: Observer) -> None:
        self._retention = retention
        self._pace = min(TURN_SECONDS, retention.keep.total_seconds() / 8)
        self._position = published
        self._observe = observe
        self._positions: deque[tuple[float, Snapshot]] = deque()
        self._turned = float("-inf")
        self._blocked_at: float | None = None
        self._told_at = float("-inf")
        self.blocked: EventLogTurnBlocked | None = None

    async def look(self, connection: Connection) -> None:
        """Once a beat: turn where it is time to. Raises what a broken connection raises."""
        now = time.monotonic()
        published = self._published(now)
        row = await (await connection.execute(SQL["purging"])).fetchone()
        purging = row is not None and row[0]
        if purging or now - self._turned >= self._pace:
            self._turned = now
            await self._turn(connection, published, TURNS_AT_ONCE if purging else 1)

    def _published(self, now: float) -> Snapshot | None:
        """Where this server was SETTLED_SECONDS ago; None where it has not led for so long."""
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
        done = None
        for _ in range(times):
            row = await (await connection.execute(SQL["turn"], parameters)).fetchone()
            done = row[0] if row is not None else None
            if done == "emptied":
                self._observe(EventLogTurned())
            if done not in ("emptied", "switched"):
                break
        row = await (await connection.execute(SQL["log_state"])).fetchone()
        assert row is not None
        excess = max(0, row[0] - self._retention.bytes)
        seconds = await self._judge(connection, done == "blocked", excess)
        self._observe(EventLogState(row[0], row[1], excess, seconds))
        self._observe(QueueUsage(row[2]))

    async def _judge(self, connection: Connection, blocked: bool, excess: int) -> float:
        """How long the ring has been unable to turn; the report of it."""
        now = time.monotonic()
        if not blocked:
            if self.blocked is not None:
                self._observe(EventLogTurnFree(self.blocked.seconds))
            self._blocked_at, self.blocked, self._told_at = None, None, float("-inf")
            return 0.0
        if self._blocked_at is None:
            self._blocked_at = now
            return 0.0
        seconds = now - self._blocked_at
        found = await (await connection.execute(SQL["blockers"])).fetchall()
        if not found and seconds < PATIENCE_SECONDS:
            return seconds
        reason, remedy = found[0] if found else ("what would have to go has not been delivered for long enough", "")
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        self.blocked = EventLogTurnBlocked(seconds, excess, reason + more, remedy)
        if now - self._told_at >= REMIND_SECONDS:
            self._told_at = now
            self._observe(self.blocked)
        return seconds
