"""One client: its commands in order, its units from history, and its exact join to the live stream.

Invariants: `session.point` moves only between units; history is fed only under the lock, with the sink's backlog
drained first; between "nothing is missing" and "member of the hub" nothing awaits, so no batch falls between.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from app import wire
from app.broadcaster import Broadcaster
from app.change import Table
from app.channel import Address, parse
from app.connections import Connections
from app.errors import BadChannel, BadRequest, ClientError, CloseCode, DatabaseAway, PositionRefused, ResetReason
from app.feed import Feed
from app.hub import Channel, Point
from app.observe import Lagging, MessagesSent, Refused, Reset, Transport
from app.position import Snapshot
from app.session import Session, State

AWAY_SECONDS = 1.0
BACKLOG_BYTES = 1 << 20  # a live connection with more than this unsent is fed at its own pace


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


class Connection:
    def __init__(self, sink: Sink, connections: Connections) -> None:
        self.sink = sink
        self.connections = connections
        self.broadcaster: Broadcaster = connections.broadcaster
        self.session = Session(connections.channel_limit)
        self.quiet = True
        self._lock = asyncio.Lock()
        self._feeder: asyncio.Task[None] | None = None

    @property
    def transport(self) -> Transport:
        return self.sink.transport

    def open(self) -> None:
        """Greet the client, and be known to heartbeats and shutdown."""
        self.connections.add(self)
        self.send(self.connections.welcome)

    async def receive(self, text: str) -> None:
        """Handle one inbound message. What is wrong with it is answered, never raised."""
        try:
            await self._handle(wire.decode(text))
        except ClientError as problem:
            self.refuse(problem, wire.request_id(text))

    async def _handle(self, command: wire.Command) -> None:
        match command:
            case wire.Ping(id):
                self.send(wire.pong(id))
            case wire.Subscribe(id, channels, position):
                await self.subscribe(channels, position, id)
            case wire.Unsubscribe(id, channels):
                await self._unsubscribe(id, channels)

    def refuse(self, problem: ClientError, id: wire.JsonId = None) -> None:
        """Answer with an `error` message."""
        self.connections.observe(Refused(problem.code))
        self.send(wire.error(problem, id))

    def bad_request(self, message: str) -> None:
        self.refuse(BadRequest(message))

    async def subscribe(self, names: Sequence[str], position: str | None, id: wire.JsonId = None) -> None:
        """Join channels. Raises ClientError before anything is sent or changed."""
        self.session.check_subscribe(names)
        located = [await self.broadcaster.locate(parse(name)) for name in names]
        snapshot, refused = await self._resolve(position, [table for table, _ in located])
        async with self._lock:
            self._leave_live()
            await self._join_or_let_go(id, self._acquire(located), snapshot, refused)
            self._resume()

    async def _join_or_let_go(
        self, id: wire.JsonId, new: dict[str, Channel], snapshot: Snapshot | None, refused: ResetReason | None
    ) -> None:
        try:
            await self._join(id, new, snapshot, refused)
        except (ConnectionResetError, DatabaseAway):
            self.sink.close(CloseCode.RESTART, "the database went away in the midst of a replay")
        finally:
            if self.session.closed or not all(name in self.session.channels for name in new):
                self._let_go(new)

    async def _resolve(self, position: str | None, tables: list[Table]) -> tuple[Snapshot | None, ResetReason | None]:
        if position is None:
            return None, None
        try:
            snapshot = await self.broadcaster.resolve(position)
        except PositionRefused as refused:
            return None, refused.reason
        if not all(snapshot.sees(table.xid) for table in tables):
            return None, ResetReason.SCHEMA
        return snapshot, None

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
            snapshot = None
        if snapshot is None:
            self.send(wire.subscribed(id, names, session.point.token))
        else:
            await self._catch_up_to(snapshot)
            self.send(wire.subscribed(id, names, self._point(snapshot).token))
            refused = await self._replay(new, snapshot, session.point.snapshot)
        session.channels.update(new)
        if refused is not None:
            self.reset(names, refused)
        elif session.point.token is not None:
            self.send(wire.position(session.point.token))

    def _point(self, snapshot: Snapshot) -> Point:
        return Point(snapshot, self.broadcaster.mint(snapshot))

    async def _catch_up_to(self, snapshot: Snapshot) -> None:
        while self.session.point and not self.session.point.snapshot.contains(snapshot):
            await self._feed_units()

    async def _replay(self, new: dict[str, Channel], since: Snapshot, upto: Snapshot) -> ResetReason | None:
        """Send what the new channels missed: one unit, which the caller closes."""
        try:
            await Feed(self.broadcaster, self.sink, new, self.sent).span(since, upto)
        except PositionRefused as refused:
            return refused.reason
        return None

    async def _unsubscribe(self, id: wire.JsonId, names: Sequence[str]) -> None:
        async with self._lock:
            self.session.check_unsubscribe(names)
            self.drop(names)
            self.send(wire.unsubscribed(id, names))

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
        self.quiet = self.quiet and messages[-1].position is None
        self.sink.write(messages)
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
        """Go live where nothing is missing, else be fed."""
        if self.session.closed or self.session.state is State.LIVE or self.session.point is None:
            return
        if self._at_the_front():
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
            while not self.session.closed and self.session.state is not State.LIVE:
                async with self._lock:
                    self._resume()
                    if self.session.state is State.FEEDING:
                        await self._feed_units()
        except (ConnectionResetError, DatabaseAway):
            self.sink.close(CloseCode.RESTART, "the database went away in the midst of a replay")
        finally:
            self._feeder = None
            self.connections.observe(Lagging(-1))

    async def _feed_units(self) -> None:
        """Send the next units, or reset where history no longer has them."""
        session = self.session
        assert session.point is not None
        feed = Feed(self.broadcaster, self.sink, session.channels, self.sent)
        await self.sink.drained()
        try:
            async for point in feed.units(session.point):
                session.point = point
        except PositionRefused as refused:
            session.point = self.broadcaster.point
            self.reset(list(session.channels), refused.reason)
        except DatabaseAway:
            if feed.open:
                raise
            await asyncio.sleep(AWAY_SECONDS)
        if feed.schema:
            await self._revalidate(feed.schema)

    async def _revalidate(self, relids: set[int]) -> None:
        """Give up the channels that the tables' new definition no longer has."""
        for channel in [c for c in self.session.channels.values() if c.relid in relids]:
            try:
                table, _ = await self.broadcaster.locate(parse(channel.name))
                if table.relid != channel.relid:
                    raise BadChannel(f"{channel.name!r} is another table now", channel=channel.name)
            except BadChannel as problem:
                self.refuse(problem)
                self.drop([channel.name])
                self.send(wire.unsubscribed(None, [channel.name]))

    # Saying things.

    def send(self, message: wire.Message) -> None:
        self.sent([message])

    def sent(self, messages: Sequence[wire.Message]) -> None:
        """Write messages that this client alone gets, and count them."""
        self.quiet = self.quiet and messages[-1].position is None
        self.sink.write(messages)
        for message in messages:
            self.connections.observe(MessagesSent(message.kind, message.table, 1, len(message.json)))

    def reset(self, names: Sequence[str], reason: ResetReason) -> None:
        """Tell that the stream of these channels goes on from the connection's position, with a hole before it."""
        assert self.session.point is not None
        self.connections.observe(Reset(reason.value, len(names)))
        self.send(wire.reset(names, reason, self.session.point.token))

    async def close(self) -> None:
        """Forget the client. Idempotent."""
        if self.session.closed:
            return
        self.session.close()
        self.connections.remove(self)
        self.drop(list(self.session.channels))
        if self._feeder is not None:
            self._feeder.cancel()
