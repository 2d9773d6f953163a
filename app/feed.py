"""History for one client at its own pace: units from the ring where it reaches back, else from the log.

Before each write the sink's backlog is drained, so a slow reader costs a bounded amount of memory and holds nothing in
the database. A `Feed` belongs to one use under the connection's lock.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Literal, Protocol

from app import wire
from app.broadcaster import Broadcaster
from app.change import Transaction
from app.errors import PositionRefused, ResetReason
from app.hub import Channel, Point
from app.observe import Replayed
from app.position import Snapshot
from app.session import part


class Drain(Protocol):
    async def drained(self) -> None: ...


class Feed:
    """`open` is true while messages of a unit have been written and more of them are to come; `schema` holds the relids of
    tables whose definition changed in what was fed."""

    def __init__(
        self,
        broadcaster: Broadcaster,
        sink: Drain,
        channels: Mapping[str, Channel],
        write: Callable[[Sequence[wire.Message]], None],
    ) -> None:
        self.broadcaster = broadcaster
        self.sink = sink
        self.channels = channels
        self.write = write
        self.open = False
        self.schema: set[int] = set()
        self._pending: set[int] = set()

    async def units(self, point: Point) -> AsyncIterator[Point]:
        """Send what follows `point`, and yield each position reached. Ends where the server was, or earlier.

        Raises PositionRefused where history does not hold it (nothing of the current unit was sent when EXPIRED),
        DatabaseAway, ConnectionResetError.
        """
        found = self.broadcaster.history.after(point.snapshot)
        if found is not None:
            transactions, batch = found
            upto = point.snapshot.union(batch.upto)
            reached = Point(upto, self.broadcaster.mint(upto))
            await self._send(transactions, reached, "ring")
            yield reached
            return
        async for portion in self.broadcaster.source.replay(point.snapshot, self.broadcaster.point.snapshot):
            end = Point(portion.upto, self.broadcaster.mint(portion.upto)) if portion.upto is not None else None
            await self._send(portion.transactions, end, "log")
            if end is not None:
                yield end

    async def span(self, since: Snapshot, upto: Snapshot) -> None:
        """Send what `upto` sees and `since` does not, as one unit that the caller closes. Raises as `units`."""
        while not since.contains(upto):
            found = self.broadcaster.history.after(since)
            if found is None:
                break
            transactions, batch = found
            await self._send([t for t in transactions if upto.sees(t.xid)], None, "ring")
            since = since.union(batch.upto)
        if not since.contains(upto):
            async for portion in self.broadcaster.source.replay(since, upto):
                await self._send(portion.transactions, None, "log")
        self._refuse_schema()

    def _refuse_schema(self) -> None:
        if self.schema:
            raise PositionRefused(ResetReason.SCHEMA)

    async def _send(
        self, transactions: Sequence[Transaction], end: Point | None, source: Literal["ring", "log"]
    ) -> None:
        changed = {t.relid for transaction in transactions for t in transaction.schema}
        self._pending |= changed
        self.schema |= changed & {channel.relid for channel in self.channels.values()}
        count = 0
        for message in part(transactions, self.channels, self.broadcaster.hub.matches, end, self._pending):
            await self.sink.drained()
            self.write([message])
            self.open = message.position is None
            count += message.changes
        if end is not None:
            self.open = False
            self._pending = set()
        self.broadcaster.observe(Replayed(source, count))
