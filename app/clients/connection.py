"""One client: its commands in order, its units from history, and its exact join to the live stream.

Invariants
- `session.point` moves only between units.
- History is fed only under the lock, when the client has taken what it was sent before.
- Nothing awaits between the finding that the client misses nothing and its joining the hub, so it misses no batch.
"""

import asyncio
from collections.abc import Sequence

from app.clients.authentication import authenticate, count, leave
from app.clients.catchup import CatchUp, drop
from app.clients.joining import Joining
from app.clients.judging import Judging
from app.clients.named import Named
from app.clients.outbox import Outbox, Sink
from app.clients.registry import Registry
from app.core import wire
from app.core.audience import Point
from app.core.session import Session, State
from app.model.claims import Identity
from app.model.errors import BadRequest, ClientError, CloseCode, DatabaseAway, RateLimited, ResetReason, Unauthorized
from app.model.observations import Failed, Lagging, MessagesReceived, Transport
from app.model.position import Snapshot
from app.stream.broadcaster import Broadcaster
from app.stream.lookup import Located

# Bytes unsent above which a connection does not stay in the live stream, and is fed at its own pace.
BACKLOG_BYTES = 128 << 10
TOKEN_FIRST = 'show a token first: {"type":"auth","token":"…"}'
UNJUDGED = -1  # an epoch that the broadcaster never has
CUT_REPLAY = "the database went away in the midst of a replay"


class Connection(Named):
    __slots__ = (
        "_beaten",
        "_catchup",
        "_feeder",
        "_joining",
        "_judging",
        "_lock",
        "broadcaster",
        "outbox",
        "registry",
        "session",
        "sink",
        "transport",
    )

    def __init__(self, sink: Sink, registry: Registry, identity: Identity | None) -> None:
        """`identity` is None for a client that has to show a token before it is served."""
        self.sink = sink
        self.transport: Transport = sink.transport
        super().__init__(identity)
        self.registry = registry
        self.broadcaster: Broadcaster = registry.broadcaster
        self.session = Session(registry.channel_limit)
        self.outbox = Outbox(sink, registry.observe)
        self._judging = Judging(self, registry.rights)
        self._catchup = CatchUp(self, self.session, registry.lookup, sink, self.outbox, registry.observe, self._judging)
        self._joining = Joining(self.session, registry.lookup, self._catchup, self.outbox)
        self._beaten = 0  # the hub's count of batches at the last beat
        self._lock = asyncio.Lock()
        self._feeder: asyncio.Task[None] | None = None
        sink.rerouted = self._regroup

    def open(self) -> None:
        """Greet the client, and be known to heartbeats and shutdown. Raises RateLimited before anything is sent."""
        count(self, self.identity.user)
        self.registry.add(self)
        self.registry.door.arrive(self)
        self.outbox.send(self.registry.welcome)

    async def receive(self, text: str) -> None:
        """Handle one inbound message. What is wrong with it is answered. Raises RateLimited alone."""
        try:
            command = wire.decode(text)
            self.registry.observe(MessagesReceived(type(command).__name__.lower()))
            if not self.known and not isinstance(command, wire.Auth | wire.Ping):
                raise self.registry.door.refuse("none", "missing", TOKEN_FIRST)
            await self._handle(command)
        except RateLimited:
            raise
        except ClientError as problem:
            self.outbox.refuse(problem, wire.request_id(text))
        except (ConnectionResetError, DatabaseAway):
            self._hang_up(CUT_REPLAY)

    async def _handle(self, command: wire.Command) -> None:
        match command:
            case wire.Ping(id):
                self.outbox.send(wire.pong(id))
            case wire.Auth(id, token):
                await authenticate(self, token, id)
            case wire.Subscribe(id, channels, position, snapshot):
                await self.subscribe(channels, position, id, snapshot=snapshot)
            case wire.Unsubscribe(id, channels):
                await self._unsubscribe(id, channels)

    def become(self, identity: Identity) -> None:
        """The client is who it says from here on: all its channels are judged anew, where the connection is."""
        self.identity, self.known = identity, True
        self.judge_anew()

    def judge_anew(self) -> None:
        """Judge the rights to all channels, where the connection is, before anything more is sent."""
        self._judging.epoch = UNJUDGED
        self.fall_behind(self.broadcaster.point)

    def expel(self, problem: Unauthorized) -> None:
        """Tell the client that it may not stay, and end its stream."""
        self.outbox.refuse(problem)
        self.end(CloseCode.UNAUTHORIZED, problem.message)

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
            await self._joining.send_rows()
            self.session.check_subscribe(names)
            located, start, refused = await self._joining.find(names, position, rows=snapshot)
            self._leave_live()
            try:
                if snapshot and (start is None or not all(start.sees(table.xid) for table, _ in located)):
                    await self._joining.open_with_rows(id, names)
                else:
                    await self._join(id, located, start, refused)
            finally:
                self._resume()

    async def _join(
        self,
        id: wire.JsonId,
        located: Located,
        start: Snapshot | None,
        refused: ResetReason | None,
    ) -> None:
        try:
            await self._joining.join(id, located, start, refused)
        except (ConnectionResetError, DatabaseAway):
            self._hang_up(CUT_REPLAY)

    async def _unsubscribe(self, id: wire.JsonId, names: Sequence[str]) -> None:
        async with self._lock:
            await self._joining.send_rows()
            self.session.check_unsubscribe(names)
            self.drop(names)
            self.outbox.send(wire.unsubscribed(id, names))

    def drop(self, names: Sequence[str]) -> None:
        """Give up channels that the client has, live or not."""
        drop(self.session, self.broadcaster.hub, self, names)

    # The live stream.

    def deliver(self, messages: Sequence[wire.Message], data: bytes, sent: int, before: Point) -> bool:
        """Write what the hub could not send whole at once (app.core.audience.Subscriber)."""
        if sent:
            self.sink.write_rest(memoryview(data)[sent:])
        elif self.sink.backlog() > BACKLOG_BYTES:
            self.fall_behind(before)
            return False
        else:
            self.sink.write(messages)
        return True

    def _regroup(self) -> None:
        if self.session.state is not State.LIVE:
            return
        for channel in self.session.channels.values():
            channel.regroup()

    def beat(self, position: wire.Message | None) -> None:
        """Say something if no position has gone out since the beat before: to a live client the `position` message, to
        the others a `pong`, for a position might close a unit that is open.

        `position` is None where it is withheld: a live client gets a `pong` too. A client that is not live hears
        nothing while it has not taken what it was sent before."""
        before, self._beaten = self._beaten, self.broadcaster.hub.batches
        quiet, self.outbox.quiet = self.outbox.quiet, True
        if not quiet or self.session.closed:
            return
        if self.session.state is not State.LIVE:
            if not self.sink.backlog():
                self.outbox.send(wire.pong(None))
        elif not any(channel.told > before for channel in self.session.channels.values()):
            self.outbox.send(position or wire.pong(None))

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
        """Go live where nothing is missing, all is judged, no table is doubted and little is unsent; otherwise be
        fed."""
        if self.session.over or self.session.state is State.LIVE or self.session.point is None:
            return
        ready = self._catchup.at_the_front and self._judging.current and not self._catchup.doubted
        ready = ready and self._joining.opening is None
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
        self.registry.observe(Lagging(+1))  # not in _start_feeder: a task may be cancelled before it begins
        try:
            while not self.session.over and self.session.state is not State.LIVE:
                async with self._lock:
                    await self._joining.send_rows()
                    await self.sink.drained()  # also when nothing is missing: a backlog must not grow
                    await self._catchup.look_into_doubts()
                    await self._judging.settle()
                    self._resume()
                    # Nothing is fed while a table is doubted: a position would speak for a channel that may be gone.
                    settled = not self._catchup.doubted
                    if self.session.state is State.FEEDING and settled and not self._catchup.at_the_front:
                        await self._catchup.send_units()
        except (ConnectionResetError, DatabaseAway):
            self._hang_up(CUT_REPLAY)
        except Exception as error:  # noqa: BLE001 - a bug must not leave a client waiting in silence
            self.registry.observe(Failed("feeder", error))
            self._hang_up("the server failed in the midst of a replay")
        finally:
            self._feeder = None
            self.registry.observe(Lagging(-1))

    def _hang_up(self, reason: str) -> None:
        """End a stream that could go on only with a repetition: the client comes back with its last position."""
        self.end(CloseCode.RESTART, reason)

    def end(self, code: CloseCode, reason: str) -> None:
        self.session.over = True
        self.sink.close(code, reason)

    def rebase(self, reason: ResetReason) -> None:
        """The server's own position could not be kept: reset a live client, and send away one that is being fed, which
        comes back with a position of its own."""
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
        self.registry.remove(self)
        leave(self)
        self.drop(list(self.session.channels))
        self._joining.close()
        if self._feeder is not None:
            self._feeder.cancel()
