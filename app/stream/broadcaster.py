"""The stream of one server: it reads or is given batches, keeps them in the history, and hands them to the hub.

One rule makes every bus equal: a batch is applied only from where the server stands (a hole is read from the log
first), and of it only what the server's position does not see. All state changes happen in `apply` and `rebase`, which
never await, so a connection that finds itself at `point` can join the live stream exactly.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from app.core.audience import Point
from app.core.hub import Delivery, Hub
from app.model.change import Batch, Table, Transaction
from app.model.channel import Address, RoomAddress, TableAddress, parse
from app.model.errors import BadChannel, BadRequest, DatabaseAway, PositionRefused, ResetReason, Unavailable
from app.model.observations import BatchRead, Delivered, HistoryBytes, MessagesSent, Observer
from app.model.position import Position, Snapshot
from app.stream.history import History
from app.stream.ports import EventLog, LogHead, RowReader, Rows, Tables
from app.stream.replays import Replays
from app.stream.stretch import Stretch
from app.stream.turns import Turns


class Broadcaster:
    def __init__(
        self, event_log: EventLog, tables: Tables, hub: Hub, head: LogHead, history_bytes: int, observe: Observer
    ) -> None:
        self.event_log = event_log
        self.tables = tables
        self.hub = hub
        self.observe = observe
        self.on_reset: Callable[[ResetReason], None] = lambda reason: None
        self.row_reader: RowReader | None = None
        self.on_read: Callable[[Batch], Awaitable[None]] | None = None
        self.epoch = 0  # counts what may change the meaning of a channel or a position
        self._reading = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None
        self._row_reads: dict[tuple[str, ...], asyncio.Task[Rows]] = {}
        self._settle(head)
        self.history = History(head.position, history_bytes)
        self.replays = Replays(event_log, lambda: self.point.snapshot, observe)
        self.turns = Turns()
        event_log.listen(self)

    def _settle(self, head: LogHead) -> None:
        self.incarnation, self.tag, self.lsn, self.highest = head.incarnation, head.tag, head.lsn, head.highest
        self.point = Point(head.position, self.mint(head.position))

    def mint(self, snapshot: Snapshot) -> str | None:
        """The token of a normalised snapshot that is known to be durable."""
        return Position(self.incarnation, self.tag, snapshot, self.lsn).encode()

    async def pull(self) -> Batch | None:
        """Read what is new from the log and apply it. Raises DatabaseAway."""
        async with self._reading:
            return await self._pull()

    async def _pull(self) -> Batch | None:
        started = time.monotonic()
        try:
            batch = await self.event_log.difference(self.point.snapshot)
        except PositionRefused as refused:
            self.rebase(await self.event_log.head(), refused.reason)
            return None
        if batch is not None:
            if batch.transactions != []:
                self._observe_read(batch, time.monotonic() - started)
            self.apply(batch)
            if self.on_read is not None:
                await self.on_read(batch)
        return batch

    def apply(self, batch: Batch) -> None:
        """Take over what of this batch the server does not see yet. The server must not be behind its start."""
        if self.point.snapshot.contains(batch.upto):
            return
        if not batch.since.contains(self.point.snapshot):
            batch = _unseen(batch, self.point.snapshot)
        self.lsn, self.highest = max(self.lsn, batch.lsn), max(self.highest, batch.highest)
        self.epoch += bool(batch.schema)
        before, upto = self.point, self.point.snapshot.union(batch.upto)
        self.point = Point(upto, self.mint(upto))
        # In memory a batch ends where this server was after it, which may be more than the batch saw: so the ends grow
        # from batch to batch, and a client that contains one of them has all before it.
        self.history.append(Stretch(before.snapshot, upto, batch.transactions, batch.size))
        deliveries = self.hub.fan_out(batch, before, self.point)
        self._observe_deliveries(batch, deliveries)

    def rebase(self, head: LogHead, reason: ResetReason | None) -> None:
        """Go on in another incarnation, or from elsewhere: with a reason, every connection is told `reset`."""
        self.epoch += 1
        if reason is None:
            point = self.point
            self._settle(head)
            self.point = Point(point.snapshot, self.mint(point.snapshot))
        else:
            self._settle(head)
        self.history.restart(self.point.snapshot)
        self.replays.restart()
        self._row_reads.clear()  # who waits for one of these looks again (`look_up_rows`)
        if reason is not None:
            self.on_reset(reason)

    def forget(self, floor: Snapshot) -> None:
        """The log reaches back to `floor` and no further; nor does the memory from now on."""
        self.history.forget(floor)
        self.replays.forget(floor)
        self.observe(HistoryBytes(self.history.size))

    async def look_up(
        self, names: Sequence[str], token: str | None
    ) -> tuple[list[tuple[Table, TableAddress]], Snapshot | None, ResetReason | None]:
        """Where channels and a position are, all at one moment: no definition and no incarnation changed between the
        looks, and nothing awaits between the last of them and the return. The reason is why a position is refused."""
        while True:
            epoch = self.epoch
            located = [await self.locate(parse(name)) for name in names]
            snapshot, refused = await self._resolved(token, [table for table, _ in located])
            if epoch == self.epoch:
                return located, snapshot, refused

    async def look_up_rows(
        self, names: Sequence[str], after: Snapshot | None
    ) -> tuple[list[tuple[Table, TableAddress]], Rows]:
        """Where channels are, and their rows, under one definition (see `rows`, `look_up`)."""
        while True:
            epoch = self.epoch
            located = [await self.locate(parse(name)) for name in names]
            rows = await self.rows(located, after)
            if epoch == self.epoch:
                return located, rows

    async def _resolved(self, token: str | None, tables: list[Table]) -> tuple[Snapshot | None, ResetReason | None]:
        if token is None:
            return None, None
        try:
            snapshot = await self.resolve(token)
        except PositionRefused as refused:
            return None, refused.reason
        if not all(snapshot.sees(table.xid) for table in tables):
            return None, ResetReason.SCHEMA
        return snapshot, None

    async def resolve(self, token: str) -> Snapshot:
        """The snapshot of a client's position, once this server has reached it.

        Raises PositionRefused, or Unavailable where the database is away.
        """
        position = Position.decode(token)
        try:
            await self.event_log.accept(position)
            if not self.point.snapshot.contains(position.snapshot):
                await self.refresh()
        except DatabaseAway as error:
            raise Unavailable("the database is away; try again") from error
        if not self.point.snapshot.contains(position.snapshot):
            raise PositionRefused(ResetReason.INVALID)
        return position.snapshot

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
            if head.incarnation == self.incarnation:
                self._reach(head)

    def _reach(self, head: LogHead) -> None:
        """Be at least at `head`, all of whose events were read since. Without this a server that saw a transaction
        open stays behind one that saw it ended, for as long as nothing happens, if it wrote nothing that is watched."""
        now = time.monotonic()
        self.apply(Batch(self.point.snapshot, head.position, head.highest, head.lsn, [], [], 0, now))

    async def rows(self, wanted: Sequence[tuple[Table, TableAddress]], after: Snapshot | None) -> Rows:
        """The rows of these channels as of a position that contains `after`, and that this server has reached. Those
        who ask for the same at the same time share a read. Raises ClientError."""
        if self.row_reader is None:
            raise BadRequest("this server reads no rows", field="snapshot")
        key = tuple(str(address) for _, address in wanted)
        try:
            while True:
                task = self._row_reads.get(key)
                if task is None or task.done():  # one that has ended may be too old, and to await it yields to nobody
                    task = self._row_reads[key] = asyncio.create_task(self.row_reader.rows(wanted))
                    task.add_done_callback(lambda task: self._forget_rows(key, task))
                rows = await asyncio.shield(task)
                if after is None or rows.position.contains(after):
                    break
            if not self.point.snapshot.contains(rows.position):
                await self.refresh()
        except DatabaseAway as error:
            raise Unavailable("the database is away; try again") from error
        if not self.point.snapshot.contains(rows.position):  # another primary answered: its changes would come again
            raise Unavailable("the rows are of another primary than the stream; try again")
        return rows

    def _forget_rows(self, key: tuple[str, ...], task: asyncio.Task[Rows]) -> None:
        if self._row_reads.get(key) is task:
            del self._row_reads[key]
        _ = task.cancelled() or task.exception()

    async def locate(self, address: Address) -> tuple[Table, TableAddress]:
        """The table of a channel. Raises BadChannel for a table that is not on the air, an undeclared route, a value
        that is none of its type or not in its canonical spelling; Unavailable where the database is away."""
        if isinstance(address, RoomAddress):
            raise BadChannel("rooms are not part of this version", channel=str(address))
        try:
            table = await self.tables.current(address.schema, address.table)
            if table is not None and address.route and address.route not in table.picks:
                await self.refresh()  # declared a moment ago, it is in the log and perhaps not yet here
                table = await self.tables.current(address.schema, address.table)
            if table is None or table.ended:
                raise BadChannel(
                    f"no table {address.table!r} is on the air in schema {address.schema!r}", channel=str(address)
                )
            check_route(table, address)
            values = [
                await self.tables.canonical(table, c, v) for c, v in zip(address.route, address.values, strict=True)
            ]
            if not self.point.snapshot.sees(table.xid):
                await self.refresh()
        except DatabaseAway as error:
            raise Unavailable("the database is away; try again") from error
        if tuple(values) != address.values:
            name = str(TableAddress(address.schema, address.table, address.route, tuple(values)))
            raise BadChannel(f"write this channel as {name!r}", channel=name)
        return table, address

    def _observe_read(self, batch: Batch, seconds: float) -> None:
        transactions = batch.transactions or []
        self.observe(BatchRead(len(transactions), sum(len(t.changes) for t in transactions), batch.size, seconds))

    def _observe_deliveries(self, batch: Batch, deliveries: list[Delivery]) -> None:
        seconds = time.monotonic() - batch.seen_at
        self.observe(HistoryBytes(self.history.size))
        for messages, members in deliveries:
            for transport, count in members.items():
                self.observe(Delivered(transport, seconds, count))
                for message in messages:
                    self.observe(MessagesSent(message.kind, message.table, count, message.size * count))


def check_route(table: Table, address: TableAddress) -> None:
    """Raises BadChannel where the route of `address` is not one of the table's."""
    if address.route and address.route not in table.picks:
        declared = ", ".join(repr(f"{table.channel}:{','.join(f'{c}=…' for c in route)}") for route in table.picks)
        raise BadChannel(
            f"{table.channel!r} has no route {','.join(address.route)!r}; it has {declared or 'none'}",
            channel=str(address),
        )


def _unseen(batch: Batch, position: Snapshot) -> Batch:
    if batch.transactions is None:
        return batch
    kept: list[Transaction] = [t for t in batch.transactions if not position.sees(t.xid)]
    return replace(batch, transactions=kept, size=sum(c.size for t in kept for c in t.changes))
