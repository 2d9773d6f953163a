"""What a connection does with its channels while it is not live: send history, reset channels, and look into doubts.

A table is *doubted* when its channels may have lost their meaning: its definition changed, or a position was lost. What
its present definition does not have is given up, and the client is told.

Invariants
- `session.point` moves only between units.
- Everything here runs under the connection's lock.
"""

import asyncio
from collections.abc import Mapping, Sequence

from app.clients.feed import Feed
from app.clients.judging import Judging
from app.clients.outbox import Outbox, Sink
from app.core import wire
from app.core.audience import Channel, Point, Subscriber
from app.core.hub import Hub
from app.core.session import Session
from app.model.change import Table
from app.model.channel import TableAddress, Topic, parse
from app.model.errors import BadChannel, DatabaseAway, PositionRefused, ResetReason, Unavailable
from app.model.observations import Failed, Observer, Reset
from app.model.position import Snapshot
from app.stream.backoff import jittered
from app.stream.lookup import Lookup
from app.stream.ports import Rows

AWAY_SECONDS = 1.0

Lost = tuple[ResetReason, Mapping[str, Channel]]  # channels that are to be reset


class CatchUp:
    """`member` is the connection as the hub knows it."""

    __slots__ = ("_lookup", "_member", "_observe", "_outbox", "_sink", "broadcaster", "doubted", "judging", "session")

    def __init__(
        self,
        member: Subscriber,
        session: Session,
        lookup: Lookup,
        sink: Sink,
        outbox: Outbox,
        observe: Observer,
        judging: Judging,
    ) -> None:
        self.session = session
        self.judging = judging
        self.broadcaster = lookup.broadcaster
        self._lookup = lookup
        self._member = member
        self._sink = sink
        self._outbox = outbox
        self._observe = observe
        self.doubted: set[Topic] = set()  # tables whose channels may have lost their meaning

    # Channels.

    def acquire(self, located: list[tuple[Table, TableAddress]]) -> dict[str, Channel]:
        acquire = self.broadcaster.hub.acquire
        return {str(a): acquire(table.relid, str(a), a.route, a.values) for table, a in located}

    def let_go(self, channels: Mapping[str, Channel]) -> None:
        """Undo `acquire`."""
        for name, channel in channels.items():
            self.session.channels.pop(name, None)
            self.broadcaster.hub.release(channel)

    # Positions.

    def point(self, snapshot: Snapshot) -> Point:
        return Point(snapshot, self.broadcaster.mint(snapshot))

    @property
    def at_the_front(self) -> bool:
        point = self.session.point
        return point is not None and point.snapshot.contains(self.broadcaster.point.snapshot)

    def reset(self, channels: Mapping[str, Channel], reason: ResetReason) -> None:
        """Tell the client that these channels go on from the connection's position, and that changes before it are
        lost. The tables of these channels are doubted from now on."""
        assert self.session.point is not None
        self._observe(Reset(reason.value, len(channels)))
        self._outbox.send(wire.reset(list(channels), reason, self.session.point.token))
        self.doubted |= {channel.topic for channel in channels.values()}

    # Units.

    async def send_units(self) -> None:
        """Send the next units to channels that were judged, or reset where history no longer has them. Raises
        ConnectionResetError, and DatabaseAway in the midst of a unit."""
        session = self.session
        await self.judging.settle()
        assert session.point is not None
        feed = Feed(self.broadcaster, self._sink, session.channels, self._outbox.write, lambda: self.judging.current)
        try:
            async for point in feed.send_units(session.point):
                session.point = point
        except PositionRefused as refused:
            session.point = self.broadcaster.point
            # The position was good when it came, or was given here: the event log dropped what follows it since.
            overrun = refused.reason is ResetReason.EXPIRED
            self.reset(session.channels, ResetReason.OVERRUN if overrun else refused.reason)
        except DatabaseAway:
            if feed.open:
                raise
            await asyncio.sleep(jittered(AWAY_SECONDS))
        except ConnectionResetError:
            raise
        except Exception as error:  # noqa: BLE001 - who came back for the same would fail again, so he goes on behind it
            self._observe(Failed("feeder", error))
            session.point = self.broadcaster.point
            self.reset(session.channels, ResetReason.LOST)
        self.doubted |= feed.schema

    async def send_span(self, channels: Mapping[str, Channel], since: Snapshot, upto: Snapshot) -> Lost | None:
        """Send what `channels` missed, as a unit that the caller closes. Returns those for which history does not have
        it, and why, or None."""
        feed = Feed(self.broadcaster, self._sink, channels, self._outbox.write)
        try:
            await feed.send_span(since, upto)
        except PositionRefused as refused:
            if refused.reason is not ResetReason.SCHEMA:
                return refused.reason, channels
            return refused.reason, {name: c for name, c in channels.items() if c.topic in feed.schema}
        return None

    async def send_rows(self, new: Mapping[str, Channel], rows: Rows) -> Lost | None:
        """Bring the subscribed channels to the position of the rows, and send the rows of `new`, all as one unit.

        Returns the subscribed channels that could not be brought there, and why, or None. With a reason the unit is
        open, and the caller closes it."""
        session = self.session
        assert session.point is not None
        lost = None
        if session.channels:
            lost = await self.send_span(session.channels, session.point.snapshot, rows.position)
        reached = self.broadcaster.point.snapshot.contains(rows.position)  # not so while the fuse is open
        token = self.broadcaster.mint(rows.position) if reached and not lost else None
        pages = {name: rows.channels[name] for name in new}
        for message in wire.snapshot(pages, token, self.broadcaster.hub.fed_limit):
            await self._sink.drained()
            self._outbox.write([message])
        if not pages and token is not None:
            self._outbox.send(wire.position(token))
        return lost

    async def look_into_doubts(self) -> None:
        """Give up the channels that the present definitions of doubted tables no longer have."""
        topics, self.doubted = self.doubted, set()
        for channel in [c for c in self.session.channels.values() if c.topic in topics]:
            try:
                table, _ = await self._lookup.locate(parse(channel.name))
                if table.relid != channel.topic:
                    raise BadChannel(f"{channel.name!r} is another table now", channel=channel.name)
            except BadChannel as problem:
                self._outbox.refuse(problem)
                drop(self.session, self.broadcaster.hub, self._member, [channel.name])
                self._outbox.send(wire.unsubscribed(None, [channel.name]))
            except Unavailable:
                self.doubted |= topics
                await asyncio.sleep(AWAY_SECONDS)
                return


def drop(session: Session, hub: Hub, member: Subscriber, names: Sequence[str]) -> None:
    """Give up channels that are subscribed, live or not."""
    for name in names:
        channel = session.channels.pop(name)
        channel.leave(member)
        hub.release(channel)
