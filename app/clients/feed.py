"""History for one client at its own pace: from memory where that reaches back, else from the event log.

Before each message a feed waits until the client has taken what it was sent, and then for a turn. So a client that
reads slowly costs a bounded amount of memory, and holds neither anything in the database nor a place that others wait
for. Many feeds at once leave the event loop to the live stream. A `Feed` is made for one replay, under the connection's
lock.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, Literal

from app.clients.outbox import Sink
from app.core import wire
from app.core.audience import Channel, Point
from app.core.index import Index, Seen
from app.core.session import part
from app.model.change import Transaction
from app.model.channel import Topic
from app.model.errors import PositionRefused, ResetReason
from app.model.observations import Replayed, Reset
from app.model.position import Snapshot
from app.stream.broadcaster import Broadcaster
from app.stream.large import LargeTransaction, PageReader, Wanted
from app.stream.ports import PORTION_BYTES
from app.stream.stretch import UNIT_BYTES, Stretch

ReplaySource = Literal["history", "event_log"]
HISTORY: Final[ReplaySource] = "history"
EVENT_LOG: Final[ReplaySource] = "event_log"
LOOKS: Final = 32  # stretches in one turn of the event loop


class Feed:
    """`open` is true from the first message of a unit until its last is written. `schema` holds the topics of tables
    whose definition changed in what was fed."""

    def __init__(
        self,
        broadcaster: Broadcaster,
        sink: Sink,
        channels: Mapping[str, Channel],
        write: Callable[[Sequence[wire.Message]], None],
        judged: Callable[[], bool] = lambda: True,
    ) -> None:
        """`judged` says whether the rights to these channels were judged by what the server knows now."""
        self.broadcaster = broadcaster
        self.sink = sink
        self.channels = channels
        self.write = write
        self.judged = judged
        self.open = False
        self.schema: set[Topic] = set()
        self._pending: set[Topic] = set()

    async def send_units(self, point: Point) -> AsyncIterator[Point]:
        """Send a unit of what follows `point`, and yield each position reached. What has nothing for these channels is
        passed over, up to PORTION_BYTES of it. Where the rights have to be judged anew before anything more is looked
        at, what was found before is all, which may be nothing.

        Raises PositionRefused where neither memory nor the event log holds what follows (when EXPIRED, nothing of the
        current unit was sent), DatabaseAway, ConnectionResetError.
        """
        await self._wait_for_room()
        position, unit, source = point.snapshot, list[Seen](), HISTORY
        size = passed = looked = 0
        while size < UNIT_BYTES and passed < PORTION_BYTES and self.judged():
            stretch = self._known(position)
            if stretch is None and unit:
                break
            if stretch is None:
                stretch, source = await self._read(position), EVENT_LOG
                if not self.judged():
                    break
            if stretch.large is not None or stretch.schema:
                if position is point.snapshot:
                    async for reached in self._send_alone(position, stretch):
                        yield reached
                    return
                break
            found = [seen for seen in stretch.index.seen(self.channels.values()) if not position.sees(seen[0].xid)]
            unit += found
            size += sum(change.size for change, _, _ in found)
            passed += stretch.size
            looked += 1
            position = position.union(stretch.upto)
            if position.contains(self.broadcaster.point.snapshot):
                break
            if looked % LOOKS == 0:
                await self.broadcaster.turns.take()
        if position is point.snapshot:
            return
        end = self._point(position)
        await self._send(unit, end, source)
        yield end

    async def send_span(self, since: Snapshot, upto: Snapshot) -> None:
        """Send what `upto` sees and `since` does not, as one unit that the caller closes. Raises as `send_units`."""
        while not since.contains(upto):
            await self._wait_for_room()
            stretch = self._known(since)
            source = HISTORY if stretch is not None else EVENT_LOG
            stretch = stretch or await self._read(since)
            if stretch.large is not None:
                if upto.sees(stretch.large.xid) and not since.sees(stretch.large.xid):
                    await self._send_pages(stretch.large)
            else:
                assert stretch.transactions is not None
                missing = [t for t in stretch.transactions if upto.sees(t.xid) and not since.sees(t.xid)]
                await self._send_all(missing, None, source)
            since = since.union(stretch.upto)
        if self.schema:
            raise PositionRefused(ResetReason.SCHEMA)

    async def _wait_for_room(self) -> None:
        """Wait until the client has taken what it was sent, and for a turn to work for it."""
        await self.sink.drained()
        await self.broadcaster.turns.take()

    def _known(self, position: Snapshot) -> Stretch | None:
        return self.broadcaster.history.after(position) or self.broadcaster.replays.known(position)

    async def _read(self, position: Snapshot) -> Stretch:
        stretch = await self.broadcaster.replays.after(position)
        await self.broadcaster.turns.take()  # many waited for the same
        return stretch

    async def _send_alone(self, position: Snapshot, stretch: Stretch) -> AsyncIterator[Point]:
        """Send a stretch that is a unit of its own: one in which a definition changes, or one transaction that is too
        large to hold."""
        end = self._point(position.union(stretch.upto))
        if stretch.large is not None:
            if not position.sees(stretch.large.xid):
                await self._send_pages(stretch.large)
            await self._send((), end, EVENT_LOG)
        else:
            missing = [t for t in stretch.transactions or () if not position.sees(t.xid)]
            await self._send_all(missing, end, EVENT_LOG)
        yield end

    async def _send_pages(self, reader: PageReader) -> None:
        """Send what these channels see of a transaction that is too large to hold.

        While the client takes one message nothing is held for it: what was dropped meanwhile is made again."""
        transaction, wanted, n = self.broadcaster.replays.large(reader), Wanted(self.channels.values()), 0
        with transaction.used():
            while (found := await transaction.next(wanted, n)) is not None:
                n, sent, left = found + 1, 0, True
                while left:
                    await self._wait_for_room()
                    left = await self._send_of(transaction, found, sent)
                    sent += 1

    async def _send_of(self, transaction: LargeTransaction, n: int, sent: int) -> bool:
        """Send the message of page `n` that comes after `sent` others. Returns whether there are more."""
        limit = self.broadcaster.hub.fed_limit
        messages, schema = await transaction.messages(n, self.channels, limit, self._pending)
        self._begin_resets(schema)
        if sent < len(messages):
            self.write([messages[sent]])
            self.open = True
            self.broadcaster.observe(Replayed(EVENT_LOG, messages[sent].changes))
        return sent + 1 < len(messages)

    def _point(self, snapshot: Snapshot) -> Point:
        return Point(snapshot, self.broadcaster.mint(snapshot))

    async def _send_all(self, transactions: Sequence[Transaction], end: Point | None, source: ReplaySource) -> None:
        self._begin_resets({t.relid for transaction in transactions for t in transaction.schema})
        await self._send(Index(transactions).seen(self.channels.values()), end, source)

    def _begin_resets(self, changed: AbstractSet[Topic]) -> None:
        """The definitions of these tables change in the unit."""
        if changed:
            self._pending |= changed
            self.schema |= changed & {channel.topic for channel in self.channels.values()}

    async def _send(self, seen: Sequence[Seen], end: Point | None, source: ReplaySource) -> None:
        count = 0
        for n, message in enumerate(part(seen, self.channels, self.broadcaster.hub.fed_limit, end, self._pending)):
            if n > 0:
                await self._wait_for_room()
            self.write([message])
            self.open = message.position is None
            count += message.changes
            if message.kind == "reset":
                channels = sum(channel.topic in self._pending for channel in self.channels.values())
                self.broadcaster.observe(Reset(ResetReason.SCHEMA.value, channels))
        if end is not None:
            self.open = False
            self._pending = set()
        self.broadcaster.observe(Replayed(source, count))
