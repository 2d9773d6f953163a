"""What a client names, found: the table of a channel, the snapshot of a position, the rows of tables.

Invariant: what is looked up together holds at one moment. The epoch of the broadcaster counts what may change the
meaning of a channel or a position; where it moved between two looks, all is looked up again.
"""

import asyncio
from collections.abc import Sequence

from app.model.change import Table
from app.model.channel import Address, RoomAddress, TableAddress, parse
from app.model.errors import BadChannel, BadRequest, DatabaseAway, PositionRefused, ResetReason, Unavailable
from app.model.position import Position, Snapshot
from app.stream.broadcaster import Broadcaster
from app.stream.ports import RowReader, Rows, Tables

Located = list[tuple[Table, TableAddress]]
AWAY = "the database is away; try again"


class Lookup:
    """`row_reader` is None where this server reads no rows."""

    def __init__(self, broadcaster: Broadcaster, tables: Tables, row_reader: RowReader | None) -> None:
        self.broadcaster = broadcaster
        self.tables = tables
        self.row_reader = row_reader
        self._row_reads: dict[tuple[str, ...], asyncio.Task[Rows]] = {}
        broadcaster.listen(self)

    @property
    def _here(self) -> Snapshot:
        """The position of this server."""
        return self.broadcaster.point.snapshot

    async def look_up(
        self, names: Sequence[str], token: str | None
    ) -> tuple[Located, Snapshot | None, ResetReason | None]:
        """Where these channels are, and the snapshot of a position. The reason is why the position is refused.

        No definition and no incarnation changed between the looks, and nothing awaits between the last of them and the
        return. Raises BadChannel, Unavailable."""
        while True:
            epoch = self.broadcaster.epoch
            located = [await self.locate(parse(name)) for name in names]
            snapshot, refused = await self._resolved(token)
            if epoch == self.broadcaster.epoch:
                return located, snapshot, refused

    async def look_up_rows(self, names: Sequence[str], after: Snapshot | None) -> tuple[Located, Rows]:
        """Where these channels are, and their rows, under one definition. Raises ClientError (see `rows`)."""
        while True:
            epoch = self.broadcaster.epoch
            located = [await self.locate(parse(name)) for name in names]
            rows = await self.rows(located, after)
            if epoch == self.broadcaster.epoch:
                return located, rows

    def rebased(self, reason: ResetReason | None) -> None:
        """Share no read that is under way: it may be of a primary that was left. Who waits for it looks up again."""
        self._row_reads.clear()

    # Positions.

    # A definition that began after the position is no reason to refuse it. What follows the position has the event by
    # which it began, and there the table's own channels are reset, and no others.
    async def _resolved(self, token: str | None) -> tuple[Snapshot | None, ResetReason | None]:
        if token is None:
            return None, None
        try:
            snapshot = await self.resolve(token)
        except PositionRefused as refused:
            return None, refused.reason
        return snapshot, None

    async def resolve(self, token: str) -> Snapshot:
        """The snapshot of a client's position, once this server has reached it.

        Raises PositionRefused, or Unavailable where the database is away.
        """
        position = Position.decode(token)
        try:
            await self.broadcaster.event_log.accept(position)
            if not self._here.contains(position.snapshot):
                await self.broadcaster.refresh()
        except DatabaseAway as error:
            raise Unavailable(AWAY) from error
        if not self._here.contains(position.snapshot):
            skipping = self.broadcaster.event_log.skipping
            raise PositionRefused(ResetReason.EXPIRED if skipping else ResetReason.INVALID)
        return position.snapshot

    # Channels.

    async def locate(self, address: Address) -> tuple[Table, TableAddress]:
        """The table of a channel.

        Raises BadChannel for a table that is not watched, an undeclared route, a value that is none of its type or not
        in its canonical spelling. Raises Unavailable where the database is away.
        """
        if isinstance(address, RoomAddress):
            raise BadChannel("rooms are not part of this version", channel=str(address))
        try:
            table = await self.tables.current(address.schema, address.table)
            if table is not None and address.route and address.route not in table.picks:
                await self.broadcaster.refresh()  # a route declared a moment ago is perhaps not yet here
                table = await self.tables.current(address.schema, address.table)
            if table is None or table.ended:
                raise BadChannel(
                    f"no table {address.table!r} is on the air in schema {address.schema!r}", channel=str(address)
                )
            check_route(table, address)
            values = [
                await self.tables.canonical(table, c, v) for c, v in zip(address.route, address.values, strict=True)
            ]
            if not self._here.sees(table.xid):
                await self.broadcaster.refresh()
        except DatabaseAway as error:
            raise Unavailable(AWAY) from error
        if tuple(values) != address.values:
            name = str(TableAddress(address.schema, address.table, address.route, tuple(values)))
            raise BadChannel(f"write this channel as {name!r}", channel=name)
        return table, address

    # Rows.

    async def rows(self, wanted: Located, after: Snapshot | None) -> Rows:
        """The rows of these channels as of a position that contains `after`, and that this server has reached. Those
        who ask for the same at the same time share a read. Raises ClientError.

        While the fuse is open the server stands still, and gives rows of a later moment to who has nothing yet. The
        next position that he gets is a reset's."""
        if self.row_reader is None:
            raise BadRequest("this server reads no rows", field="snapshot")
        try:
            while True:
                rows = await asyncio.shield(self._row_read(self.row_reader, wanted))
                if after is None or rows.position.contains(after):
                    break
            if not self._here.contains(rows.position):
                await self.broadcaster.refresh()
        except DatabaseAway as error:
            raise Unavailable(AWAY) from error
        if not self._here.contains(rows.position):  # another primary answered: its changes would come again
            if self.broadcaster.event_log.skipping:
                if after is None:
                    return rows
                raise Unavailable("changes are not captured at the moment (the fuse is open); try again")
            raise Unavailable("the rows are of another primary than the stream; try again")
        return rows

    def _row_read(self, row_reader: RowReader, wanted: Located) -> asyncio.Task[Rows]:
        """The read of these rows that is under way, else a new one."""
        key = tuple(str(address) for _, address in wanted)
        task = self._row_reads.get(key)
        if task is None or task.done():  # one that has ended may be too old, and to await it yields to nobody
            task = self._row_reads[key] = asyncio.create_task(row_reader.rows(wanted))
            task.add_done_callback(lambda task: self._forget_rows(key, task))
        return task

    def _forget_rows(self, key: tuple[str, ...], task: asyncio.Task[Rows]) -> None:
        if self._row_reads.get(key) is task:
            del self._row_reads[key]
        _ = task.cancelled() or task.exception()


def check_route(table: Table, address: TableAddress) -> None:
    """Raises BadChannel where the route of `address` is not one of the table's."""
    if address.route and address.route not in table.picks:
        if address.route == table.key:
            raise BadChannel(
                f"the key of {table.channel!r} can be no channel: SQL takes values of its type to be equal that are "
                "written in different ways",
                channel=str(address),
            )
        declared = ", ".join(repr(f"{table.channel}:{','.join(f'{c}=…' for c in route)}") for route in table.picks)
        raise BadChannel(
            f"{table.channel!r} has no route {','.join(address.route)!r}; it has {declared or 'none'}",
            channel=str(address),
        )
