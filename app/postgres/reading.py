"""Reading what is new on the live connection, as batches.

Invariants
- A batch is exactly what is visible in its snapshot and not in the one before, in whole transactions.
- A batch is handed on when everything in it is durable.
- While the fuse is open there are no batches. What is read then may lack changes.
- A batch that is too large to hold has no transactions. It says where it ends, and who needs it replays it.
"""

import time
from typing import Final

from app.model.change import Batch, Table
from app.model.errors import PositionRefused, ResetReason
from app.model.position import Snapshot
from app.model.rights import RightsChange
from app.postgres import event_rows, pages
from app.postgres.catalog import Catalog
from app.postgres.connect import Connection, deadline
from app.postgres.difference import Difference, read_difference
from app.postgres.floor import Floor, check_reaches
from app.postgres.fuse import Fuse
from app.postgres.live import LiveConnection
from app.postgres.queries import SQL
from app.stream.ports import PORTION_BYTES

LIVE_SECONDS: Final = 10.0  # without an answer to a live read the connection is dead


class Reading:
    def __init__(self, live: LiveConnection, catalog: Catalog, floor: Floor, fuse: Fuse) -> None:
        self._live = live
        self._catalog = catalog
        self._floor = floor
        self._fuse = fuse

    async def difference(self, since: Snapshot) -> Batch | None:
        """See app.stream.ports.EventLog.difference."""
        live = self._live
        async with live.use() as connection:
            start = live.start(since)
            async with deadline(connection, LIVE_SECONDS):
                found = await read_difference(connection, start, live.state_table)
            self._floor.learn(found.floor)
            opened = found.fuse is not None and await self._fuse.look(connection, found.fuse)
            if found.fuse is not None and not opened:
                return None
            await self._check_reaches(connection, found.floor, since, opened)
            self._fuse.end()
            seen_at = time.monotonic()
            if not found.events:
                return self._without_events(since, found, seen_at)
            if found.too_large:
                batch = await self._extent(connection, since, start, found, seen_at)
            else:
                batch = await self._batch(connection, since, found, seen_at)
            await live.wait_until_durable(connection, found.written, found.flushed)
            live.remember(found.snapshot, batch.upto)
            return batch

    async def _check_reaches(self, connection: Connection, floor: Snapshot, since: Snapshot, opened: bool) -> None:
        """Raises PositionRefused (EXPIRED) where changes after `since` are gone. Definitions that changed are loaded
        then."""
        try:
            check_reaches(floor, since)
            if opened:
                raise PositionRefused(ResetReason.EXPIRED)
        except PositionRefused:
            await self._catalog.load(connection, list(self._catalog.generations))
            raise

    def _without_events(self, since: Snapshot, found: Difference, seen_at: float) -> Batch | None:
        # The position moves past transactions that ended without an event too, because the floor may move past them.
        upto = since.union(found.snapshot.normalised(since.xmax - 1))
        self._live.remember(found.snapshot, upto)
        return Batch(since, upto, since.xmax - 1, 0, [], [], 0, seen_at) if upto != since else None

    async def _batch(self, connection: Connection, since: Snapshot, found: Difference, seen_at: float) -> Batch:
        await self._catalog.ensure(connection, {(row[event_rows.GEN], row[event_rows.OP]) for row in found.events})
        ordered = event_rows.transactions(found.events, self._catalog.generations)
        highest = max(since.xmax - 1, *(t.xid for t in ordered))
        schema = {table.gen: table for t in ordered for table in t.schema}
        return Batch(
            since, found.snapshot.normalised(highest), highest, found.written, ordered, list(schema.values()),
            event_rows.size(ordered), seen_at, rights=RightsChange.joined(t.rights for t in ordered),
        )  # fmt: skip

    async def _extent(
        self, connection: Connection, since: Snapshot, start: Snapshot, found: Difference, seen_at: float
    ) -> Batch:
        """The batch of what is too large to hold: where it ends, its tables, and the definitions that change in it."""
        lows, highs = pages.ranges(start, found.snapshot)
        cursor = await connection.cursor(binary=True).execute(SQL["extent"], {"lows": lows, "highs": highs})
        row = await cursor.fetchone()
        assert row is not None
        check_reaches(Snapshot.parse(row[0]), since)
        gens, touched = row[2] or [], row[3] or []
        await self._catalog.load(connection, {*gens, *touched})
        tables = self._catalog.generations
        schema: list[Table] = [tables[gen] for gen in gens if gen in tables]
        relids = frozenset(tables[gen].relid for gen in touched) if tables.keys() >= set(touched) else None
        highest = max(since.xmax - 1, row[1])
        upto = found.snapshot.normalised(highest)
        rights = RightsChange() if row[4] else None
        return Batch(since, upto, highest, found.written, None, schema, PORTION_BYTES, seen_at, relids, rights)
