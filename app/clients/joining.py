"""How channels join a connection: from a position, from its present rows, or from where the connection is.

Invariants: a channel is in `session.channels` once it has all up to `session.point`; a channel that was acquired and
did not join is released. Everything here runs under the connection's lock.
"""

from collections.abc import Sequence

from app.clients.catchup import CatchUp, Lost
from app.clients.outbox import Outbox
from app.core import wire
from app.core.audience import Channel
from app.core.session import Session
from app.model.errors import ResetReason
from app.model.position import Snapshot
from app.stream.lookup import Located, Lookup
from app.stream.ports import Rows


class Joining:
    """`opening` are the channels that are to begin with these rows, which the client has not been sent yet."""

    __slots__ = ("_begun", "_broadcaster", "_catchup", "_judging", "_lookup", "_outbox", "_session", "opening")

    def __init__(self, session: Session, lookup: Lookup, catchup: CatchUp, outbox: Outbox) -> None:
        self._session = session
        self._lookup = lookup
        self._broadcaster = lookup.broadcaster
        self._catchup = catchup
        self._judging = catchup.judging
        self._outbox = outbox
        self._begun: Snapshot | None = None  # the position that the client came with
        self.opening: tuple[dict[str, Channel], Rows] | None = None

    async def find(
        self, names: Sequence[str], position: str | None, *, rows: bool
    ) -> tuple[Located, Snapshot | None, ResetReason | None]:
        """Where these channels are and what `position` is (app.stream.lookup), for a client that may have them, with
        their `rows` where they are wanted. Raises ClientError."""
        while True:
            found = await self._lookup.look_up(names, position)
            epoch = self._broadcaster.epoch
            await self._judging.check(names, rows=rows)
            if epoch == self._broadcaster.epoch:
                if not self._session.channels:
                    self._judging.epoch = epoch
                return found

    async def join(
        self,
        id: wire.JsonId,
        located: Located,
        snapshot: Snapshot | None,
        refused: ResetReason | None,
    ) -> None:
        """Let the channels of these tables join, and release them where that does not succeed.

        Raises ConnectionResetError, and DatabaseAway in the midst of a unit."""
        new = self._catchup.acquire(located)
        try:
            await self._join(id, new, snapshot, refused)
        finally:
            if self._session.closed or not all(name in self._session.channels for name in new):
                self._catchup.let_go(new)

    async def _join(
        self, id: wire.JsonId, new: dict[str, Channel], snapshot: Snapshot | None, refused: ResetReason | None
    ) -> None:
        """Bring `new` to the connection's position, or the connection to theirs where it has none, and say so."""
        session, names = self._session, list(new)
        lost: Lost | None = (refused, new) if refused is not None else None
        if session.point is None or (snapshot is not None and not session.channels):
            session.point = self._broadcaster.point if snapshot is None else self._catchup.point(snapshot)
            self._begun, snapshot = snapshot, None
        if snapshot is None:
            # A client whose position was refused gets the new one with the `reset`, not before. An EventSource that is
            # cut in between would come back with the new position, and never hear of the reset.
            self._outbox.send(wire.subscribed(id, names, session.point.token if refused is None else None))
        else:
            if await self._catch_up_to(snapshot):
                await self._judging.check(new, rows=False)
            self._outbox.send(wire.subscribed(id, names, self._catchup.point(snapshot).token))
            lost = await self._catchup.send_span(new, snapshot, session.point.snapshot)
        session.channels.update(new)
        if lost is not None:
            reason, channels = lost
            self._catchup.reset(channels, reason)
        elif session.point.token is not None and (self._begun != session.point.snapshot or self._catchup.at_the_front):
            # The client's own position is not sent back while more follows. The client may hold the beginning of the
            # next unit. It would take that unit for closed, and the repetition of its beginning for new changes.
            self._outbox.send(wire.position(session.point.token))

    async def _catch_up_to(self, snapshot: Snapshot) -> bool:
        """Bring the connection to a position that contains `snapshot`. Returns whether it was not there."""
        session, behind = self._session, False
        while session.point and not session.point.snapshot.contains(snapshot):
            if session.over:
                raise ConnectionResetError("the connection ended meanwhile")
            await self._catchup.send_units()
            behind = True
        return behind

    async def open_with_rows(self, id: wire.JsonId, names: Sequence[str]) -> None:
        """Read the rows of `names`, as of the connection's position or a later one; `send_rows` sends them."""
        point = self._session.point
        while True:
            located, rows = await self._lookup.look_up_rows(names, point.snapshot if point is not None else None)
            epoch = self._broadcaster.epoch
            await self._judging.check(names, rows=True)  # what the rows' position contains, the server has applied
            if epoch == self._broadcaster.epoch:
                break
        if self._session.over:
            return
        if not self._session.channels:
            self._judging.epoch = epoch
        self.opening = self._catchup.acquire(located), rows
        self._outbox.send(wire.subscribed(id, names, None))
        self._session.point = point or self._catchup.point(rows.position)

    async def send_rows(self) -> None:
        """Send the rows that a subscribe has left to be sent, and let their channels join."""
        if self.opening is None:
            return
        new, rows = self.opening
        await self._settle(new)
        lost = await self._catchup.send_rows(new, rows)
        if self._session.over or self.opening is None:
            return
        self.opening, self._session.point = None, self._catchup.point(rows.position)
        if lost is not None:
            reason, channels = lost
            self._catchup.reset(channels, reason)
        self._session.channels.update(new)

    async def _settle(self, new: dict[str, Channel]) -> None:
        """Judge all channels, those without their rows too, and release those to which no right is left."""
        before = dict(new)
        await self._judging.settle(new)
        self._catchup.let_go({name: channel for name, channel in before.items() if name not in new})

    def close(self) -> None:
        """Release the channels whose rows were never sent."""
        if self.opening is not None:
            self._catchup.let_go(self.opening[0])
            self.opening = None
