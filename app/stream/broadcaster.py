"""The stream of one server: it reads or is given batches, keeps them in the history, and hands them to the hub.

One rule makes every bus equal: a batch is applied only from where the server stands (a hole is read from the event log
first), and of it only what the server's position does not see. All state changes happen in `apply` and `rebase`, which
never await, so a connection that finds itself at `point` can join the live stream exactly.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from app.core.audience import Point
from app.core.hub import Delivery, Hub
from app.model.change import Batch
from app.model.errors import DatabaseAway, PositionRefused, ResetReason
from app.model.observations import (
    BatchRead,
    Delivered,
    Failed,
    HistoryBytes,
    MessagesSent,
    Observer,
    TableOffAir,
    TableRedefined,
)
from app.model.position import Position, Snapshot
from app.stream.history import History
from app.stream.ports import EventLog, LogHead
from app.stream.replays import Replays
from app.stream.stretch import Stretch
from app.stream.turns import Turns
from app.stream.unreadable import tell_unreadable

Publish = Callable[[Batch], Awaitable[None]]
TRIES = 3  # at what can't be read, before the stream goes on behind it
SKIP_SECONDS = 60.0  # how often the stream may go on behind what can't be read at all: each time resets everybody


class StreamListener(Protocol):
    """Who has to know at once that the stream goes on from elsewhere."""

    def rebased(self, reason: ResetReason | None) -> None:
        """The stream goes on in another incarnation. With a reason it goes on from another position too, and what lies
        between is lost for those who are live. Does not await."""
        ...


async def _publish_to_nobody(batch: Batch) -> None:
    """What a server without a fleet does with a batch: nothing."""


class Broadcaster:
    """`publish` gets each batch that was read here, after it was applied and before the next is read.

    Sixteen attributes: they are the state of the stream, which changes as one."""

    def __init__(
        self,
        event_log: EventLog,
        hub: Hub,
        head: LogHead,
        history_bytes: int,
        observe: Observer,
        publish: Publish = _publish_to_nobody,
    ) -> None:
        self.event_log = event_log
        self.hub = hub
        self.observe = observe
        self.read_at = -math.inf  # when a read last succeeded (the monotonic clock, seconds)
        self._failures = 0  # to read, one after another, for another reason than that the database is away
        self._skipped_at = -math.inf
        self.epoch = 0  # counts what may change the meaning of a channel or a position, and who may have it
        self.history = History(head.position, history_bytes)
        self.replays = Replays(event_log, lambda: self.point.snapshot, observe)
        self.turns = Turns()
        self._publish = publish
        self._listeners: list[StreamListener] = []
        self._reading = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None
        self._head = head  # its WAL position is the last that is known to be durable
        self.point = Point(head.position, self.mint(head.position))
        event_log.listen(self)

    def listen(self, listener: StreamListener) -> None:
        """Tell `listener` from now on."""
        self._listeners.append(listener)

    def mint(self, snapshot: Snapshot) -> str | None:
        """The token of a normalised snapshot that is known to be durable."""
        return Position(self._head.incarnation, self._head.tag, snapshot, self._head.lsn).encode()

    # Reading.

    async def pull(self) -> Batch | None:
        """Read what is new from the event log, apply and publish it. Raises DatabaseAway."""
        async with self._reading:
            return await self._pull()

    async def _pull(self) -> Batch | None:
        started = time.monotonic()
        try:
            batch = await self.event_log.difference(self.point.snapshot)
        except PositionRefused as refused:
            self.rebase(await self.event_log.head(), refused.reason)
            return None
        except DatabaseAway:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it may fail again at every read
            await self._skip(error)
            return None
        self.read_at, self._failures = time.monotonic(), 0
        if batch is not None:
            if batch.transactions != []:
                self._observe_read(batch, time.monotonic() - started)
            self.apply(batch)
            await self._publish(batch)
        return batch

    async def _skip(self, error: Exception) -> None:
        """Go on behind what can't be read. Raises `error` where it may be read the next time, and where this was done a
        moment ago: then it is no single event that is wrong, and clients are not reset again and again."""
        now = time.monotonic()
        self._failures += 1
        if self._failures < TRIES or now - self._skipped_at < SKIP_SECONDS:
            raise error
        head = await self.event_log.head()
        self._skipped_at = now
        self.observe(Failed("reading", error))
        self.rebase(head, ResetReason.LOST)

    async def refresh(self) -> None:
        """Take over all that is committed now. Those who ask at the same time share a read. Raises DatabaseAway."""
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh())
            self._refreshing.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._refreshing)

    async def _refresh(self) -> None:
        async with self._reading:
            self._refreshing = None  # who asks from now on may want what this read does not see
            head = await self.event_log.head()
            await self._pull()
            if head.complete and head.incarnation == self._head.incarnation:
                self._advance(head)

    def _advance(self, head: LogHead) -> None:
        """Be at least at `head`, all of whose events were read since.

        A transaction that wrote no event ends without a batch. A server that saw it open would stay behind a server
        that saw it ended, until the next event."""
        now = time.monotonic()
        self.apply(Batch(self.point.snapshot, head.position, head.highest, head.lsn, [], [], 0, now))

    # State.

    def apply(self, batch: Batch) -> None:
        """Take over what of this batch the server does not see yet. The server must not be behind its start."""
        if self.point.snapshot.contains(batch.upto):
            return
        if not batch.since.contains(self.point.snapshot):
            batch = _unseen(batch, self.point.snapshot)
        self._head = replace(self._head, lsn=max(self._head.lsn, batch.lsn))
        self.epoch += bool(batch.schema or batch.rights is not None)
        before, upto = self.point, self.point.snapshot.union(batch.upto)
        self.point = Point(upto, self.mint(upto))
        # In the history a batch ends where this server was after it, which may be more than the batch saw. So each end
        # contains the end before it, and a client whose position contains one of them has all before it.
        self.history.append(Stretch(before.snapshot, upto, batch.transactions, batch.size))
        try:
            deliveries = self.hub.fan_out(batch, before, self.point)
        except Exception as error:  # noqa: BLE001 - nobody knows who got what, so everybody is reset
            self.observe(Failed("fan-out", error))
            self.rebase(replace(self._head, position=upto), ResetReason.LOST)
            return
        self._observe_deliveries(batch, deliveries)

    def rebase(self, head: LogHead, reason: ResetReason | None) -> None:
        """Go on in the incarnation of `head`. With a reason the stream goes on from `head`; without one it goes on from
        the position that it had reached, which holds there too."""
        self.epoch += 1
        self._head = head
        position = self.point.snapshot if reason is None else head.position
        self.point = Point(position, self.mint(position))
        self.history.restart(position)
        self.replays.restart()
        for listener in self._listeners:
            listener.rebased(reason)

    def forget(self, floor: Snapshot) -> None:
        """The event log reaches back to `floor` and no further; nor does the memory from now on."""
        self.history.forget(floor)
        self.replays.forget(floor)
        self.observe(HistoryBytes(self.history.size))

    # Observing.

    def _observe_read(self, batch: Batch, seconds: float) -> None:
        transactions = batch.transactions or []
        tell_unreadable(transactions, self.observe)
        self.observe(BatchRead(len(transactions), sum(len(t.changes) for t in transactions), batch.size, seconds))
        for table in {table.relid: table for table in batch.schema}.values():
            self.observe(TableOffAir(table.channel) if table.ended else TableRedefined(table.channel))

    def _observe_deliveries(self, batch: Batch, deliveries: list[Delivery]) -> None:
        seconds = time.monotonic() - batch.seen_at
        self.observe(HistoryBytes(self.history.size))
        for messages, members in deliveries:
            for transport, count in members.items():
                self.observe(Delivered(transport, seconds, count))
                for message in messages:
                    self.observe(MessagesSent(message.kind, message.table, count, message.size * count))


def _unseen(batch: Batch, position: Snapshot) -> Batch:
    """The batch without what `position` sees."""
    if batch.transactions is None:
        return batch
    kept = [t for t in batch.transactions if not position.sees(t.xid)]
    return replace(batch, transactions=kept, size=sum(c.size for t in kept for c in t.changes))
