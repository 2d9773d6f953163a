"""The event log of one primary, as the stream sees it: its parts put together behind one port.

`reading` finds what is new, on the `live` connection. Everything else is read on `sessions` that are lent. `floor`
knows how far back the event log reaches.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.model.change import Batch
from app.model.errors import PositionRefused, ResetReason
from app.model.observations import FuseOpened, Observer
from app.model.position import Position, Snapshot
from app.postgres import replay
from app.postgres.catalog import Catalog
from app.postgres.connect import Connection
from app.postgres.floor import Floor, check_reaches
from app.postgres.fuse import Fuse
from app.postgres.live import LiveConnection
from app.postgres.reading import Reading
from app.postgres.row_reader import TableReader, Wanted
from app.postgres.sessions import Sessions
from app.stream.ports import EventLogListener, LogHead, Rows
from app.stream.stretch import Stretch


class PostgresEventLog:
    """Implements app.stream.ports.EventLog and RowReader. The docstrings there say more."""

    def __init__(
        self,
        url: str,
        observe: Observer,
        *,
        rows_max: int = 100_000,
        rows_bytes: int = 64 << 20,
        rows_budget: int = 256 << 20,
    ) -> None:
        """`rows_max` and `rows_bytes` bound one read of tables' rows, `rows_budget` all that are held in memory."""
        self._listeners: list[EventLogListener] = []
        self.catalog = Catalog(self.reader)
        self.sessions = Sessions(url, self.catalog)
        self._fuse = Fuse(observe)
        self._floor = Floor(self.reader, self._listeners, self._fuse)
        self._live = LiveConnection(self.sessions, self._floor, self._listeners, observe)
        self._reading = Reading(self._live, self.catalog, self._floor, self._fuse)
        self._tables = TableReader(self.sessions, rows_max, rows_bytes, rows_budget)
        self._refreshing = asyncio.Lock()

    def listen(self, listener: EventLogListener) -> None:
        """Tell `listener` of another floor, and of another incarnation that honours the positions of the one before."""
        self._listeners.append(listener)

    @property
    def connected(self) -> bool:
        """Whether the live connection stands."""
        return self._live.connected

    @property
    def skipping(self) -> bool:
        """Whether writers leave changes out now."""
        return self._fuse.skipping

    @property
    def fuse(self) -> FuseOpened | None:
        """Why they do."""
        return self._fuse.opened

    async def close(self) -> None:
        await self.sessions.pool.close()
        await self._live.close()

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[Connection]:
        """A session to read the event log with, for the length of a block. Raises DatabaseAway."""
        async with self.sessions.lend() as connection:
            yield connection

    async def difference(self, since: Snapshot) -> Batch | None:
        """All that is committed, durable, and not in `since` (normalised); None where there is nothing new.

        Raises PositionRefused (EXPIRED: the event log no longer reaches back; LOST: it is another history),
        DatabaseAway.
        """
        return await self._reading.difference(since)

    async def stretches(self, since: Snapshot, upto: Snapshot) -> AsyncIterator[Stretch]:
        """What `upto` sees and `since` does not, in order, in stretches."""
        try:
            async for stretch in replay.stretches(self.reader, self.catalog, since, upto):
                yield stretch
        except PositionRefused:
            self._floor.forget()  # it rose since it was asked for
            raise

    async def rows(self, wanted: Wanted) -> Rows:
        """The rows of these channels as of one moment (app.postgres.row_reader)."""
        return await self._tables.rows(wanted)

    async def floor(self) -> Snapshot:
        """What a position must contain. The answer is at most a second old. Raises DatabaseAway."""
        return await self._floor.ask()

    async def watch_floor(self) -> None:
        """Ask for the floor every few seconds, for ever."""
        await self._floor.watch()

    async def head(self) -> LogHead:
        """Where the event log stands now, durably. Raises DatabaseAway."""
        while True:
            try:
                async with self._live.use() as connection:
                    return await self._live.head(connection)
            except PositionRefused:  # it is another history, and where that stands is what is asked for
                continue

    async def accept(self, position: Position) -> None:
        """Raises PositionRefused (FOREIGN, LOST, EXPIRED) where the event log can't honour the position.

        Raises DatabaseAway too.
        """
        floor = await self.floor()
        incarnations = self.sessions.incarnations
        if incarnations.behind(position):
            async with self._refreshing:  # many who ask at once share one look
                if incarnations.behind(position):
                    async with self.reader() as connection:
                        await incarnations.refresh(connection)
        incarnations.check_honours(position)
        check_reaches(floor, position.snapshot)
        if self.skipping:
            raise PositionRefused(ResetReason.EXPIRED)
