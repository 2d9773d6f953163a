"""The log of one primary: what is new since a snapshot, and which positions it can honour.

Invariants
- A batch is exactly what is visible in its snapshot and not in the one before, in whole transactions (capture.md 2),
  and is handed on when everything in it is durable.
- The raw snapshot of the last read is used only on the connection that took it: a crash ends connections and re-uses
  transaction ids, and then only the normalised position counts.
- A connection first finds out which incarnation it reads. Where positions can't be carried over, PositionRefused(LOST).
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from app.model.change import Batch, Portion, Table
from app.model.errors import DatabaseAway, PositionRefused, ResetReason
from app.model.observations import DatabaseBack, DatabaseLost, IncarnationChanged, Observer
from app.model.position import Position, Snapshot
from app.postgres import event_rows as rows
from app.postgres import pages, replay, row_reader
from app.postgres.catalog import Catalog
from app.postgres.connect import ANSWER_SECONDS, OURS, Connection, away, connect, deadline
from app.postgres.durable import Flush
from app.postgres.incarnation import Incarnation, Incarnations
from app.postgres.pool import Pool
from app.postgres.queries import SQL
from app.postgres.read import Read
from app.stream.ports import PORTION_BYTES, EventLogListener, LogHead, Rows
from app.stream.stretch import Stretch

READERS: Final = 4
ROW_READS: Final = 2  # read at once
LIVE_SECONDS: Final = 10.0  # without an answer to a live read the line is dead
FLOOR_SECONDS: Final = 1.0
REPLACED: Final = "the log is being replaced by another, from a dump"
WATCH_FLOOR_SECONDS: Final = 5.0


class PostgresEventLog:
    def __init__(self, url: str, observe: Observer, *, rows_max: int = 100_000, rows_bytes: int = 64 << 20) -> None:
        self._row_reads = asyncio.Semaphore(ROW_READS)
        self._most_rows, self._most_bytes = rows_max, rows_bytes
        self._url = url
        self._observe = observe
        self.incarnations = Incarnations()
        self._listeners: list[EventLogListener] = []
        self._pool = Pool(self._reader, READERS)
        self.catalog = Catalog(self.reader)
        self._live: Connection | None = None
        self._lost_at: float | None = None
        self._doubted = False  # a new connection found another log than the live one reads
        self._raw: Snapshot | None = None  # of the last read on this connection, which ended at _upto
        self._upto: Snapshot | None = None
        self._flush = Flush()
        self._serving: Incarnation | None = None
        self._log = 0  # the oid of its table of state
        self._durable_at = 0  # where the WAL was when the newest position was minted
        self._floor: tuple[float, Snapshot] | None = None
        self._asking = asyncio.Lock()

    def listen(self, listener: EventLogListener) -> None:
        """Tell `listener` of another floor, and of another incarnation that honours our positions."""
        self._listeners.append(listener)

    # Connections.

    async def _open(self, name: str) -> tuple[Connection, Incarnation]:
        connection = await connect(self._url, name=name)
        try:
            with away(*OURS):
                async with deadline(connection, LIVE_SECONDS):
                    rows.register(connection)
                    await connection.execute(SQL["plan_for_log"], prepare=False)
                    found = await self.incarnations.identify(connection)
                    await self.catalog.load(connection)
        except BaseException:
            await connection.close()
            raise
        return connection, found

    async def _reader(self) -> Connection:
        connection, found = await self._open("reader")
        if not self.incarnations.adopt(found):
            await connection.close()
            self._doubted = True
            raise DatabaseAway("another primary, or another history, answers at this address")
        return connection

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[Connection]:
        """A connection to read the log with, for the length of a block. Raises DatabaseAway."""
        async with self._pool.lend() as connection:
            with away(*OURS):
                async with deadline(connection, ANSWER_SECONDS):
                    yield connection

    @asynccontextmanager
    async def _primary(self) -> AsyncIterator[Connection]:
        """The live connection, made anew where it broke; whatever fails in the block ends it."""
        try:
            if self._doubted and self._live is not None:
                await self._drop(DatabaseAway("another primary answers"))
            if self._live is None:
                await self._reconnect()
            assert self._live is not None
            with away(*OURS):
                async with deadline(self._live, ANSWER_SECONDS):
                    yield self._live
        except PositionRefused:
            raise
        except BaseException as error:
            await self._drop(error)
            raise

    async def _drop(self, error: BaseException) -> None:
        connection, self._live = self._live, None
        self._raw = self._upto = None
        if self._lost_at is None and isinstance(error, Exception):
            self._lost_at = time.monotonic()
            self._observe(DatabaseLost(str(error)))
        if connection is not None:
            await connection.close()

    async def _reconnect(self) -> None:
        connection, found = await self._open("live")
        self._live, self._raw, self._upto, self._floor, self._doubted = connection, None, None, None, False
        with away(*OURS):
            row = await (await connection.execute(SQL["log"])).fetchone()
        self._log = row[0] if row is not None else 0
        if self._lost_at is not None:
            self._observe(DatabaseBack(time.monotonic() - self._lost_at))
            self._lost_at = None
        before = self._serving
        self.incarnations.current = found
        if before is not None and before != found:
            self._observe(IncarnationChanged(str(before), str(found)))
            await self._pool.close()
            self.catalog.forget()
            with away(*OURS):
                await self.catalog.load(connection)
            await self._carry(connection, before, found)
        self._serving = found

    async def _carry(self, connection: Connection, before: Incarnation, found: Incarnation) -> None:
        """Go on in another incarnation. Where this fails half-way it is tried again with the next connection."""
        try:
            self.incarnations.carry(before, found, self._durable_at)
        except PositionRefused:
            self._serving = found
            raise
        with away(*OURS):
            head = await self._head(connection)
        for listener in self._listeners:
            listener.rebase(head, None)

    @property
    def connected(self) -> bool:
        """Whether the live connection stands."""
        return self._live is not None

    async def close(self) -> None:
        await self._pool.close()
        if self._live is not None:
            await self._live.close()
            self._live = None

    # What is new.

    async def difference(self, since: Snapshot) -> Batch | None:
        """All that is committed, durable, and not in `since` (normalised); None where there is nothing new. It has
        no transactions where some that `since` leaves open have ended, and wrote nothing.

        Raises PositionRefused (EXPIRED: the log no longer reaches back; LOST: it is another history), DatabaseAway.
        """
        async with self._primary() as connection:
            start = self._raw if self._raw is not None and self._upto == since else since
            found = await self._read(connection, start)
            self._reached(found.floor, since)
            seen_at = time.monotonic()
            if not found.events:
                # Who ended without an event is left behind all the same: the floor of the log may, too.
                upto = since.union(found.snapshot.normalised(since.xmax - 1))
                self._raw, self._upto = found.snapshot, upto
                return Batch(since, upto, since.xmax - 1, 0, [], [], 0, seen_at) if upto != since else None
            batch = await self._batch(connection, since, start, found, seen_at)
            await self._flush.reach(connection, found.written, found.flushed)
            self._raw, self._upto, self._durable_at = found.snapshot, batch.upto, found.written
            return batch

    async def _read(self, connection: Connection, start: Snapshot) -> Read:
        parameters = {
            "last": str(start.xmax - 1),
            "open": [str(x) for x in start.xip],
            "rows": pages.LARGE_CHANGES + 1,
            "bytes": pages.LARGE_BYTES,
            "log": self._log,
        }
        async with deadline(connection, LIVE_SECONDS):
            cursor = await connection.cursor(binary=True).execute(SQL["difference"], parameters)
            found = await cursor.fetchall()
        if found[0][rows.OP] != "H":
            raise DatabaseAway(REPLACED)
        flushed = found.pop()[rows.ID]
        snapshot, floor, written = found.pop(0)[rows.NEW_VALUES]
        too_large = len(found) > pages.LARGE_CHANGES or (bool(found) and found[-1][rows.OP] == "X")
        return Read(
            Snapshot.parse(snapshot), self._found(Snapshot.parse(floor)), int(written), flushed, found, too_large
        )

    async def _batch(
        self, connection: Connection, since: Snapshot, start: Snapshot, found: Read, seen_at: float
    ) -> Batch:
        if found.too_large:
            return await self._extent(connection, since, start, found, seen_at)
        await self.catalog.ensure(connection, {(row[rows.GEN], row[rows.OP]) for row in found.events})
        ordered = rows.transactions(found.events, self.catalog.generations)
        highest = max(since.xmax - 1, *(t.xid for t in ordered))
        schema = {table.gen: table for t in ordered for table in t.schema}
        return Batch(
            since, found.snapshot.normalised(highest), highest, found.written, ordered, list(schema.values()),
            rows.size(ordered), seen_at,
        )  # fmt: skip

    async def _extent(
        self, connection: Connection, since: Snapshot, start: Snapshot, found: Read, seen_at: float
    ) -> Batch:
        lows, highs = pages.ranges(start, found.snapshot)
        cursor = await connection.cursor(binary=True).execute(SQL["extent"], {"lows": lows, "highs": highs})
        row = await cursor.fetchone()
        assert row is not None
        self._reached(Snapshot.parse(row[0]), since)
        gens = row[2] or []
        await self.catalog.load(connection, gens)
        schema: list[Table] = [self.catalog.generations[gen] for gen in gens]
        highest = max(since.xmax - 1, row[1])
        upto = found.snapshot.normalised(highest)
        return Batch(since, upto, highest, found.written, None, schema, PORTION_BYTES, seen_at)

    # Positions.

    def replay(self, since: Snapshot, upto: Snapshot) -> AsyncIterator[Portion]:
        """What `upto` sees and `since` does not, in order, in portions (app.stream.ports.EventLog.replay)."""
        return replay.replay(self.reader, self.catalog, since, upto)

    async def stretches(self, since: Snapshot, upto: Snapshot) -> AsyncIterator[Stretch]:
        """The same in stretches (app.stream.ports.EventLog.stretches)."""
        try:
            async for stretch in replay.stretches(self.reader, self.catalog, since, upto):
                yield stretch
        except PositionRefused:
            self._floor = None  # it rose since it was asked
            raise

    async def rows(self, wanted: row_reader.Wanted) -> Rows:
        """The rows of these channels as of one moment (app.postgres.row_reader)."""
        async with self._row_reads:
            return await row_reader.read(self._url, wanted, most_rows=self._most_rows, most_bytes=self._most_bytes)

    async def floor(self) -> Snapshot:
        """What a position must contain; at most a second old. Raises DatabaseAway."""
        async with self._asking:  # many who ask at once share one answer
            if self._floor is None or time.monotonic() - self._floor[0] > FLOOR_SECONDS:
                async with self.reader() as connection:
                    row = await (await connection.execute(SQL["floor"])).fetchone()
                if row is None:
                    raise DatabaseAway(REPLACED)
                return self._found(Snapshot.parse(row[0]))
            return self._floor[1]

    def _found(self, floor: Snapshot) -> Snapshot:
        """The floor as just read. Everybody who has to know learns of a new one here."""
        before = self._floor
        self._floor = (time.monotonic(), floor)
        if before is None or before[1] != floor:
            for listener in self._listeners:
                listener.forget(floor)
        return floor

    async def watch_floor(self) -> None:
        """Ask for the floor every few seconds, for ever: an idle server has to learn of a purge too."""
        while True:
            with suppress(DatabaseAway):
                await self.floor()
            await asyncio.sleep(WATCH_FLOOR_SECONDS)

    async def head(self) -> LogHead:
        """Where the log stands now, durably. Raises DatabaseAway."""
        while True:
            try:
                async with self._primary() as connection:
                    return await self._head(connection)
            except PositionRefused:  # another history: that is what is asked for
                continue

    async def _head(self, connection: Connection) -> LogHead:
        row = await (await connection.cursor(binary=True).execute(SQL["head"])).fetchone()
        if row is None:
            raise DatabaseAway(REPLACED)
        raw, floor, highest, lsn = Snapshot.parse(row[0]), Snapshot.parse(row[1]), row[2], row[3]
        highest = max(highest or 0, floor.xmax - 1)
        await self._flush.reach(connection, lsn, 0)
        self._durable_at = lsn
        current = self.incarnations.current
        assert current is not None
        return LogHead(raw.normalised(highest), highest, lsn, current.n, current.tag)

    async def accept(self, position: Position) -> None:
        """Raises PositionRefused (FOREIGN, LOST, EXPIRED) where the log can't honour the position; DatabaseAway."""
        floor = await self.floor()
        if self.incarnations.behind(position):
            async with self._asking, self.reader() as connection:
                if self.incarnations.behind(position):
                    await self.incarnations.refresh(connection)
        self.incarnations.judge(position)
        self._reached(floor, position.snapshot)

    @staticmethod
    def _reached(floor: Snapshot, since: Snapshot) -> None:
        if not since.contains(floor):
            raise PositionRefused(ResetReason.EXPIRED)
