"""One client: its commands in order, its units from history, and its exact join to the live stream.

Invariants: `session.point` moves only between units; history is fed only under the lock, with the sink's backlog
drained first; between "nothing is missing" and "member of the hub" nothing awaits, so no batch falls between.
"""

import asyncio
from collections.abc import Mapping, Sequence

from app import wire
from app.broadcaster import Broadcaster
from app.change import Table
from app.channel import Address, parse
from app.connections import Connections
from app.errors import (
    BadChannel,
    BadRequest,
    ClientError,
    CloseCode,
    DatabaseAway,
    PositionRefused,
    ResetReason,
    Unavailable,
)
from app.feed import Feed, Line, Sink
from app.history import Rows
from app.hub import Channel, Point
from app.observe import Failed, Lagging, Reset, Transport
from app.position import Snapshot
from app.session import Session, State

AWAY_SECONDS = 1.0
BACKLOG_BYTES = 1 << 20  # a live connection with more than this unsent is fed at its own pace


class Connection:
    def __init__(self, sink: Sink, connections: Connections) -> None:
        self.sink = sink
        self.connections = connections
        self.broadcaster: Broadcaster = connections.broadcaster
        self.session = Session(connections.channel_limit)
        self.line = Line(sink, connections.observe)
        self._doubted: set[int] = set()  # tables (relids) whose channels may have lost their meaning
        self._begun: Snapshot | None = None  # the position that the client came with
        self._opening: tuple[dict[str, Channel], Rows] | None = None  # channels that are to begin with these rows
        self._ended = False
        self._lock = asyncio.Lock()
        self._feeder: asyncio.Task[None] | None = None

    @property
    def transport(self) -> Transport:
        return self.sink.transport

    def open(self) -> None:
        """Greet the client, and be known to heartbeats and shutdown."""
        self.connections.add(self)
        self.line.send(self.connections.welcome)

    async def receive(self, text: str) -> None:
        """Handle one inbound message. What is wrong with it is answered, never raised."""
        try:
            await self._handle(wire.decode(text))
        except ClientError as problem:
            self.line.refuse(problem, wire.request_id(text))

    async def _handle(self, command: wire.Command) -> None:
        match command:
            case wire.Ping(id):
                self.line.send(wire.pong(id))
            case wire.Subscribe(id, channels, position, snapshot):
                await self.subscribe(channels, position, id, snapshot=snapshot)
            case wire.Unsubscribe(id, channels):
                await self._unsubscribe(id, channels)

    def bad_request(self, message: str) -> None:
        self.line.refuse(BadRequest(message))

    async def subscribe(
        self, names: Sequence[str], position: str | None, id: wire.JsonId = None, *, snapshot: bool = False
    ) -> None:
        """Join channels; with `snapshot` they begin with their rows, unless `position` can be honoured.

        Raises ClientError before anything is sent or changed. On a new connection nothing here waits for the client to
        take what is sent."""
        self.session.check_subscribe(names)
        async with self._lock:
            await self._send_rows()
            located, start, refused = await self.broadcaster.look_up(names, position)
            if snapshot and start is None:
                await self._open_with_rows(id, names)
                return
            self._leave_live()
            try:
                await self._join_or_let_go(id, self._acquire(located), start, refused)
            finally:
                self._resume()

    async def _join_or_let_go(
        self, id: wire.JsonId, new: dict[str, Channel], snapshot: Snapshot | None, refused: ResetReason | None
    ) -> None:
        try:
            await self._join(id, new, snapshot, refused)
        except (ConnectionResetError, DatabaseAway):
            self._hang_up("the database went away in the midst of a replay")
        finally:
            if self.session.closed or not all(name in self.session.channels for name in new):
                self._let_go(new)

    async def _open_with_rows(self, id: wire.JsonId, names: Sequence[str]) -> None:
        """Read the rows of `names`, and leave it to the feeder to send them."""
        after = self.broadcaster.point.snapshot if self.session.state is State.LIVE else None
        if after is None and self.session.point is not None:
            after = self.session.point.snapshot
        located, rows = await self.broadcaster.look_up_rows(names, after)
        self._leave_live()
        if self._over:
            return
        self._opening = self._acquire(located), rows
        self.line.send(wire.subscribed(id, names, None))
        self.session.feed(self.session.point or self._point(rows.position))
        self._start_feeder()

    async def _send_rows(self) -> None:
        """Bring the connection to where the rows are of, send them, and let their channels join: one unit."""
        if self._opening is None:
            return
        session, (new, rows) = self.session, self._opening
        assert session.point is not None
        point, refused = self._point(rows.position), None
        if session.channels:
            refused = await self._replay(session.channels, session.point.snapshot, rows.position)
        pages = {name: rows.channels[name] for name in new}
        for message in wire.snapshot(pages, None if refused else point.token, self.broadcaster.hub.limit):
            await self.sink.drained()
            self.line.sent([message])
        if self._over or self._opening is None:
            return
        self._opening, session.point = None, point
        if refused is not None:
            self.reset(list(session.channels), refused)
            self._doubt(session.channels)
        session.channels.update(new)

    def _acquire(self, located: list[tuple[Table, Address]]) -> dict[str, Channel]:
        acquire = self.broadcaster.hub.acquire
        return {str(a): acquire(table, str(a), a.route, a.values) for table, a in located}

    async def _join(
        self, id: wire.JsonId, new: dict[str, Channel], snapshot: Snapshot | None, refused: ResetReason | None
    ) -> None:
        """Bring `new` to the connection's position, or the connection to theirs where it has none, and say so."""
        session, names = self.session, list(new)
        if session.point is None or (snapshot is not None and not session.channels):
            session.point = self.broadcaster.point if snapshot is None else self._point(snapshot)
            self._begun, snapshot = snapshot, None
        if snapshot is None:
            self.line.send(wire.subscribed(id, names, session.point.token))
        else:
            await self._catch_up_to(snapshot)
            self.line.send(wire.subscribed(id, names, self._point(snapshot).token))
            refused = await self._replay(new, snapshot, session.point.snapshot)
        session.channels.update(new)
        if refused is not None:
            self._doubt(new)
            self.reset(names, refused)
        elif session.point.token is not None and (self._begun != session.point.snapshot or self._at_the_front()):
            # Not the client's own position while more is to come: a client that holds the beginning of the unit that
            # follows would take it to be closed, and the repetition to be new.
            self.line.send(wire.position(session.point.token))

    def _point(self, snapshot: Snapshot) -> Point:
        return Point(snapshot, self.broadcaster.mint(snapshot))

    async def _catch_up_to(self, snapshot: Snapshot) -> None:
        while self.session.point and not self.session.point.snapshot.contains(snapshot):
            if self._over:
                raise ConnectionResetError("the connection ended meanwhile")
            await self._feed_units()

    async def _replay(self, new: dict[str, Channel], since: Snapshot, upto: Snapshot) -> ResetReason | None:
        """Send what the new channels missed: one unit, which the caller closes."""
        try:
            await Feed(self.broadcaster, self.sink, new, self.line.sent).span(since, upto)
        except PositionRefused as refused:
            return refused.reason
        return None

    async def _unsubscribe(self, id: wire.JsonId, names: Sequence[str]) -> None:
        async with self._lock:
            await self._send_rows()
            self.session.check_unsubscribe(names)
            self.drop(names)
            self.line.send(wire.unsubscribed(id, names))

    def _let_go(self, new: dict[str, Channel]) -> None:
        for name, channel in new.items():
            self.session.channels.pop(name, None)
            self.broadcaster.hub.release(channel)

    def drop(self, names: Sequence[str]) -> None:
        """Give up channels, live or not."""
        for name in names:
            channel = self.session.channels.pop(name)
            channel.members.discard(self)
            self.broadcaster.hub.release(channel)

    # The live stream.

    def deliver(self, messages: Sequence[wire.Message], after: Point) -> None:
        self.line.write(messages)
        if self.sink.backlog() > BACKLOG_BYTES:
            self.fall_behind(after)

    def fall_behind(self, point: Point) -> None:
        if self.session.state is State.LIVE:
            self._leave_live()
            self.session.feed(point)
            self._start_feeder()

    def _leave_live(self) -> None:
        if self.session.state is State.LIVE:
            for channel in self.session.channels.values():
                channel.members.discard(self)
            self.session.feed(self.broadcaster.point)

    def _at_the_front(self) -> bool:
        point = self.session.point
        return point is not None and point.snapshot.contains(self.broadcaster.point.snapshot)

    def _resume(self) -> None:
        """Go live where nothing is missing and nothing in doubt, else be fed."""
        if self._over or self.session.state is State.LIVE or self.session.point is None:
            return
        if self._at_the_front() and not self._doubted and self._opening is None:
            for channel in self.session.channels.values():
                channel.members.add(self)
            self.session.go_live(self.broadcaster.point)
        else:
            self.session.feed(self.session.point)
            self._start_feeder()

    # History.

    def _start_feeder(self) -> None:
        if self._feeder is None:
            self._feeder = asyncio.create_task(self._run_feeder())

    async def _run_feeder(self) -> None:
        self.connections.observe(Lagging(+1))  # here and not by the starter: a task may be cancelled before it begins
        try:
            while not self._over and self.session.state is not State.LIVE:
                async with self._lock:
                    await self._send_rows()
                    await self._revalidate()
                    self._resume()
                    if self.session.state is State.FEEDING and not self._at_the_front():
                        await self._feed_units()
        except (ConnectionResetError, DatabaseAway):
            self._hang_up("the database went away in the midst of a replay")
        except Exception as error:  # noqa: BLE001 - a bug must not leave a client waiting in silence
            self.connections.observe(Failed("feeder", error))
            self._hang_up("the server failed in the midst of a replay")
        finally:
            self._feeder = None
            self.connections.observe(Lagging(-1))

    @property
    def _over(self) -> bool:
        return self._ended or self.session.closed

    def _hang_up(self, reason: str) -> None:
        """The stream can't go on without a repetition: the client comes back with its last position."""
        self._ended = True
        self.sink.close(CloseCode.RESTART, reason)

    async def _feed_units(self) -> None:
        """Send the next units, or reset where history no longer has them."""
        session = self.session
        assert session.point is not None
        feed = Feed(self.broadcaster, self.sink, session.channels, self.line.sent)
        await self.sink.drained()
        try:
            async for point in feed.units(session.point):
                session.point = point
        except PositionRefused as refused:
            session.point = self.broadcaster.point
            self.reset(list(session.channels), refused.reason)
            self._doubt(session.channels)
        except DatabaseAway:
            if feed.open:
                raise
            await asyncio.sleep(AWAY_SECONDS)
        self._doubted |= feed.schema

    def _doubt(self, channels: Mapping[str, Channel]) -> None:
        self._doubted |= {channel.relid for channel in channels.values()}

    async def _revalidate(self) -> None:
        """Give up the channels that the present definitions of doubted tables no longer have."""
        relids, self._doubted = self._doubted, set()
        for channel in [c for c in self.session.channels.values() if c.relid in relids]:
            try:
                table, _ = await self.broadcaster.locate(parse(channel.name))
                if table.relid != channel.relid:
                    raise BadChannel(f"{channel.name!r} is another table now", channel=channel.name)
            except BadChannel as problem:
                self.line.refuse(problem)
                self.drop([channel.name])
                self.line.send(wire.unsubscribed(None, [channel.name]))
            except Unavailable:
                self._doubted |= relids
                await asyncio.sleep(AWAY_SECONDS)
                return

    def rebased(self, reason: ResetReason) -> None:
        """The server's own position could not be kept. Who is not live comes back with a position of its own."""
        if self.session.state is State.LIVE and self.session.channels:
            self.session.go_live(self.broadcaster.point)
            self.reset(list(self.session.channels), reason)
            self._doubt(self.session.channels)
            self.fall_behind(self.broadcaster.point)
        elif self.session.state is State.FEEDING:
            self._hang_up("the position of this server was lost")

    def reset(self, names: Sequence[str], reason: ResetReason) -> None:
        """Tell that the stream of these channels goes on from the connection's position, with a hole before it."""
        assert self.session.point is not None
        self.connections.observe(Reset(reason.value, len(names)))
        self.line.send(wire.reset(names, reason, self.session.point.token))

    async def close(self) -> None:
        """Forget the client. Idempotent."""
        if self.session.closed:
            return
        self.session.close()
        self.connections.remove(self)
        self.drop(list(self.session.channels))
        if self._opening is not None:
            self._let_go(self._opening[0])
            self._opening = None
        if self._feeder is not None:
            self._feeder.cancel()
