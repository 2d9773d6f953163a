"""History for one client at its own pace: units from the ring where it reaches back, else from the log.

Before each write the sink's backlog is drained, so a slow reader costs a bounded amount of memory and holds nothing in
the database. A `Feed` belongs to one use under the connection's lock.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Literal, Protocol

from app import wire
from app.broadcaster import Broadcaster
from app.change import Transaction
from app.errors import ClientError, CloseCode, PositionRefused, ResetReason
from app.hub import Channel, Point
from app.observe import MessagesSent, Observer, Refused, Replayed, Transport
from app.position import Snapshot
from app.session import part


class Sink(Protocol):
    """One client's transport, as the flow sees it."""

    transport: Transport

    def write(self, messages: Sequence[wire.Message]) -> None:
        """Hand over to the kernel or its buffer: never blocks, never raises when the peer is gone."""
        ...

    def backlog(self) -> int:
        """Bytes that the kernel has not taken yet."""
        ...

    async def drained(self) -> None:
        """Return when the backlog is small. Raises ConnectionResetError when the peer is gone."""
        ...

    def close(self, code: CloseCode, reason: str) -> None: ...


class Line:
    """What is said to one client. `quiet` is true until a position goes out; heartbeats set it again."""

    def __init__(self, sink: Sink, observe: Observer) -> None:
        self.sink = sink
        self.observe = observe
        self.quiet = True

    def write(self, messages: Sequence[wire.Message]) -> None:
        """Write messages that others get too, and that are counted for all of them."""
        self.quiet = self.quiet and messages[-1].position is None
        self.sink.write(messages)

    def sent(self, messages: Sequence[wire.Message]) -> None:
        """Write messages that this client alone gets, and count them."""
        self.write(messages)
        for message in messages:
            self.observe(MessagesSent(message.kind, message.table, 1, len(message.json)))

    def send(self, message: wire.Message) -> None:
        self.sent([message])

    def refuse(self, problem: ClientError, id: wire.JsonId = None) -> None:
        """Answer with an `error` message."""
        self.observe(Refused(problem.code))
        self.send(wire.error(problem, id))


class Feed:
    """`open` is true while messages of a unit have been written and more of them are to come; `schema` holds the relids
    of tables whose definition changed in what was fed."""

    def __init__(
        self,
        broadcaster: Broadcaster,
        sink: Sink,
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
        for message in part(transactions, self.channels, self.broadcaster.hub, end, self._pending):
            await self.sink.drained()
            self.write([message])
            self.open = message.position is None
            count += message.changes
        if end is not None:
            self.open = False
            self._pending = set()
        self.broadcaster.observe(Replayed(source, count))
