"""The floor of the event log: what a position must contain for the event log to reach back to it.

Invariants
- The answer is at most FLOOR_SECONDS old, and many who ask at once share one query.
- Whoever reads the floor tells it here (`learn`), so that who has to know of a new one learns of it at once.
"""

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from app.model.errors import DatabaseAway, PositionRefused, ResetReason
from app.model.position import Snapshot
from app.postgres.catalog import Lend
from app.postgres.connect import REPLACED
from app.postgres.fuse import Fuse
from app.postgres.queries import SQL
from app.stream.ports import EventLogListener

FLOOR_SECONDS: Final = 1.0
WATCH_SECONDS: Final = 5.0


def check_reaches(floor: Snapshot, since: Snapshot) -> None:
    """Raises PositionRefused (EXPIRED) where an event log with this floor does not reach back to `since`."""
    if not since.contains(floor):
        raise PositionRefused(ResetReason.EXPIRED)


class Floor:
    def __init__(self, lend: Lend, listeners: Iterable[EventLogListener], fuse: Fuse) -> None:
        """`listeners` are told when the floor is another than before. Further ones may join them later."""
        self._lend = lend
        self._fuse = fuse
        self._listeners = listeners
        self._asking = asyncio.Lock()
        self._last: tuple[float, Snapshot] | None = None  # when it was read, and what was read

    async def ask(self) -> Snapshot:
        """The floor, at most FLOOR_SECONDS old. Raises DatabaseAway."""
        async with self._asking:
            if self._last is not None and time.monotonic() - self._last[0] <= FLOOR_SECONDS:
                return self._last[1]
            async with self._lend() as connection:
                row = await (await connection.execute(SQL["floor"])).fetchone()
            if row is None:
                raise DatabaseAway(REPLACED)
            self._fuse.hear(row[1])
            floor = Snapshot.parse(row[0])
            self.learn(floor)
            return floor

    def learn(self, floor: Snapshot) -> None:
        """The floor was just read."""
        before = self._last
        self._last = (time.monotonic(), floor)
        if before is None or before[1] != floor:
            for listener in self._listeners:
                listener.forget(floor)

    def forget(self) -> None:
        """Give a fresh answer to the next who asks."""
        self._last = None

    async def watch(self) -> None:
        """Ask every WATCH_SECONDS, for ever: an idle server has to learn of a purge too."""
        while True:
            with suppress(DatabaseAway):
                await self.ask()
            await asyncio.sleep(WATCH_SECONDS)
