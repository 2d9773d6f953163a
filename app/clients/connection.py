"""One client: its commands in order, its units from history, and its exact join to the live stream.

Invariants: `session.point` moves only between units; history is fed only under the lock, with the sink's backlog
drained first; between "nothing is missing" and "member of the hub" nothing awaits, so no batch falls between.
"""

import asyncio
from collections.abc import Sequence

from app.clients.catchup import CatchUp
from app.clients.feed import Outbox, Sink
from app.clients.registry import Connections
from app.core import wire
from app.core.audience import Channel, Point
from app.core.session import Session, State
from app.model.errors import (
    BadRequest,
    ClientError,
    CloseCode,
    DatabaseAway,
    ResetReason,
)
from app.model.observations import Failed, Lagging, MessagesReceived, Transport
from app.model.position import Snapshot
from app.stream.broadcaster import Broadcaster
from app.stream.history import Rows

BACKLOG_BYTES = (
    128 << 10
)  # a live connection with more than this unsent, when more is to be sent, is fed at its own pace


class Connection:
    __slots__ = (
        "_beaten",
        "_begun",
        "_catchup",
        "_ended",
        "_feeder",
        "_lock",
        "_opening",
        "broadcaster",
        "connections",
        "outbox",
        "session",
        "sink",
        "transport",
    )

    def __init__(self, sink: Sink, connections: Connections) -> None:
        self.sink = sink
        self.transport: Transport = sink.transport
        self.connections = connections
        self.broadcaster: Broadcaster = connections.broadcaster
        self.session = Session(connections.channel_limit)
        self.outbox = Outbox(sink, connections.observe)
        self._catchup = CatchUp(self, self.session, self.broadcaster, sink, self.outbox, connections.observe)
        self._beaten = 0
        sink.rerouted = self._rerouted
        self._begun: Snapshot | None = None  # the position that the client came with
        self._opening: tuple[dict[str, Channel], Rows] | None = None  # channels that are to begin with these rows
        self._ended = False
        self._lock = asyncio.Lock()
        self._feeder: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Greet the client, and be known to heartbeats and shutdown."""
        self.connections.add(self)
        self.outbox.send(self.connections.welcome)

    async def receive(self, text: str) -> None:
        """Handle one inbound message. What is wrong with it is answered, never raised."""
        try:
            command = wire.decode(text)
            self.connections.observe(MessagesReceived(type(command).__name__.lower()))
            await self._handle(command)
        except ClientError as problem:
            self.outbox.refuse(problem, wire.request_id(text))
        except (ConnectionResetError, DatabaseAway):
            self._hang_up("the database went away in the midst of a replay")

    async def _handle(self, command: wire.Command) -> None:
        match command:
            case wire.Ping(id):
                self.outbox.send(wire.pong(id))
            case wire.Subscribe(id, channels, position, snapshot):
                await self.subscribe(channels, position, id, snapshot=snapshot)
            case wire.Unsubscribe(id, channels):
                await self._unsubscribe(id, channels)

    def bad_request(self, message: str) -> None:
        self.outbox.refuse(BadRequest(message))

    async def subscribe(
        self, names: Sequence[str], position: str | None, id: wire.JsonId = None, *, snapshot: bool = False
    ) -> None:
        """Join channels; with `snapshot` they begin with their rows, unless `position` can be honoured.

        Raises ClientError before anything is sent or changed. On a new connection nothing here waits for the client to
        take what is sent."""
        await self.broadcaster.turns.take()
        async with self._lock:
            await self._send_rows()
            self.session.check_subscribe(names)
            located, start, refused = await self.broadcaster.look_up(names, position)
            self._leave_live()
            try:
                if snapshot and start is None:
                    await self._open_with_rows(id, names)
                else:
                    await self._join_or_let_go(id, self._catchup.acquire(located), start, refused)
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
                self._catchup.let_go(new)

    async def _open_with_rows(self, id: wire.JsonId, names: Sequence[str]) -> None:
        """Read the rows of `names`, which are of where the connection is or later; the feeder sends them."""
        point = self.session.point
        located, rows = await self.broadcaster.look_up_rows(names, point.snapshot if point is not None else None)
        if self._over:
            return
        self._opening = self._catchup.acquire(located), rows
        self.outbox.send(wire.subscribed(id, names, None))
        self.session.point = point or self._catchup.point(rows.position)

    async def _send_rows(self) -> None:
        """Send the rows that a subscribe has left to be sent, and let their channels join."""
        if self._opening is None:
            return
        new, rows = self._opening
        refused = await self._catchup.rows(new, rows)
        if self._over or self._opening is None:
            return
        self._opening, self.session.point = None, self._catchup.point(rows.position)
        if refused is not None:
            self._catchup.reset(self.session.channels, refused)
        self.session.channels.update(new)

    async def _join(
        self, id: wire.JsonId, new: dict[str, Channel], snapshot: Snapshot | None, refused: ResetReason | None
    ) -> None:
        """Bring `new` to the connection's position, or the connection to theirs where it has none, and say so."""
        session, names = self.session, list(new)
        if session.point is None or (snapshot is not None and not session.channels):
            session.point = self.broadcaster.point if snapshot is None else self._catchup.point(snapshot)
            self._begun, snapshot = snapshot, None
        if snapshot is None:
            # A refused client gets its position with the `reset`: an EventSource cut between would never hear it.
            self.outbox.send(wire.subscribed(id, names, session.point.token if refused is None else None))
        else:
            await self._catch_up_to(snapshot)
            self.outbox.send(wire.subscribed(id, names, self._catchup.point(snapshot).token))
            refused = await self._catchup.span(new, snapshot, session.point.snapshot)
        session.channels.update(new)
        if refused is not None:
            self._catchup.reset(new, refused)
        elif session.point.token is not None and (self._begun != session.point.snapshot or self._catchup.at_the_front):
            # Not the client's own position while more is to come: a client that holds the beginning of the unit that
            # follows would take it to be closed, and the repetition to be new.
            self.outbox.send(wire.position(session.point.token))

    async def _catch_up_to(self, snapshot: Snapshot) -> None:
        while self.session.point and not self.session.point.snapshot.contains(snapshot):
            if self._over:
                raise ConnectionResetError("the connection ended meanwhile")
            await self._catchup.units()

    async def _unsubscribe(self, id: wire.JsonId, names: Sequence[str]) -> None:
        async with self._lock:
            await self._send_rows()
            self.session.check_unsubscribe(names)
            self._catchup.drop(names)
            self.outbox.send(wire.unsubscribed(id, names))

    # The live stream.

    def deliver(self, messages: Sequence[wire.Message], data: bytes, sent: int, before: Point, after: Point) -> bool:
        """What the hub could not send whole at once (app.core.audience.Subscriber)."""
        if sent:
            self.sink.rest(memoryview(data)[sent:])
        elif self.sink.backlog() > BACKLOG_BYTES:
            self.fall_behind(before)
            return False
        else:
            self.sink.write(messages)
        return True

    def _rerouted(self) -> None:
        if self.session.state is not State.LIVE:
            return
        for channel in self.session.channels.values():
            channel.rerouted()

    def heard_nothing(self) -> bool:
        """Whether no position has gone out since this was asked before."""
        before, self._beaten = self._beaten, self.broadcaster.hub.batches
        quiet, self.outbox.quiet = self.outbox.quiet, True
        live = self.session.state is State.LIVE
        return quiet and not (live and any(channel.told > before for channel in self.session.channels.values()))

    def fall_behind(self, point: Point) -> None:
        if self.session.state is State.LIVE:
            self._leave_live()
            self.session.feed(point)
            self._start_feeder()

    def _leave_live(self) -> None:
        if self.session.state is State.LIVE:
            for channel in self.session.channels.values():
                channel.leave(self)
            self.session.feed(self.broadcaster.point)

    def _resume(self) -> None:
        """Go live where nothing is missing, nothing in doubt and little unsent, else be fed."""
        if self._over or self.session.state is State.LIVE or self.session.point is None:
            return
        ready = self._catchup.at_the_front and not self._catchup.doubted and self._opening is None
        if ready and self.sink.backlog() <= BACKLOG_BYTES:
            for channel in self.session.channels.values():
                channel.join(self)
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
                    await self.sink.drained()  # also at the front: what it has not taken must not grow
                    await self._catchup.look_into_doubts()
                    self._resume()
                    # In doubt nothing is fed: a position would speak for a channel that may be none any more.
                    settled = not self._catchup.doubted
                    if self.session.state is State.FEEDING and settled and not self._catchup.at_the_front:
                        await self._catchup.units()
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

    def rebased(self, reason: ResetReason) -> None:
        """The server's own position could not be kept. Who is not live comes back with a position of its own."""
        if self.session.state is State.LIVE and self.session.channels:
            self.session.go_live(self.broadcaster.point)
            self._catchup.reset(self.session.channels, reason)
            self.fall_behind(self.broadcaster.point)
        elif self.session.state is State.FEEDING:
            self._hang_up("the position of this server was lost")

    def close(self) -> None:
        """Forget the client. Idempotent."""
        if self.session.closed:
            return
        self.session.close()
        self.sink.rerouted = None
        self.connections.remove(self)
        self._catchup.drop(list(self.session.channels))
        if self._opening is not None:
            self._catchup.let_go(self._opening[0])
            self._opening = None
        if self._feeder is not None:
            self._feeder.cancel()
