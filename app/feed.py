"""History for one client at its own pace: units from the ring where it reaches back, else from what is read of the log.

Before each message the sink's backlog is drained and then a turn is taken, so slow readers cost a bounded amount of
memory, hold nothing in the database and no place that others wait for, and many feeds at once leave the event loop to
the live stream. A `Feed` belongs to one use under the connection's lock.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Literal, Protocol

from app import wire
from app.broadcaster import Broadcaster
from app.change import Transaction
from app.errors import ClientError, CloseCode, PositionRefused, ResetReason
from app.history import PORTION_BYTES, UNIT_BYTES, Stretch
from app.hub import Channel, Point
from app.observe import MessagesSent, Observer, Refused, Replayed, Transport
from app.position import Snapshot
from app.session import part

Source = Literal["ring", "log"]


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
        """Send what follows `point`, a unit, and yield each position reached; what has nothing for these channels is
        passed over, PORTION_BYTES at most.

        Raises PositionRefused where history does not hold it (nothing of the current unit was sent when EXPIRED),
        DatabaseAway, ConnectionResetError.
        """
        passed = 0
        while True:
            await self._room()
            stretch, source = await self._next(point.snapshot)
            if stretch.transactions is None:
                async for reached in self._large(point.snapshot, stretch.upto):
                    yield reached
                return
            before, point = point, self._point(stretch.upto)
            passed += stretch.size
            last = passed >= PORTION_BYTES or stretch.upto.contains(self.broadcaster.point.snapshot)
            told = await self._send(stretch.transactions, before.snapshot, point, source, silently=not last)
            yield point
            if told or last:
                return

    async def span(self, since: Snapshot, upto: Snapshot) -> None:
        """Send what `upto` sees and `since` does not, as one unit that the caller closes. Raises as `units`."""
        while not since.contains(upto):
            await self._room()
            stretch, source = await self._next(since)
            if stretch.transactions is None:
                async for portion in self.broadcaster.source.replay(since, stretch.upto.meet(upto)):
                    await self._send(portion.transactions, None, None, "log")
            else:
                await self._send([t for t in stretch.transactions if upto.sees(t.xid)], None, None, source)
            since = since.union(stretch.upto)
        if self.schema:
            raise PositionRefused(ResetReason.SCHEMA)

    async def _room(self) -> None:
        """Wait until the client has taken what it was sent, and for a turn to work for it."""
        await self.sink.drained()
        await self.broadcaster.turns.take()

    async def _next(self, position: Snapshot) -> tuple[Stretch, Source]:
        """What comes next, without what `position` sees."""
        found = self.broadcaster.history.after(position)
        if found is not None:
            return found, "ring"
        found = await self.broadcaster.replays.after(position)
        if found.transactions is None:
            return found, "log"
        unseen = [t for t in found.transactions if not position.sees(t.xid)]
        return Stretch(position, position.union(found.upto), unseen, found.size), "log"

    async def _large(self, since: Snapshot, upto: Snapshot) -> AsyncIterator[Point]:
        """What is too large to hold: each client reads it, at its own pace."""
        async for portion in self.broadcaster.source.replay(since, since.union(upto)):
            end = self._point(portion.upto) if portion.upto is not None else None
            await self._send(portion.transactions, None, end, "log")
            if end is not None:
                yield end

    def _point(self, snapshot: Snapshot) -> Point:
        return Point(snapshot, self.broadcaster.mint(snapshot))

    async def _send(
        self,
        transactions: Sequence[Transaction],
        since: Snapshot | None,
        end: Point | None,
        source: Source,
        *,
        silently: bool = False,
    ) -> bool:
        """Whether anything was said: `silently` leaves out a position alone. With `since` it is a whole unit."""
        changed = {t.relid for transaction in transactions for t in transaction.schema}
        self._pending |= changed
        self.schema |= changed & {channel.relid for channel in self.channels.values()}
        count = 0
        said = False
        for message in self._messages(transactions, since, end):
            if silently and message.kind == "position":
                break
            if said:
                await self._room()
            self.write([message])
            said = True
            self.open = message.position is None
            count += message.changes
        if end is not None:
            self.open = False
            self._pending = set()
        self.broadcaster.observe(Replayed(source, count))
        return said

    def _messages(
        self, transactions: Sequence[Transaction], since: Snapshot | None, end: Point | None
    ) -> Iterable[wire.Message]:
        made = part(transactions, self.channels, self.broadcaster.hub, end, self._pending)
        if since is None or end is None or self._pending or _size(transactions) > 2 * UNIT_BYTES:
            return made  # one by one, as the client takes them
        return self.broadcaster.encoded.unit((since, end.snapshot, tuple(self.channels.values())), made)


def _size(transactions: Sequence[Transaction]) -> int:
    return sum(c.size for t in transactions for c in t.changes)
